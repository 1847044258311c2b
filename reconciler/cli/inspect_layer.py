"""``reconcile inspect``: one layer judged as a build would judge it, and described as an operator wants it before trusting it.

Called by ``verbs.layers``. The layer is streamed into a builder process and read no further than its verdict; nothing is kept.
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

from reconciler.cli.build_image import source as parse
from reconciler.errors import BuilderDied, LayerCorrupt, LayerRefused, Stopped, UsageError
from reconciler.image.builder.parent import Build, Input, Milestone, Request
from reconciler.image.source.arrival import Arrival
from reconciler.image.source.stream import Descriptor, File, Flow, Origin, Ranges
from reconciler.image.spec import Limits, Source, chain_ids
from reconciler.output import console

STANDARD_INPUT = "-"

UNBOUNDED = 1 << 43
"""Size in bytes of the imaginary volume that a layer is judged against: none is refused for want of room."""

LARGEST, LISTED, COLUMNS = 5, 4, 96
"""How many of the largest files and of each list people are shown, and how wide. The JSON document has more."""

LOOKED_FOR = {
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
"""What an operator looks for, in words, and where the document has it."""

Document = dict[str, Any]


def source(word: str, endpoint_url: str | None, anonymous: bool) -> Source:
    """A layer as typed; ``-`` is standard input. Raises UsageError."""
    if word != STANDARD_INPUT:
        return parse(word, endpoint_url, anonymous)
    if os.isatty(0):
        raise UsageError("standard input is a terminal", hint="send it a layer: reconcile inspect - < layer.tar.gz")
    return Source(STANDARD_INPUT)


def origin(source: Source, arrival: Arrival) -> Origin:
    if source.url == STANDARD_INPUT:
        return Descriptor(0, arrival)
    return Ranges(source, arrival) if source.is_s3 else File(source.url, arrival)


def inspect(source: Source, limits: Limits, *, stop: threading.Event) -> Document:
    """The verdict on one layer as the JSON contract shows it (DESIGN section 5). Refusal is an answer, not an error."""
    flow = Input(source.url, lambda: Flow(source.url, lambda arrival: origin(source, arrival), stop), pinned=False)
    request = Request((flow,), UNBOUNDED, lambda digests: chain_ids(UNBOUNDED, digests)[-1], limits, survey=True)
    with _telling_of_its_death(), Build(request) as build:
        try:
            found = build.wait(Milestone.ACCEPTED, stop=stop)
            verdict, counted = _acceptance(source, found.digests[0]), {**found.layers[0], **build.seen}
        except (LayerRefused, LayerCorrupt) as error:
            verdict, counted = _refusal(source, error), dict(build.seen)
        except Stopped:
            raise Stopped(f"stopped before there was a verdict on {_where(source.url)}") from None
    return _sensible(verdict, counted)


@contextmanager
def _telling_of_its_death() -> Iterator[None]:
    """A broken pipe to the builder is not the one of standard output, which would be no failure."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError) as error:
        raise BuilderDied(f"the builder process ended before its verdict: {error}", hint="run again") from error


def _sensible(verdict: Document, counted: Document) -> Document:
    """The whole document, where it can be read as one: the builder has read hostile bytes, and may say anything."""
    try:
        told = verdict | _described(counted)
        lines(told)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as nonsense:
        raise BuilderDied(f"the builder process said something that makes no sense: {nonsense!r}") from nonsense
    return told


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
    told = {"entries": 0, "unpackedBytes": 0, "storedBytes": 0} | dict(totals)
    stored, unpacked = told["storedBytes"], told["unpackedBytes"]
    told["ratio"] = round(unpacked / stored, 2) if stored else None
    times = told.pop("times", None)
    if times is not None:
        told["mtimes"] = {"first": moment(times["firstNs"]), "last": moment(times["lastNs"])}
    return told


