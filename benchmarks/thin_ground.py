"""Where benchmarks of thin pools run: this machine as root, or a guest of ``tests.support.guest`` where it has no device-mapper.

In a guest, files lie on a disk that is a file of this machine's temporary directory, as ext4; its syncs are this machine's. What
takes part in a comparison runs in the same kernel, on the same pool, by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Spread
from reconciler.errors import HostCannot
from reconciler.pool.thin.devmapper import DeviceMapper
from tests.support import policy
from tests.support.guest import DISK, Guest, make_disk, unusable

API = "reconciler/v1alpha1"
POOL = "bench"
RECONCILE = str(Path(sys.executable).with_name("reconcile"))
PATIENCE = 3600.0

Measure = Callable[[Path, argparse.Namespace], dict[str, Any]]
Show = Callable[[dict[str, Any]], None]


def main(told: str | None, measure: Measure, show: Show, options: Mapping[str, Mapping[str, Any]], disk: int) -> None:
    """``measure`` gets a directory on the disk that is measured; a guest's has ``disk`` bytes. ``told`` describes the program."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, option in options.items():
        parser.add_argument(name, **option)
    parser.add_argument("--directory", type=Path, help="where the pool's files are made, on this machine itself")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    chosen = parser.parse_args()
    if chosen.directory is None and not usable():
        in_guest(parser, chosen, disk)
        return
    with tempfile.TemporaryDirectory(dir=chosen.directory or Path.cwd()) as directory:
        found = measure(Path(directory), chosen)
    show(found)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")


def usable() -> bool:
    """Device-mapper, here. The node alone proves nothing: dmsetup makes it."""
    try:
        DeviceMapper.open()
    except HostCannot:
        return False
    return True


def in_guest(parser: argparse.ArgumentParser, chosen: argparse.Namespace, disk: int) -> None:
    """The same command again, in there."""
    if lacking := unusable():
        parser.error(f"this machine has no device-mapper, and can't have guests: {lacking}")
    module = sys.modules["__main__"].__spec__
    assert module is not None
    with tempfile.TemporaryDirectory() as place:
        shared = [chosen.json.absolute().parent] if chosen.json else []
        with Guest(make_disk(Path(place, "disk"), disk), shared=shared) as guest:
            job = guest.start([sys.executable, "-m", module.name, *sys.argv[1:], "--directory", DISK])
            printed, until = 0, time.monotonic() + PATIENCE
            while True:
                code, said = job.poll(), job.stderr
                sys.stderr.write(said[printed:])
                printed = len(said)
                if code is not None:
                    break
                assert time.monotonic() < until, "it does not end"
                time.sleep(0.2)
            print(job.stdout, end="")
    if code:
        sys.exit(code)


# ------------------------------------------------------------------------------------------------------- the pool


@dataclass(frozen=True)
class Ground:
    """Manifests, layers, state and pool of one benchmark, in a directory of their own."""

    root: Path
    data: str = "1GiB"
    block: str = "64KiB"
    pool: str = POOL

    def __post_init__(self) -> None:
        for directory in (self.manifests, self.layers):
            directory.mkdir(parents=True, exist_ok=True)
        os.environ["RECONCILER_HOST_FILE"] = str(policy.write(self.root / "host.yaml"))

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def metadata(self) -> Path:
        return self.root / "thin.meta"

    def declare(self, images: Mapping[str, Mapping[str, Any]]) -> None:
        thin = {
            "data": {"file": str(self.root / "thin.data"), "size": self.data},
            "metadata": {"file": str(self.metadata)},
            "blockSize": self.block,
        }
        reserve = {"dataPercent": 0, "metadataPercent": 0}
        documents = [self._document("Pool", self.pool, {"thin": thin, "reserve": reserve})]
        documents += [self._document("Image", name, spec) for name, spec in images.items()]
        (self.manifests / "all.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))

    def _document(self, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}

    def command(self, *words: str) -> list[str]:
        return [RECONCILE, "--manifests", str(self.manifests), "--state", str(self.state), *words]

    def once(self, *words: str) -> dict[str, Any]:
        """What one run says that it did."""
        done = subprocess.run(self.command("--once", "-o", "json", *words), stdout=subprocess.PIPE, check=False)
        assert done.returncode == 0, done.stdout.decode()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextmanager
    def up(self) -> Iterator[Ground]:
        """Whatever has become active meanwhile is taken down at the end."""
        try:
            yield self
        finally:
            take_down(self.pool)


def dmsetup(*words: str) -> str:
    done = subprocess.run(["dmsetup", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"dmsetup {' '.join(words)}: {done.stderr}"
    return done.stdout


def take_down(pool: str = POOL) -> None:
    """As a reboot would leave it: no mapping, no loop device."""
    said = dmsetup("ls")
    names = [] if said.startswith("No devices") else [line.split("\t")[0] for line in said.splitlines()]
    thin = [name for name in names if name.startswith(f"{pool}-")]
    for gone in (thin, [pool] if pool in names else []):
        if gone:
            dmsetup("remove", "--retry", *gone)


# -------------------------------------------------------------------------------------------------------- numbers


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Of the medians, and the spread over the pairs: ours by theirs."""
    pairs = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {"ofMedians": statistics.median(ours) / statistics.median(theirs), "lowest": min(pairs), "highest": max(pairs)}


def spread(values: Sequence[float]) -> dict[str, float]:
    return asdict(Spread.of(values))


def said(line: Mapping[str, float], factor: float = 1.0, digits: int = 2) -> str:
    """``median (lowest-highest)``."""
    middle = line["median"] if "median" in line else line["ofMedians"]
    low, high = line["lowest"] * factor, line["highest"] * factor
    return f"{middle * factor:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
