"""Many real agents, one S3 endpoint, one PostgreSQL: what a rollout in rings takes, and what a host costs at the centre.

    python -m benchmarks.fleet [--agents 10,30] [--idle 60] [--outage 60] [--starting 4] [--json FILE]

Each agent is a service with a state directory, a file pool and a host file of its own; all are forks of one process, which has
loaded the command, and have only the time of the CPU that nothing else wants. They are started a few at a time. Rings of a tenth,
three tenths and the rest follow links of their own; ``reconcile fleet wait`` is the gate of each. A first rollout is undisturbed.
In the middle of a second one the database is killed for ``--outage`` seconds, and a third of the agents is cut off from database
and S3 for as long. Then a bad revision enters the first ring. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import fleet_agents, machine
from benchmarks.fleet_agents import Way
from reconciler.fleet import address, migrate
from samples.s3 import S3Server, upload
from tests.support import policy
from tests.support.postgres import Postgres

MANIFEST = """\
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {{name: default}}
spec: {{file: {{}}, reserve: {{dataPercent: 0}}}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: web}}
spec:
  size: 16MiB
  s3: {{endpointUrl: "{endpoint}", region: us-east-1, anonymous: true}}
  layers: [{{source: "s3://layers/{layer}.tar"}}]
  snapshots: [{{name: web, count: 2, ttl: 1h}}]
"""
RINGS = (("1", 0.1), ("2", 0.4), ("3", 1.0))
"""Each with the share of hosts up to and with it."""
GATED = 95
"""Per cent of a ring that the next one waits for."""
NEAR, FAR = "near", "far"
LAYERS = ("first", "second", "third")
LAYER_BYTES = 64 << 10
TURN_SECONDS = 1.0
PATIENCE = 3600.0
RECONCILE = Path(sys.executable).with_name("reconcile")
TOTALS = """
    SELECT (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables) AS rows,
        pg_current_wal_lsn() - '0/0'::pg_lsn AS wal,
        (SELECT sum(sequence % 4294967296) FROM reconcile.host) AS reports
