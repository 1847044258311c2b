"""What ``describe image/NAME`` says to people: the whole story of an image, the most important first.

Called by ``verbs`` with what ``inventory.describe`` found. Pure, but for printing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.output import console
from reconciler.output.console import visible
from reconciler.status.inventory import short, show_events, show_runs

Told = Mapping[str, Any]


def show(told: Told) -> None:
    console.data(f"image/{visible(told['name'])}  {_headline(told)}")
    console.data("")
    for name, text in _facts(told):
        console.data(f"  {name:14}{visible(text)}".rstrip())
    for title, lines in (("LAYERS", _layers(told)), ("SNAPSHOTS", _snapshots(told)), ("LEFT TO DO", told["left"])):
        _section(title, list(lines))
    console.data("")
    rows = [(one["type"], one["status"], one["reason"], one["message"]) for one in told["conditions"]]
    console.table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)
    if told["runs"]:
        console.data("")
        show_runs(told["runs"])
    if told["events"]:
        console.data("")
        show_events(told["events"])


def _headline(told: Told) -> str:
    ready = told["conditions"][0]
    said = f": {visible(ready['message'])}" if ready["message"] else ""
    return f"{told['phase']} ({ready['reason']}{said})"


def _facts(told: Told) -> Iterator[tuple[str, str]]:
    declared = told["declared"]
    yield "declared", f"{declared['where']}, at {told['revision']}" if declared else "no manifest declares it"
    if declared:
        seen = (
            "" if told["generation"] == told["observedGeneration"] else f", of which a run has seen {told['observedGeneration']}"
        )
        yield "generation", f"{told['generation']}{seen}"
        if declared["labels"]:
            yield "labels", ", ".join(f"{name}={value}" for name, value in sorted(declared["labels"].items()))
    yield "pool", f"{told['pool']}, {console.size(told['size'])}"
    yield "volume", short(told["chain"])
    if told["sharesVolumesWith"]:
        yield "shared with", ", ".join(told["sharesVolumesWith"])
    for mark in told["marks"]:
        until = f" until {mark['until']}" if mark["until"] else ""
        yield mark["what"], f"since {mark['since']}{until}" + (f": {mark['reason']}" if mark["reason"] else "")
    if told["failure"]:
        yield "failure", f"{told['failure']['reason']}: {told['failure']['message']}"


def _layers(told: Told) -> Iterator[str]:
    for number, layer in enumerate((told["declared"] or {}).get("layers", ()), 1):
        pin = f"sha256:{layer['sha256'][:12]}" if layer["sha256"] else "unpinned"
        yield f"{number}  {pin}  {layer['source']}"


def _snapshots(told: Told) -> Iterator[str]:
    for one in told["snapshots"]:
        old = "" if one["chain"] == told["chain"] else f"  (of volume {short(one['chain'])})"
        state = "active" if one["active"] else one["state"]
        yield f"{one['name']}  {state}  {console.size(one['used'])} used  {one['path']}{old}"


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        console.data("")
        console.data(title)
        for line in lines:
            console.data(f"  {visible(line)}")
