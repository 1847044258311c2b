"""What a member may be: every rule is named when it is broken, and ordinary root file systems break none."""

from __future__ import annotations

import json
import stat
import struct

import pytest

from reconciler.errors import LayerRefused
from reconciler.image.archive.member import HARDLINK, TYPE_NAMES, Member
from reconciler.image.spec import Limits
from reconciler.image.tree.judge import MAX_MTIME, MIN_MTIME, Judge

REG, DIR, LNK, CHR, BLK, FIFO = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, number)
    for tag, bits, number in [(1, 6, 2**32 - 1), (2, 4, 7), (4, 4, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1)]
)
ACL_TEXT = b"user::rw-,user:7:r--,group::r--,mask::r-x,other::---"


def member(name: bytes = b"f", kind: int = REG, **fields: object) -> Member:
    return Member(name, kind, **fields)  # type: ignore[arg-type]


def rule(*members: Member, limits: Limits | None = None) -> str | None:
    """The rule that the last of the members breaks; the others must break none."""
    judge = Judge(limits or Limits())
    for accepted in members[:-1]:
        judge.check(accepted)
    try:
        judge.check(members[-1])
    except LayerRefused as refused:
        assert refused.member == members[-1].name
        return refused.rule
    return None


@pytest.mark.parametrize(
    "name",
    [b"a", b"/a", b"./a/b", b"a//b/./c", b"...", b"a..b/..c", b"\xff\n\x1b[1m", b"a" * 255, b"d/" * 255 + b"f", b".whatever"],
)
def test_ordinary_and_odd_names_are_fine(name: bytes) -> None:
    assert rule(member(name)) is None


@pytest.mark.parametrize("name", [b"..", b"../a", b"a/../b", b"a/..", b"/../a", b"a/b/../../c", b".//..//a"])
def test_names_that_climb_are_refused(name: bytes) -> None:
    for kind in (REG, DIR, LNK):
        assert rule(member(name, kind, linkname=b"t")) == "name-climbs"


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        (b"", "name"),
        (b"a\0b", "name"),
        (b"a/" * 2049, "name"),
        (b"a" * 256, "name-length"),
        (b"a/" + b"b" * 256 + b"/c", "name-length"),
        (b"a/" * 256 + b"f", "limit-depth"),
    ],
)
def test_names_that_no_file_system_holds_are_refused(name: bytes, broken: str) -> None:
    assert rule(member(name)) == broken


@pytest.mark.parametrize("name", [b".", b"./", b"/", b"//", b"/.", b"././/."])
def test_the_root_is_a_directory_or_nothing(name: bytes) -> None:
    assert rule(member(name, DIR)) is None
    for kind in (REG, LNK, HARDLINK, FIFO, CHR):
        assert rule(member(name, kind, linkname=b"t")) == "root-type"
    assert rule(member(b"a/.", LNK, linkname=b"t")) == "type-of-name"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (b"bin", b"usr/bin"),
        (b"a/b", b"../c"),
        (b"a/b", b"/../../etc"),
        (b"./a/./b/c", b"../../d"),
        (b"a", b"/proc/self/root"),
        (b"a", b"..b/."),
    ],
)
def test_links_inside_the_image_and_absolute_ones_are_fine(name: bytes, target: bytes) -> None:
    assert rule(member(name, LNK, linkname=target)) is None


@pytest.mark.parametrize(
    ("name", "target"),
    [(b"a", b".."), (b"./a", b"../etc/passwd"), (b"a/b", b"../../c"), (b"a/b", b"c/../../../d"), (b"/a//b", b"./../..")],
)
def test_relative_links_that_climb_above_the_root_are_refused(name: bytes, target: bytes) -> None:
    assert rule(member(name, LNK, linkname=target)) == "link-climbs"


def test_link_targets_have_a_form() -> None:
    assert rule(member(kind=LNK, linkname=b"t" * 4095)) is None
    for target in (b"", b"t" * 4096, b"a\0b"):
        assert rule(member(kind=LNK, linkname=target)) == "link-target"
        assert rule(member(kind=HARDLINK, linkname=target)) == "link-target"
    assert rule(member(kind=HARDLINK, linkname=b"/abs/a..b")) is None
    assert rule(member(kind=HARDLINK, linkname=b"a/../b")) == "link-climbs"


def test_the_id_that_means_unchanged_to_chown_is_refused() -> None:
    assert rule(member(uid=2**32 - 2, gid=2**32 - 2)) is None
    for fields in ({"uid": 2**32 - 1}, {"gid": 2**32 - 1}, {"uid": 2**64}):
        assert rule(member(mode=0o4755, **fields)) == "owner"


