"""What unpinned sources hold: each is asked once (HEAD, or stat of a file), and its answer serves until it is too old.

A source that does not answer in ``ANSWER_SECONDS`` counts as unavailable, and so do the others of an endpoint that answers
nothing; other endpoints are not held up. Used by ``assess``; ``planner.blocked`` decides what a failed request means for an
image. State: the last answer of each source.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from reconciler.errors import ReconcilerError, SourceUnavailable
from reconciler.host.calls import THREADS, Threads
from reconciler.image.source import s3
from reconciler.image.source.stamp import Head
from reconciler.image.spec import Source

ANSWER_SECONDS = 10.0
FAILED_SECONDS = 60.0
"""After this time an assessment asks again a source that could not be asked."""

AT_ONCE = 4
"""Requests to one endpoint at a time."""

Answer = Head | ReconcilerError


@dataclass(frozen=True, slots=True)
class Known:
    """``at`` is when the source was asked (monotonic seconds); ``answer`` None until it has answered."""

    at: float
    answer: Answer | None


def endpoint(source: Source) -> Hashable:
    """What sources share that hang together: an endpoint with its credentials, or a directory."""
    return source.s3 if source.is_s3 else str(PurePath(source.url).parent)


class Sources:
    """Thread-safe. Answers older than ``max_age`` seconds are asked for again; ``ask`` is replaced in simulations.

    ``on_late_answer`` is called, in the asking thread, where a caller has gone on without the answer.
    """

    def __init__(
        self,
        max_age: float,
        *,
        ask: Callable[[Source], Head] | None = None,
        on_late_answer: Callable[[], None] = lambda: None,
        threads: Threads = THREADS,
    ) -> None:
        self.on_late_answer = on_late_answer
        self._max_age = max_age
        self._ask = ask
        self._known: dict[Source, Known] = {}
        self._waiting: defaultdict[Hashable, deque[Source]] = defaultdict(deque)
        self._asking: Counter[Hashable] = Counter()
        self._late: set[Source] = set()
        self._threads = threads
        self._changed = threads.condition()

    def answers(self, sources: Collection[Source], patience: float = ANSWER_SECONDS + 1) -> Mapping[Source, Answer | None]:
        """The answer of each source, None for those that have not answered within ``patience`` seconds and still may."""
        now = self._threads.monotonic()
        with self._changed:
            for source in dict.fromkeys(sources):
                if self._is_due(source, now):
                    self._known[source] = Known(now, None)
                    self._enqueue(source)
            until = now + patience
            while (left := until - self._threads.monotonic()) > 0 and any(self._answer(one) is None for one in sources):
                self._changed.wait(min(left, 0.5))
            found = {source: self._answer(source) for source in sources}
            self._late.update(source for source, answer in found.items() if answer is None)
            return found

    def _enqueue(self, source: Source) -> None:
        key = endpoint(source)
        self._waiting[key].append(source)
        if self._asking[key] < AT_ONCE:
            self._asking[key] += 1
            self._threads.start(partial(self._drain, key), f"source {source.url}")

    def last(self, source: Source) -> Head | None:
        """What a source has answered last, however old; None where it has not."""
        known = self._known.get(source)
        return known.answer if known is not None and isinstance(known.answer, Head) else None

    def forget(self, sources: Collection[Source]) -> None:
        """Ask them again when they are next wanted, however fresh their answers are."""
        with self._changed:
            for source in sources:
                known = self._known.get(source)
                if known is not None and known.answer is not None:
                    del self._known[source]

    def _is_due(self, source: Source, now: float) -> bool:
        """Never while a request for it is out: it would hang, too."""
        known = self._known.get(source)
        if known is None or known.answer is None:
            return known is None
        age = self._max_age if isinstance(known.answer, Head) else min(self._max_age, FAILED_SECONDS / 2)
        return now - known.at > age

    def _answer(self, source: Source) -> Answer | None:
        known = self._known.get(source)
        if known is None or known.answer is not None:
            return known.answer if known else None
        waited = self._threads.monotonic() - known.at
        if waited < ANSWER_SECONDS:
            return None
        where = source.s3.endpoint_url or "S3" if source.is_s3 else str(endpoint(source))
        hint = "is the endpoint up, and reachable from this host?" if source.is_s3 else "is its file system reachable?"
        return SourceUnavailable(f"{where} has not answered for {source.url} in {waited:.0f} s", hint=hint)

    def _drain(self, key: Hashable) -> None:
        """Ask what waits for this endpoint, one source after the other."""
        while True:
            with self._changed:
                if not self._waiting[key]:
                    self._asking[key] -= 1
                    return
                source = self._waiting[key].popleft()
            answer = self._asked(source)
            with self._changed:
                self._known[source] = Known(self._known[source].at, answer)
                late = source in self._late
                self._late.discard(source)
                self._changed.notify_all()
            if late:
                self.on_late_answer()

    def _asked(self, source: Source) -> Answer:
        try:
            return (self._ask or s3.head_one)(source)
        except ReconcilerError as error:
            return error
        except Exception as error:  # whatever a server's odd answer leads to costs this source only
            return SourceUnavailable(
                f"{source.url}: {type(error).__name__}: {error}", hint="the endpoint's answer is not understood"
            )
