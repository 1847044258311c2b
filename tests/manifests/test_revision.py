"""Which commit a directory of manifests is at, without running Git in it: compared with Git's own answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reconciler.manifests.revision import revision

ENV = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": "/nonexistent", "PATH": os.environ["PATH"]}


def git(directory: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *words], cwd=directory, env=ENV, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    (work / "hosts" / "manifests").mkdir(parents=True)
    git(work, "init", "-q")
    (work / "hosts" / "manifests" / "a.yaml").write_text("a: 1\n")
    git(work, "add", "-A")
    git(work, "commit", "-qm", "one")
    return work


def by_git(work: Path) -> str:
    return f"git:{git(work, 'rev-parse', 'HEAD')[:12]}"


def test_it_is_the_commit_that_is_checked_out(clone: Path) -> None:
    assert revision(clone / "hosts" / "manifests", {}) == by_git(clone)


def test_refs_may_be_packed_and_heads_detached(clone: Path) -> None:
    git(clone, "pack-refs", "--all")
    assert revision(clone, {}) == by_git(clone)

    git(clone, "checkout", "-q", "--detach")
    assert revision(clone, {}) == by_git(clone)


def test_a_linked_worktree_has_a_commit_of_its_own(clone: Path, tmp_path: Path) -> None:
    git(clone, "worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    git(tmp_path / "linked", "commit", "-q", "--allow-empty", "-m", "two")

    assert revision(tmp_path / "linked" / "hosts", {}) == by_git(tmp_path / "linked") != by_git(clone)


def test_a_link_into_a_checkout_is_followed(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(clone / "hosts")

    assert revision(tmp_path / "current", {}) == by_git(clone)


def test_without_git_a_link_has_its_target_and_a_directory_its_content(tmp_path: Path) -> None:
    (tmp_path / "2026-01").mkdir()
    (tmp_path / "current").symlink_to("2026-01")

    assert revision(tmp_path / "current", {}) == "link:2026-01"
    one, other = revision(tmp_path / "2026-01", {"a": "1"}), revision(tmp_path / "2026-01", {"a": "2"})
    assert one.startswith("tree:") and one != other
    assert one == revision(tmp_path / "2026-01", {"a": "1"})


def test_a_repository_without_a_commit_or_with_nonsense_in_it_is_no_reason_to_fail(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert revision(tmp_path, {}).startswith("tree:")

    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert revision(tmp_path, {}).startswith("tree:")
