"""A tree of files as a value, whatever it was taken from, and the differences between two of them in words.

Taken from a directory here (root sees owners and every extended attribute), from an ext4 image in ``ext4``, from the members of
layers in ``reference``.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields

BLOCK = 4096
ROOT = b"."

Run = tuple[int, int]  # the first block of 4096 bytes, and how many


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a file system should keep of one name. ``mtime`` in nanoseconds, ``data`` the blocks that are not holes."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    digest: str = ""
    data: tuple[Run, ...] = ()
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    links: tuple[bytes, ...] = ()
    """Every name of the inode where it has more than one."""


Tree = Mapping[bytes, Facts]

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
}


LOST_AND_FOUND = b"lost+found"
"""A directory that every ext4 has, and that only some layers bring."""


def differences(expected: Tree, actual: Tree, *, ignoring: Collection[str] = (), most: int = 20) -> list[str]:
    """The first differences, one line each; no line at all where the trees are equal."""
    return [line for line, _ in zip(_differences(expected, actual, ignoring), range(most), strict=False)]


def _differences(expected: Tree, actual: Tree, ignoring: Collection[str]) -> Iterator[str]:
    for path in sorted(expected.keys() | actual.keys()):
        if path == LOST_AND_FOUND and (path in expected) != (path in actual) and (expected | actual)[path].kind == stat.S_IFDIR:
            continue
        if path not in actual:
            yield f"{path!r}: missing, expected a {KINDS[expected[path].kind]}"
        elif path not in expected:
            yield f"{path!r}: a {KINDS[actual[path].kind]} that nothing declares"
        else:
            yield from _facts_differ(path, expected[path], actual[path], ignoring)


def _facts_differ(path: bytes, expected: Facts, actual: Facts, ignoring: Collection[str]) -> Iterator[str]:
    for field in fields(Facts):
        wanted, found = getattr(expected, field.name), getattr(actual, field.name)
        if wanted != found and field.name not in ignoring:
            difference = f"{field.name} is {_shown(field.name, found)}, expected {_shown(field.name, wanted)}"
            yield f"{path!r} ({KINDS[expected.kind]}): {difference}"


def _shown(field: str, value: object) -> str:
    return f"{value:#o}" if field in ("mode", "kind") else repr(value)


def grouped(names: Mapping[bytes, object]) -> dict[bytes, tuple[bytes, ...]]:
    """For each name whose inode (any hashable identity) has several names: all of them."""
    by_inode = defaultdict(list)
    for name, inode in names.items():
        by_inode[inode].append(name)
    return {name: tuple(sorted(group)) for group in by_inode.values() if len(group) > 1 for name in group}


# ------------------------------------------------------------------------------------------ from a directory


def of_directory(top: str | os.PathLike[str]) -> dict[bytes, Facts]:
    """What a directory holds, itself included as ``b"."``; nothing is followed."""
    root = os.fsencode(top)
    paths = {ROOT: root, **{os.path.relpath(path, root): path for path in _walk(root)}}
    found = {name: os.lstat(path) for name, path in paths.items()}
    links = grouped({name: (s.st_dev, s.st_ino) for name, s in found.items() if s.st_nlink > 1 and not stat.S_ISDIR(s.st_mode)})
    return {name: _of_path(paths[name], status, links.get(name, ())) for name, status in found.items()}


def _walk(directory: bytes) -> Iterator[bytes]:
    with os.scandir(directory) as entries:
        for entry in entries:
            yield entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)


def _of_path(path: bytes, status: os.stat_result, links: tuple[bytes, ...]) -> Facts:
    kind = stat.S_IFMT(status.st_mode)
    digest, data = _content(path, status) if kind == stat.S_IFREG else ("", ())
    return Facts(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=0 if kind == stat.S_IFDIR else status.st_size,
        digest=digest,
        data=data,
        target=os.readlink(path) if kind == stat.S_IFLNK else b"",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in (stat.S_IFCHR, stat.S_IFBLK) else (0, 0),
        xattrs=_xattrs(path),
        links=links,
    )


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = os.listxattr(path, follow_symlinks=False)
    return tuple(sorted((os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names))


def _content(path: bytes, status: os.stat_result) -> tuple[str, tuple[Run, ...]]:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest(), runs(_data(file.fileno(), status.st_size))


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is not a hole, as lseek(2) reports."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start


def runs(parts: Iterator[tuple[int, int]] | list[tuple[int, int]]) -> tuple[Run, ...]:
    """The blocks that (offset, length) parts touch, neighbours joined."""
    found: list[Run] = []
    for offset, length in sorted(part for part in parts if part[1]):
        first, stop = offset // BLOCK, -(-(offset + length) // BLOCK)
        if found and first <= sum(found[-1]):
            begin, count = found.pop()
            first, stop = begin, max(begin + count, stop)
        found.append((first, stop - first))
    return tuple(found)
