"""``reconcile inspect``: one layer judged as a build would judge it, and described as an operator wants it before trusting it.

Called by ``verbs.layers``. The layer is streamed into a builder process and read no further than its verdict; nothing is kept.
State: one build without a volume, while it runs.
"""

from __future__ import annotations

import os
import textwrap
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from reconciler import report
from reconciler.errors import LayerCorrupt, LayerRefused, Stopped, UsageError
from reconciler.image.arrival import Arrival
from reconciler.image.build import Build, Input, Milestone, Request
from reconciler.image.flow import Descriptor, File, Flow, Origin, Ranges
from reconciler.image.spec import Limits, Source, chain_ids
from reconciler.oneshot import source as parse

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
    with Build(request) as build:
        try:
            found = build.wait(Milestone.ACCEPTED, stop=stop)
        except (LayerRefused, LayerCorrupt) as error:
            return _refusal(source, error) | _described(build.seen)
        except Stopped:
            raise Stopped(f"stopped before there was a verdict on {source.url}") from None
    said: Document = {"verdict": "accept", "reason": "", "member": None, "source": source.url, "sha256": found.digests[0]}
    return said | _described(dict(found.layers[0]) | dict(build.seen))


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
    """The verdict, why, and what was seen. Names are shown escaped: they come from the layer."""
    accepted = told["verdict"] == "accept"
    where = "standard input" if told["source"] == STANDARD_INPUT else told["source"]
    report.data(f"{report.verdict(told['verdict'])}  {report.visible(where)}")
    for name, text in () if accepted else _why(told):
        _line(name, text)
    if "compression" not in told:
        return
    if not accepted:
        report.data("\nSeen up to there:")
    for name, text in _measures(told):
        _line(name, text)
    if told["entries"]:
        for name, text in (*_contents(told), *_alarms(told)):
            _line(name, text)


def _line(name: str, text: str) -> None:
    for number, part in enumerate(text.split("\n") if text else ()):
        report.data(f"  {'' if number else name:<11} {report.visible(part)}")


def _why(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rule", f"{told['rule']} ({told['reason']})"
    yield "because", told["message"]
    if told["member"] is not None:
        yield "member", report.plain(told["member"])
    if told["offset"] is not None:
        yield "offset", f"{told['offset']} of the unpacked tar"
    yield "hint", told["hint"]


def _measures(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "sha256", told.get("sha256", "")
    forms, packed = ", ".join(told["formats"]), told["compression"]
    yield "format", f"{forms} tar, {'not compressed' if packed == 'none' else packed}".lstrip()
    ratio = f" ({told['ratio']:.1f} to 1)" if told["ratio"] else ""
    read = "stored" if "sha256" in told else "read"
    yield "bytes", f"{report.size(told['storedBytes'])} {read}, {report.size(told['unpackedBytes'])} unpacked{ratio}"
    types = ", ".join(_count(count, kind) for kind, count in told["types"].items())
    yield "entries", f"{told['entries']}" + (f": {types}" if types else "")
    if told["impliedDirectories"]:
        yield "", f"and {_count(told['impliedDirectories'], 'directory')} that no entry describes"


def _contents(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "file bytes", report.size(told["fileBytes"]) + _holes(told["sparse"])
    largest = [file for file in told["largest"][:LARGEST] if file["bytes"]]
    yield "largest", "\n".join(f"{report.size(file['bytes']):>10}  {file['name']}" for file in largest)
    owners = told["owners"]
    high = f", {owners['above65535']} above 65535 (highest {owners['highest']})" if owners["above65535"] else ""
    yield "owners", f"{_count(owners['uids'], 'user id')}, {_count(owners['gids'], 'group id')}{high}"
    if "mtimes" in told:
        yield "modified", f"{told['mtimes']['first']} to {told['mtimes']['last']}"
    deepest = told["deepest"]
    yield "deepest", f"{_count(deepest['components'], 'level')}: {deepest['name']}" if deepest["components"] else ""
    yield "xattrs", _xattrs(told)


def _holes(sparse: Mapping[str, int]) -> str:
    if not sparse["count"]:
        return ""
    return f", {report.size(sparse['holeBytes'])} of them holes of {_count(sparse['count'], 'sparse file')}"


def _xattrs(told: Mapping[str, Any]) -> str:
    kept, dropped = told["keptXattrs"], told["droppedXattrs"]
    others = f", {kept['others']} other names" if kept["others"] else ""
    lines = ["kept " + ", ".join(f"{name} ({count})" for name, count in kept["names"].items()) + others] if kept["names"] else []
    if dropped:
        lines.append("dropped " + ", ".join(f"{name} ({count})" for name, count in dropped.items()))
    return "\n".join(lines)


def _alarms(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an operator looks for: what there is of it, with the first names, and what there is not."""
    found = tuple(_looked_for(told))
    width = max(len(name) for name, _, _ in found)
    present = [f"{name:<{width}} {count:>6}  {_some(names, count)}".rstrip() for name, count, names in found if count]
    yield "holds", "\n".join(present)
    yield "holds no", "\n".join(textwrap.wrap(", ".join(name for name, count, _ in found if not count), COLUMNS))


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


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"
