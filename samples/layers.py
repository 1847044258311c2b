"""Real layered root filesystems, made in seconds from the files of this machine, without root or network.

    base     a Debian-like skeleton: merged /usr, accounts, device nodes, a setuid file, hard links, an extended attribute
    python   the interpreter and its standard library, as installed here
    tools    this project's own S3 client and its data, as installed here
    slim     whiteouts: removes the interpreter's unit test framework and most of the S3 client's data

``make`` writes them once; on one machine the same input gives the same bytes. Used by the quickstart, tests and benchmarks.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any

IMAGES: Mapping[str, tuple[str, ...]] = {
    "python": ("base.tar", "python.tar.gz"),
    "tools": ("base.tar", "python.tar.gz", "tools.tar.zst"),
    "slim": ("base.tar", "python.tar.gz", "tools.tar.zst", "slim.tar.gz"),
}
"""The layers of each sample image, from the bottom; they share the lower ones."""

DEBIAN = "debian.tar"
DEBIAN_PACKAGES = "golang-go,python3,gcc"

WHEN = 1_700_000_000
"""The mtime of all members that are no files of this machine."""

LIBRARY = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = "usr/lib/python3/dist-packages"
TOOLS = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "urllib3")
LEFT_OUT = ("__pycache__", "site-packages", "dist-packages", "test", "tests", "config-*")
"""Caches, test suites, other packages, and what only programs need that link with the interpreter."""

Entry = tuple[tarfile.TarInfo, Path | bytes | None]
"""A member, and its data: a file of this machine, bytes, or none."""


def make(directory: Path, *, full: bool = False) -> Mapping[str, Path]:
    """Writes the missing layers. Returns all, by file name. ``full`` adds a whole Debian, which needs mmdebstrap."""
    directory.mkdir(parents=True, exist_ok=True)
    layers: dict[str, Callable[[Path], None]] = {
        "base.tar": lambda path: pack(path, base()),
        "python.tar.gz": lambda path: pack(path, python()),
        "tools.tar.zst": lambda path: pack(path, tools()),
        "slim.tar.gz": lambda path: pack(path, slim()),
    }
    if full:
        layers[DEBIAN] = debian
    for name, write in layers.items():
        if not (directory / name).exists():
            draft = directory / f".{name}"
            write(draft)
            draft.rename(directory / name)
    return {name: directory / name for name in layers}


# ------------------------------------------------------------------------------------------------------- tars


def pack(path: Path, entries: Iterable[Entry]) -> None:
    """Writes a tar, compressed by its suffix."""
    with compressed(path) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for member, data in entries:
            if isinstance(data, Path):
                with data.open("rb") as content:
                    tar.addfile(member, content)
            else:
                tar.addfile(member, BytesIO(data or b""))


@contextmanager
def compressed(path: Path) -> Iterator[Any]:
    with path.open("wb") as plain:
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) as packed:
                yield packed
        elif path.suffix == ".zst":
            import zstandard

            with zstandard.ZstdCompressor(level=6).stream_writer(plain, closefd=False) as packed:
                yield packed
        else:
            yield plain


def entry(name: str, kind: bytes, mode: int, *, link: str = "", device: tuple[int, int] = (0, 0), uid: int = 0) -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.mtime = kind, mode, link, WHEN
    member.devmajor, member.devminor = device
    member.uid = member.gid = uid
    return member, None


def folder(name: str, mode: int = 0o755, uid: int = 0) -> Entry:
    return entry(name, tarfile.DIRTYPE, mode, uid=uid)


def symlink(name: str, target: str) -> Entry:
    return entry(name, tarfile.SYMTYPE, 0o777, link=target)


def file(name: str, content: str | bytes, mode: int = 0o644, **xattrs: bytes) -> Entry:
    """``xattrs`` are named as Python can: ``user__comment`` for user.comment."""
    member, _ = entry(name, tarfile.REGTYPE, mode)
    data = content.encode() if isinstance(content, str) else content
    member.size = len(data)
    member.pax_headers = {f"SCHILY.xattr.{key.replace('__', '.')}": value.decode() for key, value in xattrs.items()}
    return member, data


def parents(path: str) -> Iterator[Entry]:
    """The directories above a path, from the top."""
    above = Path(path).parents
    yield from (folder(str(directory)) for directory in reversed(above) if directory.name)


def tree(source: Path, target: str) -> Iterator[Entry]:
    """A tree of this machine under another name, sorted, owned by root, without caches and test suites."""
    yield from parents(f"{target}/_")
    for at, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not any(fnmatch(name, pattern) for pattern in LEFT_OUT))
        for name in sorted([*folders, *files]):
            path = Path(at, name)
            yield as_it_is(path, f"{target}/{path.relative_to(source)}")


def as_it_is(path: Path, name: str) -> Entry:
    """One file, directory or link of this machine: its mode, size, target, and mtime to the nanosecond."""
    status = path.lstat()
    kind = tarfile.SYMTYPE if path.is_symlink() else tarfile.DIRTYPE if path.is_dir() else tarfile.REGTYPE
    member, _ = entry(name, kind, status.st_mode & 0o7777, link=str(path.readlink()) if path.is_symlink() else "")
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    member.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09d}"}
    if kind != tarfile.REGTYPE:
        return member, None
    member.size = status.st_size
    return member, path


# ----------------------------------------------------------------------------------------------------- layers


TOP = ("dev", "etc", "home", "mnt", "opt", "proc", "run", "srv", "sys", "usr", "var")
USR = ("bin", "lib", "lib64", "local", "sbin", "share")
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
user:x:1000:1000::/home/user:/bin/sh
nobody:x:65534:65534::/:/sbin/nologin
"""