"""
AT_CENTRE = ("reports", "rows", "wal", "requests", "bytes", "databaseMs")
COSTS = (*AT_CENTRE, "hostMs", "wakes")
"""Of one host. Milliseconds are of CPU."""


class Fleet:
    """``number`` services below a directory, and what they talk to: every third one of them by a way of its own."""

    def __init__(self, root: Path, number: int, s3: S3Server, database: Postgres, name: str) -> None:
        self.root, self.number, self.s3, self.database, self.name = root, number, s3, database, name
        self.way = Way(root / "way", database.socket, s3.endpoint)
        self.pids: list[int] = []

    def ring(self, number: int) -> str:
        return next(ring for ring, share in RINGS if number < max(1, round(self.number * share)) or ring == RINGS[-1][0])

    def side(self, number: int) -> str:
        return FAR if number % 3 == 2 else NEAR

    def commit(self, ring: str, revision: str, layer: str) -> None:
        """Move the links of a ring."""
        for side, endpoint in ((NEAR, self.s3.endpoint), (FAR, self.way.endpoint)):
            where = self.root / f"ring-{ring}-{side}"
            made = where / revision
            made.mkdir(parents=True)
            (made / "web.yaml").write_text(MANIFEST.format(endpoint=endpoint, layer=layer))
            (where / "next").symlink_to(revision)
            (where / "next").rename(where / "current")

    def start(self, starting: int) -> None:
        """So many at once: the next one begins when one of them has converged."""
        while len(self.pids) < self.number:
            while len(self.pids) < min(self.number, self.converged("first") + starting):
                assert fleet_agents.is_roomy(), f"there is no memory for more than {len(self.pids)} agents"
                self.pids.append(self.begin(len(self.pids)))
            time.sleep(TURN_SECONDS)
        self.gate("first", percent=100)

    def begin(self, number: int) -> int:
        own, ring, side = self.root / f"agent-{number}", self.ring(number), self.side(number)
        own.mkdir()
        policy.write(own / "host.yaml", f"name: agent-{number}\nlabels: {{ring: '{ring}', side: {side}}}\n")
        url = self.database.url(self.name, self.way.directory if side == FAR else None)
        words = ["-f", self.root / f"ring-{ring}-{side}" / "current", "--state", own / "state", "--host-file", own / "host.yaml"]
        return fleet_agents.agent(own / "log", [*words, "--report-to", url, "--progress", "none"])

    def stop(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGTERM)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.way.end()

    # ------------------------------------------------------------------------------------------------- what is seen

    def converged(self, revision: str) -> int:
        where = f"SELECT count(*) FROM reconcile.host WHERE converged AND revision = 'link:{revision}'"
        return int(self.database.query(self.name, where)[0])

    def gate(self, revision: str, *options: str, percent: int = GATED) -> subprocess.CompletedProcess[str]:
        """As a CI system waits."""
        words = ["fleet", "wait", "--report-to", self.database.url(self.name), "--revision", revision, "--percent", str(percent)]
        timeout = ["--timeout", f"{PATIENCE:.0f}s"]
        return subprocess.run([RECONCILE, *words, *timeout, *options], capture_output=True, text=True, check=False)

    def pass_gate(self, revision: str, *options: str, percent: int = GATED) -> None:
        done = self.gate(revision, "--max-failed", "20%", *options, percent=percent)
        assert done.returncode == 0, done.stderr

    def seconds(self, revision: str, began: float) -> dict[str, float]:
        """Until 95 % and all of the hosts had reported the revision, by the clock of the database."""
        where = f"SELECT extract(epoch FROM converged_at) FROM reconcile.host WHERE converged AND revision = 'link:{revision}'"
        times = sorted(float(line) - began for line in self.database.query(self.name, where))
        assert len(times) == self.number, f"{len(times)} hosts have converged"
        return {"seconds95": round(times[math.ceil(0.95 * len(times)) - 1], 1), "seconds100": round(times[-1], 1)}

    def totals(self) -> Counter[str]:
        """What everything has cost so far."""
        values = self.database.query(self.name, TOTALS)[0].split("|")
        found = Counter(dict(zip(("rows", "wal", "reports"), map(int, values), strict=True)))
        requests = self.s3.requests()
        found["requests"] = len(requests)
        found["bytes"] = sum(LAYER_BYTES for one in requests if one.method == "GET" and one.status < 300)
        found["databaseMs"] = round(1000 * fleet_agents.cpu([self.database.pid]))
        found["hostMs"] = round(1000 * fleet_agents.cpu(self.pids))
        found["wakes"] = fleet_agents.wakes(self.pids)
        return found

    def unreported(self) -> int:
        """Events that a registry has and the database does not."""
        found = self.database.query(
            self.name, "SELECT host.name, count(seq) FROM reconcile.host JOIN reconcile.event ON host = id GROUP BY 1"
        )
        there = dict(line.split("|") for line in found)
        missing = 0
        for number in range(self.number):
            path = self.root / f"agent-{number}" / "state" / "registry.sqlite3"
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as registry:
                (here,) = registry.execute("SELECT count(*) FROM event").fetchone()
            missing += here - int(there.get(f"agent-{number}", 0))
        return missing


# ------------------------------------------------------------------------------------------------------------ phases


def measured(root: Path, number: int, chosen: argparse.Namespace) -> dict[str, Any]:
    with S3Server() as s3, Postgres(root / "pg", max_connections="100") as database:
        name = f"fleet{number}"
        migrate.upgrade(address.parse(database.create(name)))
        upload(s3.endpoint, {f"{layer}.tar": packed(root, layer) for layer in LAYERS}, "layers")
        fleet = Fleet(root, number, s3, database, name)
        for ring, _ in RINGS:
            fleet.commit(ring, "first", "first")
        with stopping(fleet):
            policy.write(root / "host.yaml")
            fleet_agents.preload(root, root / f"ring-1-{NEAR}" / "current")
            s3.forget()
            found: dict[str, Any] = {}
            for name, value in phases(fleet, chosen):
                print(f"{number} agents: {name}: {json.dumps(value)}", file=sys.stderr, flush=True)
                found[name] = value
            return found


def phases(fleet: Fleet, chosen: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Each with what it showed."""
    yield "agents", fleet.number
    yield "outage", chosen.outage
    began = time.monotonic()
    fleet.start(chosen.starting)
    yield "start", round(time.monotonic() - began, 1)
    with costing(fleet) as cost:
        yield "calm", rolled_out(fleet, "second")
    yield "rollout", cost
    yield "idleMinute", minute(fleet, chosen.idle)
    yield "disturbed", rolled_out(fleet, "third", disturbed=chosen.outage)
    yield "unreportedEvents", settled(fleet)
    yield "lostEvents", int(fleet.database.query(fleet.name, "SELECT sum(lost) FROM reconcile.host")[0])
    yield "mostRequestsInASecond", max(Counter(int(one.at) for one in fleet.s3.requests()).values())
    yield "bad", bad(fleet, chosen.idle)
    size = f"SELECT pg_database_size('{fleet.name}') - pg_database_size('template1')"
    yield "databaseBytesPerHost", int(fleet.database.query(fleet.name, size)[0]) // fleet.number
    yield "agentMiB", round(statistics.median(map(fleet_agents.memory, fleet.pids)), 1)
    yield "load", [round(one, 1) for one in os.getloadavg()]


