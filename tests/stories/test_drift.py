"""Whatever happens to the files behind the reconciler's back: `plan` names it, `--once` repairs it, and then there is peace."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.zygote import Zygote

from .layers import change, noise, root
from .workshop import Workshop, cat, contents, fsck, inventory, tool, write


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Workshop:
    """An image with two snapshots, as one run has left it."""
    workshop = Workshop(tmp_path_factory.mktemp("converged") / "workshop", zygote)
    workshop.image("web", [root("base"), change("app", {"srv/app": b"v1"})], snapshots=["a", "b"])
    workshop.converge()
    return workshop


@pytest.fixture
def host(converged: Workshop, tmp_path: Path) -> Workshop:
    """The converged host, restored elsewhere from a backup, for one story to spoil."""
    return converged.copy(tmp_path / "host")


def snapshot_deleted(host: Workshop) -> None:
    host.snapshot("a").unlink()


def snapshot_replaced(host: Workshop) -> None:
    host.snapshot("a").unlink()
    host.snapshot("a").write_bytes(noise(16 << 20))


def snapshot_truncated(host: Workshop) -> None:
    with host.snapshot("a").open("r+b") as file:
        file.truncate(1 << 20)


def snapshot_turned_into_a_directory(host: Workshop) -> None:
    host.snapshot("a").unlink()
    host.snapshot("a").mkdir()


def volume_deleted(host: Workshop) -> None:
    host.volumes[-1].unlink()


def volume_modified(host: Workshop) -> None:
    path = host.volumes[-1]
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"somebody was here")
    path.chmod(0o444)


def volume_replaced(host: Workshop) -> None:
    path = host.volumes[-1]
    path.unlink()
    path.write_bytes(bytes(16 << 20))


def everything_deleted(host: Workshop) -> None:
    shutil.rmtree(host.state / "pools")


DRIFTS: dict[Callable[[Workshop], None], tuple[str, str]] = {
    snapshot_deleted: ("Snapshot", "missing"),
    volume_deleted: ("Volume", "missing"),
    volume_modified: ("Volume", "damaged"),
    volume_replaced: ("Volume", "replaced"),
    everything_deleted: ("Volume", "missing"),
}


@pytest.mark.parametrize("drift", DRIFTS, ids=lambda drift: drift.__name__)
def test_drift_is_named_and_repaired(drift: Callable[[Workshop], None], host: Workshop, converged: Workshop) -> None:
    """`plan` says what is wrong and writes nothing; one run makes the very same bytes again; the next changes nothing."""
    kind, word = DRIFTS[drift]
    drift(host)
    before = inventory(host.state)

    planned = host.run("plan", "--detailed-exitcode").expect(2).words(word)
    plan = host.plan()
    host.run("drift").expect(2).words(word)

    assert inventory(host.state) == before, "plan reads only"
    assert any(a["kind"] == kind and word in a["because"] for a in plan["actions"]), planned
    host.once("--detailed-exitcode").expect(2)
    assert contents(host.volumes) == contents(converged.volumes)
    for name in ("a", "b"):
        fsck(host.snapshot(name))
        assert cat(host.snapshot(name), "/srv/app") == b"v1"
    host.settled()


def test_what_is_still_to_be_done_is_no_drift(host: Workshop, conforms: Callable[[str, Any], None]) -> None:
    """`drift` tells what somebody else changed apart from what was declared since, and asks nobody but this host."""
    host.image("later", [root("later")])
    calm = host.run("drift", "-o", "json").expect(0)
    snapshot_deleted(host)
    told = host.run("drift", "-o", "json").expect(2)

    conforms("drift", calm.json)
    conforms("drift", told.json)
    assert not calm.json["drifted"]
    assert [action["kind"] for action in told.json["actions"]] == ["Snapshot"]
    assert host.run("drift").words("snapshot/", "Drift: 1 to repair, 0 for you to resolve.")


@pytest.mark.parametrize("spoil", [snapshot_replaced, snapshot_truncated, snapshot_turned_into_a_directory])
def test_what_has_a_snapshots_name_and_is_not_recognised_is_left_to_the_operator(
    spoil: Callable[[Workshop], None], host: Workshop
) -> None:
    """No plan moves or replaces it; the other snapshots are created as always; `retry --recreate` sets it aside."""
    spoil(host)
    before = host.snapshot("a").lstat()
    host.image("web", [root("base"), change("app", {"srv/app": b"v2"})], snapshots=["a", "b", "c"], replacePolicy="Recreate")

    host.run("plan").expect(1).words("SnapshotUnrecognised", "retry --recreate snapshot/default/a", "import snapshot/default/a")
    host.run("drift").expect(2).words("SnapshotUnrecognised")
    for _ in range(2):
        failed = host.once("-o", "json").expect(1).object("Image", "web")
        assert failed["reason"] == "SnapshotUnrecognised"
    assert host.snapshot("a").lstat().st_ino == before.st_ino
    assert [cat(host.snapshot(name), "/srv/app") for name in ("b", "c")] == [b"v2", b"v2"]

    host.run("retry", "--recreate", "snapshot/b").expect(5).words("is intact")
    host.run("retry", "--recreate", "snapshot/nobody").expect(64)
    host.run("retry", "--recreate", "snapshot/a").expect(0)
    host.run("plan").expect(0).words("is set aside")
    host.converge()
    (aside,) = [path for path in host.snapshot("a").parent.iterdir() if "aside" in path.name]
    assert aside.lstat().st_ino == before.st_ino
    assert cat(host.snapshot("a"), "/srv/app") == b"v2"
    host.run("plan").expect(0).words(str(aside), "set aside")
    host.settled()


def restore_without_attributes(path: Path) -> None:
    path.with_name("copy").write_bytes(path.read_bytes())
    path.with_name("copy").replace(path)


def test_a_restored_snapshot_is_kept_by_import(host: Workshop) -> None:
    """Also where its guest had changed the UUID, or made another file system: the row has its chain."""
    path = host.snapshot("a")
    write(path, "/notes", b"mine", host.root / "notes")
    change_uuid(path)
    restore_without_attributes(path)
    host.once().expect(1).words("SnapshotUnrecognised")

    host.run("import", "snapshot/a", "--image", "web").expect(0).words("is registered")

    host.settled()
    assert cat(path, "/notes") == b"mine"


def change_uuid(path: Path) -> None:
    subprocess.run([tool("tune2fs"), "-U", "random", path], check=True, capture_output=True)


@pytest.mark.parametrize("guest", [change_uuid, lambda path: path.write_bytes(bytes(path.stat().st_size))])
def test_what_a_guest_writes_proves_nothing(guest: Callable[[Path], None], host: Workshop) -> None:
    """A snapshot whose superblock its guest has changed or wiped is a normal snapshot: intact, kept, and replaced by policy."""
    path = host.snapshot("a")
    with path.open("r+b") as file:
        guest(path)
        before = os.fstat(file.fileno()).st_ino
    host.settled()
    host.image("web", [root("base"), change("app", {"srv/app": b"v2"})], snapshots=["a", "b"])
    host.once().expect(0).words("SnapshotOutdated")
    assert path.stat().st_ino == before

    host.image("web", [root("base"), change("app", {"srv/app": b"v2"})], snapshots=["a", "b"], replacePolicy="Recreate")
    host.once().expect(0)
    assert cat(path, "/srv/app") == b"v2"


def test_a_guest_can_not_fake_its_own_replacement(host: Workshop) -> None:
    """It writes the superblock of the image that is to come into its own disk, before the update and after it was built."""
    update = [root("base"), change("app", {"srv/app": b"v2"})]
    host.image("web", update, snapshots=["a", "b"])
    host.once().expect(0)
    newest = max(host.volumes, key=lambda path: path.stat().st_mtime_ns)
    with newest.open("rb") as base, host.snapshot("a").open("r+b") as disk:
        disk.write(base.read(2048))
        disk.seek(15 << 20)
        disk.write(b"the guest is still here")
    host.image("web", update, snapshots=["a", "b"], replacePolicy="Recreate")

    host.once().expect(0).words("replace")

    assert b"the guest is still here" not in host.snapshot("a").read_bytes()
    assert cat(host.snapshot("a"), "/srv/app") == b"v2"
    host.settled()


def test_a_file_that_nobody_declared_is_reported_and_never_deleted(host: Workshop) -> None:
    """Foreign files in the pool's directories survive every run, prune included."""
    (host.state / "pools/default/volumes/notes.txt").write_text("mine")
    stray = host.state / "pools/default/volumes" / ("ab" * 32 + ".ext4")
    stray.write_bytes(b"not in the registry")
    lonely = host.snapshot("lonely")
    lonely.write_bytes(b"not in the registry either")

    host.run("plan", "--detailed-exitcode").expect(0).words("notes.txt", "abababababab", "lonely")
    host.once("--prune").expect(0)

    assert (host.state / "pools/default/volumes/notes.txt").read_text() == "mine"
    assert stray.read_bytes() == b"not in the registry"
    assert lonely.read_bytes() == b"not in the registry either"
    host.run("verify").words("notes.txt")


