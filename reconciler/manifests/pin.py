"""Digests written into manifests: each is spliced into a file's text at the mark of its node, every other byte is kept.

The result is parsed again: it has to differ in exactly the pinned values, or it is refused. Called by ``cli.pin``, which finds
the digests out. State: none; files are read and replaced.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.dataclass import dataclass
from reconciler.errors import HostCannot, UsageError
from reconciler.image.spec import ImageReference, Layer
from reconciler.manifests.desired import Declared
from reconciler.manifests.faults import shown
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.image import ImageDocument
from reconciler.manifests.loader import ParsedFile
from reconciler.manifests.parser import Entries, Items, Located, Reader
from reconciler.model import Where


@dataclass(frozen=True, slots=True)
class Unpinned:
    """A source without a digest: ``number`` is the document's in its file, ``layer`` the layer's, None of a reference."""

    file: ManifestFile
    number: int
    image: str
    layer: int | None
    source: Layer | ImageReference
    where: Where
    text: str
    """The source as it is written."""


@dataclass(frozen=True, slots=True)
class Pin:
    """``digest`` in hex digits."""

    of: Unpinned
    digest: str


def unpinned(file: ManifestFile) -> Iterator[Unpinned]:
    """The sources of a valid file that have no digest, in their order."""
    starts = [root.start[0].index if isinstance(root, Entries) else -1 for root in _documents(file.text, file.path)]
    for declared in ParsedFile(file).images:
        assert isinstance(declared.origin, Located)
        yield from _of(file, starts.index(declared.origin.root.start[0].index), declared)


def _of(file: ManifestFile, number: int, declared: Declared[ImageDocument]) -> Iterator[Unpinned]:
    spec, reference = declared.document.spec, declared.reference
    if reference is not None and "@sha256:" not in reference.source.url:
        yield _unpinned(file, number, declared, None, reference, ("spec", "source"))
    for at, (written, layer) in enumerate(zip(spec.layers or (), declared.layers, strict=True)):
        if written.sha256 is None:
            yield _unpinned(file, number, declared, at, layer, ("spec", "layers", at, "source"))


def _unpinned(
    file: ManifestFile,
    number: int,
    declared: Declared[ImageDocument],
    layer: int | None,
    source: Layer | ImageReference,
    loc: tuple[str | int, ...],
) -> Unpinned:
    assert isinstance(declared.origin, Located)
    text = _node(declared.origin.root, loc)
    return Unpinned(file, number, declared.name, layer, source, declared.origin.where(loc), str(text))


def pinned(file: ManifestFile, pins: Sequence[Pin]) -> str:
    """The text of a file with these digests. Raises UsageError where they can't be spliced in."""
    text = file.text
    for pin in pins:
        wanted = _plain(_documents(text, file.path))
        _set(wanted, pin)
        for candidate in _candidates(text, _documents(text, file.path)[pin.of.number], pin):
            if _reads_as(candidate, file.path, wanted):
                text = candidate
                break
        else:
            where = f"{shown(file.path)}:{pin.of.where.line}:{pin.of.where.column}"
            value = f"{pin.of.text}@sha256:{pin.digest}" if pin.of.layer is None else f"sha256: {pin.digest}"
            raise UsageError(f"{where}: the digest can't be spliced in without a change of something else", hint=f"write {value}")
    return text


def write(file: ManifestFile, text: str) -> None:
    """Replace the file, or what its link leads to, in one step, with the same owner and mode. Raises HostCannot."""
    target = Path(os.path.realpath(file.path))
    try:
        stored = target.read_bytes()
        mark = BOM_UTF8 if stored.startswith(BOM_UTF8) else b""
        if stored.removeprefix(mark) != file.text.encode():
            raise HostCannot(f"{shown(file.path)} has changed while its sources were asked for", hint="run again")
        with atomic_file.draft(target) as made:
            with os.fdopen(os.dup(made.fd), "wb") as out:
                out.write(mark + text.encode())
            atomic_file.keep_access(made.fd, target)
            made.publish()
    except OSError as error:
        raise HostCannot(f"{shown(file.path)} can't be written: {error.strerror}", hint="check its owner and mode") from error


# ---------------------------------------------------------------------------------------------------------- text


def _candidates(text: str, root: object, pin: Pin) -> Iterator[str]:
    """Texts that may have the digest in the right place: one for each style that the value may be written in."""
    if pin.of.layer is None:
        start, end = _value(root, ("spec", "source"))
        end = _end(text, start, end)
        quoted = end - 1 if text[end - 1 : end] in ('"', "'") else end
        yield f"{text[:quoted]}@sha256:{pin.digest}{text[quoted:]}"
        return
    loc = ("spec", "layers", pin.of.layer, "source")
    start, end = _value(root, loc)
    end = _end(text, start, end)
    yield f"{text[:end]}, sha256: {pin.digest}{text[end:]}"
    column = _key_column(root, loc)
    line_end = min((at for one in ("\r\n", "\n") if (at := text.find(one, end)) >= 0), default=len(text))
    ending = "\r\n" if "\r\n" in text else "\n"
    yield f"{text[:line_end]}{ending}{' ' * column}sha256: {pin.digest}{text[line_end:]}"


def _end(text: str, start: int, column_end: int) -> int:
    """Where a value of one line ends; of a longer one the place is wrong, and what it gives is refused."""
    line = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    return line + column_end


def _value(root: object, loc: tuple[str | int, ...]) -> tuple[int, int]:
    mapping = _node(root, loc[:-1])
    assert isinstance(mapping, Entries)
    _, _, mark, end_column = mapping.marks[str(loc[-1])]
    return mark.index, end_column


def _key_column(root: object, loc: tuple[str | int, ...]) -> int:
    mapping = _node(root, loc[:-1])
    assert isinstance(mapping, Entries)
    return int(mapping.marks[str(loc[-1])][0].column)


# --------------------------------------------------------------------------------------------------------- values


def _documents(text: str, path: str) -> list[object]:
    return [root for root, _ in Reader(text, path).documents()]


def _reads_as(text: str, path: str, wanted: list[Any]) -> bool:
    """Whether a text is read without a fault, as these documents."""
    reader = Reader(text, path)
    found = [root for root, _ in reader.documents()]
    return not reader.faults and _plain(found) == wanted


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    return [_plain(one) for one in node] if isinstance(node, list) else node


def _set(documents: list[Any], pin: Pin) -> None:
    spec = documents[pin.of.number]["spec"]
    if pin.of.layer is None:
        spec["source"] = f"{spec['source']}@sha256:{pin.digest}"
    else:
        spec["layers"][pin.of.layer]["sha256"] = pin.digest


def _node(root: object, loc: Sequence[str | int]) -> object:
    for part in loc:
        assert isinstance(root, Entries | Items)
        root = root[part]  # type: ignore[index]
    return root
