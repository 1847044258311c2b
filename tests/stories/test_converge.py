"""From manifests to images, and again: the first run makes what is declared, the second finds nothing to do."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .layers import change, root
from .workshop import Workshop, cat, digest, fsck, inventory

Conforms = Callable[[str, Any], None]
RECAP = re.compile(r"RECAP (\S+): ok=(\d+) changed=(\d+) pruned=(\d+) failed=(\d+) in \d+\.\d+s")


def recap(stdout: str) -> tuple[str, int, int, int, int]:
    """Host, ok, changed, pruned and failed of the last line."""
    match = RECAP.fullmatch(stdout.splitlines()[-1])
    assert match, f"the last line is no recap:\n{stdout}"
    return match[1], int(match[2]), int(match[3]), int(match[4]), int(match[5])


def test_the_first_run_makes_everything_and_the_second_changes_nothing(bucket: Workshop, conforms: Conforms) -> None:
    """Manifests and a bucket become checked images and writable snapshots; doing it again says that nothing changed."""
    layers = [root("base"), change("go", {"etc/go": b"1.22"})]
    bucket.image("golang", layers, snapshots=["go-a", {"name": "ci", "count": 2}], s3=True)

    first = bucket.run_installed("--once", "-o", "json", "--detailed-exitcode").expect(2)
    second = bucket.run_installed("--once", "-o", "json", "--detailed-exitcode").expect(0)

    conforms("once", first.json)
    conforms("once", second.json)
    assert first.json["failed"] == 0
    assert first.json["changed"] >= 5, "an image, its volume, three snapshots"
    assert first.json["unchanged"] == 0
    assert (second.json["changed"], second.json["unchanged"], second.json["failed"]) == (0, first.json["changed"], 0)
    assert {o["phase"] for o in first.json["objects"]} == {"Ready"}
    assert {o["action"] for o in second.json["objects"]} == {"none"}
    assert {o["name"] for o in second.json["objects"] if o["kind"] == "Snapshot"} == {"go-a", "ci-0", "ci-1"}
    assert bucket.gate is not None
    assert set(bucket.gate.downloads.values()) == {1}, "each layer is fetched once"
    for name in ("go-a", "ci-0", "ci-1"):
        fsck(bucket.snapshot(name))
        assert cat(bucket.snapshot(name), "/etc/hostname") == b"base\n"
        assert cat(bucket.snapshot(name), "/etc/go") == b"1.22"
    bucket.tidy()


def test_a_run_for_people_ends_in_a_recap(workshop: Workshop) -> None:
    """The last line on standard output counts what happened; it is all that is there, the rest is for standard error."""
    workshop.image("web", [root("base")])

    first, second = workshop.once().expect(0), workshop.once().expect(0)

    host, ok, changed, pruned, failed = recap(first.stdout)
    assert host == socket.gethostname()
    assert ok >= 3, "what is Ready counts as ok, changed or not"
    assert changed >= 3
    assert (pruned, failed) == (0, 0)
    assert recap(second.stdout)[1:] == (ok, 0, 0, 0)
    assert len(first.stdout.splitlines()) == len(second.stdout.splitlines()) == 1
    first.words("changed  snapshot/web-a")


def test_everything_can_be_read_as_json_and_as_words(workshop: Workshop, conforms: Conforms) -> None:
    """`plan` before, `list` after, and `plan` again: each JSON document as its schema says, each table with the names in it."""
    workshop.image("web", [root("base"), change("app", {"srv/app": b"v1"})])
    before = workshop.run("plan", "-o", "json", "--detailed-exitcode").expect(2)
    workshop.run("plan").expect(0).words("build", "volume/", "create", "snapshot/web-a", "Plan:")
    workshop.converge()

    after = workshop.run("plan", "-o", "json", "--detailed-exitcode").expect(0)
    listed = workshop.run("list", "-o", "json").expect(0)

    conforms("plan", before.json)
    conforms("plan", after.json)
    conforms("list", listed.json)
    assert {(a["verb"], a["kind"]) for a in before.json["actions"]} >= {("build", "Volume"), ("create", "Snapshot")}
    assert after.json["actions"] == after.json["held"] == after.json["blocked"] == []
    (image,) = listed.json["images"]
    assert (image["name"], image["phase"], image["size"]) == ("web", "Ready", 16 << 20)
    assert [(s["name"], s["active"], s["path"]) for s in image["snapshots"]] == [("web-a", True, str(workshop.snapshot("web-a")))]
    assert image["chain"] in [v["chain"] for v in listed.json["volumes"]]
    workshop.run("list").expect(0).words("web", "Ready", "web-a", str(workshop.snapshot("web-a")))
    workshop.run("plan").expect(0).words("0 to change")


def test_before_the_first_run_there_is_nothing_to_list_and_nothing_is_made(workshop: Workshop, conforms: Conforms) -> None:
    """Verbs that only read don't even make the state directory."""
    workshop.image("web", [root("base")])

    listed = workshop.run("list", "-o", "json").expect(0)
    workshop.run("plan").expect(0)
    workshop.run("events").expect(0)

    conforms("list", listed.json)
    assert [(i["name"], i["phase"]) for i in listed.json["images"]] == [("web", "Pending")]
    assert not workshop.state.exists()


