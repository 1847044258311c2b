"""What a build has left out or changed of its layers, and what contradicts their image's manifest, in words.

For the event of a volume's run (``host.machines``) and for ``cli.inspect_image``. Pure, no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reconciler.image.spec import Layer

SHOWN = 5
"""Names that a note lists."""


def of_layers(layers: Sequence[Layer], totals: Sequence[Mapping[str, Any]]) -> str:
    """One line; empty where there is nothing to note. ``totals`` are those of the last layers of an image, by the builder."""
    first = len(layers) - len(totals) + 1
    found = zip(layers[first - 1 :], totals, strict=True)
    return "; ".join(
        f"layer {number}: {', '.join(notes)}" for number, one in enumerate(found, first) if (notes := of_layer(*one))
    )


def of_layer(layer: Layer, totals: Mapping[str, Any]) -> list[str]:
    return list(_notes(layer, totals))


def _notes(layer: Layer, totals: Mapping[str, Any]) -> Iterator[str]:
    found = totals.get("compression")
    if layer.compression and found and layer.compression != found:
        yield f"its bytes are {_form(found)}, its media type is for {_form(layer.compression)}"
    if dropped := totals.get("droppedXattrs"):
        yield f"extended attributes dropped: {sum(dropped.values())} ({_some(list(dropped), len(dropped))})"
    if (unknown := totals.get("unknownAclNames", {})).get("count"):
        names = unknown["names"]
        yield f"ACL entries dropped: {unknown['count']} (the image has no {_some(names, len(names))})"
    if (clamped := totals.get("clampedTimes", {})).get("count"):
        yield f"times moved into ext4's range: {clamped['count']} ({_some(clamped['names'], clamped['count'])})"
    if totals.get("aufsMetadata"):
        yield f"files of AUFS skipped: {totals['aufsMetadata']}"


def _form(compression: str) -> str:
    return "a plain tar" if compression == "none" else compression


def _some(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if count > SHOWN else "")
