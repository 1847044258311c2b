"""``/etc/reconciler/host.yaml``: the name and the labels of this host, and what it permits to the authors of manifests.

Read by ``host/own``. The file has to belong to root or to this user, and nobody else may write to it: its policy limits what
manifests can do as this user. ``host_file`` parses it where ``stored`` does not have the result. No state.
"""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files, stored
from reconciler.manifests.faults import Fault, shown
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.host_policy import HostValues
from reconciler.manifests.stored import Store
from reconciler.model import Where


def load_host(path: Path, store: Store | None = None) -> HostValues:
    """The content of the file; nothing without a file. Raises ManifestsInvalid."""
    if not path.exists():
        return HostValues()
    file = next(files.read_paths([path]), None)
    if isinstance(file, Fault):
        raise ManifestsInvalid((file,))
    if why := _untrusted(path):
        raise ManifestsInvalid((Fault(Where(shown(str(path)), 1, 1), "file", why),))
    return _values(file, store) if file else HostValues()


def _values(file: ManifestFile, store: Store | None) -> HostValues:
    key = stored.key_of(file.path, file.text) if store else ""
    found = store.read(HostValues, stored.HOST, key) if store else None
    if found is None:
        from reconciler.manifests import host_file

        found = host_file.parse(file)
        if store:
            store.keep(stored.HOST, key, found)
    return found


def _untrusted(path: Path) -> str:
    """Why the file can't hold this host's policy; empty where it can."""
    try:
        found = path.stat()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid} (chown it to root, or to the user who runs reconcile)"
    return "can be written by others (chmod go-w)" if found.st_mode & 0o022 else ""
