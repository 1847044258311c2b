"""An archive as ours, GNU tar, bsdtar, Python and Go read it, and what they read differently. State: the program in Go."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.spec import Limits
from tests.hostile.here import Bench
from tests.support import compare, peers
from tests.support.compare import Facts

GO = "Go"
LIMITS = Limits(max_unpacked_bytes=64 << 20, max_file_bytes=32 << 20)
IGNORED = ("mode", "uid", "gid", "mtime", "data", "xattrs")
"""What is compared elsewhere (``tests.fuzz``, ``tests.fidelity``): here it is names, types, contents, targets and hard links."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader made of an archive; ``error`` is its complaint, empty where it had none."""

    tree: Mapping[bytes, Facts]
    error: str = ""


@cache
def go_program() -> Path | None:
    """The reader in Go, compiled once; None where Go is not installed."""
    compiler = shutil.which("go")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="go-reader-"))
    source = Path(__file__).with_name("reader.go")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(made), "GOFLAGS": "-mod=mod", "GO111MODULE": "off"}
    subprocess.run([compiler, "build", "-o", made / "reader", source], check=True, env=environment, capture_output=True)
    return made / "reader"


def available() -> tuple[str, ...]:
    """The readers besides ours that are installed."""
    found = [name for name in ("GNU tar", "bsdtar", "tar") if peers.version(name)]
    return (*found, GO) if go_program() else tuple(found)


def ours(archive: bytes) -> Reading:
    bench = Bench(LIMITS)
    try:
        bench.apply(archive)
    except (LayerRefused, LayerCorrupt) as error:
        return Reading({}, str(error))
    return Reading(bench.finish())


def theirs(reader: str, archive: bytes) -> Reading:
    if reader == GO:
        return _go(archive)
    found = peers.unpack(reader, archive)
    return Reading(found.tree, found.said or f"exit code {found.code}" if found.complained else "")


def _go(archive: bytes) -> Reading:
    program = go_program()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="go-") as made:
        path, top = Path(made) / "archive", Path(made) / "top"
        path.write_bytes(archive)
        top.mkdir()
        done = subprocess.run([program, path, top], capture_output=True, text=True, errors="backslashreplace", check=False)
        return Reading(compare.of_directory(top), done.stderr if done.returncode else "")


def disagreements(archive: bytes, readers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(reader, difference) for each reader that takes without a complaint what ours accepts, and makes another tree of it."""
    own = ours(archive)
    if own.error:
        return
    for reader in readers:
        found = theirs(reader, archive)
        if found.error:
            continue
        for line in compare.differences(_plain(own.tree), _plain(found.tree), ignoring=IGNORED, most=3):
            yield reader, line


def _plain(tree: Mapping[bytes, Facts]) -> dict[bytes, Facts]:
    """Without the root, and without the size of directories."""
    return {name: facts for name, facts in tree.items() if name != compare.ROOT and not stat.S_ISSOCK(facts.kind)}
