"""A declared size that becomes another one: devices and files grow in place, and never shrink."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from .layers import root
from .workshop import Workshop, fsck

MIB = 1 << 20


def declared(workshop: Workshop, size: str, **more: Any) -> Workshop:
    own = {"name": "own", "size": size, "files": [{"path": "/etc/hostname", "content": "{snapshot}\n"}]}
    workshop.image("web", [root("base")], snapshots=[own, "plain"], **more)
    return workshop


def length(path: Path) -> int:
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def written(path: Path) -> None:
    """What a guest does: it writes to its file system."""
    subprocess.run(["tune2fs", "-L", "guest", path], check=True, capture_output=True)


def label(path: Path) -> bytes:
    with path.open("rb") as file:
        return os.pread(file.fileno(), 5, 1024 + 0x78)


def found(workshop: Workshop) -> dict[str, str]:
    return {one["reason"]: one["name"] for one in workshop.plan()["findings"]}


def test_a_larger_size_grows_the_device_and_leaves_what_a_guest_has_written(workshop: Workshop) -> None:
    declared(workshop, "20MiB").converge()
    written(workshop.snapshot("own"))
    declared(workshop, "40MiB")

    (action,) = workshop.plan()["actions"]
    assert (action["verb"], action["name"], action["size"]) == ("grow", "own", 40 * MIB)
    assert "20MiB -> 40MiB" in action["because"] and "resize2fs" in action["because"]
    workshop.converge()
    own = workshop.snapshot("own")
    assert (length(own), label(own)) == (40 * MIB, b"guest")
    assert found(workshop) == {"FilesystemSmallerThanDevice": "own"}
    workshop.settled()
    described = workshop.run("describe", "snapshot/own", "-o", "json").expect(0).json
    assert (described["size"], described["findings"][0]["reason"]) == (40 * MIB, "FilesystemSmallerThanDevice")

    subprocess.run(["resize2fs", "-f", own], check=True, capture_output=True)
    fsck(own)
    declared(workshop, "60MiB").converge()
    fsck(own)
    assert (length(own), label(own)) == (60 * MIB, b"guest")
    assert length(workshop.snapshot("plain")) == 16 * MIB


def test_a_claimed_snapshot_grows_and_its_claim_names_what_the_guest_has_to_do(workshop: Workshop) -> None:
    declared(workshop, "20MiB", replacePolicy="Recreate").converge()
    before = workshop.run("claim", "snapshot/own", "-o", "json").expect(0).json
    assert (before["size"], before["findings"]) == (20 * MIB, [])
    declared(workshop, "40MiB", replacePolicy="Recreate").converge()

    (claim,) = workshop.run("list", "claims", "-o", "json").expect(0).json["claims"]
    assert (claim["claim"], claim["size"]) == (before["claim"], 40 * MIB)
    assert [one["reason"] for one in claim["findings"]] == ["FilesystemSmallerThanDevice"]
    assert length(workshop.snapshot("own")) == 40 * MIB


def test_a_smaller_size_is_refused_and_the_rest_of_the_image_goes_on(workshop: Workshop) -> None:
    declared(workshop, "40MiB").converge()
    own = {"name": "own", "size": "20MiB", "files": [{"path": "/etc/hostname", "content": "{snapshot}\n"}]}
    workshop.image("web", [root("base")], snapshots=[own, "plain", "another"])

    (blocked,) = workshop.plan()["blocked"]
    assert (blocked["name"], blocked["reason"]) == ("web", "ShrinkUnsupported")
    assert "own has 40MiB and is declared with 20MiB" in blocked["message"] and "size: 40MiB" in blocked["message"]
    workshop.once().expect(1)
    assert length(workshop.snapshot("own")) == 40 * MIB
    assert workshop.snapshot_names() == {"own", "plain", "another"}

    workshop.image("web", [root("base")], snapshots=[own, "plain", "another"], replacePolicy="Recreate")
    assert [one["verb"] for one in workshop.plan()["actions"]] == ["replace"]
    workshop.converge()
    assert length(workshop.snapshot("own")) == 20 * MIB
    fsck(workshop.snapshot("own"))


def test_an_unclaimed_snapshot_that_is_recycled_is_created_with_the_new_size(workshop: Workshop) -> None:
    job = {"name": "job", "count": 2, "max": 3, "size": "20MiB"}
    workshop.image("web", [root("base")], snapshots=[job])
    workshop.converge()
    claim = workshop.run("claim", "snapshot/job-0", "-o", "json").expect(0).json
    workshop.image("web", [root("base")], snapshots=[job | {"size": "40MiB"}])

    verbs = {one["name"]: one["verb"] for one in workshop.plan()["actions"]}
    assert verbs["job-0"] == "grow" and verbs["job-1"] == "replace"
    workshop.converge()
    assert {length(workshop.snapshot(name)) for name in ("job-0", "job-1")} == {40 * MIB}
    assert found(workshop) == {"FilesystemSmallerThanDevice": "job-0"}
    workshop.run("release", claim["claim"]).expect(0)
    workshop.once().expect(0)
    assert found(workshop) == {}


def test_killed_at_any_moment_of_growth_the_next_run_completes_it(workshop: Workshop) -> None:
    declared(workshop, "20MiB").converge()
    size, moment = 20, 5
    while True:
        size += 4
        declared(workshop, f"{size}MiB")
        code = workshop.start("--once", die_at=moment).wait().code
        workshop.converge()
        assert (length(workshop.snapshot("own")), found(workshop)) == (size * MIB, {"FilesystemSmallerThanDevice": "own"})
        if code == 0:
            break
        moment += 23
    assert moment > 5
    fsck(workshop.snapshot("own"))
