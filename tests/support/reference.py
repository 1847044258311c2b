"""What a chain of layers must look like, worked out twice: by a model in a dictionary, and by GNU tar on a real file system.

The model follows the OCI image specification ("Layers": whiteouts, opaque whiteouts, replacement) on paths and nothing else.
GNU tar has no whiteouts: they are applied to the directory before it unpacks a layer. Of directories it loses the time when it
returns to them, keeps extended attributes that a later layer no longer gives, and leaves a setgid bit that mkdir inherits:
``forgiving`` takes the first and the last from the model, and the attributes are taken away before it unpacks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.compare import ROOT, Facts, Tree, grouped, runs
from tests.support.trees import HARDLINK, OPAQUE, WHITEOUT, Entry


@dataclass(slots=True, eq=False)
class Node:
    """An inode of the model. ``described`` is the layer whose entry it has, ``since`` those that gave or used its names last."""

    entry: Entry
    described: int = 0
    digest: str = ""
    children: dict[bytes, Node] = field(default_factory=dict)
    since: dict[bytes, int] = field(default_factory=dict)


class Model:
    """Layers applied one after the other; ``tree`` is the result."""

    def __init__(self) -> None:
        self._layer = 0
        self._root = implied()

    def apply(self, layer: Iterable[Entry]) -> None:
        self._layer += 1
        for entry in layer:
            parts = split(entry.name)
            if not parts:
                self._root.entry = entry
                continue
            if parts[-1].startswith(WHITEOUT):
                self._hidden(parts)
            else:
                self._put(self._parent(parts[:-1]), parts[-1], entry)

    def _hidden(self, parts: list[bytes]) -> None:
        parent = self._existing(parts[:-1])
        if parent is None:
            return
        if parts[-1] == OPAQUE:
            self._hide(parent)
        else:
            self._whiteout(parent, parts[-1].removeprefix(WHITEOUT))

    def _existing(self, parts: list[bytes]) -> Node | None:
        """The directory at a path without symlinks; whiteouts in these tests have no others."""
        node: Node | None = self._root
        for part in parts:
            node = node.children.get(part) if node else None
        return node if node is not None and node.entry.kind == stat.S_IFDIR else None

    def _put(self, parent: Node, name: bytes, entry: Entry) -> None:
        before = parent.children.get(name)
        if entry.kind == stat.S_IFDIR and before is not None and before.entry.kind == stat.S_IFDIR:
            before.entry, before.described = entry, self._layer
        elif entry.kind == HARDLINK:
            parent.children[name] = self._find(split(entry.target))
        else:
            content = digest(entry) if entry.kind == stat.S_IFREG else ""
            parent.children[name] = Node(without_data(entry), self._layer, content)
        parent.since[name] = self._layer

    def _whiteout(self, parent: Node, name: bytes) -> None:
        found = parent.children.get(name)
        if found is None:
            return
        if parent.since[name] < self._layer:
            del parent.children[name]
            return
        if found.described < self._layer and found.entry.kind == stat.S_IFDIR:
            found.entry = implied().entry
        self._hide(found)

    def _hide(self, directory: Node) -> None:
        """Take away what lower layers brought, and keep what this one did."""
        for name in list(directory.children):
            self._whiteout(directory, name)

    def _parent(self, parts: list[bytes]) -> Node:
        """The directory that a chroot would come to; missing ones are made."""
        path, left, followed = [self._root], list(parts), 0
        while left:
            part = left.pop(0)
            if part == b"..":
                path = path[:-1] or path
                continue
            child = path[-1].children.setdefault(part, implied())
            path[-1].since[part] = self._layer
            if child.entry.kind == stat.S_IFLNK:
                followed += 1
                assert followed <= 40
                path = [self._root] if child.entry.target.startswith(b"/") else path
                left = [p for p in child.entry.target.split(b"/") if p not in (b"", b".")] + left
            else:
                path.append(child)
        return path[-1]

    def _find(self, parts: list[bytes]) -> Node:
        return self._parent(parts[:-1]).children[parts[-1]]

    def tree(self) -> dict[bytes, Facts]:
        names = {ROOT: self._root}
        pending = [(b"", self._root)]
        while pending:
            prefix, node = pending.pop()
            for name, child in node.children.items():
                names[prefix + name] = child
                pending.append((prefix + name + b"/", child))
        links = grouped({name: node for name, node in names.items() if node.entry.kind != stat.S_IFDIR})
        return {name: facts(node.entry, node.digest, links.get(name, ())) for name, node in names.items()}


def implied() -> Node:
    """The root before its entry, and parents that a tar leaves out."""
    return Node(Entry(b"", stat.S_IFDIR, 0o755))


def without_data(entry: Entry) -> Entry:
    """A model of a large root file system keeps digests, not contents."""
    return replace(entry, data=b"")


def split(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part not in (b"", b".")]


def digest(entry: Entry) -> str:
    """Of a file's whole content, holes included."""
    sha, at, data = hashlib.sha256(), 0, memoryview(entry.data)
    for offset, length in entry.segments if entry.segments is not None else [(0, entry.size)]:
        sha.update(bytes(offset - at))
        sha.update(data[:length])
        at, data = offset + length, data[length:]
    sha.update(bytes(entry.size - at))
    return sha.hexdigest()


