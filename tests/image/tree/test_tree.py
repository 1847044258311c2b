"""Names resolve inside the image as a process with that root would see them, and layers lie over each other as OCI says."""

from __future__ import annotations

import io
import itertools
import stat
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import LayerRefused
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits
from reconciler.image.tree.judge import Judge
from reconciler.image.tree.tree import MAX_LINKS, Inode, Tree

REG, DIR, LNK, CHR, BLK, FIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO


def f(name: bytes, size: int = 0) -> Member:
    return Member(name, REG, size=size, mtime_ns=1)


def d(name: bytes, mode: int = 0o700) -> Member:
    return Member(name, DIR, mode, uid=5, mtime_ns=7)


def ln(name: bytes, target: bytes) -> Member:
    return Member(name, LNK, 0o777, linkname=target)


def hard(name: bytes, target: bytes) -> Member:
    return Member(name, HARDLINK, linkname=target)


def tree_of(*layers: list[Member], limits: Limits | None = None) -> Tree:
    tree = Tree(limits or Limits())
    for layer in layers:
        tree.begin_layer()
        for member in layer:
            tree.add(member)
        tree.end_layer()
    return tree


def at(tree: Tree, path: bytes) -> Inode | None:
    """What stands at a path, following nothing."""
    inode = tree.root
    for part in path.split(b"/") if path else []:
        if inode.children is None or part not in inode.children:
            return None
        inode = inode.children[part]
    return inode


def shape(tree: Tree) -> dict[bytes, Any]:
    """Every name with what matters of its inode; hard links by the first name that has the inode, in the order of names."""
    found: dict[bytes, Any] = {}
    first: dict[Inode, bytes] = {}

    def walk(path: bytes, inode: Inode) -> None:
        home = first.setdefault(inode, path)
        found[path] = (home, inode.kind, inode.mode, inode.uid, inode.mtime, inode.size, inode.target)
        for name in sorted(inode.children or {}):
            walk(path + b"/" + name, inode.children[name])  # type: ignore[index]

    walk(b"", tree.root)
    return found


def names(tree: Tree) -> list[bytes]:
    return sorted(path[1:] for path in shape(tree) if path)


def rule(*layers: list[Member], limits: Limits | None = None) -> str:
    with pytest.raises(LayerRefused) as caught:
        tree_of(*layers, limits=limits)
    return caught.value.rule


# ----------------------------------------------------------------------------------------------- resolution


def test_missing_parents_are_made_and_counted() -> None:
    tree = tree_of([f(b"a/b/c")])
    assert (tree.implied, tree.entries) == (2, 3)
    made = at(tree, b"a/b")
    assert made is not None and (made.kind, made.mode, made.uid, made.mtime) == (DIR, 0o755, 0, 0)


def test_a_merged_usr_is_written_through_its_links() -> None:
    for target in (b"usr/bin", b"/usr/bin", b"./usr/../usr/bin/."):
        tree = tree_of([d(b"usr/bin"), ln(b"bin", target), f(b"bin/sh"), f(b"/usr/bin/ls")])
        assert names(tree) == [b"bin", b"usr", b"usr/bin", b"usr/bin/ls", b"usr/bin/sh"]


@pytest.mark.parametrize("target", [b"/outside", b"/../../outside", b"/proc/self/root/outside", b"/a/../../outside"])
def test_links_to_elsewhere_lead_to_a_place_of_the_image(target: bytes) -> None:
    tree = tree_of([d(b"a"), ln(b"l", target), f(b"l/x")])
    assert next(path for path in names(tree) if path.endswith(b"/x")).removesuffix(b"/x").endswith(b"outside")


def test_chains_of_links_are_followed_up_to_forty() -> None:
    links = [ln(b"l%d" % i, b"l%d" % (i + 1)) for i in range(60)]
    assert at(tree_of([*links[:39], d(b"l39"), f(b"l0/x")]), b"l39/x")
    assert rule([*links, d(b"l60"), f(b"l0/x")]) == "link-loop"


