"""Layers written by real programs: GNU tar and bsdtar over files planted on disk, bsdtar over a list, Python's ``tarfile``.

A layer is given in parts: each is one run of the writer, appended to what is there, as archives are joined from several trees.
Without root a planted file belongs to whoever runs the tests, so the writers are told to write 0; owners and devices need root,
or a writer that takes them from a list. State: none besides the directory that a caller gives.
"""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tests.support.layers import TYPEFLAGS
from tests.support.trees import HARDLINK, SECOND, Entry

Parts = Sequence[Sequence[Entry]]
Write = Callable[[Parts, Path], bytes]


@dataclass(frozen=True, slots=True)
class Writer:
    write: Write
    plants: bool
    """Whether it reads owners, devices and the like from real files, which only root can make."""


def run(*command: str | Path, stdin: bytes = b"") -> None:
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    done = subprocess.run([*map(str, command)], input=stdin, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"


# ---------------------------------------------------------------------------------------------------- files on disk


def plant(entries: Sequence[Entry], top: Path) -> None:
    """Make the files that a writer is to find, what is told of directories last. Works on names longer than any path."""
    for entry in entries:
        with _parent(top, entry.name) as (parent, name):
            _make(entry, parent, name, top)
    for entry in (entry for entry in entries if entry.kind == stat.S_IFDIR):
        with _parent(top, entry.name) as (parent, name):
            _describe(entry, parent, name)


@contextmanager
def _parent(top: Path, name: bytes) -> Iterator[tuple[int, bytes]]:
    """A descriptor of the directory that a name lies in (made where it is missing), and its last component."""
    *above, last = [part for part in name.split(b"/") if part not in (b"", b".")] or [b"."]
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in above:
            if not _exists(part, fd):
                os.mkdir(part, dir_fd=fd)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, last
    finally:
        os.close(fd)


def _exists(name: bytes, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make(entry: Entry, parent: int, name: bytes, top: Path) -> None:
    if entry.kind == stat.S_IFDIR:
        if not _exists(name, parent):
            os.mkdir(name, dir_fd=parent)
        return
    if entry.kind == HARDLINK:
        with _parent(top, entry.target) as (source, target):
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        return
    if entry.kind == stat.S_IFREG:
        _fill(entry, parent, name)
    elif entry.kind == stat.S_IFLNK:
        os.symlink(entry.target, name, dir_fd=parent)
    else:
        os.mknod(name, entry.kind, os.makedev(*entry.device), dir_fd=parent)
    _describe(entry, parent, name)


def _fill(entry: Entry, parent: int, name: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=parent)
    try:
        data = entry.data
        for offset, length in entry.segments if entry.segments is not None else [(0, entry.size)]:
            os.pwrite(fd, data[:length], offset)
            data = data[length:]
        os.ftruncate(fd, entry.size)
    finally:
        os.close(fd)


def _describe(entry: Entry, parent: int, name: bytes) -> None:
    if os.geteuid() == 0:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if entry.kind != stat.S_IFLNK:
        os.chmod(name, entry.mode, dir_fd=parent)
    if entry.xattrs:
        fd = os.open(name, os.O_RDONLY, dir_fd=parent)
        for attribute, value in entry.xattrs.items():
            os.setxattr(fd, attribute, value)
        os.close(fd)
    os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)


# --------------------------------------------------------------------------------------------------------- writers


def gnu_tar(*options: str, attributes: Sequence[str] = ("--xattrs", "--xattrs-include=*")) -> Writer:
    owner = () if os.geteuid() == 0 else ("--owner=:0", "--group=:0")

    def write(parts: Parts, directory: Path) -> bytes:
        archive = directory / "gnu.tar"
        for number, entries in enumerate(parts):
            top = directory / f"gnu{number}"
            top.mkdir()
            plant(entries, top)
            listed = b"".join(entry.name + b"\0" for entry in entries)
            how = "--append" if number else "--create"
            words = ("--no-recursion", "--numeric-owner", *attributes, *owner, *options, "--directory", top, "--file", archive)
            run("tar", how, *words, "--null", "--verbatim-files-from", "--files-from=-", stdin=listed)
        return archive.read_bytes()

    return Writer(write, plants=True)


def bsdtar(format: str, *options: str) -> Writer:
    owner = () if os.geteuid() == 0 else ("--uid", "0", "--gid", "0")

    def write(parts: Parts, directory: Path) -> bytes:
        archive = directory / "bsd.tar"
        for number, entries in enumerate(parts):
            top = directory / f"bsd{number}"
            top.mkdir()
            plant(entries, top)
            listed = b"".join(entry.name + b"\0" for entry in entries)
            how = "-r" if number else "-c"
            words = ("--format", format, "-n", "--numeric-owner", *owner, *options, "-C", top, "--null", "-T", "-")
            run("bsdtar", how, "-f", archive, *words, stdin=listed)
        return archive.read_bytes()

    return Writer(write, plants=True)


def listed(format: str) -> Writer:
    """bsdtar over an mtree specification: any owner and device, without root."""

    def write(parts: Parts, directory: Path) -> bytes:
        archive = directory / "listed.tar"
        assert len(parts) == 1
        for number, entry in enumerate(parts[0]):
            (directory / f"content{number}").write_bytes(entry.data)
        lines = [_line(entry, directory / f"content{number}") for number, entry in enumerate(parts[0])]
        run("bsdtar", "-c", "--format", format, "-f", archive, "@-", stdin=b"#mtree\n" + b"".join(lines))
        return archive.read_bytes()

    return Writer(write, plants=False)


_WORDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}


