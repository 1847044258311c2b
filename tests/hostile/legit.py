"""Archives that look odd and are fine: what real writers make, and rules that are too strict break on."""

from __future__ import annotations

import gzip

from reconciler.image.spec import MIB, Limits
from tests.hostile.archive import (
    END,
    GNU,
    V7,
    character,
    entry,
    file,
    folder,
    hardlink,
    long_link,
    long_name,
    octal,
    padded,
    pax,
    pax_global,
    symlink,
    tar,
)
from tests.hostile.case import accepted, char, d, f, ln
from tests.support.layers import pack
from tests.support.trees import sparse

CLASS = "legit"
RESOLVE = Limits(climbing_links="resolve")
TIME = {136: octal(1_000_000_000, 12)}


def mini_rootfs() -> bytes:
    """Merged /usr, accounts, devices, a setuid file, and every kind of link."""
    return tar(
        folder(b"./", 0o755),
        *(folder(name) for name in (b"./usr/", b"./usr/bin/", b"./usr/lib/", b"./etc/", b"./dev/", b"./var/")),
        *(symlink(b"./" + name, b"usr/" + name) for name in (b"bin", b"lib")),
        file(b"./bin/sh", b"#!", mode=0o755),
        file(b"./usr/bin/su", b"#!", mode=0o4755),
        hardlink(b"./usr/bin/ash", b"./bin/sh"),
        symlink(b"./etc/mtab", b"../proc/self/mounts"),
        symlink(b"./var/run", b"/run"),
        character(b"./dev/null", 1, 3),
        folder(b"./tmp/", 0o1777),
    )


ROOTFS = {
    **{name: d(0o755) for name in (b"usr", b"usr/bin", b"usr/lib", b"etc", b"dev", b"var")},
    b"tmp": d(0o1777),
    b"bin": ln(b"usr/bin"),
    b"lib": ln(b"usr/lib"),
    b"usr/bin/sh": f(b"#!", mode=0o755),
    b"usr/bin/su": f(b"#!", mode=0o4755),
    b"usr/bin/ash": f(same_as=b"usr/bin/sh"),
    b"etc/mtab": ln(b"../proc/self/mounts"),
    b"var/run": ln(b"/run"),
    b"dev/null": char(1, 3),
}
MERGED = {b"usr": d(), b"usr/bin": d(), b"usr/bin/sh": f(b"1")}