def facts(entry: Entry, content: str, links: tuple[bytes, ...]) -> Facts:
    segments = entry.segments if entry.segments is not None else ((0, entry.size),)
    is_file, is_link = entry.kind == stat.S_IFREG, entry.kind == stat.S_IFLNK
    return Facts(
        kind=entry.kind,
        mode=0o777 if is_link else entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        size=entry.size if is_file else len(entry.target) if is_link else 0,
        digest=content,
        data=runs(list(segments)) if is_file else (),
        target=entry.target if is_link else b"",
        device=entry.device,
        xattrs=tuple(sorted(entry.xattrs.items())),
        links=links,
    )


def model(layers: Iterable[Iterable[Entry]]) -> dict[bytes, Facts]:
    reference = Model()
    for layer in layers:
        reference.apply(layer)
    return reference.tree()


# ------------------------------------------------------------------------------------------------------- GNU tar


def unpack_with_gnu_tar(tar: Path, layer: Iterable[Entry], top: Path) -> None:
    """Apply one layer to a directory as root: whiteouts and replaced types first, then GNU tar. ``layer`` lists its members."""
    root = os.fsencode(top)
    for entry in layer:
        there = os.path.join(root, *split(entry.name))
        parent, last = os.path.split(there)
        if last == OPAQUE:
            for name in os.listdir(parent) if os.path.isdir(parent) else ():
                remove(os.path.join(parent, name))
        elif last.startswith(WHITEOUT):
            remove(os.path.join(parent, last.removeprefix(WHITEOUT)))
        elif os.path.isdir(there) != (entry.kind == stat.S_IFDIR) or os.path.islink(there):
            remove(there)
        elif entry.kind == stat.S_IFDIR:
            for attribute in os.listxattr(there):
                os.removexattr(there, attribute)
    options = "--xattrs --xattrs-include=* --numeric-owner --same-owner --preserve-permissions --delay-directory-restore"
    command = [
        "tar",
        "--extract",
        *options.split(),
        "--warning=no-timestamp",
        "--exclude=.wh.*",
        "--directory",
        str(top),
        "--file",
        str(tar),
    ]
    subprocess.run(command, check=True, env=os.environ | {"LC_ALL": "C"})


def forgiving(unpacked: Tree, model: Tree) -> dict[bytes, Facts]:
    """What GNU tar has made, with the directories' lost times restored."""

    def forgive(found: Facts, meant: Facts) -> Facts:
        return replace(found, mtime=meant.mtime, mode=found.mode & ~stat.S_ISGID | meant.mode & stat.S_ISGID)

    flawed = {name for name, found in unpacked.items() if found.kind == stat.S_IFDIR and name in model}
    return {name: forgive(found, model[name]) if name in flawed else found for name, found in unpacked.items()}


def remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
