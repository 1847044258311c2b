"""The revision of the manifests: a Git commit, the target of a link that is swapped, or a digest of the texts.

Called by ``host/context`` and shown with every status: the commit that a host has converged to. Git's files are read
directly (gitrepository-layout(5)): no program runs in a directory that another user may have made. No state.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
SHORT = 12


def revision(directory: Path, texts: Mapping[str, str]) -> str:
    """``git:<commit>``, ``link:<target>`` or ``tree:<digest>``. Never raises."""
    return named(directory) or of_texts(texts)


def named(directory: Path) -> str:
    """``git:<commit>`` or ``link:<target>``; empty where the directory is neither. Never raises."""
    try:
        if commit := _commit(directory.resolve()):
            return f"git:{commit[:SHORT]}"
        if directory.is_symlink():
            return f"link:{directory.readlink().name}"
    except (OSError, ValueError):
        pass
    return ""


def of_texts(texts: Mapping[str, str]) -> str:
    """``tree:<digest>``."""
    digest = hashlib.sha256()
    for path, text in sorted(texts.items()):
        digest.update(f"{len(path)} {path} {len(text)} ".encode(errors="surrogatepass") + text.encode(errors="surrogatepass"))
    return f"tree:{digest.hexdigest()[:SHORT]}"


def _commit(directory: Path) -> str:
    """The commit that is checked out in the work tree that the directory is part of; empty where there is none."""
    git = next((above / ".git" for above in (directory, *directory.parents) if (above / ".git").exists()), None)
    if git is None:
        return ""
    if git.is_file():  # a linked worktree, or a submodule
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    return _resolved(git, head.removeprefix("ref:").strip()) if head.startswith("ref:") else _checked(head)


def _resolved(git: Path, name: str) -> str:
    common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    for place in (git, common):
        if (place / name).is_file():
            return _checked((place / name).read_text().strip())
    packed = common / "packed-refs"
    lines = packed.read_text().splitlines() if packed.exists() else []
    return next((_checked(line.split(" ")[0]) for line in lines if line.endswith(f" {name}")), "")


def _checked(commit: str) -> str:
    return commit if _COMMIT.fullmatch(commit) else ""
