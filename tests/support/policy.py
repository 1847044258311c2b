"""The host file that tests run under: its policy permits what a test's manifests ask for, as root too.

``tests/conftest.py`` names it in ``RECONCILER_HOST_FILE`` for every test; ``tests/stories/test_committer.py`` shows what is
refused without it.
"""

from __future__ import annotations

from pathlib import Path

PERMISSIVE = """\
policy:
  fileSources: [/]
  endpoints: {allow: [0.0.0.0/0, "::/0"], credentials: [0.0.0.0/0, "::/0", localhost]}
  pools: {files: [/], devices: ["/*"]}
  confinement: best-effort
"""
"""A host file that is written by a test may begin with it."""


def write(path: Path, more: str = "") -> Path:
    """Write a host file that belongs to this user, and to which nobody else may write."""
    path.write_text(PERMISSIVE + more)
    path.chmod(0o600)
    return path
