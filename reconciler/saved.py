"""A plan in a file: made by ``plan --out``, looked at with ``show``, carried out by ``apply``, exactly and if nothing has moved.

What has to be as it was: what the manifests say of this host, the registry, and what the pools hold. No credentials are in it:
layers are named as manifests name them. State: the file, mode 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import Layer, Limits, S3Options, Source
from reconciler.model import Action, Desired, Kind, Observed, Plan, Verb

if TYPE_CHECKING:
    from reconciler.host import Host
    from reconciler.loop import Look, Wish

FORMAT = "reconciler/plan-1"
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
            "manifests": "what the manifests say of this host",
            "registry": "the registry (another run, or somebody's word on an image)",
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


def basis(host: Host, observed: Observed) -> Basis:
    return Basis(_digest(_said(host.desired)), _digest(_recorded(host, observed)), _digest(_held(observed)))


def _digest(parts: Iterator[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode(errors="surrogatepass") + b"\0")
    return found.hexdigest()[:32]


def _said(desired: Desired) -> Iterator[str]:
    for name, pool in sorted(desired.pools.items()):
        yield f"{name} {asdict(pool) | {'where': None}}"
    for name, image in sorted(desired.images.items()):
        yield f"{name} {image.digest} {sorted(image.labels.items())}"


def _recorded(host: Host, observed: Observed) -> Iterator[str]:
    for rows in (observed.images, observed.volumes, observed.snapshots, observed.failures, host.records.marks()):
        yield from (f"{key} {row}" for key, row in sorted(rows.items()))
    yield from (f"{run.subject} {run.status}" for run in host.records.open_runs())


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


def write(path: Path, host: Host, look: Look, wish: Wish) -> None:
    """Raises UsageError where the file can't be written."""
    document = {
        "format": FORMAT,
        "host": host.name,
        "made": time.time(),
        "revision": host.revision,
        "basis": asdict(basis(host, look.observed)),
        "wish": {"prune": wish.prune, "selector": wish.selector, "most": wish.most},
        "actions": [asdict(action) for action in look.plan.actions],
    }
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, 0o600)
            json.dump(document, file, indent=1)
            file.write("\n")
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


def check(saved: Saved, host: Host, look: Look) -> None:
    """Raises Guarded unless this host is as it was when the plan was made, and would plan the same again."""
    moved = saved.basis.moved(basis(host, look.observed))
    if host.name != saved.host:
        moved.append(f"the host: it was made on {saved.host}")
    if not moved and look.plan.actions != saved.actions:
        moved.append("what this version of the reconciler would do")
    if moved:
        raise Guarded(f"the plan is stale; this has changed since: {'; '.join(moved)}", hint=AGAIN)


def as_plan(saved: Saved) -> Plan:
    return Plan(actions=saved.actions)


# ---------------------------------------------------------------------------------------------------------- actions


def _action_of(value: Mapping[str, Any]) -> Action:
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    fields |= {"verb": Verb(value["verb"]), "kind": Kind(value["kind"]), "limits": Limits(**value["limits"])}
    return Action(**fields | {"layers": tuple(map(_layer_of, value["layers"]))})


def _layer_of(value: Mapping[str, Any]) -> Layer:
    source = value["source"]
    return Layer(Source(source["url"], S3Options(**source["s3"])), value["sha256"])
