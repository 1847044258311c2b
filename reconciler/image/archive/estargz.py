"""eStargz: a gzip layer that also is an index of itself. Where its own files are, which are no part of the image.

Such a layer has a gzip member for each file. Its last member is empty; an extra field of that member names the byte at which the
member before it begins, which holds the table of contents as the last file of the tar. The stored bytes alone decide, so that a
layer gives one tree wherever it comes from. Used by ``codec`` and the builder's child. State: two positions, three files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

from reconciler.image.archive.member import Member

CONTENTS = b"stargz.index.json"
LANDMARKS = (b".prefetch.landmark", b".no.prefetch.landmark")
"""Files of the root directory that readers of such layers use and hide."""

_OWN = frozenset((CONTENTS, *LANDMARKS))
_File = TypeVar("_File")

_EXTRA = re.compile(rb"(?:SG\x16\0)?([0-9a-f]{16})STARGZ")
"""The extra field, and its older form."""


class Members:
    """Follows a gzip stream's members."""

    def __init__(self) -> None:
        self._unpacked = 0
        self._stored = 0
        self._before: tuple[int, int] | None = None
        self._found: tuple[int, int] | None = None

    def begin(self, stored: int) -> None:
        """A member begins at this stored byte."""
        self._stored = stored

    def end(self, extra: bytes, given: int, stored: int) -> None:
        """The member has ended at a stored byte, had this extra field, and gave so many bytes."""
        match = _EXTRA.fullmatch(extra)
        self._found = None
        if match and not given and self._before is not None and int(match[1], 16) == self._before[0]:
            self._found = (self._before[1], stored)
        self._before = (self._stored, self._unpacked)
        self._unpacked += given

    def contents_at(self, stored: int) -> int | None:
        """The byte of the tar at which the table of contents begins, where the member that names it ends the stored bytes."""
        if self._found is None or self._found[1] != stored:
            return None
        return self._found[0]


class Own(Generic[_File]):
    """Collects what may be the layer's own files, as its members pass: each with what the caller made of it."""

    def __init__(self) -> None:
        self._files: dict[bytes, _File] = {}
        self._last: tuple[bytes, int] = (b"", 0)

    def see(self, member: Member, made: _File | None) -> None:
        self._last = (member.name, member.offset)
        if member.name in _OWN and made is not None:
            self._files[member.name] = made

    def files(self, contents_at: int | None) -> Mapping[bytes, _File]:
        """Those that are: none unless the last member is the table of contents, at the byte that the stream names."""
        return self._files if self._last == (CONTENTS, contents_at) else {}
