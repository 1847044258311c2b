"""Flaws of other readers, each as the sequence of entries that it needed.

``ADVISORIES`` says what went wrong there. Only facts are taken from the advisories, no bytes: each archive is written anew.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass

from tests.hostile.archive import (
    GNU,
    SIZE,
    base256,
    disk,
    entry,
    file,
    folder,
    hardlink,
    long_name,
    octal,
    pax,
    symlink,
    tar,
)
from tests.hostile.case import accepted, corrupt, d, f, ln, refused
from tests.hostile.compression import gzipped
from tests.hostile.sparse import continued, old_gnu, one_zero
from tests.hostile.symlinks import past_path_max


@dataclass(frozen=True, slots=True)
class Advisory:
    """``where`` is the reader, ``wrong`` what it did."""

    id: str
    where: str
    wrong: str


_ROWS = """
CVE-2007-4559 | CPython tarfile | wrote wherever a member's name led
CVE-2024-12718 | CPython tarfile | chmod and utime went through a link to a directory outside
CVE-2025-4138 | CPython tarfile | a filter let links to the outside pass
CVE-2025-4330 | CPython tarfile | a link to the outside by way of other links passed the filter
CVE-2025-4435 | CPython tarfile | with errorlevel 0, members that the filter had rejected were extracted
CVE-2025-4517 | CPython tarfile | realpath gave up at PATH_MAX, and the check believed what was left
CVE-2025-8194 | CPython tarfile | a negative size moved backwards, for ever
CVE-2025-13462 | CPython tarfile | a file of type NUL with a long name was read as a directory
CVE-2026-11940 | CPython tarfile | a hard link to a deep symlink was made as a symlink higher up, where its target climbs
CVE-2026-87910 | CPython tarfile | a link that could not be made became a copy, judged under another name
gh-149486 | CPython tarfile | a chain of symlinks with empty names passed the filter
gh-157190 | CPython tarfile | a hard link to a symlink: chmod and utime went to what is outside
CVE-2025-58183 | Go archive/tar | a map of pax sparse 1.0 was read without a bound
CVE-2026-32288 | Go archive/tar | a map of GNU's old sparse format was read without a bound
CVE-2021-32760 | containerd | chmod went through a symlink that had been hard-linked
CVE-2025-47290 | containerd | a parent directory was remembered after a link had taken its place (as far as is known)
CVE-2026-17106 | moby/go-archive | checks of strings, and then paths that the kernel resolved through the archive's links
moby/go-archive#99 | moby/go-archive | the fix of the one above refused absolute hard link targets of real images
CVE-2021-29136 | umoci | a symlink took the place of the root directory
libarchive#746 | libarchive | a hard link with data wrote them to a file outside
CVE-2025-45582 | GNU tar | two archives one after the other: a link, and a file through it
CVE-2026-5704 | GNU tar | a member that listing did not show was extracted
CVE-2026-18477 | GNU tar | not known in detail; the nearest: `..` in the target of a link that is made late
CVE-2026-18508 | GNU tar | not known in detail; the nearest: a hard link to a link that is made late
CVE-2021-32803 | node-tar | a directory was remembered after a link had taken its place
CVE-2021-37701 | node-tar | the same, with the name spelled in another way
CVE-2026-23745 | node-tar | targets of hard links and symlinks were not looked at where they are absolute
CVE-2026-23950 | node-tar | names that one file system holds for the same were not
CVE-2026-24842 | node-tar | a hard link's target was checked from another directory than it was made from
CVE-2026-26960 | node-tar | a hard link's target led outside through a chain of links
CVE-2026-29786 | node-tar | a hard link to `C:../target`
CVE-2026-31802 | node-tar | a symlink to `C:../../../target`
CVE-2026-53655 | node-tar | a pax size was applied to the long name in between
CVE-2026-59873 | node-tar | gzip was inflated without a bound
CVE-2026-59874 | node-tar | a negative size in base 256 was scanned again and again
CVE-2025-62518 | async-tar, tokio-tar | a pax size was known, and the ustar size 0 was skipped: data became members
GHSA-3wgq-wrwc-vqmv | astral-tokio-tar | unpack_in wrote through a symlink to the outside
GHSA-3cv2-h65g-fgmm | astral-tokio-tar | header and pax disagreed on where the next member begins
CVE-2026-33055 | tar-rs | a pax size was ignored where the ustar size was not 0
CVE-2026-33056 | tar-rs | chmod of a directory went through a symlink of its name
0205398ac | containerd | a device number out of range was made as another device
"""

ADVISORIES = {
    row.id: row for row in (Advisory(*(part.strip() for part in line.split("|"))) for line in _ROWS.strip().splitlines())
}

EVIL = file(b"../../evil", b"hidden")
OUTSIDE = {b"outside": d(), b"outside/x": f(b"in")}
OPEN = {136: octal(1_000_000_000, 12)}


CASES = [
    refused(
        "cve-2007-4559",
        "traversal by name",
        "`../../../etc/passwd`",
        tar(file(b"ok"), file(b"../../../etc/passwd", b"root::0:0")),
        "name-climbs",
        b"../../../etc/passwd",
        reproduces="CVE-2007-4559",
    ),
    accepted(
        "cve-2024-12718",
        "metadata through symlink",
        "a link to a directory, then a directory of its name with mode 0777 and a time",
        tar(folder(b"outside", 0o700), symlink(b"d", b"/outside"), folder(b"d", 0o777, at=OPEN)),
        {b"outside": d(0o700, mtime=0), b"d": ln(b"/outside")},
        reproduces="CVE-2024-12718",
    ),
    refused(
        "cve-2025-4138",
        "symlink escape target",
        "a target that climbs behind directories that are not there",
        tar(folder(b"d"), symlink(b"d/l", b"x/y/../../../../outside"), file(b"d/l/x")),
        "link-climbs",
        reproduces="CVE-2025-4138",
    ),
    accepted(
        "cve-2025-4330",
        "symlink write-through",
        "`cur -> .`, `par -> cur/..`, `esc -> par/../outside`, written through",
        tar(symlink(b"a/cur", b"."), symlink(b"a/par", b"cur/.."), symlink(b"a/esc", b"par/../outside"), file(b"a/esc/x", b"in")),
        {b"a": d(), b"a/cur": ln(b"."), b"a/par": ln(b"cur/.."), b"a/esc": ln(b"par/../outside"), **OUTSIDE},
        reproduces="CVE-2025-4330",
    ),
    refused(
        "cve-2025-4435",
        "traversal by name",
        "members that are fine around one that is not: none is kept",
        tar(file(b"a", b"1"), file(b"../evil"), file(b"b", b"2")),
        "name-climbs",
        b"../evil",
        reproduces="CVE-2025-4435",
    ),
    refused(
        "cve-2025-4517",
        "PATH_MAX / realpath",
        "links past PATH_MAX, a hard link through them, and a file over the hard link",
        lambda: past_path_max(hardlink(b"flag", b"escape/flag"), file(b"flag", b"overwritten")),
        "hardlink-missing",
        b"flag",
        reproduces="CVE-2025-4517",
    ),
    refused(
        "cve-2025-8194",
        "numeric",
        "a size of -1024 behind two members",
        tar(file(b"a"), file(b"b"), file(b"x", at={SIZE: base256(-1024)})),
        "size",
        b"x",
        reproduces="CVE-2025-8194",
    ),
    accepted(
        "cve-2025-13462",
        "typeflag games",
        "type NUL, a long name, and a short one that ends in a slash; the data are a member",
        tar(long_name(b"d" * 99 + b"/" + b"f" * 40), entry(b"d" * 99 + b"/", b"\0", EVIL, magic=GNU)),
        {b"d" * 99: d(), b"d" * 99 + b"/" + b"f" * 40: f(EVIL)},
        reproduces="CVE-2025-13462",
    ),
    accepted(
        "cve-2026-11940",
        "hard link to symlink",
        "`a/b/s -> ../../outside`, a hard link `h` to it, then `h/x`",
        tar(symlink(b"a/b/s", b"../../outside"), hardlink(b"h", b"a/b/s"), file(b"h/x", b"in")),
        {b"a": d(), b"a/b": d(), b"a/b/s": ln(b"../../outside"), b"h": ln(b"../../outside", same_as=b"a/b/s"), **OUTSIDE},
        reproduces="CVE-2026-11940",
    ),
    refused(
        "cve-2026-87910",
        "hard link order / type",
        "a hard link to a member that comes later: no copy of that member takes its place",
        tar(hardlink(b"a/b/h", b"c/s"), symlink(b"c/s", b"../outside")),
        "hardlink-missing",
        b"a/b/h",
        reproduces="CVE-2026-87910",
    ),
    refused(
        "gh-149486",
        "root replacement",
        "a chain of symlinks with empty names",
        tar(symlink(b"", b"a/.."), symlink(b"", b"../outside"), file(b"x")),
        "name",
        reproduces="gh-149486",
    ),
    accepted(
        "gh-157190",
        "hard link to symlink",
        "`s -> /outside/x`, and a hard link to it with mode 4777 and a time",
        tar(file(b"outside/x", b"in", mode=0o600), symlink(b"s", b"/outside/x"), hardlink(b"h", b"s", mode=0o4777, at=OPEN)),
        {
            b"outside": d(),
            b"outside/x": f(b"in", mode=0o600, mtime=0),
            b"s": ln(b"/outside/x"),
            b"h": ln(b"/outside/x", same_as=b"s"),
        },
        reproduces="gh-157190",
    ),
    refused(
        "cve-2025-58183",
        "sparse: resource",
        "a map of pax sparse 1.0 with a million segments, compressed",
        lambda: gzip.compress(one_zero(b"1000000\n" + b"0\n0\n" * 1_000_000, b"", realsize=b"0"), 6),
        "limit-segments",
        reproduces="CVE-2025-58183",
    ),
    refused(
        "cve-2026-32288",
        "sparse: resource",
        "blocks that continue an old sparse map without end, compressed",
        lambda: gzip.compress(old_gnu([(0, 0)] * 4, octal(0, 12), b"", more=continued(50_000, last=b"\1")), 6),
        "limit-segments",
        reproduces="CVE-2026-32288",
    ),
    accepted(
        "cve-2021-32760",
        "hard link to symlink",
        "a hard link to a symlink, with mode 0777: the symlink's target keeps its mode",
        tar(file(b"outside/x", b"in", mode=0o600), symlink(b"a/s", b"../outside/x"), hardlink(b"a/h", b"a/s", mode=0o777)),
        {
            b"outside": d(),
            b"outside/x": f(b"in", mode=0o600),
            b"a": d(),
            b"a/s": ln(b"../outside/x"),
            b"a/h": ln(b"../outside/x", same_as=b"a/s"),
        },
        reproduces="CVE-2021-32760",
    ),
    accepted(
        "cve-2025-47290",
        "dir replaced by symlink",
        "a directory of a lower layer becomes a link, and its name goes on to be written below",
        (tar(folder(b"etc"), file(b"etc/a")), tar(symlink(b"etc", b"/outside"), file(b"etc/x", b"in"))),
        {b"etc": ln(b"/outside"), **OUTSIDE},
        reproduces="CVE-2025-47290",
    ),
    accepted(
        "cve-2026-17106",
        "symlink write-through",
        "`l -> /outside`: a file, a directory and a hard link through it",
        tar(symlink(b"l", b"/outside"), file(b"l/x", b"in"), folder(b"l/d", 0o700), hardlink(b"l/h", b"l/x")),
        {
            b"l": ln(b"/outside"),
            b"outside": d(),
            b"outside/x": f(b"in"),
            b"outside/d": d(0o700),
            b"outside/h": f(same_as=b"outside/x"),
        },
        reproduces="CVE-2026-17106",
    ),
    refused(
        "cve-2021-29136",
        "root replacement",
        "a symlink called `/`, and a file",
        tar(symlink(b"/", b"/outside"), file(b"/x")),
        "root-type",
        reproduces="CVE-2021-29136",
    ),
    corrupt(
        "libarchive-746",
        "header-only size",
        "a hard link to a file, with data that would be written to it",
        tar(file(b"x", b"1"), entry(b"h", b"1", b"overwritten" * 60, link=b"x")),
        "no header",
        reproduces="libarchive#746",
    ),
    accepted(
        "cve-2025-45582",
        "symlink write-through",
        "two layers: `x -> /outside` in the first, `x/x` in the second",
        (tar(symlink(b"x", b"/outside")), tar(file(b"x/x", b"in"))),
        {b"x": ln(b"/outside"), **OUTSIDE},
        reproduces="CVE-2025-45582",
    ),
    refused(
        "cve-2026-5704",
        "header-only size",
        "a hostile member in what a directory calls its data",
        tar(entry(b"d", b"5", size=len(EVIL)), EVIL, file(b"x")),
        "name-climbs",
        b"../../evil",
        reproduces="CVE-2026-5704",
    ),
    refused(
        "cve-2026-18477",
        "symlink escape target",
        "a link whose target climbs, then the way through it",
        tar(symlink(b"d/l", b"../../outside"), folder(b"d/l/x")),
        "link-climbs",
        reproduces="CVE-2026-18477",
    ),
    accepted(
        "cve-2026-18508",
        "hard link to symlink",
        "a link with an absolute target, a hard link to it, a file in the link's place, then through the hard link",
        tar(symlink(b"s", b"/outside"), hardlink(b"h", b"s"), file(b"s", b"1"), file(b"h/x", b"in")),
        {b"s": f(b"1"), b"h": ln(b"/outside"), **OUTSIDE},
        reproduces="CVE-2026-18508",
    ),
    accepted(
        "cve-2021-32803",
        "dir replaced by symlink",
        "a directory, a link of its name, then a file below",
        tar(folder(b"d"), symlink(b"d", b"/outside"), file(b"d/x", b"in")),
        {b"d": ln(b"/outside"), **OUTSIDE},
        reproduces="CVE-2021-32803",
    ),
    accepted(
        "cve-2021-37701",
        "dir replaced by symlink",
        "the same, and the link is called `.//d/`",
        tar(folder(b"d"), symlink(b".//d/", b"/outside"), file(b"d/x", b"in")),
        {b"d": ln(b"/outside"), **OUTSIDE},
        reproduces="CVE-2021-37701",
    ),
    refused(
        "cve-2026-23745",
        "hard link escape",
        "a hard link to `/etc/shadow`, then a file over it",
        tar(symlink(b"l", b"/etc/shadow"), hardlink(b"h", b"/etc/shadow"), file(b"h", b"root::")),
        "hardlink-missing",
        b"h",
        reproduces="CVE-2026-23745",
    ),
    accepted(
        "cve-2026-23950",
        "name encoding",
        "`ß -> /outside`, and files below `ss`, `SS` and `ß`",
        tar(symlink("ß".encode(), b"/outside"), file(b"ss/x", b"1"), file(b"SS/x", b"2"), file("ß/x".encode(), b"in")),
        {"ß".encode(): ln(b"/outside"), b"ss": d(), b"ss/x": f(b"1"), b"SS": d(), b"SS/x": f(b"2"), **OUTSIDE},
        reproduces="CVE-2026-23950",
    ),
    refused(
        "cve-2026-24842",
        "hard link escape",
        "`a/b/c/h` is `../../../../etc/passwd`",
        tar(folder(b"a/b/c"), hardlink(b"a/b/c/h", b"../../../../etc/passwd")),
        "link-climbs",
        reproduces="CVE-2026-24842",
    ),
    accepted(
        "cve-2026-26960",
        "hard link escape",
        "`a/b/c/up -> ../..`, `a/b/esc -> c/up/../..`, a hard link through both",
        tar(
            file(b"outside/x", b"in"),
            folder(b"a/b/c"),
            symlink(b"a/b/c/up", b"../.."),
            symlink(b"a/b/esc", b"c/up/../.."),
            hardlink(b"h", b"a/b/esc/outside/x"),
        ),
        {
            **OUTSIDE,
            b"a": d(),
            b"a/b": d(),
            b"a/b/c": d(),
            b"a/b/c/up": ln(b"../.."),
            b"a/b/esc": ln(b"c/up/../.."),
            b"h": f(same_as=b"outside/x"),
        },
        reproduces="CVE-2026-26960",
    ),
    refused(
        "cve-2026-29786",
        "hard link escape",
        "a hard link to `C:../target.txt`",
        tar(hardlink(b"h", b"C:../target.txt")),
        "hardlink-missing",
        reproduces="CVE-2026-29786",
    ),
    refused(
        "cve-2026-31802",
        "symlink escape target",
        "a symlink to `C:../../../target.txt`",
        tar(symlink(b"a/l", b"C:../../../../target.txt")),
        "link-climbs",
        reproduces="CVE-2026-31802",
    ),
    accepted(
        "cve-2026-53655",
        "PAX size desync",
        "pax size, long name, two members",
        tar(
            pax((b"size", b"2048")),
            long_name(b"long.txt"),
            entry(b"a", b"0", b"A" * 16, magic=GNU),
            file(b"../b", b"B" * 16),
            file(b"../c")[:512],
        ),
        {b"long.txt": f(b"A" * 16 + bytes(496) + file(b"../b", b"B" * 16) + file(b"../c"))},
        reproduces="CVE-2026-53655",
    ),
    refused(
        "cve-2026-59873",
        "compression bombs",
        "80 MiB of zeros, a thousand to one",
        gzipped,
        "limit-ratio",
        reproduces="CVE-2026-59873",
    ),
    refused(
        "cve-2026-59874",
        "numeric",
        "a size of -512 in base 256",
        tar(file(b"x", at={SIZE: base256(-512)}), file(b"y")),
        "size",
        reproduces="CVE-2026-59874",
    ),
    accepted(
        "cve-2025-62518",
        "PAX size desync",
        "ustar size 0, pax size of a whole tar in the data",
        tar(pax((b"size", b"2560")), file(b"inner.tar"), tar(file(b"../evil", b"1"))[:2048], bytes(512)),
        {b"inner.tar": f(tar(file(b"../evil", b"1"))[:2048] + bytes(512))},
        reproduces="CVE-2025-62518",
    ),
    accepted(
        "ghsa-3wgq-wrwc-vqmv",
        "symlink write-through",
        "`d/l -> ../outside`, then `d/l/x`",
        tar(symlink(b"d/l", b"../outside"), file(b"d/l/x", b"in")),
        {b"d": d(), b"d/l": ln(b"../outside"), **OUTSIDE},
        reproduces="GHSA-3wgq-wrwc-vqmv",
    ),
    refused(
        "ghsa-3cv2-h65g-fgmm",
        "PAX size desync",
        "a pax size of 0 where the header says 1024: what it skips is a member",
        tar(pax((b"size", b"0")), entry(b"x", b"0", EVIL), file(b"y")),
        "name-climbs",
        b"../../evil",
        reproduces="GHSA-3cv2-h65g-fgmm",
    ),
    accepted(
        "cve-2026-33055",
        "PAX size desync",
        "ustar size 512, pax size 1536: a member lies between the two",
        tar(pax((b"size", b"1536")), entry(b"x", b"0", b"1" * 512), EVIL),
        {b"x": f(b"1" * 512 + EVIL)},
        reproduces="CVE-2026-33055",
    ),
    accepted(
        "cve-2026-33056",
        "dir over symlink",
        "`d -> outside`, then a directory `d` 0777",
        tar(folder(b"outside", 0o700), symlink(b"d", b"outside"), folder(b"d", 0o777)),
        {b"outside": d(0o700), b"d": ln(b"outside")},
        reproduces="CVE-2026-33056",
    ),
    refused(
        "containerd-0205398ac",
        "special files",
        "a major number that is another one in 12 bits",
        tar(disk(b"x", 4096 + 8, 0)),
        "device-number",
        reproduces="0205398ac",
    ),
]
