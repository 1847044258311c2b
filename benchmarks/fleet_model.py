"""What ``benchmarks.fleet`` has measured, and what that comes to for more hosts than one machine holds: docs/fleet.md, plots.

    python -m benchmarks.fleet_model [RESULT.json]

keeps a result as ``benchmarks/results/fleet.json``, and rewrites the section between the two marks of docs/fleet.md and the plots
beside it. ``tests/test_benchmarks.py`` holds that they are those of the file that is kept. The model: what a host costs at the
centre does not depend on the others; reports queue for the cores of the database; each host has a core of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heapreplace
from pathlib import Path
from typing import Any

from benchmarks import plots, report
from benchmarks.fleet import GATED, RINGS
from reconciler.cli.fleet import TURN_SECONDS
from reconciler.fleet.reporter import JITTER, Pace
from reconciler.manifests.watch import SETTLE_SECONDS, TICK_SECONDS

KEPT = report.KEPT / "fleet.json"
PAGE = report.ROOT / "docs" / "fleet.md"
BEGIN, END = "<!-- made by python -m benchmarks.fleet_model; don't edit -->", "<!-- end of what is made -->"
SECTION = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
MODELLED = (1000, 2000, 5000)
CORES = 2
"""Of the database."""

Run = Mapping[str, Any]
Cell = Callable[[Run], str]


@dataclass(frozen=True, slots=True)
class Host:
    """What one costs in an idle minute and a rollout, as measured; seconds of its own CPU, and of the database for a report."""

    idle: Mapping[str, float]
    rollout: Mapping[str, float]
    work: float
    report: float


def host_of(runs: Sequence[Run]) -> Host:
    """The means of all runs, each of which has so many hosts."""

    def mean(kind: str) -> dict[str, float]:
        total = sum(run["agents"] for run in runs)
        return {name: sum(run[kind][name] * run["agents"] for run in runs) / total for name in runs[0][kind]}

    idle, rollout = mean("idleMinute"), mean("rollout")
    return Host(idle, rollout, rollout["hostMs"] / 1000, idle["databaseMs"] / idle["reports"] / 1000)


def about(seconds: float, chance: random.Random) -> float:
    return seconds * chance.uniform(*JITTER)


class Database:
    """A queue before so many cores."""

    def __init__(self) -> None:
        self._free = [0.0] * CORES

    def served(self, at: float, seconds: float) -> float:
        """When a report that comes at that time, and no earlier than the one before, is done."""
        end = max(at, self._free[0]) + seconds
        heapreplace(self._free, end)
        return end


def ring(began: float, hosts: int, of: Host, database: Database, chance: random.Random) -> list[float]:
    """When each host of a ring has reported that it has converged, in order."""
    pace, reports = Pace(), []
    for _ in range(hosts):
        changed = began + SETTLE_SECONDS + chance.uniform(0, 2 * TICK_SECONDS)
        first = changed + about(pace.gather, chance)
        last = max(changed + of.work + about(pace.gather, chance), first + about(pace.least, chance))
        reports += [(first, False), (last, True)]
    done = [(database.served(at, of.report), converged) for at, converged in sorted(reports)]
    return sorted(at for at, converged in done if converged)


def modelled(hosts: int, of: Host) -> dict[str, Any]:
    """A rollout in rings and an idle minute, in the form of a run that was measured."""
    chance, database, ends, began, before = random.Random(hosts), Database(), list[float](), 0.0, 0
    for _, share in RINGS:
        number = max(1, round(hosts * share)) - before
        found = ring(began, number, of, database, chance)
        ends, before = ends + found, before + number
        passed = found[at_share(GATED / 100, number)]
        began += math.ceil((passed - began) / TURN_SECONDS) * TURN_SECONDS  # the gate asks so often
    ends.sort()
    calm = {"seconds95": round(ends[at_share(0.95, hosts)], 1), "seconds100": round(ends[-1], 1)}
    return {"agents": hosts, "calm": calm, "idleMinute": of.idle, "rollout": of.rollout, "modelled": True}


def at_share(share: float, number: int) -> int:
    return max(0, math.ceil(share * number) - 1)


def rows(result: Mapping[str, Any]) -> list[Run]:
    """What was measured, then what is modelled."""
    of = host_of(result["runs"])
    return [*result["runs"], *(modelled(hosts, of) for hosts in MODELLED)]


# ------------------------------------------------------------------------------------------------------------ page


def whole(kind: str, name: str, unit: float = 1.0, digits: int = 0) -> Cell:
    """Of all hosts together."""
    return lambda run: f"{run[kind][name] * run['agents'] / unit:,.{digits}f}"


def seconds(kind: str) -> Cell:
    return lambda run: f"{run[kind]['seconds95']:g} s, {run[kind]['seconds100']:g} s" if kind in run else ""


def each(kind: str, name: str, unit: float = 1.0, digits: int = 2) -> Cell:
    """Of one host."""
    return lambda run: f"{run[kind][name] / unit:,.{digits}f}" if not run.get("modelled") else ""


TABLE: Sequence[tuple[str, Cell]] = (
    ("rollout in three rings, until 95 % and 100 % of the hosts have reported it", seconds("calm")),
    ("the same; the database is killed and a third of the hosts is cut off", seconds("disturbed")),
    ("a rollout: requests to S3 (HEAD, GET)", whole("rollout", "requests")),
    ("… MB from S3", whole("rollout", "bytes", 1e6, 1)),
    ("… rows written", whole("rollout", "rows")),
    ("… MB of write-ahead log", whole("rollout", "wal", 1e6, 1)),
    ("a minute without changes: reports", whole("idleMinute", "reports")),
    ("… requests to S3", whole("idleMinute", "requests")),
    ("… rows written", whole("idleMinute", "rows")),
    ("… seconds of CPU of the database", whole("idleMinute", "databaseMs", 1000, 1)),
    ("of one host, a minute without changes: ms of its own CPU", each("idleMinute", "hostMs", digits=0)),
    ("… times that a thread of it wakes up", each("idleMinute", "wakes", digits=0)),
    ("… in a rollout: reports", each("rollout", "reports")),
    ("… rows written", each("rollout", "rows", digits=1)),
    ("… seconds of its own CPU", each("rollout", "hostMs", 1000)),
)


def section(result: Mapping[str, Any]) -> str:
    found = rows(result)
    head = ["", *(f"{run['agents']:,} hosts{', modelled' * bool(run.get('modelled'))}" for run in found)]
    cells = ([name, *(cell(run) for run in found)] for name, cell in TABLE)
    shown = [f"![{title}]({name})" for name, title in TITLES.items()]
    return "\n\n".join([BEGIN, *paragraphs(result), report.table(head, cells), "\n".join(shown), END])


def paragraphs(result: Mapping[str, Any]) -> Iterator[str]:
    on, runs, of = result["machine"], result["runs"], host_of(result["runs"])
    fill = partial(textwrap.fill, width=140, break_long_words=False, break_on_hyphens=False)
    load, numbers = (
        ", ".join(f"{one:g}" for one in ones) for ones in ([run["load"][0] for run in runs], [run["agents"] for run in runs])
    )
    outage = ", ".join(f"{run['outage']:g} s" for run in runs)
    memory = f"{on['memoryBytes'] / (1 << 30):.0f} GiB"
    yield fill(
        f"Measured with {numbers} agents on one machine with other work: {on['cpu']}, {on['cores']} cores, {memory}, "
        f"commit {on['commit']}; load at the end of each run {load}. All agents share these cores, and get what nothing else "
        f"wants: the times of a rollout are those of the machine. The database was killed, and a third of the hosts had no way "
        f"to it and to S3, for {outage} in the middle of the last ring."
    )
    lost, late = (sum(run[name] for run in runs) for name in ("lostEvents", "unreportedEvents"))
    bad = ", ".join(f"{run['bad']['seconds']:g} s" for run in runs)
    often = max(run["bad"]["requestsOfAHostInAMinute"] for run in runs)
    own, kept = (statistics.median(run[name] for run in runs) for name in ("agentMiB", "databaseBytesPerHost"))
    yield fill(
        f"Afterwards {lost} events were lost, and {late} were missing from the database. `fleet wait` stopped a bad revision in "
        f"its first ring, with exit code 1, after {bad}; no other ring changed, and a host that fails made {often:g} requests to "
        f"S3 a minute. The rows of a host take {kept / 1000:.0f} kB, an agent {own:.0f} MiB of memory."
    )
    yield fill(
        f"Modelled are hosts with a core of their own that cost what the measured ones cost: {of.work:.1f} s of CPU for a "
        f"rollout, and {1000 * of.report:.0f} ms of a database with {CORES} cores for a report."
    )


# ----------------------------------------------------------------------------------------------------------- plots

TITLES = {
    "fleet-rollout.svg": "Seconds of a rollout in rings, measured: all hosts on two cores",
    "fleet-model.svg": "Seconds of a rollout in rings, modelled: each host with a core of its own",
    "fleet-requests.svg": "Requests to S3 of a rollout, by the number of hosts",
    "fleet-database.svg": "Seconds of CPU of the database in a minute without changes",
}


def drawn(result: Mapping[str, Any]) -> dict[str, str]:
    """Plots against the number of hosts, by file name."""
    runs, of, found = result["runs"], host_of(result["runs"]), rows(result)
    rollout, model, requests, database = TITLES

    def line(those: Sequence[Run], value: Callable[[Run], float]) -> list[tuple[float, float]]:
        return [(run["agents"], value(run)) for run in those]

    def both(kind: str, name: str, unit: float = 1.0) -> dict[str, list[tuple[float, float]]]:
        parts = {"measured": runs, "modelled": found[len(runs) - 1 :]}
        return {part: line(those, lambda run: run[kind][name] * run["agents"] / unit) for part, those in parts.items()}

    measured = {
        f"{percent} %{', disturbed' * (kind == 'disturbed')}": line(runs, lambda run, k=kind, p=percent: run[k][f"seconds{p}"])  # type: ignore[misc]
        for kind in ("calm", "disturbed")
        for percent in (95, 100)
    }
    many = [modelled(hosts, of) for hosts in (10, 100, 300, *MODELLED)]
    percents = {f"{percent} %": line(many, lambda run, p=percent: run["calm"][f"seconds{p}"]) for percent in (95, 100)}  # type: ignore[misc]
    return {
        rollout: plots.line_chart(TITLES[rollout], measured, "hosts", 1),
        model: plots.line_chart(TITLES[model], percents, "hosts", 1),
        requests: plots.line_chart(TITLES[requests], both("rollout", "requests"), "hosts", 1, ""),
        database: plots.line_chart(TITLES[database], both("idleMinute", "databaseMs", 1000), "hosts", 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, nargs="?", default=KEPT)
    result = json.loads(parser.parse_args().result.read_text())
    page = PAGE.read_text()
    if not SECTION.search(page):
        parser.error(f"{PAGE} has no marks")
    KEPT.write_text(report.dumped(result))
    PAGE.write_text(SECTION.sub(lambda _: section(result), page))
    for name, picture in drawn(result).items():
        PAGE.with_name(name).write_text(picture)
    print(f"{PAGE.relative_to(report.ROOT)}, {', '.join(TITLES)}, {KEPT.relative_to(report.ROOT)}")


if __name__ == "__main__":
    main()
