"""What all hosts come to: which have converged on which revision, which have not and why, and where they differ.

Called by ``cli`` with what ``read`` returns. What takes a session asks the sink, the rest works on values. No state.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from reconciler.dataclass import dataclass
from reconciler.fleet.sink import Session
from reconciler.fleet.statements import SCHEMA
from reconciler.manifests.revision import SHORT
from reconciler.manifests.selectors import Selector

STALE_REPORTS = 3
"""A service that has missed so many reports in a row is stale."""
STALE_ONCE = 25 * 3600.0
"""Seconds after which a host that reports with `--once` is: a day and some more, for timers that run daily."""
STALLED = 900.0
"""Seconds at one revision after which a host that has not converged is stalled."""
NEARLY_FULL = 90
"""Per cent of a pool, or of its metadata."""


class State(StrEnum):
    CONVERGED = "Converged"
    CONVERGING = "Converging"
    STALLED = "Stalled"
    FAILED = "Failed"
    STALE = "Stale"
    """It does not report any more; what it is like is as it was then."""


@dataclass(frozen=True, slots=True)
class Member:
    """A host. Seconds are those of the sink: since it reported, since it has its revision, since it has converged on that."""

    id: str
    name: str
    labels: Mapping[str, str]
    version: str
    revision: str
    chains: str
    converged: bool
    failing: bool
    images: int
    ready: int
    drifted: int
    reason: str
    message: str
    every: float
    age: float
    since_revision: float
    since_converged: float | None
    converged_at: datetime | None
    full: tuple[str, ...] = ()
    """Pools that are nearly full."""

    @property
    def state(self) -> State:
        if self.age > (STALE_REPORTS * self.every if self.every else STALE_ONCE):
            return State.STALE
        if self.converged:
            return State.CONVERGED
        if self.failing:
            return State.FAILED
        return State.STALLED if self.since_revision > STALLED else State.CONVERGING

    @property
    def warnings(self) -> tuple[str, ...]:
        drifted = ("Drifted",) if self.drifted else ()
        return (*drifted, *(f"NearlyFull: {pool}" for pool in self.full))

    def json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": self.id,
            "labels": self.labels,
            "version": self.version,
            "state": self.state.value,
            "revision": self.revision,
            "chains": self.chains,
            "images": self.images,
            "ready": self.ready,
            "reason": self.reason or None,
            "message": self.message or None,
            "warnings": list(self.warnings),
            "reported": round(self.age, 1),
            "convergedAt": self.converged_at.isoformat(timespec="seconds") if self.converged_at else None,
        }


_MEMBERS = f"""
    SELECT id, name, labels, version, revision, chains, converged, failed + faults > 0 AS failing, images, ready, drifted, reason,
        message, every, extract(epoch FROM now() - reported_at)::float AS age,
        extract(epoch FROM now() - revision_at)::float AS since_revision,
        extract(epoch FROM now() - converged_at)::float AS since_converged, converged_at
    FROM {SCHEMA}.host ORDER BY name, id
"""  # noqa: S608 - constants
_FULL = f"""
    SELECT host, name FROM {SCHEMA}.pool
    WHERE used * 100 >= total * {NEARLY_FULL} AND total > 0
        OR metadata_used * 100 >= metadata_total * {NEARLY_FULL} AND metadata_total > 0
        OR total > 0 AND available = 0
    ORDER BY host, name
"""  # noqa: S608
_DIFFERING = f"""
    SELECT host.revision, image.name, image.chain, array_agg(host.id ORDER BY host.name) AS hosts
    FROM {SCHEMA}.host JOIN {SCHEMA}.image ON image.host = host.id
    WHERE host.converged AND host.id = ANY(%(hosts)s) AND (host.revision, image.name) IN (
        SELECT host.revision, image.name FROM {SCHEMA}.host JOIN {SCHEMA}.image ON image.host = host.id
        WHERE host.converged AND host.id = ANY(%(hosts)s)
        GROUP BY host.revision, image.name HAVING count(DISTINCT image.chain) > 1)
    GROUP BY host.revision, image.name, image.chain ORDER BY host.revision, image.name, count(*) DESC
"""  # noqa: S608
_IMAGE = f"""
    SELECT host, phase, reason, message, chain, ready, wanted FROM {SCHEMA}.image WHERE name = %(name)s AND host = ANY(%(hosts)s)
