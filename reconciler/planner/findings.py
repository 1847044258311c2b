"""Findings: what users should see and no action changes. The reasons, for tools:

    PoolUnavailable  Foreign  Orphan  Leftover  Unregistered  PoolUnused             of pools and what they hold
    PoolLost  PoolSwapped  PoolOutdated  PoolForeign  RegistryOutdated  NameTaken    of thin pools that contradict the registry
    PoolDataWrong  PoolDataUnproved  PoolDevicesChanged                              of thin pools on other devices
    PoolFull  PoolReadOnly  PoolCheckRequired  PoolFailed  BlockSizeFixed  BlockSizeTooSmall  ShrinkUnsupported
    PoolLayoutOutdated
    PolicyRefused  PolicyWouldRefuse                                                 of what this host's policy refuses
    Suspended  LastKnownChain  DeclaredTwice  Unpinned  LayoutOutdated  FileUnreadable   of what is declared
    ClaimExpired  SnapshotUsed  SnapshotClaimed                                      of claims (planner.claims)
    SnapshotOutdated  SnapshotInUse  PossibleRename  SnapshotUnrecognised            of what has changed
    FilesystemSmallerThanDevice                                                      of what has grown (planner.growth)
    Retained  Protected  GracePeriod  Replaced  PoolUnknown                          of what is no longer declared
    LabelsChanged                                                                    of the host (host.label_change)

Called by ``plan``. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from reconciler.image.spec import LAYOUT, OLDER_LAYOUTS, ImageReference
from reconciler.model import Finding, ImageSpec, Key, Kind, Severity
from reconciler.planner import replacement
from reconciler.planner.claims import Place
from reconciler.planner.goals import chains, goal_of, volume_name
from reconciler.planner.inputs import Goal, Inputs
from reconciler.planner.pools import in_use
from reconciler.pool.driver import Condition, PoolState, Trouble


def of_pools(inputs: Inputs) -> Iterator[Finding]:
    wanted = {wanted.key for image in inputs.desired.images.values() for wanted in goal_of(image, inputs).volumes}
    volumes, snapshots = wanted | inputs.observed.volumes.keys(), inputs.owners.keys() | inputs.observed.snapshots.keys()
    for name, pool in sorted(inputs.observed.pools.items()):
        key = Key(Kind.POOL, "", name)
        if pool.state is None:
            yield Finding(Severity.ERROR, key, pool.reason, pool.problem)
            continue
        yield from (of_trouble(key, trouble) for trouble in pool.state.troubles)
        if pool.state.unready and not in_use(name, inputs):
            unused = "not assembled: no image of this host uses it, or only suspended ones"
            yield Finding(Severity.NOTE, key, "PoolUnused", f"{unused}: {pool.state.unready}")
        yield from of_contents(key, pool.state)
        yield from _strays(name, pool.state, volumes, snapshots)


def of_trouble(pool: Key, trouble: Trouble) -> Finding:
    severity = Severity.ERROR if trouble.halts else Severity.NOTE if trouble.note else Severity.WARNING
    return Finding(severity, pool, trouble.reason, trouble.message)


def of_contents(pool: Key, state: PoolState) -> Iterator[Finding]:
    """What is in a pool besides volumes and snapshots."""
    yield from (Finding(Severity.WARNING, pool, "Foreign", text) for text in state.foreign)
    for text in state.orphans:
        hint = f"`reconcile adopt {pool.name}` registers it, `reconcile gc {pool.name}` deletes it"
        yield Finding(Severity.WARNING, pool, "Orphan", f"{text}: orphaned, no longer in the registry", hint)
    for path in state.leftovers:
        message = f"{path}: partial result of an interrupted run"
        yield Finding(Severity.NOTE, pool, "Leftover", message, "the next run discards it")


def _strays(pool: str, state: PoolState, volumes: AbstractSet[Place], snapshots: AbstractSet[Place]) -> Iterator[Finding]:
    """What the pool holds under names of ours, neither declared nor in the registry."""
    for chain, volume in sorted(state.volumes.items()):
        if volume.condition is not Condition.MISSING and (pool, chain) not in volumes:
            yield _stray(Key(Kind.VOLUME, pool, volume_name(chain)), volume.path)
    for name, snapshot in sorted(state.snapshots.items()):
        if snapshot.condition is not Condition.MISSING and (pool, name) not in snapshots:
            yield _stray(Key(Kind.SNAPSHOT, pool, name), snapshot.path)


def _stray(key: Key, path: str) -> Finding:
    message = f"{path}: neither declared nor in the registry; not touched"
    return Finding(Severity.WARNING, key, "Unregistered", message)


def of_image(image: ImageSpec, inputs: Inputs) -> Iterator[Finding]:
    if image.scheduled:
        yield Finding(Severity.NOTE, image.key, "Scheduled", scheduled(image))
        return
    if image.suspend:
        yield Finding(Severity.NOTE, image.key, "Suspended", "suspended: not built, repaired or removed")
        return
    if (refused := inputs.observed.refused.get(image.key)) and refused.severity is not Severity.ERROR:
        yield refused
    yield from _of_files(image, inputs.observed.unreadable)
    if image.reference is not None:
        yield from _of_reference(image, image.reference, inputs)
    for layer in image.layers:
        if layer.sha256 is None:
            found = inputs.observed.resolutions.get(layer.source)
            tracked = f"tracked by ETag {found.etag}" if found and found.etag else "ETag unknown"
            message = f"unpinned: {tracked}; image {image.name} declares no sha256"
            yield Finding(Severity.NOTE, Key(Kind.LAYER, "", layer.source.url), "Unpinned", message)


def scheduled(image: ImageSpec) -> str:
    """Until when the image waits, for people."""
    return f"hosts.notBefore: not built, changed or removed before {image.scheduled}"


def _of_files(image: ImageSpec, unreadable: Mapping[str, str]) -> Iterator[Finding]:
    """Files of the host that snapshots get and that can't be read, each with the snapshots that get it."""
    users: dict[str, list[str]] = defaultdict(list)
    for name, custom in image.custom.items() if unreadable else ():
        for path in (path for path in custom.sources if path in unreadable):
            users[path].append(name)
    for path, names in users.items():
        several = f"snapshots {names[0]} to {names[-1]}" if len(names) > 1 else f"snapshot {names[0]}"
        message = f"{unreadable[path]}; {several} can't be created, and {'are' if len(names) > 1 else 'is'} not compared with it"
        yield Finding(Severity.WARNING, image.key, "FileUnreadable", message)


