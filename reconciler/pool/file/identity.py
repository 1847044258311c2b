"""The identity by which a file pool recognises its files, and distinguishes a swapped file from a moved or restored one.

An identity is one line of text in the registry:
``ino=131 gen=2891336453 uuid=… size=… mtime=…``. A file is recognised by its inode (number and generation) or by the UUID
in its ext4 superblock: a copy or a restored backup has another inode and the same UUID, a snapshot with a new file system, made
by its user, has the same inode and another UUID, and a file that was swapped has neither.

Called by ``pool.file.pool``. Keeps no state; reads at most 1 KiB of a file.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.pool.driver import Condition

_SUPERBLOCK, _MAGIC_AT, _MAGIC, _UUID_AT = 1024, 0x38, b"\x53\xef", 0x68
_GETVERSION = (2 << 30) | (struct.calcsize("l") << 16) | (ord("v") << 8) | 1
"""FS_IOC_GETVERSION (linux/fs.h): an inode's generation, which distinguishes a re-used inode number from its first use."""

_KINDS = {stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}


@dataclass(frozen=True, slots=True)
class Identity:
    """``generation`` is None where the file system has none, ``uuid`` where the file holds no ext4 superblock. Sizes in bytes."""

    inode: int
    generation: int | None
    uuid: str | None
    size: int
    mtime_ns: int

    def __str__(self) -> str:
        return f"ino={self.inode} gen={_text(self.generation)} uuid={_text(self.uuid)} size={self.size} mtime={self.mtime_ns}"

    @classmethod
    def parse(cls, text: str) -> Identity | None:
        """Parse the output of ``str``; None for anything else."""
        fields = dict(word.partition("=")[::2] for word in text.split())
        try:
            return cls(
                inode=int(fields["ino"]),
                generation=None if fields["gen"] == "-" else int(fields["gen"]),
                uuid=None if fields["uuid"] == "-" else _uuid(bytes.fromhex(fields["uuid"].replace("-", ""))),
                size=int(fields["size"]),
                mtime_ns=int(fields["mtime"]),
            )
        except (KeyError, ValueError):
            return None

    @classmethod
    def of(cls, fd: int) -> Identity:
        """Identity of an open regular file."""
        return cls._of(os.fstat(fd), _generation(fd), filesystem_uuid(fd))

    @classmethod
    def _of(cls, found: os.stat_result, generation: int | None = None, uuid: str | None = None) -> Identity:
        return cls(found.st_ino, generation, uuid, found.st_size, found.st_mtime_ns)

    def recognises(self, other: Identity) -> bool:
        generations = {self.generation, other.generation}
        same_inode = self.inode == other.inode and (None in generations or len(generations) == 1)
        return same_inode or (self.uuid is not None and self.uuid == other.uuid)


@dataclass(frozen=True, slots=True)
class FileState:
    """What exists under a name now; ``used`` in bytes."""

    identity: Identity
    mode: int
    used: int

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
            return FileState(identity, found.st_mode, found.st_blocks * 512)
        except FileNotFoundError:
            return None
        try:
            identity = Identity.of(fd)
        finally:
            os.close(fd)
    return FileState(identity, found.st_mode, found.st_blocks * 512)


def filesystem_uuid(fd: int) -> str | None:
    """UUID of the ext4 file system in a file, None where there is none."""
    superblock = os.pread(fd, 1024, _SUPERBLOCK)
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
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        uuid = filesystem_uuid(fd)
        superblock = os.pread(fd, 1024, _SUPERBLOCK)
    finally:
        os.close(fd)
    if uuid is None:
        return None, None
    low, log = struct.unpack_from("<I", superblock, 4)[0], struct.unpack_from("<I", superblock, 24)[0]
    high = struct.unpack_from("<I", superblock, 0x150)[0] if superblock[0x60] & 0x80 else 0
    return (high << 32 | low) << (10 + min(log, 6)), uuid


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
        return Condition.DAMAGED, f"a {_KINDS.get(stat.S_IFMT(found.mode), 'device')} is in its place"
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
    inode = f"inode {now.inode} instead of {was.inode}" if now.inode != was.inode else f"inode {now.inode} was used again"
    return f"{inode}, and {'no ext4 file system in it' if now.uuid is None else 'another file system UUID'}"


def _generation(fd: int) -> int | None:
    try:
        answer = fcntl.ioctl(fd, _GETVERSION, bytes(struct.calcsize("l")))
    except OSError:
        return None
    return int(struct.unpack_from("=I", answer)[0])


def _text(value: object) -> str:
    return "-" if value is None else str(value)
