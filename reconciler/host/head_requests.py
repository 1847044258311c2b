"""Sends the HEAD requests that show what unpinned sources hold; each answer serves until it is too old. Files get a stat.

A source that does not answer in ``ANSWER_SECONDS`` counts as unavailable, and so do the others of an endpoint that answers
nothing; other endpoints are not held up. ``image.source.exchange`` repeats a request before it counts as failed;
``planner.failed_requests`` decides what that means for its image. Used by ``assess``. State: the last answer of each source.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

from reconciler.dataclass import dataclass
from reconciler.errors import ReconcilerError, SourceUnavailable
from reconciler.host.calls import THREADS, Threads
from reconciler.image.oci.reference import Reference
from reconciler.image.source.stamp import Head
from reconciler.image.spec import ImageReference, Packed, Resolved, Source

if TYPE_CHECKING:
    from reconciler.image.oci.stored import Known as KnownImages

ANSWER_SECONDS = 10.0
FAILED_SECONDS = 60.0
"""After this time an assessment asks again a source that could not be asked."""

AT_ONCE, REGISTRY_AT_ONCE = 4, 2
"""Requests to one endpoint, or registry, at a time: as many connections are used."""

Asked = Source | ImageReference
Answer = Head | Resolved | Packed | ReconcilerError


@dataclass(frozen=True, slots=True)
class Known:
    """``at`` is when the source was asked (monotonic seconds); ``answer`` None until it has answered."""

    at: float
    answer: Answer | None


def _head_one(source: Source) -> Head:
    from reconciler.image.source import remote

    return remote.head_one(source)


def endpoint(asked: Asked) -> Hashable:
    """What sources share that hang together: an endpoint with its credentials, a registry, or a directory."""
    source = asked.source if isinstance(asked, ImageReference) else asked
    if source.is_registry:
        return f"registry {Reference.parse(source.url).host}"
    path = Reference.parse(source.url).path if isinstance(asked, ImageReference) else source.whole
    return source.s3 if path.startswith("s3://") else str(PurePath(path).parent)


def _url(asked: Asked) -> str:
    return asked.source.url if isinstance(asked, ImageReference) else asked.url


class Sources:
    """Thread-safe. Answers older than ``max_age`` seconds are asked for again; ``ask`` is replaced in simulations.

    ``known_images`` returns what a manifest's digest, or the key of an archive, stands for: only what it lacks is fetched.

    ``on_late_answer`` is called, in the asking thread, where a caller has gone on without the answer.
    """

    def __init__(
        self,
        max_age: float,
        *,
        ask: Callable[[Source], Head] | None = None,
        known_images: KnownImages = lambda _, __: None,
        on_late_answer: Callable[[], None] = lambda: None,
        threads: Threads = THREADS,
    ) -> None:
        self.on_late_answer = on_late_answer
        self._max_age = max_age
        self._ask = ask
        self._known_images = known_images
        self._known: dict[Asked, Known] = {}
        self._waiting: defaultdict[Hashable, deque[Asked]] = defaultdict(deque)
        self._asking: Counter[Hashable] = Counter()
        self._late: set[Asked] = set()
        self._threads = threads
        self._changed = threads.condition()

    def answers(
        self, sources: Collection[Source], patience: float = ANSWER_SECONDS + 1
    ) -> Mapping[Source, Head | ReconcilerError | None]:
        """The answer of each source, None for those that have not answered within ``patience`` seconds and still may."""
        return cast(Mapping[Source, Head | ReconcilerError | None], self._answers(sources, patience))

    def resolved(
        self, references: Collection[ImageReference], patience: float = ANSWER_SECONDS + 1
    ) -> Mapping[ImageReference, Resolved | Packed | ReconcilerError | None]:
        """The same of references."""
        return cast(Mapping[ImageReference, Resolved | Packed | ReconcilerError | None], self._answers(references, patience))

    def _answers(self, sources: Collection[Asked], patience: float) -> Mapping[Asked, Answer | None]:
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

    def _enqueue(self, source: Asked) -> None:
        key = endpoint(source)
        self._waiting[key].append(source)
        if self._asking[key] < (AT_ONCE if isinstance(source, Source) else REGISTRY_AT_ONCE):
            self._asking[key] += 1
            self._threads.start(partial(self._drain, key), f"source {_url(source)}")

    def last(self, source: Source) -> Head | None:
        """What a source has answered last, however old; None where it has not."""
        known = self._known.get(source)
        return known.answer if known is not None and isinstance(known.answer, Head) else None

    def forget(self, sources: Collection[Asked]) -> None:
        """Ask them again when they are next wanted, however fresh their answers are."""
        with self._changed:
            for source in sources:
                known = self._known.get(source)
                if known is not None and known.answer is not None:
                    del self._known[source]

    def forget_older(self, sources: Collection[Asked], seconds: float) -> None:
        """The same of those that were asked longer ago."""
        before = self._threads.monotonic() - seconds
        self.forget([one for one in sources if (known := self._known.get(one)) is not None and known.at < before])

    def forget_packed(self, archive: Source) -> None:
        """The same of the references whose archive was compressed, and is decompressed now."""
        known = list(self._known.items())
        self.forget([asked for asked, one in known if isinstance(one.answer, Packed) and one.answer.archive == archive])

    def _is_due(self, source: Asked, now: float) -> bool:
        """Never while a request for it is out: it would hang, too."""
        known = self._known.get(source)
        if known is None or known.answer is None:
            return known is None
        age = self._max_age if not isinstance(known.answer, ReconcilerError) else min(self._max_age, FAILED_SECONDS / 2)
        return now - known.at > age

    def _answer(self, asked: Asked) -> Answer | None:
        known = self._known.get(asked)
        if known is None or known.answer is not None:
            return known.answer if known else None
        waited = self._threads.monotonic() - known.at
        if waited < ANSWER_SECONDS:
            return None
        source = asked.source if isinstance(asked, ImageReference) else asked
        where = source.s3.endpoint_url or "S3" if source.is_s3 else str(endpoint(asked))
        hint = "is the endpoint up, and reachable from this host?" if source.is_remote else "is its file system reachable?"
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

    def _asked(self, asked: Asked) -> Answer:
        try:
            if isinstance(asked, ImageReference):
                from reconciler.image.oci.resolve import look_up

                return look_up(asked, self._known_images)
            return (self._ask or _head_one)(asked)
        except ReconcilerError as error:
            return error
        except Exception as error:  # whatever a server's odd answer leads to costs this source only
            return SourceUnavailable(
                f"{_url(asked)}: {type(error).__name__}: {error}", hint="the endpoint's answer is not understood"
            )
