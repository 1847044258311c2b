"""The command's entry point: what takes longest to load begins first. State: none."""

from __future__ import annotations

import sys

BUILDING = ("build", "inspect")
"""Verbs that need a builder process."""


def main() -> int:
    """Run the command; return its exit code."""
    if sys.argv[1:] and sys.argv[1] in BUILDING and not {"-h", "--help"} & {*sys.argv}:
        from reconciler.image.builder import process
        from reconciler.output import streams

        streams.prepare()  # else the builder's socket can get the number of standard output, or of standard error
        process.load()
    from reconciler.cli import main as command

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