def test_loops_and_expansions_come_to_an_end() -> None:
    assert rule([ln(b"a", b"b"), ln(b"b", b"a"), f(b"a/x")]) == "link-loop"
    assert rule([ln(b"a", b"a/a"), f(b"a/x")]) == "link-loop"
    growing = [ln(b"0", b"."), *(ln(b"%d" % i, b"%d/%d" % (i - 1, i - 1)) for i in range(1, 30))]
    assert rule([*growing, f(b"29/x")]) == "link-loop"


def test_long_ways_through_links_are_bounded_for_the_layer_as_a_whole() -> None:
    detour = [ln(b"a", b"b/../" * 800), d(b"b"), ln(b"c", b"a/" * 30)]
    limits = Limits(max_entries=100)
    assert at(tree_of([*detour, f(b"c/x")], limits=limits), b"x")
    assert rule([*detour, f(b"c/x"), f(b"b/y"), f(b"c/z")], limits=limits) == "limit-resolution"


def test_depth_counts_where_a_name_really_leads() -> None:
    limits = Limits(max_depth=4)
    deep = [d(b"a/b/c"), ln(b"l", b"a/b/c")]
    assert at(tree_of([*deep, f(b"l/x")], limits=limits), b"a/b/c/x")
    assert rule([*deep, f(b"l/x/y")], limits=limits) == "link-loop"


def test_a_link_makes_no_directory_that_is_named_like_a_whiteout() -> None:
    assert rule([ln(b"l", b"a/.wh.b"), f(b"l/x")]) == "whiteout"


def test_a_link_makes_no_directory_whose_name_is_too_long_for_one() -> None:
    assert at(tree_of([ln(b"l", b"n" * 255), f(b"l/x")]), b"n" * 255 + b"/x")
    assert rule([ln(b"l", b"n" * 256), f(b"l/x")]) == "name-length"


def test_entries_count_implied_directories() -> None:
    assert rule([f(b"a/b/c/d")], limits=Limits(max_entries=3)) == "limit-entries"


def test_a_parent_that_is_no_directory_is_refused() -> None:
    assert rule([f(b"a"), f(b"a/b")]) == "parent-type"
    assert rule([f(b"a"), ln(b"l", b"a"), f(b"l/b")]) == "parent-type"


def test_names_that_climb_are_refused_here_too() -> None:
    for name in (b"../a", b"a/../b", b"..", b"a/.."):
        assert rule([f(name)]) == "name-climbs"
    assert rule([hard(b"h", b"../a")]) == "name-climbs"


def test_the_root_has_its_metadata_from_its_entry() -> None:
    tree = tree_of([d(b"./", 0o711)])
    assert (tree.root.mode, tree.root.uid, tree.root.mtime, tree.implied) == (0o711, 5, 7, 0)
    assert rule([ln(b"/", b"x")]) == "root-type"


# ---------------------------------------------------------------------------------------------- replacement


def test_a_file_over_a_file_leaves_other_names_of_the_old_one_alone() -> None:
    tree = tree_of([f(b"a", 1), hard(b"b", b"a"), f(b"a", 2)])
    assert [at(tree, name).size for name in (b"a", b"b")] == [2, 1]  # type: ignore[union-attr]


def test_a_file_over_a_symlink_replaces_the_link() -> None:
    tree = tree_of([f(b"t", 1), ln(b"l", b"t"), f(b"./l", 2)])
    assert [at(tree, name).size for name in (b"t", b"l")] == [1, 2]  # type: ignore[union-attr]


def test_a_directory_over_a_directory_keeps_the_children() -> None:
    tree = tree_of([d(b"a", 0o700), f(b"a/x"), d(b"a/", 0o755)])
    assert names(tree) == [b"a", b"a/x"]
    assert at(tree, b"a").mode == 0o755  # type: ignore[union-attr]


