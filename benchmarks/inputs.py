"""What benchmarks unpack: a whole root file system and very many small files, plain and compressed. Made once, then kept.

They lie in ``.benchmarks/inputs``. The root file system is the tar that ``RECONCILER_BENCH_ROOTFS`` names, or a Debian of
mmdebstrap where that is installed and works, or copies of this machine's Python under many names.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from samples import layers as samples

DIRECTORY = Path(__file__).resolve().parent.parent / ".benchmarks" / "inputs"
INPUTS = ("root", "small-files")
COMPRESSIONS = ("plain", "gzip", "zstd")
SMALL_FILES = 50_000
COPIES = 25
"""Of Python's standard library: about 20,000 files."""


def get(name: str, compression: str) -> Path:
    """The path of an input; making it may take minutes the first time."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    plain = {"root": root, "small-files": small_files}[name]()
    if compression == "plain":
        return plain
    suffix, write = {"gzip": (".gz", _gzip), "zstd": (".zst", _zstd)}[compression]
    return _once(DIRECTORY / f"{name}.tar{suffix}", lambda draft: write(plain, draft))


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    if not path.exists():
        draft = path.with_name(f".{path.name}")
        write(draft)
        draft.rename(path)
    return path


def root() -> Path:
    given = os.environ.get("RECONCILER_BENCH_ROOTFS")
    if given:
        return Path(given)
    debian, copies = DIRECTORY / "debian.tar", DIRECTORY / "copies.tar"
    if not debian.exists() and not copies.exists() and shutil.which("mmdebstrap"):
        try:
            return _once(debian, samples.debian)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"no Debian ({error}): copies of Python instead", file=sys.stderr)
    return debian if debian.exists() else _once(copies, lambda path: samples.pack(path, _copies()))


def _copies() -> Iterator[samples.Entry]:
    yield from samples.base()
    library = Path(sysconfig.get_path("stdlib"))
    for number in range(COPIES):
        yield from samples.tree(library, f"opt/{number}/lib/python")


def small_files() -> Path:
    return _once(DIRECTORY / "small-files.tar", lambda path: samples.pack(path, _small_files()))


def _small_files() -> Iterator[samples.Entry]:
    """Sizes as in a source tree: most below a block, some a few; the bytes compress about as text does."""
    chosen = random.Random(1)
    text = bytes(chosen.choices(b"etaoin shrdlu\n", k=8_000_000))
    for number in range(SMALL_FILES):
        if number % 100 == 0:
            yield samples.folder(f"d{number // 100:03d}")
        start, length = chosen.randrange(7_900_000), min(int(chosen.expovariate(1 / 1500)), 10_000)
        yield samples.file(f"d{number // 100:03d}/file-{number:05d}.txt", text[start : start + length])


def _gzip(plain: Path, target: Path) -> None:
    with target.open("wb") as out:
        subprocess.run(["gzip", "-6nc", str(plain)], stdout=out, check=True)


def _zstd(plain: Path, target: Path) -> None:
    import zstandard

    with plain.open("rb") as source, target.open("wb") as out:
        zstandard.ZstdCompressor(level=3, write_checksum=True).copy_stream(source, out)
