"""What stands declared while some of it can't be read: the manifests of now, and the last good ones in place of the bad.

Called by ``host``. A file with a fault is replaced by the text that it had when it last had none; where a directory can't be
read, or where the two don't go together, all manifests are. Nothing that can't be read is ever taken for nothing wanted, and
whoever finds ``faults`` prunes nothing. State: none here; the last good texts are kept in the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files as repository
from reconciler.manifests import loader
from reconciler.manifests.faults import Fault
from reconciler.manifests.files import ManifestFile, shown
from reconciler.manifests.loader import Known
from reconciler.model import Desired, HostFacts

POLICIES = ("freeze", "hold", "fail")
"""What becomes of the rest when a manifest is invalid: it goes on, it stays as it was, or nothing is done at all."""


@dataclass(frozen=True, slots=True)
class Standing:
    """``faults`` in words, in order; ``frozen`` are the files whose last good text stands in; ``good`` the texts to remember."""

    desired: Desired
    faults: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    good: Mapping[str, str] = field(default_factory=dict)


def read(
    directory: Path, last: Mapping[str, str], *, host: HostFacts, policy: str = "freeze", known: Known | None = None
) -> Standing:
    """Read all manifests; ``last`` holds the last good texts by path. What is ``known`` and has not changed isn't read again.

    Raises ManifestsInvalid where there is a fault and the policy is to fail, or where nothing good is known to stand in.
    """
    known = known or Known()
    found = list(repository.read_tree(directory, known.files))
    known.files = {item.path: item for item in found if isinstance(item, ManifestFile)}
    broken = [item for item in found if isinstance(item, Fault)]
    files = {shown(item.path): item for item in found if isinstance(item, ManifestFile)}
    whole = not any(fault.path == repository.DIRECTORY for fault in broken)
    if policy == "freeze" and whole:
        standing = _frozen(files, broken, last, str(directory), host, known)
    else:
        desired, faults = loader.judge(files.values(), str(directory), host, known)
        faults = [*broken, *faults]
        standing = None if faults else Standing(desired, good=_texts(files, ()))
        broken = faults
    if standing is not None:
        return standing
    said = loader.in_words(broken, str(directory))
    if policy == "fail" or not last:
        raise ManifestsInvalid(said)
    return Standing(_held(last, str(directory), host, said), said, tuple(sorted(last)))


def glance(directory: Path, named: Iterable[str], *, host: HostFacts, known: Known) -> Desired | None:
    """What is declared if nothing has changed but the files that are named; None where that can't be told, or has a fault."""
    files = repository.read_named(directory, named, known.files)
    return None if files is None else loader.glance(files, host, known)


def _frozen(
    files: Mapping[str, ManifestFile],
    broken: list[Fault],
    last: Mapping[str, str],
    source: str,
    host: HostFacts,
    known: Known,
) -> Standing | None:
    """Replace what has faults until the rest has none; None where even that leaves some. ``broken`` collects all of them."""
    remembered: dict[str, ManifestFile] = {}
    bad = {fault.where.file for fault in broken}
    while True:
        chosen = [file for name, file in files.items() if name not in bad]
        if bad:
            remembered = remembered or {shown(path): _remembered(path, text) for path, text in last.items()}
            chosen += [file for name, file in remembered.items() if name in bad]
            chosen.sort(key=lambda file: file.path)
        desired, faults = loader.judge(chosen, source, host, known)
        if not faults:
            said = loader.in_words(broken, source) if broken else ()
            frozen = tuple(sorted(name for name in bad if name in remembered))
            return Standing(desired, said, frozen, _texts(files, bad))
        broken += (fault for fault in faults if fault.where.file not in bad)
        more = {fault.where.file for fault in faults} - bad
        if not more:
            return None
        bad |= more


def _held(last: Mapping[str, str], source: str, host: HostFacts, said: Sequence[str]) -> Desired:
    desired, faults = loader.judge([_remembered(path, text) for path, text in sorted(last.items())], source, host)
    if faults:
        raise ManifestsInvalid(tuple(said))
    return desired


def _remembered(path: str, text: str) -> ManifestFile:
    return ManifestFile(path, text, len(text), (0, 0))


def _texts(files: Mapping[str, ManifestFile], bad: Sequence[str] | set[str]) -> dict[str, str]:
    return {file.path: file.text for name, file in files.items() if name not in bad}
