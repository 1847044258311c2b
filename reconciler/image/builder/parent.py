"""One build, seen from the parent: feeds the builder process with layers as they arrive and waits for its milestones.

Used by ``lifecycle`` (volumes of a pool) and ``cli`` (``build``, ``inspect``). State: a child process, two threads and a channel,
all gone after ``close``. The child's packets decide about that volume only.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from reconciler import errors
from reconciler.image.builder import process
from reconciler.image.source import arrival
from reconciler.image.spec import Limits, filesystem_uuid

GRACE_SECONDS = 3.0
"""How long a refused layer's download may still take to show that the bytes were not the declared ones in the first place."""


VERDICTS: Mapping[str, type[errors.ReconcilerError]] = {
    kind.__name__: kind
    for kind in (errors.LayerCorrupt, errors.ImageTooSmall, errors.VolumeCorrupt, errors.Terminal, errors.NoSpace)
}
"""The errors that a builder may report of a volume, besides LayerRefused; any other one counts as its death."""


class Milestone(IntEnum):
    """The states of a volume's pipeline are milestones on one stream."""

    DOWNLOADED = 1
    ACCEPTED = 2
    WRITTEN = 3
    CHECKED = 4


class Fetch(Protocol):
    """A layer on its way (``source`` and ``spool`` make them)."""

    def open(self) -> int: ...
    def wait(self, beyond: int, timeout: float) -> arrival.Arrived: ...
    def result(self) -> arrival.Fetched: ...
    @property
    def progress(self) -> arrival.Progress: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Input:
    """One layer of the request. ``begin`` starts or joins its download when its turn has come.

    ``pinned``: its bytes may turn out not to be the declared ones; a refusal waits for that check.
    """

    name: str
    begin: Callable[[], Fetch]
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """What to build. ``chain`` maps the layers' digests to the chain's id; ``volume`` None judges and writes nothing.

    The first ``replay`` layers are already in the volume: they only rebuild the tree, which ``index_in`` would hold. ``room`` is
    how many bytes may be written to a block device, None where there is no bound.
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


class Build:
    """A context manager; leaving it ends the child, whatever it was doing."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._changed = threading.Condition()
        self._reached = 0
        self._error: BaseException | None = None
        self._report = Report()
        self._progress = Progress()
        self._fetches: list[Fetch] = []
        self._applied: list[Mapping[str, Any]] = []
        self._seen: dict[str, Any] = {}
        self._fetching = True
        self.blamed = ""
        """The name of the layer that ended the build, where one did."""
        self._closing = False
        self._owes_since: float | None = None
        """Since when the builder has had work and has sent nothing; None while it waits for the parent."""
        self._sent = 0
        self._threads = [
            threading.Thread(target=self._guarded, args=(job,), name=f"build-{job.__name__}", daemon=True)
            for job in (self._feed, self._listen)
        ]

    def __enter__(self) -> Build:
        self._child = process.start()
        try:
            self._say("request", fds=list(self._descriptors().values()), **self._describe())
        except (BrokenPipeError, ConnectionResetError):
            with contextlib.closing(self._child):
                raise self._child.post_mortem() from None
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _descriptors(self) -> dict[str, int]:
        wanted = {"volume": self._request.volume, "index_in": self._request.index_in, "index_out": self._request.index_out}
        return {name: fd for name, fd in wanted.items() if fd is not None}

    def _describe(self) -> dict[str, Any]:
        request = self._request
        return {
            "layers": len(request.layers),
            "size": request.size,
            "replay": request.replay,
            "room": request.room,
            "survey": request.survey,
            "limits": asdict(request.limits),
            "names": list(self._descriptors()),
        }

    # ------------------------------------------------------------------------------------------- for the caller

    @property
    def progress(self) -> Progress:
        return self._progress

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
            self._check_alive()
            if stop.is_set():
                raise errors.Stopped("stopped while a volume was being built", hint="run again to go on")
            if tick is not None:
                tick(self._progress)

    def close(self) -> None:
        self._closing = True
        self._child.channel.hang_up()
        self._child.end()
        for thread in self._threads:
            thread.join()
        for fetch in self._fetches:
            fetch.close()
        self._child.close()

    def _check_alive(self) -> None:
        since = self._owes_since
        if since is not None and time.monotonic() - since > process.PATIENCE_SECONDS:
            raise errors.BuilderDied(
                f"the builder process has sent nothing for {process.PATIENCE_SECONDS:.0f} s",
                hint="run again; if only this layer fails, check it with `reconcile inspect`",
            )

    # -------------------------------------------------------------------------------------------------- threads

    def _say(self, kind: str, fds: Sequence[int] = (), **body: Any) -> None:
        self._owes_since = time.monotonic()
        self._child.channel.send(kind, fds, **body)

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

    def _feed(self) -> None:
        """Pass the child one layer after the other, each as it grows; then send the chain's identity."""
        try:
            digests = tuple(self._feed_layer(number, layer) for number, layer in enumerate(self._request.layers))
        except (BrokenPipeError, ConnectionResetError):
            return  # the child has ended: the listener reports why
        finally:
            self._fetching = False
        chain = self._request.chain(digests)
        with self._changed:
            self._report = Report(self._report.layers, self._report.summary, digests, chain)
            self._reached = max(self._reached, Milestone.DOWNLOADED)
            self._changed.notify_all()

    def _feed_layer(self, number: int, layer: Input) -> str:
        self.blamed = layer.name  # until the builder refuses one: what goes wrong with a download is on its account
        fetch = layer.begin()
        self._fetches.append(fetch)
        fd = fetch.open()
        try:
            self._sent = 0
            self._say("layer", fds=[fd], name=layer.name)
        finally:
            os.close(fd)
        length, complete = 0, False
        while not complete and not self._closing:
            now = fetch.wait(length, 0.2)
            complete = now.complete
            if now.length > length:
                length = self._sent = now.length
                self._say("length", length=length)
            self._note(number, layer, fetch)
        self._sent += 1  # the end is something to read, too
        self._say("end")
        return fetch.result().digest

    def _note(self, number: int, layer: Input, fetch: Fetch) -> None:
        at, now = fetch.progress, self._progress
        read = now.read if now.layer == number else 0
        self._progress = Progress(number, layer.name, at.done, read, at.total, now.entries)

    def _listen(self) -> None:
        while (packet := self._child.channel.receive()) is not None:
            try:
                self._hear(packet.kind, process.believable(packet.body))
            except (KeyError, TypeError, ValueError) as nonsense:
                raise errors.BuilderDied(f"the builder process sent an invalid packet: {nonsense!r}") from nonsense
        if self._reached < Milestone.WRITTEN and not self._closing:
            raise self._child.post_mortem()

    def _hear(self, kind: str, body: Mapping[str, Any]) -> None:
        self._owes_since = time.monotonic()
        if kind == "progress":
            now = self._progress
            self._progress = Progress(now.layer, now.name, now.arrived, int(body["read"]), now.total, int(body["entries"]))
            if self._progress.read == self._sent:
                self._owes_since = None
        elif kind == "seen":
            self._seen |= dict(body["totals"])
        elif kind == "applied":
            self._owes_since = None
            self._applied.append(dict(body["totals"]))
        elif kind == "accepted" and self._request.replay + len(self._applied) == len(self._request.layers):
            self._owes_since = None
            report = self._await_download()
            if not report.chain:
                return  # the download has failed, and wait() reports it; without a commit the volume never becomes a file system
            for fetch in self._fetches:
                fetch.result()  # a file that is read where it lies must have stayed the same until its last byte was read
            report = Report(tuple(self._applied), {}, report.digests, report.chain)
            self._reach(Milestone.ACCEPTED, report)
            with contextlib.suppress(
                BrokenPipeError, ConnectionResetError
            ):  # it has died: its last words, or their lack, tell why
                self._say("commit", uuid=str(filesystem_uuid(report.chain)))
        elif kind == "written" and self._reached == Milestone.ACCEPTED:
            self._take_over(dict(body["summary"]))
        elif kind == "failed":
            self._let_the_download_speak()
            raise self._verdict(body)
        else:
            raise ValueError(kind)

    def _take_over(self, summary: Mapping[str, Any]) -> None:
        """The volume and its index are the parent's from here on: no process that has read the layer can write to them."""
        self._child.end()
        self._owes_since = None
        report = self._report
        self._reach(Milestone.WRITTEN, Report(report.layers, summary, report.digests, report.chain))
        if self._request.index_out is not None:
            os.lseek(self._request.index_out, 0, os.SEEK_SET)
            process.check_index(self._request.index_out)
        self._reach(Milestone.CHECKED, self._report)

    def _await_download(self) -> Report:
        with self._changed:
            self._changed.wait_for(lambda: self._reached >= Milestone.DOWNLOADED or self._error is not None or self._closing)
            return self._report

    def _let_the_download_speak(self) -> None:
        """Bytes that are not the declared ones are seldom a tar either; the digest is then the better error."""
        deadline = time.monotonic() + GRACE_SECONDS
        pinned = self._fetches and self._request.layers[len(self._fetches) - 1].pinned
        fetch = self._fetches[-1] if pinned else None
        while fetch is not None and self._error is None and self._fetching and time.monotonic() < deadline:
            try:
                if fetch.wait(1 << 62, 0.1).complete:
                    return
            except errors.ReconcilerError as error:
                self._fail(error)

    def _verdict(self, body: Mapping[str, Any]) -> errors.ReconcilerError:
        # What the builder has finished counts: the download may be layers ahead of it, and progress is sent at intervals only.
        number = min(self._request.replay + len(self._applied), len(self._request.layers) - 1)
        self.blamed = self._request.layers[number].name
        message = f"layer {self.blamed}: {body['message']}"
        if body["error"] == "LayerRefused":
            member = bytes.fromhex(body["member"])
            return errors.LayerRefused(message, rule=body["rule"], member=member, offset=body["offset"], hint=body["hint"])
        return VERDICTS.get(body["error"], errors.BuilderDied)(message, hint=body["hint"])
