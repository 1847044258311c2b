"""Plan files: written by ``plan --out``, printed by ``show``, executed by ``apply`` exactly, and only if nothing has changed.

A plan is bound to the manifests, the registry and the contents of the pools that it was made from, as digests. It contains no
credentials: layers are named as in the manifests. Called by ``cli``. State: the file, mode 0600.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import Layer, Limits, S3Options, Source
from reconciler.model import Action, Desired, Key, Kind, Observed, Plan, Verb

FORMAT = "reconciler/plan-2"
AGAIN = "make it again: reconcile plan --out FILE"


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan was made of, as digests."""

    manifests: str
    registry: str
    pools: str

    def moved(self, now: Basis) -> list[str]:
        """What is no longer as it was, in words."""
        words = {
            "manifests": "what the manifests declare for this host",
            "registry": "the registry (another run, or a mark on an image)",
            "pools": "what the pools hold",
        }
        return [words[name] for name in words if getattr(self, name) != getattr(now, name)]


@dataclass(frozen=True, slots=True)
class Saved:
    """``wish`` is what ``plan`` was asked for besides the manifests."""

    host: str
    made: float
    revision: str
    basis: Basis
    wish: Mapping[str, Any]
    actions: tuple[Action, ...]


def basis(desired: Desired, observed: Observed, recorded: Iterable[str]) -> Basis:
    """The digests that a plan depends on; ``recorded`` is what the registry holds besides the rows in ``observed``."""
    return Basis(_digest(_declared(desired)), _digest(_rows(observed, recorded)), _digest(_held(observed)))


def _digest(parts: Iterator[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode(errors="surrogatepass") + b"\0")
    return found.hexdigest()[:32]


def _declared(desired: Desired) -> Iterator[str]:
    for name, pool in sorted(desired.pools.items()):
        yield f"{name} {asdict(pool) | {'where': None}}"
    for name, image in sorted(desired.images.items()):
        yield f"{name} {image.digest} {sorted(image.labels.items())}"


def _rows(observed: Observed, recorded: Iterable[str]) -> Iterator[str]:
    rows: Mapping[Any, Any]
    for rows in (observed.images, observed.volumes, observed.snapshots, observed.failures):
        yield from (f"{key} {row}" for key, row in sorted(rows.items()))
    yield from recorded


def _held(observed: Observed) -> Iterator[str]:
    """What plans depend on; not how full a pool or how large a snapshot is, which moves while machines run."""
    for name, pool in sorted(observed.pools.items()):
        state = pool.state
        yield f"{name} {pool.problem}" if state is None else f"{name} {state.unready} {state.halted}"
        for volume in state.volumes.values() if state else ():
            yield f"{volume.chain} {volume.condition} {volume.path}"
        for snapshot in state.snapshots.values() if state else ():
            yield f"{snapshot.name} {snapshot.condition} {snapshot.path} {snapshot.active}"


# -------------------------------------------------------------------------------------------------------- the file


def write(path: Path, saved: Saved) -> None:
    """Write a plan to ``path``. Raises UsageError where that is not possible."""
    document = {
        "format": FORMAT,
        "host": saved.host,
        "made": saved.made,
        "revision": saved.revision,
        "basis": asdict(saved.basis),
        "wish": dict(saved.wish),
        "actions": [asdict(action) for action in saved.actions],
    }
    try:
        atomic_file.write(path, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"the plan can't be written to {path}: {error.strerror}", hint="see --out") from error


def read(path: Path) -> Saved:
    """Raises UsageError for what is not a plan of this version."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="plans are written by: reconcile plan --out FILE") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a plan: {error}", hint=AGAIN) from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        what = f"has the format {found!r}, not {FORMAT!r}" if found else "is not a plan"
        raise UsageError(f"{path} {what}", hint=AGAIN)
    try:
        actions = tuple(map(_action_of, document["actions"]))
        told = (document["host"], document["made"], document["revision"], Basis(**document["basis"]), document["wish"])
        return Saved(*told, actions)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}", hint=AGAIN) from error


def check(saved: Saved, now: Saved) -> None:
    """Raise Guarded unless ``now``, the plan for this host at this moment, has the same basis and the same actions."""
    moved = saved.basis.moved(now.basis)
    if now.host != saved.host:
        moved.append(f"the host: it was made on {saved.host}")
    if not moved and now.actions != saved.actions:
        moved.append("what this version of the reconciler would do")
    if moved:
        raise Guarded(f"the plan is stale; this has changed since: {'; '.join(moved)}", hint=AGAIN)


def as_plan(saved: Saved) -> Plan:
    return Plan(actions=saved.actions)


# ---------------------------------------------------------------------------------------------------------- actions


def _action_of(value: Mapping[str, Any]) -> Action:
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    fields |= {"verb": Verb(value["verb"]), "kind": Kind(value["kind"]), "limits": Limits(**value["limits"])}
    fields["after"] = tuple(Key(Kind(kind), pool, name) for kind, pool, name in value["after"])
    return Action(**fields | {"layers": tuple(map(_layer_of, value["layers"]))})


def _layer_of(value: Mapping[str, Any]) -> Layer:
    source = value["source"]
    return Layer(Source(source["url"], S3Options(**source["s3"])), value["sha256"], value.get("learnt", False))
