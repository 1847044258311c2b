"""What one process keeps of the manifests that it has read, so that it reads and parses only what changed.

Made by ``host.context``, filled by ``last_good`` and ``loader``, whose values it holds; importing it costs nothing. State: that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.dataclass import dataclass, field
from reconciler.manifests.files import ManifestFile
from reconciler.manifests.stored import Store


@dataclass
class ManifestCache:
    """Files that have not changed since they were read, and what each of them declares."""

    store: Store | None = None
    """What earlier invocations have parsed."""
    key: str = ""
    """Of what ``store`` has, or a run will have written there, of the files in force."""
    files: Mapping[str, ManifestFile] = field(default_factory=dict)
    parsed: Mapping[str, Any] = field(default_factory=dict)
    """``loader.ParsedFile`` by path; empty while ``store`` has what all files declare."""
    texts: Mapping[str, str] | None = None
    """The last good text of each file, as the registry has it; None until it is read from there."""
    checked: Any = None
    """``loader.Checked``: the last files that had no fault together."""
    in_force: Mapping[str, Any] | None = None
    """The files that Desired was assembled from: those of ``parsed``, or the last good ones where these are in force.

    None where ``store`` had what they declare (``loader.in_force``).
    """
