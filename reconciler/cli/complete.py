"""Shell completion of kinds and object names, from the registry and the manifests.

Called by click for the arguments of verbs. Reads the registry's tables and the manifests' text only, imports nothing heavy, and
gives no completion where it fails. No state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from reconciler.settings import default_state

KINDS = ("image", "pool", "snapshot", "volume")

TABLES = {
    "claim": "SELECT id FROM claim WHERE state = 'claimed'",
    "image": "SELECT name FROM image",
    "snapshot": "SELECT name FROM snapshot",
    "volume": "SELECT substr(chain, 1, 12) FROM volume",
    "pool": "SELECT pool FROM volume UNION SELECT pool FROM snapshot UNION SELECT name FROM pool",
}

MOST_FILES, MOST_BYTES = 2000, 1 << 20
"""Of manifests that are read for their names: a completion takes no longer than a key press should."""

_DOCUMENT = re.compile(r"^---.*$", re.MULTILINE)
_KIND = re.compile(r"""^kind:\s*["']?(\w+)""", re.MULTILINE)
_NAME = re.compile(r"""^metadata:\s*(?:\{[^}\n]*?|(?:\n[ \t]+[^\n]*)*?\n[ \t]+)\bname:\s*["']?([\w.-]+)""", re.MULTILINE)
_SNAPSHOT = re.compile(r"""(?:^\s*-|\[|\},)\s*\{?\s*name:\s*["']?([\w.-]+)""", re.MULTILINE)


def object_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``KIND/`` first, then ``KIND/NAME``."""
    kind, slash, _ = incomplete.partition("/")
    if not slash:
        found = [f"{one}/" for one in KINDS if one.startswith(incomplete)]
        return [f"{found[0]}{name}" for name in _names(context, found[0][:-1])] or found if len(found) == 1 else found
    return _starting(incomplete, (f"{kind}/{name}" for name in _names(context, kind)))


def image_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``image/NAME``."""
    return _starting(incomplete, (f"image/{name}" for name in _names(context, "image")))


def names_to_retry(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``snapshot/NAME`` after ``--recreate``, ``image/NAME`` otherwise."""
    return (snapshot_names if context.params.get("recreate") else image_names)(context, param, incomplete)


def plain_image_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``NAME`` of an image."""
    return _starting(incomplete, _names(context, "image"))


def pool_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``NAME`` of a pool."""
    return _starting(incomplete, _names(context, "pool"))


def snapshot_names(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``snapshot/NAME``."""
    return _starting(incomplete, (f"snapshot/{name}" for name in _names(context, "snapshot")))


def claimable(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``image/NAME`` or ``snapshot/NAME``."""
    found = [*image_names(context, param, incomplete), *snapshot_names(context, param, incomplete)]
    return found if "/" in incomplete else [f"{one}/" for one in ("image", "snapshot") if one.startswith(incomplete)]


def bootable(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``snapshot/NAME``, or a claim."""
    return [*snapshot_names(context, param, incomplete), *claims(context, param, incomplete)]


def claims(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``CLAIM`` of a claim that can be released."""
    return _starting(incomplete, _names(context, "claim"))


def kinds(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """``images``, ``pools`` …"""
    return _starting(incomplete, [*(f"{kind}s" for kind in KINDS), "claims"])


def declared_kinds(context: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """What ``get`` takes: the kinds that manifests declare, or one object of them."""
    if "/" in incomplete:
        return object_names(context, param, incomplete)
    return _starting(incomplete, ("images", "pools", "image/", "pool/"))


def _starting(incomplete: str, words: Iterator[str] | Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _names(context: click.Context, kind: str) -> list[str]:
    found: set[str] = set()
    for source in (_recorded, _declared):
        with suppress(Exception):  # a message would end in the command line that is being typed
            found.update(source(context, kind))
    return sorted(found)


def _option(context: click.Context, name: str, variable: str, default: Path) -> Path:
    """An option of the command line that is being typed, before or after the verb; else the environment's."""
    given: Any = None
    at: click.Context | None = context
    while at is not None and given is None:
        source = at.get_parameter_source(name)
        given = at.params.get(name) if source and source.name == "COMMANDLINE" else None
        at = at.parent
    return Path(given or os.environ.get(variable) or default)


def _recorded(context: click.Context, kind: str) -> Iterator[str]:
    import sqlite3

    path = _option(context, "state", "RECONCILER_STATE", default_state()).absolute() / "registry.sqlite3"
    if kind not in TABLES or not path.is_file():
        return
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    with closing(sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=0.2)) as registry:
        yield from (str(name) for (name,) in registry.execute(TABLES[kind]))


def _declared(context: click.Context, kind: str) -> Iterator[str]:
    """Names as the text of the manifests shows them, unparsed."""
    root = _option(context, "manifests", "RECONCILER_MANIFESTS", Path("manifests"))
    for text in _texts(root):
        for document in _DOCUMENT.split(text):
            is_of, name = _KIND.search(document), _NAME.search(document)
            if is_of and name and is_of[1].lower() == kind:
                yield name[1]
            if is_of and is_of[1] == "Image" and kind == "snapshot":
                yield from _SNAPSHOT.findall(document.partition("snapshots:")[2])


def _texts(root: Path) -> Iterator[str]:
    files, left = 0, MOST_BYTES
    for directory, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or not name.endswith((".yaml", ".yml")):
                continue
            files += 1
            if files > MOST_FILES or left <= 0:
                return
            with suppress(OSError):
                text = Path(directory, name).read_bytes()[:left].decode("utf-8", "replace")
                left -= len(text)
                yield text
