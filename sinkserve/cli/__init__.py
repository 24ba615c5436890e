"""The command line. `main` is the console script; nothing heavy is imported before a command is known."""

import sys


def main() -> None:
    """Run the command line on `sys.argv`."""
    from sinkserve.cli.app import make_app  # noqa: PLC0415 - the package itself costs nothing

    make_app(sys.argv[1:])(prog_name="sinkserve")
