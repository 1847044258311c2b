"""Cuts a Debian into the layers that installing its packages step by step would have left: for ``inputs.stages``.

A package belongs to the first stage that names it, or that needs it. A file is in the stage of its package, and what
no package has is in the first; a directory is in each stage that has something of it.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

STATUS, LISTS = "var/lib/dpkg/status", re.compile(r"var/lib/dpkg/info/([^/:]+)(?::\w+)?\.\w+$")
MERGED = re.compile(r"^(bin|sbin|lib|lib32|lib64|libx32)(?=/)")
"""What /usr has swallowed; lists of packages still name it."""

Fields = Mapping[str, str]


def cut(root: Path, named: Sequence[str], layers: Sequence[Path]) -> None:
    """``named`` has the packages of each stage but the first, separated by spaces; ``layers`` are written."""
    with tarfile.open(root) as whole, ExitStack() as stack:
        members = {plain(member.name): member for member in whole}
        owned = stage_of(fields(text(whole, members[STATUS])), named)
        homes = paths(whole, members, owned)
        tars = [stack.enter_context(tarfile.open(path, "w", format=tarfile.PAX_FORMAT)) for path in layers]
        for name, member in members.items():
            if not name.startswith("dev/"):
                found = sorted(homes.get(name, {0}))
                for stage in found if member.isdir() else found[:1]:
                    tars[stage].addfile(member, whole.extractfile(member) if member.isreg() else None)


def plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    return content.read().decode() if content else ""


def paths(tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], owned: Mapping[str, int]) -> dict[str, set[int]]:
    """The stages of each path that a package has, dpkg's own files of the package among them."""
    homes: dict[str, set[int]] = {}
    for name, member in members.items():
        if found := LISTS.match(name):
            stage = owned.get(found[1], 0)
            lines = text(tar, member).splitlines() if name.endswith(".list") else []
            for path in (name, *(MERGED.sub(r"usr/\1", line.lstrip("/")) for line in lines)):
                homes.setdefault(path, set()).add(stage)
    return homes


def fields(status: str) -> Iterator[Fields]:
    """The entries of dpkg's status; descriptions and other continued lines are left out."""
    for entry in status.split("\n\n"):
        lines = (line.partition(":") for line in entry.splitlines() if line[:1].strip())
        if found := {key: value.strip() for key, _, value in lines}:
            yield found


def stage_of(packages: Iterable[Fields], named: Sequence[str]) -> dict[str, int]:
    """What no stage asks for is the first one's, with all that it needs; then what each stage brings."""
    needs: dict[str, set[str]] = {}
    providers: dict[str, str] = {}
    for package in packages:
        needs[package["Package"]] = set(names(f"{package.get('Pre-Depends', '')}, {package.get('Depends', '')}"))
        providers |= dict.fromkeys(names(package.get("Provides", "")), package["Package"])
    essential = closure(set(needs) - closure(set(" ".join(named).split()), needs, providers), needs, providers)
    stages = dict.fromkeys(essential, 0)
    for number, words in enumerate(named):
        for name in closure(set(words.split()), needs, providers):
            stages.setdefault(name, number)
    return stages


def names(relation: str) -> list[str]:
    """The packages of a relation, without versions; alternatives count as all of them."""
    return [word for part in re.split(r"[,|]", relation) if (word := re.sub(r"[\s(:].*", "", part.strip()))]


def closure(wanted: set[str], needs: Mapping[str, set[str]], providers: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    while wanted:
        package = wanted.pop()
        package = package if package in needs else providers.get(package, "")
        if package in needs and package not in found:
            found.add(package)
            wanted |= needs[package]
    return found
