"""e2fsck: checks a written volume before it is used, with code that is not ours.

Called by ``controller`` (each volume before it is sealed), ``cli.build_image`` and ``status.health``. No state.
e2fsprogs is not required: where it is missing the volume is sealed unchecked, and ``health`` reports that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reconciler import process
from reconciler.errors import VolumeCorrupt

TIMEOUT_SECONDS = 1800


def present() -> bool:
    return process.find("e2fsck") is not None


def check(path: Path, pass_fds: Sequence[int] = ()) -> bool:
    """Check a file system with e2fsck, read-only; False where e2fsck is not installed.

    Raises VolumeCorrupt with e2fsck's first complaint. Exit code 0 of ``e2fsck -fn`` means that nothing is wrong (e2fsck(8)).
    """
    program = process.find("e2fsck")
    if program is None:
        return False
    done = process.run([program, "-fn", str(path)], timeout=TIMEOUT_SECONDS, pass_fds=pass_fds)
    if done.code != 0:
        said = [line for line in done.stdout.splitlines() if line and not line.startswith(("Pass ", "e2fsck "))]
        complaint = said[0] if said else done.stderr.strip()
        raise VolumeCorrupt(f"{path}: e2fsck reported errors: {complaint}", hint=f"see all of them with: {done.command}")
    return True
