"""Short words for the planner's tests: chains are written ``a+b``, and mean the layers whose digests are all a's and b's.

``a+b@1`` is the chain of layout 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from reconciler.claim import Claim, ClaimState, Recycle, SnapshotSet
from reconciler.image.spec import GIB, LAYOUT, Layer, Source, chain_ids
from reconciler.model import (
    Action,
    Desired,
    ImageRow,
    ImageSpec,
    Kind,
    Observed,
    Plan,
    PoolObserved,
    PoolSpec,
    ReplacePolicy,
    Resolution,
    SnapshotRow,
    VolumeRow,
)
from reconciler.pool.driver import Condition, PoolState, SnapshotState, Space, Trouble, VolumeState

SIZE = GIB
LETTERS = "abcdef"
SPACE = Space(total=100 * GIB, free=50 * GIB, reserve=10 * GIB)


def digests(chain: str) -> tuple[str, ...]:
    return tuple(letter * 64 for letter in chain.partition("@")[0].split("+"))


@cache
def chain_id(chain: str, size: int = SIZE) -> str:
    layout = chain.partition("@")[2]
    return chain_ids(size, digests(chain), layout=int(layout or LAYOUT))[-1]


def layer(word: str) -> Layer:
    """``a`` is a pinned layer; ``~a`` the same source, not pinned."""
    letter = word.lstrip("~")
    return Layer(Source(f"s3://images/{letter}.tar"), None if word.startswith("~") else letter * 64)


def image(name: str, word: Mapping[str, Any]) -> ImageSpec:
    sets = tuple(snapshot_set(one) for one in word.get("sets", ()))
    return ImageSpec(
        name=name,
        pool=word.get("pool", "default"),
        size=word.get("gib", 1) * GIB,
        layers=tuple(layer(one) for one in word.get("layers", ())),
        snapshots=tuple(word.get("snapshots", ())) or tuple(name for one in sets for name in one.names),
        retain=word.get("retain", False),
        suspend=word.get("suspend", False),
        replace=ReplacePolicy(word.get("replace", "Keep")),
        sets=sets,
    )


def snapshot_set(word: Mapping[str, Any]) -> SnapshotSet:
    count = word.get("count")
    return SnapshotSet(word["name"], count, word.get("max", count or 1), recycle=Recycle(word.get("recycle", "Never")))


def claim(name: str, state: str, pool: str = "default") -> Claim:
    return Claim(f"c-{name}", pool, name, "", "", "job", 1000, 60.0, 0.0, 0.0, 0.0, "boot", 0.0, ClaimState(state))


def desired(images: Mapping[str, Mapping[str, Any]], pools: Iterable[str] = ("default",)) -> Desired:
    return Desired({name: PoolSpec(name) for name in pools}, {name: image(name, word) for name, word in images.items()})


def volume_row(chain: str, pool: str = "default", *, shares: bool = True, size: int = SIZE) -> VolumeRow:
    word, at, layout = chain.partition("@")
    below = word.rpartition("+")[0] and word.rpartition("+")[0] + at + layout
    parent = chain_id(below, size) if shares and below else None
    return VolumeRow(pool, chain_id(chain, size), parent, size, digests(chain), f"volume {chain}")


def observed(case: Mapping[str, Any]) -> Observed:
    """A case's ``registry``, and its pools: they hold what the registry has, but for the listed differences.

    ``claims`` holds the state of the claim of each snapshot.
    ``idle`` holds snapshots that are not active, with the driver's reason (null: none); ``held`` the holder of each.
    """
    registry = case.get("registry", {})
    pools = case.get("pools", {"default": {}})
    shares = {name: pool.get("shares", True) for name, pool in pools.items()}
    images = {name: _image_row(name, word) for name, word in registry.get("images", {}).items()}
    volumes = [
        volume_row(chain, pool, shares=shares.get(pool, True))
        for word in registry.get("volumes", ())
        for chain, pool in [_in_pool(word)]
    ]
    snapshots = [_snapshot_row(name, word) for name, word in registry.get("snapshots", {}).items()]
    return Observed(
        pools={name: _pool(name, pool, volumes, snapshots) for name, pool in pools.items()},
        images=images,
        volumes={(row.pool, row.chain): row for row in volumes},
        snapshots={(row.pool, row.name): row for row in snapshots},
        resolutions={layer(word).source: _resolution(word, found) for word, found in case.get("sources", {}).items()},
        asides={("default", name): identity for name, identity in registry.get("asides", {}).items()},
        claims={("default", name): claim(name, state) for name, state in registry.get("claims", {}).items()},
        holders={(name, one): who for name, pool in pools.items() for one, who in pool.get("held", {}).items()},
    )


def _in_pool(word: str) -> tuple[str, str]:
    chain, _, pool = word.partition(" in ")
    return chain, pool or "default"


def _image_row(name: str, word: str) -> ImageRow:
    chain, pool = _in_pool(word.removesuffix(" retain"))
    return ImageRow(name, pool, chain_id(chain), SIZE, word.endswith(" retain"))


def _snapshot_row(name: str, word: str) -> SnapshotRow:
    of, pool = _in_pool(word)
    owner, chain = of.split(" at ")
    return SnapshotRow(pool, name, owner, chain_id(chain), f"snapshot {name}")


def _resolution(letter: str, found: Mapping[str, Any]) -> Resolution:
    digest = found["digest"] * 64 if "digest" in found else None
    return Resolution(
        layer(letter).source, found.get("etag"), found.get("size"), digest, found.get("error", ""), found.get("reason", "")
    )


def _pool(name: str, pool: Mapping[str, Any], volumes: Iterable[VolumeRow], snapshots: Iterable[SnapshotRow]) -> PoolObserved:
    if "problem" in pool:
        return PoolObserved(name, False, None, pool["problem"])
    bases = {row.chain: Condition.INTACT for row in volumes if row.pool == name}
    copies = {row.name: Condition.INTACT for row in snapshots if row.pool == name}
    bases |= {chain_id(chain): Condition(found) for chain, found in pool.get("volumes", {}).items()}
    copies |= {one: Condition(found) for one, found in pool.get("snapshots", {}).items()}
    idle = pool.get("idle", {})
    made = {one: chain_id(chain) for one, chain in pool.get("made", {}).items()}
    state = PoolState(
        SPACE,
        {chain: VolumeState(chain, found, f"/{name}/{chain}", detail=_detail(found)) for chain, found in bases.items()},
        {
            one: SnapshotState(
                one, found, f"/{name}/{one}", one not in idle, detail=idle.get(one) or _detail(found), made=made.get(one, "")
            )
            for one, found in copies.items()
        },
        tuple(pool.get("foreign", ())),
        tuple(pool.get("leftovers", ())),
        tuple(pool.get("orphans", ())),
        tuple(Trouble(**trouble) for trouble in pool.get("troubles", ())),
        pool.get("unready", ""),
        SPACE if pool.get("thin") else None,
        pool.get("reachable", True),
    )
    return PoolObserved(name, pool.get("shares", True), state)


def _detail(condition: Condition) -> str:
    return "another file" if condition is Condition.REPLACED else ""


# ---------------------------------------------------------------------------------------------------- results


def names(chains: Iterable[str]) -> dict[str, str]:
    """What a case calls the volumes that the planner names by their first digits."""
    return {chain_id(chain, gib * GIB)[:12]: chain for chain in chains for gib in (1, 2)}


def readable(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\b[0-9a-f]{12}\b", lambda found: known.get(found[0], found[0]), text)


def action_text(action: Action, known: Mapping[str, str]) -> str:
    """``build volume/default/a+b after volume/default/a: a layer changed``."""
    key = action.key.with_pool
    after = ", ".join(one.with_pool for one in action.after)
    chain = "" if action.chain or action.kind in (Kind.LAYER, Kind.POOL) or action.verb.value == "forget" else " (provisional)"
    return readable(f"{action.verb} {key}{chain}{f' after {after}' if after else ''}: {action.because}", known)


def plan_text(plan: Plan, known: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        "actions": [action_text(action, known) for action in plan.actions],
        "held": [action_text(action, known) for action in plan.held],
        "blocked": [f"{one.kind.lower()}/{one.name}: {one.reason}: {one.message}" for one in plan.blocked],
        "findings": [readable(f"{one.subject}: {one.reason}: {one.text}", known) for one in plan.findings],
        "unchanged": [readable(str(key), known) for key in plan.unchanged],
    }