def moment(nanoseconds: int) -> str:
    """A time as ISO 8601 has it, in whole seconds."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nanoseconds // 10**9)).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------------------------------------------- for people


def show(told: Mapping[str, Any]) -> None:
    console.data(f"{console.verdict(told['verdict'])}  {console.visible(_where(told['source']))}")
    for line in lines(told):
        console.data(line)


def lines(told: Mapping[str, Any]) -> list[str]:
    """Why, and what was seen. Names are shown escaped: they come from the layer."""
    accepted, counted = told["verdict"] == "accept", "compression" in told
    why = [] if accepted else [*_lines(_why(told))]
    if not counted:
        return why
    if not accepted:
        why += ["", "Seen up to there:"]
    contents = (*_contents(told), *_alarms(told)) if told["entries"] else ()
    return [*why, *_lines((*_measures(told), *contents))]


def _where(url: str) -> str:
    return "standard input" if url == STANDARD_INPUT else url


Named = tuple[str, ...]
"""A name, and the lines that stand beside it: none of them is shown as two, whatever names they hold."""


def _lines(named: Iterable[Named]) -> Iterator[str]:
    for name, *texts in named:
        for number, text in enumerate(filter(None, texts)):
            yield f"  {'' if number else name:<11} {console.visible(text)}"


def _why(told: Mapping[str, Any]) -> Iterator[Named]:
    yield "rule", f"{told['rule']} ({told['reason']})"
    yield "because", told["message"]
    if told["member"] is not None:
        yield "member", console.plain(told["member"])
    if told["offset"] is not None:
        yield "offset", f"{told['offset']} of the unpacked tar"
    yield "hint", told["hint"]


def _measures(told: Mapping[str, Any]) -> Iterator[Named]:
    yield "sha256", told.get("sha256", "")
    forms, packed = ", ".join(told["formats"]), told["compression"]
    yield "format", f"{forms} tar, {'not compressed' if packed == 'none' else packed}".lstrip()
    ratio = f" ({told['ratio']:.1f} to 1)" if told["ratio"] else ""
    read = "stored" if "sha256" in told else "read"
    yield "bytes", f"{console.size(told['storedBytes'])} {read}, {console.size(told['unpackedBytes'])} unpacked{ratio}"
    types = ", ".join(console.counted(count, kind) for kind, count in told["types"].items())
    yield "entries", f"{told['entries']}" + (f": {types}" if types else "")
    if told["impliedDirectories"]:
        yield "", f"and {console.counted(told['impliedDirectories'], 'directory')} that no entry describes"


def _contents(told: Mapping[str, Any]) -> Iterator[Named]:
    yield "file bytes", console.size(told["fileBytes"]) + _holes(told["sparse"])
    largest = [file for file in told["largest"][:LARGEST] if file["bytes"]]
    yield "largest", *(f"{console.size(file['bytes']):>10}  {file['name']}" for file in largest)
    owners = told["owners"]
    high = f", {owners['above65535']} above 65535 (highest {owners['highest']})" if owners["above65535"] else ""
    yield "owners", f"{console.counted(owners['uids'], 'user id')}, {console.counted(owners['gids'], 'group id')}{high}"
    if "mtimes" in told:
        yield "modified", f"{told['mtimes']['first']} to {told['mtimes']['last']}"
    deepest = told["deepest"]
    yield "deepest", f"{console.counted(deepest['components'], 'level')}: {deepest['name']}" if deepest["components"] else ""
    yield "xattrs", *_xattrs(told)


def _holes(sparse: Mapping[str, int]) -> str:
    if not sparse["count"]:
        return ""
    return f", {console.size(sparse['holeBytes'])} of them holes of {console.counted(sparse['count'], 'sparse file')}"


def _xattrs(told: Mapping[str, Any]) -> Iterator[str]:
    kept, dropped = told["keptXattrs"], told["droppedXattrs"]
    if kept["names"]:
        yield f"kept {_tally(kept['names'])}" + (f", {kept['others']} other names" if kept["others"] else "")
    if dropped:
        yield f"dropped {_tally(dropped)}"


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _alarms(told: Mapping[str, Any]) -> Iterator[Named]:
    """What an operator looks for: what there is of it, with the first names, and what there is not."""
    found = tuple(_looked_for(told))
    width = max(len(name) for name, _, _ in found)
    present = [f"{name:<{width}} {count:>6}  {_some(names, count)}".rstrip() for name, count, names in found if count]
    yield "holds", *present
    yield "holds no", *_wrapped(name for name, count, _ in found if not count)


def _wrapped(names: Iterable[str]) -> Iterator[str]:
    """Names in lines, each of them whole."""
    for line in textwrap.wrap(", ".join(name.replace(" ", "\xa0") for name in names), COLUMNS, break_on_hyphens=False):
        yield line.replace("\xa0", " ")


def _looked_for(told: Mapping[str, Any]) -> Iterator[tuple[str, int, list[str]]]:
    for name, key in LOOKED_FOR.items():
        if told[key] is not None:
            yield name, told[key]["count"], told[key]["names"]
    yield "absolute links", told["absoluteLinks"], []
    if told["danglingLinks"] and told["danglingLinks"]["unfollowed"]:
        yield "links not followed to their end", told["danglingLinks"]["unfollowed"], []
    if told["stripped"]:
        yield "files without their privileges (limits.setuid)", told["stripped"], []


def _some(names: list[str], count: int) -> str:
    shown = names[:LISTED]
    return ", ".join(shown) + (", …" if shown and count > len(shown) else "")
