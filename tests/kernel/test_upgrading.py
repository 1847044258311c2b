"""A thin pool and a state directory that an older version has made (layout 1, schema 4) stay as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import change, root
from tests.stories.workshop import contents, fsck
from tests.support import previous
from tests.support.zygote import Zygote

from .workshop import ThinWorkshop

BASE, TOP = root("base"), change("top", {"etc/app": b"app\n"})


@pytest.fixture
def workshop(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    """With two snapshots, made by the older version; one of them was written to."""
    made = ThinWorkshop(tmp_path, zygote)
    made.image("web", [BASE, TOP], snapshots=["web-a", "web-b"])
    made.claim()
    command = previous.install(tmp_path / "previous")
    environment = {name: value for name, value in made.environment.items() if name != "RECONCILER_HOST_FILE"}
    done = subprocess.run([command, "--once"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with made.snapshot("web-a").open("r+b") as device:
        device.seek(8 << 20)
        device.write(b"mine" * 1024)
    yield made
    made.take_down()


def held(workshop: ThinWorkshop) -> dict[str, str]:
    return contents(map(workshop.snapshot, ("web-a", "web-b")))


def test_an_upgrade_plans_nothing_and_keeps_every_snapshot_also_after_a_reboot(workshop: ThinWorkshop) -> None:
    made, ids = held(workshop), workshop.thin_ids()

    plan = workshop.plan()
    assert plan["actions"] == plan["blocked"] == []
    assert [one["name"] for one in plan["findings"] if one["reason"] == "LayoutOutdated"] == ["web"]
    assert "no label proves its data" in next(one["message"] for one in plan["findings"] if one["reason"] == "PoolLayoutOutdated")
    assert workshop.converge().json["changed"] == 0
    assert held(workshop) == made

    workshop.take_down()
    assert workshop.plan()["blocked"] == []
    workshop.converge()
    assert held(workshop) == made
    assert ids.items() <= workshop.thin_ids().items()
    workshop.run("verify").expect(0)
    workshop.settled()


def test_a_snapshot_is_created_from_a_volume_of_layout_1_and_an_upgrade_replaces_it(workshop: ThinWorkshop) -> None:
    made = held(workshop)
    workshop.image("web", [BASE, TOP], snapshots=["web-a", "web-b", "web-c"])
    assert workshop.converge().json["failed"] == 0
    fsck(workshop.snapshot("web-c"))
    assert held(workshop) == made

    workshop.image("web", [BASE, TOP], snapshots=["web-a", "web-b", "web-c"], replacePolicy="Recreate")
    done = workshop.converge("--upgrade-layout").json
    assert {one["name"] for one in done["objects"] if one["action"] == "replace"} == {"web-a", "web-b", "web-c"}
    fsck(workshop.snapshot("web-a"))
    assert not [one for one in workshop.plan()["findings"] if one["reason"].startswith("Layout")]
    workshop.converge("--prune")
    workshop.settled()
