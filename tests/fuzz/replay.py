"""Inputs through the whole oracle: ``python -m tests.fuzz.replay FILE...``; ``--minimise DIR`` keeps small ones of what fails."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from tests.fuzz import mutate, oracle
from tests.fuzz.reporting import kind_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.replay", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--minimise", type=Path, metavar="DIR")
    options = parser.parse_args()
    failed = 0
    with oracle.Bench() as bench:
        for path in options.files:
            data = path.read_bytes()
            try:
                verdict = bench.run(data)
            except Exception as error:
                failed += 1
                print(f"{path}: {kind_of(error)}")
                traceback.print_exception(error)
                if options.minimise:
                    keep_small(bench, data, kind_of(error), options.minimise)
            else:
                print(f"{path}: {verdict}{f' ({verdict.peers})' if verdict.peers else ''}")
    return 1 if failed else 0


def keep_small(bench: oracle.Bench, data: bytes, kind: str, place: Path) -> None:
    """The smallest input found that fails in the same way."""

    def still(smaller: bytes) -> bool:
        try:
            bench.run(smaller)
        except Exception as error:
            return kind_of(error) == kind
        return False

    place.mkdir(parents=True, exist_ok=True)
    small = mutate.minimise(data, still)
    (place / kind).write_bytes(small)
    print(f"{place / kind}: {len(small)} bytes")


if __name__ == "__main__":
    sys.exit(main())
