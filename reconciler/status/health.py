"""``health`` and ``verify``: what is wrong with this host, and what to do about it. Both only read.

Called by ``cli``. ``health`` looks at what everything else needs (host, state directory, registry, pools, S3); ``verify`` has
each file system of the pool looked at, and the pool cross-checked with the registry. No state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from reconciler.controller import context as hosts
from reconciler.controller import converge
from reconciler.controller.context import Host
from reconciler.engine.definitions import Status
from reconciler.errors import ReconcilerError, VolumeCorrupt
from reconciler.image import e2fsck
from reconciler.image.builder import process
from reconciler.image.source import s3
from reconciler.model import Observed, PoolObserved
from reconciler.output import console
from reconciler.planner.goals import volume_name
from reconciler.pool.driver import Condition, Driver, PoolState, SnapshotState, Space, VolumeState
from reconciler.settings import Settings

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``message`` says what was found and, unless it is ok, what to do."""

    level: Level
    name: str
    subject: str
    message: str


# ------------------------------------------------------------------------------------------------------ health


def health(settings: Settings) -> tuple[Check, ...]:
    """Everything that work depends on. A check that can't be made is a finding, not an error."""
    found = [tools(), builder(), state(settings)]
    try:
        with hosts.reading(settings, lenient=True) as host:
            found += [manifest_check(host), registry(host), *pools(host), *endpoints(host), *runs(host)]
    except ReconcilerError as error:
        found.append(Check("fail", "registry", str(settings.registry), str(error)))
    return tuple(found)


def tools() -> Check:
    if e2fsck.present():
        return Check("ok", "referee", "e2fsck", "every volume is checked before it is sealed")
    return Check("warn", "referee", "e2fsck", "not installed: volumes are sealed unchecked; install e2fsprogs")


def builder() -> Check:
    """What confines the process that reads hostile bytes."""
    try:
        measures = process.confinement()
    except ReconcilerError as error:
        return Check("fail", "builder", "confinement", f"it can't be started: {error}")
    missing = [f"{name}: {why}" for name, why in measures.items() if why]
    in_force = "in force: " + ", ".join(name for name, why in measures.items() if not why)
    return Check("warn" if missing else "ok", "builder", "confinement", "; ".join([in_force, *missing]))


def state(settings: Settings) -> Check:
    subject = str(settings.state)
    if not settings.state.exists():
        parent = next(p for p in settings.state.parents if p.exists())
        if os.access(parent, os.W_OK):
            return Check("ok", "state", subject, "not there yet; the first run makes it")
        return Check("fail", "state", subject, f"can't be made: {parent} is not writable; choose another with --state")
    if not os.access(settings.state, os.R_OK | os.W_OK | os.X_OK):
        return Check("fail", "state", subject, "may not be read and written by this user; run as its owner")
    return Check("ok", "state", subject, "readable and writable")


def manifest_check(host: Host) -> Check:
    subject = str(host.settings.manifests)
    if host.faults:
        return Check("fail", "manifests", subject, f"{console.counted(len(host.faults), 'fault')}, the first: {host.faults[0]}")
    if who := others_who_write(host.settings.manifests):
        danger = "whoever writes a manifest decides what this host boots from, and what --prune removes"
        return Check("warn", "manifests", subject, f"{who} may write to it: {danger}; take that leave away (chown, chmod go-w)")
    return Check("ok", "manifests", subject, f"{len(host.desired.images)} images, {len(host.desired.pools)} pools")


def others_who_write(directory: Path) -> str:
    """Who besides root and the reconciler's own user may put manifests into the directory; empty where nobody may."""
    try:
        found = directory.stat()
    except OSError:
        return ""  # reading it has said so
    if found.st_uid not in (0, os.geteuid()):
        return f"user {found.st_uid}"
    if found.st_mode & 0o002:
        return "everybody"
    shared = found.st_mode & 0o020 and found.st_gid not in (0, os.getegid())
    return f"group {found.st_gid}" if shared else ""


def registry(host: Host) -> Check:
    known = host.records
    rows = f"{len(known.images())} images, {len(known.volumes())} volumes, {len(known.snapshots())} snapshots"
    return Check("ok", "registry", str(host.settings.registry), rows)


def pools(host: Host) -> Iterator[Check]:
    observed = converge.look_offline(host).observed
    for name, pool in sorted(observed.pools.items()):
        yield from pool_checks(name, pool)


def pool_checks(name: str, pool: PoolObserved) -> Iterator[Check]:
    if pool.state is None:
        yield Check("fail", "pool", name, pool.problem)
        return
    wrong = list(pool_faults(name, pool.state))
    yield from wrong
    yield from (Check("warn", "orphan", name, orphaned(name, text)) for text in pool.state.orphans)
    if not wrong:
        shares = (
            "layers share blocks" if pool.shares_blocks else "no block sharing on this file system: one volume for each image"
        )
        yield Check("ok", "pool", name, f"{left(pool.state.space)}; {shares}")


def pool_faults(name: str, state: PoolState) -> Iterator[Check]:
    """What is wrong with a pool as a whole: troubles, not assembled, too little space of one kind or the other."""
    for trouble in state.troubles:
        yield Check("fail" if trouble.halts else "warn", "pool", name, f"{trouble.reason}: {trouble.message}")
    if state.unready:
        yield Check("warn", "pool", name, f"{state.unready}; `reconcile --once` assembles it")
    if state.space.available == 0:
        words = f"no space above the reserve: {left(state.space)}; remove images with --prune, or free space"
        yield Check("fail", "pool", name, words)
    if state.metadata and state.metadata.available == 0:
        words = f"no metadata space above the reserve: {left(state.metadata)}; declare more for it, or remove images with --prune"
        yield Check("fail", "pool", name, words)
    elif state.metadata and state.metadata.available * 10 < state.metadata.total:
        yield Check("warn", "pool", name, f"metadata space runs low: {left(state.metadata)}; declare more for it")