def test_times_end_where_ext4_does() -> None:
    second = 10**9
    for fine in (0, -(2**31) * second, (2**33 + 2**31) * second - 1):
        assert rule(member(mtime_ns=fine)) is None
    for out in (-(2**31) * second - 1, (2**33 + 2**31) * second):
        assert rule(member(mtime_ns=out), limits=Limits(times="refuse")) == "mtime"


def test_a_time_out_of_range_is_clamped_and_counted() -> None:
    judge, found = Judge(Limits()), [member(name=b"early", mtime_ns=-(2**62)), member(name=b"late", mtime_ns=2**65)]
    for one in found:
        judge.check(one)

    assert [one.mtime_ns for one in found] == [MIN_MTIME, MAX_MTIME]
    assert judge.totals()["clampedTimes"] == {"count": 2, "names": ["early", "late"]}


def test_foreign_attributes_are_dropped_and_counted() -> None:
    names = [b"com.apple.provenance", b"system.nfs4_acl", b"trusted.gfid", b"security.other", b"ceph.dir.layout"]
    judge, found = Judge(Limits()), member(xattrs=dict.fromkeys(names, b"v") | {b"user.a": b"1"})
    judge.check(found)

    assert found.xattrs == {b"user.a": b"1"}
    assert judge.totals()["droppedXattrs"] == {name.decode(): 1 for name in sorted(names)}
    assert rule(member(xattrs={names[0]: b"v"}), limits=Limits(foreign_attributes="refuse")) == "xattr-name"


def test_many_foreign_attributes_make_no_long_report() -> None:
    judge = Judge(Limits())
    for number in range(1000):
        judge.check(member(xattrs={b"com.a%d" % number: b"v"}))

    assert sum(judge.totals()["droppedXattrs"].values()) == 1000  # type: ignore[attr-defined]
    assert len(judge.totals()["droppedXattrs"]) <= 17  # type: ignore[arg-type]


def test_an_attribute_s_name_ends_where_linux_does() -> None:
    assert rule(member(xattrs={b"user." + b"n" * 250: b"v"})) is None
    assert rule(member(xattrs={b"user." + b"n" * 251: b"v"})) == "xattr-name"
    assert rule(member(xattrs={b"com." + b"n" * 252: b"v"})) == "xattr-name"


def test_a_symlink_has_the_mode_that_linux_gives_it() -> None:
    found = member(kind=LNK, linkname=b"t", mode=0o7755)
    Judge(Limits()).check(found)

    assert found.mode == 0o777


@pytest.mark.parametrize(
    ("names", "form"),
    [
        ([b"oci-layout", b"index.json", b"blobs/sha256/" + b"a" * 64], "an OCI image archive"),
        ([b"./manifest.json", b"./" + b"b" * 64 + b"/layer.tar", b"./repositories"], "an archive of docker save"),
    ],
)
def test_an_archive_of_images_is_refused_with_a_hint(names: list[bytes], form: str) -> None:
    judge = Judge(Limits())
    for name in names:
        judge.check(member(name=name))

    with pytest.raises(LayerRefused, match=form) as caught:
        judge.finish()
    assert (caught.value.rule, bool(caught.value.hint)) == ("image-archive", True)


@pytest.mark.parametrize("names", [[b"manifest.json"], [b"manifest.json", b"index.json", b"etc/passwd"], []])
def test_a_file_system_with_such_names_is_accepted(names: list[bytes]) -> None:
    judge = Judge(Limits())
    for name in names:
        judge.check(member(name=name))
    judge.finish()


def test_device_numbers_end_where_linux_does() -> None:
    assert rule(member(kind=BLK, devmajor=4095, devminor=2**20 - 1)) is None
    assert rule(member(kind=BLK, devmajor=4096)) == "device-number"
    assert rule(member(kind=CHR, devminor=2**20)) == "device-number"
    assert rule(member(kind=REG, devmajor=9999)) is None


