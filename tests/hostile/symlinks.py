"""Symlinks: written through, replaced, looped, given metadata. What they lead to is always a place of the image."""

from __future__ import annotations

import struct

from reconciler.image.spec import Limits
from tests.hostile.archive import GID, MODE, UID, entry, fifo, file, folder, hardlink, named, octal, pax, symlink, tar
from tests.hostile.case import accepted, d, f, ln, pipe, refused

THROUGH = "symlink write-through"
PATH_MAX = "PATH_MAX / realpath"
MAGIC_LINKS = "magic links"
LOOPS = "loops / expansion"
ESCAPE = "symlink escape target"
MALFORMED = "symlink target malformed"
OVERWRITE = "overwrite through symlink"
OVER_LINK = "dir over symlink"
REPLACED = "dir replaced by symlink"
DEFERRED = "deferred metadata"
METADATA = "metadata through symlink"
CONFUSION = "type confusion"

OUTSIDE = {b"outside": d(), b"outside/x": f(b"in")}
LATE = {136: octal(1_000_000_000, 12)}
"""An mtime that nobody else has."""

ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, 7, 2**32 - 1) for tag in (1, 4, 32))
RESOLVE = Limits(climbing_links="resolve")

STEPS = b"abcdefghijklmnop"
LONG = b"d" * 247
SHORT = b"/".join(bytes([step]) for step in STEPS)


def past_path_max(*then: bytes) -> bytes:
    """Sixteen links with names of a letter to directories of 247 letters, one in the other, and a link up through all of them."""
    members, above = [], b""
    for step in STEPS:
        members += [named(above + LONG + b"/", b"5"), named(above + bytes([step]), b"2", link=LONG)]
        above += LONG + b"/"
    members += [named(SHORT + b"/" + b"l" * 254, b"2", link=b"../" * len(STEPS))]
    members += [named(b"escape", b"2", link=SHORT + b"/" + b"l" * 254 + b"/../../../../outside"), *then]
    return tar(*members)


def growing(steps: int) -> list[bytes]:
    """Each link is the one before it, twice."""
    return [symlink(b"0", b"."), *(symlink(b"%d" % i, b"%d/%d" % (i - 1, i - 1)) for i in range(1, steps))]


