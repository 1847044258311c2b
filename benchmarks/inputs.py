"""What benchmarks unpack: root file systems, their stages, and very many small files; plain and compressed. Made once, then kept.

They lie in ``.benchmarks/inputs``, or where ``RECONCILER_BENCH_INPUTS`` says. Root file systems are Debians of mmdebstrap, which
keeps the packages that it has downloaded beside them; where it is missing or fails, copies of this machine's Python under many
names. ``RECONCILER_BENCH_ROOTFS`` names another tar for the large one.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from benchmarks import stages
from samples import layers as samples

DIRECTORY = Path(
    os.environ.get("RECONCILER_BENCH_INPUTS") or Path(__file__).resolve().parent.parent / ".benchmarks" / "inputs"
).absolute()
COMPRESSIONS = ("plain", "gzip", "zstd")
SUFFIXES = {"plain": "", "gzip": ".gz", "zstd": ".zst"}

SUITE = "bookworm"
STAGES = ("", "ca-certificates openssl", "python3", "gcc", "golang-go", "git", "nodejs", "openssh-client vim-tiny curl")
"""What each stage installs upon the ones before; the first one is minbase."""

DEBIANS = {
    "debian": ["--include=golang-go,python3,gcc"],
    "minbase": ["--variant=minbase"],
    "tools": ["--variant=minbase", f"--include={','.join(' '.join(STAGES).split())}"],
}
"""Options of mmdebstrap."""

IMAGES: Mapping[str, tuple[int, ...]] = {"golang": (0, 1, 2, 3, 4), "node": (0, 1, 2, 5, 6), "tools": (0, 1, 2, 3, 7)}
"""Three images of five stages, eight of them distinct."""

COPIES = {"debian": 25, "tools": 25, "minbase": 6, "quick": 3, "quick-minbase": 1}
"""Of Python's standard library, about 800 files each."""


def get(name: str, compression: str = "plain") -> Path:
    """``debian`` (860 MB), ``minbase`` (170 MB), ``quick``, ``quick-minbase`` or ``small-files-N``."""
    plain = small_files(int(name.rpartition("-")[2])) if name.startswith("small-files-") else root(name)
    return compressed(plain, compression)


def compressed(plain: Path, compression: str) -> Path:
    if compression == "plain":
        return plain
    write = {"gzip": _gzip, "zstd": _zstd}[compression]
    return _once(DIRECTORY / f"{plain.stem}.tar{SUFFIXES[compression]}", lambda draft: write(plain, draft))


def _once(path: Path, write: Callable[[Path], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        draft = path.with_name(f".{path.name}")
        write(draft)
        draft.rename(path)
    return path


def entries(tar: Path) -> int:
    """Counted once for each file, which takes seconds."""

    def count(draft: Path) -> None:
        with tarfile.open(tar) as opened:
            draft.write_text(str(sum(1 for _ in opened)))

    return int(_once(DIRECTORY / "entries" / f"{tar.name}-{tar.stat().st_size}", count).read_text())


# ---------------------------------------------------------------------------------------------- root file systems


def root(name: str) -> Path:
    if name == "debian" and (given := os.environ.get("RECONCILER_BENCH_ROOTFS")):
        return Path(given)
    copies = DIRECTORY / f"copies-{name}.tar"
    if name in DEBIANS and not copies.exists() and shutil.which("mmdebstrap"):
        try:
            return _once(DIRECTORY / f"{name}.tar", partial(_mmdebstrap, DEBIANS[name]))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"no Debian ({error}): copies of Python instead", file=sys.stderr)
    return _once(copies, lambda path: samples.pack(path, _copies(range(COPIES[name]))))


def _mmdebstrap(options: Sequence[str], target: Path | str) -> None:
    """With a cache of packages, so that one more root file system costs little network."""
    packages, inside = DIRECTORY / "packages", "/var/cache/apt/archives"
    packages.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = ["mmdebstrap", "--quiet", "--format=tar", "--skip=essential/unlink"]
    command += [f'--setup-hook=mkdir -p "$1"{inside}', f"--setup-hook=sync-in {packages} {inside}"]
    command += [*options, f"--customize-hook=sync-out {inside} {packages}", SUITE, target]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(samples.WHEN)})


def _copies(numbers: Sequence[int]) -> Iterator[samples.Entry]:
    """Each name once: tar2sqfs takes no other archive."""
    library, seen = Path(sysconfig.get_path("stdlib")), set()
    for entry in chain(samples.base(), *(samples.tree(library, f"opt/{number}/lib/python") for number in numbers)):
        if entry[0].name not in seen:
            seen.add(entry[0].name)
            yield entry


def first_bytes(name: str, limit: int) -> Path:
    """The first members of a root file system, about ``limit`` bytes of it."""
    whole = get(name)

    def write(draft: Path) -> None:
        with tarfile.open(whole) as opened:
            end = next((member.offset for member in opened if member.offset >= limit), whole.stat().st_size)
        with whole.open("rb") as source, draft.open("wb") as out:
            for at in range(0, end, 1 << 20):
                out.write(source.read(min(1 << 20, end - at)))
            out.write(bytes(1024))

    return _once(DIRECTORY / f"{whole.stem}-{limit >> 20}.tar", write)


# -------------------------------------------------------------------------------------------------------- stages


def staged(*, quick: bool = False) -> list[Path]:
    """The layers of ``IMAGES``, as gzip."""
    directory = DIRECTORY / ("stages-quick" if quick else "stages")
    plain = [directory / f"stage-{number}.tar" for number in range(len(STAGES))]
    packed = [path.with_name(f"{path.name}.gz") for path in plain]
    if not all(path.exists() for path in packed):
        directory.mkdir(parents=True, exist_ok=True)
        if quick or not shutil.which("mmdebstrap"):
            for number, path in enumerate(plain):
                samples.pack(path, samples.base() if number == 0 else _copies([number]))
        else:
            stages.cut(root("tools"), STAGES, plain)
        for path, target in zip(plain, packed, strict=True):
            _once(target, partial(_gzip, path))
            path.unlink()
    return packed


# --------------------------------------------------------------------------------------------------- small files


def small_files(count: int) -> Path:
    return _once(DIRECTORY / f"small-files-{count}.tar", lambda path: samples.pack(path, _small_files(count)))


def _small_files(count: int) -> Iterator[samples.Entry]:
    """Sizes as in a source tree: most below a block, some a few; the bytes compress about as text does."""
    chosen = random.Random(1)
    text = bytes(chosen.choices(b"etaoin shrdlu\n", k=8_000_000))
    for number in range(count):
        if number % 100 == 0:
            yield samples.folder(f"d{number // 100:04d}")
        start, length = chosen.randrange(7_900_000), min(int(chosen.expovariate(1 / 1500)), 10_000)
        yield samples.file(f"d{number // 100:04d}/file-{number:06d}.txt", text[start : start + length])


def _gzip(plain: Path, target: Path) -> None:
    with target.open("wb") as out:
        subprocess.run(["gzip", "-6nc", str(plain)], stdout=out, check=True)


def _zstd(plain: Path, target: Path) -> None:
    import zstandard

    with plain.open("rb") as source, target.open("wb") as out:
        zstandard.ZstdCompressor(level=3, write_checksum=True).copy_stream(source, out)
