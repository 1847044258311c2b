"""Differences that are known and accepted, each with the reason: docs/differences.md has an archive for each of them.

What is not here is a finding. No state.
"""

from __future__ import annotations

import io
import stat
from collections import Counter
from collections.abc import Iterator

from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.header import BLOCK, checksum_holds, is_gnu, text
from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits
from reconciler.image.tree.judge import components

LABEL = "tarfile makes an empty file of a volume label"
TIMES = "tarfile takes the access and change times of a GNU header for a prefix"
SLASH = "tarfile and Go make a file of an old directory, a file whose name ends in a slash"
BACKSLASH = "bsdtar takes a leading backslash away"
SHORT = "GNU tar ends a sparse file where its map ends"
COPIED_LINK = "tarfile makes a symlink of its own of a hard link to a symlink that leads nowhere"
OVER_FILE = "tarfile keeps a file where a directory of the same name follows"
THROUGH_LINKS = (
    "tarfile writes a second file of a name into the inode of the first, with all its hard links, through a symlink, "
    "or into a device"
)

OVER_LINK = "others put a directory in the place of a symlink to a directory that the same archive made"

OPENED = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)
"""Types of nodes that opening for writing follows, instead of replacing them."""


def explanation(archive: bytes, reader: str, line: str) -> str:
    """Why a reader differs here; empty where that is not known."""
    members = list(_reader(archive))
    names = Counter(tuple(components(member.name)) for member in members)
    linked = {tuple(components(name)) for one in members if one.type == HARDLINK for name in (one.name, one.linkname)}
    symlinks = {tuple(components(one.name)) for one in members if one.type == stat.S_IFLNK}
    directories = {tuple(components(one.name)) for one in members if one.type == stat.S_IFDIR}
    links = linked & symlinks
    linked |= {tuple(components(one.name)) for one in members if one.type in OPENED}
    headers = list(_headers(archive))
    reasons = {
        LABEL: reader == "tar" and any(block[156:157] == b"V" for block in headers),
        TIMES: reader == "tar" and any(is_gnu(block) and block[345] for block in headers),
        SLASH: reader in ("tar", "Go") and _old_directories(members, headers),
        BACKSLASH: reader == "bsdtar" and any(name and name[0].startswith(b"\\") for name in names),
        SHORT: reader == "GNU tar" and any(map(_is_short, members)),
        COPIED_LINK: reader == "tar" and "links is ()" in line and bool(links),
        OVER_FILE: reader == "tar" and any(names[name] > 1 for name in directories),
        THROUGH_LINKS: reader == "tar" and any(names[name] > 1 for name in linked),
        OVER_LINK: reader in ("GNU tar", "bsdtar", "Go") and bool(symlinks & directories),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _reader(archive: bytes) -> Reader:
    return Reader(open_stream(io.BytesIO(archive), Limits()), Limits())


def _headers(archive: bytes) -> Iterator[bytes]:
    """Each block of the archive that is a header by its checksum."""
    stream = open_stream(io.BytesIO(archive), Limits())
    tar = b"".join(iter(stream.read, b""))
    blocks = (tar[at : at + BLOCK] for at in range(0, len(tar), BLOCK))
    return (block for block in blocks if len(block) == BLOCK and checksum_holds(block))


def _old_directories(members: list[Member], headers: list[bytes]) -> bool:
    files = [block for block in headers if block[156:157] in (b"0", b"\0", b"7")]
    slashes = any(one.type == stat.S_IFDIR and one.name.endswith(b"/") for one in members)
    return bool(files) and (slashes or any(text(block[:100]).endswith(b"/") for block in files))


def _is_short(member: Member) -> bool:
    segments = member.segments
    return segments is not None and sum(segments[-1] if segments else (0, 0)) < member.size
