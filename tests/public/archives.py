"""The archives of the test suites of CPython, Go, libarchive and Commons Compress, as Debian 12 packages them.

``fetch.sh`` fills the directory that ``RECONCILER_TEST_ARCHIVES`` names. GNU tar 1.34's own suite holds no archive: its tests
write them (``tests/fidelity/writers.py`` does the same). State: none.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

VARIABLE = "RECONCILER_TEST_ARCHIVES"
PROGRAMS = {".Z": "gzip", ".xz": "xz", ".txz": "xz", ".bz2": "bzip2", ".tbz": "bzip2"}
"""What decompresses a tar that is judged by its content alone; what else is compressed in these ways is left out."""
HUGE = {"zip64support.tar.bz2"}
"""Tars of more than 4 GiB, left out."""
TOP = re.compile(r".*/(?:archive/tar/testdata|src/test/resources|libarchive/test|python3\.11/test)/|^[^/]*libarchive[^/]*/")
"""What is left out of an archive's path."""
PACKED_TAR = re.compile(r"\.(?:tar|pax)\.|\.t[bx]z$").search


@dataclass(frozen=True, slots=True)
class Suite:
    """``package`` is a file that ``fetch.sh`` leaves, as a pattern; ``within`` selects its members."""

    name: str
    package: str
    within: re.Pattern[str]


SUITES = (
    Suite("cpython", "libpython3.11-testsuite_3.11.2-*.deb", re.compile(r"/test/[^/]*\.tar(?:\.\w+)?$")),
    Suite("go", "golang-1.19-src_1.19.8-*.deb", re.compile(r"/archive/tar/testdata/[^/]*\.tar(?:\.\w+)?$")),
    Suite("libarchive", "libarchive_3.6.2.orig.tar.xz", re.compile(r"/(?:libarchive|tar|cpio)/test/[^/]*\.uu$")),
    Suite("compress", "libcommons-compress-java_1.22.orig.tar.xz", re.compile(r"/src/test/resources/.*\.(?:tar(?:\.\w+)?|tgz)$")),
)


@dataclass(frozen=True, slots=True)
class Public:
    suite: str
    name: str
    content: bytes

    @property
    def title(self) -> str:
        return f"{self.suite}/{self.name}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]


@cache
def archives(directory: Path) -> tuple[Public, ...]:
    """Every archive, in a stable order. Raises FileNotFoundError where a package is missing."""
    return tuple(found for suite in SUITES for found in sorted(_of(suite, directory), key=lambda one: one.name))


def _of(suite: Suite, directory: Path) -> Iterator[Public]:
    package = next(iter(sorted(directory.glob(suite.package))), None)
    if package is None:
        raise FileNotFoundError(f"{directory} has no {suite.package}; run tests/public/fetch.sh {directory}")
    for path, content in _members(package, suite.within):
        name = TOP.sub("", path)
        if name.endswith(".uu"):
            name, content = name.removesuffix(".uu"), uudecoded(content)
        program = next((PROGRAMS[end] for end in PROGRAMS if name.endswith(end)), None)
        if program is None:
            yield Public(suite.name, name, content)
        elif PACKED_TAR(name) and name not in HUGE:
            done = subprocess.run([program, "-dc"], input=content, capture_output=True, check=True)
            yield Public(suite.name, name, done.stdout)


def _members(package: Path, within: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    command = ["dpkg-deb", "--fsys-tarfile", package] if package.suffix == ".deb" else ["xz", "-dc", package]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
            for member in tar:
                if member.isfile() and within.search(member.name):
                    opened = tar.extractfile(member)
                    assert opened is not None
                    yield member.name, opened.read()
        assert unpacking.stdout is not None
        while unpacking.stdout.read(1 << 20):
            pass
    assert unpacking.returncode == 0, command


def uudecoded(text: bytes) -> bytes:
    """The content of the first file in a uuencoded text; comments may come before it."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(b"begin "))
    return b"".join(map(_line, takewhile(lambda line: line != b"end", lines)))


def _line(line: bytes) -> bytes:
    """The bytes of a line, whatever characters fill its last group of four, and whether or not they are there."""
    length = line[0] - 32 & 63 if line else 0
    groups = (length + 2) // 3
    return binascii.a2b_uu(bytes([32 + groups * 3]) + line[1:][: groups * 4].ljust(groups * 4))[:length]


def directory() -> Path | None:
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
