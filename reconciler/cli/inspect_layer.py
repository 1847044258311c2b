"""``reconcile inspect``: the verdict of a build on one layer, and a description of its contents.

Called by ``cli.layers``. The layer is streamed into a builder process and read no further than its verdict; nothing is kept.
State: one build without a volume, while it runs.
"""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler.cli.build_image import show_gaps
from reconciler.cli.build_image import source as parse
from reconciler.errors import BuilderDied, LayerCorrupt, LayerRefused, Stopped, UsageError, visible
from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Milestone, Request
from reconciler.image.source.local import Descriptor, LocalFile
from reconciler.image.source.ranges import FIRST_RANGE, Ranges
from reconciler.image.source.reading import Origin, Reading
from reconciler.image.spec import Layer, Limits, Source, chain_ids
from reconciler.output import console

STANDARD_INPUT = "-"

UNBOUNDED = 1 << 43
"""Size in bytes of the imaginary volume that a layer is checked against: none is refused for lack of space."""

LARGEST, LISTED, COLUMNS = 5, 4, 96
"""How many of the largest files and of each list people are shown, and how wide. The JSON document has more."""

LISTED_KEYS = {
    "setuid files": "setuidFiles",
    "setgid files": "setgidFiles",
    "file capabilities": "capabilities",
    "devices": "devices",
    "world-writable files": "worldWritableFiles",
    "world-writable non-sticky directories": "worldWritableDirectories",
    "climbing links": "climbingLinks",
    "dangling links": "danglingLinks",
    "whiteouts": "whiteoutFiles",
    "opaque directories": "opaqueDirectories",
    "names given twice": "duplicates",
}
"""What the report lists, with its key in the document."""

Document = dict[str, Any]


def source(word: str, endpoint_url: str | None, anonymous: bool) -> Source:
    """A layer as typed; ``-`` is standard input. Raises UsageError."""
    if word != STANDARD_INPUT:
        return parse(word, endpoint_url, anonymous)
    if os.isatty(0):
        raise UsageError("standard input is a terminal", hint="send it a layer: reconcile inspect - < layer.tar.gz")
    return Source(STANDARD_INPUT)


def origin(source: Source) -> Origin:
    if source.url == STANDARD_INPUT:
        return Descriptor(0)
    return Ranges(source) if source.is_remote else LocalFile(Layer(source))


def inspect(source: Source, limits: Limits, *, stop: threading.Event) -> Document:
    """The verdict on one layer as the JSON contract shows it (DESIGN section 5). Refusal is an answer, not an error."""
    layer = Input(source.url, lambda: Reading(source.url, origin(source), stop), pinned=False)
    request = Request(
        (layer,), UNBOUNDED, lambda digests: chain_ids(UNBOUNDED, digests)[-1], limits, survey=True, ahead=FIRST_RANGE
    )
    with reporting_builder_death(), Build(request, stop) as build:
        try:
            found = build.wait(Milestone.ACCEPTED, stop=stop)
            verdict, counted = _acceptance(source, found.digests[0]), {**found.layers[0], **build.seen}
        except (LayerRefused, LayerCorrupt) as error:
            verdict, counted = _refusal(source, error), dict(build.seen)
        except Stopped:
            raise Stopped(f"stopped before there was a verdict on {_where(source.url)}") from None
    show_gaps([str(gap) for gap in build.gaps])
    return _sensible(verdict, counted)


@contextmanager
def reporting_builder_death() -> Iterator[None]:
    """A broken pipe to the builder is an error, unlike one of standard output."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError) as error:
        raise BuilderDied(f"the builder process ended before its verdict: {error}", hint="run again") from error


def _sensible(verdict: Document, counted: Document) -> Document:
    """The whole document. Raises BuilderDied where it is malformed: the builder has read hostile bytes and may send anything."""
    try:
        document = verdict | _described(counted)
        lines(document)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as nonsense:
        raise BuilderDied(f"the builder process sent a message that can't be read: {nonsense!r}") from nonsense
    return document


def _acceptance(source: Source, digest: str) -> Document:
    return {"verdict": "accept", "reason": "", "member": None, "source": source.url, "sha256": digest}


def _refusal(source: Source, error: LayerRefused | LayerCorrupt) -> Document:
    refused = error if isinstance(error, LayerRefused) else None
    return {
        "verdict": "reject",
        "reason": error.reason,
        "rule": refused.rule if refused else "corrupt",
        "member": refused.member if refused and refused.member else None,
        "offset": refused.offset if refused else None,
        "message": error.message.removeprefix(f"layer {source.url}: "),
        "hint": error.hint,
        "source": source.url,
    }


def _described(totals: Mapping[str, Any]) -> Document:
    """What was counted, in the order and the units of the document; a layer that is refused at once has few counts."""
    document = {"entries": 0, "unpackedBytes": 0, "storedBytes": 0} | dict(totals)
    stored, unpacked = document["storedBytes"], document["unpackedBytes"]
    document["ratio"] = round(unpacked / stored, 2) if stored else None
    times = document.pop("times", None)
    if times is not None:
        document["mtimes"] = {"first": moment(times["firstNs"]), "last": moment(times["lastNs"])}
    return document


def moment(nanoseconds: int) -> str:
    """A time as ISO 8601 has it, in whole seconds."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------------------------------------------- for people


def show(document: Mapping[str, Any]) -> None:
    console.data(f"{console.verdict(document['verdict'])}  {visible(_where(document['source']))}")
    for line in lines(document):
        console.data(line)


