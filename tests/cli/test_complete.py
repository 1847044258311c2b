"""Shell completion of kinds and object names, as a shell asks for it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from .test_command_line import declare, forked, run

POOL = "---\napiVersion: reconciler/v1alpha1\nkind: Pool\nmetadata:\n  labels: {a: b}\n  name: fast\nspec: {file: {}}\n"


def complete(*words: str, env: dict[str, str] | None = None) -> list[str]:
    """The completions of the last word."""
    asked = {"_RECONCILE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["reconcile", *words]), "COMP_CWORD": str(len(words))}
    done = forked([], os.environ | asked | (env or {}))
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Manifests of an image and a pool; a state that has another image."""
    old = declare(tmp_path, "old")
    state = tmp_path / "state"
    assert run("--once", "-f", str(old), "--state", str(state)).returncode == 0
    found = declare(tmp_path, "here")
    (found / "pool.yaml").write_text(POOL)
    return found


@pytest.fixture
def env(here: Path) -> dict[str, str]:
    return {"RECONCILER_MANIFESTS": str(here), "RECONCILER_STATE": str(here.parent / "state")}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["describe", ""], ["image/", "pool/", "snapshot/", "volume/"]),
        (["describe", "image/"], ["image/here", "image/old"]),
        (["describe", "im"], ["image/here", "image/old"]),
        (["describe", "snapshot/"], ["snapshot/here-a", "snapshot/old-a"]),
        (["describe", "pool/f"], ["pool/fast"]),
        (["suspend", "image/h"], ["image/here"]),
        (["wait", ""], ["image/here", "image/old"]),
        (["verify", "o"], ["old"]),
        (["gc", ""], ["default", "fast"]),
        (["list", "s"], ["snapshots"]),
        (["state", "rm", "image/o"], ["image/old"]),
        (["desc"], ["describe"]),
        (["describe", "image/zzz"], []),
    ],
)
def test_names_come_from_the_registry_and_the_manifests(env: dict[str, str], words: list[str], found: list[str]) -> None:
    assert complete(*words, env=env) == found


@pytest.mark.parametrize("before", [True, False])
def test_the_options_that_are_typed_count(here: Path, before: bool) -> None:
    given = ["-f", str(here), "--state", str(here.parent / "state")]

    found = complete(*given, "describe", "image/") if before else complete("describe", *given, "image/")

    assert found == ["image/here", "image/old"]


def test_an_error_is_silent(here: Path, env: dict[str, str]) -> None:
    """A registry that is none, a manifest that is none, directories that don't exist."""
    (here.parent / "state" / "registry.sqlite3").write_bytes(b"not a database")
    (here / "bad.yaml").write_bytes(b"kind: Image\xff\nmetadata: [")

    assert complete("describe", "image/", env=env) == ["image/here"]
    assert complete("describe", "image/", env=dict.fromkeys(env, "/nonexistent")) == []
    assert complete("nonsense", "image/", env=env) == []


def test_completing_reads_only(env: dict[str, str], here: Path) -> None:
    state = here.parent / "state"
    writer = sqlite3.connect(state / "registry.sqlite3", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    before = {path.name: path.stat().st_mtime_ns for path in state.iterdir() if not path.name.endswith("-shm")}

    assert complete("describe", "image/", env=env) == ["image/here", "image/old"]
    assert {path.name: path.stat().st_mtime_ns for path in state.iterdir() if not path.name.endswith("-shm")} == before
    writer.close()


def test_completing_imports_nothing_heavy(env: dict[str, str]) -> None:
    code = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    code += "from reconciler.cli.main import main; main()"
    asked = {"_RECONCILE_COMPLETE": "bash_complete", "COMP_WORDS": "reconcile describe image/", "COMP_CWORD": "2"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked | env, check=False)

    assert "image/here" in done.stdout
    assert not {"pydantic", "boto3", "yaml", "sqlmodel", "sqlalchemy", "rich"} & set(done.stderr.split())


def test_retry_completes_images_and_snapshots_that_are_to_be_created_again(env: dict[str, str]) -> None:
    assert complete("retry", "image/", env=env) == ["image/here", "image/old"]
    assert complete("retry", "--recreate", "snapshot/", env=env) == complete("describe", "snapshot/", env=env)
