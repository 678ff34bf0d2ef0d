"""The topics of tickwise, one module each: its name, its columns and its codec."""