@contextmanager
def stopping(fleet: Fleet) -> Iterator[None]:
    try:
        yield
    finally:
        fleet.stop()


def packed(root: Path, name: str) -> Path:
    path = root / f"{name}.tar"
    with tarfile.open(path, "w") as layer:
        content = os.urandom(LAYER_BYTES - 10240)
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        layer.addfile(entry, BytesIO(content))
    return path


def rolled_out(fleet: Fleet, revision: str, *, disturbed: float = 0.0) -> dict[str, float]:
    """Ring after ring."""
    began = time.time()
    for ring, _ in RINGS[:-1]:
        fleet.commit(ring, revision, revision)
        fleet.pass_gate(revision, "-l", f"ring={ring}")
    fleet.commit(RINGS[-1][0], revision, revision)
    if disturbed:
        disturb(fleet, disturbed)
    # What was cut off has failed when it comes back, and goes on by itself.
    fleet.pass_gate(revision, "--max-failed", "100%", percent=100)
    return fleet.seconds(revision, began)


def disturb(fleet: Fleet, seconds: float) -> None:
    """The database is killed, and a third of all agents is cut off."""
    time.sleep(2)
    fleet.way.cut()
    fleet.database.kill()
    time.sleep(seconds)
    fleet.database.start()
    fleet.way.restore()


def settled(fleet: Fleet) -> int:
    """Events that are still not reported a while after the last change."""
    until = time.monotonic() + 120
    while (missing := fleet.unreported()) and time.monotonic() < until:
        time.sleep(5 * TURN_SECONDS)
    return missing


def bad(fleet: Fleet, seconds: float) -> dict[str, Any]:
    """A revision that can't be applied enters the first ring, and stops there; what it costs while it stays."""
    ring, others = RINGS[0][0], fleet.converged("third")
    began = time.monotonic()
    fleet.commit(ring, "bad", "missing")
    done = fleet.gate("bad", "-l", f"ring={ring}")
    assert done.returncode == 1, done.stderr
    took = time.monotonic() - began
    found = {"seconds": round(took, 1), "gate": done.returncode, "says": done.stderr.strip().splitlines()[-1]}
    hosts = sum(fleet.ring(number) == ring for number in range(fleet.number))
    time.sleep(10)
    assert others - fleet.converged("third") == hosts, "hosts of other rings have changed"
    before = len(fleet.s3.requests())
    time.sleep(seconds)
    return found | {"requestsOfAHostInAMinute": round((len(fleet.s3.requests()) - before) / hosts * 60 / seconds, 2)}


@contextmanager
def costing(fleet: Fleet, scale: Callable[[], float] = lambda: 1.0) -> Iterator[dict[str, float]]:
    """What a host costs meanwhile."""
    cost: dict[str, float] = {}
    before = fleet.totals()
    yield cost
    spent = fleet.totals() - before
    cost |= {name: round(spent[name] * scale() / fleet.number, 2) for name in COSTS}


def minute(fleet: Fleet, seconds: float) -> Mapping[str, float]:
    """What a host costs in a minute in which nothing changes."""
    time.sleep(15)
    with costing(fleet, lambda: 60.0 / seconds) as cost:
        time.sleep(seconds)
    return cost


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="10,30", help="numbers of agents, one run for each")
    parser.add_argument("--starting", type=int, default=4, metavar="N", help="agents that start at once")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long nothing changes")
    parser.add_argument(
        "--outage", type=float, default=60.0, metavar="SECONDS", help="of the database, and of a third of the agents"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result: dict[str, Any] = {"machine": machine.described(Path("/tmp")), "runs": []}
    for number in map(int, given.agents.split(",")):
        root = Path(tempfile.mkdtemp(prefix="fleet-", dir="/tmp"))  # the path of a socket is short
        root.chmod(0o755)
        try:
            result["runs"].append(measured(root, number, given))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    text = json.dumps(result, indent=1)
    if given.json:
        given.json.write_text(f"{text}\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