def test_what_a_cut_off_run_left_half_built_is_removed(host: Workshop) -> None:
    """A leftover of ours is named by `plan` and gone after the next run."""
    leftovers = [
        host.state / "pools/default/volumes" / f".{'cd' * 32}.partial",
        host.state / "pools/default/snapshots/.c.partial",
    ]
    for path in leftovers:
        path.write_bytes(b"half")

    host.run("plan").expect(0).words(*(path.name for path in leftovers))
    host.once().expect(0)

    assert not [path for path in leftovers if path.exists()]
    host.settled()


def test_a_lost_registry_is_made_again_and_costs_nobody_their_changes(host: Workshop) -> None:
    """Without its rows the snapshots are unproven: nothing is done to them until the operator registers or recreates them."""
    write(host.snapshot("a"), "/notes", b"mine", host.root / "notes")
    for path in host.state.glob("registry.sqlite3*"):
        path.unlink()

    host.once().expect(1).words("SnapshotUnrecognised")
    host.run("import", "snapshot/a", "snapshot/b", "--image", "web").expect(0)

    assert cat(host.snapshot("a"), "/notes") == b"mine"
    host.settled()


def test_a_registry_that_is_damaged_stops_everything_and_loses_nothing(host: Workshop) -> None:
    """A file that is no database is an error that names it; nothing is rebuilt over it."""
    registry = host.state / "registry.sqlite3"
    for path in host.state.glob("registry.sqlite3-*"):
        path.unlink()
    registry.write_bytes(noise(8192))
    before = contents([*host.volumes, host.snapshot("a"), registry])

    done = host.once().words("registry.sqlite3")

    assert done.code in (1, 69), done
    assert "Traceback" not in done.stderr
    assert contents([*host.volumes, host.snapshot("a"), registry]) == before


def test_a_registry_of_a_later_version_is_left_alone(host: Workshop) -> None:
    """A schema that this version does not know is refused, with what to do about it."""
    with sqlite3.connect(host.state / "registry.sqlite3") as database:
        database.execute("UPDATE meta SET value = 999 WHERE key = 'schema'")
    database.close()

    done = host.once().words("999")

    assert done.code in (1, 69), done
    assert "Traceback" not in done.stderr