def test_a_directory_over_a_link_to_a_directory_keeps_both_as_they_are() -> None:
    tree = tree_of([d(b"usr/bin", 0o755), ln(b"bin", b"usr/bin"), d(b"bin/", 0o777), f(b"bin/sh")])
    assert names(tree) == [b"bin", b"usr", b"usr/bin", b"usr/bin/sh"]
    assert at(tree, b"usr/bin").mode == 0o755  # type: ignore[union-attr]


@pytest.mark.parametrize("target", [b"nowhere", b"file", b"l", b"/outside"])
def test_a_directory_over_any_other_link_replaces_it(target: bytes) -> None:
    tree = tree_of([f(b"file"), ln(b"l", target), d(b"l/."), f(b"l/x")])
    assert at(tree, b"l/x")
    assert at(tree, b"l").kind == DIR  # type: ignore[union-attr]


def test_a_filled_directory_is_not_replaced_within_a_layer() -> None:
    for other in (f(b"a"), ln(b"a", b"/etc"), hard(b"a", b"z"), Member(b"a", FIFO)):
        assert rule([f(b"z"), d(b"a"), f(b"a/x"), other]) == "type-change"
        assert at(tree_of([f(b"z"), d(b"a"), other]), b"a").kind != DIR  # type: ignore[union-attr]


def test_a_remembered_parent_is_forgotten_when_it_changes_type() -> None:
    tree = tree_of([d(b"a"), d(b"b/e"), ln(b"b/e", b"/a"), f(b"b/e/y"), d(b"b/f"), f(b"a/z")])
    assert names(tree) == [b"a", b"a/y", b"a/z", b"b", b"b/e", b"b/f"]


def test_a_parent_replaced_by_a_link_leads_to_the_new_place() -> None:
    lower = [d(b"d"), f(b"d/old"), d(b"other")]
    tree = tree_of(lower, [f(b"d2/f"), ln(b"d", b"other"), f(b"d/new")])
    assert names(tree) == [b"d", b"d2", b"d2/f", b"other", b"other/new"]


# ----------------------------------------------------------------------------------------------- hard links


def test_hard_links_are_one_inode_wherever_their_target_is_named() -> None:
    tree = tree_of([d(b"usr"), ln(b"lib", b"usr"), f(b"usr/a", 9), hard(b"b", b"/lib/a"), hard(b"c", b"./usr//a")])
    assert at(tree, b"b") is at(tree, b"c") is at(tree, b"usr/a")
    assert at(tree, b"b").names == 3  # type: ignore[union-attr]


def test_a_hard_link_to_a_symlink_is_that_symlink() -> None:
    tree = tree_of([ln(b"s", b"/outside"), Member(b"h", HARDLINK, 0o4777, uid=9, linkname=b"s")])
    assert at(tree, b"h") is at(tree, b"s")
    assert (at(tree, b"s").mode, at(tree, b"s").uid) == (0o777, 0)  # type: ignore[union-attr]


def test_a_hard_link_to_itself_changes_nothing() -> None:
    tree = tree_of([f(b"a", 3), hard(b"a", b"a"), hard(b"./a", b"/a")])
    assert (at(tree, b"a").size, at(tree, b"a").names) == (3, 1)  # type: ignore[union-attr]


def test_hard_links_to_nothing_and_to_directories_are_refused() -> None:
    assert rule([hard(b"h", b"later"), f(b"later")]) == "hardlink-missing"
    assert rule([f(b"a"), hard(b"h", b"a/b")]) == "hardlink-missing"
    assert rule([ln(b"l", b"l"), hard(b"h", b"l/b")]) == "hardlink-missing"
    assert rule([d(b"a"), hard(b"h", b"a")]) == "hardlink-directory"
    assert rule([hard(b"h", b"/")]) == "hardlink-directory"


def test_a_file_has_no_more_names_than_ext4_counts() -> None:
    assert rule([f(b"a"), *(hard(b"h%d" % i, b"a") for i in range(65_000))]) == "limit-links"


# -------------------------------------------------------------------------------------------------- layers