def test_plan_and_check_say_the_same_and_write_nothing(workshop: Workshop) -> None:
    """`plan`, `--check` and their `--diff` are one plan; neither touches a byte of the state directory."""
    workshop.image("web", [root("base")])
    workshop.converge()
    workshop.image("db", [root("base"), change("db", {"etc/db": b"1"})])
    before = inventory(workshop.state)

    planned, checked = workshop.run("plan").expect(0), workshop.run("--check", "--detailed-exitcode").expect(2)
    diff = workshop.run("plan", "--diff").expect(0)

    assert planned.stdout == checked.stdout
    assert workshop.run("--check", "-o", "json").json == workshop.plan()
    diff.words("layer 2: ", "sha256:", "pool: default", "16.0 MiB")
    assert inventory(workshop.state) == before


def test_a_pipe_and_no_color_get_plain_text(workshop: Workshop) -> None:
    """No escape codes where nobody can show them."""
    workshop.image("web", [root("base")])

    said = [workshop.run("plan"), workshop.once("--diff"), workshop.run("list"), workshop.run("list", env={"NO_COLOR": "1"})]
    said += [workshop.run("describe", "image/web"), workshop.run("--help")]

    for done in said:
        done.expect(0)
        assert "\x1b" not in done.stdout + done.stderr, done


def test_the_same_layers_give_the_same_bytes_in_another_state_directory(workshop: Workshop) -> None:
    """Volumes can be compared across hosts and days: stored plain or compressed, beside other images, later."""
    workshop.image("web", [root("base"), change("app", {"srv/app": b"v1"})])
    workshop.converge()
    workshop.image("other", [root("other")])
    (first,) = [digest(path) for path in workshop.volumes]

    workshop.converge("--state", str(workshop.root / "elsewhere"))

    elsewhere = (workshop.root / "elsewhere/pools/default/volumes").glob("*.ext4")
    assert first in [digest(path) for path in elsewhere]


HEAVY = {"boto3", "botocore", "sqlmodel", "sqlalchemy", "pydantic", "yaml", "rich", "watchfiles", "isal", "zstandard"}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["completion", "bash"]], ids=" ".join)
def test_asking_for_help_loads_nothing_heavy(words: list[str]) -> None:
    """Help, version and completion answer at once, because nothing that takes time to load is loaded."""
    asked = (
        f"import sys; from reconciler.cli import main; main.main({words!r}); print('loaded', *({HEAVY!r} & sys.modules.keys()))"
    )

    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "loaded"
