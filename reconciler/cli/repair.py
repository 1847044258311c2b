"""Operator requests on thin pools: ``adopt``, ``gc`` and ``detach``.

``adopt`` rebuilds the registry's entries for a pool from the pool's metadata, ``gc`` deletes orphaned thin devices, ``detach``
deactivates a pool. Each only reports what it would do, unless ``apply`` is set.

Called by ``cli``. No state; the decisions are in ``pool.thin.adoption``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from reconciler.dataclass import dataclass, replace
from reconciler.engine.facts import SnapshotMade
from reconciler.errors import Busy, PoolUnusable, UsageError
from reconciler.host.context import Host
from reconciler.model import Key, Kind, SnapshotRow
from reconciler.pool.driver import UNKNOWN_CHAIN
from reconciler.pool.thin.adoption import Adoption, Candidate
from reconciler.pool.thin.journal import DeviceRow, Role
from reconciler.pool.thin.pool import ThinPool
from reconciler.pool.thin.repair import Repair
from reconciler.registry.edits import chain_named, chains


@dataclass(frozen=True, slots=True)
class Change:
    """One change that is made, or would be. ``what`` is a keyword for tools, ``message`` text for users."""

    what: str
    name: str
    message: str


def thin_pool(host: Host, name: str, *, vouched: bool = False) -> Repair:
    """``vouched``: the operator states that the pool's backing is its own, wherever it is. Raises UsageError."""
    driver = host.drivers.get(name)
    if driver is None:
        known = ", ".join(sorted(host.drivers)) or "none"
        raise UsageError(f"pool {name!r} is not declared in {host.settings.manifests} (declared: {known})")
    if not isinstance(driver, ThinPool):
        raise UsageError(f"pool {name} is a file pool: adopt, gc and detach are for thin pools")
    return Repair(replace(driver, vouched=True) if vouched else driver)


# ------------------------------------------------------------------------------------------------------- adopt


def adopt(host: Host, name: str, named: Mapping[str, int], vouched: Mapping[str, str], *, apply: bool) -> tuple[Change, ...]:
    """Rebuild the registry's entries for the pool. ``named`` maps snapshots to thin ids, ``vouched`` to chains.

    Raises UsageError, PoolUnusable.
    """
    pool = thin_pool(host, name, vouched=True)
    given = {snapshot: chain_named(host, snapshot, chain) for snapshot, chain in vouched.items()}
    claims = {
        snapshot: image.name for image in host.desired.images.values() if image.pool == name for snapshot in image.snapshots
    }
    if unknown := sorted(set(named) - set(claims)):
        raise UsageError(f"no image declares snapshot {', '.join(unknown)} in pool {name}: declare it first")
    unproved = pool.unproved()
    if apply:
        pool.assemble_as_it_is()
    sizes = {snapshot: image.size for image in host.desired.images.values() if image.pool == name for snapshot in image.snapshots}
    plan = pool.adoption(named, sizes, given)
    require_used(host, name, plan, given)
    changes = [Change("data", name, f"its data is accepted, and gets a label: {unproved.message}")] if unproved else []
    moved = pool.moved()
    changes += [Change("backing", name, f"pool {name} is used on {there}; it was on {was}") for was, there in moved]
    if plan is not None:
        require_free(name, plan, named)
        changes += _changes(name, plan, host)
    if apply and plan is not None:
        rows = [SnapshotRow(name, one.name, claims[one.name], one.chain, one.identity) for one in plan.take]
        known = host.records.snapshots()
        proved = [replace(known[name, one.name], chain=one.chain) for one in plan.proved if (name, one.name) in known]
        facts = [SnapshotMade(row) for row in (*rows, *proved)]
        with host.registry.together():
            host.registry.adopt_pool(name, plan, facts, [change.message for change in changes])
            host.registry.keep_in_use(rows, "reconcile adopt", host.threads.moment())
    if apply and unproved:
        pool.accept_data()
    if apply and moved:
        pool.accept_places()
    return tuple(changes)


def require_used(host: Host, pool: str, plan: Adoption | None, given: Mapping[str, str]) -> None:
    """Refuse chains of snapshots that would not get them. Raises UsageError."""
    used = {one.name: one.chain for one in (*plan.take, *plan.proved)} if plan else {}
    for name, chain in given.items():
        row = host.records.snapshots().get((pool, name))
        if name not in used and (row is None or row.chain != chain):
            what = f"is registered with chain {row.chain[:12]}" if row else "is not among what is registered"
            raise UsageError(f"--chain: snapshot {name} of pool {pool} {what}", hint=f"see `reconcile adopt {pool}`")