CASES = [
    # -------------------------------------------------------------------------------------- symlink write-through
    accepted(
        "sym-absolute",
        THROUGH,
        "`l -> /outside`, then `l/x`",
        tar(symlink(b"l", b"/outside"), file(b"l/x", b"in")),
        {b"l": ln(b"/outside"), **OUTSIDE},
    ),
    accepted(
        "sym-absolute-dotdot",
        THROUGH,
        "`l -> /../../outside`: above the root is the root",
        tar(symlink(b"l", b"/../../outside"), file(b"l/x", b"in")),
        {b"l": ln(b"/../../outside"), **OUTSIDE},
    ),
    refused(
        "sym-relative",
        THROUGH,
        "`l -> ../outside`, then `l/x`",
        tar(symlink(b"l", b"../outside"), file(b"l/x")),
        "link-climbs",
        b"l",
    ),
    refused(
        "sym-relative-deep",
        THROUGH,
        "`a/b/l` climbs three times",
        tar(symlink(b"a/b/l", b"../../../outside"), file(b"a/b/l/x")),
        "link-climbs",
    ),
    refused(
        "sym-relative-detour",
        THROUGH,
        "climbs behind a step forward",
        tar(symlink(b"l", b"a/../../outside"), file(b"l/x")),
        "link-climbs",
    ),
    accepted(
        "sym-relative-resolved",
        THROUGH,
        "`l -> ../outside` under climbingLinks: resolve",
        tar(symlink(b"l", b"../outside"), file(b"l/x", b"in")),
        {b"l": ln(b"../outside"), **OUTSIDE},
        limits=RESOLVE,
    ),
    accepted(
        "sym-relative-deep-resolved",
        THROUGH,
        "`a/b/l` climbs three times under climbingLinks: resolve",
        tar(symlink(b"a/b/l", b"../../../outside"), file(b"a/b/l/x", b"in")),
        {b"a": d(), b"a/b": d(), b"a/b/l": ln(b"../../../outside"), **OUTSIDE},
        limits=RESOLVE,
    ),
    accepted(
        "sym-cur-par",
        THROUGH,
        "`cur -> .`, `par -> cur/..`, then `par/outside/x`",
        tar(symlink(b"cur", b"."), symlink(b"par", b"cur/.."), file(b"par/outside/x", b"in")),
        {b"cur": ln(b"."), b"par": ln(b"cur/.."), **OUTSIDE},
    ),
    accepted(
        "sym-up-chain",
        THROUGH,
        "`a/up -> ..`, `b -> a/up/../..`, then `b/outside/x`",
        tar(
            folder(b"a"), symlink(b"a/up", b".."), symlink(b"b", b"a/up"), symlink(b"c", b"a/up/.."), file(b"c/outside/x", b"in")
        ),
        {b"a": d(), b"a/up": ln(b".."), b"b": ln(b"a/up"), b"c": ln(b"a/up/.."), **OUTSIDE},
    ),
    refused(
        "sym-up-chain-climbing",
        THROUGH,
        "`a/up -> ..`, `b -> a/up/../../..`",
        tar(folder(b"a"), symlink(b"a/up", b".."), symlink(b"b", b"a/up/../../..")),
        "link-climbs",
    ),
    accepted(
        "sym-chain",
        THROUGH,
        "three links in a row, then through all of them",
        tar(symlink(b"a", b"b"), symlink(b"b", b"c"), symlink(b"c", b"/outside"), file(b"a/x", b"in")),
        {b"a": ln(b"b"), b"b": ln(b"c"), b"c": ln(b"/outside"), **OUTSIDE},
    ),
    accepted(
        "sym-directory-below",
        THROUGH,
        "a directory is made through a link",
        tar(symlink(b"l", b"/outside"), folder(b"l/x", 0o700)),
        {b"l": ln(b"/outside"), b"outside": d(0o755), b"outside/x": d(0o700)},
    ),
    accepted(
        "sym-symlink-below",
        THROUGH,
        "a symlink is made through a link",
        tar(symlink(b"l", b"/outside"), symlink(b"l/x", b"/etc")),
        {b"l": ln(b"/outside"), b"outside": d(), b"outside/x": ln(b"/etc")},
    ),
    accepted(
        "sym-fifo-below",
        THROUGH,
        "a fifo is made through a link",
        tar(symlink(b"l", b"/outside"), fifo(b"l/x")),
        {b"l": ln(b"/outside"), b"outside": d(), b"outside/x": pipe()},
    ),
    refused(
        "sym-through-file",
        THROUGH,
        "a link to a file on the way",
        tar(file(b"etc/passwd"), symlink(b"l", b"/etc/passwd"), file(b"l/x")),
        "parent-type",
    ),
    refused(
        "sym-through-fifo",
        THROUGH,
        "a link to a fifo on the way",
        tar(fifo(b"p"), symlink(b"l", b"p"), file(b"l/x")),
        "parent-type",
    ),
    accepted(
        "sym-two-layers",
        THROUGH,
        "the link in one layer, the write through it in the next",
        (tar(symlink(b"l", b"/outside")), tar(file(b"l/x", b"in"))),
        {b"l": ln(b"/outside"), **OUTSIDE},
    ),
    accepted(
        "sym-windows",
        THROUGH,
        "a target with Windows separators is one name",
        tar(symlink(b"l", b"..\\..\\outside"), file(b"l/x", b"in")),
        {b"l": ln(b"..\\..\\outside"), b"..\\..\\outside": d(), b"..\\..\\outside/x": f(b"in")},
    ),
    # ---------------------------------------------------------------------------------------- PATH_MAX / realpath
    accepted(
        "sym-pathmax-write",
        PATH_MAX,
        "a link behind a path longer than PATH_MAX, then a file through it",
        lambda: past_path_max(file(b"escape/x", b"in")),
        names=16 * 2 + 2 + 2,
    ),
    refused(
        "sym-pathmax-hardlink",
        PATH_MAX,
        "a hard link through a path longer than PATH_MAX, to what is not in the image",
        lambda: past_path_max(hardlink(b"h", b"escape/passwd")),
        "hardlink-missing",
    ),
    refused(
        "sym-pathmax-climbing",
        PATH_MAX,
        "the same with a link that climbs by its name",
        lambda: past_path_max(named(b"deep", b"2", link=b"../" * 3 + b"outside")),
        "link-climbs",
    ),
    refused(
        "sym-name-length",
        PATH_MAX,
        "a target with a component of 256 bytes, which a member below it would make",
        tar(named(b"l", b"2", link=b"n" * 256), file(b"l/x")),
        "name-length",
    ),
    refused(
        "sym-name-limit-of-manifest",
        PATH_MAX,
        "a target with a component longer than the manifest's maxNameBytes",
        tar(symlink(b"l", b"n" * 60), file(b"l/x")),
        "name-length",
        limits=Limits(max_name_bytes=59),
    ),
    refused(
        "sym-pathmax-target",
        PATH_MAX,
        "a target of 4096 bytes, more than the kernel follows",
        tar(named(b"l", b"2", link=b"a/" * 2048)),
        "link-target",
    ),
    refused(
        "sym-pathmax-depth",
        PATH_MAX,
        "a short name that leads deeper than maxDepth through links",
        lambda: past_path_max(named(b"q", b"2", link=SHORT), file(b"q/x/y", b"1")),
        "link-loop",
        limits=Limits(max_depth=17),
    ),
    # ------------------------------------------------------------------------------------------------ magic links
    accepted(
        "sym-proc-root",
        MAGIC_LINKS,
        "`p -> /proc/self/root` is a path of the image",
        tar(symlink(b"p", b"/proc/self/root"), file(b"p/outside/x", b"in")),
        {
            b"p": ln(b"/proc/self/root"),
            b"proc": d(),
            b"proc/self": d(),
            b"proc/self/root": d(),
            b"proc/self/root/outside": d(),
            b"proc/self/root/outside/x": f(b"in"),
        },
    ),
    accepted(
        "sym-proc-cwd",
        MAGIC_LINKS,
        "`p -> /proc/self/cwd`",
        tar(symlink(b"p", b"/proc/self/cwd"), file(b"p/x", b"in")),
        {b"p": ln(b"/proc/self/cwd"), b"proc": d(), b"proc/self": d(), b"proc/self/cwd": d(), b"proc/self/cwd/x": f(b"in")},
    ),
    accepted(
        "sym-proc-fd",
        MAGIC_LINKS,
        "`p -> /proc/self/fd/3` leads to no descriptor of the builder",
        tar(symlink(b"p", b"/proc/self/fd/3"), file(b"p", b"in")),
        {b"p": f(b"in")},
    ),
    accepted(
        "sym-proc-1-root",
        MAGIC_LINKS,
        "a file written through `/proc/1/root`",
        tar(file(b"/proc/1/root/x", b"in")),
        {b"proc": d(), b"proc/1": d(), b"proc/1/root": d(), b"proc/1/root/x": f(b"in")},
    ),
    # ------------------------------------------------------------------------------------------ loops / expansion
    refused(
        "sym-loop",
        LOOPS,
        "`a -> b`, `b -> a`, then `a/x`",
        tar(symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x")),
        "link-loop",
    ),
    refused("sym-loop-self", LOOPS, "`a -> a`, then `a/x`", tar(symlink(b"a", b"a"), file(b"a/x")), "link-loop"),
    refused("sym-loop-growing", LOOPS, "`a -> a/a`, then `a/x`", tar(symlink(b"a", b"a/a"), file(b"a/x")), "link-loop"),
    refused(
        "sym-60-hops",
        LOOPS,
        "sixty links in a row",
        tar(*(symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(60)), folder(b"l60"), file(b"l0/x")),
        "link-loop",
    ),
    accepted(
        "sym-39-hops",
        LOOPS,
        "as many links as Linux follows",
        tar(*(symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(39)), folder(b"l39"), file(b"l0/x")),
        names=41,
    ),
    refused("sym-exponential", LOOPS, "`i -> (i-1)/(i-1)`, thirty times", tar(*growing(30), file(b"29/x")), "link-loop"),
    refused(
        "sym-exponential-hardlink",
        LOOPS,
        "the same as a hard link's target",
        tar(*growing(30), hardlink(b"h", b"29/x")),
        "hardlink-missing",
    ),
    accepted("sym-exponential-unused", LOOPS, "nobody goes through them", tar(*growing(30)), names=30),
    refused(
        "sym-detours",
        LOOPS,
        "every name leads through 30 000 components of links",
        lambda: tar(
            folder(b"b"),
            named(b"a", b"2", link=b"b/../" * 800),
            named(b"c", b"2", link=b"a/" * 38),
            *(file(b"c/%d" % (i % 7)) + file(b"b/%d" % i) for i in range(200)),
        ),
        "limit-resolution",
        limits=Limits(max_entries=1000),
    ),
    # -------------------------------------------------------------------------------------- symlink escape target
    accepted(
        "sym-absolute-unused",
        ESCAPE,
        "`l -> /etc/shadow` is content: in the image it is the image's",
        tar(symlink(b"l", b"/etc/shadow")),
        {b"l": ln(b"/etc/shadow")},
    ),
    refused(
        "sym-climbing-unused",
        ESCAPE,
        "`l -> ../../etc/shadow`, and nobody goes through it",
        tar(symlink(b"l", b"../../etc/shadow")),
        "link-climbs",
    ),
    # ----------------------------------------------------------------------------------- symlink target malformed
    refused("sym-target-empty", MALFORMED, "no target", tar(symlink(b"l", b"")), "link-target"),
    refused(
        "sym-target-4096", MALFORMED, "a target that ext4 can't hold", tar(named(b"l", b"2", link=b"t" * 4096)), "link-target"
    ),
    accepted(
        "sym-target-4095",
        MALFORMED,
        "the longest target that ext4 holds",
        tar(named(b"l", b"2", link=b"t" * 4095)),
        {b"l": ln(b"t" * 4095)},
    ),
    refused(
        "sym-target-nul", MALFORMED, "a NUL in a pax linkpath", tar(pax((b"linkpath", b"a\0b")), symlink(b"l", b"x")), "pax-name"
    ),
    refused(
        "sym-target-pax-empty", MALFORMED, "an empty pax linkpath", tar(pax((b"linkpath", b"")), symlink(b"l", b"x")), "pax-name"
    ),
    accepted(
        "sym-target-bytes",
        MALFORMED,
        "a target that is no text",
        tar(symlink(b"l", b"\xff\x1b[2J\n")),
        {b"l": ln(b"\xff\x1b[2J\n")},
    ),
    # ---------------------------------------------------------------------------------- overwrite through symlink
    accepted(
        "sym-then-file",
        OVERWRITE,
        "`p -> /outside/x`, then a file `p`",
        tar(file(b"outside/x", b"old"), symlink(b"p", b"/outside/x"), file(b"p", b"new")),
        {b"outside": d(), b"outside/x": f(b"old"), b"p": f(b"new")},
    ),
    accepted(
        "sym-then-file-dots",
        OVERWRITE,
        "the same, and the file is called `.//p`",
        tar(file(b"outside/x", b"old"), symlink(b"p", b"/outside/x"), file(b".//p", b"new")),
        {b"outside": d(), b"outside/x": f(b"old"), b"p": f(b"new")},
    ),
    accepted(
        "sym-then-file-dangling",
        OVERWRITE,
        "the link leads nowhere: the file is not made there",
        tar(symlink(b"p", b"/outside/x"), file(b"p", b"new")),
        {b"p": f(b"new")},
    ),
    accepted(
        "sym-then-file-layers",
        OVERWRITE,
        "the link in one layer, the file in the next",
        (tar(file(b"outside/x", b"old"), symlink(b"p", b"/outside/x")), tar(file(b"p", b"new"))),
        {b"outside": d(), b"outside/x": f(b"old"), b"p": f(b"new")},
    ),
    accepted(
        "sym-then-symlink",
        OVERWRITE,
        "a link over a link does not go through it",
        tar(folder(b"outside"), symlink(b"p", b"/outside"), symlink(b"p", b"/etc")),
        {b"outside": d(), b"p": ln(b"/etc")},
    ),
    accepted(
        "sym-then-fifo",
        OVERWRITE,
        "a fifo over a link to a file",
        tar(file(b"x", b"old"), symlink(b"p", b"x"), fifo(b"p")),
        {b"x": f(b"old"), b"p": pipe()},
    ),
    # ------------------------------------------------------------------------------------------- dir over symlink
    accepted(
        "sym-then-dir",
        OVER_LINK,
        "`d -> /outside`, then a directory `d` 0777: the link stays, what it leads to keeps its mode",
        tar(folder(b"outside", 0o700), symlink(b"d", b"/outside"), folder(b"d", 0o777)),
        {b"outside": d(0o700), b"d": ln(b"/outside")},
    ),
    accepted(
        "sym-then-dir-dot",
        OVER_LINK,
        "the same, and the directory is called `d/.`",
        tar(folder(b"outside", 0o700), symlink(b"d", b"/outside"), folder(b"d/.", 0o777)),
        {b"outside": d(0o700), b"d": ln(b"/outside")},
    ),
    accepted(
        "sym-then-dir-dangling",
        OVER_LINK,
        "the link leads nowhere: the directory takes its place",
        tar(symlink(b"d", b"/outside"), folder(b"d", 0o700), file(b"d/x", b"in")),
        {b"d": d(0o700), b"d/x": f(b"in")},
    ),
    accepted(
        "sym-then-dir-file",
        OVER_LINK,
        "the link leads to a file: the directory takes its place",
        tar(file(b"x", b"old"), symlink(b"d", b"x"), folder(b"d", 0o700)),
        {b"x": f(b"old"), b"d": d(0o700)},
    ),
    accepted(
        "sym-then-dir-layers",
        OVER_LINK,
        "the link is a lower layer's: the directory takes its place",
        (tar(folder(b"outside", 0o700), symlink(b"d", b"/outside")), tar(folder(b"d", 0o777), file(b"d/x", b"in"))),
        {b"outside": d(0o700), b"d": d(0o777), b"d/x": f(b"in")},
    ),
    accepted(
        "sym-then-dir-root",
        OVER_LINK,
        "the link leads to the root, whose mode stays",
        tar(folder(b"./", 0o711), symlink(b"d", b"/"), folder(b"d", 0o777)),
        {b"d": ln(b"/")},
        root=d(0o711),
    ),
    # ------------------------------------------------------------------------------------ dir replaced by symlink
    refused(
        "dir-then-sym",
        REPLACED,
        "`d`, `d/f`, `d -> /outside`, `d/g`",
        tar(folder(b"d"), file(b"d/f"), symlink(b"d", b"/outside"), file(b"d/g")),
        "type-change",
        b"d",
    ),
    accepted(
        "dir-then-sym-empty",
        REPLACED,
        "an empty `d` becomes a link, then `d/x`: nothing remembers the directory",
        tar(folder(b"d"), symlink(b"d", b"/outside"), file(b"d/x", b"in")),
        {b"d": ln(b"/outside"), **OUTSIDE},
    ),
    accepted(
        "dir-then-sym-deep",
        REPLACED,
        "the same one level deeper, where the parent has been used",
        tar(folder(b"a/d"), file(b"a/f"), symlink(b"a/d", b"/outside"), file(b"a/d/x", b"in")),
        {b"a": d(), b"a/f": f(), b"a/d": ln(b"/outside"), **OUTSIDE},
    ),
    refused(
        "dir-then-sym-implied",
        REPLACED,
        "a directory that no member describes is replaced",
        tar(file(b"d/f"), symlink(b"d", b"/outside")),
        "type-change",
    ),
    accepted(
        "dir-then-sym-layers",
        REPLACED,
        "a filled directory of a lower layer becomes a link: it goes with all below it",
        (tar(folder(b"d"), file(b"d/f")), tar(symlink(b"d", b"/outside"), file(b"d/x", b"in"))),
        {b"d": ln(b"/outside"), **OUTSIDE},
    ),
    refused(
        "dir-then-sym-used-layers",
        REPLACED,
        "a lower layer's directory, used by this layer and then replaced",
        (tar(folder(b"d"), file(b"d/f")), tar(file(b"d/g"), symlink(b"d", b"/outside"), file(b"d/x"))),
        "type-change",
    ),
    accepted(
        "dir-then-sym-then-dir",
        REPLACED,
        "directory, link, directory again",
        tar(folder(b"d"), symlink(b"d", b"/outside"), folder(b"d", 0o700), file(b"d/x", b"in")),
        {b"d": d(0o700), b"d/x": f(b"in")},
    ),
    # ----------------------------------------------------------------------------------------- deferred metadata
    accepted(
        "deferred-symlink",
        DEFERRED,
        "a directory's mode and time, and then a link in its place",
        tar(folder(b"outside", 0o700), folder(b"d", 0o777, at=LATE), symlink(b"d", b"/outside")),
        {b"outside": d(0o700, mtime=0), b"d": ln(b"/outside")},
    ),
    accepted(
        "deferred-hardlink",
        DEFERRED,
        "a directory's mode, and then a hard link in its place",
        tar(file(b"x", b"old", mode=0o600), folder(b"d", 0o777), hardlink(b"d", b"x")),
        {b"x": f(b"old", mode=0o600), b"d": f(mode=0o600, same_as=b"x")},
    ),
    accepted(
        "deferred-again",
        DEFERRED,
        "a directory that is described twice has the last metadata, re-entered or not",
        tar(folder(b"d", 0o777), file(b"d/x"), folder(b"d", 0o500, at=LATE), file(b"d/y")),
        {b"d": d(0o500, mtime=10**18), b"d/x": f(), b"d/y": f()},
    ),
    # ------------------------------------------------------------------------------------ metadata through symlink
    accepted(
        "sym-metadata",
        METADATA,
        "a symlink with mode 7777 and an owner, to a file",
        tar(
            file(b"x", b"old", mode=0o600),
            symlink(b"l", b"x", mode=0o777, at={MODE: b"0007777\0", UID: octal(1000, 8), GID: octal(1000, 8)} | LATE),
        ),
        {b"x": f(b"old", mode=0o600, owner=(0, 0), mtime=0), b"l": ln(b"x", owner=(1000, 1000), mtime=10**18)},
    ),
    refused(
        "sym-xattr",
        METADATA,
        "a user attribute on a symlink",
        tar(file(b"x"), pax((b"SCHILY.xattr.user.a", b"1")), symlink(b"l", b"x")),
        "xattr-type",
    ),
    refused(
        "sym-acl",
        METADATA,
        "an access control list on a symlink",
        tar(file(b"x"), pax((b"SCHILY.xattr.system.posix_acl_access", ACL)), symlink(b"l", b"x")),
        "xattr-type",
    ),
    refused(
        "sym-acl-text",
        METADATA,
        "an access control list in words on a symlink",
        tar(file(b"x"), pax((b"SCHILY.acl.access", b"user::rwx,group::rwx,other::rwx")), symlink(b"l", b"x")),
        "xattr-type",
    ),
    accepted(
        "sym-selinux",
        METADATA,
        "a label on a symlink is dropped",
        tar(pax((b"RHT.security.selinux", b"system_u:object_r:shadow_t:s0")), symlink(b"l", b"x")),
        {b"l": ln(b"x", xattrs={})},
    ),
    # --------------------------------------------------------------------------------------------- type confusion
    refused("type-lost-and-found", CONFUSION, "a file called lost+found", tar(file(b"lost+found", b"1")), "lost-and-found"),
    refused(
        "type-lost-and-found-symlink",
        CONFUSION,
        "a symlink called lost+found, and a file through it",
        tar(file(b"a"), symlink(b"lost+found", b"/b"), file(b"lost+found/x")),
        "lost-and-found",
        b"lost+found",
    ),
    refused(
        "type-lost-and-found-hardlink",
        CONFUSION,
        "a hard link to a file, called lost+found, by a way through a link to the root",
        tar(file(b"a"), symlink(b"r", b"/"), hardlink(b"r/lost+found", b"a")),
        "lost-and-found",
        b"r/lost+found",
    ),
    refused("type-file-then-below", CONFUSION, "a file `a`, then `a/b`", tar(file(b"a"), file(b"a/b")), "parent-type"),
    refused(
        "type-dir-then-file",
        CONFUSION,
        "a filled directory, then a file of its name",
        tar(file(b"a/b"), file(b"a")),
        "type-change",
    ),
    accepted(
        "type-empty-dir-then-file",
        CONFUSION,
        "an empty directory, then a file of its name",
        tar(folder(b"a"), file(b"a", b"1")),
        {b"a": f(b"1")},
    ),
    accepted(
        "type-file-then-dir",
        CONFUSION,
        "a file, then a directory of its name",
        tar(file(b"a"), folder(b"a"), file(b"a/b")),
        {b"a": d(), b"a/b": f()},
    ),
    refused(
        "type-dir-then-hardlink",
        CONFUSION,
        "a filled directory, then a hard link of its name",
        tar(file(b"x"), file(b"a/b"), hardlink(b"a", b"x")),
        "type-change",
    ),
    refused(
        "type-file-slash", CONFUSION, "a file with data whose name ends in a slash", tar(file(b"a/", b"data")), "type-of-name"
    ),
    accepted(
        "type-symlink-slash",
        CONFUSION,
        "a symlink whose name ends in a slash",
        tar(symlink(b"l/", b"/outside"), file(b"l/x", b"in")),
        {b"l": ln(b"/outside"), **OUTSIDE},
    ),
    accepted(
        "type-file-slash-empty",
        CONFUSION,
        "an empty file whose name ends in a slash is a directory, as it always was",
        tar(entry(b"a/", b"\0")),
        {b"a": d()},
    ),
]
