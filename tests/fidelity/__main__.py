"""Prints ``docs/differences.md`` from what was observed; with ``--observe`` runs everything again and keeps what it sees.

``python -m tests.fidelity > docs/differences.md``. To observe needs root, and the versions that the page shall name.
"""

from __future__ import annotations

import os
import sys

from . import table


def main(arguments: list[str]) -> int:
    if arguments == ["--observe"]:
        if os.geteuid() != 0:
            print("what peers do with owners and devices is seen by root only", file=sys.stderr)
            return 2
        table.OBSERVED.write_text(table.observed())
        return 0
    sys.stdout.write(table.page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
