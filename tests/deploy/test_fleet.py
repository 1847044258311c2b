"""`manifests/fleet`: a release that goes through rings, each by a commit, until a gate fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.manifests import loader
from reconciler.model import Desired, HostFacts

FLEET = Path(__file__).resolve().parents[2] / "manifests" / "fleet"
RINGS = ("canary", "early", "fleet")
IDENTITY = {f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-C", directory, *words],
        env={**os.environ, **IDENTITY},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the sample, of a repository that hosts pull."""
    bare, clone = tmp_path / "origin.git", tmp_path / "clone"
    clone.mkdir()
    git(tmp_path, "init", "--quiet", "--bare", str(bare))
    shutil.copytree(FLEET, clone, dirs_exist_ok=True)
    git(clone, "init", "--quiet")
    git(clone, "remote", "add", "origin", str(bare))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "the sample")
    git(clone, "push", "--quiet", "--set-upstream", "origin", "main")
    return clone


def promote(clone: Path, gate: str) -> tuple[int, list[str]]:
    """The exit code of the promotion with a gate, and the subjects of the commits that have reached the hosts."""
    (clone.parent / "gate").write_text(f"#!/bin/sh\n{gate}\n")
    (clone.parent / "gate").chmod(0o755)
    environ = {**os.environ, **IDENTITY, "GATE": str(clone.parent / "gate")}
    done = subprocess.run([clone / "promote.sh", clone / "web-1-5.yaml", *RINGS], cwd=clone, env=environ, check=False)
    return done.returncode, git(clone.parent / "origin.git", "log", "--format=%s", "main").splitlines()[-2::-1]


def desired(directory: Path, ring: str) -> Desired:
    labels = {"ring": ring} if ring else {}
    return loader.load(directory, host=HostFacts("host", labels, "host-1"))


def images(directory: Path, ring: str) -> set[str]:
    return set(desired(directory, ring).images) - {"tools-7"}


def test_the_next_release_is_in_the_first_ring_and_no_host_without_a_ring_gets_anything() -> None:
    assert images(FLEET, "canary") == {"web-1-4", "web-1-5"}
    assert images(FLEET, "early") == images(FLEET, "fleet") == {"web-1-4"}
    assert images(FLEET, "") == set()
    assert desired(FLEET, "canary").images["web-1-5"].not_before > 0


def test_a_release_reaches_the_rings_one_commit_after_the_other(clone: Path) -> None:
    code, commits = promote(clone, "git rev-parse --verify --quiet $1")

    assert code == 0
    assert commits == ["web-1-5 in canary, early", "web-1-5 in canary, early, fleet"]
    assert {ring: images(clone, ring) for ring in RINGS} == {ring: {"web-1-4", "web-1-5"} for ring in RINGS}


def test_a_gate_that_fails_keeps_the_release_in_its_ring(clone: Path) -> None:
    code, commits = promote(clone, "exit 6")

    assert (code, commits) == (6, [])
    assert images(clone, "early") == images(clone, "fleet") == {"web-1-4"}
