"""Hard links: to elsewhere, to symlinks, to what is not there; written through, given data, given metadata."""

from __future__ import annotations

from reconciler.image.spec import Limits
from tests.hostile.archive import UID, character, entry, fifo, file, folder, hardlink, named, octal, pax, symlink, tar
from tests.hostile.case import accepted, char, corrupt, d, f, ln, pipe, refused

ESCAPE = "hard link escape"
TO_SYMLINK = "hard link to symlink"
WRITE = "hard link then write"
ORDER = "hard link order / type"
DATA = "header-only size"

RESOLVE = Limits(climbing_links="resolve")
LATE = {136: octal(1_000_000_000, 12)}

CASES = [
    # ------------------------------------------------------------------------------------------ hard link escape
    refused(
        "hard-outside-absolute",
        ESCAPE,
        "`h` is `/etc/shadow`, which is not in the image",
        tar(hardlink(b"h", b"/etc/shadow")),
        "hardlink-missing",
        b"h",
    ),
    accepted(
        "hard-outside-absolute-there",
        ESCAPE,
        "`h` is `/etc/shadow`, which is in the image",
        tar(file(b"etc/shadow", b"in"), hardlink(b"h", b"/etc/shadow")),
        {b"etc": d(), b"etc/shadow": f(b"in"), b"h": f(same_as=b"etc/shadow")},
    ),
    refused(
        "hard-outside-relative",
        ESCAPE,
        "`h` is `../../etc/shadow`",
        tar(hardlink(b"h", b"../../etc/shadow")),
        "link-climbs",
        b"h",
    ),
    refused(
        "hard-outside-inside-first",
        ESCAPE,
        "`h` is `a/../../etc/shadow`",
        tar(folder(b"a"), hardlink(b"h", b"a/../../etc/shadow")),
        "link-climbs",
    ),
    accepted(
        "hard-outside-resolved",
        ESCAPE,
        "`h` is `../../etc/shadow` under climbingLinks: resolve",
        tar(file(b"etc/shadow", b"in"), hardlink(b"a/h", b"../../etc/shadow")),
        {b"etc": d(), b"etc/shadow": f(b"in"), b"a": d(), b"a/h": f(same_as=b"etc/shadow")},
        limits=RESOLVE,
    ),
    refused(
        "hard-outside-resolved-dotdot",
        ESCAPE,
        "`h` is `x/..` under climbingLinks: resolve",
        tar(file(b"x/y"), hardlink(b"h", b"x/..")),
        "name-climbs",
        limits=RESOLVE,
    ),
    refused(
        "hard-base-confusion",
        ESCAPE,
        "a target beside the link, though targets count from the root",
        tar(file(b"d/f"), hardlink(b"d/h", b"f")),
        "hardlink-missing",
    ),
    accepted(
        "hard-base-root",
        ESCAPE,
        "two files of one name: the target counts from the root",
        tar(file(b"f", b"root"), file(b"d/f", b"deep"), hardlink(b"d/h", b"f")),
        {b"f": f(b"root"), b"d": d(), b"d/f": f(b"deep"), b"d/h": f(b"root", same_as=b"f")},
    ),
    refused(
        "hard-cwd-relative",
        ESCAPE,
        "a target that is there in the builder's own directory only",
        tar(hardlink(b"h", b"reconciler/image/builder.py")),
        "hardlink-missing",
    ),
    accepted(
        "hard-via-symlink",
        ESCAPE,
        "through `l -> /outside`, which is a directory of the image",
        tar(file(b"outside/x", b"in"), symlink(b"l", b"/outside"), hardlink(b"h", b"l/x")),
        {b"outside": d(), b"outside/x": f(b"in"), b"l": ln(b"/outside"), b"h": f(same_as=b"outside/x")},
    ),
    refused(
        "hard-via-symlink-missing",
        ESCAPE,
        "through `l -> /outside`, which is nowhere in the image",
        tar(symlink(b"l", b"/outside"), hardlink(b"h", b"l/x")),
        "hardlink-missing",
    ),
    refused(
        "hard-via-proc",
        ESCAPE,
        "through `p -> /proc/self/root`",
        tar(symlink(b"p", b"/proc/self/root"), hardlink(b"h", b"p/etc/passwd")),
        "hardlink-missing",
    ),
    refused(
        "hard-via-loop", ESCAPE, "through a loop of links", tar(symlink(b"l", b"l"), hardlink(b"h", b"l/x")), "hardlink-missing"
    ),
    refused("hard-target-empty", ESCAPE, "no target", tar(hardlink(b"h", b"")), "link-target"),
    refused("hard-target-long", ESCAPE, "a target of 5000 bytes", tar(named(b"h", b"1", link=b"t" * 5000)), "link-target"),
    # --------------------------------------------------------------------------------------- hard link to symlink
    accepted(
        "hard-to-symlink",
        TO_SYMLINK,
        "`s -> /outside`, and `h` is `s`, with mode 4777 and an owner",
        tar(
            folder(b"outside", 0o700),
            symlink(b"s", b"/outside"),
            hardlink(b"h", b"s", mode=0o4777, at={UID: octal(1000, 8)} | LATE),
        ),
        {
            b"outside": d(0o700, owner=(0, 0)),
            b"s": ln(b"/outside", owner=(0, 0), mtime=0),
            b"h": ln(b"/outside", owner=(0, 0), mtime=0, same_as=b"s"),
        },
    ),
    accepted(
        "hard-to-symlink-then-below",
        TO_SYMLINK,
        "then `h/x`: a link, as `s` is",
        tar(symlink(b"s", b"/outside"), hardlink(b"h", b"s"), file(b"h/x", b"in")),
        {b"s": ln(b"/outside"), b"h": ln(b"/outside", same_as=b"s"), b"outside": d(), b"outside/x": f(b"in")},
    ),
    accepted(
        "hard-to-symlink-then-file",
        TO_SYMLINK,
        "then a file `h`: the link is replaced, not written through",
        tar(file(b"x", b"old"), symlink(b"s", b"x"), hardlink(b"h", b"s"), file(b"h", b"new")),
        {b"x": f(b"old"), b"s": ln(b"x"), b"h": f(b"new")},
    ),
    accepted(
        "hard-to-symlink-shallower",
        TO_SYMLINK,
        "`a/b/s -> ../../x`, and `h` is `a/b/s`: from there it would climb, in the image it does not",
        tar(symlink(b"a/b/s", b"../../x"), hardlink(b"h", b"a/b/s"), file(b"h/y", b"in")),
        {b"a": d(), b"a/b": d(), b"a/b/s": ln(b"../../x"), b"h": ln(b"../../x", same_as=b"a/b/s"), b"x": d(), b"x/y": f(b"in")},
    ),
    accepted(
        "hard-to-symlink-loop",
        TO_SYMLINK,
        "a hard link to a link to itself",
        tar(symlink(b"s", b"h"), hardlink(b"h", b"s")),
        {b"s": ln(b"h"), b"h": ln(b"h", same_as=b"s")},
    ),
    # --------------------------------------------------------------------------------------- hard link then write
    accepted(
        "hard-then-write",
        WRITE,
        "`h` is `x`, then a file `h`: `x` keeps its content",
        tar(file(b"x", b"old"), hardlink(b"h", b"x"), file(b"h", b"new")),
        {b"x": f(b"old"), b"h": f(b"new")},
    ),
    accepted(
        "hard-target-then-write",
        WRITE,
        "`h` is `x`, then a file `x`: `h` keeps its content",
        tar(file(b"x", b"old"), hardlink(b"h", b"x"), file(b"x", b"new")),
        {b"x": f(b"new"), b"h": f(b"old")},
    ),
    accepted(
        "hard-lower-then-write",
        WRITE,
        "`h` is a lower layer's `x`, then a file `h`",
        (tar(file(b"x", b"old")), tar(hardlink(b"h", b"x"), file(b"h", b"new"))),
        {b"x": f(b"old"), b"h": f(b"new")},
    ),
    accepted(
        "hard-metadata",
        WRITE,
        "a hard link with a mode, an owner and attributes of its own: they are the file's",
        tar(
            file(b"x", b"1", mode=0o600),
            pax((b"SCHILY.xattr.user.a", b"1")),
            hardlink(b"h", b"x", mode=0o4777, at={UID: octal(1000, 8)} | LATE),
        ),
        {b"x": f(b"1", mode=0o600, owner=(0, 0), mtime=0, xattrs={}), b"h": f(same_as=b"x")},
    ),
    # ------------------------------------------------------------------------------------- hard link order / type
    refused(
        "hard-forward", ORDER, "a target that comes later", tar(hardlink(b"h", b"later"), file(b"later")), "hardlink-missing"
    ),
    refused("hard-missing", ORDER, "a target that never comes", tar(hardlink(b"h", b"never")), "hardlink-missing"),
    refused(
        "hard-whited-out",
        ORDER,
        "a target that this layer has hidden",
        (tar(file(b"x")), tar(file(b".wh.x"), hardlink(b"h", b"x"))),
        "hardlink-missing",
    ),
    refused("hard-self", ORDER, "a hard link to itself, of nothing", tar(hardlink(b"h", b"h")), "hardlink-missing"),
    accepted(
        "hard-self-there",
        ORDER,
        "a hard link to itself, of a file",
        tar(file(b"h", b"1"), hardlink(b"h", b"h"), hardlink(b"./h", b"/h")),
        {b"h": f(b"1")},
    ),
    refused("hard-directory", ORDER, "a hard link to a directory", tar(folder(b"d"), hardlink(b"h", b"d")), "hardlink-directory"),
    refused("hard-root", ORDER, "a hard link to the root", tar(hardlink(b"h", b"/")), "hardlink-directory"),
    refused("hard-root-dot", ORDER, "a hard link to `.`", tar(hardlink(b"h", b".")), "hardlink-directory"),
    refused("hard-directory-slash", ORDER, "a hard link to `d/`", tar(folder(b"d"), hardlink(b"h", b"d/")), "hardlink-directory"),
    refused(
        "hard-below-file",
        ORDER,
        "a hard link to something below a file",
        tar(file(b"f"), hardlink(b"h", b"f/x")),
        "hardlink-missing",
    ),
    refused(
        "hard-over-directory",
        ORDER,
        "a hard link in the place of a filled directory",
        tar(file(b"d/x"), hardlink(b"d", b"d/x")),
        "type-change",
    ),
    accepted(
        "hard-to-device",
        ORDER,
        "a second name of a device",
        tar(character(b"null", 1, 3), hardlink(b"h", b"null")),
        {b"null": char(1, 3), b"h": char(1, 3)},
    ),
    accepted(
        "hard-to-fifo",
        ORDER,
        "a second name of a fifo",
        tar(fifo(b"p"), hardlink(b"h", b"p"), file(b"h", b"1")),
        {b"p": pipe(), b"h": f(b"1")},
    ),
    accepted(
        "hard-deferred-swap",
        ORDER,
        "`door/h` is `x`, then `door` becomes a link: nothing is made late, behind the link",
        (
            tar(file(b"x", b"1"), folder(b"door")),
            tar(hardlink(b"a", b"x"), symlink(b"door", b"/outside"), hardlink(b"door/h", b"x")),
        ),
        {b"x": f(b"1"), b"a": f(same_as=b"x"), b"door": ln(b"/outside"), b"outside": d(), b"outside/h": f(same_as=b"x")},
    ),
    refused(
        "hard-deferred-swap-filled",
        ORDER,
        "the same in one layer",
        tar(file(b"x", b"1"), folder(b"door"), hardlink(b"door/h", b"x"), symlink(b"door", b"/outside")),
        "type-change",
    ),
    # ------------------------------------------------------------------------------------------- header-only size
    accepted(
        "size-on-directory",
        DATA,
        "a directory says 1024 bytes: no data follows",
        tar(entry(b"d", b"5", size=1024), file(b"x", b"1")),
        {b"d": d(), b"x": f(b"1")},
    ),
    refused(
        "size-on-symlink",
        DATA,
        "a symlink says 512 bytes, which GNU tar passes over and others don't",
        tar(entry(b"l", b"2", size=512, link=b"x"), file(b"x", b"1")),
        "size-of-type",
        b"l",
    ),
    accepted(
        "size-on-hardlink",
        DATA,
        "a hard link says the size of its file: no data follows",
        tar(file(b"x", b"1" * 600), entry(b"h", b"1", size=600, link=b"x"), file(b"y")),
        {b"x": f(b"1" * 600), b"h": f(same_as=b"x"), b"y": f()},
    ),
    refused(
        "size-on-device",
        DATA,
        "a device says 2^33-1 bytes",
        tar(entry(b"null", b"3", size=2**33 - 1, device=(1, 3)), file(b"x", b"1")),
        "size-of-type",
    ),
    corrupt(
        "size-on-hardlink-data",
        DATA,
        "a hard link with data behind it, as pax can store one",
        tar(file(b"x", b"1"), entry(b"h", b"1", b"evil" * 100, link=b"x")),
        "no header",
    ),
    accepted(
        "size-hidden-member",
        DATA,
        "the data of a directory are a member, to readers that skip none: it is judged like every other",
        tar(entry(b"d", b"5", size=512), file(b"hidden", b"")),
        {b"d": d(), b"hidden": f(b"")},
    ),
    refused(
        "size-hidden-member-hostile",
        DATA,
        "the same, and the member is hostile",
        tar(entry(b"d", b"5", size=512), file(b"../hidden")),
        "name-climbs",
    ),
    refused(
        "size-pax-on-directory",
        DATA,
        "a pax size in front of a directory",
        tar(pax((b"size", b"512")), folder(b"d"), file(b"x")),
        "size-of-type",
    ),
    refused(
        "size-pax-on-hardlink",
        DATA,
        "a pax size in front of a hard link",
        tar(file(b"x"), pax((b"size", b"512")), hardlink(b"h", b"x")),
        "size-of-type",
    ),
    accepted(
        "size-pax-zero-on-symlink",
        DATA,
        "a pax size of 0 in front of a symlink",
        tar(pax((b"size", b"0")), symlink(b"l", b"x")),
        {b"l": ln(b"x")},
    ),
]
