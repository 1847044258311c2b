"""The state directory: created with its modes whatever the umask, or checked to be ours alone to write.

    <state>                            0711: a microVM's user reaches its disk below, and can list nothing
    <state>/pools/<pool>/snapshots     0711, and the directories above it
    <state>/seeds/<pool>               0711
    everything else                    directories 0700, files 0600

Called by ``host.context`` before anything in it is opened for writing. State: the directory.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from reconciler import atomic_file
from reconciler.errors import HostCannot

MODE = 0o711
HINT = "choose a state directory with --state"


def make_state(state: Path) -> None:
    """Create the directory, or check the existing one. Raises HostCannot."""
    try:
        atomic_file.make_directory(state, MODE, above=0o755)
        link, found = state.lstat(), state.stat()
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise HostCannot(f"{state} is a symbolic link of user {link.st_uid}", hint=HINT)
        if found.st_uid != os.geteuid():
            own = f"it belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}"
            raise HostCannot(f"state directory {state}: {own}", hint=f"run as its owner, or {HINT}")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            raise HostCannot(f"state directory {state}: other users may write to it (mode {mode})", hint=f"chmod go-w {state}")
        if stat.S_IMODE(found.st_mode) == 0o700:
            _open_up(state)
    except OSError as error:
        raise HostCannot(f"{state}: {error.strerror}", hint=HINT) from error


def _open_up(state: Path) -> None:
    """Let a directory that an older version closed as a whole be passed: what is in it is closed first, one by one."""
    for path in state.iterdir():
        if path.name == "pools":
            _pass(path)
            for pool in path.iterdir():
                _pass(pool)
                _pass(pool / "snapshots")
        else:
            _chmod(path, 0o700 if path.is_dir() else 0o600)
    _chmod(state, MODE)


def _pass(directory: Path) -> None:
    if directory.is_dir():
        _chmod(directory, MODE)


def _chmod(path: Path, mode: int) -> None:
    with suppress(FileNotFoundError):
        if not path.is_symlink():
            path.chmod(mode)


def discard_unfinished_indexes(directory: Path) -> None:
    """Remove what a run that was cut off left: its chain may never be built again. Callers hold the lock."""
    for path in directory.glob(atomic_file.private(directory / "*.idx").name):
        path.unlink(missing_ok=True)
