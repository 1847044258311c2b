"""What the verbs of the command line share besides click: names of objects, a host to look at, answers that several verbs give.

Called by ``cli`` only, and imported by the verb that needs it. No state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from reconciler.controller import context as hosts
from reconciler.controller import repair as mending
from reconciler.controller.context import Host
from reconciler.controller.repair import Change
from reconciler.errors import Exit, ManifestsInvalid, NotConverged, UsageError
from reconciler.manifests import loader
from reconciler.manifests.faults import ignored_documents
from reconciler.model import Kind, Phase
from reconciler.output import console
from reconciler.settings import Settings
from reconciler.status import image as images
from reconciler.status.health import Check


@contextmanager
def looking(settings: Settings) -> Iterator[Host]:
    """A host to look at even where its manifests can't be read: they are complained about, and what is there is shown."""
    with hosts.reading(settings, lenient=True) as ours:
        for fault in ours.faults:
            console.note(str(fault), "error")
        yield ours


def note_ignored(host: Host) -> None:
    """Name on standard error the documents that belong to other tools."""
    if line := ignored_documents(host.notes):
        console.note(line)


def parse_kind(word: str) -> Kind:
    kind = console.kinds().get(word)
    if kind is None:
        raise UsageError(f"{word!r} is not a kind", hint="one of: image, volume, snapshot, pool")
    return kind


def parse_object(word: str) -> tuple[Kind, str]:
    kind, slash, name = word.partition("/")
    if not slash or not name:
        raise UsageError(f"{word!r} names no object", hint="write KIND/NAME, for example image/golang")
    return parse_kind(kind), name


def parse_image(word: str) -> str:
    kind, name = parse_object(word)
    if kind is not Kind.IMAGE:
        raise UsageError(f"{word!r} is not an image", hint="write image/NAME")
    return name


def wait(settings: Settings, name: str, condition: str, timeout: float) -> Exit:
    """Look once a second until the image is in that condition. Raises NotConverged when the time is up."""
    give_up = time.monotonic() + timeout
    while True:
        with hosts.reading(settings, lenient=True) as ours:
            found = images.read(ours).statuses.get(name)
        if (condition == "gone" and found is None) or (condition == "ready" and found and found.phase is Phase.READY):
            return Exit.OK
        if time.monotonic() >= give_up:
            state = found.phase.value if found else "not known"
            raise NotConverged(f"image/{name} is {state} after {timeout:g} s", hint=f"reconcile describe image/{name}")
        time.sleep(min(1.0, max(0.0, give_up - time.monotonic())))


def parse_named(words: Sequence[str]) -> dict[str, int]:
    """Snapshots and the thin ids that they are, from NAME=ID."""
    named = {}
    for word in words:
        name, _, thin_id = word.partition("=")
        if not name or not (thin_id.isascii() and thin_id.isdigit()):
            raise UsageError(f"{word!r} does not say which thin id is which snapshot", hint="write NAME=ID, for example web-a=17")
        named[name] = int(thin_id)
    return named


def show_checks(found: Sequence[Check], *, json: bool) -> Exit:
    bad = [check for check in found if check.level == "fail"]
    if json:
        console.document({"healthy": not bad, "checks": found})
    else:
        console.table(("", "CHECK", "SUBJECT", "MESSAGE"), [(c.level, c.name, c.subject, c.message) for c in found])
    return Exit.FAILED if bad else Exit.OK


def show_validity(paths: Sequence[Path], *, json: bool) -> Exit:
    """Raises ManifestsInvalid, with all faults, where the answer is not to be JSON."""
    try:
        desired, _, notes = loader.load_paths(paths)
    except ManifestsInvalid as error:
        if not json:
            raise
        console.document({"valid": False, "faults": [str(fault) for fault in error.faults]})
        return Exit.INVALID
    if json:
        found = {"images": sorted(desired.images), "pools": sorted(desired.pools), "notes": [str(note) for note in notes]}
        console.document({"valid": True, "faults": [], **found})
    else:
        for note in notes:
            console.note(f"note: {note}")
        console.data(f"valid: {len(desired.images)} images, {len(desired.pools)} pools")
    return Exit.OK


Mend = Callable[..., tuple[Change, ...]]
MENDING: Mapping[str, Mend] = {"adopt": mending.adopt, "gc": mending.collect, "detach": mending.detach}


def mend(settings: Settings, act: str, pool: str, *arguments: object, apply: bool, json: bool) -> Exit:
    """Say what mending a pool would come to, or do it."""
    if apply:
        with hosts.writing(settings, stop=threading.Event()) as ours:
            found = MENDING[act](ours, pool, *arguments, apply=True)
    else:
        with hosts.reading(settings) as ours:
            found = MENDING[act](ours, pool, *arguments, apply=False)
    return show_changes(found, applied=apply, json=json)


def show_changes(found: Sequence[Change], *, applied: bool, json: bool) -> Exit:
    """What a mending verb has done, or would do."""
    if json:
        console.document({"applied": applied, "changes": found})
        return Exit.OK
    for change in found:
        console.data(f"{change.what:9}  {console.visible(change.message)}")
    if not found:
        console.data("nothing to do")
    elif not applied:
        console.note("nothing has been changed: give --apply to have it done")
    return Exit.FAILED if any(change.what == "kept" for change in found) else Exit.OK
