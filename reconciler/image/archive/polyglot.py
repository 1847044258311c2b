"""Tars that are something else as well: a first header that also begins another format, which some readers prefer.

Called by ``tar`` with the first header of the decompressed stream. bsdtar and Python try compressions before they try tar, and
GNU tar tries them afterwards; bsdtar prefers some formats to a tar in the layout of Version 7 (by libarchive's bids). No state.
"""

from __future__ import annotations

import re

from reconciler.image.archive.member import Malformed

_COMPRESSIONS = (
    (rb"\x1f\x8b", "gzip"),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd"),
    (rb"\xfd7zXZ\0", "xz"),
    (rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)", "bzip2"),
    (rb"[\x02-\x04][\x21\x22]\x4c\x18|\x04\x22\x4d\x18", "lz4"),
    (rb"LZIP[\0\x01][\x0c-\xff]", "lzip"),
    (rb"LRZI\0", "lrzip"),
    (rb"\x89LZO\0\r\n\x1a\n", "lzop"),
    (rb"\x1f[\x9d\xa0\x1e]", "compress"),
    (rb"GRZipII\0", "grzip"),
    (rb"\xed\xab\xee\xdb", "rpm"),
    # lzma's old format has no magic: its usual first bytes, and a dictionary's size that is not 0 as behind a name of one letter
    (rb"\x5d\0\0(?!\0\0)", "lzma"),
    (rb"begin(?:-base64)? [0-7]{3,4} [^\n]{0,100}\n", "uuencode"),
)
_FORMATS = ((rb"!<arch>\n", "ar"), (rb"WARC/", "warc"), (rb"MSCF|MZ", "cab"), (rb"xar!", "xar"))


def _alternatives(forms: tuple[tuple[bytes, str], ...]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), pattern) for pattern, name in forms), re.DOTALL)


_compressed, _formatted = _alternatives(_COMPRESSIONS), _alternatives(_FORMATS)


def check(block: bytes) -> None:
    """Raises Malformed (``polyglot``) where the first header also begins a compressed stream or an archive of another format."""
    found = _compressed.match(block)
    if found is None and block[257:262] != b"ustar":
        found = _formatted.match(block)
    if found:
        message = f"the layer is a tar and begins as {found.lastgroup}, too: readers disagree on which it is"
        raise Malformed("polyglot", message)
