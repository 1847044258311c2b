"""What other programs make of an archive: GNU tar, bsdtar, and Python's ``tarfile`` with each of its filters, each in a process.

A peer unpacks into a directory deep below a private one, so that what climbs out by a few ``..`` lands where it is found
(``Unpacked.outside``) and does no harm. Nothing holds a peer that writes to absolute paths: archives that make ``trusted`` do so
are not for it. State: none; the private directory is gone afterwards.
"""

from __future__ import annotations

import atexit
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tests.support import compare
from tests.support.compare import Facts

SECONDS = 20.0
"""After which a peer counts as hanging."""
LARGEST = 64 << 20
"""Bytes of the largest file that is read for its digest; others have none."""
DEEP = "1/2/3/4/out"
UMASK = 0o022
"""Of all peers: what no member describes gets the mode that ours gives it."""

SERVER = """
import os, sys, tarfile
for line in sys.stdin.buffer:
    archive, top, name, log = map(os.fsdecode, line.rstrip(b"\\n").split(b"\\0"))
    child = os.fork()
    if child:
        sys.stdout.write(f"{child}\\n")
        sys.stdout.flush()
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\\n")
        sys.stdout.flush()
        continue
    out = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(top)
    try:
        with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
            tar.extractall(top, filter=name, numeric_owner=True)
    except BaseException as error:
        os.write(2, repr(error).encode(errors="backslashreplace"))
        os._exit(1)
    os._exit(0)
"""
"""Python with ``tarfile`` loaded: each request is unpacked by a fork of it, whose id and exit code are answered."""

Command = Callable[[Path, Path], Sequence[str | Path]]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out. ``tree`` has the directory itself as ``b"."``; ``outside`` are paths that should not be there at all."""

    tree: Mapping[bytes, Facts]
    outside: tuple[bytes, ...]
    code: int
    """Of its exit, negative for a signal."""
    said: str
    hung: bool = False

    @property
    def complained(self) -> bool:
        return self.hung or self.code != 0


def gnu_tar(archive: Path, top: Path) -> Sequence[str | Path]:
    """As a root file system is unpacked by hand: owners by number, every bit and attribute."""
    words = "--extract --preserve-permissions --numeric-owner --acls --xattrs --xattrs-include=* --warning=no-timestamp"
    return ["tar", *words.split(), "--directory", top, "--file", archive]


def bsdtar(archive: Path, top: Path) -> Sequence[str | Path]:
    return ["bsdtar", "-x", "-p", "--numeric-owner", "-C", top, "-f", archive]


PROGRAMS: Mapping[str, Command] = {"GNU tar": gnu_tar, "bsdtar": bsdtar}
FILTERS = {"data": "data", "tar": "tar", "trusted": "fully_trusted"}
PEERS = (*PROGRAMS, *FILTERS)
"""By the names that tables give them; the last three are filters of ``tarfile``."""


@cache
def version(peer: str) -> str:
    """Of what is installed; empty where it is not."""
    if peer in FILTERS:
        import tarfile

        return ".".join(map(str, sys.version_info[:3])) if hasattr(tarfile, "data_filter") else ""
    program = {"GNU tar": "tar", "bsdtar": "bsdtar"}[peer]
    if shutil.which(program) is None:
        return ""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.splitlines()[0]
    found = re.search(r"[0-9]+(\.[0-9]+)+", printed)
    return found[0] if found and program in printed else ""


def unpack(peer: str, archive: bytes, *, seconds: float = SECONDS) -> Unpacked:
    """Run a peer over an archive in a private directory."""
    with tempfile.TemporaryDirectory(prefix="peers-") as made:
        private = Path(made)
        (private / "archive").write_bytes(archive)
        top = private / "in" / DEEP
        top.mkdir(parents=True)
        run = _run if peer in PROGRAMS else _filtered
        code, said, hung = run(peer, private, seconds)
        said = said.replace(str(top), "TOP").replace(str(private), "PRIVATE")
        return Unpacked(listing(top), tuple(_outside(private / "in")), code, said, hung)


Ran = tuple[int, str, bool]
"""Exit code, output, and whether it was ended."""


def _run(peer: str, private: Path, seconds: float) -> Ran:
    log = private / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            PROGRAMS[peer](private / "archive", private / "in" / DEEP),
            cwd=private / "in" / DEEP,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=_environment(),
            umask=UMASK,
            start_new_session=True,
        )
        try:
            code, hung = running.wait(seconds), False
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            code, hung = running.wait(), True
    return code, log.read_text(errors="backslashreplace"), hung


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}


@cache
def _server() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", "-c", SERVER]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=_environment(), umask=UMASK)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin and server.stdout
    server.stdin.close()
    server.stdout.close()
    server.wait()


def _filtered(peer: str, private: Path, seconds: float) -> Ran:
    server, log = _server(), private / "log"
    assert server.stdin and server.stdout
    words: list[str | Path] = [private / "archive", private / "in" / DEEP, FILTERS[peer], log]
    server.stdin.write(b"\0".join(os.fsencode(word) for word in words) + b"\n")
    child = int(server.stdout.readline())
    ready, _, _ = select.select([server.stdout], [], [], seconds)
    if not ready:
        os.kill(child, signal.SIGKILL)
    code = int(server.stdout.readline())
    return code, log.read_text(errors="backslashreplace") if log.exists() else "", not ready


def _outside(within: Path) -> Iterator[bytes]:
    """Everything beside the one way to the place that was unpacked to."""
    ways = {DEEP.rsplit("/", n)[0].encode() for n in range(DEEP.count("/") + 1)}
    for path in compare.of_directory(within):
        if path not in ways and path != compare.ROOT and not path.startswith(DEEP.encode() + b"/"):
            yield path


def listing(top: Path) -> dict[bytes, Facts]:
    """What a directory holds. Files above ``LARGEST`` have their size only, as a TiB of holes takes too long to read."""
    large = dict(_large(os.fsencode(top)))
    for path, status in large.items():
        os.truncate(path, 0)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    sizes = {os.path.relpath(path, os.fsencode(top)): status.st_size for path, status in large.items()}
    found = compare.of_directory(top)
    return {name: replace(facts, size=sizes[name], digest="") if name in sizes else facts for name, facts in found.items()}


def _large(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    for directory, _, names in os.walk(top):
        for path in (os.path.join(directory, name) for name in names):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size > LARGEST:
                yield path, status
