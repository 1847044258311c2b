"""``reconcile inspect`` of an image: the verdict of a build on its layers, its platforms, configuration and totals.

Called by ``cli.layers``. Layers are streamed into a builder process; nothing is kept. State: one build without a volume.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.cli.build_image import show_gaps
from reconciler.cli.inspect_layer import UNBOUNDED, Document, inodes, reporting_builder_death
from reconciler.errors import DigestMismatch, LayerCorrupt, LayerRefused, ReconcilerError, visible
from reconciler.image.builder import notes
from reconciler.image.builder.feed import Input
from reconciler.image.builder.parent import Build, Milestone, Request
from reconciler.image.oci import config
from reconciler.image.oci.resolve import platforms, resolve
from reconciler.image.source.local import LocalFile
from reconciler.image.source.ranges import FIRST_RANGE, Ranges
from reconciler.image.source.reading import Origin, Reading
from reconciler.image.spec import ImageReference, Layer, Limits, Resolved, chain_ids
from reconciler.output import console

COUNTED = ("storedBytes", "unpackedBytes", "entries")


class _Checked(Ranges):
    """An object or blob in order, compared with its digest at the end."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.source)
        self._layer = layer

    def verify(self, digest: str) -> None:
        if digest != self._layer.sha256:
            message = f"{self._layer.source.url} has sha256 {digest}, not {self._layer.sha256}, which the manifest names"
            raise DigestMismatch(message, hint="push the image again")


def inspect(wanted: ImageReference, limits: Limits, *, stop: threading.Event) -> Document:
    """The verdict on an image, and what it is. Refusal is an answer, not an error."""
    offered = platforms(wanted, stop.is_set)
    found = resolve(wanted, unless=stop.is_set)
    inputs = tuple(_input(one, stop) for one in found.layers)
    request = Request(
        inputs, UNBOUNDED, lambda digests: chain_ids(UNBOUNDED, digests)[-1], limits, survey=True, ahead=FIRST_RANGE
    )
    totals: tuple[Mapping[str, Any], ...] = ()
    counted: Document = {}
    verdict: Document = {"verdict": "accept", "reason": ""}
    with reporting_builder_death(), Build(request, stop) as build:
        try:
            totals = build.wait(Milestone.ACCEPTED, stop=stop).layers
            counted = {"inodes": build.seen["inodes"]}
        except (LayerRefused, LayerCorrupt, DigestMismatch) as error:
            verdict = _refusal(error, build.blamed)
    show_gaps([str(gap) for gap in build.gaps])
    return verdict | _described(wanted, found, [str(one) for one in offered], totals) | counted


def _input(layer: Layer, stop: threading.Event) -> Input:
    def origin() -> Origin:
        return _Checked(layer) if layer.source.is_remote else LocalFile(layer)

    url = layer.source.url
    return Input(url, lambda: Reading(url, origin(), stop), declared=layer.declared, diff_id=layer.diff_id)


def _refusal(error: ReconcilerError, blamed: str) -> Document:
    refused = error if isinstance(error, LayerRefused) else None
    return {
        "verdict": "reject",
        "reason": error.reason,
        "rule": refused.rule if refused else "corrupt" if isinstance(error, LayerCorrupt) else "digest",
        "layer": blamed,
        "member": refused.member if refused and refused.member else None,
        "offset": refused.offset if refused else None,
        "message": error.message.removeprefix(f"layer {blamed}: "),
        "hint": error.hint,
    }


def _described(wanted: ImageReference, found: Resolved, offered: list[str], totals: tuple[Mapping[str, Any], ...]) -> Document:
    layers: list[dict[str, Any]] = []
    for number, one in enumerate(found.layers):
        counted = {name: totals[number][name] for name in COUNTED} if totals else {"storedBytes": one.size}
        noted = {"notes": notes.of_layer(one, totals[number]) if totals else []}
        layers.append({"source": one.source.url, "sha256": one.sha256, "diffId": one.diff_id} | counted | noted)
    names = COUNTED if totals else COUNTED[:1]
    return {
        "source": wanted.source.url,
        "digest": found.digest,
        "manifest": found.manifest,
        "platform": str(config.parse(found.config.encode(), len(found.layers)).platform or wanted.platform),
        "platforms": offered,
        "layers": layers,
        "totals": {"layers": len(layers)} | {name: sum(one[name] for one in layers) for name in names},
        "config": json.loads(found.config),
    }


# ---------------------------------------------------------------------------------------------------- for people


def show(document: Mapping[str, Any]) -> None:
    console.data(f"{console.verdict(document['verdict'])}  {visible(document['source'])}")
    for name, *texts in (*_why(document), *_lines(document)):
        for number, text in enumerate(filter(None, texts)):
            console.data(f"  {'' if number else name:<11} {visible(text)}")


def _why(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    if document["verdict"] == "accept":
        return
    yield "rule", f"{document['rule']} ({document['reason']})"
    yield "because", document["message"]
    yield "layer", document["layer"]
    if document["member"] is not None:
        yield "member", console.plain(document["member"])
    yield "hint", document["hint"]


def _lines(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "digest", document["digest"]
    yield "manifest", f"{document['manifest']}, {document['platform']}"
    yield "platforms", ", ".join(document["platforms"])
    yield "layers", _counts(document["totals"], f"{document['totals']['layers']}: ")
    for one in document["layers"]:
        yield "", "", f"sha256:{one['sha256']}  {_counts(one)}", *(f"  note: {note}" for note in one["notes"])
    yield "inodes", inodes(document)
    run = document["config"].get("config") or {}
    for name, key in RUN:
        if value := run.get(key):
            yield name, *_values(value)


RUN = (
    ("entrypoint", "Entrypoint"), ("cmd", "Cmd"), ("user", "User"), ("directory", "WorkingDir"), ("env", "Env"),
    ("ports", "ExposedPorts"), ("volumes", "Volumes"), ("stop signal", "StopSignal"), ("labels", "Labels"),
)  # fmt: skip
"""The lines of the configuration, and its keys."""


def _counts(of: Mapping[str, Any], before: str = "") -> str:
    words = [f"{console.size(of['storedBytes'])} stored"]
    if "unpackedBytes" in of:
        words += [f"{console.size(of['unpackedBytes'])} unpacked", f"{of['entries']} entries"]
    return before + ", ".join(words)


def _values(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}={text}" if isinstance(text, str) else key for key, text in sorted(value.items())]
    return value if isinstance(value, list) and all("=" in one for one in value) else [json.dumps(value)]
