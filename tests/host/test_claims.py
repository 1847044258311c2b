"""What a request may have by the manifests."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from reconciler.claim import DEFAULT_TTL, SnapshotSet
from reconciler.errors import TtlRefused
from reconciler.host.claims import Request, wanted
from reconciler.image.custom import CustomSpec, FileSpec, Names
from reconciler.model import Desired, ImageSpec, Key, Kind, SnapshotRow
from reconciler.registry.claims import Caller

USER = Caller(1000, False)


def declaring(*sets: SnapshotSet) -> Desired:
    names = tuple(name for one in sets for name in one.names)
    return Desired({}, {"web": ImageSpec("web", "p", 1 << 24, (), names, sets=sets)})


def test_each_set_permits_a_ttl_of_its_own() -> None:
    desired = declaring(SnapshotSet("short", 2, 3, 60.0), SnapshotSet("job", 2, 2), SnapshotSet("mine"), SnapshotSet("job-9"))

    by_manifest = wanted(desired, Request("web"), USER).ttls
    assert dict(by_manifest) == dict.fromkeys(["short-0", "short-1", "short-2"], 60.0) | dict.fromkeys(
        ["job-0", "job-1", "mine", "job-9"], DEFAULT_TTL
    )
    assert [name in by_manifest for name in ("short-3", "short-00", "job", "mine-0", "-0", "")] == [False] * 6
    assert set(wanted(desired, Request("web", ttl=90.0), USER).ttls) == {"job-0", "job-1", "mine", "job-9"}
    named = wanted(desired, Request(snapshot=Key(Kind.SNAPSHOT, "", "short-1"), ttl=30.0), USER)
    assert (named.name, named.ttls["short-1"]) == ("short-1", 30.0)
    with pytest.raises(TtlRefused, match=r"longer than the manifest permits \(60 s\)"):
        wanted(desired, Request(snapshot=Key(Kind.SNAPSHOT, "", "short-1"), ttl=90.0), USER)


def test_requests_of_many_ttls_keep_no_memory() -> None:
    desired = declaring(*(SnapshotSet(f"job{n}", 1000, 1000) for n in range(10)))
    tracemalloc.start()
    try:
        for ttl in range(256):
            assert "job9-999" in wanted(desired, Request("web", ttl=3600.0 + ttl), USER).ttls
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_snapshot_with_the_files_that_are_declared_is_current() -> None:
    files = FileSpec("/etc/hostname", "{snapshot}\n"), FileSpec("/etc/key", source="/keys/ci.pub")
    customs = {"job-0": CustomSpec(files=files[:1]), "job-1": CustomSpec(files=files, index=1)}
    spec = replace(declaring(SnapshotSet("job", 3)).images["web"], custom=customs)
    is_current = wanted(Desired({}, {"web": spec}), Request("web"), USER).is_current
    digest = customs["job-0"].digest(Names("job-0", 0, "web", ""), {})

    def row(name: str, custom: str) -> SnapshotRow:
        return SnapshotRow("p", name, "web", "chain", "id", custom)

    assert is_current(row("job-0", digest))
    assert not is_current(row("job-0", "of before"))
    assert is_current(row("job-1", "of a file that only a pass reads"))
    assert is_current(row("job-2", ""))
    assert not is_current(row("job-2", "of before"))
