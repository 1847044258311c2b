"""Creates, replaces and activates the snapshots of a file pool. The intents in the registry settle what was interrupted.

Called by ``pool.file.pool``. No state.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from reconciler import atomic_file
from reconciler.dataclass import dataclass, replace
from reconciler.errors import ReconcilerError, Retryable, SnapshotUnrecognised
from reconciler.pool.access import Access
from reconciler.pool.driver import BATCH, Condition, Heartbeat, SnapshotRequest, is_read_only
from reconciler.pool.file.admission import Admission
from reconciler.pool.file.directory import Shelf
from reconciler.pool.file.failures import reported
from reconciler.pool.file.identity import Identity, examine, judge_snapshot
from reconciler.pool.file.intents import Intent, Intents

WRITING = 0o222
"""The permissions that a read-only snapshot lacks."""


@dataclass(frozen=True)
class Snapshots:
    """``copy`` writes a volume's content into an open file; ``free`` raises Busy for a snapshot that is held."""

    pool: str
    shelf: Shelf
    intents: Intents
    access: Access | None
    admission: Admission
    copy: Callable[[str, int, Heartbeat], None]
    free: Callable[[str], None]

    def create(self, requests: Sequence[SnapshotRequest], heartbeat: Heartbeat) -> dict[str, str | ReconcilerError]:
        """Return each one's identity or error, by name. A batch is one transaction of intents."""
        results: dict[str, str | ReconcilerError] = {}
        beat = Beat(heartbeat)
        for at in range(0, len(requests), BATCH):
            results |= self._create_batch(requests[at : at + BATCH], beat)
        return results

    def _create_batch(self, batch: Sequence[SnapshotRequest], beat: Beat) -> dict[str, str | ReconcilerError]:
        results: dict[str, str | ReconcilerError] = {}
        with ExitStack() as discarding:
            with self._reported("create snapshots"):
                known = self.intents.read()
            new: dict[str, Intent] = {}
            for one in batch:
                try:
                    if one is not batch[0]:
                        beat()
                    finished = self._finished(one.name, known.get(one.name))
                    if finished is None:
                        new[one.name] = self._draft(one, beat, discarding)
                    results[one.name] = finished or new[one.name].identity
                except ReconcilerError as error:
                    if beat.ended:
                        self._publish(new)  # a copy may have taken minutes
                        raise
                    results[one.name] = error
            return results | self._publish(new)

    def _draft(self, wanted: SnapshotRequest, beat: Heartbeat, discarding: ExitStack) -> Intent:
        """A complete, durable file under its hidden name; ``discarding`` removes what does not get another name."""
        self.admission.admit(0)
        with self._reported(f"create snapshot {wanted.name}"):
            fd = self.shelf.begin(wanted.name)
            discarding.callback(self.shelf.discard, wanted.name)
            try:
                self._fill(fd, wanted, beat)
                if self.access:
                    self.access.apply(fd)
                protect(fd, read_only=is_read_only(wanted.content))
                os.fsync(fd)
                return Intent(_identity(fd, wanted), wanted.content)
            finally:
                os.close(fd)

    def _fill(self, fd: int, wanted: SnapshotRequest, beat: Heartbeat) -> None:
        """Copy the volume, and customize the copy while it has no name but the hidden one."""
        self.copy(wanted.chain, fd, beat)
        if custom := wanted.custom:
            if custom.size > os.fstat(fd).st_size:
                os.ftruncate(fd, custom.size)
            custom.write(fd)

    def _publish(self, new: Mapping[str, Intent]) -> dict[str, ReconcilerError]:
        """Record the intents, then give the drafts their names. Return the errors."""
        errors: dict[str, ReconcilerError] = {}
        if not new:
            return errors
        try:
            with self._reported("create snapshots"):
                self.intents.write(new)
                for name in new:
                    try:
                        self.shelf.publish(name)
                    except FileExistsError:
                        errors[name] = self._unrecognised(name, "a file that is not in the registry has its name")
                self.shelf.sync()
        except ReconcilerError as error:
            return dict.fromkeys(new, error)
        return errors

    def _finished(self, name: str, intent: Intent | None) -> str | None:
        """The identity of the snapshot that an interrupted run has created. Raises SnapshotUnrecognised for any other file."""
        with self._reported(f"create snapshot {name}"):
            found = examine(self.shelf.path(name))
        if found is None:
            return None
        if intent is None or not intent.names(found):
            raise self._unrecognised(name, "a file that is not in the registry has its name")
        return intent.identity

    def _unrecognised(self, name: str, why: str) -> SnapshotUnrecognised:
        path, place = self.shelf.path(name), f"snapshot/{self.pool}/{name}"
        keep = f"`reconcile import {place} --image IMAGE` keeps the file"
        return SnapshotUnrecognised(
            f"snapshot {name}: {path}: {why}", hint=f"{keep}, `reconcile retry --recreate {place}` sets it aside"
        )

    def activate(self, name: str, identity: str) -> None:
        """Give the file the declared owner, group and mode."""
        was = Identity.parse(identity)
        if self.access is None and not (was and was.read_only):
            return
        with self._reported(f"change owner and mode of snapshot {name}"), self._recorded(name, identity, os.O_RDONLY) as fd:
            if self.access:
                self.access.apply(fd)
            protect(fd, read_only=was is not None and was.read_only)

    def grow(self, name: str, identity: str, size: int) -> str:
        """Enlarge the file; what follows its end are zeros. The size in its identity is the one that it was given."""
        with self._reported(f"grow snapshot {name}"), self._recorded(name, identity, os.O_RDWR) as fd:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
                os.fsync(fd)
            return str(replace(Identity.of(fd), size=size))

    @contextmanager
    def _recorded(self, name: str, identity: str, flags: int) -> Iterator[int]:
        """The descriptor of the file. Raises Retryable where it is missing, SnapshotUnrecognised where it is another one."""
        try:
            fd = os.open(self.shelf.path(name), flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Retryable(f"snapshot {name} of pool {self.pool} is missing", hint="the next run creates it") from None
        try:
            was, now = Identity.parse(identity), Identity.of(fd)
            if identity and not (was and was.recognises(now)):
                raise self._unrecognised(name, "it was replaced just now")
            yield fd
        finally:
            os.close(fd)

    def replace(self, wanted: SnapshotRequest, identity: str, heartbeat: Heartbeat) -> str:
        """Rename a new file over the snapshot; it has the declared access, or that of the old one. Return its identity."""
        self.admission.admit(0)
        name, content = wanted.name, wanted.content
        with self._reported(f"replace snapshot {name}"):
            intent = self.intents.read().get(name)
            if (
                intent
                and intent.content == content
                and intent.identity != identity
                and intent.names(examine(self.shelf.path(name)))
            ):
                return intent.identity
            self._require_recorded(name, identity)
            self.free(name)
            fd = self.shelf.begin(name)
            try:
                self._fill(fd, wanted, heartbeat)
                if self.access:
                    self.access.apply(fd)
                else:
                    atomic_file.keep_access(fd, self.shelf.path(name))
                protect(fd, read_only=is_read_only(wanted.content))
                os.fsync(fd)
                heartbeat()
                self.free(name)  # copying and syncing may have taken a while
                self._require_recorded(name, identity)
                made = _identity(fd, wanted)
                self.intents.write({name: Intent(made, content)})
                self.shelf.exchange(name)
                return made
            finally:
                os.close(fd)
                self.shelf.discard(name)

    def _require_recorded(self, name: str, identity: str) -> None:
        """Raise SnapshotUnrecognised where something has the name that is not the recorded snapshot. Absent is success."""
        condition, detail = judge_snapshot(identity, examine(self.shelf.path(name)))
        if condition is Condition.REPLACED:
            raise self._unrecognised(name, detail)

    def set_aside(self, name: str, identity: str) -> None:
        """Rename the file that has the name, if it has this identity."""
        with self._reported(f"set snapshot {name} aside"):
            found = examine(self.shelf.path(name))
            if found is None:
                return
            asked = Identity.parse(identity)
            if asked is None or not asked.is_file(found.identity):
                raise self._unrecognised(name, "another file has its name than when `retry --recreate` was given")
            self.free(name)
            self.shelf.set_aside(name)

    def _reported(self, doing: str) -> AbstractContextManager[None]:
        return reported(f"pool {self.pool}: can't {doing}", self.shelf.directory.parent)


def protect(fd: int, *, read_only: bool) -> None:
    """Remove every write permission; or restore the owner's where there is none."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if read_only:
        os.fchmod(fd, mode & ~WRITING)
    elif not mode & WRITING:
        os.fchmod(fd, mode | stat.S_IWUSR)


def _identity(fd: int, wanted: SnapshotRequest) -> str:
    return str(replace(Identity.of(fd), read_only=is_read_only(wanted.content)))


@dataclass
class Beat:
    """A heartbeat that remembers whether it has raised: its error ends a batch, that of a request does not."""

    heartbeat: Heartbeat
    ended: bool = False

    def __call__(self) -> None:
        try:
            self.heartbeat()
        except BaseException:
            self.ended = True
            raise
