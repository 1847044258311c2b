"""Taking a pool over, cut off at any moment: what a guest has written is never taken for something half-built, and deleted."""

from __future__ import annotations

import signal

import pytest

from reconciler.image.spec import filesystem_uuid
from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.layers import change

from .rig import dmsetup
from .test_troubles import BASE, allocate, host, read, reasons  # noqa: F401 - a fixture among them
from .workshop import POOL, ThinWorkshop

STRIDES = [9, pytest.param(1, marks=pytest.mark.slow)]
"""The quick tier tries one moment of so many, the slow one tries them all."""
each_stride = pytest.mark.parametrize("stride", STRIDES, ids=["some", "all"])


def orphaned(host: ThinWorkshop, thin_id: int, text: bytes) -> None:  # noqa: F811
    """A snapshot of the image that was made under our stamp, that somebody has written to, and that nothing knows."""
    base = max(one for one, row in host.devices().items() if row[0] == "volume")
    dmsetup("message", POOL, "0", f"create_snap {thin_id} {base}")
    allocate(host, thin_id)
    sectors = host.devices()[base][3] // 512
    dmsetup("create", "hurt-orphan", "--table", f"0 {sectors} thin /dev/mapper/{POOL} {thin_id}")
    with open("/dev/mapper/hurt-orphan", "r+b") as device:
        device.write(text.ljust(512, b"\0"))
    dmsetup("remove", "--retry", "hurt-orphan")


def killed_at(moment: int, host: ThinWorkshop, *words: str) -> bool:  # noqa: F811
    return host.start(*words, die_at=moment).wait().code == -signal.SIGKILL


@each_stride
@pytest.mark.timeout(600)
def test_killed_while_an_orphan_is_adopted(stride: int, host: ThinWorkshop) -> None:  # noqa: F811
    moment = 1 + stride // 2
    while True:
        name, thin_id = f"n{moment}", 1000 + moment
        orphaned(host, thin_id, b"precious")
        declared = host.manifests / "web.yaml"
        declared.write_text(declared.read_text() + f"  - name: {name}\n")
        adopt = ("adopt", POOL, "--snapshot", f"{name}={thin_id}", "--apply")
        if not killed_at(moment, host, *adopt):
            break
        if thin_id not in host.devices():
            host.run(*adopt).expect(0).words(f"snapshot {name}")
        host.converge()
        assert read(host, name, 8) == b"precious"
        moment += stride
    assert moment > 3, "there are moments"
    host.converge()
    assert reasons(host) == {"SnapshotOutdated"}, "nobody has named the chain of what was adopted"
    host.settled()


# Six commands for each moment: to try them all takes longer than all other slow tests of adopting together.
@pytest.mark.parametrize("stride", [9, pytest.param(4, marks=pytest.mark.slow)], ids=["some", "more"])
@pytest.mark.timeout(600)
def test_killed_while_the_pool_of_a_lost_registry_is_adopted(stride: int, host: ThinWorkshop) -> None:  # noqa: F811
    moment = 1 + stride // 2
    while True:
        for path in host.state.glob("registry.sqlite3*"):
            path.unlink()
        alive = not killed_at(moment, host, "adopt", POOL, "--apply")
        host.once()
        if not host.devices():
            host.run("adopt", POOL, "--apply").expect(0)
        host.converge()
        assert read(host, "a", 4) == b"mine"
        host.run("gc", POOL, "--apply").expect(0)
        if alive:
            break
        moment += stride
    assert moment > 3, "there are moments"
    host.settled()


@each_stride
@pytest.mark.timeout(600)
def test_killed_while_orphans_are_collected(stride: int, host: ThinWorkshop) -> None:  # noqa: F811
    moment = 1 + stride // 2
    while True:
        orphaned(host, 1000 + moment, b"waste")
        if not killed_at(moment, host, "gc", POOL, "--apply"):
            break
        host.converge()
        host.run("gc", POOL, "--apply").expect(0)
        assert read(host, "a", 4) == b"mine"
        assert reasons(host) == set()
        host.settled()
        moment += stride
    assert moment > 3, "there are moments"
    host.settled()


