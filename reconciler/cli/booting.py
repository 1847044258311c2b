"""Finds the snapshot that ``boot-config`` is about, and what its image runs. Called by ``boot``. No state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reconciler.cli import session
from reconciler.errors import ClaimNotFound, UsageError
from reconciler.host.context import Host
from reconciler.model import Key, Kind, SnapshotRow
from reconciler.pool.driver import is_read_only
from reconciler.settings import Settings
from reconciler.status import boot


def configured(
    settings: Settings, word: str, vmm: str, kernel: Path | None, *, read_only: bool, entrypoint: bool, init: str | None = None
) -> dict[str, Any] | list[str]:
    """``init`` runs in place of the image's command. Raises UsageError, ClaimNotFound."""
    if init is not None and not init.startswith("/"):
        raise UsageError(f"--init {init}: not an absolute path", hint="for example /sbin/init")
    wish = boot.Wish(vmm, str(kernel) if kernel else "", read_only, entrypoint, init or "")
    with session.reading(settings) as host:
        row = _snapshot(host, word)
        path, seed = str(host.drivers[row.pool].snapshot_path(row.name)), str(host.seeds.of(row) or "")
        return boot.configured(wish, path, seed, _config(host, row.image), read_only=is_read_only(row.custom))


def _snapshot(host: Host, word: str) -> SnapshotRow:
    """The snapshot that is named, or that a claim is of."""
    if "/" not in word:
        claim = next((one for one in host.records.claims().values() if one.id == word), None)
        if claim is None:
            raise ClaimNotFound(f"there is no claim {word!r}", hint="list them with: reconcile list claims")
        key = Key(Kind.SNAPSHOT, claim.pool, claim.name)
    else:
        key = session.parse_object(word)
    if key.kind is not Kind.SNAPSHOT:
        raise UsageError(f"{word!r} is not a snapshot", hint="write snapshot/NAME, or the id of a claim")
    session.require(host, Kind.SNAPSHOT, key.name)
    return session.recorded(host, key)


def _config(host: Host, image: str) -> Any:
    import json

    spec = host.desired.images.get(image)
    reference = spec.reference if spec else None
    text = host.records.image_configs().get((reference.source.url, reference.platform)) if reference else None
    return json.loads(text) if text else None
