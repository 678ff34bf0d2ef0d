"""The `tickwise` command: one module a noun, imported only when its command runs."""

import importlib
import json
import sys

COMMANDS = {
    "demo": "everything at once: ticks in, predictions out, retrained and swapped",
    "kafka": "start, stop and look at a local Kafka",
    "publish": "publish ticks of a source to a topic",
    "feed": "publish live ticks of an exchange to a topic",
    "data": "keep ticks and bars of any source as data sets, look at them, write them out",
    "train": "train on a file, without Kafka",
    "tune": "search the space that a pipeline file declares",
    "simulate": "run a pipeline over past ticks in virtual time, with retraining",
    "worker": "run the stream worker",
    "runner": "run the job runner",
    "serve": "run the HTTP server",
    "archive": "keep ticks and rows as Parquet, look at what is kept",
    "dlq": "look at refused ticks, send them again, delete them",
    "jobs": "submit, list, watch and cancel jobs",
    "models": "list models, move the champion, import models trained elsewhere",
    "predict": "predict past ticks, to Parquet or a topic",
    "reproduce": "train a registered version once more and compare",
    "pipelines": "check pipeline files",
    "check": "build, export and time a pipeline's model before it is trained",
    "verify": "recompute rows and predictions, look for leaks",
    "bench": "measure every contender on the same work (in a checkout)",
}
USAGE = 2


def main(argv: list[str] | None = None) -> None:
    """Run ``tickwise NOUN ...``: each noun is the module ``api.cli.NOUN`` with a typer ``app``.

    Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 a dependency did not answer, 4 a job failed, 5 other data
    than a model was trained on.
    """
    from ml_core.errors import DependencyError, InputError, NotFoundError, SetupError, TickwiseError, nearest

    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(
            "usage: tickwise NOUN ...\n\n" + "".join(f"  {noun:<10} {text}\n" for noun, text in COMMANDS.items())
        )
        raise SystemExit(0 if words else USAGE)
    if words[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(version("tickwise") + "\n")
        return
    if words[0] not in COMMANDS:
        sys.stderr.write(f"tickwise: no command {words[0]!r}{nearest(words[0], COMMANDS)}\n")
        raise SystemExit(USAGE)
    app = importlib.import_module(f"api.cli.{words[0]}").app
    try:
        app(args=words[1:], prog_name=f"tickwise {words[0]}")
    except TickwiseError as error:
        codes = ((InputError, USAGE), (NotFoundError, USAGE), (SetupError, USAGE), (DependencyError, 3))
        code = next((code for base, code in codes if isinstance(error, base)), 1)
        if "--json" in words:
            sys.stdout.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        sys.stderr.write(f"tickwise: {error}\n")
        raise SystemExit(code) from None
