"""Snapshots whose declared size has changed and nothing else: their devices or files grow, and never shrink.

A guest may have written the file system in a snapshot that exists: it stays as it is, whatever the size of the device is.
Unclaimed snapshots that are recycled hold nothing of value: with another size they are outdated, as with other files.

Called by ``creation``, ``replacement`` and ``plan``. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reconciler import sizes
from reconciler.dataclass import replace
from reconciler.image.custom import UNKNOWN, CustomSpec, Names
from reconciler.model import Action, Failure, Finding, ImageSpec, Key, Kind, Observed, ReplacePolicy, Severity, SnapshotRow, Verb
from reconciler.planner import claims
from reconciler.planner.inputs import Goal, Inputs
from reconciler.pool.driver import is_read_only

SMALLER, SHRINK = "FilesystemSmallerThanDevice", "ShrinkUnsupported"


def policy_of(image: ImageSpec, name: str) -> ReplacePolicy:
    """The policy for one snapshot: one that is recycled holds nothing of value before it is claimed."""
    keeps = image.replace is ReplacePolicy.KEEP
    return ReplacePolicy.ON_RELEASE if keeps and claims.is_recycled(image, name) else image.replace


def own_size(image: ImageSpec, name: str) -> int:
    """The size of a snapshot: its own, or the image's."""
    custom = image.custom.get(name)
    return (custom.size if custom else 0) or image.size


def differs(goal: Goal, row: SnapshotRow, inputs: Inputs) -> bool:
    """Whether a snapshot is to be replaced for another chain, other files or another identity, or for a size that it can't get.

    Files that can't be read outdate nothing.
    """
    declared = inputs.custom(goal.image, row.name)
    if row.chain != goal.chain or declared == UNKNOWN or (declared == row.custom and not row.filesystem):
        return row.chain != goal.chain
    if not _has_declared_files(goal.image, row, inputs):
        return True
    if is_read_only(row.custom):
        return own_size(goal.image, row.name) != row.size  # no guest could grow its file system
    if claims.is_recycled(goal.image, row.name) and not claims.is_claimed((row.pool, row.name), inputs.observed):
        return True
    return _shrinks(goal, row) and policy_of(goal.image, row.name) is not ReplacePolicy.KEEP


def _has_declared_files(image: ImageSpec, row: SnapshotRow, inputs: Inputs) -> bool:
    """Whether a snapshot was created with what is declared, its size aside."""
    spec = image.custom.get(row.name) or CustomSpec()
    names = Names(row.name, spec.index, image.name, inputs.desired.host)
    then = (replace(spec, size=size) for size in (0, row.filesystem or row.size))
    return row.custom in {one.digest(names, inputs.observed.files) for one in then}


def device_size(row: SnapshotRow, observed: Observed) -> int:
    """Bytes that a snapshot's device or file was given; 0 where that is not known."""
    volume, state = observed.volumes.get((row.pool, row.chain)), observed.snapshot_state(row.pool, row.name)
    return row.size or (volume.size if volume else state.size if state else 0)


def _shrinks(goal: Goal, row: SnapshotRow) -> bool:
    """Whether less is declared than the snapshot has. Another size of the image is another chain."""
    return row.chain == goal.chain and own_size(goal.image, row.name) < row.size


def _present(goal: Goal, inputs: Inputs) -> Iterator[SnapshotRow]:
    """The image's snapshots that may have a size of their own, and are intact and active."""
    image = goal.image
    for name in dict.fromkeys(inputs.kept(image).names):
        place = image.pool, name
        row = inputs.observed.snapshots.get(place)
        if row is None or not (row.size or name in image.custom) or row.image != image.name or inputs.owners[place] != image.name:
            continue
        if inputs.snapshot_state(place).active and not inputs.snapshot(place) and not inputs.unrecognised(place):
            yield row


def actions(goal: Goal, inputs: Inputs) -> Iterator[Action]:
    """Larger devices and files. The caller leaves out what is replaced."""
    image = goal.image
    for row in _present(goal, inputs):
        spec = image.custom.get(row.name)
        size, before = spec.size if spec else 0, device_size(row, inputs.observed)
        if size > before and not is_read_only(row.custom):
            yield Action(
                Verb.GROW,
                Kind.SNAPSHOT,
                row.name,
                f"{sizes.format_size(before)} -> {sizes.format_size(size)}; its file system stays as it is: "
                "run `resize2fs` or `systemd-growfs` in the guest",
                pool=row.pool,
                image=image.name,
                chain=row.chain,
                size=size,
                images=(image.name,),
                identity=row.identity,
            )


def blocked(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Failure]:
    """A failure of each image with snapshots that are to become smaller; the rest of the image is planned as always."""
    for goal in goals:
        for row in _present(goal, inputs):
            if _shrinks(goal, row) and policy_of(goal.image, row.name) is ReplacePolicy.KEEP:
                has, wants = sizes.format_size(row.size), sizes.format_size(own_size(goal.image, row.name))
                message = f"snapshot {row.name} has {has} and is declared with {wants}: a snapshot can't shrink"
                hint = f"declare `size: {has}`, or a replacePolicy that replaces it"
                yield Failure(Kind.IMAGE, goal.image.name, SHRINK, f"{message}; {hint}")
                break


def findings(goals: Iterable[Goal], inputs: Inputs) -> Iterator[Finding]:
    for goal in goals:
        for row in _present(goal, inputs):
            if found := smaller_filesystem(row.pool, row.name, row.size, row.filesystem):
                yield found


def smaller_filesystem(pool: str, name: str, size: int, filesystem: int) -> Finding | None:
    """The finding of a snapshot that has grown: whether its guest has grown the file system is not visible from outside."""
    if not 0 < filesystem < size:
        return None
    created, now = sizes.format_size(filesystem), sizes.format_size(size)
    message = f"its file system was created with {created}, and its device has {now}"
    hint = "run `resize2fs` or `systemd-growfs` in the guest, if that has not been done"
    return Finding(Severity.NOTE, Key(Kind.SNAPSHOT, pool, name), SMALLER, message, hint)
