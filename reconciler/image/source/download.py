"""One transfer from S3 into one spool file: what an earlier attempt left, what is still missing, and the check of the whole.

``workers`` bring the bytes; the thread that runs ``Download.run`` hashes them in order, right behind the frontier, or uses
the sums of a reader that follows as fast.
Run by ``spool``. State: an ``Arrival`` in memory, a ``Partial`` on disk.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress

from reconciler.errors import DigestMismatch, SourceChanged, SourceUnavailable
from reconciler.image.free_space import PROMISES
from reconciler.image.source.answers import Unranged
from reconciler.image.source.arrival import Arrival, Manner
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import GET_SECONDS, Body
from reconciler.image.source.partial import Partial, Proof, Record
from reconciler.image.source.reading import PIECE
from reconciler.image.source.remote import get
from reconciler.image.source.stamp import Head
from reconciler.image.source.sums import Sums
from reconciler.image.source.window import Window
from reconciler.image.source.workers import Workers
from reconciler.image.spec import Layer

PROOF_BYTES = 64 << 20
"""One proof for every so many bytes is kept, so that a damaged end does not cost the whole prefix."""


class Download:
    """One transfer. ``head`` None: the object is identified by the first answer, or by an earlier attempt's record."""

    def __init__(self, layer: Layer, head: Head | None, partial: Partial, arrival: Arrival, manner: Manner) -> None:
        self._layer = layer
        self._head = head
        self._partial = partial
        self._arrival = arrival
        self._manner = manner
        self._record = self._left_over()
        self._sums = Sums(with_md5=layer.sha256 is None and head is not None and bool(head.md5))
        self._arrival.uses_lent = not self._sums.md5
        self._hashed = 0
        self._proofs: list[Proof] = []
        self._saved_at = time.monotonic()

    def _left_over(self) -> Record | None:
        """What an earlier try has left of this very object, or of the same digest elsewhere; anything else is thrown away."""
        record, head = self._partial.load(), self._head
        elsewhere = record and head and self._layer.others and record.size == head.size
        if record and (elsewhere or head in (None, Head(record.etag, record.size))):
            return record
        self._partial.discard()
        return None

    def run(self) -> str:
        """Bring the layer, and return its digest once it is the one that was asked for.

        What has arrived stays for the next try, unless it turned out to be of no use.
        Raises SourceChanged, SourceUnavailable, SourceNotFound, SourceForbidden, DigestMismatch, NoSpace, Stopped and OSError.
        """
        try:
            with self._partial.opened() as descriptor:
                resumed = self._prove(descriptor)
                self._transfer(descriptor)
            self._require_digest(self._sums.sha256, resumed=resumed)
            self._require_md5()
        except (SourceChanged, DigestMismatch, Unranged):
            self._partial.discard()
            raise
        except SourceUnavailable:
            self._arrival.check()  # a request that was ended because nothing waits for it is no failure of the source
            raise
        return self._sums.sha256

    def _prove(self, descriptor: int) -> bool:
        """Hash what an earlier try has left, as far as it is what it was when it arrived, and cut off the rest."""
        for proof in self._record.proofs if self._record else ():
            sums = self._sums.copy()
            self._arrival.digest(descriptor, self._hashed, proof.length, sums)
            if sums.sha256 != proof.sha256:
                break
            self._sums, self._hashed = sums, proof.length
            self._proofs.append(proof)
            self._arrival.advance(self._hashed)
        os.ftruncate(descriptor, self._hashed)
        self._arrival.resumed = self._hashed > 0
        if self._record and self._hashed and self._head is None:
            self._head = Head(self._record.etag, self._record.size)
        return self._hashed > 0

    def _transfer(self, descriptor: int) -> None:
        """Bring what is missing."""
        layer, manner = self._layer, self._manner
        if (head := self._head) is None:
            first = self._get(0, manner.part_bytes, seconds=manner.answer_seconds or GET_SECONDS)
            head = first.head
        else:
            first = None
        self._arrival.describe(head.etag, head.size)
        self._require_size(head)
        part_bytes = head.size if first is not None and first.whole and layer.source.is_registry else manner.part_bytes
        window = Window(self._hashed, head.size, part_bytes, first)
        with (
            Workers(layer.source, head, window, descriptor, self._arrival, manner),
            PROMISES.made(descriptor, head.size, layer.source.url, self._partial.bytes.parent),
        ):
            self._follow(descriptor, window, head)

    def _follow(self, descriptor: int, window: Window, head: Head) -> None:
        """Hash what the workers bring, in order, to the end."""
        try:
            while self._hashed < head.size:
                window.check()
                if not self._uses_sums_of_reader():
                    self._hash(descriptor, self._arrival.to_hash(self._hashed))
                if time.monotonic() - self._saved_at >= self._manner.checkpoint_seconds:
                    self._checkpoint(head)
        except BaseException:
            with suppress(OSError):
                self._checkpoint(head)
            raise

    def _hash(self, descriptor: int, frontier: int) -> None:
        while self._hashed < frontier:
            stop = min(frontier, self._hashed - self._hashed % PROOF_BYTES + PROOF_BYTES)
            self._arrival.digest(descriptor, self._hashed, stop, self._sums)
            self._hashed = stop
            self._keep_proof()

    def _uses_sums_of_reader(self) -> bool:
        """Whether a reader is further: the sums go on from there."""
        lent = self._arrival.lent(self._hashed)
        if lent is not None:
            self._hashed, self._sums = lent
            self._keep_proof()
        return lent is not None

    def _keep_proof(self) -> None:
        if self._hashed - (self._proofs[-1].length if self._proofs else 0) >= PROOF_BYTES:
            self._proofs.append(Proof(self._hashed, self._sums.sha256))

    def _checkpoint(self, head: Head) -> None:
        """Record how far the bytes can be trusted. An object without an ETag has none: its successor would look the same."""
        if head.etag and self._hashed:
            last = Proof(self._hashed, self._sums.sha256)
            proofs = self._proofs if last in self._proofs[-1:] else [*self._proofs, last]
            self._partial.save(Record(head.etag, head.size, tuple(proofs)))
        self._saved_at = time.monotonic()

    def _require_size(self, head: Head) -> None:
        layer = self._layer
        if layer.size not in (0, head.size):
            message = f"{layer.source.url} has {head.size} bytes; the image's manifest has {layer.size}"
            raise DigestMismatch(message, hint="push the image again")

    def _require_digest(self, digest: str, *, resumed: bool) -> None:
        url, wanted = self._layer.source.url, self._layer.sha256
        if wanted in (None, digest):
            return
        if resumed:
            hint = "they are discarded; the next attempt starts from the beginning"
            raise SourceChanged(f"parts of {url}, fetched at different times, do not add up to sha256 {wanted}", hint=hint)
        if self._layer.learnt:
            message = f"{url} has sha256 {digest}, and an earlier fetch of the same ETag had {wanted}"
            raise DigestMismatch(message, hint="the next attempt fetches it again; pin the layer to one of them")
        hint = "correct the manifest's sha256, or put the right object back"
        raise DigestMismatch(f"{url} has sha256 {digest}, not the declared {wanted}", hint=hint)

    def _require_md5(self) -> None:
        """Where the bytes don't have the MD5 that the ETag may be, a second fetch decides whether they are damaged."""
        head = self._head
        if head is None or self._sums.md5 in ("", head.md5):
            return
        again = self._fetched_again(head)
        if again == self._sums.sha256:
            return
        message = f"{self._layer.source.url} was damaged on its way: its bytes don't have the MD5 that its ETag {head.etag} is"
        raise SourceChanged(message, hint="they are discarded; the next attempt starts from the beginning")

    def _fetched_again(self, head: Head) -> str:
        """The sha256 of the same object, fetched once more and not kept."""
        sums, at = Sums(with_md5=False), 0
        buffer = memoryview(bytearray(PIECE))
        while at < head.size:
            stop = min(at + self._manner.part_bytes, head.size)
            with closing(self._get(at, stop, head.etag)) as body:
                if body.head != head:
                    raise SourceChanged(f"{self._layer.source.url} was {head}, and is {body.head} now")
                while at < stop:
                    got = body.readinto(buffer[: stop - at])
                    sums.update(buffer[:got])
                    at += got
        return sums.sha256

    def _get(self, start: int, stop: int, etag: str = "", seconds: float = GET_SECONDS) -> Body:
        cutoff = Cutoff(seconds, unless=lambda: self._arrival.over)
        return get(self._layer.source, start, stop, etag, cutoff=cutoff, pause=self._arrival.sleep)
