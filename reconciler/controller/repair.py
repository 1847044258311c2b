"""What a person does about a thin pool that can't be mended by itself: ``adopt``, ``gc`` and ``detach``.

``adopt`` makes the registry agree with a pool that contradicts it, ``gc`` deletes what we once made and nothing knows any more,
``detach`` takes a pool out of the kernel. All of them only say what they would do, until they are told to apply it.

Called by ``cli``. No state; the decisions are in ``pool.adoption``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from reconciler.controller.context import Host
from reconciler.errors import Busy, PoolUnusable, UsageError
from reconciler.model import Key, Kind, SnapshotMade, SnapshotRow
from reconciler.pool.thin.adoption import Adoption, Candidate
from reconciler.pool.thin.journal import DeviceRow, Role
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.repair import Mending
from reconciler.registry.edits import chains


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is done, or would be. ``what`` is a word for tools, ``message`` for people."""

    what: str
    name: str
    message: str


def thin_pool(host: Host, name: str) -> Mending:
    """Raises UsageError."""
    driver = host.drivers.get(name)
    if driver is None:
        known = ", ".join(sorted(host.drivers)) or "none"
        raise UsageError(f"pool {name!r} is not declared in {host.settings.manifests} (declared: {known})")
    if not isinstance(driver, ThinPool):
        raise UsageError(f"pool {name} is a file pool: there is nothing in it to {'adopt, collect or detach'}")
    return Mending(driver)


# ------------------------------------------------------------------------------------------------------- adopt


def adopt(host: Host, name: str, named: Mapping[str, int], *, apply: bool) -> tuple[Change, ...]:
    """Take over the pool as it is. ``named`` says which thin ids are which snapshots. Raises UsageError, PoolUnusable."""
    pool = thin_pool(host, name)
    claims = {
        snapshot: image.name for image in host.desired.images.values() if image.pool == name for snapshot in image.snapshots
    }
    if unknown := sorted(set(named) - set(claims)):
        raise UsageError(f"no image declares snapshot {', '.join(unknown)} in pool {name}: declare it first")
    if apply:
        pool.assemble_as_it_is()
    plan = pool.adoption(named, frozenset(claims), chains(host))
    if plan is None:
        return ()
    require_free(name, plan, named)
    changes = tuple(_changes(name, plan, host))
    if apply:
        rows = [SnapshotRow(name, one.name, claims[one.name], one.chain, one.identity) for one in plan.take]
        host.registry.adopt_pool(name, plan, [SnapshotMade(row) for row in rows], [change.message for change in changes])
    return changes


def require_free(pool: str, plan: Adoption, named: Collection[str]) -> None:
    """Nobody may give a name that a snapshot in the pool has to another: that one would go, with what was written to it.

    Raises UsageError.
    """
    there = {row.name: row for row in plan.keep if row.role is Role.SNAPSHOT}
    for one in plan.take:
        if one.name in named and (held := there.get(one.name)) is not None:
            hint = f"declare another name for thin id {one.id}; or withdraw snapshot {one.name}, and run with --prune, before"
            raise UsageError(f"snapshot {one.name} of pool {pool} is there already: {held}", hint=hint)


def _changes(name: str, plan: Adoption, host: Host) -> Iterator[Change]:
    if plan.pool is None:
        yield Change("forget", name, f"all that is remembered of pool {name} is forgotten; the next run makes a new pool")
    else:
        yield Change(
            "pool", name, f"pool {name} is taken as it is: stamp {plan.pool.stamp:08x}, {len(plan.keep)} devices are known"
        )
    for row in plan.take:
        yield Change("take", row.name, f"{row} becomes snapshot {row.name} again, with what was written to it")
    for row in plan.drop:
        yield Change("drop", _name(row), f"{row} is not in the pool: what it was counts as missing, and is made anew")
    for one in plan.orphans:
        yield Change("orphan", str(one.id), _orphan(name, one, host))


def _name(row: DeviceRow) -> str:
    return row.name[:12] if len(row.name) == 64 else row.name or str(row.id)


def _orphan(pool: str, one: Candidate, host: Host) -> str:
    chain = chains(host).get(one.filesystem or "")
    images = {row.chain: name for name, row in host.records.images().items() if row.chain}
    of = f", a file system of {images.get(chain, f'chain {chain[:12]}')}" if chain else ""
    how = f"keep it: reconcile adopt {pool} --snapshot NAME={one.id} --apply; delete it: reconcile gc {pool} --apply"
    return f"thin id {one.id}: {one.mapped} bytes mapped{of}; {how}"


# ---------------------------------------------------------------------------------------------------------- gc


def collect(host: Host, name: str, *, apply: bool) -> tuple[Change, ...]:
    """Delete orphans. One that is busy holds up none of the others. Raises UsageError, PoolUnusable."""
    pool = thin_pool(host, name)
    return tuple(_collected(host, pool, one, apply=apply) for one in pool.orphans())


def _collected(host: Host, pool: Mending, one: Candidate, *, apply: bool) -> Change:
    text = f"thin id {one.id}: {one.mapped} bytes mapped, made by this registry's reconciler, and known to nothing"
    if not apply:
        return Change("collect", str(one.id), text)
    try:
        pool.collect(one.id)
    except (Busy, PoolUnusable) as error:
        return Change("kept", str(one.id), str(error))
    host.registry.event(Key(Kind.POOL, "", pool.pool.name), "Collected", text)
    return Change("collected", str(one.id), text)


# ------------------------------------------------------------------------------------------------------ detach


def detach(host: Host, name: str, *, apply: bool) -> tuple[Change, ...]:
    """Take the pool's devices out of the kernel; what they hold stays. Raises UsageError, PoolUnusable, Busy."""
    pool = thin_pool(host, name)
    return tuple(Change("detach", device, f"/dev/mapper/{device}") for device in pool.detach(apply=apply))
