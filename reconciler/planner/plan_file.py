"""Plan files: written by ``plan --out``, printed by ``show``, executed by ``apply`` exactly, and only if nothing has changed.

A plan is bound to the manifests, the registry and the contents of the pools that it was made from, as digests, and to what each
unpinned source held: its ETag and the digest recorded for it. A plan with a layer that is not resolved is not written. The file
contains no credentials: layers are named as in the manifests. Called by ``cli``. State: the file, mode 0600.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler import atomic_file
from reconciler.dataclass import asdict, dataclass, field
from reconciler.errors import Guarded, UsageError
from reconciler.image.spec import Layer, Limits, S3Options, Source
from reconciler.model import Action, Desired, ImageResolution, Key, Kind, Observed, Plan, Resolution, Verb

FORMAT = "reconciler/plan-3"
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
    """``wish`` is what ``plan`` was asked for besides the manifests; ``sources`` are the unpinned ones, see ``held_by``."""

    host: str
    made: float
    revision: str
    basis: Basis
    wish: Mapping[str, Any]
    actions: tuple[Action, ...]
    sources: Mapping[str, str] = field(default_factory=dict)


def require_resolved(actions: Iterable[Action]) -> None:
    """Raise Guarded where the digest of a layer, or what is in an archive, is unresolved: such a plan can't be saved."""
    unknown = [action for action in actions if action.verb is Verb.RESOLVE]
    if not unknown:
        return
    first, more = unknown[0], f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    fetch = "fetch it first: reconcile plan --out FILE --fetch"
    if first.unpack:
        why, hint = f"is {first.because}", fetch
    else:
        why = "is unpinned and was never fetched, so its digest is unresolved"
        hint = f"write its digest into the manifest: reconcile pin; or {fetch}"
    raise Guarded(f"the plan can't be saved: {first.name}{more} {why}", hint=hint)


def held_by(resolutions: Iterable[Resolution], references: Iterable[ImageResolution] = ()) -> dict[str, str]:
    """What each unpinned source holds, by its URL and endpoint; what each reference stands for, by its URL and platform."""
    referred = sorted(references, key=lambda one: (one.reference.source.url, one.reference.platform))
    return {
        f"{one.reference.source.url} for {one.reference.platform}": f"{one.found.digest} {one.found.manifest}"
        for one in referred
        if one.found
    } | {
        " at ".join(filter(None, (one.source.url, one.source.s3.endpoint_url))): f"{one.etag} {one.size} {one.digest}"
        for one in sorted(resolutions, key=lambda one: (one.source.url, repr(one.source.s3)))
    }


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
    for rows in (observed.images, observed.volumes, observed.snapshots, observed.failures, observed.asides):
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
        "sources": dict(saved.sources),
        "actions": [asdict(action) for action in saved.actions],
    }
    try:
        atomic_file.write(path, json.dumps(document | {"sha256": _checksum(document)}, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"the plan can't be written to {path}: {error.strerror}", hint="see --out") from error


def read(path: Path) -> Saved:
    """Raises UsageError for what is not a plan of this version, or was changed after it was written."""
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
    if document.pop("sha256", None) != _checksum(document):
        raise UsageError(f"{path} is damaged: it was changed after it was written", hint=AGAIN)
    try:
        actions = tuple(map(_action_of, document["actions"]))
        rest = (document["host"], document["made"], document["revision"], Basis(**document["basis"]), document["wish"])
        return Saved(*rest, actions, document["sources"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: {error}", hint=AGAIN) from error


def _checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def check(saved: Saved, now: Saved) -> None:
    """Raise Guarded unless ``now``, the plan for this host at this moment, has the same basis and the same actions."""
    moved = saved.basis.moved(now.basis)
    every = sorted({*saved.sources, *now.sources})
    moved += [f"what {url} holds" for url in every if saved.sources.get(url) != now.sources.get(url)]
    if now.host != saved.host:
        moved.append(f"the host: it was made on {saved.host}")
    if not moved and now.actions != saved.actions:
        moved.append(_other_actions(saved.actions, now.actions))
    if moved:
        raise Guarded(f"the plan is stale; this has changed since: {'; '.join(moved)}", hint=AGAIN)


def _other_actions(before: Sequence[Action], now: Sequence[Action]) -> str:
    """Which actions follow now that did not, or the other way round: time has passed, a snapshot is in use, another version."""
    new = [f"{one.verb} {one.key} is due" for one in now if one not in before]
    gone = [f"{one.verb} {one.key} is no longer due" for one in before if one not in now]
    return ", ".join([*gone, *new][:3]) or "the order of the actions"


def as_plan(saved: Saved) -> Plan:
    return Plan(actions=saved.actions)


# ---------------------------------------------------------------------------------------------------------- actions


def _action_of(value: Mapping[str, Any]) -> Action:
    fields: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
    fields |= {"verb": Verb(value["verb"]), "kind": Kind(value["kind"]), "limits": Limits(**value["limits"])}
    fields["after"] = tuple(Key(Kind(kind), pool, name) for kind, pool, name in value["after"])
    return Action(**fields | {"layers": tuple(map(_layer_of, value["layers"]))})


def _layer_of(value: Mapping[str, Any]) -> Layer:
    source, *others = (Source(one["url"], S3Options(**one["s3"])) for one in (value["source"], *value.get("others", ())))
    about = value.get("learnt", False), value.get("size", 0), value.get("diff_id", "")
    return Layer(source, value["sha256"], *about, tuple(others), value.get("compression", ""))
