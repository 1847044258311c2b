"""How long a claim through the API takes, beside one fsynced transaction of the same rows.

    python -m benchmarks.claims [--snapshots 10000] [--claims 400]

A file pool with so many ready snapshots (their files are empty: a claim reads no content), an idle service, and one client; then
four at once, which begin together once each is connected. Prints JSON: milliseconds, median and 99th percentile, the CPU of the
service (assessments that the claims cause included), and the targets.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE
from typing import Any

from reconciler.api import client
from reconciler.engine.facts import SnapshotMade
from reconciler.model import ImageRow, SnapshotRow
from reconciler.pool.file.identity import Identity
from reconciler.registry.writer import Registry

MANIFEST = """
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {name: default}
spec: {file: {}, reserve: {dataPercent: 0}}
---
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: web}
spec:
  suspend: true
  size: 16MiB
  layers: [{source: layer.tar, sha256: %s}]
  snapshots: [%s]
"""
SET = 1000
CLIENTS = 4


def prepare(root: Path, count: int) -> None:
    """Manifests, a registry and files as a run leaves them."""
    sets = [f"{{name: job{n}, count: {min(SET, count - n * SET)}, ttl: 2h}}" for n in range(-(-count // SET))]
    (root / "m").mkdir()
    (root / "m" / "web.yaml").write_text(MANIFEST % ("a" * 64, ", ".join(sets)))
    snapshots = root / "state" / "pools" / "default" / "snapshots"
    snapshots.mkdir(parents=True)
    facts = []
    for number in range(count):
        name = f"job{number // SET}-{number % SET}"
        with open(snapshots / f"{name}.ext4", "wb") as file:
            file.truncate(16 << 20)
            facts.append(SnapshotMade(SnapshotRow("default", name, "web", "c" * 64, str(Identity.of(file.fileno())))))
    with Registry.open(root / "state" / "registry.sqlite3") as registry:
        registry.record_image(ImageRow("web", "default", "c" * 64, 16 << 20, False))
        registry.apply(facts)


def transaction(root: Path, times: int) -> list[float]:
    """One fsynced transaction of the rows that a claim writes, in a database of its own."""
    with closing(sqlite3.connect(root / "ground.sqlite3", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE claim (id TEXT PRIMARY KEY, text TEXT)")
        db.execute("CREATE TABLE event (seq INTEGER PRIMARY KEY, text TEXT)")
        db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER)")
        db.execute("INSERT INTO meta VALUES ('serial', 0)")
        found = []
        for number in range(times):
            began = time.perf_counter()
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO claim VALUES (?, ?)", (str(number), "x" * 300))
            db.execute("INSERT INTO event (text) VALUES (?)", ("x" * 150,))
            db.execute("UPDATE meta SET value = value + 1")
            db.execute("COMMIT")
            found.append(1000 * (time.perf_counter() - began))
        return found


def claims(socket: Path, times: int, connected: Callable[[], object] = lambda: None) -> list[float]:
    """Milliseconds of each claim on one connection."""
    connection: HTTPConnection = client._Unix(socket, 30)
    body, found = json.dumps({"image": "web", "holder": "benchmark"}), []
    with closing(connection):
        connection.connect()
        connected()
        for _ in range(times):
            began = time.perf_counter()
            connection.request("POST", "/v1/claims", body)
            response = connection.getresponse()
            answer = response.read()
            found.append(1000 * (time.perf_counter() - began))
            if response.status != 201:
                raise SystemExit(f"a claim failed: {answer.decode()}")
    return found


def together(socket: Path, clients: int, times: int) -> list[float]:
    """The same of several clients at once: each is a process, because threads would wait for each other.

    They begin together: a Python that is starting takes as much CPU as hundreds of claims.
    """
    command = [sys.executable, "-m", "benchmarks.claims", "--client", str(socket), "--claims", str(times)]
    started = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(clients)]
    for one in started:
        assert one.stdout is not None
        one.stdout.readline()
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return [value for one in started for value in json.loads(one.communicate()[0])]


def begin_together() -> None:
    print("connected", flush=True)
    sys.stdin.readline()


def cpu(pid: int) -> float:
    """Milliseconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered), 2), "p99": round(ordered[int(len(ordered) * 0.99)], 2), "n": len(ordered)}


def share(used: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    return {"service CPU each": round((used[1] - used[0]) / len(values), 2)}


def measure(count: int, times: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="claims-", dir=Path.cwd()) as directory:
        root = Path(directory)
        prepare(root, count)
        ground = transaction(root, times)
        command = [sys.executable, "-m", "reconciler.cli.main", "-f", str(root / "m"), "--state", str(root / "state")]
        with open(root / "log", "w") as log:
            service = subprocess.Popen(command, stdout=log, stderr=log)
        socket = root / "state" / "api.sock"
        try:
            wait_idle(socket)
            used = [cpu(service.pid)]
            one = claims(socket, times)
            used.append(cpu(service.pid))
            four = together(socket, CLIENTS, times)
            used.append(cpu(service.pid))
        finally:
            service.terminate()
            service.wait()
        limit = 3 * statistics.median(ground)
        return {
            "snapshots": count,
            "transaction": summary(ground),
            "one client": summary(one) | share(used[0:2], one) | {"target median": f"<= 3 and <= {limit:.2f}"},
            "four clients": summary(four) | share(used[1:3], four) | {"target p99": "<= 15"},
        }


def wait_idle(socket: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(Exception):
            client.request(socket, "GET", "/v1/health")
            threading.Event().wait(2)
            return
        threading.Event().wait(0.2)
    raise SystemExit("the service does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--claims", type=int, default=400)
    parser.add_argument("--client", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    begun = chosen.client
    found = claims(begun, chosen.claims, begin_together) if begun else measure(chosen.snapshots, chosen.claims)
    print(json.dumps(found, indent=None if chosen.client else 2))


if __name__ == "__main__":
    main()