"""  # noqa: S608


def read(session: Session, selector: Selector | None) -> list[Member]:
    """The hosts whose labels are selected."""
    full = defaultdict(list)
    for row in session.rows(_FULL):
        full[row["host"]].append(row["name"])
    members = (Member(**row, full=tuple(full[row["id"]])) for row in session.rows(_MEMBERS))
    return [one for one in members if selector is None or selector(one.labels)]


# --------------------------------------------------------------------------------------------------- answers


def status(session: Session, members: Sequence[Member]) -> dict[str, Any]:
    """How many hosts are in which state and on which revision, those that need you, and images that differ."""
    revisions: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in members:
        revisions[one.revision][one.state.value] += 1
    fresh = sorted(revisions, key=lambda revision: min(one.since_revision for one in members if one.revision == revision))
    return {
        "hosts": len(members),
        "states": {state.value: sum(one.state is state for one in members) for state in State},
        "revisions": [{"revision": one, "hosts": revisions[one].total(), "states": dict(revisions[one])} for one in fresh],
        "troubles": [one.json() for one in members if one.warnings or one.state not in (State.CONVERGED, State.CONVERGING)],
        "differing": differing(session, members),
    }


def differing(session: Session, members: Sequence[Member]) -> list[dict[str, Any]]:
    """Images that converged hosts have from different layers although their manifests are the same: tags that have moved."""
    names = {one.id: one.name for one in members}
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in session.rows(_DIFFERING, {"hosts": list(names)}):
        found.setdefault((row["revision"], row["name"]), {})[row["chain"]] = [names[one] for one in row["hosts"]]
    return [{"revision": revision, "image": image, "chains": chains} for (revision, image), chains in found.items()]


def image(session: Session, name: str, members: Sequence[Member]) -> list[dict[str, Any]]:
    """How an image is on each host that has it."""
    rows = {row["host"]: row for row in session.rows(_IMAGE, {"name": name, "hosts": [one.id for one in members]})}
    return [
        {
            "host": one.name,
            "hostState": one.state.value,
            "revision": one.revision,
            "phase": row["phase"],
            "reason": row["reason"] or None,
            "message": row["message"] or None,
            "chain": row["chain"] or None,
            "readySnapshots": row["ready"],
            "wantedSnapshots": row["wanted"],
        }
        for one in members
        if (row := rows.get(one.id))
    ]


# -------------------------------------------------------------------------------------------------- rollouts


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a revision has come. ``failed`` are hosts that have it and report failures; ``stale`` count as not reached."""

    revision: str
    members: Sequence[Member]
    reached: Sequence[Member]
    converged: Sequence[Member]
    failed: Sequence[Member]

    @property
    def percent(self) -> float:
        return 100.0 * len(self.converged) / len(self.members) if self.members else 0.0

    @property
    def waiting(self) -> list[Member]:
        """Those that have not converged on it."""
        done = {one.id for one in self.converged}
        return [one for one in self.members if one.id not in done]

    def json(self) -> dict[str, Any]:
        times = sorted(one.converged_at for one in self.converged if one.converged_at)
        return {
            "revision": self.revision,
            "hosts": len(self.members),
            "reached": len(self.reached),
            "converged": len(self.converged),
            "failed": len(self.failed),
            "stale": sum(one.state is State.STALE for one in self.members),
            "percent": round(self.percent, 1),
            "firstConverged": times[0].isoformat(timespec="seconds") if times else None,
            "lastConverged": times[-1].isoformat(timespec="seconds") if times else None,
            "waiting": [one.json() for one in self.waiting],
        }

    def line(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.revision}: {len(self.converged)}/{len(self.members)} hosts have converged ({self.percent:.1f} %){failed}"


def rollout(revision: str, members: Sequence[Member]) -> Rollout:
    """``revision`` as hosts report it, or what follows its colon; of a commit, at least seven digits of it."""
    reached = [one for one in members if is_same(revision, one.revision)]
    named = Counter(one.revision for one in reached).most_common(1)
    converged = [one for one in reached if one.state is State.CONVERGED]
    failed = [one for one in reached if one.state is State.FAILED]
    return Rollout(named[0][0] if named else revision, members, reached, converged, failed)


def is_same(given: str, reported: str) -> bool:
    kind, _, name = reported.partition(":")
    if given in (reported, name):
        return True
    digits = given.removeprefix("git:").lower()
    return kind == "git" and bool(re.fullmatch("[0-9a-f]{7,64}", digits)) and name.startswith(digits[:SHORT])


def most(limit: str, hosts: int) -> int:
    """``3`` or ``5%`` of so many hosts. Raises ValueError."""
    number, percent = int(limit.removesuffix("%")), limit.endswith("%")
    if number < 0 or (percent and number > 100):
        raise ValueError("not a number of hosts, or a share of them")
    return hosts * number // 100 if percent else number


def reasons(members: Collection[Member]) -> Iterable[str]:
    """Why hosts have not converged: the most frequent reason first, with how many have it and one of them."""
    found: defaultdict[str, list[Member]] = defaultdict(list)
    for one in members:
        found[one.reason or one.state.value].append(one)
    for reason, having in sorted(found.items(), key=lambda item: -len(item[1])):
        yield f"{reason} on {len(having)} of {len(members)} hosts, such as {having[0].name}: {having[0].message or 'no message'}"
