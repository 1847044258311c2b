"""A pool's devices hold another pool: nothing on them is touched, and ours comes back with its own devices."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import root
from tests.support.sparse import copied
from tests.support.zygote import Zygote

from .test_troubles import host, read, still_looked_at  # noqa: F401 - a fixture among them
from .workshop import POOL, ThinWorkshop


def test_a_swapped_pool(host: ThinWorkshop, tmp_path: Path, zygote: Zygote) -> None:  # noqa: F811
    """Another host's disk in the place of ours: nothing on it is touched."""
    other = ThinWorkshop(tmp_path / "other", zygote)
    other.image("db", [root("db")])
    other.converge()
    other.take_down()
    host.take_down()
    shutil.move(host.backing, tmp_path / "ours")
    copied(other.backing, host.backing)
    before = host.thin_ids()

    done = host.once("-o", "json")

    assert done.code == 1, done
    assert done.object("Image", "web")["reason"] == "PoolSwapped"
    assert host.thin_ids() == before
    host.run("health").expect(1).words("hold another pool", f"reconcile adopt {POOL}")
    still_looked_at(host)
    shutil.rmtree(host.backing)
    shutil.move(tmp_path / "ours", host.backing)
    host.converge()
    assert read(host, "a", 4) == b"mine"
    host.settled()
