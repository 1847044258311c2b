"""One build, seen from the parent: feeds the builder process with layers as they arrive and waits for its milestones.

Used by ``host.pipelines`` (volumes of a pool) and ``cli`` (``build``, ``inspect``). State: a child process, two threads and a
channel, all gone after ``close``. The child's packets decide about that volume only.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Any
from uuid import UUID

from reconciler import errors
from reconciler.dataclass import asdict, dataclass, field, replace
from reconciler.image.builder import process
from reconciler.image.builder.due import Counts, Due
from reconciler.image.builder.feed import GRACE_SECONDS, Feed, Input
from reconciler.image.builder.measures import Gap, gaps
from reconciler.image.builder.protocol import MESSAGE_LENGTH, advisable, verdicts
from reconciler.image.builder.ring import SIZE, Ring
from reconciler.image.free_space import Watch
from reconciler.image.spec import Limits, filesystem_uuid
from reconciler.policy import force
from reconciler.policy.rules import Refusal

JOIN_SECONDS = 2.0
"""How long ``close`` waits for a thread; one that a source's file system holds is left behind."""

VERDICTS = verdicts(errors.LayerCorrupt, errors.DigestMismatch)
"""Of a volume; besides, there is LayerRefused."""

CONFINEMENT_POLL_SECONDS = 0.5
LABEL_BYTES = 16
SPACE_SECONDS = 0.2
"""How often the space of a volume's pool is checked."""


