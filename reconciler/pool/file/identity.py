"""The identity by which a file pool recognises its files, and distinguishes a swapped file from a moved or restored one.

An identity is one line of text in the registry: ``ino=131 gen=2891336453 id=… size=… mtime=…``. A file is recognised by its
inode (number and generation), or by the random id that it got when it was created, as an extended attribute: a pool that was
moved with its attributes (``cp -a``, ``rsync -X``) has other inodes and the same ids. The content is never read: guests write it.

Called by ``pool.file.pool``. State: the attribute.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from reconciler.dataclass import dataclass
from reconciler.pool.driver import Condition

_SUPERBLOCK, _MAGIC_AT, _MAGIC, _UUID_AT = 1024, 0x38, b"\x53\xef", 0x68
_GETVERSION = (2 << 30) | (struct.calcsize("l") << 16) | (ord("v") << 8) | 1
"""FS_IOC_GETVERSION (linux/fs.h): an inode's generation, which distinguishes a re-used inode number from its first use."""

READ_ONLY = " mode=ro"
"""The end of the identity of a file that is declared read-only."""

_ID = "user.reconciler.id"
_written = re.compile(
    rf"ino=(\d{{1,20}}) gen=(-|\d{{1,20}})(?: id=(\S+))? size=(\d{{1,20}}) mtime=(-?\d{{1,20}})({READ_ONLY})?"
).fullmatch
_id_text = re.compile(r"[0-9a-f]{32}").fullmatch

_KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}


@dataclass(frozen=True, slots=True)
class Identity:
    """``generation`` is None where the file system has none, ``id`` where it has no extended attributes. Sizes in bytes.

    ``read_only``: the file has no write permission. This comes from the declaration, not from the file.
    """

    inode: int
    generation: int | None
    id: str | None
    size: int
    mtime_ns: int
    read_only: bool = False

    def __str__(self) -> str:
        mode = READ_ONLY if self.read_only else ""
        return f"ino={self.inode} gen={_text(self.generation)} id={_text(self.id)} size={self.size} mtime={self.mtime_ns}{mode}"

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """Parse the output of ``str``, or of an older version, which had no id; None for anything else."""
        found = _written(text)
        if found is None:
            return None
        inode, generation, id, size, mtime, mode = found.groups()
        generation = None if generation == "-" else int(generation)
        return cls(int(inode), generation, None if id == "-" else id, int(size), int(mtime), mode is not None)

    @classmethod
    def of(cls, fd: int) -> Identity:
        """Identity of an open regular file."""
        return cls._of(os.fstat(fd), _generation(fd), _id(fd))

    @classmethod
    def _of(cls, found: os.stat_result, generation: int | None = None, id: str | None = None) -> Identity:
        return cls(found.st_ino, generation, id, found.st_size, found.st_mtime_ns)

    def is_file(self, other: Identity) -> bool:
        """Whether both are one inode; where there are no generations its number may have been used again."""
        return self.inode == other.inode and (None in (self.generation, other.generation) or self.generation == other.generation)

    def recognises(self, other: Identity) -> bool:
        """Whether the other one is this file, or a copy of it that has its id."""
        if self.id is not None and self.id == other.id:
            return True
        if None in (self.generation, other.generation) and None not in (self.id, other.id):
            return False
        return self.is_file(other)


@dataclass(frozen=True, slots=True)
class FileState:
    """What exists under a name now; ``used`` in bytes."""

    identity: Identity
    mode: int
    used: int
    uid: int = -1
    gid: int = -1

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode)


