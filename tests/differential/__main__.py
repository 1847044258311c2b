"""``python -m tests.differential --seconds N`` or ``--archives N``: finds archives that ours accepts and others read differently.

Prints each unexplained difference with its seed and keeps the archive in ``build/differential``; exits with 1 if there was any.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.differential import grammar, readers
from tests.differential.explained import explanation


def main() -> int:
    options = argparse.ArgumentParser(prog="tests.differential")
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--archives", type=int, help="stop after as many instead: the same ones on every machine")
    options.add_argument("--seed", type=int, default=0, help="of the first archive")
    options.add_argument("--keep", type=Path, default=Path("build/differential"))
    chosen = options.parse_args()
    names = readers.available()
    until, seed, counts = time.monotonic() + chosen.seconds, chosen.seed, Counter[str]()
    while seed < chosen.seed + chosen.archives if chosen.archives else time.monotonic() < until:
        archive = grammar.archive(seed)
        for reader, line in readers.disagreements(archive, names):
            why = explanation(archive, reader, line)
            counts[f"{reader}: {why or 'UNEXPLAINED'}"] += 1
            if not why:
                chosen.keep.mkdir(parents=True, exist_ok=True)
                (chosen.keep / f"{seed}.tar").write_bytes(archive)
                print(f"seed {seed}: {reader}: {line}", flush=True)
        counts["accepted" if not readers.ours(archive).error else "refused"] += 1
        seed += 1
    print(f"{seed - chosen.seed} archives, readers {', '.join(names)}")
    for what, count in counts.most_common():
        print(f"{count:8} {what}")
    return 1 if any("UNEXPLAINED" in what for what in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