def lines(document: Mapping[str, Any]) -> list[str]:
    """Why, and what was seen. Names are shown escaped: they come from the layer."""
    accepted, counted = document["verdict"] == "accept", "compression" in document
    why = [] if accepted else [*_lines(_why(document))]
    if not counted:
        return why
    if not accepted:
        why += ["", "Seen up to there:"]
    contents = (*_contents(document), *_alarms(document)) if document["entries"] else ()
    return [*why, *_lines((*_measures(document), *contents))]


def _where(url: str) -> str:
    return "standard input" if url == STANDARD_INPUT else url


Named = tuple[str, ...]
"""A label and the lines beside it; a line stays one line whatever names it holds."""


def _lines(named: Iterable[Named]) -> Iterator[str]:
    for name, *texts in named:
        for number, text in enumerate(filter(None, texts)):
            yield f"  {'' if number else name:<11} {visible(text)}"


def _why(document: Mapping[str, Any]) -> Iterator[Named]:
    yield "rule", f"{document['rule']} ({document['reason']})"
    yield "because", document["message"]
    if document["member"] is not None:
        yield "member", console.plain(document["member"])
    if document["offset"] is not None:
        yield "offset", f"{document['offset']} of the unpacked tar"
    yield "hint", document["hint"]


def _measures(document: Mapping[str, Any]) -> Iterator[Named]:
    yield "sha256", document.get("sha256", "")
    forms, packed = ", ".join(document["formats"]), document["compression"]
    yield "format", f"{forms} tar, {'not compressed' if packed == 'none' else packed}".lstrip()
    ratio = f" ({document['ratio']:.1f} to 1)" if document["ratio"] else ""
    read = "stored" if "sha256" in document else "read"
    yield "bytes", f"{console.size(document['storedBytes'])} {read}, {console.size(document['unpackedBytes'])} unpacked{ratio}"
    types = ", ".join(console.counted(count, kind) for kind, count in document["types"].items())
    yield "entries", f"{document['entries']}" + (f": {types}" if types else "")
    if document["impliedDirectories"]:
        yield "", f"and {console.counted(document['impliedDirectories'], 'directory')} that no entry describes"
    yield "inodes", inodes(document)


def inodes(document: Mapping[str, Any]) -> str:
    """Of a file system that holds this and nothing else; empty where not everything was seen."""
    return f"{document['inodes']}, those that ext4 reserves included" if "inodes" in document else ""


def _contents(document: Mapping[str, Any]) -> Iterator[Named]:
    yield "file bytes", console.size(document["fileBytes"]) + _holes(document["sparse"])
    largest = [file for file in document["largest"][:LARGEST] if file["bytes"]]
    yield "largest", *(f"{console.size(file['bytes']):>10}  {file['name']}" for file in largest)
    owners = document["owners"]
    high = f", {owners['above65535']} above 65535 (highest {owners['highest']})" if owners["above65535"] else ""
    yield "owners", f"{console.counted(owners['uids'], 'user id')}, {console.counted(owners['gids'], 'group id')}{high}"
    if "mtimes" in document:
        yield "modified", f"{document['mtimes']['first']} to {document['mtimes']['last']}"
    deepest = document["deepest"]
    yield "deepest", f"{console.counted(deepest['components'], 'level')}: {deepest['name']}" if deepest["components"] else ""
    yield "xattrs", *_xattrs(document)


def _holes(sparse: Mapping[str, int]) -> str:
    if not sparse["count"]:
        return ""
    return f", {console.size(sparse['holeBytes'])} of them holes of {console.counted(sparse['count'], 'sparse file')}"


def _xattrs(document: Mapping[str, Any]) -> Iterator[str]:
    kept, dropped = document["keptXattrs"], document["droppedXattrs"]
    if kept["names"]:
        yield f"kept {_tally(kept['names'])}" + (f", {kept['others']} other names" if kept["others"] else "")
    if dropped:
        yield f"dropped {_tally(dropped)}"


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _alarms(document: Mapping[str, Any]) -> Iterator[Named]:
    """Members that need attention: counts with the first names, then those that are absent."""
    found = tuple(_listed(document))
    width = max(len(name) for name, _, _ in found)
    present = [f"{name:<{width}} {count:>6}  {_some(names, count)}".rstrip() for name, count, names in found if count]
    yield "holds", *present
    yield "holds no", *_wrapped(name for name, count, _ in found if not count)


def _wrapped(names: Iterable[str]) -> Iterator[str]:
    """Names in lines, each of them whole."""
    for line in textwrap.wrap(", ".join(name.replace(" ", "\xa0") for name in names), COLUMNS, break_on_hyphens=False):
        yield line.replace("\xa0", " ")


def _listed(document: Mapping[str, Any]) -> Iterator[tuple[str, int, list[str]]]:
    for name, key in LISTED_KEYS.items():
        if document[key] is not None:
            yield name, document[key]["count"], document[key]["names"]
    yield "absolute links", document["absoluteLinks"], []
    if document["danglingLinks"] and document["danglingLinks"]["unfollowed"]:
        yield "links not followed to their end", document["danglingLinks"]["unfollowed"], []
    if document["stripped"]:
        yield "files without their privileges (limits.setuid)", document["stripped"], []
    if clamped := document["clampedTimes"]["count"]:
        yield "times moved into ext4's range (limits.times)", clamped, document["clampedTimes"]["names"]
    if unknown := document["unknownAclNames"]["count"]:
        names = document["unknownAclNames"]["names"]
        yield "ACL entries dropped, names that the image lacks", unknown, names
    if document["aufsMetadata"]:
        yield "files of AUFS, skipped", document["aufsMetadata"], []
    if document["estargzFiles"]:
        yield "files of eStargz, skipped", document["estargzFiles"], []


def _some(names: list[str], count: int) -> str:
    shown = names[:LISTED]
    return ", ".join(shown) + (", …" if shown and count > len(shown) else "")