@pytest.mark.parametrize(
    ("name", "value", "kind", "broken"),
    [
        (b"user.a", b"\0" * 3000, REG, None),
        (b"user.a", b"", DIR, None),
        (b"user.", b"", REG, "xattr-name"),
        (b"user." + b"n" * 256, b"", REG, "xattr-name"),
        (b"user.a\0b", b"", REG, "xattr-name"),
        (b"user.a", b"", LNK, "xattr-type"),
        (b"user.a", b"", CHR, "xattr-type"),
        (b"user.a", b"v" * 4097, REG, "xattr-size"),
        (b"a", b"", REG, "xattr-name"),
        (b"trusted.a", b"", REG, "xattr-name"),
        (b"system.data", b"", REG, "xattr-name"),
        (b"security.other", b"", REG, "xattr-name"),
        (b"security.capability", CAPABILITY, REG, None),
        (b"security.capability", CAPABILITY[:-1], REG, "xattr-value"),
        (b"security.capability", CAPABILITY + b"\0\0\0\0", REG, "xattr-value"),
        (b"security.capability", b"", REG, "xattr-value"),
        (b"system.posix_acl_access", ACL, REG, None),
        (b"system.posix_acl_access", ACL[:-1], REG, "xattr-value"),
        (b"system.posix_acl_access", ACL, LNK, "xattr-type"),
        (b"system.posix_acl_default", ACL, DIR, None),
        (b"system.posix_acl_default", ACL, REG, "xattr-type"),
    ],
)
def test_extended_attributes_are_on_a_list_or_refused(name: bytes, value: bytes, kind: int, broken: str | None) -> None:
    limits = Limits(foreign_attributes="refuse")
    assert rule(member(kind=kind, linkname=b"t", xattrs={name: value}), limits=limits) == broken


def test_many_small_attributes_must_fit_one_block_too() -> None:
    assert rule(member(xattrs={b"user.%03d" % i: b"v" for i in range(160)})) is None
    assert rule(member(xattrs={b"user.%03d" % i: b"v" for i in range(180)})) == "xattr-size"


def test_what_no_image_can_keep_is_dropped_and_reported() -> None:
    judge = Judge(Limits())
    found = member(
        xattrs={b"security.selinux": b"x", b"trusted.overlay.opaque": b"y", b"SCHILY.acl.ace": b"owner@:rw", b"user.a": b"1"}
    )
    judge.check(found)

    assert found.xattrs == {b"user.a": b"1"}
    assert judge.totals()["droppedXattrs"] == {"SCHILY.acl.ace": 1, "security.selinux": 1, "trusted.overlay.*": 1}


def test_access_control_lists_in_words_become_attributes_and_give_the_mode() -> None:
    found = member(mode=0o4777, xattrs={b"SCHILY.acl.access": ACL_TEXT, b"system.posix_acl_access": ACL})
    shared = member(b"d", DIR, mode=0o755, xattrs={b"SCHILY.acl.default": ACL_TEXT})

    assert rule(found, shared) is None
    assert (found.mode, found.xattrs) == (0o4650, {b"system.posix_acl_access": ACL})
    assert (shared.mode, shared.xattrs) == (0o755, {b"system.posix_acl_default": ACL})


def test_an_access_control_list_that_says_no_more_than_the_mode_is_the_mode() -> None:
    found = member(mode=0o600, xattrs={b"SCHILY.acl.access": b"user::rw-,group::r--,other::---"})

    assert rule(found) is None
    assert (found.mode, found.xattrs) == (0o640, {})


def test_two_different_access_control_lists_of_one_member_are_refused() -> None:
    other = ACL_TEXT.replace(b"7:r--", b"7:rwx")
    assert rule(member(xattrs={b"system.posix_acl_access": ACL, b"SCHILY.acl.access": other})) == "pax-ambiguous"


def test_a_policy_takes_privileges_from_files_or_refuses_them() -> None:
    def privileged() -> list[Member]:
        capable = member(b"ping", xattrs={b"security.capability": CAPABILITY, b"user.a": b"1"})
        return [member(b"su", mode=0o4755), member(b"wall", mode=0o2755), capable]

    for found in privileged():
        assert rule(found) is None
        assert rule(found, limits=Limits(setuid="refuse")) == "policy-setuid"
    stripped = privileged()
    judge = Judge(Limits(setuid="strip"))
    for found in stripped:
        judge.check(found)
    assert [(found.mode, found.xattrs) for found in stripped] == [(0o755, {}), (0o755, {}), (0o644, {b"user.a": b"1"})]
    assert judge.totals()["stripped"] == 3
    assert rule(member(b"d", DIR, mode=0o2775), limits=Limits(setuid="refuse")) is None


def test_a_policy_refuses_devices_and_leaves_fifos_alone() -> None:
    strict = Limits(devices="refuse")
    assert rule(member(kind=CHR), limits=strict) == rule(member(kind=BLK), limits=strict) == "policy-devices"
    assert rule(member(kind=FIFO), limits=strict) is None


