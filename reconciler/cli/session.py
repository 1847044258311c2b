"""What verbs share besides options: names of objects, a host that is opened for reading, answers that several verbs print.

Imported by the verb that needs it. No state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli import faults
from reconciler.dataclass import replace
from reconciler.errors import Exit, ManifestsInvalid, NotConverged, UsageError, visible
from reconciler.host import context as hosts
from reconciler.host import own
from reconciler.host.context import Host
from reconciler.manifests import refusals
from reconciler.manifests.faults import did_you_mean
from reconciler.model import Desired, Finding, Key, Kind, Severity, SnapshotRow
from reconciler.output import console
from reconciler.planner.status import Phase
from reconciler.settings import Settings
from reconciler.status import image as images

if TYPE_CHECKING:
    from reconciler.cli.repair import Change


@contextmanager
def reading(settings: Settings, *objects: tuple[Kind, str], past: bool = False) -> Iterator[Host]:
    """Open a host for reading, also where manifests are invalid: the faults are written, the last valid ones are used.

    Raises UsageError for an object that doesn't exist (``past``: and never did), ManifestsInvalid where that is undecided.
    """
    with hosts.reading(settings, lenient=True) as ours:
        for kind, name in objects:
            require(ours, kind, name, past=past)
        faults.warn(ours.faults)
        yield ours


# ---------------------------------------------------------------------------------------------- names of objects


def parse_kind(word: str) -> Kind:
    kind = console.kinds().get(word)
    if kind is None:
        raise UsageError(f"{word!r} is not a kind{did_you_mean(word, console.kinds())}", hint="image, volume, snapshot or pool")
    return kind


def parse_object(word: str) -> Key:
    """KIND/NAME, or KIND/POOL/NAME of a snapshot or volume; the pool is empty where it is left out."""
    kind, slash, name = word.partition("/")
    if not slash or not name:
        raise UsageError(f"{word!r} names no object", hint="write KIND/NAME, for example image/golang")
    found = parse_kind(kind)
    pool, _, name = name.rpartition("/") if found in (Kind.SNAPSHOT, Kind.VOLUME) else ("", "", name)
    return Key(found, pool, name)


def parse_image(word: str) -> str:
    found = parse_object(word)
    if found.kind is not Kind.IMAGE:
        raise UsageError(f"{word!r} is not an image", hint="write image/NAME")
    return found.name


def parse_named(words: Sequence[str]) -> dict[str, int]:
    """Thin ids by the name of their snapshot, from NAME=ID."""
    named = {}
    for word in words:
        name, _, thin_id = word.partition("=")
        if not name or not (thin_id.isascii() and thin_id.isdigit()):
            raise UsageError(f"{word!r} is not a snapshot's name and its thin id", hint="write NAME=ID, for example web-a=17")
        named[name] = int(thin_id)
    return named


def parse_chains(words: Sequence[str]) -> dict[str, str]:
    """Chains by the name of their snapshot, from NAME=CHAIN."""
    found = {}
    for word in words:
        name, _, chain = word.partition("=")
        if not name or not chain:
            raise UsageError(
                f"{word!r} is not a snapshot's name and its chain", hint="write NAME=CHAIN, such as web-a=248cc7e9bc8e"
            )
        found[name] = chain
    return found


def names(ours: Host, kind: Kind) -> set[str]:
    """All objects of a kind that are declared, recorded or marked."""
    desired, records = ours.desired, ours.records
    match kind:
        case Kind.IMAGE:
            return {*desired.images, *records.images(), *(image for image, _ in records.marks())}
        case Kind.SNAPSHOT:
            return {name for image in desired.images.values() for name in image.snapshots} | {
                name for _, name in records.snapshots()
            }
        case Kind.POOL:
            return {*desired.pools, *records.pools()}
        case _:
            return {chain for _, chain in records.volumes()}


def exists(ours: Host, kind: Kind, name: str) -> bool:
    found = names(ours, kind)
    return name in found or (kind is Kind.VOLUME and any(chain.startswith(name) for chain in found))


def require(ours: Host, kind: Kind, name: str, *, past: bool = False) -> None:
    """Raise UsageError where there is no such object, ManifestsInvalid where an invalid manifest may declare it."""
    if exists(ours, kind, name) or (past and existed(ours, kind, name)):
        return
    if ours.faults:
        raise ManifestsInvalid(ours.faults)
    hint = f"list them with: reconcile list {kind.lower()}s"
    raise UsageError(f"there is no {kind.lower()} {name!r}{did_you_mean(name, names(ours, kind))}", hint=hint)


def recorded(ours: Host, key: Key) -> SnapshotRow:
    """The row of a snapshot. Raises UsageError where no pool or several have one of the name, and none is named."""
    found = [row for row in ours.records.snapshots().values() if row.name == key.name and key.pool in ("", row.pool)]
    if len(found) != 1:
        where = " and ".join(row.pool for row in found) or "no pool"
        raise UsageError(f"{key} is in {where}", hint="write snapshot/POOL/NAME" if found else "reconcile list snapshots")
    return found[0]


def existed(ours: Host, kind: Kind, name: str) -> bool:
    """Whether the registry has a run or an event of it."""
    of = Key(kind, "", name)
    return bool(ours.records.events(of, 1) or ours.records.runs(of, limit=1))


# ----------------------------------------------------------------------------------------------------- answers


def wait(settings: Settings, name: str, condition: str, timeout: float) -> Exit:
    """Check once a second until the image is ready or gone. Raises NotConverged when the time is up, and as ``require`` does."""
    give_up = time.monotonic() + timeout
    first = True
    while True:
        with hosts.reading(settings, lenient=True) as ours:
            if first:
                require(ours, Kind.IMAGE, name, past=condition == "gone")
            found = images.read(ours).statuses.get(name)
            undecided = found is None and bool(ours.faults)
        first = False
        if (condition == "gone" and found is None and not undecided) or (
            condition == "ready" and found and found.phase is Phase.READY
        ):
            return Exit.OK
        if time.monotonic() >= give_up:
            if undecided:
                raise ManifestsInvalid(ours.faults)
            state = found.phase.value if found else "gone"
            raise NotConverged(f"image/{name} is {state} after {timeout:g} s", hint=f"reconcile describe image/{name}")
        time.sleep(min(1.0, max(0.0, give_up - time.monotonic())))


def show_checks(found: Sequence[Finding], *, json: bool) -> Exit:
    bad = [one for one in found if one.severity is Severity.ERROR]
    if json:
        from reconciler.status.health import check_json

        console.document({"healthy": not bad, "checks": [check_json(one) for one in found]})
    else:
        rows = [(one.severity.value, one.subject.with_pool, one.reason, one.text) for one in found]
        console.table(("", "SUBJECT", "REASON", "MESSAGE"), rows)
    return Exit.FAILED if bad else Exit.OK


def refused_by_host(desired: Desired, paths: Sequence[Path], settings: Settings) -> list[Finding]:
    """What this host's policy would refuse of these manifests, by names alone."""
    directory = paths[0] if paths[0].is_dir() else paths[0].parent
    policy = own.policy_for(replace(settings, manifests=directory))
    return [*refusals.of_images(desired, policy).values(), *refusals.of_pools(desired, policy).values()]


