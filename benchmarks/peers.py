"""The programs that we are compared with: which of them this machine has, which version, and what brings the others.

``python -m benchmarks.peers`` prints the table; ``make bench-peers`` installs what Debian has.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
NO_ROOT = "needs root: a loop device and a mount"


@dataclass(frozen=True)
class Peer:
    """``works`` tells whether the program has what is asked of it; ``brings`` is where one that has it comes from."""

    program: str
    brings: str
    version: tuple[str, ...] = ("--version",)
    works: Callable[[str], bool] = bool


def takes_a_tar(mke2fs: str) -> bool:
    """``mke2fs -d`` reads an archive from 1.47.1 on, where it was built with libarchive and finds it."""
    with tempfile.TemporaryDirectory() as name:
        tar, image = Path(name, "empty.tar"), Path(name, "image")
        tar.write_bytes(bytes(10240))
        command = [mke2fs, "-q", "-F", "-t", "ext4", "-d", str(tar), str(image), "4M"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def has_tar_option(program: str) -> bool:
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    return "--tar" in done.stdout + done.stderr


PEERS: Mapping[str, Peer] = {
    "GNU tar": Peer("tar", "Debian: tar"),
    "bsdtar": Peer("bsdtar", "Debian: libarchive-tools"),
    "mke2fs -d DIR": Peer("mke2fs", "Debian: e2fsprogs", ("-V",)),
    "mke2fs -d TAR": Peer(
        "mke2fs", "e2fsprogs 1.47.1 or later with libarchive: Debian 13, libarchive13t64", ("-V",), takes_a_tar
    ),
    "tar2ext4": Peer("tar2ext4", "no package: `go install github.com/Microsoft/hcsshim/cmd/tar2ext4@latest`", ()),
    "mkfs.erofs --tar": Peer("mkfs.erofs", "erofs-utils 1.7 or later: Debian 13", ("--version",), has_tar_option),
    "tar2sqfs": Peer("tar2sqfs", "Debian: squashfs-tools-ng"),
    "sha256": Peer("openssl", "Debian: openssl", ("version",)),
    "e2fsck": Peer("e2fsck", "Debian: e2fsprogs", ("-V",)),
    "dd": Peer("dd", "Debian: coreutils"),
    "the seed's pipeline": Peer("curl", "Debian: curl"),
}


def path_of(program: str) -> str | None:
    return shutil.which(program, path=PATH)


@functools.cache
def missing(name: str) -> str:
    """Why a peer can't take part; empty where it can."""
    peer = PEERS[name]
    program = path_of(peer.program)
    if program is None:
        return f"{peer.program} is not on PATH ({peer.brings})"
    return "" if peer.works(program) else f"this {peer.program} can't do it ({peer.brings})"


def version(name: str) -> str:
    """What the program prints of it, up to the first number with a point."""
    peer = PEERS[name]
    program = path_of(peer.program)
    if program is None or not peer.version:
        return "unknown"
    done = subprocess.run([program, *peer.version], capture_output=True, text=True, check=False)
    found = re.search(r"^.*?\d+\.\d[\w.]*", done.stdout + done.stderr, re.MULTILINE)
    return found[0].strip() if found else "unknown"


def main() -> None:
    for name in PEERS:
        print(f"{name:20}{'MISSING: ' + missing(name) if missing(name) else version(name)}")


if __name__ == "__main__":
    main()