CASES = [
    accepted("legit-mini-rootfs", CLASS, "a small root file system", mini_rootfs(), ROOTFS, root=d(0o755)),
    accepted("legit-mini-rootfs-twice", CLASS, "the same layer twice", (mini_rootfs(), mini_rootfs()), ROOTFS),
    accepted(
        "legit-usrmerge-relative",
        CLASS,
        "`bin -> usr/bin`, then `bin/sh`",
        tar(folder(b"usr/bin"), symlink(b"bin", b"usr/bin"), file(b"bin/sh", b"1")),
        {**MERGED, b"bin": ln(b"usr/bin")},
    ),
    accepted(
        "legit-usrmerge-absolute",
        CLASS,
        "`bin -> /usr/bin`, then `bin/sh`",
        tar(folder(b"usr/bin"), symlink(b"bin", b"/usr/bin"), file(b"bin/sh", b"1")),
        {**MERGED, b"bin": ln(b"/usr/bin")},
    ),
    accepted(
        "legit-usrmerge-before",
        CLASS,
        "the link comes before its directory",
        tar(symlink(b"bin", b"usr/bin"), file(b"bin/sh", b"1"), folder(b"usr/bin", 0o711)),
        {**MERGED, b"usr/bin": d(0o711), b"bin": ln(b"usr/bin")},
    ),
    accepted(
        "legit-usrmerge-joined",
        CLASS,
        "`bin` as a link, and then as a directory of another tree",
        tar(folder(b"usr/bin", 0o755), symlink(b"bin", b"usr/bin"), folder(b"bin", 0o700), file(b"bin/sh", b"1")),
        {**MERGED, b"usr/bin": d(0o755), b"bin": ln(b"usr/bin")},
    ),
    accepted(
        "legit-usrmerge-layers",
        CLASS,
        "the link in one layer, the file in the next",
        (tar(folder(b"usr/bin"), symlink(b"bin", b"usr/bin")), tar(file(b"bin/sh", b"1"))),
        {**MERGED, b"bin": ln(b"usr/bin")},
    ),
    accepted(
        "legit-hardlink-then-replace",
        CLASS,
        "a hard link, and then a file of its name",
        tar(file(b"a", b"old"), hardlink(b"b", b"a"), file(b"b", b"new")),
        {b"a": f(b"old"), b"b": f(b"new")},
    ),
    accepted(
        "legit-hardlink-absolute",
        CLASS,
        "an absolute hard link target, as kaniko writes it",
        tar(file(b"usr/bin/perl", b"1"), hardlink(b"usr/bin/perl5", b"/usr/bin/perl")),
        {b"usr": d(), b"usr/bin": d(), b"usr/bin/perl": f(b"1"), b"usr/bin/perl5": f(same_as=b"usr/bin/perl")},
        reproduces="moby/go-archive#99",
    ),
    accepted(
        "legit-hardlink-dot",
        CLASS,
        "a target that begins with `./`, and a name that does not",
        tar(file(b"./a", b"1"), hardlink(b"b", b"./a")),
        {b"a": f(b"1"), b"b": f(same_as=b"a")},
    ),
    accepted(
        "legit-hardlink-to-symlink",
        CLASS,
        "a second name of a symlink",
        tar(symlink(b"a", b"x"), hardlink(b"b", b"a")),
        {b"a": ln(b"x"), b"b": ln(b"x", same_as=b"a")},
    ),
    accepted(
        "legit-hardlink-lower",
        CLASS,
        "a hard link to a file of a lower layer",
        (tar(file(b"a", b"1")), tar(hardlink(b"b", b"a"))),
        {b"a": f(b"1"), b"b": f(same_as=b"a")},
    ),
    accepted(
        "legit-symlink-absolute",
        CLASS,
        "absolute symlinks",
        tar(symlink(b"etc/localtime", b"/usr/share/zoneinfo/UTC")),
        {b"etc": d(), b"etc/localtime": ln(b"/usr/share/zoneinfo/UTC")},
    ),
    accepted(
        "legit-symlink-dangling",
        CLASS,
        "a symlink to what is only there when the system runs",
        tar(symlink(b"etc/mtab", b"../proc/self/mounts")),
        {b"etc": d(), b"etc/mtab": ln(b"../proc/self/mounts")},
    ),
    accepted(
        "legit-symlink-climbing",
        CLASS,
        "a link that climbs above the root, as containerd's tests have it, under climbingLinks: resolve",
        tar(symlink(b"a", b"../../b")),
        {b"a": ln(b"../../b")},
        limits=RESOLVE,
    ),
    accepted(
        "legit-dir-mtime",
        CLASS,
        "a directory is entered again: it keeps its time",
        tar(folder(b"d", at=TIME), file(b"e"), file(b"d/x")),
        {b"d": d(mtime=10**18), b"e": f(), b"d/x": f()},
    ),
    accepted(
        "legit-dir-read-only",
        CLASS,
        "a directory that nobody may write to, and a file in it",
        tar(folder(b"d", 0o555), file(b"d/x")),
        {b"d": d(0o555), b"d/x": f()},
    ),
    accepted(
        "legit-root-mtime", CLASS, "the root's time", tar(folder(b"./", at=TIME), file(b"x")), {b"x": f()}, root=d(mtime=10**18)
    ),
    accepted(
        "legit-mtime-negative-fraction",
        CLASS,
        "a time before 1970 with a fraction",
        tar(pax((b"mtime", b"-0.5")), file(b"x")),
        {b"x": f(mtime=-500_000_000)},
    ),
    accepted(
        "legit-no-directories",
        CLASS,
        "no member describes a directory",
        tar(file(b"a/b/c", b"1")),
        {b"a": d(0o755), b"a/b": d(0o755), b"a/b/c": f(b"1")},
    ),
    accepted(
        "legit-directories-last",
        CLASS,
        "directories come after what is in them",
        tar(file(b"a/b/c", b"1"), folder(b"a/b", 0o750), folder(b"a", 0o700)),
        {b"a": d(0o700), b"a/b": d(0o750), b"a/b/c": f(b"1")},
    ),
    accepted(
        "legit-same-file-twice",
        CLASS,
        "a file that was appended again",
        tar(file(b"x", b"old"), file(b"x", b"new")),
        {b"x": f(b"new")},
    ),
    accepted(
        "legit-case-names",
        CLASS,
        "names that differ by case only",
        tar(file(b"README"), file(b"readme")),
        {b"README": f(), b"readme": f()},
    ),
    accepted(
        "legit-normalisation-names",
        CLASS,
        "names that Unicode's normal forms make one",
        tar(file("é".encode()), file("e\u0301".encode())),
        {"é".encode(): f(), "e\u0301".encode(): f()},
    ),
    accepted("legit-latin1-names", CLASS, "names in Latin-1", tar(file(b"caf\xe9")), {b"caf\xe9": f()}),
    accepted(
        "legit-newline-names",
        CLASS,
        "names with newlines and quotes",
        tar(file(b"a\nb"), file(b"'\"")),
        {b"a\nb": f(), b"'\"": f()},
    ),
    accepted(
        "legit-colon-names",
        CLASS,
        "names with colons, as systemd and Perl have them",
        tar(file(b"a:b"), file(b"dev-disk-by\\x2duuid.swap")),
        {b"a:b": f(), b"dev-disk-by\\x2duuid.swap": f()},
    ),
    accepted(
        "legit-ustar-prefix",
        CLASS,
        "a name that ustar splits",
        tar(file(b"n" * 90, at={345: b"p" * 100})),
        {b"p" * 100: d(), b"p" * 100 + b"/" + b"n" * 90: f()},
    ),
    accepted("legit-name-100", CLASS, "a name that fills its field", tar(file(b"n" * 100)), {b"n" * 100: f()}),
    accepted(
        "legit-long-name-no-nul",
        CLASS,
        "a long name without its NUL, on ustar's magic",
        tar(long_name(b"n" * 150, end=b"", magic=b"ustar\00000"), file(b"n")),
        {b"n" * 150: f()},
    ),
    accepted(
        "legit-long-name-and-link",
        CLASS,
        "long name and long link, in either order",
        tar(
            long_link(b"t" * 150),
            long_name(b"n" * 150),
            entry(b"n", b"2", magic=GNU),
            long_name(b"m" * 150),
            long_link(b"t" * 150),
            entry(b"m", b"2", magic=GNU),
        ),
        {b"n" * 150: ln(b"t" * 150), b"m" * 150: ln(b"t" * 150)},
    ),
    accepted(
        "legit-leading-zeros",
        CLASS,
        "a pax size with 21 leading zeros",
        tar(pax((b"size", b"0" * 21 + b"3")), file(b"x", b"abc")),
        {b"x": f(b"abc")},
    ),
    accepted(
        "legit-gnu-times",
        CLASS,
        "GNU's atime and ctime where ustar has its prefix",
        tar(file(b"x", magic=GNU, at={345: octal(1_000_000_000, 12) + octal(1_000_000_000, 12)})),
        {b"x": f()},
    ),
    accepted(
        "legit-v7",
        CLASS,
        "a tar of Version 7",
        tar(file(b"a", b"1", magic=V7), entry(b"d/", b"\0", magic=V7)),
        {b"a": f(b"1"), b"d": d()},
    ),
    accepted("legit-volume-label", CLASS, "a volume label", tar(entry(b"backup", b"V", magic=GNU), file(b"x")), {b"x": f()}),
    accepted(
        "legit-git-archive",
        CLASS,
        "git-archive's comment",
        tar(pax_global((b"comment", b"0" * 40)), folder(b"p/"), file(b"p/x")),
        {b"p": d(), b"p/x": f()},
    ),
    accepted(
        "legit-size-of-directory",
        CLASS,
        "sizes of directories and hard links, as Go and CPython have them in their tests",
        tar(entry(b"d/", b"5", size=4096), file(b"d/x", b"1"), entry(b"h", b"1", size=1, link=b"d/x")),
        {b"d": d(), b"d/x": f(b"1"), b"h": f(same_as=b"d/x")},
    ),
    accepted("legit-records", CLASS, "zeros up to a record of 10 KiB", tar(file(b"x")) + bytes(10240 - 1536), {b"x": f()}),
    accepted(
        "legit-no-end-marker",
        CLASS,
        "no end marker, under missingEndMarker: accept",
        file(b"x"),
        {b"x": f()},
        limits=Limits(missing_end_marker="accept"),
    ),
    accepted(
        "legit-junk-at-end",
        CLASS,
        "junk in the last record, under trailingData: ignore",
        tar(file(b"x")) + b"WinXP",
        {b"x": f()},
        limits=Limits(trailing_data="ignore"),
    ),
    accepted(
        "legit-compressible",
        CLASS,
        "6 MiB of zeros as gzip: a thousand to one, and harmless",
        lambda: gzip.compress(tar(file(b"x", bytes(6 * MIB)))),
        names=1,
    ),
    accepted(
        "legit-gzip-members",
        CLASS,
        "gzip in many members, as pigz and eStargz write it",
        lambda: b"".join(gzip.compress(part) for part in (mini_rootfs()[:3000], mini_rootfs()[3000:5000], mini_rootfs()[5000:])),
        ROOTFS,
    ),
    accepted(
        "legit-magic-numbers",
        CLASS,
        "a file's name begins like bzip2's magic",
        tar(file(b"BZh9 is a name", b"1")),
        {b"BZh9 is a name": f(b"1")},
    ),
    accepted(
        "legit-ownership",
        CLASS,
        "owners by number; names of users say nothing",
        tar(file(b"x", at={108: octal(1000, 8), 116: octal(100, 8), 265: b"mallory", 297: b"wheel"})),
        {b"x": f(owner=(1000, 100))},
    ),
    accepted(
        "legit-sticky",
        CLASS,
        "setgid and sticky directories",
        tar(folder(b"tmp", 0o1777), folder(b"mail", 0o2775)),
        {b"tmp": d(0o1777), b"mail": d(0o2775)},
    ),
    accepted(
        "legit-mode-whole",
        CLASS,
        "all of st_mode, as some writers store it",
        tar(file(b"x", at={100: b"0100755\0"})),
        {b"x": f(mode=0o755)},
    ),
    *(
        accepted(
            f"legit-sparse-{form}",
            CLASS,
            f"a sparse file, {form}",
            lambda form=form: pack(
                [sparse(b"s", 100_000, [(0, b"a" * 512), (50_000, b"b" * 10), (100_000, b"")])],
                "gnu" if form == "old" else "pax",
                sparse_format=form,
            ),
            {b"s": f(b"a" * 512 + bytes(49_488) + b"b" * 10 + bytes(49_990))},
        )
        for form in ("old", "0.0", "0.1", "1.0")
    ),
    accepted(
        "legit-sparse-stand-in",
        CLASS,
        "GNU tar's stand-in name in front of a sparse file",
        tar(
            pax(
                (b"path", b"./GNUSparseFile.123/s"),
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"s"),
                (b"GNU.sparse.realsize", b"20"),
            ),
            file(b"GNUSparseFile.123/s", padded(b"1\n10\n1\n") + b"x"),
        ),
        {b"s": f(bytes(10) + b"x" + bytes(9))},
    ),
    accepted(
        "legit-lost-and-found",
        CLASS,
        "a directory called lost+found: it is the one that every ext4 has",
        tar(file(b"a"), folder(b"lost+found", 0o711), file(b"lost+found/x", b"1")),
        {b"a": f(), b"lost+found": d(0o711), b"lost+found/x": f(b"1")},
    ),
    accepted(
        "legit-lost-and-found-hidden",
        CLASS,
        "a whiteout of lost+found is ignored",
        (tar(file(b"a"), file(b"lost+found/x")), tar(file(b".wh.lost+found"), file(b"b"))),
        {b"a": f(), b"lost+found": d(), b"lost+found/x": f(), b"b": f()},
    ),
    accepted("legit-empty-layer", CLASS, "an empty layer", (mini_rootfs(), tar()), ROOTFS),
    accepted(
        "legit-empty-layer-gzip",
        CLASS,
        "an empty layer as Docker writes it: 1024 zeros in gzip",
        (mini_rootfs(), gzip.compress(END)),
        ROOTFS,
    ),
]
