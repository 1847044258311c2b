"""``describe image/NAME`` as text: the status of an image, the most important first.

Called by ``cli`` with what ``inventory.describe`` returns. Prints; no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.errors import visible
from reconciler.output import console
from reconciler.planner.status import MEANING, Phase
from reconciler.status.inventory import phase, ready, short, show_events, show_runs, usage

Description = Mapping[str, Any]


def show(image: Description) -> None:
    console.data(f"image/{visible(image['name'])}  {_headline(image)}")
    console.data("")
    for name, text in _fields(image):
        console.data(f"  {name:14}{visible(text)}".rstrip())
    for title, lines in (("LAYERS", _layers(image)), ("SNAPSHOTS", _snapshots(image)), ("LEFT TO DO", image["left"])):
        _section(title, list(lines))
    console.data("")
    rows = [(one["type"], one["status"], one["reason"], one["message"]) for one in image["conditions"]]
    console.table(("CONDITION", "STATUS", "REASON", "MESSAGE"), rows)
    if image["runs"]:
        console.data("")
        show_runs(image["runs"])
    if image["events"]:
        console.data("")
        show_events(image["events"])


def _headline(image: Description) -> str:
    condition = image["conditions"][0]
    if condition["status"] == "True":
        return phase(image)
    if condition["reason"] == "NotDeclared":  # the phase is that of what is still there
        return f"{phase(image)}: {visible(condition['message'])}"
    message = f": {visible(condition['message'])}" if condition["message"] else ""
    return f"{phase(image)} ({condition['reason']}{message})"


def _fields(image: Description) -> Iterator[tuple[str, str]]:
    declared = image["declared"]
    yield "phase", f"{image['phase']}: {MEANING[Phase(image['phase'])]}"
    yield "declared", f"{declared['where']}, at {image['revision']}" if declared else "no manifest declares it"
    if declared:
        applied = image["observedGeneration"]
        yield "generation", f"{image['generation']}" + ("" if image["generation"] == applied else f"; a run has read {applied}")
        if declared["labels"]:
            yield "labels", ", ".join(f"{name}={value}" for name, value in sorted(declared["labels"].items()))
    yield "pool", f"{image['pool']}, {console.size(image['size'])}"
    yield "chain", f"{short(image['chain'])} (identifies its layers in order; names their volume)"
    yield from _reference((declared or {}).get("reference"), image["config"])
    yield "snapshots", f"{ready(image)} ready"
    if image["claims"]:
        yield "claims", ", ".join(f"{count} {state}" for state, count in image["claims"].items() if count or state == "ready")
    if image["sharesVolumesWith"]:
        yield "shared with", ", ".join(image["sharesVolumesWith"])
    for mark in image["marks"]:
        until = f" until {mark['until']}" if mark["until"] else ""
        yield mark["what"], f"since {mark['since']}{until}" + (f": {mark['reason']}" if mark["reason"] else "")
    if image["failure"]:
        yield "failure", f"{image['failure']['reason']}: {image['failure']['message']}"


def _reference(reference: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What an OCI image is made of, and how it is run."""
    if reference is None:
        return
    yield "source", f"{reference['source']}, {reference['platform']}"
    yield "digest", reference["digest"] or "not resolved"
    run = (config or {}).get("config") or {}
    for name, key in (("entrypoint", "Entrypoint"), ("command", "Cmd"), ("environment", "Env")):
        if run.get(key):
            yield name, " ".join(run[key])
    for name, key in (("user", "User"), ("directory", "WorkingDir")):
        if run.get(key):
            yield name, str(run[key])


def _layers(image: Description) -> Iterator[str]:
    reference = (image["declared"] or {}).get("reference")
    if reference and reference["digest"] and "@sha256:" not in reference["source"]:
        yield f"to pin them, declare  source: {reference['source']}@{reference['digest']}"
    for number, layer in enumerate((image["declared"] or {}).get("layers", ()), 1):
        pin = f"sha256:{layer['sha256'][:12]}" if layer["sha256"] else "unpinned"
        yield f"{number}  {pin}  {layer['source']}"
        if layer["applied"] and not layer["sha256"]:
            yield f"   to pin what was applied, declare  sha256: {layer['applied']}"


def _snapshots(image: Description) -> Iterator[str]:
    for one in image["snapshots"]:
        old = "" if one["chain"] == image["chain"] else f"  (of volume {short(one['chain'])})"
        state = usage({**one, "state": "active"} if one["active"] else one)
        yield f"{one['name']}  {state}  {console.size(one['used'])} used  {one['path']}{old}"


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        console.data("")
        console.data(title)
        for line in lines:
            console.data(f"  {visible(line)}")