def pool_notes(desired: Desired) -> Iterator[str]:
    """What is valid, and can't be used as declared."""
    from reconciler.pool.thin import backing

    for pool in desired.pools.values():
        if pool.thin and (limit := backing.undescribed(pool.thin.data.size or 0, pool.thin.block_size)):
            yield f"{pool.where}: pool {pool.name}: {limit}"


def show_validity(paths: Sequence[Path], settings: Settings, *, json: bool) -> Exit:
    """Print whether manifests are valid. Raises ManifestsInvalid, with all faults, where the answer is not JSON."""
    from reconciler.manifests import loader

    try:
        desired, _, ignored = loader.load_paths(paths)
        refused = (f"{one.subject}: {one.text}" for one in refused_by_host(desired, paths, settings))
        notes = [*map(str, ignored), *pool_notes(desired), *refused]
    except ManifestsInvalid as error:
        if not json:
            raise
        console.document({"valid": False, "faults": [str(fault) for fault in error.faults]})
        return Exit.INVALID
    if json:
        declared = {"images": sorted(desired.images), "pools": sorted(desired.pools)}
        console.document({"valid": True, "faults": [], **declared, "notes": notes})
    else:
        for note in notes:
            console.note(f"note: {note}")
        console.data(f"valid: {len(desired.images)} images, {len(desired.pools)} pools")
    return Exit.OK


def repair(settings: Settings, act: str, pool: str, *arguments: object, apply: bool, json: bool) -> Exit:
    """Show what the repair of a pool would change, or carry it out."""
    from reconciler.cli import repair as repairs

    acts: Mapping[str, Callable[..., tuple[Change, ...]]]
    acts = {"adopt": repairs.adopt, "gc": repairs.collect, "detach": repairs.detach}
    if apply:
        policy = "freeze" if act == "gc" else "fail"  # what is an orphan follows from the registry alone
        with hosts.writing(settings, stop=threading.Event(), on_invalid=policy) as ours:
            faults.warn(ours.faults)
            require(ours, Kind.POOL, pool)
            found = acts[act](ours, pool, *arguments, apply=True)
    else:
        with hosts.reading(settings) as ours:
            require(ours, Kind.POOL, pool)
            found = acts[act](ours, pool, *arguments, apply=False)
    return show_changes(found, applied=apply, json=json)


def show_changes(found: Sequence[Change], *, applied: bool, json: bool) -> Exit:
    """Print the changes that a repair has made, or would make."""
    if json:
        console.document({"applied": applied, "changes": found})
        return Exit.OK
    for change in found:
        console.data(f"{change.what:9}  {visible(change.message)}")
    if not found:
        console.data("nothing to do")
    elif not applied:
        console.note("nothing has been changed; give --apply to carry it out")
    return Exit.FAILED if any(change.what == "kept" for change in found) else Exit.OK
