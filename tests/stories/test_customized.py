"""Snapshots with a size, files and an identity of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .layers import file, root, tar
from .workshop import Workshop, WorkshopAt, cat, digest, fsck, names

MIB = 1 << 20
SECRET = b"ssh-ed25519 c2VjcmV0IGtleQ"
LAYERS = [root("base"), tar("ids", file("etc/machine-id", b"0123\n"), file("etc/ssh/ssh_host_rsa_key", b"old"))]


def machines(**own: Any) -> dict[str, Any]:
    files = [
        {"path": "/etc/hostname", "content": "{snapshot} {index} {image} {x}\n"},
        {"path": "/root/.ssh/authorized_keys", "from": "keys/ci.pub", "mode": "0600", "uid": 7},
    ]
    return {"name": "ci", "count": 2, "size": "80MiB", "uniqueIds": True, "files": files} | own


def declared(workshop: Workshop, **spec: Any) -> Workshop:
    workshop.image("web", LAYERS, snapshots=[machines(), "plain"], **spec)
    put_key(workshop, SECRET)
    return workshop


def put_key(workshop: Workshop, key: bytes) -> None:
    (workshop.manifests / "keys").mkdir(exist_ok=True)
    (workshop.manifests / "keys" / "ci.pub").write_bytes(key)


def uuid(image: Path) -> str:
    said = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    return next(line.split()[-1] for line in said.splitlines() if line.startswith("Filesystem UUID"))


def test_each_snapshot_is_a_machine_of_its_own(workshop: Workshop) -> None:
    declared(workshop).converge()

    for index, name in enumerate(("ci-0", "ci-1")):
        snapshot = workshop.snapshot(name)
        fsck(snapshot)
        assert snapshot.stat().st_size == 80 * MIB
        assert cat(snapshot, "/etc/hostname") == f"{name} {index} web {{x}}\n".encode()
        assert cat(snapshot, "/root/.ssh/authorized_keys") == SECRET
        assert cat(snapshot, "/etc/machine-id") == b""
        assert names(snapshot, "/etc/ssh") == set()
    assert len({uuid(workshop.snapshot(name)) for name in ("ci-0", "ci-1", "plain")}) == 3
    assert workshop.snapshot("plain").stat().st_size == 16 * MIB
    assert cat(workshop.snapshot("plain"), "/etc/ssh/ssh_host_rsa_key") == b"old"
    workshop.settled()


def test_what_a_file_of_the_host_holds_is_in_the_snapshot_alone(workshop: Workshop) -> None:
    declared(workshop)
    done = [
        workshop.converge(),
        workshop.run("plan", "-o", "json"),
        workshop.run("events"),
        workshop.run("describe", "snapshot/ci-0"),
    ]
    recorded = workshop.run("describe", "snapshot/ci-0", "-o", "json").json["custom"]
    assert len(recorded) == 64 and recorded in done[3].stdout
    declared(workshop, replacePolicy="Recreate")
    put_key(workshop, b"another key")
    done.append(workshop.run("plan", "--diff"))
    assert "own: files, identity and size of sha256:" in done[-1].stdout and recorded not in done[-1].stdout
    put_key(workshop, SECRET)

    assert not any(SECRET.decode() in one.stdout + one.stderr for one in done)
    holding = [path.name for path in workshop.state.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
    assert sorted(holding) == ["ci-0.ext4", "ci-1.ext4"]


def test_another_content_outdates_a_snapshot_and_the_policy_replaces_it(workshop: Workshop) -> None:
    declared(workshop).converge()
    before = digest(workshop.snapshot("ci-0"))
    put_key(workshop, b"another key")

    found = {(one["name"], one["reason"]) for one in workshop.plan()["findings"]}
    assert {("ci-0", "SnapshotOutdated"), ("ci-1", "SnapshotOutdated")} <= found
    workshop.settled()
    assert digest(workshop.snapshot("ci-0")) == before

    workshop.image("web", LAYERS, snapshots=[machines(), "plain"], replacePolicy="Recreate")
    plain = digest(workshop.snapshot("plain"))
    done = workshop.converge()
    assert {one["name"]: one["action"] for one in done.json["objects"] if one["action"] != "none"} == {
        "ci-0": "replace",
        "ci-1": "replace",
    }
    assert cat(workshop.snapshot("ci-0"), "/root/.ssh/authorized_keys") == b"another key"
    assert digest(workshop.snapshot("plain")) == plain
    workshop.settled()


def test_a_path_that_leads_nowhere_costs_its_snapshots_alone(workshop: Workshop) -> None:
    bad = {"name": "bad", "files": [{"path": "/etc", "content": "x"}]}
    workshop.image("web", LAYERS, snapshots=[bad, "plain"])

    done = workshop.once("-o", "json").expect(1)

    assert done.object("Snapshot", "bad")["reason"] == "FileRefused"
    assert workshop.snapshot_names() == {"plain"}


def test_a_file_of_the_host_that_is_missing_costs_its_snapshots_alone(workshop: Workshop) -> None:
    declared(workshop)
    (workshop.manifests / "keys" / "ci.pub").unlink()

    (finding,) = [one for one in workshop.plan()["findings"] if one["reason"] == "FileUnreadable"]
    assert "keys/ci.pub can't be opened: No such file" in finding["message"] and "ci-0 to ci-1" in finding["message"]
    done = workshop.once("-o", "json").expect(1)
    assert done.object("Snapshot", "ci-0")["reason"] == "SourceNotFound"
    assert workshop.snapshot_names() == {"plain"}

    (workshop.root / "elsewhere").write_bytes(SECRET)
    (workshop.manifests / "keys" / "ci.pub").symlink_to(workshop.root / "elsewhere")
    workshop.run("retry", "image/web").expect(0)
    workshop.once("-o", "json").expect(1).words("symbolic link")

    (workshop.manifests / "keys" / "ci.pub").unlink()
    put_key(workshop, SECRET)
    workshop.run("retry", "image/web").expect(0)
    workshop.converge()
    assert workshop.snapshot_names() == {"ci-0", "ci-1", "plain"}


def test_a_read_only_snapshot_is_a_read_only_drive(workshop: Workshop) -> None:
    """Its files are written before; declared otherwise it is outdated, and a mode from outside is repaired."""
    fixed = {"name": "fixed", "files": [{"path": "/etc/hostname", "content": "fixed"}], "readOnly": True}
    workshop.image("web", LAYERS, snapshots=[fixed, "plain"], replacePolicy="Recreate")
    workshop.converge()
    snapshot = workshop.snapshot("fixed")
    assert cat(snapshot, "/etc/hostname") == b"fixed" and not writable(snapshot) and writable(workshop.snapshot("plain"))
    workshop.settled()
    words = ("boot-config", "snapshot/fixed", "--vmm", "firecracker")
    assert workshop.run(*words).expect(0).json["drives"][0]["is_read_only"] is True
    assert workshop.run("boot-config", "snapshot/plain", "--vmm", "firecracker").json["drives"][0]["is_read_only"] is False
    assert "read-only=on" in workshop.run(*words[:-1], "qemu").expect(0).stdout
    assert "readonly=on" in workshop.run(*words[:-1], "cloud-hypervisor").expect(0).stdout

    workshop.image("web", LAYERS, snapshots=[fixed | {"readOnly": False}, "plain"], replacePolicy="Recreate")
    assert [one["verb"] for one in workshop.plan()["actions"]] == ["replace"]
    workshop.converge()
    assert writable(snapshot)


def writable(path: Path) -> bool:
    """Whether its owner can write to it; root can write to any file."""
    if path.is_block_device():
        number = path.stat().st_rdev
        return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro").read_text() == "0\n"
    return bool(path.stat().st_mode & 0o222)


STRIDE = 17


def test_killed_at_any_moment_no_snapshot_is_half_made(tmp_path: Path, workshop_at: WorkshopAt) -> None:
    """A name leads to a whole machine or to nothing; the next run completes the rest, and nothing is left over."""
    moment = STRIDE
    while True:
        workshop = declared(workshop_at(tmp_path / str(moment)))
        if workshop.start("--once", die_at=moment).wait().code != -signal.SIGKILL:
            break
        for name in filter(lambda name: workshop.snapshot(name).exists(), ("ci-0", "ci-1")):
            fsck(workshop.snapshot(name))
            assert cat(workshop.snapshot(name), "/etc/hostname").startswith(name.encode())
        workshop.once("-o", "json").expect(0)
        for name in ("ci-0", "ci-1"):
            assert cat(workshop.snapshot(name), "/root/.ssh/authorized_keys") == SECRET
            assert os.stat(workshop.snapshot(name)).st_size == 80 * MIB
        workshop.settled()
        moment += STRIDE
    assert moment > 3 * STRIDE


@pytest.mark.parametrize("size", ["8MiB", "17MiB"])
def test_a_size_is_a_fault_or_is_reached(workshop: Workshop, size: str) -> None:
    workshop.image("web", LAYERS, snapshots=[{"name": "own", "size": "16MiB"}, {"name": "other", "size": size}])
    if size == "8MiB":
        workshop.once().expect(4)
        return
    workshop.converge()
    fsck(workshop.snapshot("other"))
    assert workshop.snapshot("other").stat().st_size == 17 * MIB
