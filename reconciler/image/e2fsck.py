"""The referee: ``e2fsck -fn`` on a file system that we wrote, before anybody relies on it.

Called by ``lifecycle`` (each volume before it is sealed), ``oneshot`` and ``checks``. No state. e2fsprogs is not required: where
it is missing the volume is sealed without a second opinion, and ``health`` says so.
"""

from __future__ import annotations

from pathlib import Path

from reconciler import process
from reconciler.errors import VolumeCorrupt

TIMEOUT_SECONDS = 1800


def present() -> bool:
    return process.find("e2fsck") is not None


def check(path: Path) -> bool:
    """Have e2fsck look at a file system without changing it; False where e2fsck is not installed.

    Raises VolumeCorrupt with what e2fsck said. Exit code 0 of ``e2fsck -fn`` means that nothing is wrong (e2fsck(8)).
    """
    program = process.find("e2fsck")
    if program is None:
        return False
    done = process.run([program, "-fn", str(path)], timeout=TIMEOUT_SECONDS)
    if done.code != 0:
        said = [line for line in done.stdout.splitlines() if line and not line.startswith(("Pass ", "e2fsck "))]
        complaint = said[0] if said else done.stderr.strip()
        raise VolumeCorrupt(f"{path}: e2fsck is not content: {complaint}", hint=f"see all of it with: {done.command}")
    return True
