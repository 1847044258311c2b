"""Other readers of tar as witnesses: where GNU tar and bsdtar both take an archive without a word and say the same, so must we.

Used by the oracle. Only listed and read, never unpacked: nothing is written. What the two say differently of a member is nothing
that we could be wrong about; the comparison is by members in their order, field by field.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from threading import Timer

from reconciler.image.archive.member import HARDLINK

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
QUIET = "--warning=no-unknown-keyword"
"""Records that GNU tar does not know are for others, and no complaint about the archive."""

SECONDS = 5
MOST_PRINTED = 32 << 20
COMPARED = ("path", "type", "mode", "uid", "gid", "size", "link", "device")


@dataclass(frozen=True, slots=True)
class Listed:
    """A member as a reader tells it. ``content`` only of ours."""

    name: bytes
    type: int
    mode: int
    uid: int
    gid: int
    size: int
    link: bytes
    device: tuple[int, int]
    content: bytes = b""

    def field(self, name: str) -> object:
        if name == "path":
            return [composed(part) for part in self.name.split(b"/") if part not in (b"", b".")]
        if name == "link":
            return composed(self.link)
        if name == "size" and self.type != stat.S_IFREG:
            return 0
        if name == "mode" and self.type == HARDLINK:
            return 0
        return getattr(self, name)


def composed(name: bytes) -> bytes:
    """As bsdtar prints a name, whatever form its accents are stored in (it composes them for the terminal, not on disk)."""
    return unicodedata.normalize("NFC", name.decode(errors="surrogateescape")).encode(errors="surrogateescape")


class Unreadable(Exception):
    """The reader complains, or its listing can't be told apart."""


@cache
def installed() -> bool:
    return all(shutil.which(program, path=ENVIRONMENT["PATH"]) for program in ("tar", "bsdtar"))


def compare(tar: Path, ours: Sequence[Listed]) -> str:
    """``agree``; ``theirs differ: …``, or ``ambiguous: …`` where they don't even see the same names; ``one refuses: …``;
    ``ours differs: …``; or why there is nothing to compare.
    """
    if not installed():
        return "not installed"
    try:
        gnu = of_gnu(tar)
        bsd = of_bsd(tar, gnu)
        contents = {_said("tar", "-xOPf", str(tar), QUIET), _said("bsdtar", "-xOPf", str(tar))}
    except Unreadable as why:
        return f"one refuses: {why}"
    if len(gnu) != len(bsd):
        return f"ambiguous: one sees {len(gnu)} members, the other {len(bsd)}"
    if len(ours) != len(gnu):
        return f"ours differs: {len(ours)} members, and they see {len(gnu)}"
    return _compare_members(ours, gnu, bsd) or _compare_contents(ours, contents) or "agree"


def _compare_members(ours: Sequence[Listed], gnu: Sequence[Listed], bsd: Sequence[Listed]) -> str:
    differ = ""
    for own, one, other in zip(ours, gnu, bsd, strict=True):
        for name in COMPARED:
            if one.field(name) != other.field(name):
                told = f"{own.name!r}: {name} {one.field(name)!r} and {other.field(name)!r}"
                if name == "path":
                    return f"ambiguous: {told}"
                differ = differ or f"theirs differ: {told}"
            elif own.field(name) != one.field(name):
                return f"ours differs: {own.name!r}: {name} is {own.field(name)!r}, and they see {one.field(name)!r}"
    return differ


def _compare_contents(ours: Sequence[Listed], contents: set[bytes]) -> str:
    if len(contents) > 1:
        return "theirs differ: contents"
    own = b"".join(member.content for member in ours if member.type == stat.S_IFREG)
    return "" if {own} == contents else "ours differs: contents"


def _said(*command: str) -> bytes:
    """What a reader prints; no more than a few MiB of it: theirs are not our limits, and a kilobyte can be an exabyte to them."""
    with tempfile.TemporaryFile() as complaints:
        reader = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=ENVIRONMENT)
        timer = Timer(SECONDS, reader.kill)
        timer.start()
        with reader:
            assert reader.stdout is not None
            printed = reader.stdout.read(MOST_PRINTED + 1)
            if len(printed) > MOST_PRINTED:
                reader.kill()
            code = reader.wait()
        timer.cancel()
        complaints.seek(0)
        complaint = complaints.read(500).decode(errors="replace").strip()
    if code or complaint:
        raise Unreadable(f"{command[0]}: {complaint or f'ends with {code}'}")
    return printed