def base() -> Iterator[Entry]:
    """What every root filesystem begins with."""
    yield from (folder(name) for name in (*TOP, *(f"usr/{name}" for name in USR)))
    yield from (symlink(name, f"usr/{name}") for name in ("bin", "lib", "lib64", "sbin"))
    yield from (folder("root", 0o700), folder("home/user", 0o750, uid=1000), folder("var/log", 0o2775))
    yield from (folder("tmp", 0o1777), folder("var/tmp", 0o1777))
    yield from (symlink("var/run", "/run"), symlink("etc/mtab", "../proc/self/mounts"))
    yield from devices()
    yield from accounts()
    yield from programs()


def devices() -> Iterator[Entry]:
    yield entry("dev/console", tarfile.CHRTYPE, 0o600, device=(5, 1))
    yield entry("dev/null", tarfile.CHRTYPE, 0o666, device=(1, 3))
    yield entry("dev/zero", tarfile.CHRTYPE, 0o666, device=(1, 5))
    yield entry("dev/initctl", tarfile.FIFOTYPE, 0o600)


def accounts() -> Iterator[Entry]:
    yield file("etc/passwd", PASSWD)
    yield file("etc/group", "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n")
    yield file("etc/shadow", "root:*:19000:0:99999:7:::\n", 0o640)
    yield file("etc/hostname", "sample\n")
    yield file("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    yield file("usr/lib/os-release", 'ID=sample\nPRETTY_NAME="A sample root filesystem"\nVERSION_ID=1\n')
    yield symlink("etc/os-release", "../usr/lib/os-release")


def programs() -> Iterator[Entry]:
    """One of each kind that is hard for an image builder: setuid, capability, hard link, extended attribute."""
    yield file("usr/bin/gain", "#!/bin/sh\nexec id\n", 0o4755)
    yield file("usr/bin/ping", "#!/bin/sh\n", 0o755, security__capability=b"\1\0\0\2\0\x20" + bytes(14))
    yield file("usr/bin/again", "#!/bin/sh\necho again\n", 0o755)
    yield entry("usr/bin/once-more", tarfile.LNKTYPE, 0o755, link="usr/bin/again")
    yield file("usr/share/motd", "Made on the spot.\n", user__comment=b"an extended attribute")


def python() -> Iterator[Entry]:
    """The running interpreter and its standard library."""
    version = Path(LIBRARY).name
    yield from parents(f"usr/bin/{version}")
    yield as_it_is(Path(sys.executable).resolve(), f"usr/bin/{version}")
    yield from (symlink("usr/bin/python3", version), symlink("usr/bin/python", "python3"))
    yield from tree(Path(sysconfig.get_path("stdlib")), LIBRARY)


def tools() -> Iterator[Entry]:
    """The S3 client that this project uses, with a command that lists buckets."""
    for name in TOOLS:
        found = importlib.util.find_spec(name)
        assert found is not None and found.submodule_search_locations, f"{name} is not installed"
        yield from tree(Path(found.submodule_search_locations[0]), f"{PACKAGES}/{name}")
    listing = "import boto3\nfor bucket in boto3.client('s3').list_buckets()['Buckets']:\n    print(bucket['Name'])\n"
    yield from parents("usr/local/bin/buckets")
    yield file("usr/local/bin/buckets", f"#!/usr/bin/python3\n{listing}", 0o755)


def slim() -> Iterator[Entry]:
    """Removes what an image does not need to list buckets, and replaces some of it (OCI image spec, whiteouts)."""
    data = f"{PACKAGES}/botocore/data"
    yield from parents(f"{LIBRARY}/_")
    yield file(f"{LIBRARY}/.wh.unittest", b"")
    yield file(f"{LIBRARY}/.wh.pydoc.py", b"")
    yield from parents(f"{data}/_")
    yield file(f"{data}/.wh..wh..opq", b"")
    found = importlib.util.find_spec("botocore")
    assert found is not None and found.submodule_search_locations
    kept = Path(found.submodule_search_locations[0]) / "data"
    yield from (as_it_is(path, f"{data}/{path.name}") for path in sorted(kept.iterdir()) if path.is_file())
    yield folder(f"{data}/s3")
    yield from (member for member in tree(kept / "s3", f"{data}/s3") if member[0].name.startswith(f"{data}/s3/"))
    yield from parents("etc/hostname")
    yield file("etc/hostname", "slim\n")
    yield from parents("usr/bin/once-more")
    yield symlink("usr/bin/once-more", "again")


def debian(path: Path) -> None:
    """A whole Debian with compilers, some 860 MB. Needs mmdebstrap, the network and a minute or two."""
    program = shutil.which("mmdebstrap")
    if program is None:
        raise SystemExit("the full-size variant needs mmdebstrap: apt-get install mmdebstrap")
    command = [program, "--quiet", "--format=tar", f"--include={DEBIAN_PACKAGES}", "bookworm", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(WHEN)})
