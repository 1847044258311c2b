"""The service on a real kernel: what is done to its mappings behind its back is noticed at once and mended."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import root
from tests.stories.workshop import Running
from tests.support.zygote import Zygote

from .rig import dmsetup
from .workshop import ThinWorkshop

SNAPSHOT = "default-web-a"


@pytest.fixture
def workshop(tmp_path: Path, zygote: Zygote) -> Iterator[ThinWorkshop]:  # noqa: F811
    made = ThinWorkshop(tmp_path, zygote)
    yield made
    made.take_down()


@pytest.fixture
def service(workshop: ThinWorkshop) -> Iterator[Running]:
    """Nothing but the pulse of the pool can wake it: the resync is an hour away."""
    workshop.image("web", [root("base")], snapshots=["web-a", "web-b"])
    service = workshop.start("--interval", "3600").until(Path("/dev/mapper/default-web-b").exists, "the snapshots")
    service.until(lambda: workshop.run("drift").code == 0, "peace", 60)
    yield service
    assert service.signal(signal.SIGTERM).wait().code == 143


def test_a_mapping_that_is_removed_by_hand_is_back_at_once(workshop: ThinWorkshop, service: Running) -> None:
    dmsetup("remove", SNAPSHOT)
    began = time.monotonic()
    service.until(Path(f"/dev/mapper/{SNAPSHOT}").exists, "the snapshot again")
    print(f"back after {time.monotonic() - began:.2f} s")


def test_a_mapping_that_is_suspended_by_hand_is_resumed(workshop: ThinWorkshop, service: Running) -> None:
    dmsetup("suspend", SNAPSHOT)
    service.until(lambda: "State:             ACTIVE" in dmsetup("info", SNAPSHOT), "the snapshot resumed")