def examine(path: Path | str) -> FileState | None:
    """Return what exists under ``path`` without following links; None if nothing does. Raises OSError.

    A file that may not be opened is described by its inode alone.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    identity = Identity._of(found)
    if stat.S_ISREG(found.st_mode):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            return FileState(identity, found.st_mode, found.st_blocks * 512, found.st_uid, found.st_gid)
        except FileNotFoundError:
            return None
        try:
            identity = Identity.of(fd)
        finally:
            os.close(fd)
    return FileState(identity, found.st_mode, found.st_blocks * 512, found.st_uid, found.st_gid)


def give_id(fd: int) -> None:
    """Give a new file its id, where its file system has extended attributes."""
    with suppress(OSError):
        os.setxattr(fd, _ID, os.urandom(16).hex().encode())


def _id(fd: int) -> str | None:
    try:
        found = os.getxattr(fd, _ID).decode("ascii", "replace")
    except OSError:
        return None
    return found if _id_text(found) else None


def filesystem_uuid(fd: int) -> str | None:
    """UUID of the ext4 file system in a file, None where there is none."""
    return _uuid_in(os.pread(fd, 1024, _SUPERBLOCK))


def _uuid_in(superblock: bytes) -> str | None:
    if len(superblock) < 1024 or superblock[_MAGIC_AT : _MAGIC_AT + 2] != _MAGIC:
        return None
    return _uuid(superblock[_UUID_AT : _UUID_AT + 16])


def _uuid(raw: bytes) -> str:
    """As ``uuid.UUID`` spells it, for a tenth of the time: there is one for each file of a pool."""
    if len(raw) != 16:
        raise ValueError(f"{len(raw)} bytes are no UUID")
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def filesystem(device: Path) -> tuple[int | None, str | None]:
    """Size (bytes) and UUID of the ext4 file system that begins on a device; None where there is none."""
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return filesystem_of(os.pread(fd, 1024, _SUPERBLOCK))
    finally:
        os.close(fd)


def filesystem_of(superblock: bytes) -> tuple[int | None, str | None]:
    """Size (bytes) and UUID of the ext4 file system that has this superblock; None where it is none, or has no possible size.

    Guests write superblocks.
    """
    uuid = _uuid_in(superblock)
    if uuid is None:
        return None, None
    low, log = struct.unpack_from("<I", superblock, 4)[0], struct.unpack_from("<I", superblock, 24)[0]
    high = struct.unpack_from("<I", superblock, 0x150)[0] if superblock[0x60] & 0x80 else 0
    size = (high << 32 | low) << (10 + min(log, 6))
    return size if size < 1 << 63 else None, uuid


def judge_snapshot(remembered: str | None, found: FileState | None) -> tuple[Condition, str]:
    """Compare a snapshot with its recorded identity: condition and description. Its user may write to it and enlarge it."""
    return _judge(remembered, found, _snapshot_faults)


def judge_volume(remembered: str | None, found: FileState | None) -> tuple[Condition, str]:
    """Compare a sealed volume with its recorded identity. Another size, time or write permission is damage."""
    return _judge(remembered, found, _volume_faults)


def _snapshot_faults(was: Identity, found: FileState) -> list[str]:
    now = found.identity
    return [f"{now.size} bytes instead of {was.size}"] if now.size < was.size else []


def _volume_faults(was: Identity, found: FileState) -> list[str]:
    now = found.identity
    faults = []
    if now.size != was.size:
        faults.append(f"{now.size} bytes instead of {was.size}")
    elif now.mtime_ns != was.mtime_ns:
        faults.append("written to since it was sealed")
    if found.mode & 0o222:
        faults.append(f"writable (mode {stat.S_IMODE(found.mode):04o})")
    return faults


def _judge(
    remembered: str | None, found: FileState | None, faults_of: Callable[[Identity, FileState], list[str]]
) -> tuple[Condition, str]:
    if found is None:
        return Condition.MISSING, "no such file"
    if not found.regular:
        return Condition.REPLACED, f"a {_KINDS.get(stat.S_IFMT(found.mode), 'device')} is in its place"
    if remembered is None:
        return Condition.REPLACED, "this file is not in the registry"
    was = Identity.parse(remembered)
    if was is None:
        return Condition.REPLACED, "its recorded identity can't be read"
    if not was.recognises(found.identity):
        return Condition.REPLACED, _difference(was, found.identity)
    faults = faults_of(was, found)
    return (Condition.DAMAGED, "; ".join(faults)) if faults else (Condition.INTACT, "")


def _difference(was: Identity, now: Identity) -> str:
    return f"inode {now.inode} instead of {was.inode}" if now.inode != was.inode else f"inode {now.inode} was used again"


def _generation(fd: int) -> int | None:
    try:
        answer = fcntl.ioctl(fd, _GETVERSION, bytes(struct.calcsize("l")))
    except OSError:
        return None
    return int(struct.unpack_from("=I", answer)[0])


def _text(value: object) -> str:
    return "-" if value is None else str(value)
