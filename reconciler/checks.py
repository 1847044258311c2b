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

from reconciler import host as hosts
from reconciler import loop, referee, report
from reconciler.errors import ReconcilerError
from reconciler.host import Host
from reconciler.image import source
from reconciler.machine import Status
from reconciler.model import Observed, PoolObserved
from reconciler.planner.goals import volume_name
from reconciler.pool.driver import Condition, SnapshotState, VolumeState
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
    if referee.present():
        return Check("ok", "referee", "e2fsck", "every volume is checked before it is sealed")
    return Check("warn", "referee", "e2fsck", "not installed: volumes get no second opinion; install e2fsprogs")


def builder() -> Check:
    """What confines the process that reads hostile bytes."""
    if os.geteuid() == 0:
        return Check("ok", "builder", "confinement", "unprivileged uid, empty root directory, resource limits")
    return Check("ok", "builder", "confinement", "your uid, resource limits (as root it would also lose its uid and its paths)")


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
        return Check("fail", "manifests", subject, f"{len(host.faults)} faults, the first: {host.faults[0]}")
    return Check("ok", "manifests", subject, f"{len(host.desired.images)} images, {len(host.desired.pools)} pools")


def registry(host: Host) -> Check:
    known = host.records
    rows = f"{len(known.images())} images, {len(known.volumes())} volumes, {len(known.snapshots())} snapshots"
    return Check("ok", "registry", str(host.settings.registry), rows)


def pools(host: Host) -> Iterator[Check]:
    observed = loop.look_offline(host).observed
    for name, pool in sorted(observed.pools.items()):
        yield pool_check(name, pool)


def pool_check(name: str, pool: PoolObserved) -> Check:
    if pool.state is None:
        return Check("fail", "pool", name, pool.problem)
    space = pool.state.space
    words = f"{report.size(space.available)} available of {report.size(space.total)}"
    shares = "layers share blocks" if pool.shares_blocks else "no block sharing on this file system: one volume for each image"
    if space.available == 0:
        return Check("fail", "pool", name, f"no space above the reserve: {words}; remove images with --prune, or free space")
    return Check("ok", "pool", name, f"{words}; {shares}")


def endpoints(host: Host) -> Iterator[Check]:
    """One question for each bucket that the manifests name."""
    layers = [layer.source for image in host.desired.images.values() for layer in image.layers]
    buckets = {(one.s3, one.bucket_key[0]): one for one in layers if one.is_s3}
    for one, answer in source.head(list(buckets.values())).items():
        subject = f"s3://{one.bucket_key[0]}"
        if isinstance(answer, ReconcilerError):
            yield Check("fail", "source", subject, str(answer))
        else:
            yield Check("ok", "source", subject, one.s3.endpoint_url or "reachable")


def runs(host: Host) -> Iterator[Check]:
    for run in host.records.runs(status=Status.NEEDS_OPERATOR):
        yield Check("fail", "run", str(run.subject), f"waits for a person: {run.message}")
    for failure in host.records.failures().values():
        if not failure.waits_for_person:
            subject = f"{failure.kind.lower()}/{failure.name}"
            yield Check("warn", "run", subject, f"the last run failed: {failure.reason}: {failure.message}")


# ------------------------------------------------------------------------------------------------------ verify


def verify(host: Host, names: Sequence[str]) -> tuple[Check, ...]:
    """Registry against pool, and e2fsck on every base. ``names`` limits it to these images."""
    observed = loop.look_offline(host).observed
    chains = {row.chain for row in observed.snapshots.values() if row.image in names}
    chains |= {row.chain for name, row in observed.images.items() if name in names and row.chain}
    unknown = [name for name in names if name not in observed.images and name not in host.desired.images]
    found = [Check("fail", "image", name, "neither declared nor recorded") for name in unknown]
    found += volumes(observed, chains if names else None)
    found += snapshots(observed, names)
    if not names:
        found += foreign(observed)
    return tuple(found)


def volumes(observed: Observed, chains: set[str] | None) -> Iterator[Check]:
    for (pool, chain), _ in sorted(observed.volumes.items()):
        if chains is not None and chain not in chains:
            continue
        held, subject = observed.volume_state(pool, chain), f"{pool}/{volume_name(chain)}"
        if held is None or held.condition is not Condition.INTACT:
            yield Check("fail", "volume", subject, f"{wrong(held)}; `reconcile --once` rebuilds it")
        else:
            yield file_system(subject, Path(held.path))


def wrong(held: VolumeState | SnapshotState | None) -> str:
    return f"{held.condition.value}: {held.detail}" if held else "recorded, but not in the pool"


def file_system(subject: str, path: Path) -> Check:
    try:
        checked = referee.check(path)
    except ReconcilerError as error:
        return Check("fail", "volume", subject, f"{error}; remove it and run `reconcile --once`")
    if not checked:
        return Check("warn", "volume", subject, "identity as recorded; install e2fsprogs to have the file system checked")
    return Check("ok", "volume", subject, "identity as recorded, file system clean")


def snapshots(observed: Observed, names: Sequence[str]) -> Iterator[Check]:
    for (pool, name), row in sorted(observed.snapshots.items()):
        if names and row.image not in names:
            continue
        held, subject = observed.snapshot_state(pool, name), f"{pool}/{name}"
        if held is None or held.condition is not Condition.INTACT:
            yield Check("fail", "snapshot", subject, f"{wrong(held)}; `reconcile --once` makes it anew")
        else:
            yield Check("ok", "snapshot", subject, f"identity as recorded; {held.path}")


def foreign(observed: Observed) -> Iterator[Check]:
    for name, pool in sorted(observed.pools.items()):
        if pool.state is None:
            yield Check("fail", "pool", name, pool.problem)
            continue
        for what in pool.state.foreign:
            yield Check("warn", "foreign", name, what)
        for what in pool.state.leftovers:
            yield Check("warn", "leftover", name, f"{what}: half-built; the next `reconcile --once` removes it")
