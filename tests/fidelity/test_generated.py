"""Any legal archive: whatever a peer makes of it otherwise than ours is explained by a row of ``docs/differences.md``.

Without root, owners and devices are left out. What trusts an archive is given none whose links lead out of the directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support import compare, ext4, images, layers, peers
from tests.support.compare import Facts, Tree
from tests.support.trees import DIALECTS, HARDLINK, SECOND, Entry, chains

from . import table

ROOT = os.geteuid() == 0
IMAGE = 32 << 20
IGNORED = ("data",)
"""Where a file has holes and where zeros is up to each program."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``field`` is one of Facts, or "missing" or "extra"; ``entry`` what the archive says of it, None where it says nothing."""

    path: bytes
    field: str
    ours: Facts | None
    theirs: Facts | None
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The row that says why, and what it is about."""

    row: str
    peers: tuple[str, ...]
    field: str
    holds: Callable[[Difference], bool]


def is_implied(found: Difference) -> bool:
    return found.entry is None


def is_directory(found: Difference) -> bool:
    return found.ours is not None and found.ours.kind == stat.S_IFDIR


def is_before_1970_with_a_fraction(found: Difference) -> bool:
    return found.ours is not None and found.ours.mtime < 0 and found.ours.mtime % SECOND != 0


def has_inherited_setgid(found: Difference) -> bool:
    assert found.ours and found.theirs
    return is_directory(found) and found.theirs.mode == found.ours.mode | stat.S_ISGID


def has_access_list(found: Difference) -> bool:
    return found.ours is not None and any(name.startswith(b"system.posix_acl_") for name, _ in found.ours.xattrs)


def is_link(found: Difference) -> bool:
    return found.ours is not None and found.ours.kind == stat.S_IFLNK


def has_encoded_name(found: Difference) -> bool:
    return found.ours is not None and any(b"=" in name or b"%" in name for name, _ in found.ours.xattrs)


def is_rounded(found: Difference) -> bool:
    """To what a float holds of it."""
    assert found.ours and found.theirs
    return abs(found.ours.mtime - found.theirs.mtime) < 3 * SECOND


def is_anything(_: Difference) -> bool:
    return True


EXPLANATIONS = [
    Explanation("directories that no member describes", ("GNU tar", "bsdtar", "trusted"), "mtime", is_implied),
    Explanation("a directory's time, when the archive returns to it", ("GNU tar",), "mtime", is_directory),
    Explanation("a directory in a setgid directory", ("GNU tar",), "mode", has_inherited_setgid),
    Explanation("a time before 1970 with a fraction", ("bsdtar",), "mtime", is_before_1970_with_a_fraction),
    Explanation("the root's own mode and time", ("bsdtar",), "mtime", lambda found: found.path == compare.ROOT),
    Explanation("an access control list in binary", ("GNU tar", "bsdtar"), "xattrs", has_access_list),
    Explanation("an attribute whose name GNU tar has encoded", ("bsdtar",), "xattrs", has_encoded_name),
    Explanation("a link's own time", ("trusted",), "mtime", is_link),
    Explanation("attributes of users", ("trusted",), "xattrs", is_anything),
    Explanation("a time of 1 ns", ("trusted",), "mtime", is_rounded),
]


def differences(ours: Tree, theirs: Tree, entries: Sequence[Entry]) -> Iterator[Difference]:
    said = {os.path.normpath(entry.name): entry for entry in entries}
    for path in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(path), theirs.get(path)
        if mine is None or other is None:
            yield Difference(path, "extra" if mine is None else "missing", mine, other, said.get(path))
            continue
        for field in (field.name for field in fields(Facts) if field.name not in IGNORED):
            if getattr(mine, field) != getattr(other, field):
                yield Difference(path, field, mine, other, said.get(path))


def explanation(peer: str, found: Difference) -> str | None:
    fitting = (e.row for e in EXPLANATIONS if peer in e.peers and e.field == found.field and e.holds(found))
    return next(fitting, None)


def told(found: Difference) -> str:
    if found.ours is None or found.theirs is None:
        return f"{found.path!r}: {found.field}"
    return f"{found.path!r}: {found.field} is {getattr(found.theirs, found.field)!r}, ours {getattr(found.ours, found.field)!r}"


def unprivileged(entry: Entry) -> Entry:
    """What anybody can unpack."""
    mode = entry.mode & 0o777 | (0o700 if entry.kind == stat.S_IFDIR else 0o400)
    users = {name: value for name, value in entry.xattrs.items() if name.startswith(b"user.")}
    return replace(entry, uid=0, gid=0, mode=mode, xattrs=users)


def made_safe(entries: Sequence[Entry], peer: str) -> list[Entry]:
    """What a peer may be given: no links out of its directory, and nothing that follows links where it trusts them."""
    found = [replace(e, target=b"below" + e.target) if e.kind == stat.S_IFLNK and e.target[:1] == b"/" else e for e in entries]
    if not ROOT:
        found = [unprivileged(e) for e in found if e.kind not in (stat.S_IFCHR, stat.S_IFBLK)]
        known = {os.path.normpath(e.name) for e in found}
        found = [e for e in found if e.kind != HARDLINK or os.path.normpath(e.target) in known]
    if peer == "trusted":
        found = [e for e in found if e.kind != HARDLINK and e.segments is None]
    return found


def is_renamed(name: bytes) -> bool:
    """By bsdtar, for which there are rows; the other name lands elsewhere, maybe over something else."""
    return name.startswith(b"\\") or name[1:2] == b":" or b"e\xcc\x81" in name


def owned(tree: Tree) -> Tree:
    return tree if ROOT else {name: replace(facts, uid=0, gid=0) for name, facts in tree.items()}


def test_each_explanation_is_a_row_in_which_that_peer_differs() -> None:
    for each in EXPLANATIONS:
        row = table.rows()[each.row]
        assert all(row[peer] != row["ours"] for peer in each.peers), each.row


@pytest.mark.parametrize("peer", ["GNU tar", "bsdtar", "trusted"])
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_a_peer_makes_of_any_legal_archive_is_equal_or_explained(
    tmp_path: Path, dialect: str, peer: str, data: st.DataObject
) -> None:
    if peers.version(peer) != table.versions()[peer]:
        pytest.skip(f"the table was made with {peer} {table.versions()[peer]}")
    [layer] = data.draw(chains(DIALECTS[dialect], most_layers=1))
    entries = made_safe(layer, peer)
    assume(peer != "bsdtar" or not any(is_renamed(entry.name) for entry in entries))
    archive = layers.pack(entries, dialect)
    images.build_here([archive], tmp_path / "image", IMAGE)

    ours, theirs = owned(ext4.of_image(tmp_path / "image")), peers.unpack(peer, archive)

    found = list(differences(ours, owned(theirs.tree), entries))
    unexplained = [told(one) for one in found if explanation(peer, one) is None]
    assert not unexplained, "\n".join([*unexplained[:10], theirs.said])
    assert not theirs.outside