def _line(entry: Entry, content: Path) -> bytes:
    name = entry.name if b"/" in entry.name else b"./" + entry.name
    # The fraction is a number of its own, and counts towards the future only where the time is not negative.
    seconds, fraction = divmod(entry.mtime, SECOND)
    said = f" type={_WORDS[entry.kind]} mode={entry.mode:o} uid={entry.uid} gid={entry.gid} time={seconds}.{fraction}"
    if entry.kind == stat.S_IFREG:
        said += f" contents={content}"
    if entry.kind in (stat.S_IFCHR, stat.S_IFBLK):
        said += f" device=linux,{entry.device[0]},{entry.device[1]}"
    link = b" link=" + _quoted(entry.target) if entry.kind == stat.S_IFLNK else b""
    return _quoted(name) + said.encode() + link + b"\n"


def _quoted(name: bytes) -> bytes:
    return b"".join(b"%c" % byte if 0x21 <= byte < 0x7F and byte not in b"\\#=*?[" else b"\\%03o" % byte for byte in name)


def python(format: int) -> Writer:
    """Python's ``tarfile``: everything but holes."""

    def write(parts: Parts, _directory: Path) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
            for entry in (entry for part in parts for entry in part):
                tar.addfile(_info(entry), io.BytesIO(entry.data))
        return out.getvalue()

    return Writer(write, plants=False)


def _info(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(entry.name))
    info.type, info.mode, info.uid, info.gid, info.size = TYPEFLAGS[entry.kind], entry.mode, entry.uid, entry.gid, len(entry.data)
    info.linkname = os.fsdecode(entry.target)
    records = cast("dict[str, str]", info.pax_headers)
    info.devmajor, info.devminor = entry.device
    info.mtime = entry.mtime // SECOND
    if entry.mtime % SECOND:
        sign, (seconds, fraction) = "-" * (entry.mtime < 0), divmod(abs(entry.mtime), SECOND)
        records["mtime"] = f"{sign}{seconds}.{fraction:09}"
    for name, value in entry.xattrs.items():
        records["SCHILY.xattr." + os.fsdecode(name)] = os.fsdecode(value)
    return info


WRITERS: Mapping[str, Writer] = {
    "gnu-pax": gnu_tar("--format=posix"),
    "gnu-gnu": gnu_tar("--format=gnu", attributes=()),
    "gnu-ustar": gnu_tar("--format=ustar", attributes=()),
    "gnu-v7": gnu_tar("--format=v7", attributes=()),
    "gnu-acls": gnu_tar("--format=posix", attributes=("--acls",)),
    "gnu-acls-and-xattrs": gnu_tar("--format=posix", attributes=("--acls", "--xattrs", "--xattrs-include=*")),
    "bsd-pax": bsdtar("pax"),
    "bsd-gnu": bsdtar("gnutar"),
    "bsd-ustar": bsdtar("ustar"),
    "list-pax": listed("pax"),
    "list-gnu": listed("gnutar"),
    "list-ustar": listed("ustar"),
    "python-pax": python(tarfile.PAX_FORMAT),
    "python-gnu": python(tarfile.GNU_FORMAT),
    "python-ustar": python(tarfile.USTAR_FORMAT),
    "gnu-sparse-1.0": gnu_tar("--format=posix", "--sparse", "--sparse-version=1.0"),
    "gnu-sparse-0.1": gnu_tar("--format=posix", "--sparse", "--sparse-version=0.1"),
    "gnu-sparse-0.0": gnu_tar("--format=posix", "--sparse", "--sparse-version=0.0"),
    "gnu-sparse-old": gnu_tar("--format=gnu", "--sparse", attributes=()),
}