def left(space: Space) -> str:
    return f"{console.size(space.available)} available of {console.size(space.total)}"


def orphaned(pool: str, text: str) -> str:
    """What to do about a device that was made here, and that nothing knows any more."""
    return f"{text}; look at it: `reconcile adopt {pool}`; delete it: `reconcile gc {pool}`"


def endpoints(host: Host) -> Iterator[Check]:
    """One question for each bucket that the manifests name."""
    layers = [layer.source for image in host.desired.images.values() for layer in image.layers]
    buckets = {(one.s3, one.bucket_key[0]): one for one in layers if one.is_s3}
    for one, answer in s3.head(list(buckets.values())).items():
        subject = f"s3://{one.bucket_key[0]}"
        if isinstance(answer, ReconcilerError):
            yield Check("fail", "source", subject, str(answer))
        else:
            yield Check("ok", "source", subject, one.s3.endpoint_url or "reachable")


def runs(host: Host) -> Iterator[Check]:
    for run in host.records.runs(status=Status.NEEDS_OPERATOR):
        yield Check("fail", "run", run.subject.path, f"waits for a person: {run.message}")
    for failure in host.records.failures().values():
        if not failure.waits_for_person:
            yield Check("warn", "run", str(failure.key), f"the last run failed: {failure.reason}: {failure.message}")


# ------------------------------------------------------------------------------------------------------ verify


def verify(host: Host, names: Sequence[str]) -> tuple[Check, ...]:
    """Registry against pool, and e2fsck on every base. ``names`` limits it to these images."""
    observed = converge.look_offline(host).observed
    chains = {row.chain for row in observed.snapshots.values() if row.image in names}
    chains |= {row.chain for name, row in observed.images.items() if name in names and row.chain}
    unknown = [name for name in names if name not in observed.images and name not in host.desired.images]
    found = [Check("fail", "image", name, "neither declared nor recorded") for name in unknown]
    found += volumes(host, observed, chains if names else None)
    found += snapshots(observed, names)
    if not names:
        found += whole_pools(observed)
    return tuple(found)


def volumes(host: Host, observed: Observed, chains: set[str] | None) -> Iterator[Check]:
    for (pool, chain), _ in sorted(observed.volumes.items()):
        if chains is not None and chain not in chains:
            continue
        held, subject = observed.volume_state(pool, chain), f"{pool}/{volume_name(chain)}"
        if held is None or held.condition is not Condition.INTACT:
            yield Check("fail", "volume", subject, f"{wrong(held)}; `reconcile --once` rebuilds it")
        else:
            unready = (state := observed.pools[pool].state) and state.unready
            yield unchecked(subject, unready) if unready else file_system(subject, host.drivers[pool], chain)


def wrong(held: VolumeState | SnapshotState | None) -> str:
    return f"{held.condition.value}: {held.detail}" if held else "recorded, but not in the pool"


def removing(volume: Path) -> str:
    """How a base that is damaged is taken out of the way, so that it is built anew."""
    if volume.parent.name != "mapper":
        return f"remove {volume}"
    pool, _, rest = volume.name.partition("-.")
    return f"delete it (dmsetup message {pool} 0 'delete {rest.rpartition('-')[2]}')"


def file_system(subject: str, driver: Driver, chain: str) -> Check:
    try:
        with driver.reading(chain) as path:
            checked = e2fsck.check(path)
    except VolumeCorrupt as error:
        return Check("fail", "volume", subject, f"{error}; {removing(path)}, and run `reconcile --once`")
    except ReconcilerError as error:
        return unchecked(subject, str(error))
    if not checked:
        return Check("warn", "volume", subject, "identity as recorded; install e2fsprogs to have the file system checked")
    return Check("ok", "volume", subject, "identity as recorded, file system clean")


def unchecked(subject: str, why: str) -> Check:
    return Check("warn", "volume", subject, f"identity as recorded; its file system can't be looked at now: {why}")


def snapshots(observed: Observed, names: Sequence[str]) -> Iterator[Check]:
    for (pool, name), row in sorted(observed.snapshots.items()):
        if names and row.image not in names:
            continue
        held, subject = observed.snapshot_state(pool, name), f"{pool}/{name}"
        if held is None or held.condition is not Condition.INTACT:
            yield Check("fail", "snapshot", subject, f"{wrong(held)}; `reconcile --once` makes it anew")
        elif not held.active:
            why = held.detail or "not active"
            yield Check("warn", "snapshot", subject, f"identity as recorded, but {why}; `reconcile --once` activates it")
        else:
            yield Check("ok", "snapshot", subject, f"identity as recorded; {held.path}")


def whole_pools(observed: Observed) -> Iterator[Check]:
    """Everything that stands in a pool and is not a volume or snapshot of ours; and whether that is nothing."""
    for name, pool in sorted(observed.pools.items()):
        if pool.state is None:
            yield Check("fail", "pool", name, pool.problem)
            continue
        found = [Check("fail" if t.halts else "warn", "pool", name, f"{t.reason}: {t.message}") for t in pool.state.troubles]
        if pool.state.unready:
            found.append(Check("warn", "pool", name, f"{pool.state.unready}; `reconcile --once` assembles it"))
        found += (Check("warn", "foreign", name, what) for what in pool.state.foreign)
        found += (Check("warn", "orphan", name, orphaned(name, what)) for what in pool.state.orphans)
        for what in pool.state.leftovers:
            found.append(Check("warn", "leftover", name, f"{what}: half-built; the next `reconcile --once` removes it"))
        yield from found or [Check("ok", "pool", name, "nothing stands in it that is not accounted for")]
