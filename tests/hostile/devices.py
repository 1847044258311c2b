"""Special files and privileges: written through, out of range, and what the policies say."""

from __future__ import annotations

import struct

from reconciler.image.spec import Limits
from tests.hostile.archive import (
    MAGIC,
    MAJOR,
    MINOR,
    V7,
    base256,
    character,
    disk,
    entry,
    fifo,
    file,
    folder,
    octal,
    pax,
    symlink,
    tar,
)
from tests.hostile.case import accepted, blk, char, d, f, pipe, refused

SPECIAL = "special files"
POLICY = "device policy"
PRIVILEGES = "privileges"

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
CAPABLE = pax((b"SCHILY.xattr.security.capability", CAPABILITY))

CASES = [
    # ---------------------------------------------------------------------------------------------- special files
    accepted(
        "dev-write-through",
        SPECIAL,
        "a disk, then a file of its name: nothing is written to the disk",
        tar(disk(b"sda", 8, 0), file(b"sda", b"boot")),
        {b"sda": f(b"boot")},
    ),
    accepted(
        "dev-write-through-symlink",
        SPECIAL,
        "a disk, a link to it, then a file of the link's name",
        tar(disk(b"sda", 8, 0), symlink(b"l", b"sda"), file(b"l", b"boot")),
        {b"sda": blk(8, 0), b"l": f(b"boot")},
    ),
    accepted(
        "fifo-then-file",
        SPECIAL,
        "a fifo, then a file of its name: no open that waits for a reader",
        tar(fifo(b"p"), file(b"p", b"1")),
        {b"p": f(b"1")},
    ),
    accepted(
        "fifo-via-link",
        SPECIAL,
        "a link to a fifo, then a file of the link's name",
        tar(fifo(b"p"), symlink(b"l", b"p"), file(b"l", b"1")),
        {b"p": pipe(), b"l": f(b"1")},
    ),
    refused("fifo-below", SPECIAL, "something below a fifo", tar(fifo(b"p"), file(b"p/x")), "parent-type"),
    refused("fifo-with-size", SPECIAL, "a fifo with a size", tar(entry(b"p", b"6", size=512), file(b"x")), "size-of-type"),
    refused(
        "dev-major-4096",
        SPECIAL,
        "a major number of 13 bits, which Linux would cut",
        tar(disk(b"x", 4096, 0)),
        "device-number",
        b"x",
    ),
    refused("dev-minor-2-20", SPECIAL, "a minor number of 21 bits", tar(character(b"x", 1, 2**20)), "device-number"),
    refused(
        "dev-major-2-32",
        SPECIAL,
        "a major number that is 8 in 32 bits",
        tar(entry(b"x", b"4", at={MAJOR: base256(2**32 + 8, 8), MINOR: octal(0, 8)})),
        "device-number",
    ),
    refused(
        "dev-major-pax",
        SPECIAL,
        "a major number of 21 digits in a pax record",
        tar(pax((b"SCHILY.devmajor", b"184467440737095516160")), disk(b"x", 8, 0)),
        "number",
    ),
    refused(
        "dev-major-pax-range",
        SPECIAL,
        "a major number out of range in a pax record",
        tar(pax((b"SCHILY.devmajor", b"4294967304")), disk(b"x", 8, 0)),
        "device-number",
    ),
    refused("dev-negative", SPECIAL, "a negative minor number", tar(entry(b"x", b"3", at={MINOR: base256(-1, 8)})), "number"),
    refused("dev-v7", SPECIAL, "a device without numbers", tar(entry(b"x", b"3", at={MAGIC: V7})), "device-number"),
    accepted(
        "dev-highest",
        SPECIAL,
        "the highest numbers that there are",
        tar(disk(b"x", 4095, 2**20 - 1)),
        {b"x": blk(4095, 2**20 - 1)},
    ),
    # ---------------------------------------------------------------------------------------------- device policy
    accepted(
        "dev-block-disk",
        POLICY,
        "the host's first disk is content of an image",
        tar(disk(b"dev/sda", 8, 0)),
        {b"dev": d(), b"dev/sda": blk(8, 0)},
    ),
    accepted("dev-mem", POLICY, "so is its memory", tar(character(b"dev/mem", 1, 1)), {b"dev": d(), b"dev/mem": char(1, 1)}),
    refused(
        "dev-block-disk-refused",
        POLICY,
        "a disk under devices: refuse",
        tar(disk(b"dev/sda", 8, 0)),
        "policy-devices",
        limits=Limits(devices="refuse"),
    ),
    refused(
        "dev-mem-refused",
        POLICY,
        "memory under devices: refuse",
        tar(character(b"dev/mem", 1, 1)),
        "policy-devices",
        limits=Limits(devices="refuse"),
    ),
    accepted(
        "fifo-policy", POLICY, "a fifo under devices: refuse", tar(fifo(b"p")), {b"p": pipe()}, limits=Limits(devices="refuse")
    ),
    # ------------------------------------------------------------------------------------------------- privileges
    accepted(
        "setuid-keep", PRIVILEGES, "setuid files are content of an image", tar(file(b"su", mode=0o4755)), {b"su": f(mode=0o4755)}
    ),
    accepted(
        "setuid-strip",
        PRIVILEGES,
        "setuid and setgid under setuid: strip",
        tar(file(b"su", mode=0o6755), folder(b"d", 0o2775)),
        {b"su": f(mode=0o755), b"d": d(0o2775)},
        limits=Limits(setuid="strip"),
    ),
    refused(
        "setuid-refuse",
        PRIVILEGES,
        "setuid under setuid: refuse",
        tar(file(b"su", mode=0o4755)),
        "policy-setuid",
        limits=Limits(setuid="refuse"),
    ),
    refused(
        "setgid-refuse",
        PRIVILEGES,
        "setgid under setuid: refuse",
        tar(file(b"wall", mode=0o2755)),
        "policy-setuid",
        limits=Limits(setuid="refuse"),
    ),
    refused(
        "capability-refuse",
        PRIVILEGES,
        "file capabilities under setuid: refuse",
        tar(CAPABLE, file(b"ping")),
        "policy-setuid",
        limits=Limits(setuid="refuse"),
    ),
    accepted(
        "capability-strip",
        PRIVILEGES,
        "file capabilities under setuid: strip",
        tar(CAPABLE, file(b"ping", mode=0o755)),
        {b"ping": f(mode=0o755, xattrs={})},
        limits=Limits(setuid="strip"),
    ),
    accepted(
        "setuid-strip-contiguous",
        PRIVILEGES,
        "typeflag 7 is a file too",
        tar(entry(b"su", b"7", mode=0o4755)),
        {b"su": f(mode=0o755)},
        limits=Limits(setuid="strip"),
    ),
]
