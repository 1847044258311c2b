"""What `adopt` records of a pool whose registry was lost, with the pool's metadata as it was read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import repair
from reconciler.errors import Guarded, UsageError
from reconciler.host import context
from reconciler.host.context import Host
from reconciler.image.spec import filesystem_uuid
from reconciler.pool.thin.adoption import Adoption, Candidate, adoption
from reconciler.pool.thin.journal import DeviceRow, PoolRow
from reconciler.registry.edits import chains
from reconciler.settings import Settings
from tests.pool.thin.test_recovery import FIRST, N, pool, thin

POOL = "thin"
IMAGE = """\
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {name: web}
spec:
  size: 16MiB
  layers: [{source: s3://layers/web.tar, sha256: %s}]
  snapshots: [{name: a}, {name: b}]
---
apiVersion: reconciler/v1alpha1
kind: Pool
metadata: {name: thin}
spec:
  thin: {data: {file: /nowhere/data, size: 64MiB}, metadata: {file: /nowhere/meta, size: 4MiB}}
"""


@dataclass
class Read:
    """A pool whose metadata was read: all of its devices have been found, and what the guests of two have written."""

    host: Host
    candidates: tuple[Candidate, ...]

    def unproved(self) -> None: ...
    def assemble_as_it_is(self) -> None: ...

    def moved(self) -> list[Any]:
        return []

    def adoption(self, named: Mapping[str, int], sizes: Mapping[str, int], given: Mapping[str, str]) -> Adoption:
        rows: dict[int, DeviceRow] = self.host.registry.thin_devices(POOL, None)
        row: PoolRow | None = self.host.registry.thin_pool(POOL)
        new = tuple(one for one in self.candidates if one.id not in rows)
        there = {thin_id: device for one in self.candidates for thin_id, device in thin(one.transaction, one.id).items()}
        return adoption(pool(N, there), row, rows, new, given)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    (tmp_path / "web.yaml").write_text(IMAGE % ("0" * 64))
    with context.writing(
        Settings(tmp_path, tmp_path / "state", host_file=tmp_path / "none.yaml"), stop=threading.Event()
    ) as ours:
        yield ours


@pytest.fixture
def declared(host: Host, monkeypatch: pytest.MonkeyPatch) -> str:
    """The declared chain, whose UUID the guests of both snapshots have in their superblocks."""
    chain = next(iter(chains(host).values()))
    found = Candidate(4, FIRST + 1, 9, "a", 16 << 20, str(filesystem_uuid(chain)))
    both = found, replace(found, id=5, transaction=FIRST + 2, name="b")
    monkeypatch.setattr(repair, "thin_pool", lambda host, name, **_: Read(host, both))
    return chain


def recorded(host: Host) -> dict[str, str]:
    return {row.name: row.chain for row in host.records.snapshots().values()}


def test_a_chain_is_what_the_operator_vouches_for_and_can_be_named_later(host: Host, declared: str) -> None:
    changes = repair.adopt(host, POOL, {}, {"b": declared[:12]}, apply=True)

    assert recorded(host) == {"a": "unknown", "b": declared}
    assert f"give --chain a={declared[:12]}" in next(one.message for one in changes if one.name == "a")
    assert {claim.holder for claim in host.records.claims().values()} == {"reconcile adopt"}

    (changed,) = [one for one in repair.adopt(host, POOL, {}, {"a": "e" * 64}, apply=True) if one.what == "chain"]
    assert changed.name == "a"
    assert recorded(host) == {"a": "e" * 64, "b": declared}


def test_the_chain_of_a_registered_snapshot_is_not_changed(host: Host, declared: str) -> None:
    repair.adopt(host, POOL, {}, {"a": declared, "b": declared}, apply=True)

    repair.adopt(host, POOL, {}, {"a": declared}, apply=True)
    with pytest.raises(UsageError, match="is registered with chain"):
        repair.adopt(host, POOL, {}, {"a": "e" * 64}, apply=True)
    assert recorded(host)["a"] == declared


def test_a_chain_or_snapshot_that_is_not_there_is_refused(host: Host, declared: str) -> None:
    with pytest.raises(Guarded, match="is not a chain that is declared or recorded"):
        repair.adopt(host, POOL, {}, {"a": "zz"}, apply=True)
    with pytest.raises(UsageError, match="snapshot c of pool thin"):
        repair.adopt(host, POOL, {}, {"c": declared}, apply=True)
    assert recorded(host) == {}