def require_free(pool: str, plan: Adoption, named: Collection[str]) -> None:
    """Refuse to give a name that a snapshot in the pool has to another one: the first would be removed with its data.

    Raises UsageError.
    """
    there = {row.name: row for row in plan.keep if row.role is Role.SNAPSHOT}
    for one in plan.take:
        if one.name in named and (held := there.get(one.name)) is not None:
            hint = f"declare another name for thin id {one.id}; or remove snapshot {one.name} with --prune first"
            raise UsageError(f"snapshot {one.name} of pool {pool} exists already: {held}", hint=hint)


def _changes(name: str, plan: Adoption, host: Host) -> Iterator[Change]:
    if plan.pool is None:
        yield Change("forget", name, f"the registry's entries for pool {name} are dropped; the next run creates a new pool")
    else:
        kept = sum(row.role in (Role.VOLUME, Role.SNAPSHOT) for row in plan.keep)
        yield Change("pool", name, f"pool {name} is registered: stamp {plan.pool.stamp:08x}, {kept} devices are in the registry")
    for row in plan.take:
        text = f"{row} is registered as snapshot {row.name}, with its data{_of_chain(row, plan, host)}; a claim keeps it in use"
        yield Change("take", row.name, text)
    for row in plan.proved:
        yield Change("chain", row.name, f"{row} is recorded as made from chain {row.chain[:12]}")
    for row in plan.drop:
        yield Change("drop", _name(row), f"{row} is missing from the pool; it will be recreated")
    for one in plan.orphans:
        yield Change("orphan", str(one.id), _orphan(name, one, host))


def _of_chain(row: DeviceRow, plan: Adoption, host: Host) -> str:
    if row.chain != UNKNOWN_CHAIN:
        return f", as made from chain {row.chain[:12]}"
    shown = chains(host).get(plan.filesystems.get(row.name, ""))
    if shown is None:
        return f", of an unknown chain: name it with --chain {row.name}=CHAIN"
    guess = f"its superblock, which its guest can write, shows {shown[:12]}"
    return f", of an unknown chain: {guess}; if that is right, give --chain {row.name}={shown[:12]}"


def _name(row: DeviceRow) -> str:
    return row.name[:12] if len(row.name) == 64 else row.name or str(row.id)


def _orphan(pool: str, one: Candidate, host: Host) -> str:
    chain = chains(host).get(one.filesystem or "")
    images = {row.chain: name for name, row in host.records.images().items() if row.chain}
    of = f", with the UUID of {images.get(chain, f'chain {chain[:12]}')}" if chain else ""
    how = f"keep it: reconcile adopt {pool} --snapshot NAME={one.id} --apply; delete it: reconcile gc {pool} --apply"
    return f"thin id {one.id}: {one.mapped} bytes mapped{of}; {how}"


# ---------------------------------------------------------------------------------------------------------- gc


def collect(host: Host, name: str, *, apply: bool) -> tuple[Change, ...]:
    """Delete orphans. A busy one does not stop the others. Raises UsageError, PoolUnusable."""
    pool = thin_pool(host, name)
    return tuple(_collected(host, pool, one, apply=apply) for one in pool.orphans())


def _collected(host: Host, pool: Repair, one: Candidate, *, apply: bool) -> Change:
    text = f"thin id {one.id}: {one.mapped} bytes mapped, created by reconcile, no longer in the registry"
    if not apply:
        return Change("collect", str(one.id), text)
    try:
        pool.collect(one.id)
    except (Busy, PoolUnusable) as error:
        return Change("kept", str(one.id), str(error))
    host.registry.event(Key(Kind.POOL, "", pool.pool.name), "OrphanDeleted", text)
    return Change("collected", str(one.id), text)


# ------------------------------------------------------------------------------------------------------ detach


def detach(host: Host, name: str, *, apply: bool) -> tuple[Change, ...]:
    """Deactivate the pool and its snapshots; data is kept. Raises UsageError, PoolUnusable, Busy."""
    pool = thin_pool(host, name)
    return tuple(Change("detach", device, f"/dev/mapper/{device}") for device in pool.detach(apply=apply))
