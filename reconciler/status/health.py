"""``health`` and ``verify``: a finding for each check of this host, OK included. Both are read-only.

``health`` checks what all work depends on: tools, state directory, manifests, registry, pools, S3, failed runs. ``verify``
compares registry and pools, and checks each file system. Called by ``cli``, which prints the findings. No state.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.controller import assess
from reconciler.engine.definitions import Status
from reconciler.errors import BuilderDied, PolicyRefused, ReconcilerError, VolumeCorrupt
from reconciler.host import context as hosts
from reconciler.host.context import Host
from reconciler.host.head_requests import endpoint
from reconciler.image import e2fsck
from reconciler.image.builder import process, program
from reconciler.image.builder.measures import gaps
from reconciler.image.oci.resolve import resolve
from reconciler.image.source import remote
from reconciler.manifests import refusals
from reconciler.model import Finding, Key, Kind, Observed, PoolObserved, Severity
from reconciler.output import console
from reconciler.planner.findings import of_contents, of_trouble
from reconciler.planner.goals import volume_name
from reconciler.planner.references import wanted
from reconciler.policy import force
from reconciler.pool.driver import Condition, Driver, PoolState, SnapshotState, Space, VolumeState
from reconciler.settings import Settings
from reconciler.status import image as images
from reconciler.status.image import Images

OK, NOTE, WARNING, ERROR = Severity.OK, Severity.NOTE, Severity.WARNING, Severity.ERROR
PASSED = "Passed"
"""The reason of a check that found nothing."""
NEEDS_ROOT = "own uid"
"""The builder's one measure that an ordinary user never has."""


def check_json(found: Finding) -> dict[str, Any]:
    """A finding as an entry of ``checks``; ``name`` is what was checked."""
    of = found.subject
    is_content = found.reason in ("Foreign", "Orphan", "Leftover")
    return {
        "level": found.severity.value,
        "name": of.name if of.kind is Kind.HOST else found.reason.lower() if is_content else of.kind.lower(),
        "subject": "/".join(filter(None, (of.pool, of.name))),
        "reason": found.reason,
        "message": found.message,
        "hint": found.hint,
    }


def of_host(severity: Severity, part: str, reason: str, message: str, hint: str = "") -> Finding:
    return Finding(severity, Key(Kind.HOST, "", part), reason, message, hint)


# ------------------------------------------------------------------------------------------------------ health


def health(settings: Settings) -> tuple[Finding, ...]:
    """Check everything that work depends on. A check that can't be made is a finding, not an error."""
    found = [state(settings)]
    try:
        with hosts.reading(settings, lenient=True) as host:
            read = images.read(host)
            found += [
                manifests(host),
                *policy(host),
                registry(host),
                *pools(read.observed),
                *(one for one in read.plan.findings if one.reason == "LayoutOutdated"),
                *endpoints(host),
                *registries(host),
                *runs(read),
            ]
    except ReconcilerError as error:
        found.append(of_host(ERROR, "registry", error.reason, f"{settings.registry}: {error}"))
    return (tools(), builder(), *found)  # the host's policy, which is in force now, decides what a missing measure means


def tools() -> Finding:
    """Whether e2fsck is installed, and what confines it: it reads what a layer may have made."""
    if not e2fsck.present():
        return of_host(WARNING, "e2fsck", "ToolMissing", "not installed: volumes are not checked by e2fsck", "install e2fsprogs")
    message = "installed: every volume is checked before it is sealed"
    try:
        missing = gaps(program.confinement())
    except (ReconcilerError, OSError) as error:
        return of_host(ERROR, "e2fsck", BuilderDied.reason, f"installed, and it can't be run confined: {error}")
    if not missing:
        return of_host(OK, "e2fsck", PASSED, message)
    message = "; ".join([f"{message}; it is not fully confined", *map(str, missing)])
    if _refuses() and any(gap.required for gap in missing):
        hint = "no volume is sealed: give the host what is missing, or set policy.confinement to best-effort"
        return of_host(ERROR, "e2fsck", PolicyRefused.reason, message, hint)
    return of_host(WARNING, "e2fsck", "ConfinementIncomplete", message)


def _refuses() -> bool:
    rules = force.current()
    return rules.requires_confinement and rules.enforced


def builder() -> Finding:
    """What confines the process that reads hostile bytes."""
    try:
        return confinement(process.confinement(), is_root=os.geteuid() == 0, required=_refuses())
    except ReconcilerError as error:
        return of_host(ERROR, "builder", error.reason, f"the builder process does not start: {error}")
    except OSError as error:
        return of_host(ERROR, "builder", BuilderDied.reason, f"the builder process does not start: {error}")


