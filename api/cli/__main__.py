"""``python -m api.cli``: the same as the command ``tickwise``."""

from api.cli import main

main()
