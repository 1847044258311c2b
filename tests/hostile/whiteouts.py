"""Whiteouts of layers: those that name nothing, those that would hide what is elsewhere."""

from __future__ import annotations

from tests.hostile.archive import character, entry, file, folder, hardlink, named, symlink, tar
from tests.hostile.case import accepted, d, f, ln, refused

CLASS = "whiteouts"
LOWER = tar(file(b"d/x", b"1"), file(b"d/y", b"2"), file(b"e", b"3"))
THERE = {b"d": d(), b"d/x": f(b"1"), b"d/y": f(b"2"), b"e": f(b"3")}

CASES = [
    refused(
        "whiteout-dot", CLASS, "`.wh..`, which names the directory itself", (LOWER, tar(file(b"d/.wh.."))), "whiteout", b"d/.wh.."
    ),
    refused("whiteout-dotdot", CLASS, "`.wh...`, which names the directory above", (LOWER, tar(file(b"d/.wh..."))), "whiteout"),
    refused("whiteout-empty", CLASS, "`.wh.`, which names nothing", (LOWER, tar(file(b"d/.wh."))), "whiteout"),
    refused("whiteout-aufs", CLASS, "`.wh..wh.plnk`, of AUFS, below the root", (LOWER, tar(file(b"d/.wh..wh.plnk"))), "whiteout"),
    refused("whiteout-below", CLASS, "something below a whiteout", (LOWER, tar(file(b".wh.d/x"))), "whiteout"),
    refused("whiteout-directory", CLASS, "a whiteout that is a directory", (LOWER, tar(folder(b".wh.d"))), "whiteout"),
    refused("whiteout-symlink", CLASS, "a whiteout that is a symlink", (LOWER, tar(symlink(b".wh.d", b"x"))), "whiteout"),
    refused("whiteout-device", CLASS, "a whiteout that is a device", (LOWER, tar(character(b".wh.d", 0, 0))), "whiteout"),
    refused("whiteout-data", CLASS, "a whiteout with data", (LOWER, tar(file(b".wh.d", b"x"))), "whiteout"),
    refused("whiteout-climbs", CLASS, "a whiteout `../.wh.x`", (LOWER, tar(file(b"../.wh.x"))), "name-climbs"),
    accepted(
        "whiteout-slash",
        CLASS,
        "the name to hide can't have a slash: it ends the component",
        (LOWER, tar(named(b"d/.wh.x"))),
        {b"d": d(), b"d/y": f(b"2"), b"e": f(b"3")},
    ),
    accepted(
        "whiteout-through-link",
        CLASS,
        "below `l -> /outside`, which leads nowhere: nothing is hidden, and nothing made",
        (LOWER, tar(symlink(b"l", b"/outside"), file(b"l/.wh.x"), file(b"l/.wh..wh..opq"))),
        {**THERE, b"l": ln(b"/outside")},
    ),
    accepted(
        "whiteout-through-link-there",
        CLASS,
        "below `l -> /d`: the image's own file",
        (LOWER, tar(symlink(b"l", b"/d"), file(b"l/.wh.x"))),
        {b"d": d(), b"d/y": f(b"2"), b"e": f(b"3"), b"l": ln(b"/d")},
    ),
    accepted(
        "whiteout-of-link",
        CLASS,
        "of a link: what it leads to stays",
        (tar(file(b"d/x", b"1"), symlink(b"l", b"d")), tar(file(b".wh.l"))),
        {b"d": d(), b"d/x": f(b"1")},
    ),
    accepted(
        "whiteout-of-hardlink",
        CLASS,
        "of one of two names",
        (tar(file(b"x", b"1"), hardlink(b"h", b"x")), tar(file(b".wh.x"))),
        {b"h": f(b"1")},
    ),
    accepted(
        "whiteout-first-layer",
        CLASS,
        "in the first layer, where there is nothing to hide",
        tar(file(b"a"), file(b".wh.a"), file(b".wh..wh..opq")),
        {b"a": f()},
    ),
    accepted(
        "whiteout-of-own-layer",
        CLASS,
        "of what the same layer brings: that stays",
        (LOWER, tar(file(b"n", b"4"), file(b".wh.n"))),
        {**THERE, b"n": f(b"4")},
    ),
    accepted(
        "whiteout-opaque-root", CLASS, "all that is below", (LOWER, tar(file(b".wh..wh..opq"), file(b"n", b"4"))), {b"n": f(b"4")}
    ),
    accepted(
        "whiteout-hardlink-of-hidden",
        CLASS,
        "a hard link to what is hidden after it",
        (LOWER, tar(hardlink(b"h", b"e"), file(b".wh.e"))),
        {b"d": d(), b"d/x": f(b"1"), b"d/y": f(b"2"), b"h": f(b"3")},
    ),
    accepted(
        "whiteout-overlayfs-device",
        CLASS,
        "overlayfs' own whiteout is a device like others",
        tar(character(b"x", 0, 0)),
        None,
        names=1,
    ),
    refused(
        "whiteout-by-symlink-target",
        CLASS,
        "a symlink's target that would make a directory called `.wh.b`",
        tar(symlink(b"l", b"/a/.wh.b"), file(b"l/x")),
        "whiteout",
    ),
    refused(
        "whiteout-by-symlink-target-deep",
        CLASS,
        "the same, in the middle of the target",
        tar(symlink(b"l", b"/a/.wh.b/c"), file(b"l/x")),
        "whiteout",
    ),
    accepted(
        "whiteout-255", CLASS, "of the longest name that there is", (tar(named(b"n" * 255)), tar(named(b".wh." + b"n" * 255))), {}
    ),
    accepted(
        "whiteout-many-opaque",
        CLASS,
        "five thousand opaque marks in one directory",
        (LOWER, entry(b"d/.wh..wh..opq", b"0") * 5000 + tar(file(b"d/n"))),
        {b"d": d(), b"d/n": f(), b"e": f(b"3")},
    ),
]