def confinement(measures: Mapping[str, str], *, is_root: bool, required: bool = False) -> Finding:
    """Whether each measure that this user can have is in force. ``required``: this host's policy refuses layers otherwise."""
    refused = required and any(gap.required for gap in gaps(measures))
    measures = {name: why for name, why in measures.items() if is_root or name != NEEDS_ROOT}
    missing = [f"{name}: {why}" for name, why in measures.items() if why]
    message = "; ".join(["in force: " + ", ".join(name for name, why in measures.items() if not why), *missing])
    if refused:
        hint = "no layer is read: give the host what is missing, or set policy.confinement to best-effort"
        return of_host(ERROR, "builder", PolicyRefused.reason, message, hint)
    return of_host(WARNING if missing else OK, "builder", "ConfinementIncomplete" if missing else PASSED, message)


def state(settings: Settings) -> Finding:
    path = settings.state
    if not path.exists():
        parent = next(p for p in path.parents if p.exists())
        if os.access(parent, os.W_OK):
            return of_host(OK, "state", PASSED, f"{path}: does not exist; the first run creates it")
        message = f"{path}: can't be created, {parent} is not writable"
        return of_host(ERROR, "state", "StateUnusable", message, "choose another directory with --state")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        message = f"{path}: this user may not read and write it"
        return of_host(ERROR, "state", "StateUnusable", message, "run reconcile as the owner")
    return of_host(OK, "state", PASSED, f"{path}: readable and writable")


def manifests(host: Host) -> Finding:
    path = host.settings.manifests
    if host.faults:
        message = f"{path}: {console.counted(len(host.faults), 'fault')}, the first: {host.faults[0]}"
        return of_host(ERROR, "manifests", "ManifestsInvalid", message, "list them with `reconcile validate`")
    if writers := other_writers(path):
        danger = "whoever writes a manifest decides what this host boots from, and what --prune removes"
        message, hint = f"{path}: {writers} may write to it; {danger}", "remove write permission (chown, chmod go-w)"
        return of_host(WARNING, "manifests", "ManifestsWritable", message, hint)
    counts = f"{console.counted(len(host.desired.images), 'image')}, {console.counted(len(host.desired.pools), 'pool')}"
    return of_host(OK, "manifests", PASSED, f"{path}: {counts}")


def policy(host: Host) -> Iterator[Finding]:
    """Whether this host's policy refuses something that the manifests declare, or would if it were enforced."""
    desired, rules = host.desired, force.current()
    wrong = list(refusals.of_images(desired, rules).values())
    if not rules.enforced:  # enforced, a pool reports it itself
        new = [one for key, one in refusals.of_pools(desired, rules).items() if host.records.thin_pool(key.name) is None]
        wrong += new
    yield from wrong
    if not rules.enforced:
        hint = (
            f"write a policy into {rules.file}: the next version refuses it" if wrong else "the next version enforces the default"
        )
        message = "this host has no policy yet, and its registry is older than this version: nothing is refused"
        yield of_host(WARNING if wrong else NOTE, "policy", "PolicyNotEnforced", message, hint)
    elif not wrong:
        yield of_host(OK, "policy", PASSED, "permits everything that the manifests declare")


def other_writers(directory: Path) -> str:
    """Users besides root and the reconciler's own that may write manifests into the directory; empty where there are none."""
    try:
        found = directory.stat()
    except OSError:
        return ""  # a fault of the manifests
    if found.st_uid not in (0, os.geteuid()):
        return f"user {found.st_uid}"
    if found.st_mode & 0o002:
        return "every user"
    shared = found.st_mode & 0o020 and found.st_gid not in (0, os.getegid())
    return f"group {found.st_gid}" if shared else ""


def registry(host: Host) -> Finding:
    records = host.records
    counts = {"image": len(records.images()), "volume": len(records.volumes()), "snapshot": len(records.snapshots())}
    rows = ", ".join(console.counted(number, noun) for noun, number in counts.items())
    return of_host(OK, "registry", PASSED, f"{host.settings.registry}: {rows}")


def pools(observed: Observed) -> Iterator[Finding]:
    for name, pool in sorted(observed.pools.items()):
        yield from of_pool(name, pool)


