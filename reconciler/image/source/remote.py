"""Layers by their source, as ETags, lengths and ranges of bytes: the one place that chooses between S3, registries and files.

Called by ``host.head_requests`` and ``spool`` (``head_one``), and by what transfers bytes (``get``). No state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from reconciler.dataclass import replace
from reconciler.errors import ReconcilerError
from reconciler.image.oci.reference import Reference
from reconciler.image.oci.registry import Registry
from reconciler.image.source import s3
from reconciler.image.source.cutoff import Cutoff
from reconciler.image.source.exchange import GET_SECONDS, HEAD_SECONDS, Body, Pause
from reconciler.image.source.stamp import Head, stamp
from reconciler.image.spec import Source
from reconciler.policy import force

HEADS_AT_ONCE = 16


def head(sources: Collection[Source]) -> Mapping[Source, Head | ReconcilerError]:
    """Request the ETag and length of many sources at once; a failure is returned as its error."""
    distinct = tuple(dict.fromkeys(sources))
    if not distinct:
        return {}
    with ThreadPoolExecutor(min(len(distinct), HEADS_AT_ONCE), "head") as pool:
        return dict(zip(distinct, pool.map(_head_or_error, distinct), strict=True))


def head_one(source: Source, unless: Callable[[], bool] | None = None) -> Head:
    """The ETag and length of one source. Raises SourceNotFound, SourceForbidden and SourceUnavailable.

    Raises at once where ``unless`` is true.
    """
    if part := source.part:
        return replace(head_one(replace(source, url=source.whole), unless), size=part[1], md5="")
    if source.is_s3:
        return s3.head(source, unless)
    if source.is_registry:
        with closing(get(source, 0, 1, cutoff=Cutoff(HEAD_SECONDS, unless))) as body:
            return body.head
    force.require_file(source.url)
    return stamp(source.url).head


def _head_or_error(source: Source) -> Head | ReconcilerError:
    try:
        return head_one(source)
    except ReconcilerError as error:
        return error


def get(
    source: Source, start: int, stop: int, etag: str = "", *, cutoff: Cutoff | None = None, pause: Pause = time.sleep
) -> Body:
    """Ask for the bytes from ``start`` up to ``stop``, of the object with this ETag where one is given.

    Raises SourceChanged where the object has another ETag by now (RFC 9110, If-Match; a weak ETag is never sent, and callers
    compare), and what ``head_one`` raises. ``cutoff`` is closed with the body, or where there is none; ``pause`` waits.
    """
    cutoff = cutoff or Cutoff(GET_SECONDS)
    try:
        if source.is_registry:
            return Registry(Reference.parse(source.url), cutoff, pause).range(source, start, stop)
        if part := source.part:
            return _part(source, part, (start, stop), etag, cutoff, pause)
        return s3.get(source, start, stop, etag, cutoff, pause)
    except BaseException:
        cutoff.close()
        raise


def _part(source: Source, part: tuple[int, int], wanted: tuple[int, int], etag: str, cutoff: Cutoff, pause: Pause) -> Body:
    """Bytes of a part of an object, which is described as if it were all of it."""
    (first, length), (start, stop) = part, wanted
    body = s3.get(replace(source, url=source.whole), first + start, first + min(stop, length), etag, cutoff, pause)
    body.head = replace(body.head, size=length, md5="")
    return body
