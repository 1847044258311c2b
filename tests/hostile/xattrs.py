"""Extended attributes: large, many, malformed, or meant for another host."""

from __future__ import annotations

import struct

from reconciler.image.spec import Limits
from tests.hostile.archive import fifo, file, folder, pax, tar
from tests.hostile.case import accepted, d, f, refused
from tests.support.trees import ACL, ACL_MODE, NOBODY_IN_PARTICULAR, acl

CLASS = "xattr"
SCHILY = b"SCHILY.xattr."
STRICT = Limits(foreign_attributes="refuse")
NAMED = tar(pax((b"SCHILY.acl.access", b"user::rw-,user:mallory:rwx,group::r--,mask::rwx,other::---")), file(b"x"))
UNNAMED = acl(*((tag, bits, NOBODY_IN_PARTICULAR) for tag, bits in ((0x01, 6), (0x04, 4), (0x10, 7), (0x20, 0))))
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def on_file(*pairs: tuple[bytes, bytes]) -> bytes:
    return tar(pax(*((SCHILY + name, value) for name, value in pairs)), file(b"x", mode=0o644))


CASES = [
    refused("xattr-512k", CLASS, "a value of 512 KiB", lambda: on_file((b"user.a", b"v" * (512 << 10))), "limit-xattrs", b"x"),
    refused("xattr-5k", CLASS, "a value that fits no block of ext4", on_file((b"user.a", b"v" * 5000)), "xattr-size"),
    refused(
        "xattr-20k-names",
        CLASS,
        "twenty thousand names",
        lambda: on_file(*((b"user.%05d" % i, b"v") for i in range(20_000))),
        "limit-xattrs",
    ),
    refused(
        "xattr-200-names",
        CLASS,
        "more names than a block holds",
        on_file(*((b"user.%03d" % i, b"v") for i in range(200))),
        "xattr-size",
    ),
    accepted(
        "xattr-full-block",
        CLASS,
        "as much as a block holds",
        on_file((b"user.a", b"v" * 4000)),
        {b"x": f(xattrs={b"user.a": b"v" * 4000})},
    ),
    refused(
        "xattr-limit-of-manifest",
        CLASS,
        "more than the manifest's maxXattrBytes",
        on_file((b"user.a", b"v" * 100)),
        "limit-xattrs",
        limits=Limits(max_xattr_bytes=64),
    ),
    refused(
        "xattr-capability-short",
        CLASS,
        "a capability of 19 bytes",
        on_file((b"security.capability", CAPABILITY[:-1])),
        "xattr-value",
    ),
    refused(
        "xattr-capability-long",
        CLASS,
        "a capability of 24 bytes that says version 2",
        on_file((b"security.capability", CAPABILITY + bytes(4))),
        "xattr-value",
    ),
    refused(
        "xattr-capability-version",
        CLASS,
        "a capability of a version that nobody knows",
        on_file((b"security.capability", b"\1\0\0\x09" + CAPABILITY[4:])),
        "xattr-value",
    ),
    refused("xattr-capability-empty", CLASS, "an empty capability", on_file((b"security.capability", b"")), "xattr-value"),
    accepted(
        "xattr-capability",
        CLASS,
        "a capability as the kernel has it",
        on_file((b"security.capability", CAPABILITY)),
        {b"x": f(xattrs={b"security.capability": CAPABILITY})},
    ),
    refused("xattr-no-namespace", CLASS, "a name without a namespace", on_file((b"a", b"1")), "xattr-name"),
    refused("xattr-no-rest", CLASS, "a namespace without a name", on_file((b"user.", b"1")), "xattr-name"),
    refused("xattr-empty-name", CLASS, "no name at all", on_file((b"", b"1")), "xattr-name"),
    refused("xattr-name-256", CLASS, "a name of 256 bytes", on_file((b"user." + b"n" * 256, b"1")), "xattr-name"),
    refused(
        "xattr-nul-name",
        CLASS,
        "a NUL in a name, which libarchive's encoding can hide",
        tar(pax((b"LIBARCHIVE.xattr.user.a%00b", b"MQ")), file(b"x")),
        "xattr-name",
    ),
    refused("xattr-nul-key", CLASS, "a NUL in the record's own key", on_file((b"user.a\0b", b"1")), "pax-record"),
    refused("xattr-trusted", CLASS, "trusted.* other than overlay's", on_file((b"trusted.a", b"1")), "xattr-name", limits=STRICT),
    refused(
        "xattr-system", CLASS, "system.* other than the ACLs", on_file((b"system.nfs4_acl", b"1")), "xattr-name", limits=STRICT
    ),
    refused(
        "xattr-security",
        CLASS,
        "security.* that nobody knows",
        on_file((b"security.apparmor", b"1")),
        "xattr-name",
        limits=STRICT,
    ),
    accepted(
        "xattr-overlay",
        CLASS,
        "trusted.overlay.*, which would redirect directories under overlayfs, is dropped",
        tar(pax((SCHILY + b"trusted.overlay.redirect", b"/etc"), (SCHILY + b"trusted.overlay.opaque", b"y")), folder(b"d")),
        {b"d": d(xattrs={})},
    ),
    accepted(
        "xattr-labels",
        CLASS,
        "labels and signatures of another host are dropped",
        on_file((b"security.selinux", b"a:b:c"), (b"security.ima", b"\3"), (b"security.evm", b"\2"), (b"user.a", b"1")),
        {b"x": f(xattrs={b"user.a": b"1"})},
    ),
    refused(
        "xattr-on-fifo",
        CLASS,
        "user.* on a fifo, which the kernel does not allow",
        tar(pax((SCHILY + b"user.a", b"1")), fifo(b"p")),
        "xattr-type",
    ),
    refused(
        "xattr-two-values",
        CLASS,
        "one attribute in two encodings, with two values",
        tar(pax((SCHILY + b"user.a", b"1"), (b"LIBARCHIVE.xattr.user.a", b"Mg")), file(b"x")),
        "pax-ambiguous",
    ),
    refused(
        "xattr-base64",
        CLASS,
        "a value that is no base64",
        tar(pax((b"LIBARCHIVE.xattr.user.a", b"%%")), file(b"x")),
        "pax-record",
    ),
    refused(
        "xattr-acl-malformed",
        CLASS,
        "an access control list that is cut",
        on_file((b"system.posix_acl_access", ACL[:-1])),
        "xattr-value",
    ),
    refused(
        "xattr-acl-unsorted",
        CLASS,
        "an access control list that the kernel would refuse",
        on_file((b"system.posix_acl_access", ACL[:4] + ACL[12:] + ACL[4:12])),
        "xattr-value",
    ),
    refused(
        "xattr-acl-default-on-file", CLASS, "a default list on a file", on_file((b"system.posix_acl_default", ACL)), "xattr-type"
    ),
    accepted(
        "xattr-acl-name",
        CLASS,
        "a list in words that names a user whom the image does not have loses that entry",
        NAMED,
        {b"x": f(mode=0o670, xattrs={b"system.posix_acl_access": UNNAMED})},
    ),
    refused(
        "xattr-acl-name-required",
        CLASS,
        "the same, where the manifest refuses what no image keeps",
        NAMED,
        "acl-name",
        limits=STRICT,
    ),
    refused(
        "xattr-acl-words",
        CLASS,
        "a list in words that is none",
        tar(pax((b"SCHILY.acl.access", b"user::rwxs,group::---,other::---")), file(b"x")),
        "xattr-value",
    ),
    refused(
        "xattr-acl-id",
        CLASS,
        "a list in words for id 2^32-1",
        tar(pax((b"SCHILY.acl.access", b"user::rw-,user:4294967295:rwx,group::r--,mask::rwx,other::---")), file(b"x")),
        "xattr-value",
    ),
    refused(
        "xattr-acl-many",
        CLASS,
        "a list in words of 20 000 entries",
        lambda: tar(
            pax(
                (
                    b"SCHILY.acl.access",
                    b"user::rw-,group::r--,mask::rwx,other::---," + b",".join(b"user:%d:rwx" % i for i in range(20_000)),
                )
            ),
            file(b"x"),
        ),
        "limit-xattrs",
    ),
    accepted(
        "xattr-acl",
        CLASS,
        "an access control list gives the mode",
        on_file((b"system.posix_acl_access", ACL)),
        {b"x": f(mode=ACL_MODE, xattrs={b"system.posix_acl_access": ACL})},
    ),
    refused(
        "xattr-many-members",
        CLASS,
        "small attributes on many members: together more than maxEntries",
        tar(*(pax(*((SCHILY + b"user.%03d" % i, b"") for i in range(100))) + file(b"%d" % j) for j in range(12))),
        "limit-xattrs",
        limits=Limits(max_entries=1000),
    ),
]
