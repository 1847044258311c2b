"""`spec.access`: a microVM's user gets its disks, and nothing else of the state directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from .layers import root
from .workshop import Workshop

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def declare(workshop: Workshop, **access: Any) -> None:
    body = {"file": {}, "reserve": {"dataPercent": 0}, "access": access}
    workshop.declare("pool", {"apiVersion": "reconciler/v1alpha1", "kind": "Pool", "metadata": {"name": "default"}, "spec": body})


def access_of(path: Path) -> tuple[int, int, str]:
    found = path.stat()
    return found.st_uid, found.st_gid, f"{stat.S_IMODE(found.st_mode):04o}"


def test_snapshots_have_the_declared_access_and_get_another_one_by_an_activation(workshop: Workshop) -> None:
    declare(workshop, owner="nobody", group="12", mode="0640")
    workshop.image("web", [root("base")])
    workshop.converge()
    assert access_of(workshop.snapshot("web-a")) == (65534, 12, "0640")
    modes = {name: access_of(workshop.state / name)[2] for name in (".", "pools", "pools/default", "pools/default/snapshots")}
    assert set(modes.values()) == {"0711"}, modes
    closed = {path.name: access_of(path)[2] for path in workshop.state.iterdir() if path.name != "pools"}
    assert set(closed.values()) <= {"0600", "0700"}, closed
    inode = workshop.snapshot("web-a").stat().st_ino

    declare(workshop, group="13", mode="0660")
    workshop.run("plan").expect(0).words("activate", "group 12 instead of 13; mode 0640 instead of 0660")
    workshop.converge()
    assert access_of(workshop.snapshot("web-a")) == (65534, 13, "0660")
    assert workshop.snapshot("web-a").stat().st_ino == inode
    workshop.settled()


def test_a_group_that_the_host_does_not_have_blocks_the_pools_images(workshop: Workshop) -> None:
    declare(workshop, group="no-such-group")
    workshop.image("web", [root("base")])

    workshop.once().words("this host has no group 'no-such-group'", "spec.access of pool default")
    declare(workshop, mode="0777")
    workshop.once().expect(4).words("spec.access.mode", "an octal mode of reading and writing")
