"""The manifests in force: the current ones, with the last known good text of each file that has a fault.

Called by ``host/context``. Where a directory can't be read, or the last good texts contradict the current files, the last
good texts of all files are in force. What can't be read never means "declares nothing", and with ``faults`` nothing is pruned.
What an earlier invocation has parsed is not parsed again (``stored``). State: none here; the registry keeps the last good texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reconciler.dataclass import dataclass, field, replace
from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files, revision, stored
from reconciler.manifests.cache import ManifestCache
from reconciler.manifests.faults import Fault, report, shown
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.stored import Normalized, Parsed
from reconciler.model import Desired, HostFacts

POLICIES = ("freeze", "hold", "fail")
"""With an invalid manifest: its file keeps its last good text, all files do, or nothing is done."""


@dataclass(frozen=True, slots=True)
class InForce:
    """The manifests in force. ``frozen`` are the files whose last good text is used; ``good`` the texts without a fault."""

    desired: Desired
    faults: tuple[Fault, ...] = ()
    frozen: tuple[str, ...] = ()
    good: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[Fault] = ()
    """Documents that are ignored."""


def read(
    directory: Path, last: Mapping[str, str], *, host: HostFacts, policy: str = "freeze", cached: ManifestCache | None = None
) -> InForce:
    """The manifests in force; ``last`` holds the last good texts by path. Cached files that have not changed are not read again.

    Raises ManifestsInvalid where there is a fault and the policy is ``fail``, or where no last good text exists.
    """
    named = revision.named(directory)  # before the files: a revision is never reported for texts that are older
    found = _read(directory, last, host, policy, cached or ManifestCache())
    return replace(found, desired=replace(found.desired, revision=named))


def _read(directory: Path, last: Mapping[str, str], host: HostFacts, policy: str, cached: ManifestCache) -> InForce:
    source = str(directory)
    found = list(files.read_tree(directory, cached.files))
    cached.files = {item.path: item for item in found if isinstance(item, ManifestFile)}
    broken = [item for item in found if isinstance(item, Fault)]
    uses = cached.store is not None and not broken and cached.store.is_used(stored.MANIFESTS)
    key = stored.key_of_tree(cached.files.values(), source, host) if uses else ""
    if key and not cached.parsed and (known := _stored(key, source, host, cached)):
        return known
    readable = {shown(file.path): file for file in cached.files.values()}
    is_complete = not any(fault.path == files.DIRECTORY for fault in broken)
    if policy == "freeze" and is_complete:
        in_force = _frozen(readable, broken, last, source, host, cached)
    else:
        from reconciler.manifests import loader

        combined = loader.combine(readable.values(), source, host, cached)
        broken += combined.faults
        in_force = None if broken else InForce(combined.desired, good=_texts(readable, ()), notes=combined.notes)
    if in_force is not None:
        if key and cached.store and cached.store.writes and not in_force.faults:
            # Written in this order: a run that finds the second has no reason to write the first.
            cached.store.keep(stored.DOCUMENTS, key, documents(cached))
            cached.store.keep(stored.MANIFESTS, key, Parsed.of(in_force.desired, in_force.notes))
        return in_force
    reported = report(broken, source)
    if policy == "fail" or not last:
        raise ManifestsInvalid(reported)
    return InForce(_all_last_good(last, source, host, reported, cached), reported, tuple(sorted(last)))


def _stored(key: str, source: str, host: HostFacts, cached: ManifestCache) -> InForce | None:
    """What an earlier invocation has parsed these files to, where it is known."""
    known = cached.store.read(Parsed, stored.MANIFESTS, key) if cached.store else None
    if known is None:
        return None
    cached.in_force, cached.key = None, key
    texts = {file.path: file.text for file in cached.files.values()}
    return InForce(known.desired(source, host), good=texts, notes=known.notes)


def documents(cached: ManifestCache) -> Normalized:
    """The documents in force, in one spelling. Callers have read the manifests."""
    if cached.in_force is None and cached.store and (known := cached.store.read(Normalized, stored.DOCUMENTS, cached.key)):
        return known
    from reconciler.manifests import loader, normalized

    return normalized.normalize(loader.in_force(cached).values())


def read_changed(directory: Path, named: Iterable[str], *, host: HostFacts, cached: ManifestCache) -> Desired | None:
    """What is declared if only the named files have changed; None where that needs all files, or where one has a fault."""
    if cached.checked is None:
        return None
    from reconciler.manifests import loader

    changed = files.read_named(directory, named, cached.files)
    return None if changed is None else loader.combine_changed(changed, host, cached)


def _frozen(
    readable: Mapping[str, ManifestFile],
    broken: list[Fault],
    last: Mapping[str, str],
    source: str,
    host: HostFacts,
    cached: ManifestCache,
) -> InForce | None:
    """The last good text for each file with a fault, until no fault is left; None where some remain.

    ``broken`` collects all faults.
    """
    from reconciler.manifests import loader

    last_good: dict[str, ManifestFile] = {}
    bad = {fault.where.file for fault in broken}
    while True:
        chosen = [file for name, file in readable.items() if name not in bad]
        if bad:
            last_good = last_good or {shown(path): _last_good(path, text) for path, text in last.items()}
            chosen += [file for name, file in last_good.items() if name in bad]
            chosen.sort(key=lambda file: file.path)
        desired, faults, notes = loader.combine(chosen, source, host, cached)
        if not faults:
            frozen = tuple(sorted(name for name in bad if name in last_good))
            return InForce(desired, report(broken, source) if broken else (), frozen, _texts(readable, bad), notes)
        broken += (fault for fault in faults if fault.where.file not in bad)
        more = {fault.where.file for fault in faults} - bad
        if not more:
            return None
        bad |= more


def _all_last_good(
    last: Mapping[str, str], source: str, host: HostFacts, reported: tuple[Fault, ...], cached: ManifestCache
) -> Desired:
    from reconciler.manifests import loader

    own = ManifestCache()
    desired, faults, _ = loader.combine([_last_good(path, text) for path, text in sorted(last.items())], source, host, own)
    cached.in_force = own.parsed
    if faults:
        raise ManifestsInvalid(reported)
    return desired


def _last_good(path: str, text: str) -> ManifestFile:
    return ManifestFile(path, text, len(text), (0, 0))


def _texts(readable: Mapping[str, ManifestFile], bad: Sequence[str] | set[str]) -> dict[str, str]:
    return {file.path: file.text for name, file in readable.items() if name not in bad}
