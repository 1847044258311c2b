"""Whatever happens to the files behind the reconciler's back: `plan` names it, `--once` repairs it, and then there is peace."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .layers import change, noise, root
from .workshop import Workshop, cat, contents, fsck, inventory, write
from .zygote import Zygote


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
    snapshot_replaced: ("Snapshot", "replaced"),
    snapshot_truncated: ("Snapshot", "damaged"),
    snapshot_turned_into_a_directory: ("Snapshot", "directory"),
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


def test_what_was_put_in_place_of_a_snapshot_is_set_aside(host: Workshop) -> None:
    """Somebody's file under a snapshot's name is moved out of the way and reported, never lost."""
    snapshot_replaced(host)

    host.converge()

    (aside,) = [path for path in host.snapshot("a").parent.iterdir() if "aside" in path.name]
    assert aside.read_bytes() == noise(16 << 20)
    host.run("plan").expect(0).words(str(aside), "set aside")


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
    """Without its rows the snapshots are taken over as they are: they are whole copies of the declared chain."""
    write(host.snapshot("a"), "/notes", b"mine", host.root / "notes")
    for path in host.state.glob("registry.sqlite3*"):
        path.unlink()

    host.once().expect(0)

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
