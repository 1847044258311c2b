"""Four processes that claim snapshots of a service that is killed again and again; what they were answered against what is there.

``python -m tests.stories.storm --claims 1000 --kills 50 --seed 1`` is the large one; a test runs a small one. Nothing of the
service is asked in the end: its registry's rows, its pool's files and the ledgers of the processes are compared from outside.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from tests.stories.layers import root
from tests.stories.workshop import Running, Workshop
from tests.support.zygote import Zygote

PROCESSES = 4
COUNT, MOST = 6, 16
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Seconds in which at least one more claim has to be answered."""


class Storm:
    def __init__(self, workshop: Workshop, claims: int, kills: int, seed: int) -> None:
        self._workshop, self._claims, self._kills = workshop, claims, kills
        self._random, self._seed = Random(seed), seed
        self._ledgers = [workshop.root / f"ledger-{number}" for number in range(PROCESSES)]

    def run(self) -> dict[str, Any]:
        """Numbers of what has happened, and ``wrong``: all that must not be."""
        sets = [{"name": "job", "count": COUNT, "max": MOST, "ttl": "1h"}]
        self._workshop.image("web", [root("base")], snapshots=sets)
        self._workshop.converge()
        began = time.monotonic()
        started = self._start()
        try:
            self._blow(started)
        finally:
            for one in started:
                one.kill()
                one.wait()
        seconds = time.monotonic() - began
        # What is forgotten last expires; what is ready above the count is removed by --prune alone.
        time.sleep(1.5)
        for _ in range(2):
            self._workshop.converge("--prune", "--prune-grace", "0s")
        return self._report(seconds)

    def _start(self) -> list[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "tests.stories.claimant", str(self._workshop.state / "api.sock")]
        rounds = str(self._claims // PROCESSES)
        return [
            subprocess.Popen([*command, str(ledger), f"user{number}", rounds, str(self._seed)], cwd=ROOT)
            for number, ledger in enumerate(self._ledgers)
        ]

    def _blow(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        """Kill the service each time when another share of the claims is answered, and a moment more has passed."""
        for number in range(self._kills):
            by_itself = self._random.random() < 0.4
            serving = self._serve(self._random.randrange(1, 200) if by_itself else 0)
            self._await(serving, started, number * self._claims // (self._kills + 1))
            time.sleep(self._random.uniform(0, 0.6))
            serving.kill()
        serving = self._serve(0)
        self._await(serving, started, self._claims)
        for one in started:
            one.wait(60)
        serving.kill()

    def _serve(self, die_at: int) -> Running:
        return self._workshop.start("--progress", "none", die_at=die_at)

    def _await(self, serving: Running, started: Sequence[subprocess.Popen[bytes]], count: int) -> None:
        """Until so many claims are answered, or the service has died by itself."""
        best, until = -1, time.monotonic() + PATIENCE
        while (now := len(self._lines())) < count and serving.process.poll() is None:
            if now > best:
                best, until = now, time.monotonic() + PATIENCE
            assert time.monotonic() < until, f"{now} of {self._claims} claims, and no more\n{serving.kill()}"
            assert any(one.poll() is None for one in started), "the users have ended"
            time.sleep(0.02)

    # -------------------------------------------------------------------------------------------------- comparing

    def _lines(self) -> list[str]:
        return [line for path in self._ledgers if path.exists() for line in path.read_text().splitlines(True) if line[-1] == "\n"]

    def _report(self, seconds: float) -> dict[str, Any]:
        entries = [json.loads(line) for line in self._lines()]
        ledger = {one["key"]: one for one in entries if one["key"]}
        with closing(sqlite3.connect(self._workshop.state / "registry.sqlite3")) as registry:
            columns = "request, id, name, state, created"
            rows = {row[0]: row for row in registry.execute(f"SELECT {columns} FROM claim")}
            recorded = {name for (name,) in registry.execute("SELECT name FROM snapshot")}
        wrong = [one["wrong"] for one in entries if one["wrong"]]
        wrong += [*_lost(ledger, rows), *_doubled(ledger, rows), *self._leaked(rows, recorded)]
        if len(ledger) != self._claims:
            wrong.append(f"{len(ledger)} of {self._claims} claims were answered")
        return {
            "claims": len(ledger),
            "kills": self._kills,
            "acts": dict(Counter(one["act"] for one in ledger.values())),
            "expired unanswered": sum(not one["claim"] for one in ledger.values()),
            "snapshots used": len({one["snapshot"] for one in ledger.values() if one["snapshot"]}),
            "seconds": round(seconds, 1),
            "wrong": wrong,
        }

    def _leaked(self, rows: dict[str, Any], recorded: set[str]) -> Iterator[str]:
        yield from (f"claim {row[1]} of {key} is {row[3]}" for key, row in rows.items() if row[3] != "ended")
        there = self._workshop.snapshot_names()
        if not recorded == there == {f"job-{n}" for n in range(MOST)} & there or len(there) != COUNT:
            yield f"{COUNT} snapshots should be ready: {sorted(there)} are there, {sorted(recorded)} are recorded"


def _lost(ledger: dict[str, Any], rows: dict[str, Any]) -> Iterator[str]:
    """Answers and rows belong together, one to one."""
    for key, one in ledger.items():
        row = rows.get(key)
        if row is None or (one["claim"] and (one["claim"], one["snapshot"]) != (row[1], row[2])):
            yield f"{key} was answered {one}, and recorded is {row}"
    yield from (f"claim {rows[key][1]} of {key} has no answer" for key in rows.keys() - ledger.keys())


def _doubled(ledger: dict[str, Any], rows: dict[str, Any]) -> Iterator[str]:
    """No snapshot is given out before the user before has given it up."""
    given: dict[str, list[tuple[float, float, str]]] = {}
    for key, one in ledger.items():
        if one["claim"] and key in rows:
            given.setdefault(one["snapshot"], []).append((rows[key][4], one["until"], one["claim"]))
    for name, claims in given.items():
        ordered = sorted(claims)
        for (_, until, before), (begun, _, after) in pairwise(ordered):
            if begun < until:
                yield f"{name} was given to {after} {until - begun:.3f} s before {before} gave it up"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stories.storm", description=__doc__)
    parser.add_argument("--claims", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="storm-") as directory, Zygote(Path(directory)) as zygote:
        policy = Path(directory) / "host.yaml"
        policy.write_text(f"policy: {{fileSources: [{directory}]}}\n")
        workshop = Workshop(Path(directory) / "w", zygote, env={"RECONCILER_HOST_FILE": str(policy)})
        report = Storm(workshop, chosen.claims, chosen.kills, chosen.seed).run()
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
