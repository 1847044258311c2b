"""Snapshots with a disk beside them from which cloud-init configures them."""

from __future__ import annotations

import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .layers import root
from .workshop import Workshop, WorkshopAt

SECRET = "ssh-ed25519 c2VjcmV0IGtleQ"
LAYERS = [root("base")]


def declared(
    workshop: Workshop, *, data: str = SECRET, seed: dict[str, str] | None = None, policy: str = "Keep", **own: Any
) -> Workshop:
    """An image with two seeded snapshots; ``own`` are further fields of their set."""
    (workshop.manifests / "cloud").mkdir(exist_ok=True)
    (workshop.manifests / "cloud" / "user-data").write_text(f"#cloud-config\n# {{snapshot}} {{index}} {{image}}\n# {data}\n")
    files = {"userData": "cloud/user-data"} | (seed or {})
    snapshots = [{"name": "ci", "count": 2, "seed": {"nocloud": files}} | own, "plain"]
    workshop.image("web", LAYERS, snapshots=snapshots, replacePolicy=policy)
    return workshop


def seed(workshop: Workshop, name: str) -> Path:
    """The one disk that there is for a snapshot."""
    (found,) = (workshop.state / "seeds").glob(f"*/{name}.*")
    return found


def contents(disk: Path) -> dict[str, str]:
    """The files of a disk, as its bytes have them: each begins at a sector, and is followed by zeros."""
    data = disk.read_bytes()
    assert data[0x8001:0x8006] == b"CD001" and data[0x8028:0x802E] == b"cidata"
    words = [data[at : at + 2048].rstrip(b"\0").decode() for at in range(21 * 2048, len(data), 2048)]
    return {("user-data" if "#cloud-config" in word else "meta-data"): word for word in words}


def test_each_snapshot_has_a_disk_of_its_own(workshop: Workshop) -> None:
    declared(workshop).converge()

    for index, name in enumerate(("ci-0", "ci-1")):
        disk = seed(workshop, name)
        found = contents(disk)
        assert found["user-data"] == f"#cloud-config\n# {name} {index} web\n# {SECRET}\n"
        first, second = found["meta-data"].splitlines()
        assert first.startswith(f"instance-id: {name}-") and second == f"local-hostname: {name}"
        assert stat.S_IMODE(disk.stat().st_mode) == 0o400
        (entry,) = [one for one in workshop.run("list", "snapshots", "-o", "json").json["snapshots"] if one["name"] == name]
        assert entry["seed"] == str(disk) and entry["active"]
        drives = workshop.run("boot-config", f"snapshot/{name}", "--vmm", "firecracker").expect(0).json["drives"]
        assert drives[1] == {
            "drive_id": "seed",
            "path_on_host": str(disk),
            "is_root_device": False,
            "is_read_only": True,
        }
    assert {path.name.partition(".")[0] for path in (workshop.state / "seeds").glob("*/*")} == {"ci-0", "ci-1"}
    workshop.settled()


def test_what_its_files_hold_is_in_the_disk_alone(workshop: Workshop) -> None:
    done = [declared(workshop).converge(), workshop.run("plan", "-o", "json"), workshop.run("events")]
    done.append(workshop.run("describe", "snapshot/ci-0"))
    declared(workshop, data="other", policy="Recreate")
    done.append(workshop.run("plan", "--diff").words("seed: a disk for cloud-init"))

    assert not any(SECRET in one.stdout + one.stderr for one in done)
    holding = {path.name for path in workshop.state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()}
    assert holding == {seed(workshop, "ci-0").name, seed(workshop, "ci-1").name}


def test_another_seed_outdates_a_snapshot_and_its_old_disk_goes_with_it(workshop: Workshop) -> None:
    declared(workshop).converge()
    before = seed(workshop, "ci-0")
    declared(workshop, data="another key")

    findings = {(one["name"], one["reason"]) for one in workshop.plan()["findings"]}
    assert {("ci-0", "SnapshotOutdated"), ("ci-1", "SnapshotOutdated")} <= findings
    workshop.settled()
    assert seed(workshop, "ci-0") == before and SECRET in contents(before)["user-data"]

    declared(workshop, data="another key", policy="Recreate").converge()
    assert seed(workshop, "ci-0") != before
    assert "another key" in contents(seed(workshop, "ci-0"))["user-data"]
    workshop.settled()

    workshop.image("web", LAYERS, snapshots=["plain"])
    workshop.converge("--prune")
    workshop.settled()
    assert not list((workshop.state / "seeds").glob("*/*"))