class Milestone(IntEnum):
    """The states of a volume's pipeline are milestones on one stream."""

    DOWNLOADED = 1
    ACCEPTED = 2
    WRITTEN = 3
    CHECKED = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """What an image is named by: a UUID, its chain's where None, and a label of ``LABEL_BYTES`` at most."""

    uuid: UUID | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What to build. ``chain`` maps the layers' digests to the chain's id; ``volume`` None judges and writes nothing.

    The first ``replay`` layers are already in the volume: they only rebuild the tree, which ``index_in`` would hold. ``room`` is
    how many bytes may be written to a block device, None where there is no bound. ``bytes_per_inode`` is 0 for mke2fs's choice.
    ``unpack``: write the only layer's decompressed bytes, and no file system.
    """

    layers: tuple[Input, ...]
    size: int
    chain: Callable[[Sequence[str]], str]
    limits: Limits = field(default_factory=Limits)
    volume: int | None = None
    index_in: int | None = None
    index_out: int | None = None
    replay: int = 0
    room: int | None = None
    survey: bool = False
    """Have more counted than every build does, of layers that are refused, too: see ``Build.seen``."""
    identity: Identity = Identity()
    bytes_per_inode: int = 0
    check_space: Callable[[], None] = lambda: None
    """Raises NoSpace where the pool of the volume has lost its reserve. It ends the builder, whatever that reports."""
    ahead: int = SIZE
    """Most bytes that are fetched before the builder has read them."""
    unpack: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The builder's report: totals of each layer, and the volume's summary once it is written."""

    layers: tuple[Mapping[str, Any], ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """The stream's position: the layer that is being applied, and that layer's bytes (stored), read and in all where known."""

    layer: int = 0
    name: str = ""
    arrived: int = 0
    read: int = 0
    total: int | None = None
    entries: int = 0


def _stopped() -> errors.Stopped:
    return errors.Stopped("stopped while a volume was being built", hint="run again to go on")


class Build:
    """A context manager; leaving it ends the child, whatever it was doing. ``stop`` ends the waits for the child's process."""

    def __init__(self, request: Request, stop: threading.Event | None = None) -> None:
        self._request = request
        self._stop = stop
        self._changed = threading.Condition()
        self._reached = 0
        self._error: BaseException | None = None
        self._report = Report()
        self._progress = Progress()
        self._feed = Feed(request.layers, Ring(request.ahead), self._owe)
        self._due = Due()
        self._space = Watch(request.volume, request.index_out)
        self._space_checked = 0.0
        self._confined = self._committed = False
        self._applied: list[Mapping[str, Any]] = []
        self._seen: dict[str, Any] = {}
        self.gaps: tuple[Gap, ...] = ()
        """What is missing of the builder's confinement, known before it gets the first byte of a layer."""
        self.blamed = ""
        """The name of the layer that ended the build, where one did."""
        self._closing = False
        self._threads = [
            threading.Thread(target=self._guarded, args=(job,), name=f"build-{job.__name__}", daemon=True)
            for job in (self._hand_over, self._listen)
        ]

    def __enter__(self) -> Build:
        self._child = process.start(self._proceed)
        try:
            self._child.channel.send("request", fds=list(self._descriptors().values()), **self._describe())
        except (BrokenPipeError, ConnectionResetError):
            with contextlib.closing(self._child):
                raise self._child.post_mortem() from None
        self._owe()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _proceed(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise _stopped()

    def _descriptors(self) -> dict[str, int]:
        request = self._request
        wanted = {
            "volume": request.volume,
            "index_in": request.index_in,
            "index_out": request.index_out,
            "ring": self._feed.ring.fd,
        }
        return {name: fd for name, fd in wanted.items() if fd is not None}

    def _describe(self) -> dict[str, Any]:
        request = self._request
        return {
            "layers": len(request.layers),
            "size": request.size,
            "bytes_per_inode": request.bytes_per_inode,
            "replay": request.replay,
            "room": request.room,
            "survey": request.survey,
            "unpack": request.unpack,
            "limits": asdict(request.limits),
            "returned": self._feed.ring.returned,
            "names": list(self._descriptors()),
        }

    # ------------------------------------------------------------------------------------------- for the caller

    @property
    def progress(self) -> Progress:
        arrived = self._feed.progress
        return replace(self._progress, arrived=arrived.done, total=arrived.total)

    @property
    def seen(self) -> Mapping[str, Any]:
        """What the survey of the last layer has seen of it; of one that was refused, up to there."""
        return self._seen

    def wait(self, milestone: Milestone, *, stop: threading.Event, tick: Callable[[Progress], None] | None = None) -> Report:
        """Block until the milestone is reached and return the report so far.

        Raises what the download or the builder raised, Stopped when ``stop`` is set, BuilderDied.
        """
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                if self._reached >= milestone:
                    return self._report
                self._changed.wait(0.1)
            self._due.check()
            self._check_space()
            if stop.is_set():
                raise _stopped()
            if tick is not None:
                tick(self.progress)

    def _check_space(self) -> None:
        """What a builder that was taken over writes is bounded by this alone."""
        self._space.check()
        if (now := time.monotonic()) - self._space_checked >= SPACE_SECONDS:
            self._space_checked = now
            self._request.check_space()

    def close(self) -> None:
        self._closing = True
        self._child.channel.hang_up()
        try:
            self._child.end()
        finally:
            self._feed.close()
            for thread in self._threads:
                thread.join(JOIN_SECONDS)
            self._child.release()
            self._feed.ring.release()

    # -------------------------------------------------------------------------------------------------- threads

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # a thread's last word; re-raised in the caller's thread by wait()
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None and not self._closing:
                self._error = error
            self._changed.notify_all()

    def _reach(self, milestone: Milestone, report: Report) -> None:
        with self._changed:
            self._report, self._reached = report, milestone
            self._changed.notify_all()

    def _hand_over(self) -> None:
        """Pass the child the layers; then the chain's identity is known."""
        digests = self._feed.run(self._child.channel, self._begin)
        if digests is None:
            return  # the child has ended: the listener reports why
        chain = self._request.chain(digests)
        with self._changed:
            self._report = replace(self._report, digests=digests, chain=chain)
            self._reached = max(self._reached, Milestone.DOWNLOADED)
            self._changed.notify_all()

    def _begin(self, number: int) -> None:
        if force.current().requires_confinement:
            self._await_confinement()
        name = self._request.layers[number].name
        self.blamed = name  # until the builder refuses one: what goes wrong with a download is on its account
        self._progress = replace(self._progress, layer=number, name=name, read=0)

    def _owe(self) -> None:
        """Note what the builder has to answer next."""
        ring, done = self._feed.ring, len(self._applied)
        if not self._confined:
            self._due.owe("confined")
        elif ring.read < ring.filled:
            self._due.owe_bytes(ring.read, ring.filled)
        elif done < self._feed.ended:
            self._due.owe(f"applied {done}")
        elif done == len(self._request.layers) and self._reached < Milestone.ACCEPTED:
            self._due.owe("accepted")
        else:
            self._due.owe("written" if self._committed and self._reached < Milestone.WRITTEN else "")

    def _listen(self) -> None:
        layers, survey = len(self._request.layers), self._request.survey
        once = dict.fromkeys(("confined", "accepted", "written", "failed"), 1)
        counts = Counts({**once, "applied": layers, "seen": 2 * layers if survey else 0})
        try:
            while (packet := self._child.channel.answer()) is not None:
                counts.add(packet.kind, self._feed.occasions)
                self._take(packet.kind, packet.body)
                self._owe()
        except (KeyError, TypeError, ValueError) as nonsense:
            raise errors.BuilderDied(f"the builder process sent an invalid packet: {nonsense!r}") from nonsense
        if self._reached < Milestone.WRITTEN and not self._closing:
            raise self._child.post_mortem()

    def _take(self, kind: str, body: Mapping[str, Any]) -> None:
        done, layers = len(self._applied), len(self._request.layers)
        if kind == "failed":
            raise self._verdict(body)
        if kind == "confined":
            self._accept_confinement(gaps(body["measures"]))
        elif not self._confined:
            raise ValueError(kind)
        elif kind == "progress" and body["layer"] == done:
            self._feed.take(done, body["read"], body["held"])
            if self._progress.layer == done:
                self._progress = replace(self._progress, read=body["read"], entries=body["entries"])
        elif kind == "seen":
            self._seen |= dict(body["totals"])
        elif kind == "applied" and done < self._feed.ended:
            self._applied.append(dict(body["totals"]))
        elif kind == "accepted" and done == layers:
            self._accept()
        elif kind == "written" and self._committed:
            self._take_over(dict(body["summary"]))
        else:
            raise ValueError(kind)

    def _accept_confinement(self, gaps: tuple[Gap, ...]) -> None:
        """Raises PolicyRefused where this host's policy requires a measure that is missing."""
        policy, missing = force.current(), "; ".join(str(gap) for gap in gaps if gap.required)
        if missing and policy.requires_confinement:
            policy.require(Refusal("policy.confinement", f"the builder process is not fully confined: {missing}"))
        with self._changed:
            self.gaps, self._confined = gaps, True
            self._changed.notify_all()

    def _await_confinement(self) -> None:
        """Wait until the builder has reported it, or has ended. Raises what ended it."""
        with self._changed:
            while not self._confined and self._error is None and not self._closing:
                self._changed.wait(CONFINEMENT_POLL_SECONDS)
            if self._error is not None:
                raise self._error

    def _accept(self) -> None:
        report = self._await_download()
        if not report.chain:
            return  # the download has failed, and wait() reports it; without a commit the volume never becomes a file system
        self._reach(Milestone.ACCEPTED, replace(report, layers=tuple(self._applied[self._request.replay :])))
        self._committed = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died: its last words, or their lack, tell why
            identity = self._request.identity
            uuid = identity.uuid or filesystem_uuid(report.chain)
            self._child.channel.send("commit", uuid=str(uuid), label=identity.label)

    def _take_over(self, summary: Mapping[str, Any]) -> None:
        """The volume and its index are the parent's from here on: no process that has read the layer can write to them."""
        self._child.end()
        self._reach(Milestone.WRITTEN, replace(self._report, summary=summary))
        if self._request.index_out is not None:
            os.lseek(self._request.index_out, 0, os.SEEK_SET)
            process.check_index(self._request.index_out, self._proceed)
        self._reach(Milestone.CHECKED, self._report)

    def _await_download(self) -> Report:
        with self._changed:
            self._changed.wait_for(lambda: self._reached >= Milestone.DOWNLOADED or self._error is not None or self._closing)
            return self._report

    def _verdict(self, body: Mapping[str, Any]) -> errors.ReconcilerError:
        """The error that the builder reports. Bytes that turn out not to be the declared ones are the better one."""
        kind, message, hint = body["error"], body["message"][:MESSAGE_LENGTH], advisable(body["hint"])
        if not self._confined:
            return errors.BuilderDied(message, hint=hint)
        # What the builder has finished counts: the download may be layers ahead of it, and progress is sent at intervals only.
        number = min(len(self._applied), len(self._request.layers) - 1)
        layer = self._request.layers[number]
        self._feed.ring.close()
        if layer.pinned and self._feed.layer == number:
            self._threads[0].join(GRACE_SECONDS)
        self.blamed = layer.name
        hint = self._feed.hint(number, hint)
        message = f"{'archive' if self._request.unpack else 'layer'} {layer.name}: {message}"
        if kind == "LayerRefused":
            member = bytes.fromhex(body["member"])
            return errors.LayerRefused(message, rule=body["rule"], member=member, offset=body["offset"], hint=hint)
        if kind == "ImageTooSmall":
            return errors.ImageTooSmall(message, hint=hint, needed=body["needed"])
        return VERDICTS.get(kind, errors.BuilderDied)(message, hint=hint)
