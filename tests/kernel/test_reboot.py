"""The power fails, at idle and in the middle of work, the machine is booted again from the same disk: one run, and all is well.

These tests run on the host and drive a guest of their own. Everything that must survive is on the guest's disk: state directory,
manifests, layers, and the files that the pool lies on.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stories.layers import Layer, change, noise, root
from tests.support.guest import DISK, Guest, make_disk

pytestmark = [pytest.mark.reboots, pytest.mark.timeout(600)]

RECONCILE = str(Path(sys.executable).with_name("reconcile"))
HOST = Path(DISK)
API = "reconciler/v1alpha1"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_disk(tmp_path_factory.mktemp("disk") / "disk", 1 << 30)


class Machine:
    """A guest with a reconciler; layers are handed over in a directory of the host."""

    def __init__(self, disk: Path, layers: Path) -> None:
        self.layers = layers
        self.guest = Guest(disk)

    def declare(self, snapshots: int, *layers: Layer) -> None:
        """An image of these layers, with so many snapshots."""
        for layer in layers:
            (self.layers / f"{layer.name}.tar").write_bytes(layer.data)
        thin = {
            "data": {"file": f"{HOST}/thin.data", "size": "256MiB"},
            "metadata": {"file": f"{HOST}/thin.meta", "size": "4MiB"},
        }
        pool = {"apiVersion": API, "kind": "Pool", "metadata": {"name": "thin"}, "spec": {"thin": thin}}
        sources = [{"source": f"{HOST}/layers/{layer.name}.tar", "sha256": layer.sha256} for layer in layers]
        body = {"size": "32MiB", "layers": sources, "snapshots": [{"name": "web", "count": snapshots}]}
        image = {"apiVersion": API, "kind": "Image", "metadata": {"name": "web"}, "spec": body}
        (self.layers / "web.yaml").write_text(yaml.safe_dump_all([pool, image]))
        self.sh(f"mkdir -p {HOST}/layers {HOST}/manifests; cp {self.layers}/*.tar {HOST}/layers")
        self.sh(f"cp {self.layers}/web.yaml {HOST}/manifests; sync")

    @property
    def environment(self) -> dict[str, str]:
        own = {"RECONCILER_STATE": f"{HOST}/state", "RECONCILER_MANIFESTS": f"{HOST}/manifests"}
        return own | {"RECONCILER_PRUNE_GRACE": "0s"}

    def reconcile(self, *words: str, code: int = 0) -> str:
        done = self.guest.run([RECONCILE, *words], 120, env=self.environment)
        assert done.code == code, f"{words}: exit {done.code}\n{done.stdout}{done.stderr}{self.guest.tail()}"
        return done.stdout

    def power_cut(self) -> None:
        self.guest.cut()
        self.guest.boot()

    def sh(self, script: str) -> str:
        return self.guest.run(script).check().stdout

    def converged(self, snapshots: int) -> Any:
        """One run makes everything as declared, and another finds nothing to do; pool, registry and kernel agree."""
        self.reconcile("--once", "-o", "json")
        again = json.loads(self.reconcile("--once", "-o", "json", "--detailed-exitcode"))
        assert (again["changed"], again["failed"]) == (0, 0), again
        self.reconcile("health")
        self.reconcile("verify")
        active = self.sh("dmsetup ls | cut -f1 | sort").split()
        assert active == sorted(["thin", *(f"thin-web-{n}" for n in range(snapshots))]), "nothing else is active"
        held = self.sh("dmsetup message thin 0 reserve_metadata_snap; thin_ls -m --no-headers -o DEV " + f"{HOST}/thin.meta")
        self.sh("dmsetup message thin 0 release_metadata_snap")
        query = (
            "import sqlite3; print(*(r[0] for r in sqlite3.connect(sys.argv[1]).execute('SELECT id FROM device ORDER BY id')))"
        )
        known = self.guest.run([sys.executable, "-c", f"import sys; {query}", f"{HOST}/state/registry.sqlite3"]).check().stdout
        assert sorted(map(int, held.split())) == sorted(map(int, known.split())), "thin ids in the pool = registry"
        return again

    def checked(self) -> None:
        """thin_check and e2fsck are content; the pool must not be up for the first of them."""
        for name in self.sh("dmsetup ls | cut -f1").split():
            if name != "thin":
                self.sh(f"e2fsck -fn /dev/mapper/{name} && dmsetup remove {name}")
        self.sh(f"dmsetup remove thin && thin_check -q {HOST}/thin.meta")


@pytest.fixture
def machine(disk: Path, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(disk, tmp_path)
    with machine.guest:
        machine.sh(f"rm -rf {HOST}/state {HOST}/layers {HOST}/manifests {HOST}/thin.*")
        yield machine


LAYERS = [root("base", {"srv/data": noise(2 << 20)}), change("app", {"srv/app": noise(1 << 20)})]


def test_at_idle(machine: Machine) -> None:
    """What was written to a snapshot and synced is there after the power cut; one run brings every snapshot back."""
    machine.declare(3, *LAYERS)
    machine.reconcile("--once")
    machine.sh("mkdir /run/web && mount /dev/mapper/thin-web-1 /run/web && echo mine > /run/web/mine && sync -f /run/web/mine")

    machine.power_cut()

    assert machine.sh("dmsetup ls") == "No devices found\n"
    plan = json.loads(machine.reconcile("plan", "-o", "json"))
    assert [action["verb"] for action in plan["actions"]] == ["assemble", "activate", "activate", "activate"]
    assert json.loads(machine.reconcile("--once", "-o", "json"))["changed"] == 4
    machine.converged(3)
    assert (
        machine.sh("mkdir /run/web && mount /dev/mapper/thin-web-1 /run/web && cat /run/web/mine && umount /run/web") == "mine\n"
    )
    machine.checked()


def test_in_the_middle_of_work(machine: Machine) -> None:
    """The power is cut at moments drawn by lot, again and again, while a pool is made, filled, updated and pruned."""
    lots = random.Random(2024)
    states = [(2, LAYERS), (3, [*LAYERS, change("more", {"srv/more": noise(1 << 20)})]), (1, LAYERS)]
    for snapshots, layers in states:
        machine.declare(snapshots, *layers)
        for _ in range(2):
            job = machine.guest.start([RECONCILE, "--once", "--prune"], env=machine.environment)
            machine.guest.until(lambda job=job: job.poll() is not None or lots.random() < 0.004, 60, "cut off")
            machine.power_cut()
        machine.reconcile("--once", "--prune")
        machine.converged(snapshots)
    machine.checked()
