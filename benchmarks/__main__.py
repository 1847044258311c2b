"""``make bench``: rows by turns with their peers, a table of ratios and targets, and a JSON file of everything.

    python -m benchmarks [--rows NAME,NAME…] [--rounds N] [--budget SECONDS] [--directory DIR] [--json FILE] [--quick] [--list]

A name is that of a row or of a group of rows (``--list``). Inputs are made first, once; that needs mmdebstrap, the network and
some minutes (``--prepare`` does nothing else). Then the default takes less than ten minutes on two cores. Targets lie in
``--directory``, by default in memory where /dev/shm has the room. Without root what needs a loop device or a mount is left out,
and named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, peers, report, rows
from benchmarks.contest import Place, Row, measured

MEMORY = Path("/dev/shm")
ROOM = 8 << 30
RESULT = Path(".benchmarks") / "result.json"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", help="rows or groups, separated by commas; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="the most rounds of a row (default: 5; of slow rows 3)")
    parser.add_argument("--budget", type=float, default=40, help="seconds after which a row that has 3 rounds ends (default: 40)")
    parser.add_argument("--directory", type=Path, help="where targets are made")
    parser.add_argument("--json", type=Path, default=RESULT, help=f"the result (default: {RESULT})")
    parser.add_argument("--quick", action="store_true", help="small inputs and one round: shows that everything runs")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--prepare", action="store_true", help="only make the inputs")
    chosen = parser.parse_args()
    try:
        chosen.rows = rows.chosen([name for name in chosen.rows.split(",") if name])
    except KeyError as error:
        parser.error(f"no row or group is named {error}")
    return chosen


def listed(chosen: Sequence[Row]) -> None:
    for row in chosen:
        print(f"{row.name:16}{row.title}{' (root)' if row.needs_root else ''}")
    print("groups:", ", ".join(rows.GROUPS))


def directory() -> Path:
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    return MEMORY if in_memory else Path.cwd()


def one(row: Row, chosen: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The row's measurements; an empty one, with the reason, where it could not run."""
    skeleton = {"name": row.name, "title": row.title, "about": {}, "points": list(row.points), "contestants": {}, "targets": []}
    if row.needs_root and os.geteuid():
        return skeleton | {"missing": {"row": peers.NO_ROOT}}
    with tempfile.TemporaryDirectory(dir=place, prefix=f"bench-{row.name}-") as name:
        rounds = 1 if chosen.quick else min(chosen.rounds, row.rounds)
        rounds = 1 if chosen.quick else min(chosen.rounds, row.rounds)
        return measured(row, Place(Path(name), chosen.quick), rounds, chosen.budget)


def main() -> None:
    chosen = options()
    if chosen.list:
        listed(chosen.rows)
        return
    for name in peers.PEERS:
        if reason := peers.missing(name):
            print(f"missing: {name}: {reason}", file=sys.stderr)
    for row in chosen.rows:
        row.inputs(chosen.quick)
    if chosen.prepare:
        return
    place = chosen.directory or directory()
    result: dict[str, Any] = {"made": time.strftime("%Y-%m-%d"), "quick": chosen.quick, "machine": machine.described(place)}
    began, result["rows"] = time.monotonic(), []
    with contextlib.suppress(KeyboardInterrupt):
        for row in chosen.rows:
            result["rows"].append(one(row, chosen, place))
            print("\n".join(report.lines(result["rows"][-1], sure=not chosen.quick)), flush=True)
    result["seconds"] = round(time.monotonic() - began)
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(report.dumped(result))
    print(f"\n{result['seconds']} s; {chosen.json}; to make docs/benchmarks.md of it: python -m benchmarks.report {chosen.json}")


if __name__ == "__main__":
    main()
