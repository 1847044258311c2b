"""What ours and each peer make of a fixture, in a line of words that can be kept and compared. No state."""

from __future__ import annotations

import io
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler import errors
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.ext4.writer import Writer
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import Tree
from tests.support import compare, ext4, images, peers
from tests.support.compare import Facts

from .fixtures import Fixture

OURS = "ours"
SIZE = 16 << 20
MOST = 20
"""Names that are told one by one."""
REFUSES, COMPLAINS, HANGS = "refuses", "complains", "hangs"
NOTHING = "nothing"
_runs = re.compile(r"(?<!\\)([^\\]/?)\1{19,}")


def observe(fixture: Fixture) -> dict[str, str]:
    """By the names of ``OURS`` and ``peers.PEERS``; what can't be run here is left out."""
    found = {OURS: ours(fixture)}
    for peer in peers.PEERS:
        if peers.version(peer) and not (peer == "trusted" and fixture.unsafe):
            found[peer] = theirs(peer, fixture)
    return found


def ours(fixture: Fixture) -> str:
    with tempfile.TemporaryDirectory() as made:
        image = Path(made) / "image"
        try:
            build(fixture, image)
        except errors.LayerRefused as refusal:
            return f"{REFUSES} ({refusal.rule})"
        except errors.LayerCorrupt:
            return f"{REFUSES} (corrupt)"
        with ext4.opened(image) as opened:
            return told(opened.describe(largest=peers.LARGEST), fixture.show)


def build(fixture: Fixture, image: Path) -> None:
    """``images.build_here`` for one layer, with the fixture's limits."""
    limits = fixture.limits
    tree, reader = Tree(limits), Reader(open_stream(io.BytesIO(fixture.archive), limits), limits)
    judge = Judge(limits, tree.accounts)
    with image.open("wb+") as file:
        file.truncate(SIZE)
        writer = Writer(file.fileno(), SIZE)
        try:
            for member in reader:
                judge.check(member)
                inode = tree.add(member)
                if inode is not None:
                    writer.append(inode, member.size, member.segments, tree.accounts.read(member, inode, reader.data(member)))
            writer.finish(tree.root, images.ANY_UUID)
        finally:
            writer.close()


def theirs(peer: str, fixture: Fixture) -> str:
    found = peers.unpack(peer, fixture.archive, seconds=fixture.patience)
    parts = [HANGS] if found.hung else [COMPLAINS] if found.complained else []
    seen = told(found.tree, fixture.show)
    if seen != NOTHING or not parts:
        parts.append(seen)
    if found.outside:
        parts.append("OUTSIDE: " + ", ".join(map(shown, sorted(found.outside))))
    return "; ".join(parts)


def told(tree: Mapping[bytes, Facts], show: tuple[str, ...]) -> str:
    names = [name for name in sorted(tree) if name != compare.ROOT or "root" in show]
    lines = [_line(name, tree[name], show) for name in names]
    if len(lines) > MOST:
        lines = [f"{len(lines)} names, the last is {lines[-1]}"]
    return ", ".join(lines) or NOTHING


def _line(name: bytes, facts: Facts, show: tuple[str, ...]) -> str:
    first = facts.links[0] if facts.links else name
    if name != first:
        return f"{shown(name)} = {shown(first)}"
    return " ".join([shown(name) + _kind(facts), *_details(facts, show)])


def _kind(facts: Facts) -> str:
    if facts.kind == stat.S_IFDIR:
        return "/"
    if facts.kind == stat.S_IFLNK:
        return f" → {shown(facts.target)}"
    if facts.kind in (stat.S_IFCHR, stat.S_IFBLK):
        return f" {'c' if facts.kind == stat.S_IFCHR else 'b'}{facts.device[0]}:{facts.device[1]}"
    return " fifo" if facts.kind == stat.S_IFIFO else f" ({facts.size})"


def _details(facts: Facts, show: tuple[str, ...]) -> Iterator[str]:
    if "mode" in show and facts.kind != stat.S_IFLNK:
        yield f"{facts.mode:04o}"
    if "owner" in show:
        yield f"{facts.uid}:{facts.gid}"
    if "mtime" in show:
        yield f"@{_time(facts.mtime)}"
    if "xattrs" in show:
        yield from (f"[{shown(name)}={value.hex() or 'empty'}]" for name, value in facts.xattrs)
    if "holes" in show and facts.kind == stat.S_IFREG:
        yield "blocks " + "+".join(f"{first}..{first + count - 1}" for first, count in facts.data)


def _time(nanoseconds: int) -> str:
    """Times of the last days are those of the unpacking."""
    if 1_750_000_000 <= nanoseconds // 10**9 < 2**32:
        return "now"
    sign, (seconds, fraction) = "-" * (nanoseconds < 0), divmod(abs(nanoseconds), 10**9)
    return f"{sign}{seconds}" + (f".{fraction:09}".rstrip("0") if fraction else "")


def shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return _runs.sub(lambda found: f"{found[1]}×{len(found[0]) // len(found[1])}", text)