def test_the_name_of_a_snapshot_that_is_there_is_not_given_to_another(host: ThinWorkshop) -> None:  # noqa: F811
    orphaned(host, 1000, b"other")

    host.run("adopt", POOL, "--snapshot", "a=1000", "--apply").expect(64).words("snapshot a", "exists already", "--prune")

    host.converge()
    assert read(host, "a", 4) == b"mine"
    assert reasons(host) == {"Orphan"}


def test_the_size_of_an_adopted_snapshot_is_not_what_its_guest_has_written(host: ThinWorkshop) -> None:  # noqa: F811
    orphaned(host, 1000, b"precious")
    (size,) = {row[3] for row in host.devices().values() if row[0] == "volume"}
    dmsetup("create", "hurt-orphan", "--table", f"0 {size // 512} thin /dev/mapper/{POOL} 1000")
    with open("/dev/mapper/hurt-orphan", "r+b") as device:
        device.seek(1024 + 4)
        device.write(b"\xff\xff\xff\x0f")  # s_blocks_count: a TiB of blocks of 4 KiB
    dmsetup("remove", "--retry", "hurt-orphan")
    declared = host.manifests / "web.yaml"
    declared.write_text(declared.read_text() + "  - name: lying\n")

    host.run("adopt", POOL, "--snapshot", "lying=1000", "--apply").expect(0)

    (claim,) = host.run("list", "claims", "-o", "json").expect(0).json["claims"]
    assert (claim["snapshot"], claim["holder"], claim["ttl"]) == ("lying", "reconcile adopt", 0.0), (
        "it is in use until it is released"
    )

    assert host.devices()[1000][3] == size
    host.converge()
    assert read(host, "lying", 8) == b"precious"


def snapshot_chains(host: ThinWorkshop) -> dict[str, str]:  # noqa: F811
    rows = host.run("state", "ls", "-o", "json").expect(0).json["rows"]
    return {row["name"]: row["chain"] for row in rows if row["kind"] == "Snapshot"}


@pytest.mark.timeout(600)
def test_a_guest_that_writes_the_uuid_of_another_chain_gets_nothing_by_it(host: ThinWorkshop) -> None:  # noqa: F811
    """Its snapshot is not taken for one of the newest layers: only the operator's word gives a snapshot a chain."""
    (first,) = {*snapshot_chains(host).values()}
    host.image("web", [BASE, change("app", {"srv/app": b"v2"})], snapshots=["a", "b"])
    host.converge()
    newest = next(row["chain"] for row in host.run("state", "ls", "-o", "json").json["rows"] if row["kind"] == "Image")
    with host.snapshot("a").open("r+b") as device:
        device.seek(1024 + 104)
        device.write(filesystem_uuid(newest).bytes)
    for path in host.state.glob("registry.sqlite3*"):
        path.unlink()

    host.run("adopt", POOL).expect(0).words("an unknown chain", f"--chain a={newest[:12]}", "--chain b=CHAIN")
    host.run("adopt", POOL, "--chain", f"b={first}", "--chain", "c=zz", "--apply").expect(5).words("chain that is declared")
    host.run("adopt", POOL, "--chain", f"b={first}", "--chain", f"c={first}", "--apply").expect(64).words("snapshot c")
    host.run("adopt", POOL, "--chain", f"b={first}", "--apply").expect(0).words(f"from chain {first[:12]}")
    assert snapshot_chains(host) == {"a": "unknown", "b": first}
    host.once().expect(0)

    assert "SnapshotOutdated" in {one["reason"] for one in host.plan()["findings"] if one["name"] == "a"}
    host.run("adopt", POOL, "--chain", f"b={newest}", "--apply").expect(64).words("is registered with chain")
    host.run("adopt", POOL, "--chain", f"a={first}", "--apply").expect(0)
    assert snapshot_chains(host) == {"a": first, "b": first}
    assert read(host, "a", 4) == b"mine"