def _of_reference(image: ImageSpec, reference: ImageReference, inputs: Inputs) -> Iterator[Finding]:
    """A tag, and the digest that pins it."""
    url, found = reference.source.url, inputs.observed.references.get(reference)
    if "@sha256:" not in url:
        now = found.found.digest if found and found.found else ""
        unknown = "its archive is not decompressed yet" if found and found.packed else "its tag is not resolved"
        tracked = f"its tag points to {now}" if now else unknown
        hint = f"to pin it, run `reconcile pin`, or declare source: {url}@{now}" if now else ""
        yield Finding(Severity.NOTE, image.key, "Unpinned", f"unpinned: {url} has no digest; {tracked}", hint)


def of_renames(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Finding]:
    """A new image with the chain of one that is no longer declared: one finding for each pair, in order of name."""
    gone: dict[Place, list[str]] = defaultdict(list)
    for name, row in sorted(inputs.observed.images.items(), reverse=True):
        if name not in inputs.desired.images and row.chain:
            gone[row.pool, row.chain].append(name)
    for goal in goals if gone else ():
        image = goal.image.name
        tops = _tops(goal) if image not in inputs.observed.images else ()
        if same := next((gone[top] for top in tops if gone.get(top)), None):
            before = same.pop()
            message = f"has the layers of image {before}, which is no longer declared"
            hint = f"if you renamed it, run `reconcile state mv image/{before} image/{image}`"
            yield Finding(Severity.WARNING, goal.image.key, "PossibleRename", message, hint)


def _tops(goal: Goal) -> Iterator[Place]:
    """The top volume of a goal under each layout, the newest first."""
    yield goal.top
    for layout in OLDER_LAYOUTS if goal.chain else ():
        yield goal.image.pool, chains(goal.image, goal.layers, layout)[-1]


def of_goal(goal: Goal, inputs: Inputs) -> Iterator[Finding]:
    image = goal.image
    if goal.stale:
        last = f"it stays at its last known chain {volume_name(goal.chain or '')}"
        yield Finding(Severity.WARNING, image.key, "LastKnownChain", f"{goal.stale}; {last}")
    if goal.layout != LAYOUT:
        message = f"its volumes have layout {goal.layout}; it gets layout {LAYOUT} with its next change of layers or size"
        hint = "`reconcile --once --upgrade-layout` rebuilds it now, `reconcile plan --upgrade-layout` shows the cost"
        yield Finding(Severity.NOTE, image.key, "LayoutOutdated", message, hint)
    for name in dict.fromkeys(image.snapshots):
        owner = inputs.owners[image.pool, name]
        if owner != image.name:
            message = f"declared by images {owner} and {image.name}; it belongs to {owner}"
            yield Finding(Severity.WARNING, Key(Kind.SNAPSHOT, image.pool, name), "DeclaredTwice", message)
    yield from replacement.of_goal(goal, inputs)
