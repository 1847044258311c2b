"""The expected verdict of each public archive: ``verdicts.tsv``, which ``python -m tests.public`` prints; and why rules refuse.

A line has suite, name, digest of the archive, and verdict: ``accepted NAMES TREE`` (how many names, and the digest of all that is
compared of them), ``refused RULE``, or ``corrupt``. State: none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.spec import Limits
from tests.hostile.here import Bench
from tests.support.compare import LOST_AND_FOUND, Facts

from .archives import Public

TABLE = Path(__file__).with_name("verdicts.tsv")

WHY: Mapping[str, str] = {
    "ambiguous": "two headers of one kind precede one member; readers use the first or the last",
    "compression": "not gzip, zstd, xz or bzip2",
    "limit-file": "one file is larger than limits.maxFileBytes",
    "limit-metadata": "an extended header of more than 1 MiB",
    "limit-ratio": "the layer unpacks to more than 200 times its stored size",
    "lone-zero-block": "Go refuses it too; the others end at a single block of zeros or read on",
    "long-name": "a NUL in a GNU long name: where the name ends depends on the reader",
    "magic": "a prefix in a header that has none; Python and Go use it",
    "name": "a member without a name",
    "name-climbs": "a name with ..",
    "number": "not a number; or one behind NULs, as AIX writes it, which GNU tar and Go read and others don't",
    "owner": "owner 2^32-1, which chown(2) takes for 'unchanged'",
    "pax-global": "a global header sets a time, which GNU tar and Go apply to other members than bsdtar",
    "pax-name": "a NUL in a pax name: where the name ends depends on the reader",
    "pax-record": "a malformed pax record; only Python accepts it",
    "size-of-type": "a fifo with a size; Python and Go skip that many bytes, GNU tar and bsdtar none",
    "sparse-map": "sparse files with a pax size, with unaligned segments, or a map in another file: readers differ",
    "trailing-data": "a second archive, or junk, behind the end marker",
    "type-of-name": "a file with data whose name ends in a slash: a file or a directory, depending on the reader",
    "typeflag": "Solaris' extended headers and access control lists, and GNU's dumps; Go refuses them, too",
    "version-7": "an extended header in the layout of Version 7, which has none",
    "xattr-value": "an access control list that Linux refuses (acl(5)); bsdtar fails, too",
}
"""Why the archives here that a rule refuses are refused. A rule that is not here is a verdict that no review has seen."""


def verdict(archive: bytes) -> str:
    bench = Bench(Limits())
    try:
        bench.apply(archive)
    except LayerRefused as refused:
        return f"refused {refused.rule}"
    except LayerCorrupt:
        return "corrupt"
    tree = {name: facts for name, facts in bench.finish().items() if name != LOST_AND_FOUND}
    return f"accepted {len(tree)} {_digest(tree)}"


def _digest(tree: Mapping[bytes, Facts]) -> str:
    """Of all facts but the root's, which no archive describes, and the number of a device that is none."""
    lines = sorted(repr((name, facts)) for name, facts in tree.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def lines(found: Iterable[Public]) -> list[str]:
    return ["\t".join((one.suite, one.name, one.digest, verdict(one.content))) for one in found]


@cache
def expected() -> Mapping[str, tuple[str, str]]:
    """Suite and name of each archive to its digest and its verdict."""
    rows = [line.split("\t") for line in TABLE.read_text().splitlines()]
    return {f"{suite}/{name}": (digest, judged) for suite, name, digest, judged in rows}
