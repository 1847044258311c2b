"""Every verb of the command line, in one process: what it prints, where, and the exit code."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.main import main
from reconciler.errors import Exit

Reconcile = Callable[..., "Said"]


class Said:
    """What a command said, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def layer(path: Path, **files: str) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content.encode()))
    return path


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Two images over one shared layer."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    layer(tmp_path / "base.tar", hostname="base\n")
    layer(tmp_path / "tool.tar", tool="#!/bin/sh\n")
    for name, layers in (("base", ["base"]), ("tool", ["base", "tool"])):
        sources = "\n".join(f"    - {{source: ../{one}.tar}}" for one in layers)
        (directory / f"{name}.yaml").write_text(
            f"apiVersion: reconciler/v1alpha1\nkind: Image\nmetadata: {{name: {name}, labels: {{kind: {name}}}}}\n"
            f"spec:\n  size: 64MiB\n  layers:\n{sources}\n  snapshots:\n    - {{name: {name}-a}}\n"
        )
    return directory


@pytest.fixture
def reconcile(manifests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Reconcile:
    def call(*words: str) -> Said:
        code = main([*words, "-f", str(manifests), "--state", str(tmp_path / "state")])
        return Said(code, *capsys.readouterr())

    return call


def test_a_host_is_planned_converged_and_looked_at(reconcile: Reconcile, tmp_path: Path) -> None:
    """The whole life of two images, by every verb that shows it."""
    planned = reconcile("plan", "--detailed-exitcode")
    assert (planned.code, planned.out.count("create   snapshot")) == (Exit.CHANGED, 2)
    assert not (tmp_path / "state").exists()

    first = reconcile("--once", "--detailed-exitcode", "-o", "json")
    assert (first.code, first.json["failed"]) == (Exit.CHANGED, 0)
    assert {(o["kind"], o["name"], o["phase"]) for o in first.json["objects"]} >= {("Image", "tool", "Ready")}

    second = reconcile("--once", "--detailed-exitcode")
    assert second.code == Exit.OK
    assert second.out.splitlines()[-1].startswith("RECAP ")
    assert "changed=0 pruned=0 failed=0" in second.out

    listed = reconcile("list", "-o", "json").json
    assert [(image["name"], image["phase"], len(image["snapshots"])) for image in listed["images"]] == [
        ("base", "Ready", 1),
        ("tool", "Ready", 1),
    ]
    assert all(Path(s["path"]).exists() and s["active"] for image in listed["images"] for s in image["snapshots"])
    assert "tool-a" in reconcile("list", "snapshots").out

    told = reconcile("describe", "image/tool", "-o", "json").json
    assert told["declared"]["layers"][1]["applied"]
    assert told["chain"] in {volume["chain"] for volume in listed["volumes"]}
    assert "Ready" in reconcile("describe", "snapshot/tool-a").out
    assert "size" in reconcile("describe", f"volume/{told['chain'][:12]}").out

    found = reconcile("runs", "-o", "json").json["runs"]
    assert {run["status"] for run in found} == {"done"}
    shown = reconcile("runs", found[-1]["id"])
    assert "advanced" in shown.out
    assert "Ready" in reconcile("events").out
    assert reconcile("events", "image/tool", "-o", "json").code == Exit.OK

    assert reconcile("verify", "-o", "json").json["healthy"]
    assert reconcile("verify", "tool").code == Exit.OK
    assert reconcile("health").code == Exit.OK


def test_what_is_no_longer_declared_is_held_until_pruned(reconcile: Reconcile, manifests: Path) -> None:
    reconcile("--once")
    (manifests / "tool.yaml").unlink()

    held = reconcile("plan", "--detailed-exitcode")
    kept = reconcile("--once", "--diff")
    pruned = reconcile("--once", "--prune", "-o", "json")

    assert (held.code, "held" in held.out) == (Exit.OK, True)
    assert (kept.code, "--prune removes it" in kept.err) == (Exit.OK, True)
    assert {o["action"] for o in pruned.json["objects"] if o["name"] in ("tool", "tool-a")} == {"remove", "forget"}
    assert "tool" not in reconcile("list").out


def test_an_empty_repository_never_prunes_a_host_empty(reconcile: Reconcile, manifests: Path) -> None:
    reconcile("--once")
    for path in manifests.iterdir():
        path.unlink()

    refused = reconcile("--once", "--prune")

    assert (refused.code, "remove all 2" in refused.err) == (Exit.GUARDED, True)
    assert "tool-a" in reconcile("list").out


def test_one_image_can_be_chosen_by_its_labels(reconcile: Reconcile) -> None:
    chosen = reconcile("--once", "-l", "kind=base", "-o", "json").json

    assert {o["name"] for o in chosen["objects"] if o["kind"] == "Snapshot"} == {"base-a"}


def test_a_refused_layer_fails_its_image_and_no_other(reconcile: Reconcile, tmp_path: Path) -> None:
    layer(tmp_path / "tool.tar", **{"../../etc/passwd": "root::0:0"})

    result = reconcile("--once", "-o", "json")

    failed = {o["name"]: o["reason"] for o in result.json["objects"] if o["kind"] == "Image" and o["reason"]}
    assert (result.code, failed) == (Exit.FAILED, {"tool": "UnsafeArchive"})
    assert reconcile("health").out.count("UnsafeArchive") == 1
    assert "base-a" in reconcile("list").out


def test_runs_are_released_and_cancelled_by_name_only(reconcile: Reconcile) -> None:
    reconcile("--once")

    assert reconcile("runs", "--release").code == Exit.USAGE
    assert reconcile("runs", "nothing", "--cancel").code == Exit.USAGE
    run = reconcile("runs", "-o", "json").json["runs"][0]["id"]
    assert reconcile("runs", run, "--release", "-o", "json").json["runs"][0]["status"] == "done"


def test_a_layer_is_inspected_without_being_used(reconcile: Reconcile, tmp_path: Path) -> None:
    good = reconcile("inspect", str(tmp_path / "base.tar"), "-o", "json")
    bad = layer(tmp_path / "bad.tar", fine="x", **{"a/../../b": "x"})
    evil = reconcile("inspect", str(bad), "-o", "json")
    many = reconcile("inspect", str(tmp_path / "base.tar"), "--limit", "maxFileBytes=1")

    assert (good.code, good.json["verdict"], good.json["entries"]) == (Exit.OK, "accept", 1)
    assert (evil.code, evil.json["verdict"], evil.json["member"]) == (Exit.FAILED, "reject", "a/../../b")
    assert (evil.json["entries"], evil.json["reason"]) == (1, "UnsafeArchive")
    assert (many.code, "limit-file" in many.out) == (Exit.FAILED, True)
    assert "accept" in reconcile("inspect", str(tmp_path / "base.tar")).out


def test_layers_become_one_image_file(reconcile: Reconcile, tmp_path: Path) -> None:
    layers = [str(tmp_path / "base.tar"), str(tmp_path / "tool.tar")]

    built = reconcile("build", *layers, "--output", str(tmp_path / "out.ext4"), "--size", "64MiB", "-o", "json")
    again = reconcile("build", *layers, "--output", str(tmp_path / "two.ext4"), "--size", "64MiB")

    assert (built.code, built.json["size"]) == (Exit.OK, 64 << 20)
    assert again.code == Exit.OK
    assert (tmp_path / "out.ext4").read_bytes() == (tmp_path / "two.ext4").read_bytes()
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.parametrize(
    "words",
    [
        ["--nonsense"],
        ["list", "pancakes"],
        ["describe", "image"],
        ["describe", "image/none"],
        ["--once", "-l", "="],
        ["inspect", "ftp://x/y"],
        ["inspect", "x.tar", "--limit", "maxPancakes=1"],
        ["inspect", "x.tar", "--limit", "maxEntries=many"],
        ["build", "x.tar", "--output", "x", "--size", "8G"],
        ["build", "x.tar", "--output", "x", "--size", "1000"],
    ],
)
def test_what_is_not_understood_is_a_usage_error(reconcile: Reconcile, words: list[str]) -> None:
    said = reconcile(*words)

    assert (said.code, said.out) == (Exit.USAGE, "")
    assert said.err


def test_manifests_are_validated_without_a_host(
    reconcile: Reconcile, manifests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconcile("validate").out == "valid: 2 images, 1 pools\n"
    (manifests / "bad.yaml").write_text("apiVersion: reconciler/v1alpha1\nkind: Imag\n")

    assert reconcile("validate").code == Exit.INVALID
    assert not reconcile("validate", "-o", "json").json["valid"]
    assert reconcile("--once").code == Exit.INVALID
    assert "bad.yaml:2:7" in reconcile("list").err
    assert reconcile("validate", str(manifests / "base.yaml"), "-o", "json").json["images"] == ["base"]


def test_a_pool_larger_than_its_metadata_can_describe_is_noted(reconcile: Reconcile, tmp_path: Path) -> None:
    thin = "{data: {file: /d, size: 30TiB}, metadata: {file: /m}}"
    text = f"apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {{name: thin}}\nspec: {{thin: {thin}}}\n"
    (tmp_path / "large.yaml").write_text(text)

    said = reconcile("validate", str(tmp_path / "large.yaml"))

    assert said.code == Exit.OK
    assert "describes 21.2 of 30.0 TiB of data" in said.err
    assert "blockSize 128KiB or more" in said.err


def test_a_verb_loads_itself_and_no_other() -> None:
    """What a command costs before it does anything is what its own verb needs."""
    asked = "import sys; from reconciler.cli.main import main; main(['build', '--help']); print(*sorted(sys.modules))"

    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    loaded = {module for module in done.stdout.splitlines()[-1].split() if module.startswith("reconciler.cli.")}
    assert loaded == {f"reconciler.cli.{name}" for name in ("main", "layers", "options", "signals")}


def test_a_verb_that_is_misspelt_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bild"]) == Exit.USAGE
    assert "build" in capsys.readouterr().err


def test_help_schema_version_and_completion_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert [main(words.split()) for words in ("--help", "schema", "--version", "completion bash", "build --help")] == [0] * 5
    assert "_RECONCILE_COMPLETE" in capsys.readouterr().out


def test_an_error_says_what_is_wrong_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state directory that can't be made."""
    (tmp_path / "file").touch()
    (tmp_path / "manifests").mkdir()

    code = main(["--once", "-f", str(tmp_path / "manifests"), "--state", str(tmp_path / "file" / "state")])

    assert code == Exit.HOST_CANNOT
    assert "hint:  choose a state directory with --state" in capsys.readouterr().err


def test_a_pool_that_this_host_has_no_driver_for_costs_the_others_nothing(reconcile: Reconcile, manifests: Path) -> None:
    (manifests / "pools.yaml").write_text(
        "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: files}\nspec: {file: {}}\n---\n"
        "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: thin}\n"
        "spec: {thin: {data: {device: /dev/a}, metadata: {device: /dev/b}, blockSize: 64KiB}}\n"
    )
    for name, pool in (("base", "files"), ("tool", "thin")):
        path = manifests / f"{name}.yaml"
        path.write_text(path.read_text().replace("spec:\n", f"spec:\n  pool: {pool}\n"))

    result = reconcile("--once", "-o", "json")

    failed = {o["name"]: o["message"] for o in result.json["objects"] if o["reason"]}
    assert (result.code, list(failed)) == (Exit.FAILED, ["tool"])
    assert re.search("device-mapper|no such device|need root", failed["tool"]), "this host has none, or not those disks"
    assert "base-a" in reconcile("list").out


@pytest.fixture
def thin_only(manifests: Path) -> None:
    """All images are in a thin pool whose devices don't exist."""
    (manifests / "pools.yaml").write_text(
        "apiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata: {name: thin}\n"
        "spec: {thin: {data: {device: /dev/no-such-a}, metadata: {device: /dev/no-such-b}}}\n"
    )


@pytest.mark.usefixtures("thin_only")
def test_a_host_that_cannot_use_its_only_pool_says_so_by_its_exit_code(reconcile: Reconcile) -> None:
    planned, done = reconcile("plan", "-o", "json"), reconcile("--once", "-o", "json")

    assert (planned.code, done.code) == (Exit.HOST_CANNOT, Exit.HOST_CANNOT)
    assert {one["reason"] for one in planned.json["blocked"]} == {"PoolUnavailable"}
    assert {(o["name"], o["phase"]) for o in done.json["objects"]} == {("base", "Failed"), ("tool", "Failed")}


@pytest.mark.usefixtures("thin_only")
def test_a_pool_that_cannot_be_used_is_listed_described_and_told_by_health(reconcile: Reconcile) -> None:
    [listed] = reconcile("list", "pools", "-o", "json").json["pools"]
    told = reconcile("describe", "pool/thin", "-o", "json").json
    unhealthy = reconcile("health", "-o", "json")

    assert (listed["name"], listed["driver"], listed["state"], listed["data"]) == ("thin", "thin", "unavailable", None)
    assert told["declared"]["thin"]["data"]["device"] == "/dev/no-such-a"
    assert (told["message"], told["volumes"], told["runs"]) == (listed["message"], [], [])
    assert unhealthy.code == Exit.FAILED
    assert [c["message"] for c in unhealthy.json["checks"] if c["name"] == "pool"] == [listed["message"]]


def test_a_pool_is_listed_with_its_space_and_described_with_what_is_in_it(reconcile: Reconcile) -> None:
    reconcile("--once")

    [listed] = reconcile("list", "-o", "json").json["pools"]
    told = reconcile("describe", "pool/default", "-o", "json").json

    assert (listed["driver"], listed["state"], listed["metadata"]) == ("file", "ready", None)
    assert 0 < listed["data"]["used"] < listed["data"]["total"]
    assert told["snapshots"] == ["base-a", "tool-a"]
    assert len(told["volumes"]) >= 2
    assert "default" in reconcile("list", "pools").out
    assert reconcile("describe", "pool/nobody").code == Exit.USAGE


def test_an_index_that_was_cut_off_is_not_kept(reconcile: Reconcile, tmp_path: Path) -> None:
    """Killed while it wrote a member index, and never asked for that chain again."""
    indexes = tmp_path / "state" / "index"
    indexes.mkdir(parents=True)
    kept, cut_off = indexes / f"{'a' * 64}.idx", indexes / f".{'b' * 64}.idx.partial"
    kept.touch()
    cut_off.touch()

    assert reconcile("--once").code == Exit.OK
    assert (kept.exists(), cut_off.exists()) == (True, False)
