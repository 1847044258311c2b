"""The error tree. The type of an error decides what happens next; its ``reason`` is for users and tools.

    ReconcilerError
    ├── Retryable               the step is retried with back-off
    │   ├── SourceUnavailable   S3 does not answer, throttles, or fails on its side
    │   ├── SourceChanged       the object was replaced while it was read
    │   ├── BuilderDied         the builder process ended without a verdict
    │   ├── NoSpace             the pool is below its reserve, or the host ran out of space
    │   ├── DeviceFailed        the device or file system of a pool or output fails: an I/O error
    │   ├── PoolUnusable        the pool can't be changed now: read-only, failed, or not as the registry records it
    │   └── Busy                something still holds the device or the file
    │       └── SnapshotInUse   the snapshot is claimed
    ├── Terminal                the same input gives the same failure: needs a new spec or an operator
    │   ├── SourceNotFound      no such bucket, key or file
    │   ├── SourceForbidden     credentials are missing or not allowed
    │   ├── DigestMismatch      the bytes are not the ones that the manifest names
    │   ├── LayerCorrupt        truncated or damaged: not a whole tar, not a whole compressed stream
    │   ├── LayerRefused        a whole tar that a rule refuses
    │   ├── ImageRefused        a manifest, configuration or archive that is not an image that can be built
    │   ├── FileRefused         a file of a snapshot that can't be written where its path leads
    │   ├── NameTaken           the device's name belongs to a device that is not ours
    │   ├── ImageTooSmall       the file system's declared size cannot hold the layers
    │   ├── PolicyRefused       this host's policy does not permit what a manifest asks for
    │   └── VolumeCorrupt       e2fsck reported errors
    ├── NeedsOperator           nothing is retried until an operator asks for it
    ├── Stopped                 asked to stop; the run stays resumable
    └── CommandError            ends the whole command with an exit code
        ├── ManifestsInvalid    4   nothing touched
        ├── Guarded             5   refused by a guard
        │   ├── ClaimForbidden          the claim belongs to another user
        │   ├── ClaimEnded              the claim was released, or has expired
        │   ├── TtlRefused              the ttl is longer than the manifest permits
        │   └── IdempotencyKeyReused    the key was used for another request
        ├── NotConverged        6   time is up; safe to run again
        │   └── NoneReady               no snapshot is ready and unclaimed
        ├── UsageError          64
        │   └── ClaimNotFound
        ├── HostCannot          69
        │   └── RegistryUpgraded    a newer version has migrated the registry
        └── LockHeld            75

Raised everywhere; caught by ``engine`` (the first four branches) and by ``cli`` (all). Any other exception is an internal error,
exit code 70. No state.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Protocol


class Exit(IntEnum):
    """Exit codes of the command, as the README documents them."""

    OK = 0
    FAILED = 1
    CHANGED = 2
    INVALID = 4
    GUARDED = 5
    NOT_CONVERGED = 6
    USAGE = 64
    HOST_CANNOT = 69
    INTERNAL = 70
    LOCKED = 75
    SIGINT = 130
    SIGTERM = 143


def visible(text: str) -> str:
    """The text on one line without control characters, which come from servers, archives and foreign files, for a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ReconcilerError(Exception):
    """An error that this package expects.

    ``message`` names the object and what is wrong; ``hint`` is what to do about it. Both are ``visible``, as words of servers
    and archives may be in them. ``reason`` is a CamelCase word from a closed, documented set.
    """

    reason: ClassVar[str] = "Error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = visible(message), visible(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Retryable(ReconcilerError):
    """The step may succeed later with the same manifests."""

    reason = "Retryable"


class SourceUnavailable(Retryable):
    reason = "SourceUnavailable"


class SourceChanged(Retryable):
    reason = "SourceChanged"


class BuilderDied(Retryable):
    reason = "BuilderDied"


class NoSpace(Retryable):
    reason = "PoolFull"
    HINT: ClassVar[str] = "free some space, or put the volume where more is free"


class DeviceFailed(Retryable):
    reason = "DeviceFailed"
    HINT: ClassVar[str] = "check the device, and the kernel's log (dmesg)"


class PoolUnusable(Retryable):
    reason = "PoolUnavailable"


