"""What a row of ``make bench`` is: programs that do the same work by turns, and what we want of the ratio of their costs.

A module of ``benchmarks.rows`` declares rows; ``measured`` runs one and returns what the JSON file has of it. State: none.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import MIB, Cost

OURS = "reconcile"
FEWEST_ROUNDS = 3
MEASURES = ("wall", "cpu", "anonymous", "resident")

Work = Callable[[], Cost]
"""One turn. What has to be set up for it, and removed behind it, is not in its cost; writing everything to the disk is."""


@dataclass(frozen=True)
class Place:
    """Where a row works: an empty directory for what it makes. ``quick``: small inputs, to see that everything runs."""

    directory: Path
    quick: bool = False

    def work_on(self, small: int, full: int) -> int:
        return small if self.quick else full


@dataclass(frozen=True)
class Contest:
    """The programs in their order, the inputs that they read, what there is to know of these, and which programs are missing."""

    works: Mapping[str, Work]
    inputs: Sequence[Path] = ()
    about: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """``ours`` by the sum of ``others`` is to be at most so much; without ``others``, ``ours`` alone, divided by ``per``.

    ``was`` is the value of commit 4295b10 on two quiet cores (None: it could not do the work).
    """

    at_most: float
    others: tuple[str, ...] = ()
    ours: str = OURS
    measure: str = "wall"
    per: int = 1
    was: float | None = None


@dataclass(frozen=True)
class Row:
    """``inputs`` makes what the row reads, before anything is measured.

    ``points`` names the line of growth that the row is a point of, by the key of ``Contest.about`` on its x axis.
    """

    name: str
    title: str
    contest: Callable[[Place], AbstractContextManager[Contest]]
    inputs: Callable[[bool], object] = bool
    targets: tuple[Target, ...] = ()
    needs_root: bool = False
    warm_up: bool = True
    rounds: int = 5
    points: tuple[str, ...] = ()


def measured(row: Row, place: Place, rounds: int, budget: float) -> dict[str, Any]:
    """Rounds until there are ``rounds``, or ``FEWEST_ROUNDS`` and the row has taken ``budget`` seconds."""
    before = os.getloadavg()[0]
    with row.contest(place) as contest:
        costs: dict[str, list[Cost]] = {name: [] for name in contest.works}
        missing = dict(contest.missing)
        began = time.monotonic()
        for number in range(0 if row.warm_up and not place.quick else 1, rounds + 1):
            missing |= one_round(row.name, number, contest, costs)
            if number >= FEWEST_ROUNDS and time.monotonic() - began > budget:
                break
    found = {name: {what: [getattr(one, what) for one in own] for what in MEASURES} for name, own in costs.items()}
    return {
        "name": row.name,
        "title": row.title,
        "about": dict(contest.about),
        "points": list(row.points),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "contestants": {name: rounded(own) for name, own in found.items()},
        "missing": missing,
        "targets": [verdict(target, found) for target in row.targets],
    }


def one_round(name: str, number: int, contest: Contest, costs: dict[str, list[Cost]]) -> dict[str, str]:
    """Each program once, in an order that changes with each round; round 0 does not count. One that fails is out."""
    failed = {}
    for program in [*costs][:: 1 if number % 2 else -1]:
        warm(contest.inputs)
        os.sync()
        try:
            cost = contest.works[program]()
        except subprocess.CalledProcessError as error:
            failed[program] = f"failed: {error}"
            del costs[program]
            continue
        print(f"{name}, round {number}  {program:24}{cost.wall:8.2f} s", file=sys.stderr, flush=True)
        costs[program].extend([cost] if number else [])
    return failed


def warm(inputs: Sequence[Path]) -> None:
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.read(MIB):
                pass


def verdict(target: Target, found: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """The target, the ratio of the medians, its spread over the rounds, and whether it holds; None where a program is missing."""
    told = asdict(target) | {"value": None, "lowest": None, "highest": None, "holds": None}
    needed = (target.ours, *target.others)
    if any(name not in found for name in needed):
        return told
    values = {name: found[name][target.measure] for name in needed}
    if target.others:
        sums = [sum(those) for those in zip(*(values[name] for name in target.others), strict=True)]
        middle = statistics.median(values[target.ours]) / sum(statistics.median(values[name]) for name in target.others)
        pairs = [one / other for one, other in zip(values[target.ours], sums, strict=True)]
    else:
        pairs = [one / target.per for one in values[target.ours]]
        middle = statistics.median(pairs)
    spread = {"value": middle, "lowest": min(pairs), "highest": max(pairs)}
    return told | {key: significant(value) for key, value in spread.items()} | {"holds": middle <= target.at_most}


def rounded(costs: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {what: [significant(value) for value in values] for what, values in costs.items()}


def significant(value: float) -> float:
    """Four digits: more are noise, and the file is kept."""
    return value if isinstance(value, int) and value < 1 else float(f"{value:.4g}")
