"""Unpinned layers: which sources are the same object, which digests are resolved, which sources have to be fetched.

Called by ``inputs``, ``creation`` and the controller. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from reconciler.image.spec import Layer, Source
from reconciler.model import Action, Kind, Resolution, Verb

Resolutions = Mapping[Source, Resolution]


def resolved_digests(resolutions: Resolutions) -> dict[Source, str]:
    """Digests of sources by their current ETags; a source that was never fetched has that of the same object, asked otherwise."""
    answered = {source: found for source, found in resolutions.items() if not found.error}
    seen: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for source, found in answered.items():
        if found.digest:
            seen[_same_object(source, resolutions)].add(found.digest)
    digests = {}
    for source, found in answered.items():
        twins = seen.get(_same_object(source, resolutions), set())
        if found.digest or len(twins) == 1:
            digests[source] = found.digest or min(twins)
    return digests


def fetches(wanted: Mapping[Source, set[str]], resolutions: Resolutions) -> dict[Source, Action]:
    """For each source the action that fetches it or a twin; ``wanted`` maps sources to the images that need them."""
    twins: dict[tuple[object, ...], list[Source]] = defaultdict(list)
    for source in sorted(wanted, key=lambda s: (s.url, repr(s.s3))):
        twins[_same_object(source, resolutions)].append(source)
    actions: dict[Source, Action] = {}
    for name, sources in _named(list(twins.values())):
        images = tuple(sorted(set().union(*(wanted[source] for source in sources))))
        action = Action(Verb.RESOLVE, Kind.LAYER, name, _why(sources), layers=(Layer(sources[0]),), images=images)
        actions |= dict.fromkeys(sources, action)
    return actions


def _same_object(source: Source, resolutions: Resolutions) -> tuple[object, ...]:
    """Equal for sources that are one object, whatever its region or credentials: endpoint, bucket, key, ETag and size.

    Two keys are two objects: servers make ETags out of a file's time and length, too.
    """
    found = resolutions.get(source)
    if source.is_s3 and found and found.etag and found.size is not None and not found.error:
        return source.s3.endpoint_url, source.url, found.etag, found.size
    return (source,)


def _named(groups: Sequence[Sequence[Source]]) -> Iterator[tuple[str, Sequence[Source]]]:
    """Groups by the URL of their first source; a number distinguishes the same URL at several endpoints."""
    count: dict[str, int] = defaultdict(int)
    for sources in groups:
        url = sources[0].url
        count[url] += 1
        yield url if count[url] == 1 else f"{url}#{count[url]}", sources


def _why(sources: Sequence[Source]) -> str:
    twins = f" (with {len(sources) - 1} more of the same object)" if len(sources) > 1 else ""
    return f"unpinned: will be fetched{twins} to learn its digest"
