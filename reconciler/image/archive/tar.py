"""Strict tar reader: a decompressed stream to members, each final, or an error; nothing is ever skipped or guessed.

Driven by the builder: ask for a member, read its data, ask for the next. Understands ustar, pax, GNU and V7 headers as GNU tar,
bsdtar, Python, Go and container tools write them; where readers disagree on what an archive means, it is refused.
State: the place in the stream, and the headers that wait for their member.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from reconciler.dataclass import dataclass
from reconciler.errors import LayerCorrupt
from reconciler.image.archive import header, pax, polyglot, sparse
from reconciler.image.archive.blocks import Blocks, Chunks
from reconciler.image.archive.framing import not_a_tar
from reconciler.image.archive.header import BLOCK
from reconciler.image.archive.member import HARDLINK, Malformed, Member
from reconciler.image.spec import UNMARKED, Limits

OCTAL_SIZES = 8**11
"""Sizes from here on need an extended header. Python looks for what follows a sparse file with one at another place."""

MAX_PENDING = 8
"""Headers that may precede one member."""

_T = TypeVar("_T")
_ZEROS = bytes(BLOCK)
_GNU_NAME, _GNU_LINK, _PAX, _PAX_GLOBAL, _VOLUME = b"LKxgV"
_REFUSED = {
    ord("D"): "GNU directory listings (incremental dumps)",
    ord("M"): "continued files (multi-volume archives)",
    ord("N"): "GNU's old long names",
    ord("A"): "Solaris ACLs",
    ord("E"): "Solaris extended attributes",
    ord("I"): "inodes without names",
    ord("X"): "Sun's draft of extended headers",
}


@dataclass(slots=True)
class _Pending:
    """What the headers in front of a member set for it."""

    headers: int = 0
    size: int = 0
    name: bytes | None = None
    link: bytes | None = None
    pax: pax.Overrides | None = None

    @property
    def awaits_member(self) -> bool:
        return self.name is not None or self.link is not None or self.pax is not None


class Reader:
    """The members of a tar in its order, each once. Iterate; between two members, ``data`` gives the data of the first.

    Raises LayerRefused (a rule, the member, the byte where its header begins) and LayerCorrupt (cut short, or damaged).
    The end of the iteration means that the end marker was there, nothing but zeros behind it, and the stream whole. ``seek``
    moves the stream to a byte, so that data which is not asked for is not read. ``strict``: plain members get no shorter way.
    """

    def __init__(
        self,
        stream: Chunks,
        limits: Limits | None = None,
        seek: Callable[[int], None] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self._strict = strict
        self._blocks = Blocks(stream, seek)
        self._limits = limits or Limits()
        self._resume = 0
        self._offset = 0
        self._block = b""
        self._data_end = 0
        self._pax_seen = False
        self._sized_link = False

    def __iter__(self) -> Iterator[Member]:
        try:
            while (member := self._next()) is not None:
                yield member
        except Malformed as broken:
            raise broken.refusal(header.text(self._block[:100]), self._offset) from None

    def data(self, member: Member) -> Iterable[memoryview]:
        """The data of the member given last, exactly its ``stored`` bytes, in order, as few pieces as there are; once.

        A piece is a view of an immutable chunk: it stays valid, and keeps up to 1 MiB alive, for as long as it is held.
        What is not read is passed over.
        """
        left = self._data_end - self._blocks.offset
        if member.offset != self._offset or left != member.stored:
            raise ValueError("the data of a member can be read once, before the next member is asked for")
        if not left:
            return ()
        whole = self._blocks.view(left)
        return self._blocks.pieces(left) if whole is None else (whole,)

    @property
    def data_at(self) -> int:
        """Byte of the stream where the data of the member given last begins."""
        return self._blocks.offset

    @property
    def block(self) -> bytes:
        """The header block of the member given last."""
        return self._block

    @property
    def end(self) -> int:
        """Byte of the stream behind that member, where the next header has to be."""
        return self._resume

    # ------------------------------------------------------------------------------------------------ headers

    def _plain(self) -> Member | None:
        """The next member where it is plain, which takes less time; else None, and nothing has been taken."""
        blocks, offset = self._blocks, self._resume
        block = blocks.peek(offset)
        if len(block) != BLOCK or not offset or self._sized_link:
            return None
        kind = header.plain_type(block)
        if kind is None:
            return None
        blocks.take_peeked(offset)
        self._offset, self._block = offset, block
        return self._placed(header.parse(block, kind, offset), block)

    def _next(self) -> Member | None:
        if not self._strict and (member := self._plain()) is not None:
            return member
        blocks = self._blocks
        pending: _Pending | None = None
        while True:
            blocks.skip_to(self._resume)
            self._offset = offset = blocks.offset
            self._block = block = self._header()
            if block == _ZEROS or not block:
                self._check_sized_link(block)
                self._finish(pending)
                return None
            if not header.checksum_holds(block):
                raise _not_a_header(offset, block)
            if not offset:
                polyglot.check(block)
            self._check_sized_link(block)
            kind = header.TYPES.get(block[156])
            if kind is not None:
                return self._member(block, kind, pending)
            pending = self._extension(block, pending or _Pending())

    def _header(self) -> bytes:
        """The next block; nothing where the tar may end here without its marker."""
        block = self._blocks.block_or_end()
        if not block and self._limits.missing_end_marker == "refuse":
            raise LayerCorrupt(
                f"the tar ends at byte {self._offset} without its end marker, two blocks of zeros",
                hint=UNMARKED,
            )
        return block

    def _finish(self, pending: _Pending | None) -> None:
        if pending and pending.awaits_member:
            raise Malformed("dangling-header", "an extended header or long name has no member behind it")
        self._offset += BLOCK
        if self._header() not in (_ZEROS, b""):
            raise Malformed("lone-zero-block", "a single block of zeros is followed by something else")
        if not self._blocks.rest_is_zero():
            if self._limits.trailing_data == "refuse":
                raise Malformed("trailing-data", "something follows the tar's end marker (limits.trailingData)")
            self._blocks.read_out()

    def _extension(self, block: bytes, pending: _Pending) -> _Pending:
        flag = block[156]
        payload = self._payload(block, flag, pending)
        self._pax_seen |= flag in (_PAX, _PAX_GLOBAL)
        if flag == _GNU_NAME:
            pending.name = _once(pending.name, _long_name(payload))
        elif flag == _GNU_LINK:
            pending.link = _once(pending.link, _long_name(payload))
        elif flag == _PAX:
            pending.pax = _once(pending.pax, pax.overrides(pax.records(payload)))
        elif flag == _PAX_GLOBAL:
            if pending.awaits_member:
                raise Malformed("pax-global", "a global header is between an extended header and its member: Go drops the first")
            pax.check_global(pax.records(payload))
        elif pending.awaits_member or payload:
            raise Malformed("volume-label", "a volume label has data, or is between an extended header and its member")
        return pending

    def _payload(self, block: bytes, flag: int, pending: _Pending) -> bytes:
        if flag not in b"LKxgV":
            raise Malformed("typeflag", f"members of type {chr(flag)!r} are not supported: {_REFUSED.get(flag, 'unknown')}")
        if flag in b"LKx" and not block[257:262] == b"ustar":
            raise Malformed("version-7", "an extended header or long name has the layout of Version 7, which has none")
        size = header.unsigned(block[124:136])
        pending.headers += 1
        pending.size += size
        if pending.headers > MAX_PENDING:
            raise Malformed("limit-metadata", f"more than {MAX_PENDING} headers precede one member")
        if pending.size > self._limits.max_metadata_bytes:
            most = self._limits.max_metadata_bytes
            raise Malformed("limit-metadata", f"more than {most} bytes of headers for one member (limits.maxMetadataBytes)")
        stored = self._blocks.take(_padded(size))
        self._resume = self._blocks.offset
        payload = stored[:size]
        if flag in b"LK" and not payload.endswith(b"\0") and stored[size : size + 1].strip(b"\0"):
            # GNU tar reads on to the first NUL, wherever it is; the others stop at the size.
            raise Malformed("long-name", "a long name does not end where its header states")
        return payload

    # ------------------------------------------------------------------------------------------------ members

    def _member(self, block: bytes, kind: int, pending: _Pending | None) -> Member:
        header.check_layout(block)
        member = header.parse(block, kind, self._offset)
        if pending:
            self._override(member, block, pending)
        if block[156] == header.OLD_GNU_SPARSE:
            self._read_old_sparse(member, block)
        return self._placed(member, block)

    def _placed(self, member: Member, block: bytes) -> Member:
        """The member, with what follows from its type and size: where its data ends, and where the next header is."""
        self._pax_seen &= not header.is_gnu(block)
        if member.type == stat.S_IFREG:
            if member.name.endswith(b"/"):
                _become_directory(member)
            self._data_end = self._blocks.offset + member.stored
            self._resume = _padded(self._data_end)
        else:
            if header.number(block[124:136]):
                self._check_size_without_data(member, block)
            self._data_end = self._resume = self._blocks.offset
        return member

    def _check_size_without_data(self, member: Member, block: bytes) -> None:
        """A directory's size means nothing to any reader. Behind a hard link with a size bsdtar expects data, unless the link has
        the layout of GNU or Version 7, or no extended header came before it and it and what follows are plain POSIX headers."""
        if member.type == stat.S_IFDIR or (member.type == HARDLINK and block[257:263] != b"ustar\0"):
            return
        if member.type != HARDLINK or self._pax_seen or block[263:265] != b"00":
            raise Malformed("size-of-type", "a member that has no data has a size: readers disagree on what follows it")
        self._sized_link = True

    def _check_sized_link(self, following: bytes) -> None:
        at_end = following in (b"", _ZEROS) and self._limits.trailing_data == "refuse"
        if self._sized_link and not at_end and following[257:265] not in (b"ustar\x0000", b"ustar  \0"):
            raise Malformed("size-of-type", "a hard link before this has a size: readers disagree on what follows it")
        self._sized_link = False

    def _override(self, member: Member, block: bytes, pending: _Pending) -> None:
        extended = pending.pax
        if extended is not None:
            if block[257:262] != b"ustar":
                raise Malformed("version-7", "an extended header precedes a member in the layout of Version 7")
            extended.apply(member)
            self._resize(member, block, extended)
            if extended.sparse:
                self._read_pax_sparse(member, block, extended)
        member.name = _named(pending.name, extended.path if extended else None, member.name)
        link = _named(pending.link, extended.linkpath if extended else None, member.linkname)
        if member.type in (HARDLINK, stat.S_IFLNK):
            member.linkname = link

    def _resize(self, member: Member, block: bytes, extended: pax.Overrides) -> None:
        size = extended.size
        if size is None:
            return
        if member.type == stat.S_IFREG:
            if block[156] == header.OLD_GNU_SPARSE:
                raise Malformed("sparse-map", "an extended header gives a size to a file of GNU's old sparse format")
            member.size = member.stored = size
        elif size:
            raise Malformed("size-of-type", "an extended header gives a size to a member that has no data")

    # ----------------------------------------------------------------------------------------------- sparse

    def _read_old_sparse(self, member: Member, block: bytes) -> None:
        if not header.is_gnu(block):
            raise Malformed("sparse-map", "a sparse file's header does not have GNU's layout")
        member.size, member.segments = sparse.old_gnu(block, self._blocks.block)
        sparse.check(member.segments, member.size, member.stored)

    def _read_pax_sparse(self, member: Member, block: bytes, extended: pax.Overrides) -> None:
        if member.type != stat.S_IFREG or block[156] == header.OLD_GNU_SPARSE or header.is_gnu(block):
            raise Malformed("sparse-map", "a member that is not an ordinary file has a sparse file's records")
        found = sparse.from_pax(extended.sparse)
        member.segments = found.segments
        if found.segments is None:
            member.segments, taken = sparse.stored_map(_bounded(self._blocks.block, member.stored // BLOCK))
            member.stored -= taken * BLOCK
        member.size = found.size
        if found.name is not None:
            _name_sparse(extended, found.name)
        if extended.size is not None and extended.size < OCTAL_SIZES:
            raise Malformed("sparse-map", "an extended header gives a size to a sparse file that its header can hold")
        sparse.check(member.segments or [], member.size, member.stored)


def _padded(offset: int) -> int:
    return -(-offset // BLOCK) * BLOCK


def _not_a_header(offset: int, block: bytes) -> LayerCorrupt:
    if offset == 0:
        return not_a_tar(block)
    return LayerCorrupt(f"the tar is damaged: no header at byte {offset}", hint="store the layer again")


def _once(before: _T | None, now: _T) -> _T:
    if before is not None:
        raise Malformed("ambiguous", "two headers of one kind precede one member")
    return now


def _named(gnu: bytes | None, extended: bytes | None, own: bytes) -> bytes:
    """The name that wins: an override if there is one. Two are refused, even where they agree: writers use one kind."""
    if gnu is not None and extended is not None:
        raise Malformed("ambiguous", "a long name and an extended header both name one member")
    return next(name for name in (gnu, extended, own) if name is not None)


def _long_name(payload: bytes) -> bytes:
    name = payload.rstrip(b"\0")
    if not name or b"\0" in name:
        raise Malformed("long-name", "a long name is empty or contains a NUL byte")
    return name


def _become_directory(member: Member) -> None:
    """Before ustar a directory was a file whose name ends in a slash; only the final name decides."""
    if member.size or member.segments is not None:
        raise Malformed("type-of-name", f"{member.name!r} is a file with data and has a directory's name")
    member.type = stat.S_IFDIR


def _name_sparse(extended: pax.Overrides, name: bytes) -> None:
    """The real name of a sparse file; the other one is for readers without support for them."""
    if extended.path not in (None, name) and b"/GNUSparseFile." not in b"/" + (extended.path or b""):
        raise Malformed("ambiguous", "an extended header gives a sparse file two names")
    extended.values[b"path"] = name


def _bounded(take: sparse.Take, blocks: int) -> sparse.Take:
    """``take``, at most so many times."""
    left = iter(range(blocks))

    def bounded() -> bytes:
        if next(left, None) is None:
            raise Malformed("sparse-map", "a sparse file's map is longer than the file")
        return take()

    return bounded
