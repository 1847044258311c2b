"""``/etc/reconciler/host.yaml``: the name and the labels of this host.

Read by ``controller/context``. No state.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from reconciler.errors import ManifestsInvalid
from reconciler.manifests import files
from reconciler.manifests.faults import Fault, report, shown
from reconciler.manifests.fields import Fields, LabelKey, LabelValue, validate
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.parser import Entries, Located, Reader
from reconciler.manifests.problems import DocumentInvalid
from reconciler.model import Where


class HostFile(Fields):
    """What the file may contain."""

    name: LabelValue | None = Field(default=None, description="Name of the host in results; the system's host name by default.")
    labels: dict[LabelKey, LabelValue] = Field(default={}, description="Labels that the `hosts` of an image select.")


def load_host(path: Path) -> HostFile:
    """The content of the file; nothing without a file. Raises ManifestsInvalid."""
    if not path.exists():
        return HostFile()
    file = next(files.read_paths([path]), None)
    if isinstance(file, Fault):
        raise ManifestsInvalid((file,))
    return _parse(file) if file else HostFile()


def _parse(file: ManifestFile) -> HostFile:
    name = shown(file.path)
    reader = Reader(file.text, name)
    roots = [root for root, _ in reader.documents()]
    if not reader.faults and len(roots) == 1 and isinstance(root := roots[0], Entries):
        try:
            return validate(HostFile, root, Located(name, root))
        except DocumentInvalid as error:
            raise ManifestsInvalid(report(error.faults, file.path)) from None
    single = Fault(Where(name, 1, 1), "document", "is not one mapping with name and labels")
    raise ManifestsInvalid(report(reader.faults or [single], file.path))