def test_later_layers_replace_whatever_lower_ones_had() -> None:
    lower = [d(b"a"), f(b"a/x"), f(b"b"), d(b"usr"), ln(b"c", b"usr")]
    tree = tree_of(lower, [f(b"a"), d(b"b"), d(b"c"), f(b"c/y")])
    assert names(tree) == [b"a", b"b", b"c", b"c/y", b"usr"]


def test_a_hard_link_may_name_a_file_of_a_lower_layer() -> None:
    tree = tree_of([f(b"a", 4)], [hard(b"b", b"a"), f(b".wh.a")])
    assert names(tree) == [b"b"]


WHITEOUT_CASES: dict[str, tuple[list[Member], list[bytes]]] = {
    "a file": ([f(b"d/.wh.x")], [b"d", b"d/s", b"d/s/y", b"e"]),
    "a directory with all below it": ([f(b".wh.d")], [b"e"]),
    "nothing": ([f(b".wh.zz"), f(b"no/.wh.zz"), f(b"e/.wh.zz"), f(b"no/.wh..wh..opq")], [b"d", b"d/s", b"d/s/y", b"d/x", b"e"]),
    "and put in again": ([f(b"d/.wh.x"), f(b"d/x", 7)], [b"d", b"d/s", b"d/s/y", b"d/x", b"e"]),
    "a directory and made anew": ([f(b".wh.d"), d(b"d"), f(b"d/n")], [b"d", b"d/n", b"e"]),
    "a directory and implied anew": ([f(b".wh.d"), f(b"d/s/n")], [b"d", b"d/s", b"d/s/n", b"e"]),
    "the children of a directory": ([f(b"d/.wh..wh..opq"), f(b"d/n")], [b"d", b"d/n", b"e"]),
    "the children, with new metadata": ([d(b"d", 0o711), f(b"d/.wh..wh..opq"), f(b"d/s/n")], [b"d", b"d/s", b"d/s/n", b"e"]),
    "everything": ([f(b".wh..wh..opq"), f(b"n")], [b"n"]),
    "replaced by a file": ([f(b".wh.d"), f(b"d")], [b"d", b"e"]),
}


def test_replacing_files_does_not_forget_the_way_to_their_directory() -> None:
    """Were each of them resolved anew, the layer would run out of its budget of steps."""
    files = [f(b"a/" * 100 + b"%d" % i) for i in range(2000)]
    assert len(names(tree_of(files, files, limits=Limits(max_entries=2100)))) == 2100


@pytest.mark.parametrize("case", WHITEOUT_CASES)
def test_a_whiteout_hides(case: str) -> None:
    """The same tree comes out wherever the whiteouts stand among the layer's members."""
    upper, expected = WHITEOUT_CASES[case]
    lower = [d(b"d", 0o750), f(b"d/x", 1), d(b"d/s", 0o750), f(b"d/s/y", 2), f(b"e", 3)]
    shapes = [shape(tree_of(lower, list(order))) for order in itertools.permutations(upper)]

    assert sorted(path[1:] for path in shapes[0] if path) == expected
    assert all(one == shapes[0] for one in shapes)


def test_a_whiteout_in_the_first_layer_hides_nothing() -> None:
    assert names(tree_of([f(b"a"), f(b".wh.a"), f(b".wh..wh..opq")])) == [b"a"]


def test_an_implied_directory_has_no_metadata_of_a_hidden_one() -> None:
    tree = tree_of([d(b"d", 0o700), f(b"d/x")], [f(b"d/n"), f(b".wh.d")])
    inode = at(tree, b"d")
    assert inode is not None and (inode.mode, inode.uid, inode.mtime) == (0o755, 0, 0)


def test_many_opaque_marks_cost_little() -> None:
    lower = [f(b"d/%d/x%d" % (i % 50, i)) for i in range(2000)]
    upper = [f(b"d/.wh..wh..opq")] * 20_000
    assert names(tree_of(lower, [f(b"d/1/new"), *upper])) == [b"d", b"d/1", b"d/1/new"]


# -------------------------------------------------------------------------------------- whole archives, random

