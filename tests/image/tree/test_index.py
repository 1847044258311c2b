"""A chain's tree survives being put away, and what was damaged meanwhile is never taken for it."""

from __future__ import annotations

import contextlib
import random
import stat
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import LayerCorrupt
from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.spec import Limits
from reconciler.image.tree import index
from reconciler.image.tree.index import HEADER, MAGIC, VERSION, dump, load
from reconciler.image.tree.tree import Inode, Tree

AT_ONCE = pytest.mark.timeout(60)
"""Ends a test that hangs, or that takes quadratic time; not a measure of speed."""


def sample(seed: int = 1, files: int = 60) -> tuple[Tree, int]:
    """A tree of every kind of inode, with extents as a writer would give them, and the next free block."""
    rng, tree, block = random.Random(seed), Tree(Limits()), 100
    tree.add(Member(b"./", stat.S_IFDIR, 0o711, 1, 2, -5, xattrs={b"user.root": b"yes"}))
    for i in range(files):
        size = rng.choice([0, 1, 4096, 20_000])
        inode = tree.add(
            Member(
                b"d%d/\xff%d" % (rng.randrange(5), i),
                stat.S_IFREG,
                0o4755,
                i,
                i,
                i * 10**9 + i,
                size,
                xattrs={b"user.n": b"%d" % i},
            )
        )
        blocks = -(-size // 4096)
        assert inode is not None
        if blocks > 2:
            inode.extents = ((0, block, 1), (2, block + 1, blocks - 2))
        elif blocks:
            inode.extents = ((0, block, blocks),)
        block += blocks
    tree.add(Member(b"link", stat.S_IFLNK, 0o777, linkname=b"/d0/x"))
    tree.add(Member(b"null", stat.S_IFCHR, 0o666, devmajor=4095, devminor=1048575))
    tree.add(Member(b"fifo", stat.S_IFIFO, 0o600))
    tree.add(Member(b"d9/", stat.S_IFDIR))
    for i, name in enumerate([b"link", b"null"]):
        tree.add(Member(b"again%d" % i, HARDLINK, linkname=name))
    return tree, block


def flat(root: Inode) -> list[tuple[object, ...]]:
    """The tree in its order, inodes numbered by their first name."""
    numbers: dict[Inode, int] = {}
    found: list[tuple[object, ...]] = []

    def walk(name: bytes, inode: Inode) -> None:
        number = numbers.setdefault(inode, len(numbers))
        fields = [getattr(inode, field) for field in Inode.__slots__ if field != "children"]
        found.append((name, number, inode.children is None, *fields))
        for below, child in (inode.children or {}).items():
            walk(below, child)

    walk(b"", root)
    return found


def test_a_tree_comes_back_as_it_was() -> None:
    tree, block = sample()
    again, next_block = load(dump(tree, block))

    assert next_block == block
    assert flat(again.root) == flat(tree.root)
    assert again.root.children is not None and again.root.children[b"again0"] is again.root.children[b"link"]


def test_the_same_tree_gives_the_same_bytes_and_a_loaded_one_too() -> None:
    tree, block = sample()
    data = dump(tree, block)
    assert dump(sample()[0], block) == data
    assert dump(load(data)[0], block) == data


def test_an_empty_tree_is_a_tree() -> None:
    assert flat(load(dump(Tree(Limits()), 0))[0].root) == flat(Tree(Limits()).root)


def test_a_deep_tree_needs_no_deep_stack() -> None:
    tree = Tree(Limits(max_depth=100_000, max_entries=10**6))
    inode = tree.root
    for _ in range(5000):
        below = Inode(stat.S_IFDIR, 0o755, children={})
        assert inode.children is not None
        inode.children[b"d"] = below
        inode = below
    data = dump(tree, 0)
    assert dump(load(data)[0], 0) == data


@AT_ONCE
def test_it_is_small() -> None:
    tree, block = sample(files=5000)
    data = dump(tree, block)
    load(data)
    assert len(data) < 5000 * 40


def test_a_loaded_tree_is_what_lower_layers_brought() -> None:
    tree, block = sample()
    again, _ = load(dump(tree, block))
    again.begin_layer()
    again.add(Member(b".wh..wh..opq", stat.S_IFREG))
    assert again.root.children == {}


# -------------------------------------------------------------------------------------------------- damage


def test_an_index_cut_anywhere_is_damaged() -> None:
    tree, block = sample(files=3)
    data = dump(tree, block)
    for end in range(len(data)):
        with pytest.raises(LayerCorrupt):
            load(data[:end])


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_an_index_with_a_flipped_bit_is_damaged_or_says_the_same(at: int) -> None:
    """zlib has a few bits that mean nothing."""
    tree, block = sample(files=3)
    data = bytearray(dump(tree, block))
    data[at // 8 % len(data)] ^= 1 << at % 8
    try:
        again, next_block = load(bytes(data))
    except LayerCorrupt:
        return
    assert (flat(again.root), next_block) == (flat(tree.root), block)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_an_index_that_lies_and_signs_it_raises_nothing_but_our_error(patches: list[tuple[int, int]]) -> None:
    tree, block = sample(files=4)
    data = dump(tree, block)
    body = bytearray(zlib.decompress(data[HEADER.size :]))
    for at, value in patches:
        body[at % len(body)] = value
    with contextlib.suppress(LayerCorrupt):
        load(signed(bytes(body), block))


def signed(body: bytes, block: int) -> bytes:
    return HEADER.pack(MAGIC, VERSION, block, len(body), index._digest(block, body)) + zlib.compress(body)


def lying(change: str) -> bytes:
    tree, block = sample(files=12)
    root = tree.root.children
    assert root is not None
    regular = [inode for _, inode in walk(tree.root) if inode.extents]
    match change:
        case "extents beyond the end":
            regular[0].extents = [(0, block, 1)]
        case "extents behind the file":
            regular[0].extents = (*regular[0].extents[:-1], (10**6, 5, 1))
        case "an extent of nothing":
            regular[0].extents = [(0, 5, 0)]
        case "two files in one place":
            regular[0].extents = [(0, regular[1].extents[0][1], 1)]
        case "a name with a slash":
            root[b"a/b"] = Inode(stat.S_IFIFO, 0)
        case "a name of dots":
            root[b".."] = Inode(stat.S_IFIFO, 0)
        case "a directory under two names":
            root[b"again"] = root[b"d9"]
        case "a root that is none":
            tree.root = root[b"fifo"]
        case "an empty target":
            root[b"link"].target = b""
        case "a forbidden attribute":
            tree.root.xattrs = {b"trusted.a": b""}
        case "an unknown kind":
            root[b"x"] = Inode(stat.S_IFSOCK, 0)
        case "a fifo with a size":
            root[b"fifo"].size = 1
        case "the id of nobody":
            root[b"fifo"].uid = 2**32 - 1
    return dump(tree, block)


def walk(inode: Inode) -> list[tuple[bytes, Inode]]:
    found = []
    for name, child in (inode.children or {}).items():
        found += [(name, child), *walk(child)]
    return found


@pytest.mark.parametrize(
    "change",
    [
        "extents beyond the end",
        "extents behind the file",
        "an extent of nothing",
        "two files in one place",
        "a name with a slash",
        "a name of dots",
        "a directory under two names",
        "a root that is none",
        "an empty target",
        "a forbidden attribute",
        "an unknown kind",
        "a fifo with a size",
        "the id of nobody",
    ],
)
def test_an_index_that_could_not_be_is_refused(change: str) -> None:
    with pytest.raises(LayerCorrupt, match=r"index is damaged.*made again"):
        load(lying(change))


def test_an_index_that_promises_gigabytes_is_not_inflated() -> None:
    bomb = HEADER.pack(MAGIC, VERSION, 0, 1 << 30, bytes(32)) + zlib.compress(bytes(1 << 20))
    with pytest.raises(LayerCorrupt, match="impossible"):
        load(bomb)


def test_another_version_is_not_guessed_at() -> None:
    data = bytearray(dump(Tree(Limits()), 0))
    data[8] += 1
    with pytest.raises(LayerCorrupt, match="version"):
        load(bytes(data))