def of_pool(name: str, pool: PoolObserved) -> Iterator[Finding]:
    key = Key(Kind.POOL, "", name)
    if pool.state is None:
        yield Finding(ERROR, key, pool.reason, pool.problem)
        return
    wrong = [*of_whole(key, pool.state), *of_space(key, pool.state)]
    yield from wrong
    yield from (one for one in of_contents(key, pool.state) if one.reason == "Orphan")
    if all(one.severity is NOTE for one in wrong):
        shares = "layers share blocks" if pool.shares_blocks else "no block sharing on this file system: one volume per image"
        yield Finding(OK, key, PASSED, f"{available(pool.state.space)}; {shares}")


def of_whole(key: Key, state: PoolState) -> Iterator[Finding]:
    yield from (of_trouble(key, trouble) for trouble in state.troubles)
    if state.unready:
        yield Finding(WARNING, key, "PoolNotAssembled", state.unready, "`reconcile --once` assembles it")


def of_space(key: Key, state: PoolState) -> Iterator[Finding]:
    if state.space.available == 0:
        message = f"no space above the reserve: {available(state.space)}"
        yield Finding(ERROR, key, "PoolFull", message, "remove images with --prune, or free space")
    if state.metadata and state.metadata.available == 0:
        message = f"no metadata space above the reserve: {available(state.metadata)}"
        yield Finding(ERROR, key, "PoolFull", message, "declare more for it, or remove images with --prune")
    elif state.metadata and state.metadata.available * 10 < state.metadata.total:
        message = f"metadata space runs low: {available(state.metadata)}"
        yield Finding(WARNING, key, "MetadataLow", message, "declare more for it")


def available(space: Space) -> str:
    return f"{console.size(space.available)} available of {console.size(space.total)}"


def endpoints(host: Host) -> Iterator[Finding]:
    """One request for each bucket that the manifests name."""
    layers = [layer.source for image in host.desired.images.values() for layer in image.layers]
    buckets = {(one.s3, one.bucket_key[0]): one for one in layers if one.is_s3}
    for one, answer in remote.head(list(buckets.values())).items():
        key = Key(Kind.LAYER, "", f"s3://{one.bucket_key[0]}")
        if isinstance(answer, ReconcilerError):
            yield Finding(ERROR, key, answer.reason, str(answer))
        else:
            yield Finding(OK, key, PASSED, one.s3.endpoint_url or "reachable")


def registries(host: Host) -> Iterator[Finding]:
    """One look at each registry that the manifests name: a HEAD of a tag, or nothing where a digest is recorded."""
    first = {endpoint(one): one for one in reversed(wanted(host.desired)) if one.source.is_registry}
    for name, one in sorted(first.items(), key=lambda each: str(each[0])):
        key = Key(Kind.LAYER, "", one.source.url)
        try:
            resolve(one, host.records.resolved)
        except ReconcilerError as error:
            yield Finding(ERROR, key, error.reason, str(error))
        else:
            yield Finding(OK, key, PASSED, f"{name}: reachable")


def runs(read: Images) -> Iterator[Finding]:
    """Runs that failed or need you, of objects that are recorded, declared or planned."""
    present = objects(read)
    unpinned = {layer.source.url for image in read.host.desired.images.values() for layer in image.layers if not layer.sha256}
    for failure in read.host.records.failures().values():
        [run] = read.host.records.runs(failure.key, limit=1)
        if failure.key not in present and not {layer["url"] for layer in run.input.get("layers", ())} & unpinned:
            continue
        if run.status is Status.NEEDS_OPERATOR:
            wanting = next((one.images for one in (*read.plan.actions, *read.plan.held) if one.key == failure.key), ())
            hint = f"`reconcile retry image/{wanting[0] if wanting else 'NAME'}` retries it"
            yield Finding(ERROR, failure.key, failure.reason, f"needs an operator: {failure.message}", hint)
        else:
            yield Finding(WARNING, failure.key, failure.reason, f"the last run failed: {failure.message}")


def objects(read: Images) -> set[Key]:
    """Every object that is recorded, declared, or the object of an action."""
    host, observed = read.host, read.observed
    keys = {action.key for action in (*read.plan.actions, *read.plan.held)}
    keys |= {Key(Kind.IMAGE, "", name) for name in read.statuses} | {Key(Kind.POOL, "", name) for name in observed.pools}
    keys |= {Key(Kind.VOLUME, pool, volume_name(chain)) for pool, chain in observed.volumes}
    keys |= {Key(Kind.SNAPSHOT, pool, name) for pool, name in observed.snapshots}
    keys |= {Key(Kind.SNAPSHOT, one.pool, name) for one in host.desired.images.values() for name in one.snapshots}
    layers = (layer for one in host.desired.images.values() for layer in one.layers)
    return keys | {Key(Kind.LAYER, "", layer.source.url) for layer in layers}


