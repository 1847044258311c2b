"""The service: converge, wait, converge again, for ever; and tell the service manager, the metrics and the log about it.

Called by ``cli`` where ``--once`` is not given. State: what was complained about, what failed before, and what metrics count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.controller import fast_path
from reconciler.controller.backoff import Patience
from reconciler.controller.concurrent import Beside
from reconciler.controller.context import Host
from reconciler.controller.converge import Wish, converge
from reconciler.errors import Guarded, ManifestFault, ReconcilerError, Stopped
from reconciler.manifests.faults import ignored_documents
from reconciler.manifests.watch import Watch
from reconciler.model import Action, Finding, Verb
from reconciler.output import console
from reconciler.output.progress import Progress
from reconciler.output.result import Result
from reconciler.registry.marks import next_end
from reconciler.telemetry.systemd import Heart, notify

if TYPE_CHECKING:
    from reconciler.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Telling:
    """Where metrics go: a file, a port on loopback, both or neither."""

    file: Path | None = None
    port: int | None = None


class Service:
    def __init__(self, host: Host, wish: Wish, progress: Progress, telling: Telling, *, stop: threading.Event) -> None:
        self._host = host
        self._wish = wish
        self._stop = stop
        self._heart = Heart(progress, stop)
        self._patience = Patience()
        self._beside = Beside(wish, self._heart, self._patience, self._tell_ahead, stop=stop)
        self._complaints: tuple[ManifestFault, ...] = ()
        self._ignored = ""
        self._ahead: list[Result] = []
        self._told: frozenset[tuple[str, ...]] = frozenset()
        self._refused = False
        self._changed = self._measured = time.time()
        self._file = telling.file
        self._metrics = _metrics(telling)
        self._watch = Watch(
            host.settings.manifests, lambda: self._host.pulse(), stop=stop, resync=host.settings.resync, tick=self._heart.beat
        )

    def run(self) -> None:
        """Converge now, and again whenever something may have changed, until asked to stop (see ``watching``).

        Manifests with faults are complained about; what they declared last stays as it is, and nothing is pruned.
        """
        notify({"READY": "1", "STATUS": "first pass"})
        for named in self._watch.wakes():
            try:
                if named:
                    self._glance(named)
                else:
                    self._pass()
            except Stopped:
                break
            except ReconcilerError as error:
                console.note(f"error: {error}", "error")
                notify({"STATUS": f"error: {error.message}"})
                self._watch.begin_observation()  # what it changed before it failed is no reason to try again at once
            _ = self._host.engine  # what it is made of is imported now, and not when the first change is waited for
            self._watch.end_observation()
            self._watch.wake_by(min(self._patience.next(), self._next_end()))
        notify({"STOPPING": "1"})

    def _next_end(self) -> float:
        """When a suspension or a grace period ends, in monotonic seconds."""
        now = time.time()
        return time.monotonic() + next_end(self._host.records.marks(), now, self._wish.grace) - now

    def _pass(self) -> None:
        notify({"STATUS": "looking at what has changed"})
        before = self._host.desired
        self._host = self._host.informed(self._wish.on_invalid)
        self._host.remember()
        self._complain()
        self._beside.begin(self._host)
        if self._host.desired != before:
            self._changed = time.time()
        self._converge_ahead(self._host, fast_path.changed(before, self._host.desired))
        result = self._converge()
        console.show_result(self._news(result))
        ready = sum(1 for one in result.objects if one.ok)
        faults = console.counted(len(self._host.faults), "fault")
        notify({"STATUS": f"{ready}/{len(result.objects)} ready, {len(result.held)} held, {faults}"})
        self._measure(result)

    def _glance(self, named: Collection[str]) -> None:
        """Make at once what files declare that are said to have changed. All others are looked at in the pass that follows."""
        notify({"STATUS": "looking at what has changed"})
        host = self._host.glanced(named)
        if host is not None:
            self._beside.begin(host)
            self._converge_ahead(host, fast_path.changed(self._host.desired, host.desired), only=fast_path.MAKING)

    def _converge_ahead(self, host: Host, names: Collection[str], *, only: Collection[Verb] | None = None) -> None:
        """Who waits for one image of thousands need not wait until all others have been looked at."""
        if names:
            result = fast_path.converge(
                host,
                names,
                self._wish,
                self._heart,
                stop=self._stop,
                patience=self._patience,
                only=only,
                meanwhile=self._beside,
            )
            if result is not None:
                self._tell_ahead(result)

    def _tell_ahead(self, result: Result) -> None:
        self._ahead.append(result)
        console.show_result(result)

    def _converge(self) -> Result:
        """What a guard does not let go stays; that is no reason not to do the rest."""
        self._refused = False
        try:
            return self._converge_as(self._wish)
        except Guarded as refused:
            self._refused = True
            console.note(f"error: nothing is pruned: {refused}", "error")
            return self._converge_as(replace(self._wish, prune=False))

    def _converge_as(self, wish: Wish) -> Result:
        return converge(
            self._host,
            wish,
            self._heart,
            stop=self._stop,
            patience=self._patience,
            before_looking=self._watch.begin_observation,
            meanwhile=self._beside,
            outdated=lambda: self._beside.outdated,
        )

    def _news(self, result: Result) -> Result:
        """Without what was found or held in the pass before, too: a service's log is read by people."""
        before = self._told
        self._told = frozenset({*map(_topic, result.findings), *map(_topic, result.held)})
        findings = tuple(one for one in result.findings if _topic(one) not in before)
        return replace(result, findings=findings, held=tuple(one for one in result.held if _topic(one) not in before))

    def _measure(self, result: Result) -> None:
        done_ahead, self._ahead = self._ahead, []
        if self._metrics is None:
            return
        from reconciler.telemetry.metrics import Pass

        host, attempts = self._host, self._host.records.attempts(self._measured)
        self._measured = max((one.ended for one in attempts), default=self._measured)
        told = Pass(result, len(host.faults), host.records.marks(), attempts, self._heart.downloaded, ahead=done_ahead)
        self._metrics.record(replace(told, prune_refused=self._refused, manifests_changed=self._changed, revision=host.revision))
        if self._file is not None:
            self._metrics.write(self._file)

    def _complain(self) -> None:
        """Once for each new set of faults, and of documents that are ignored."""
        now, before = self._host, self._complaints
        ignored, self._ignored = self._ignored, ignored_documents(now.notes)
        if self._ignored not in ("", ignored):
            console.note(self._ignored)
        self._complaints = now.faults
        if now.faults == before:
            return
        for fault in now.faults:
            console.note(f"error: {fault}", "error")
        if now.faults:
            stays = f"{console.counted(len(now.frozen), 'file')} {'stays' if len(now.frozen) == 1 else 'stay'} as declared last"
            kept = stays if now.frozen else "what they declare is not known"
            console.note(
                f"note: {console.counted(len(now.faults), 'fault')} in the manifests: {kept}, and nothing is pruned", "warning"
            )
        else:
            console.note("note: the manifests have no fault any more", "warning")


def _topic(one: Finding | Action) -> tuple[str, ...]:
    """What it is about: how many seconds are left, say, is no news."""
    return (one.subject.path, one.reason) if isinstance(one, Finding) else (one.key.path, str(one.verb))


def _metrics(telling: Telling) -> Metrics | None:
    if telling.file is None and telling.port is None:
        return None
    from reconciler.telemetry.metrics import Metrics

    metrics = Metrics()
    if telling.port is not None:
        metrics.serve(telling.port)
    return metrics