def test_a_policy_lets_links_climb_and_names_never() -> None:
    lenient = Limits(climbing_links="resolve")
    assert rule(member(kind=LNK, linkname=b"../../x"), limits=lenient) is None
    assert rule(member(kind=HARDLINK, linkname=b"a/../b"), limits=lenient) is None
    assert rule(member(b"../x", LNK, linkname=b"x"), limits=lenient) == "name-climbs"


def test_names_and_attributes_have_limits_of_their_own() -> None:
    strict = Limits(max_name_bytes=8, max_path_bytes=20, max_xattr_bytes=30)
    assert rule(member(b"12345678/12345678"), limits=strict) is None
    assert rule(member(b"123456789"), limits=strict) == "name-length"
    assert rule(member(b"1234567/1234567/1234567"), limits=strict) == "name"
    assert rule(member(xattrs={b"user.a": b"v" * 24}), limits=strict) is None
    assert rule(member(xattrs={b"user.a": b"v" * 25}), limits=strict) == "limit-xattrs"


def test_all_that_is_kept_in_memory_of_a_layer_is_bounded() -> None:
    small = Limits(max_metadata_bytes=512)
    judge = Judge(small)
    with pytest.raises(LayerRefused) as refused:
        for number in range(1000):
            judge.check(member(b"%04d" % number, xattrs={b"user.a": b"v" * 1000}))
    assert refused.value.rule == "limit-text"
    assert 250 < judge.totals()["entries"] < 270  # type: ignore[operator]


def test_attributes_are_counted_like_entries() -> None:
    many = member(xattrs={b"user.%d" % number: b"" for number in range(6)})
    assert rule(many, limits=Limits(max_entries=6)) is None
    assert rule(many, many, limits=Limits(max_entries=11)) == "limit-xattrs"


def test_what_has_the_longest_name_can_be_whited_out_too() -> None:
    assert rule(member(b"d/.wh." + b"n" * 255)) is None
    assert rule(member(b"d/.wh." + b"n" * 256)) == "name-length"


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b"a/.wh...", b"a/.wh..wh.plnk", b".wh..wh.other", b".wh.a/b"])
def test_whiteouts_of_nothing_are_refused(name: bytes) -> None:
    assert rule(member(name)) == "whiteout"


def test_aufs_metadata_is_counted_and_accepted() -> None:
    judge = Judge(Limits())
    for name in (b"./.wh..wh.aufs", b".wh..wh.plnk/1.2", b".wh..wh.orph"):
        judge.check(member(name, size=3))

    assert judge.totals()["aufsMetadata"] == 3


def test_whiteouts_are_empty_files() -> None:
    assert rule(member(b"a/.wh.b")) is None
    assert rule(member(b"a/.wh..wh..opq")) is None
    assert rule(member(b".wh.b", HARDLINK, linkname=b".wh..wh.aufs")) is None
    assert rule(member(b".wh.b", DIR)) == "whiteout"
    assert rule(member(b".wh.b", size=1)) == "whiteout"


def test_limits_are_the_manifests() -> None:
    limits = Limits(max_unpacked_bytes=1000, max_file_bytes=600, max_entries=2, max_depth=3)
    assert rule(member(size=600), limits=limits) is None
    assert rule(member(size=601), limits=limits) == "limit-file"
    assert rule(member(size=600), member(b"g", size=401, segments=[]), limits=limits) == "limit-unpacked"
    assert rule(member(), member(), member(), limits=limits) == "limit-entries"
    assert rule(member(b"a/b/c"), limits=limits) is None
    assert rule(member(b"a/b/c/d"), limits=limits) == "limit-depth"


def test_totals_say_what_a_layer_holds_in_a_few_kilobytes_of_json() -> None:
    judge = Judge(Limits())
    for i in range(1000):
        judge.check(member(b"\xff\x1b" * 100 + b"/%d" % i, size=i, mode=0o4755))
    judge.check(member(b"null", CHR, devmajor=1, devminor=3))
    judge.check(member(b".wh.gone"))
    totals = judge.totals()

    assert (totals["entries"], totals["fileBytes"], totals["whiteouts"]) == (1002, 499_500, 1)
    assert totals["types"] == {"file": 1001, "character device": 1}
    assert totals["devices"] == {"count": 1, "names": ["null"]}
    assert totals["setuid"]["count"] == 1000  # type: ignore[index]
    assert [entry["bytes"] for entry in totals["largest"]] == list(range(999, 989, -1))  # type: ignore[attr-defined]
    text = json.dumps(totals)
    assert len(text) < 16_000 and "\\u001b" not in text


def test_every_type_of_member_can_be_accepted() -> None:
    for kind in TYPE_NAMES:
        assert rule(member(kind=kind, linkname=b"t")) is None