NAME = st.sampled_from(["a", "b", "ü", "x" * 120])
PATHS = st.lists(NAME, min_size=1, max_size=4).map("/".join)
LEAVES = st.one_of(
    st.binary(max_size=1500).map(lambda data: ("file", data)),
    st.sampled_from(["a", "/b/c", "x" * 130]).map(lambda target: ("link", target)),
    st.just(("dir", None)),
    st.just(("fifo", None)),
)


@given(st.dictionaries(PATHS, LEAVES, max_size=12), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
@settings(max_examples=60, deadline=None)
def test_a_random_tree_comes_through_an_archive_unchanged(wanted: dict[str, tuple[str, Any]], form: int) -> None:
    # A name below something that is no directory is another test's.
    wanted = {
        path: what for path, what in wanted.items() if all(wanted.get(up, ("dir", 0))[0] == "dir" for up in ancestors(path))
    }
    tree, contents = Tree(Limits()), {}
    judge, reader = Judge(Limits()), Reader(open_stream(io.BytesIO(archive(wanted, form)), Limits()))
    for member in reader:
        judge.check(member)
        inode = tree.add(member)
        if inode is not None:
            contents[inode] = b"".join(reader.data(member))

    expected = {up: ("dir", None) for path in wanted for up in ancestors(path)} | wanted
    found = {path[1:].decode(): seen(at(tree, path[1:]), contents) for path in shape(tree) if path}
    assert found == expected


def ancestors(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def archive(wanted: dict[str, tuple[str, Any]], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as writer:
        for path, (kind, content) in wanted.items():
            info = tarfile.TarInfo(path)
            info.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "dir": tarfile.DIRTYPE, "fifo": tarfile.FIFOTYPE}[kind]
            info.linkname = content if kind == "link" else ""
            info.size = len(content) if kind == "file" else 0
            writer.addfile(info, io.BytesIO(content) if kind == "file" else None)
    return out.getvalue()


def seen(inode: Inode | None, contents: dict[Inode, bytes]) -> tuple[str, Any]:
    assert inode is not None
    kind = {REG: "file", LNK: "link", DIR: "dir", FIFO: "fifo"}[inode.kind]
    return kind, contents[inode] if kind == "file" else inode.target.decode() if kind == "link" else None


POOL = [b"a", b"b", b"a/b", b"a/c", b"b/c", b"a/b/c"]
MEMBERS = st.one_of(
    st.sampled_from(POOL).map(f),
    st.sampled_from(POOL).map(d),
    st.tuples(st.sampled_from(POOL), st.sampled_from([b"a", b"/b", b"c", b"../a", b".", b"/"])).map(lambda pair: ln(*pair)),
    st.tuples(st.sampled_from(POOL), st.sampled_from(POOL)).map(lambda pair: hard(*pair)),
    st.sampled_from([b".wh.a", b"a/.wh.b", b".wh..wh..opq", b"a/.wh..wh..opq"]).map(f),
)


@given(st.lists(st.lists(MEMBERS, max_size=8), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_row_of_members_gives_a_tree_or_a_refusal(layers: list[list[Member]]) -> None:
    """No loops, no directory under two names, whatever is thrown at it."""
    tree = Tree(Limits())
    for layer in layers:
        tree.begin_layer()
        try:
            for member in layer:
                tree.add(member)
            tree.end_layer()
        except LayerRefused:
            pass
    homes = [home for home, kind, *_ in shape(tree).values() if kind == DIR]
    assert len(homes) == len(set(homes))


def test_long_targets_cost_what_they_are_long() -> None:
    """Thousands of slashes lead nowhere else, and have to be looked at each time."""
    limits = Limits(max_entries=100)
    links = [ln(b"l%d" % number, b"l%d" % (number + 1) + b"/" * 4000) for number in range(30)]
    ways = [f(b"l0" + b"/" * (number + 1) + b"f%d" % number) for number in range(60)]
    assert rule([*links, d(b"l30"), *ways], limits=limits) == "limit-resolution"


# ------------------------------------------------------------------------------------ whiteouts in any order

LOWER_LINK = [d(b"e"), f(b"e/keep"), ln(b"d", b"e")]


def orders(members: list[Member]) -> list[dict[bytes, Any]]:
    """The shapes that a layer gives over ``LOWER_LINK``, for each order of its members."""
    return [shape(tree_of(list(LOWER_LINK), list(order))) for order in itertools.permutations(members)]


@pytest.mark.parametrize(
    "members",
    [
        [f(b".wh.d"), f(b"d/f")],
        [f(b".wh.d"), f(b"d/f"), f(b"x")],
        [f(b".wh.d"), f(b"d/f"), f(b"d/g/h")],
        [f(b"d/.wh..wh..opq"), f(b"d/f")],
        [f(b"d/.wh.keep"), f(b"d/f")],
        [f(b"d/.wh.keep"), f(b".wh.d"), f(b"d/f")],
    ],
    ids=lambda members: " ".join(member.name.decode() for member in members),
)
def test_a_whiteout_counts_wherever_it_is_in_the_layer(members: list[Member]) -> None:
    first, *others = orders(members)

    assert all(other == first for other in others)


def test_a_whiteout_behind_a_file_removes_the_lower_link_on_the_way_to_it() -> None:
    tree = tree_of(list(LOWER_LINK), [f(b"d/f"), f(b".wh.d")])

    assert set(shape(tree)) == {b"", b"/d", b"/d/f", b"/e", b"/e/keep"}


def test_an_opaque_mark_in_front_of_its_directory_spares_what_the_lower_link_points_to() -> None:
    tree = tree_of(list(LOWER_LINK), [f(b"d/.wh..wh..opq"), d(b"d"), f(b"d/f")])

    assert set(shape(tree)) == {b"", b"/d", b"/d/f", b"/e", b"/e/keep"}


def test_a_hard_link_through_a_lower_link_finds_a_file_of_the_same_layer() -> None:
    tree = tree_of(list(LOWER_LINK), [f(b"d/f"), hard(b"h", b"d/f"), hard(b"i", b"h")])

    assert at(tree, b"h") is at(tree, b"e/f") is at(tree, b"i")


def test_a_deferred_member_is_named_where_it_is_refused() -> None:
    with pytest.raises(LayerRefused) as caught:
        tree_of(list(LOWER_LINK), [f(b"d/f"), hard(b"h", b"nothing")])

    assert (caught.value.rule, caught.value.member) == ("hardlink-missing", b"h")


def test_names_that_were_replaced_don_t_count_as_links() -> None:
    """At no time are there more than two names."""
    tree = Tree(Limits())
    tree.add(f(b"a"))
    for _ in range(MAX_LINKS + 2):
        tree.add(hard(b"b", b"a"))
        tree.add(f(b"b"))

    assert at(tree, b"a").names == 1  # type: ignore[union-attr]


def test_names_in_a_hidden_directory_don_t_count_as_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.image.tree.tree.MAX_LINKS", 4)
    lower = [f(b"a"), d(b"d"), hard(b"d/1", b"a"), hard(b"d/2", b"a"), hard(b"d/3", b"a")]

    with pytest.raises(LayerRefused):
        tree_of(lower, [hard(b"x", b"a")])
    tree = tree_of(lower, [f(b".wh.d"), hard(b"x", b"a")])

    assert at(tree, b"a").names == 2  # type: ignore[union-attr]


def test_aufs_metadata_is_no_content_and_its_pseudo_links_lead_to_their_file() -> None:
    members = [f(b".wh..wh.aufs"), d(b".wh..wh.orph/"), d(b".wh..wh.plnk/"), f(b".wh..wh.plnk/12.34", 7)]
    tree = tree_of([*members, d(b"etc"), hard(b"etc/motd", b".wh..wh.plnk/12.34")])

    assert set(shape(tree)) == {b"", b"/etc", b"/etc/motd"}
    assert at(tree, b"etc/motd").size == 7  # type: ignore[union-attr]