# ------------------------------------------------------------------------------------------------------ verify


def verify(host: Host, names: Sequence[str]) -> tuple[Finding, ...]:
    """Compare registry and pools, and check the file system of every volume. ``names`` limits it to these images."""
    observed = assess.assess_offline(host).observed
    chains = {row.chain for row in observed.snapshots.values() if row.image in names}
    chains |= {row.chain for name, row in observed.images.items() if name in names and row.chain}
    found = list(volumes(host, observed, chains if names else None))
    corrupt = {one.subject for one in found if one.reason == VolumeCorrupt.reason}
    found += snapshots(observed, names, corrupt)
    if not names:
        found += contents(observed)
    return tuple(found)


def volumes(host: Host, observed: Observed, chains: set[str] | None) -> Iterator[Finding]:
    for (pool, chain), _ in sorted(observed.volumes.items()):
        if chains is not None and chain not in chains:
            continue
        held, key = observed.volume_state(pool, chain), Key(Kind.VOLUME, pool, volume_name(chain))
        if held is None or held.condition is not Condition.INTACT:
            yield Finding(ERROR, key, "VolumeDamaged", broken(held), "`reconcile --once` rebuilds it")
        else:
            unready = (state := observed.pools[pool].state) and state.unready
            yield unchecked(key, unready) if unready else file_system(key, host.drivers[pool], chain)


def broken(held: VolumeState | SnapshotState | None) -> str:
    return f"{held.condition.value}: {held.detail}" if held else "recorded, but not in the pool"


def removal(key: Key, volume: Path) -> str:
    """How to remove a damaged base, so that it is rebuilt. A thin pool's volume has a path only while it is read."""
    return f"`reconcile state rm {key.with_pool}`" if volume.parent.name == "mapper" else f"remove {volume}"


def file_system(key: Key, driver: Driver, chain: str) -> Finding:
    try:
        with driver.reading(chain) as path:
            checked = e2fsck.check(path)
    except VolumeCorrupt as error:
        message = error.message.removeprefix(f"{path}: ") if path.parent.name == "mapper" else str(error)
        return Finding(ERROR, key, error.reason, message, f"{removal(key, path)}, and run `reconcile --once`")
    except ReconcilerError as error:
        return unchecked(key, str(error))
    if not checked:
        return Finding(WARNING, key, "ToolMissing", "identity as recorded; file system not checked", "install e2fsprogs")
    return Finding(OK, key, PASSED, "identity as recorded, file system clean")


def unchecked(key: Key, why: str) -> Finding:
    return Finding(WARNING, key, "NotChecked", f"identity as recorded; its file system can't be checked now: {why}")


def snapshots(observed: Observed, names: Sequence[str], corrupt: Collection[Key] = ()) -> Iterator[Finding]:
    """``corrupt`` are the volumes in which e2fsck has reported errors: their snapshots began with the same bytes."""
    for (pool, name), row in sorted(observed.snapshots.items()):
        if names and row.image not in names:
            continue
        held = observed.snapshot_state(pool, name)
        if held is None or held.condition is not Condition.INTACT:
            yield Finding(ERROR, row.key, "SnapshotDamaged", broken(held), "`reconcile --once` recreates it")
        elif not held.active:
            message = f"identity as recorded, but {held.detail or 'not active'}"
            yield Finding(WARNING, row.key, "SnapshotInactive", message, "`reconcile --once` activates it")
        elif (base := Key(Kind.VOLUME, pool, volume_name(row.chain))) in corrupt:
            message = f"identity as recorded, but it was made from {base}, whose file system is corrupt"
            yield Finding(WARNING, row.key, "BaseCorrupt", message, "check what its user needs of it, and recreate it")
        else:
            yield Finding(OK, row.key, PASSED, f"identity as recorded; {held.path}")


def contents(observed: Observed) -> Iterator[Finding]:
    """What is in each pool besides the volumes and snapshots of the registry; OK where that is nothing."""
    for name, pool in sorted(observed.pools.items()):
        key = Key(Kind.POOL, "", name)
        if pool.state is None:
            yield Finding(ERROR, key, pool.reason, pool.problem)
            continue
        found = [*of_whole(key, pool.state), *of_contents(key, pool.state)]
        yield from found or [Finding(OK, key, PASSED, "everything in it is in the registry")]
