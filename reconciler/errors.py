"""The error tree. The type of an error says what happens next; its ``reason`` is what users and tools see.

    ReconcilerError
    ├── Retryable               try the same step again later, with back-off
    │   ├── SourceUnavailable   S3 does not answer, throttles, or fails on its side
    │   ├── SourceChanged       the object was replaced while it was read
    │   ├── BuilderDied         the builder process ended without a verdict
    │   ├── NoSpace             the pool is below its reserve, or the host ran out of space
    │   ├── PoolUnusable        the pool can't be changed now: read-only, failed, or not what the registry knows
    │   └── Busy                something still holds the device or the file
    ├── Terminal                the same input gives the same failure: needs a new spec or a person
    │   ├── SourceNotFound      no such bucket, key or file
    │   ├── SourceForbidden     credentials are missing or not allowed
    │   ├── DigestMismatch      the bytes are not the ones that the manifest names
    │   ├── LayerCorrupt        truncated or damaged: not a whole tar, not a whole compressed stream
    │   ├── LayerRefused        a whole tar that the judge does not accept
    │   ├── NameTaken           the device's name belongs to a device that is not ours
    │   ├── ImageTooSmall       the file system's declared size cannot hold the layers
    │   └── VolumeCorrupt       e2fsck reported errors
    ├── NeedsOperator           nothing is tried again until a person has looked
    ├── Stopped                 asked to stop; the run stays resumable
    └── CommandError            ends the whole command with an exit code
        ├── ManifestsInvalid    4   nothing touched
        ├── Guarded             5   refused by a guard
        ├── NotConverged        6   time is up; safe to run again
        ├── UsageError          64
        ├── HostCannot          69
        └── LockHeld            75

Raised everywhere; caught by ``fsm`` (the first four branches) and by ``cli`` (everything). Keeps no state.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Protocol


class Exit(IntEnum):
    """Exit codes of the command, as documented for users (README, DESIGN section 5)."""

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


class ReconcilerError(Exception):
    """Everything that this package raises on purpose.

    ``message`` says what is wrong and names the thing; ``hint`` says what to do about it.
    ``reason`` is a CamelCase word from a closed, documented set.
    """

    reason: ClassVar[str] = "Error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Retryable(ReconcilerError):
    """The step may succeed later without any change to the manifests."""

    reason = "Retryable"


class SourceUnavailable(Retryable):
    reason = "SourceUnavailable"


class SourceChanged(Retryable):
    reason = "SourceChanged"


class BuilderDied(Retryable):
    reason = "BuilderDied"


class NoSpace(Retryable):
    reason = "PoolFull"


class PoolUnusable(Retryable):
    reason = "PoolUnavailable"


class Busy(Retryable):
    reason = "DeviceBusy"


class Terminal(ReconcilerError):
    """Doing the same again gives the same result."""

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
    """The judge does not accept a member, or the layer as a whole.

    ``rule`` is the short name of the rule (``name-climbs``, ``limit-entries`` …), ``member`` the name as it is stored
    (bytes; empty where no member is to blame), ``offset`` the byte of the decompressed tar where its header begins
    (None where the stream as a whole is to blame).
    """

    reason = "UnsafeArchive"

    def __init__(self, message: str, *, rule: str, member: bytes = b"", offset: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.member = member
        self.offset = offset


class NameTaken(Terminal):
    reason = "NameTaken"


class ImageTooSmall(Terminal):
    reason = "ImageTooSmall"


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
        super().__init__("\n".join(map(str, faults)))
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


class HostCannot(CommandError):
    reason = "HostUnsupported"
    exit = Exit.HOST_CANNOT


class LockHeld(CommandError):
    reason = "Locked"
    exit = Exit.LOCKED
