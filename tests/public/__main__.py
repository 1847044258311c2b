"""``python -m tests.public DIRECTORY`` prints the table of verdicts for review; with ``--write`` it replaces ``verdicts.tsv``.

With ``--readers`` it prints instead, for each archive, which other readers accept it, and what they read differently (minutes).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tests.differential import readers
from tests.differential.explained import explanation

from .archives import Public, archives
from .verdicts import TABLE, lines


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.public")
    options.add_argument("directory", type=Path)
    options.add_argument("--write", action="store_true")
    options.add_argument("--readers", action="store_true")
    chosen = options.parse_args()
    found = archives(chosen.directory)
    if chosen.readers:
        compare(found)
    elif chosen.write:
        TABLE.write_text("\n".join(lines(found)) + "\n")
    else:
        print("\n".join(lines(found)))


def compare(found: Iterable[Public]) -> None:
    names = readers.available()
    for one in found:
        own = readers.ours(one.content)
        if own.error:
            accepting = [name for name in names if not readers.theirs(name, one.content).error]
            print(f"{one.title}: refused ({own.error[:80]}); accepted by {', '.join(accepting) or 'none'}", flush=True)
            continue
        for name, line in readers.disagreements(one.content, names):
            print(f"{one.title}: {name}: {line} ({explanation(one.content, name, line) or 'UNEXPLAINED'})", flush=True)


if __name__ == "__main__":
    main()
