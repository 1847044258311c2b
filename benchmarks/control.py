"""What one fault costs, and what a pass costs: the control loop on a file pool, as whole processes.

    python -m benchmarks.control [CASE…] [--rounds N] [--against RECONCILE] [--directory DIR] [--json FILE]

    silent    `--once` with 8 pinned images, beside it one whose source accepts connections and never answers; by turns
    service   the same images in a service: the longest gap between watchdog pings, and the time from SIGTERM to the exit
    busy      an image with local layers is committed while every download slot is taken, beside the same on an idle service
    heads     40 unpinned images beside one long download: how many HEAD requests the endpoint gets
    many      `--once` that makes 200 images with 1,000 snapshots: CPU, by turns with ``--against``, an older version's command
    get       `get images` of 1,000 images that are made, by turns with `list`: CPU

Layers lie below the manifests; sources are servers of this machine's loopback.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import measure
from samples import layers as samples
from tests.support import policy
from tests.support.origin import Answer, Asked, Origin, eventually
from tests.support.raw import RawServer, silent

API = "reconciler/v1alpha1"
RECONCILE = str(Path(sys.executable).with_name("reconcile"))
DEADLINE_SECONDS = 10.0
"""Of one look-up of a source: what a silent one may cost."""

PATIENCE = 120.0
MIB = 1 << 20


@dataclass
class Ground:
    """Manifests with their layers, and a state directory, below ``root``."""

    root: Path
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "manifests/layers").mkdir(parents=True)
        self.host_file = policy.write(self.root / "host.yaml")

    @property
    def state(self) -> Path:
        return self.root / "state"

    def layer(self, name: str) -> dict[str, str]:
        path = self.root / "manifests/layers" / f"{name}.tar"
        if not path.exists():
            samples.pack(path, [samples.file(f"etc/{name}", f"{name}\n")])
        return {"source": f"layers/{name}.tar", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def image(self, name: str, layer: Mapping[str, str], copies: int = 1, **more: Any) -> None:
        names = [{"name": f"{name}-{number}"} for number in range(copies)]
        spec = {"size": "16MiB", "layers": [dict(layer)], "snapshots": names} | more
        document = {"apiVersion": API, "kind": "Image", "metadata": {"name": name}, "spec": spec}
        (self.root / "manifests" / f"{name}.yaml").write_text(yaml.safe_dump(document))

    def behind(self, endpoint: str) -> dict[str, Any]:
        return {"s3": {"endpointUrl": endpoint, "region": "us-east-1", "anonymous": True}}

    def command(self, *words: str, reconcile: str = RECONCILE) -> list[str]:
        return [reconcile, "--manifests", str(self.root / "manifests"), "--state", str(self.state), *words]

    def once(self, expected: int = 0) -> float:
        """Seconds of a run from nothing."""
        shutil.rmtree(self.state, ignore_errors=True)
        began = time.perf_counter()
        done = subprocess.run(self.command("--once"), env=self.environment, capture_output=True, check=False)
        took = time.perf_counter() - began
        assert done.returncode == expected, done.stderr.decode()
        return took

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"RECONCILER_HOST_FILE": str(self.host_file)}

    def snapshot(self, name: str) -> Path:
        return self.state / "pools/default/snapshots" / f"{name}.ext4"

    @contextmanager
    def service(self, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        with tempfile.TemporaryFile() as out:
            running = subprocess.Popen(self.command(*words), env=self.environment | environment, stdout=out, stderr=out)
            try:
                yield running
            finally:
                running.terminate()
                running.wait()


def slow(asked: Asked) -> Answer | None:
    """A part of a large object takes 20 seconds or more, and always brings something."""
    if "large" not in asked.path:
        return None
    size = 4096 * MIB
    stop = min(asked.stop or size, size)
    headers = {"ETag": '"large"', "Content-Length": str(stop - (asked.start or 0))}
    if asked.method == "HEAD":
        return Answer(200, {"ETag": '"large"', "Content-Length": str(size)})
    ranged = {"Content-Range": f"bytes {asked.start}-{stop - 1}/{size}"}
    return Answer(206, headers | ranged, bytes(stop - (asked.start or 0)), cut=MIB, hold=threading.Event())


# ---------------------------------------------------------------------------------------------------------- cases


def eight(ground: Ground) -> None:
    for number in range(8):
        ground.image(f"web-{number}", ground.layer(str(number)))


def case_silent(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground, without, beside = Ground(root), [], []
    eight(ground)
    with RawServer(silent) as server:
        for _ in range(chosen.rounds):
            without.append(ground.once())
            ground.image("stuck", {"source": "s3://layers/never.tar"}, **ground.behind(server.endpoint))
            beside.append(ground.once(expected=1))
            (ground.root / "manifests/stuck.yaml").unlink()
    over = [(one - DEADLINE_SECONDS) / other for one, other in zip(beside, without, strict=True)]
    return {"without, s": without, "beside it, s": beside, "(beside - deadline) / without": over}


def case_service(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground, gaps, stops = Ground(root), [], []
    eight(ground)
    with RawServer(silent) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        ground.image("stuck", {"source": "s3://layers/never.tar"}, **ground.behind(server.endpoint))
        manager.bind(str(root / "notify"))
        manager.settimeout(60)
        for _ in range(chosen.rounds):
            shutil.rmtree(ground.state, ignore_errors=True)
            with ground.service("--interval", "5", NOTIFY_SOCKET=str(root / "notify")) as running:
                fed = [time.monotonic()]
                while fed[-1] < fed[0] + 30:
                    if b"WATCHDOG=1" in manager.recv(4096):
                        fed.append(time.monotonic())
                gaps.append(max(after - before for before, after in itertools.pairwise(fed)))
                began = time.monotonic()
                running.send_signal(signal.SIGTERM)
                running.wait()
                stops.append(time.monotonic() - began)
    return {"longest gap between pings, s": gaps, "SIGTERM to exit, s": stops}


def case_busy(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground, idle, busy = Ground(root), [], []
    with Origin() as origin, Origin() as other:
        origin.script = other.script = slow
        with ground.service("--interval", "3600", "--downloads", "4"):
            eight(ground)
            eventually(ground.snapshot("web-7-0").exists, PATIENCE)
            idle = [committed(ground, f"idle-{turn}") for turn in range(chosen.rounds)]
            for number in range(4):
                pinned = {"source": f"s3://layers/large-{number}.tar", "sha256": f"{number}" * 64}
                ground.image(f"large-{number}", pinned, **ground.behind((origin, other)[number % 2].endpoint))
            eventually(lambda: len({asked.path for asked in (*origin.asked, *other.asked)}) >= 4, PATIENCE)
            busy = [committed(ground, f"busy-{turn}") for turn in range(chosen.rounds)]
    return {"idle, s": idle, "all download slots busy, s": busy}


def committed(ground: Ground, name: str) -> float:
    time.sleep(3)  # the files of the last change come to rest
    began = time.monotonic()
    ground.image(name, ground.layer(name))
    eventually(ground.snapshot(f"{name}-0").exists, PATIENCE)
    return time.monotonic() - began


def case_heads(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(root)
    data = {
        f"layers/{number}.tar": (root / "manifests" / ground.layer(str(number))["source"]).read_bytes() for number in range(40)
    }
    with Origin() as origin:
        origin.script = slow
        for number, (key, content) in enumerate(data.items()):
            origin.put(content, key)
            ground.image(f"web-{number}", {"source": f"s3://{key}"}, **ground.behind(origin.endpoint))
        ground.image("large", {"source": "s3://layers/large.tar", "sha256": "0" * 64}, **ground.behind(origin.endpoint))
        with subprocess.Popen(ground.command("--once"), env=ground.environment, stderr=subprocess.DEVNULL) as running:
            eventually(ground.snapshot("web-39-0").exists, PATIENCE)
            time.sleep(20)
            heads = [asked.path for asked in origin.asked if asked.method == "HEAD"]
            running.terminate()
    return {"HEAD requests": len(heads), "most for one layer": max(heads.count(path) for path in heads)}


def case_many(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground, ours, theirs = Ground(root), [], []
    for number in range(200):
        ground.image(f"web-{number:03}", ground.layer(str(number)), copies=5)
    for _ in range(chosen.rounds):
        for reconcile, found in ((RECONCILE, ours), *([(chosen.against, theirs)] if chosen.against else [])):
            shutil.rmtree(ground.state, ignore_errors=True)
            found.append(measure.run(ground.command("--once", reconcile=reconcile)).cpu)
            assert len(list((ground.state / "pools/default/snapshots").iterdir())) == 1000
    told: dict[str, Any] = {"CPU, s": ours}
    return told | ({"older, CPU, s": theirs, "ratio": [a / b for a, b in zip(ours, theirs, strict=True)]} if theirs else {})


def case_get(root: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    ground = Ground(root)
    for number in range(1000):
        ground.image(f"web-{number:03}", ground.layer("all"))
    ground.once()
    os.environ.update(ground.environment)
    pairs = [
        [measure.run(ground.command(*verb, "-o", "json")).cpu for verb in (("get", "images"), ("list",))]
        for _ in range(chosen.rounds)
    ]
    ours, theirs = zip(*pairs, strict=True)
    return {"get, CPU, s": [*ours], "list, CPU, s": [*theirs], "ratio": [a / b for a, b in pairs]}


CASES: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "silent": case_silent,
    "service": case_service,
    "busy": case_busy,
    "heads": case_heads,
    "many": case_many,
    "get": case_get,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="CASE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", help="the command of an older version, for `many`")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    told = {}
    for name in chosen.cases or CASES:
        with tempfile.TemporaryDirectory(dir=chosen.directory, prefix="control-") as root:
            told[name] = CASES[name](Path(root), chosen)
        for what, value in told[name].items():
            print(f"{name:8} {what:32} {shown(value)}", flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")


def shown(value: int | list[float]) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{statistics.median(value):.2f} ({min(value):.2f}-{max(value):.2f})"


if __name__ == "__main__":
    main()
