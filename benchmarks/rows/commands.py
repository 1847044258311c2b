"""Commands that change nothing, on a host with 1,000 snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contest import Contest, Place, Row, Target
from benchmarks.contestants import RECONCILE, to_nothing
from benchmarks.rows.snapshots import SNAPSHOTS, declared

HELP = "--help"


@contextmanager
def contest(place: Place) -> Iterator[Contest]:
    ground = declared(place.directory, SNAPSHOTS)
    ground.once()
    works = {verb: to_nothing(*ground.command(verb)) for verb in ("--once", "plan", "list")}
    yield Contest(works | {HELP: to_nothing(RECONCILE, HELP)}, about={"snapshots": SNAPSHOTS})


ROWS = (
    Row(
        "commands",
        f"commands with nothing to do, {SNAPSHOTS:,} snapshots, CPU",
        contest,
        targets=(
            Target(0.25, ours="--once", measure="cpu", was=0.51),
            Target(0.25, ours="plan", measure="cpu", was=0.52),
            Target(0.25, ours="list", measure="cpu", was=0.56),
            Target(0.12, ours=HELP, measure="cpu", was=0.18),
        ),
    ),
)