class Busy(Retryable):
    reason = "DeviceBusy"


class SnapshotInUse(Busy):
    reason = "SnapshotInUse"


class Terminal(ReconcilerError):
    """The same input gives the same failure."""

    reason = "Terminal"


class SourceNotFound(Terminal):
    reason = "SourceNotFound"


class SourceForbidden(Terminal):
    reason = "SourceForbidden"


class DigestMismatch(Terminal):
    reason = "DigestMismatch"


class LayerCorrupt(Terminal):
    reason = "LayerCorrupt"


class LayerRefused(Terminal):
    """A rule refuses a member, or the layer as a whole.

    ``rule`` is the short name of the rule (``name-climbs``, ``limit-entries`` …), ``member`` the name as it is stored
    (bytes; empty where it is not about a member), ``offset`` the byte of the decompressed tar where its header begins
    (None where it is about the stream as a whole).
    """

    reason = "UnsafeArchive"

    def __init__(self, message: str, *, rule: str, member: bytes = b"", offset: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.member = member
        self.offset = offset


class ImageRefused(Terminal):
    reason = "ImageRefused"


class NameTaken(Terminal):
    reason = "NameTaken"


class SnapshotUnrecognised(Terminal):
    """The file or device that has a snapshot's name is not the one that was created: only the operator decides about it."""

    reason = "SnapshotUnrecognised"


class ImageTooSmall(Terminal):
    """``needed`` is the size in bytes that holds the layers; 0 where that is unknown."""

    reason = "ImageTooSmall"

    def __init__(self, message: str, *, hint: str = "", needed: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class FileRefused(Terminal):
    """A file of a snapshot can't be written where its path leads."""

    reason = "FileRefused"


class PolicyRefused(Terminal):
    """The hint names the key of ``host.yaml`` that permits it."""

    reason = "PolicyRefused"


class VolumeCorrupt(Terminal):
    reason = "FilesystemCorrupt"


class NeedsOperator(ReconcilerError):
    reason = "OperatorRequired"


class Stopped(ReconcilerError):
    """``exit`` is the process's exit code where the command ends by it: that of the signal."""

    reason = "Stopped"
    exit: Exit = Exit.SIGINT


class CommandError(ReconcilerError):
    """Ends the command; ``exit`` is the process's exit code."""

    exit: ClassVar[Exit] = Exit.FAILED


class Position(Protocol):
    """The place in a file, line and column from 1."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class ManifestFault(Protocol):
    """What is wrong in a file, at ``length`` characters from ``where`` on. Its text is ``file:line:column: path: message``."""

    @property
    def where(self) -> Position: ...
    @property
    def length(self) -> int: ...
    @property
    def message(self) -> str: ...


class ManifestsInvalid(CommandError):
    """``faults`` are all faults, in order of file and position."""

    reason = "InvalidSpec"
    exit = Exit.INVALID

    def __init__(self, faults: tuple[ManifestFault, ...]) -> None:
        super().__init__("")
        self.message = "\n".join(map(str, faults))  # a line each
        self.faults = faults


class Guarded(CommandError):
    reason = "Guarded"
    exit = Exit.GUARDED


class NotConverged(CommandError):
    reason = "NotConverged"
    exit = Exit.NOT_CONVERGED


class UsageError(CommandError):
    reason = "Usage"
    exit = Exit.USAGE


class ClaimForbidden(Guarded):
    reason = "ClaimForbidden"


class ClaimEnded(Guarded):
    reason = "ClaimEnded"


class TtlRefused(Guarded):
    reason = "TtlRefused"


class IdempotencyKeyReused(Guarded):
    reason = "IdempotencyKeyReused"


class NoneReady(NotConverged):
    reason = "NoneReady"


class ClaimNotFound(UsageError):
    reason = "ClaimNotFound"


class HostCannot(CommandError):
    reason = "HostUnsupported"
    exit = Exit.HOST_CANNOT


class RegistryUpgraded(HostCannot):
    """A newer version has migrated the registry: this one neither reads nor writes it. A service of it ends with exit code 0."""

    reason = "RegistryUpgraded"


class LockHeld(CommandError):
    reason = "Locked"
    exit = Exit.LOCKED
