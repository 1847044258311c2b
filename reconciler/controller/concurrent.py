"""What a service does beside work that is under way: a download of an hour is no reason to let a commit or a lost snapshot wait.

Made by ``service``, called by ``execute`` in the main thread again and again while actions run. It adds and mends, a few images
at a time (``ahead``), and touches nothing that the running batch is about; whatever needs more waits for the next pass. What it
reads may be newer than what the pass works for, which must then remove nothing (``outdated``). State: what was seen last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace

from reconciler.controller import converge, fast_path
from reconciler.controller.backoff import Patience
from reconciler.controller.context import Host
from reconciler.controller.converge import Wish
from reconciler.errors import ReconcilerError
from reconciler.manifests.watch import SHARE, TreeState, same_content, scan
from reconciler.model import Action, Desired, Key, Kind, Verb
from reconciler.output.progress import Progress
from reconciler.output.result import Result

EVERY_SECONDS = 1.0
"""How often it is looked whether there is anything; less often where looking is dear."""

DEEPEST = 3
"""What is done beside may take its time, too, and have something done beside it."""

MENDING = frozenset((Verb.CREATE, Verb.REPAIR, Verb.ACTIVATE))
PATIENT = fast_path.MAKING | MENDING | {Verb.RECORD, Verb.REBUILD}
"""Beside anything else, a removal above all, nothing is begun."""


class Beside:
    """Call it with the actions of a batch while they run; what it has done itself it gives to ``tell``."""

    def __init__(
        self,
        wish: Wish,
        progress: Progress,
        patience: Patience,
        tell: Callable[[Result], None],
        *,
        stop: threading.Event,
    ) -> None:
        self._wish = wish
        self._progress = _Within(progress)
        self._patience = patience
        self._tell = tell
        self._stop = stop
        self._host: Host | None = None
        self._desired = Desired({}, {})
        self._busy: list[frozenset[Key]] = []
        self._seen: TreeState | None = None
        self._read: TreeState | None = None
        self._next = 0.0
        self.outdated = False

    def begin(self, host: Host) -> None:
        """With the hands of a host whose manifests have just been read."""
        self._host, self._desired, self.outdated = host, host.desired, False

    def __call__(self, batch: Collection[Action]) -> None:
        now = time.monotonic()
        if self._host is None or now < self._next or len(self._busy) >= DEEPEST or self._stop.is_set():
            return
        if any(action.verb not in PATIENT for action in batch):
            return
        self._busy.append(frozenset(action.key for action in batch))
        started = time.thread_time()
        try:
            with suppress(ReconcilerError):  # what is wrong is told by the pass that follows
                self._look(self._host)
        finally:
            self._busy.pop()
            self._next = time.monotonic() + max(EVERY_SECONDS, (time.thread_time() - started) / SHARE)

    def _look(self, host: Host) -> None:
        if self._has_settled(host):
            read = host.informed(self._wish.on_invalid)
            names = fast_path.changed(self._desired, read.desired) if not read.faults else frozenset()
            if names:
                self.outdated = True  # what fails half-way has made something, too
                if self._do(host.wishing(read.desired), names, fast_path.MAKING):
                    self._desired = read.desired
        mine = host.wishing(self._desired)
        if names := self._broken(mine):
            self._do(mine, names, fast_path.MAKING | MENDING)

    def _has_settled(self, host: Host) -> bool:
        """Whether the manifests are others than those that were read last, and have been like this for a moment."""
        sight, before = scan(host.settings.manifests), self._seen
        self._seen = sight
        if before is None or sight.locked or not same_content(before, sight):
            return False
        if self._read is not None and same_content(self._read, sight):
            return False
        self._read = sight
        return True

    def _broken(self, host: Host) -> frozenset[str]:
        """Images of which a snapshot has to be mended, and can be."""
        plan = converge.look(host, replace(self._wish, prune=False)).plan
        keys = {action.key for action in plan.actions}
        ready = [a for a in plan.actions if a.kind is Kind.SNAPSHOT and a.verb in MENDING and keys.isdisjoint(a.after)]
        withheld = self._patience.withheld(ready, (), time.monotonic())
        busy = frozenset[Key]().union(*self._busy)
        names = frozenset(action.image for action in ready if action.key not in withheld and action.key not in busy)
        return names if len(names) <= fast_path.MOST else frozenset()

    def _do(self, host: Host, names: Collection[str], verbs: Collection[Verb]) -> bool:
        result = fast_path.converge(
            host,
            names,
            self._wish,
            self._progress,
            stop=self._stop,
            patience=self._patience,
            only=verbs,
            busy=frozenset[Key]().union(*self._busy),
            meanwhile=self,
        )
        if result is not None:
            self._tell(result)
        return result is not None


class _Within:
    """A ``Progress`` that is shown already."""

    def __init__(self, progress: Progress) -> None:
        self.update, self.finish, self.tick = progress.update, progress.finish, progress.tick

    def __enter__(self) -> _Within:
        return self

    def __exit__(self, *exc: object) -> None:
        return None