# ------------------------------------------------------------------------------------------------------- GNU tar

_QUOTED = rb'"((?:[^"\\]|\\.)*)"'
_gnu_line = re.compile(
    rb"(.)([-rwxsStT]{9})[.+@]?\s+(\d+)/(\d+)\s+(\d+|\d+,\d+)\s+\S+ \S+ "
    + _QUOTED
    + rb"(?: -> "
    + _QUOTED
    + rb"| link to "
    + _QUOTED
    + rb")?"
).fullmatch
_escapes = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_CONTROLS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_KINDS = {
    b"-": stat.S_IFREG,
    b"C": stat.S_IFREG,
    b"d": stat.S_IFDIR,
    b"l": stat.S_IFLNK,
    b"h": HARDLINK,
    b"c": stat.S_IFCHR,
    b"b": stat.S_IFBLK,
    b"p": stat.S_IFIFO,
}
_VOLUME = b"V"


def of_gnu(tar: Path) -> list[Listed]:
    said = _said("tar", "-tvvPf", str(tar), QUIET, "--numeric-owner", "--full-time", "--quoting-style=c")
    return [_gnu_member(line) for line in said.splitlines() if not line.startswith(_VOLUME)]


def _gnu_member(line: bytes) -> Listed:
    found = _gnu_line(line)
    if not found or found[1] not in _KINDS:
        raise Unreadable(f"tar lists {line[:100]!r}")
    kind, mode, uid, gid, size, name, target, other = found.groups(b"")
    return _member(_KINDS[kind], mode, (uid, gid), size, _unescaped(name), _unescaped(target or other))


def _unescaped(text: bytes) -> bytes:
    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _CONTROLS.get(code, code)

    return _escapes.sub(plain, text)


def _member(kind: int, mode: bytes, owner: tuple[bytes, bytes], size: bytes, name: bytes, link: bytes) -> Listed:
    major, comma, minor = size.partition(b",")
    device = (int(major), int(minor)) if comma else (0, 0)
    return Listed(name, kind, _bits(mode), int(owner[0]), int(owner[1]), 0 if comma else int(size), link, device)


def _bits(text: bytes) -> int:
    """``rwxr-sr-t`` as a number."""
    bits = 0
    for at, sign in enumerate(text):
        letter = chr(sign)
        if letter in "rwxst":
            bits |= 1 << (8 - at)
        if letter in "sStT":
            bits |= (0o4000, 0o2000, 0o1000)[at // 3]
    return bits


# -------------------------------------------------------------------------------------------------------- bsdtar

_bsd_line = re.compile(
    rb"(.)([-rwxsStT]{9})[ +@]?\s+\d+\s+(\d+)\s+(\d+)\s+(\d+|\d+,\d+)\s+(?:\w{3}\s+\d+\s+[\d:]+|-?\d+) (.*)", re.DOTALL
).fullmatch


_BSD_MARKS = {b"l": b" -> ", b"h": b" link to "}
"""What is between a name and its target: only of links, since a file may be named so."""


def of_bsd(tar: Path, gnu: Sequence[Listed]) -> list[Listed]:
    """The members as bsdtar lists them; ``gnu`` are GNU tar's, whose names are quoted."""
    said = _said("bsdtar", "-tvPf", str(tar), "--numeric-owner")
    lines = [line for line in said.split(b"\n") if line]
    return [_bsd_member(line, other) for line, other in zip_longest(lines, gnu[: len(lines)])]


def _bsd_member(line: bytes, other: Listed | None) -> Listed:
    found = _bsd_line(line)
    if not found or found[1] not in _KINDS:
        raise Unreadable(f"bsdtar lists {line[:100]!r}")
    kind, mode, uid, gid, size, rest = found.groups()
    # A hard link with a size, or a type among its mode's bits, is listed with that type, in the words of a file that is named so.
    if (
        kind not in _BSD_MARKS
        and other
        and other.type == HARDLINK
        and _unescaped(rest) == other.name + _BSD_MARKS[b"h"] + other.link
    ):
        kind = b"h"
    name, link = rest, b""
    if mark := _BSD_MARKS.get(kind):
        if rest.count(mark) != 1:
            raise Unreadable("bsdtar lists a name that can't be told from its target")
        name, _, link = rest.partition(mark)
    return _member(_KINDS[kind], mode, (uid, gid), size, _unescaped(name), _unescaped(link))