def test_a_disk_that_is_missing_or_open_to_writers_is_repaired_by_an_activation(workshop: Workshop) -> None:
    declared(workshop).converge()
    first, second = seed(workshop, "ci-0"), seed(workshop, "ci-1")
    content, snapshot = first.read_bytes(), workshop.snapshot("ci-0").stat()
    first.unlink()
    second.chmod(0o666)

    workshop.run("plan").expect(0).words("activate", f"its seed {first} is missing", "its seed has mode 0666 instead of 0400")
    assert workshop.run("claim", "snapshot/ci-0").expect(6)
    workshop.converge()

    assert first.read_bytes() == content and stat.S_IMODE(second.stat().st_mode) == 0o400
    assert workshop.snapshot("ci-0").stat().st_mtime_ns == snapshot.st_mtime_ns
    workshop.settled()


def test_a_missing_disk_whose_files_have_changed_is_not_made_of_others(workshop: Workshop) -> None:
    declared(workshop).converge()
    seed(workshop, "ci-0").unlink()
    declared(workshop, data="another key")

    done = workshop.once("-o", "json").expect(1)
    message = done.object("Snapshot", "ci-0")["message"]
    assert "its files have changed" in message and "restore its files as they were" in message
    declared(workshop)
    workshop.run("retry", "image/web").expect(0)
    workshop.converge()
    assert SECRET in contents(seed(workshop, "ci-0"))["user-data"]


def test_a_claim_has_the_disk_and_a_released_snapshot_gets_it_again(workshop: Workshop) -> None:
    """What the user of a snapshot has written to its disk reaches no other one."""
    declared(workshop, recycle="OnRelease").converge()
    claim = workshop.run("claim", "snapshot/ci-0", "-o", "json").expect(0).json
    disk = Path(claim["seed"])
    content = disk.read_bytes()
    assert disk == seed(workshop, "ci-0")
    assert workshop.run("list", "claims", "-o", "json").json["claims"][0]["seed"] == claim["seed"]
    words = workshop.run("boot-config", claim["claim"], "--vmm", "qemu").expect(0).stdout
    assert f"file={disk},if=none,id=seed,format=raw,read-only=on" in words

    disk.chmod(0o600)
    disk.write_bytes(b"of a guest")
    workshop.run("release", claim["claim"]).expect(0)
    workshop.converge()
    assert disk.read_bytes() == content
    workshop.settled()


@pytest.mark.parametrize("broken", ["missing", "symlink"])
def test_a_file_of_the_host_that_can_not_be_read_costs_its_snapshots_alone(workshop: Workshop, broken: str) -> None:
    declared(workshop, seed={"metaData": "cloud/meta-data"})
    if broken == "symlink":
        (workshop.manifests / "cloud" / "meta-data").symlink_to("user-data")

    (finding,) = [one for one in workshop.plan()["findings"] if one["reason"] == "FileUnreadable"]
    assert "cloud/meta-data" in finding["message"] and "ci-0 to ci-1" in finding["message"]
    done = workshop.once("-o", "json").expect(1)
    assert done.object("Snapshot", "ci-0")["reason"] == "SourceNotFound"
    assert workshop.snapshot_names() == {"plain"}


def test_the_seed_needs_user_data(workshop: Workshop) -> None:
    workshop.image("web", LAYERS, snapshots=[{"name": "ci", "seed": {"nocloud": {}}}])
    workshop.once().expect(4).words("spec.snapshots[0].seed.nocloud", "userData")


STRIDE = 23


def test_killed_at_any_moment_no_snapshot_is_without_its_disk(tmp_path: Path, workshop_at: WorkshopAt) -> None:
    moment = STRIDE
    while True:
        workshop = declared(workshop_at(tmp_path / str(moment)))
        if workshop.start("--once", die_at=moment).wait().code != -signal.SIGKILL:
            break
        for name in filter(lambda name: workshop.snapshot(name).exists(), ("ci-0", "ci-1")):
            assert contents(seed(workshop, name))["user-data"].splitlines()[1].split()[1] == name
        done = workshop.once("-o", "json").expect(0)
        assert not any(one["action"] == "activate" for one in done.json["objects"])
        for name in ("ci-0", "ci-1"):
            assert SECRET in contents(seed(workshop, name))["user-data"]
        workshop.settled()
        moment += STRIDE
    assert moment > 3 * STRIDE


def test_blkid_finds_what_cloud_init_looks_for(workshop: Workshop) -> None:
    declared(workshop).converge()
    command = ["/usr/sbin/blkid", "-p", "-o", "export", seed(workshop, "ci-0")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(found)
