"""Archives that real writers make are read to the last bit; what is damaged, ambiguous or hostile is refused, with its place."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.errors import LayerCorrupt, LayerRefused, ReconcilerError
from reconciler.image.archive.codec import open_stream
from reconciler.image.archive.member import HARDLINK, Member
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import Limits

END = bytes(1024)
POSIX, GNU, V7 = b"ustar\00000", b"ustar  \0", bytes(8)


class Dribble:
    """A stream of ready chunks of one size."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self) -> bytes:
        return self._file.read(self._step)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def block(
    name: bytes = b"f", flag: bytes = b"0", *, size: int = 0, magic: bytes = POSIX, at: dict[int, bytes] | None = None
) -> bytes:
    """One header; ``at`` puts raw bytes at places of it before the checksum is made."""
    header = bytearray(512)
    for place, text in {
        0: name[:100],
        100: octal(0o644, 8),
        108: octal(0, 8),
        116: octal(0, 8),
        124: octal(size, 12),
        136: octal(0, 12),
        156: flag,
        257: magic,
        **(at or {}),
    }.items():
        header[place : place + len(text)] = text
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes, data: bytes = b"", **more: Any) -> bytes:
    return block(name, size=len(data), **more) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def x(*records: tuple[bytes, bytes], flag: bytes = b"x", magic: bytes = POSIX) -> bytes:
    payload = b"".join(record(*pair) for pair in records)
    return block(b"PaxHeaders/x", flag, size=len(payload), magic=magic) + padded(payload)


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    return block(b"././@LongLink", flag, size=len(name), magic=GNU) + padded(name)


def read(data: bytes, step: int = 1 << 20, limits: Limits | None = None) -> list[tuple[Member, bytes]]:
    reader = Reader(Dribble(data, step), limits)
    return [(member, b"".join(reader.data(member))) for member in reader]


def only(data: bytes) -> Member:
    [(member, _)] = read(data + END)
    return member


def refused(data: bytes, rule: str, limits: Limits | None = None) -> LayerRefused:
    with pytest.raises(LayerRefused) as caught:
        read(data, limits=limits)
    assert caught.value.rule == rule, caught.value
    return caught.value


def names(data: bytes) -> list[bytes]:
    return [member.name for member, _ in read(data)]


# ------------------------------------------------------------------------------------------------ real writers


def make_tree(root: Path) -> None:
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "plain").write_bytes(b"hello\n")
    (root / "etc" / "empty").touch()
    (root / "etc" / "big").write_bytes(os.urandom(700_001))
    (root / "etc" / "link").symlink_to("../etc/plain")
    os.link(root / "etc" / "plain", root / "etc" / "zz-hard")
    os.mkfifo(root / "etc" / "fifo", 0o600)
    deep = root / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"long")
    (deep / "g").symlink_to("t" * 180)
    os.link(deep / ("f" * 200), deep / ("h" * 190))
    os.chmod(root / "etc" / "plain", 0o4755)
    os.utime(root / "etc" / "plain", ns=(0, 1_234_567_890_123_456_789))
    os.utime(root / "etc" / "empty", ns=(0, -1_500_000_000))
    os.utime(root / "etc" / "big", ns=(0, 999_999_999))


def described(root: Path, *, nanoseconds: bool) -> dict[str, tuple[Any, ...]]:
    """What is on disk, hard links resolved; times as exact as the format can have them."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        content: Any = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        if path.is_symlink():
            content = os.readlink(path).encode()
        mtime = status.st_mtime_ns if nanoseconds else status.st_mtime_ns // 10**9 * 10**9
        name = "/".join(path.relative_to(root).parts)
        found[name] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime, content)
    return found


def understood(data: bytes) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for member, content in read(data):
        name = "/".join(part for part in member.name.decode().split("/") if part not in ("", "."))
        if member.type == HARDLINK:
            found[name] = found["/".join(part for part in member.linkname.decode().split("/") if part not in ("", "."))]
        else:
            shown = member.linkname if member.type == stat.S_IFLNK else content
            found[name] = (member.type, member.mode, member.uid, member.gid, member.mtime_ns, shown)
    return found


GNU_TAR = [["tar", f"--format={form}", "-cf", "-", "-C", "{root}", "."] for form in ("gnu", "posix", "oldgnu")]
BSDTAR = [["bsdtar", "--format", form, "-cf", "-", "-C", "{root}", "."] for form in ("pax", "gnutar")]


@pytest.mark.parametrize("command", GNU_TAR + BSDTAR, ids=lambda command: f"{command[0]}-{command[1] + command[2]}")
def test_what_tar_and_bsdtar_write_is_what_was_on_disk(tmp_path: Path, command: list[str]) -> None:
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    make_tree(tmp_path)
    if command[0] == "bsdtar":
        # libarchive writes -1.5 as -2.5, and times before 1970 in GNU's format as 0.
        os.utime(tmp_path / "etc" / "empty", ns=(0, 1_500_000_000))
    done = subprocess.run([word.format(root=tmp_path) for word in command], check=True, capture_output=True)

    exact = "posix" in command[1] or "pax" in command[2]
    assert understood(done.stdout) == described(tmp_path, nanoseconds=exact)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_python_writes_is_what_was_on_disk(tmp_path: Path, form: int) -> None:
    make_tree(tmp_path)
    os.utime(tmp_path / "etc" / "empty", ns=(0, 0))
    if form == tarfile.USTAR_FORMAT:
        shutil.rmtree(tmp_path / ("d" * 90))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        archive.add(tmp_path, ".")
    # Python keeps times as floats, so that what it writes is exact to some 100 ns.
    exact = form == tarfile.PAX_FORMAT

    assert rounded(understood(out.getvalue())) == rounded(described(tmp_path, nanoseconds=exact))


def rounded(tree: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {name: (*facts[:4], round(facts[4] / 10**9, 3), facts[5]) for name, facts in tree.items()}


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
    ],
)
@pytest.mark.parametrize("holes", [1, 3, 40])
def test_sparse_files_keep_their_holes(tmp_path: Path, options: list[str], holes: int) -> None:
    """Every way of GNU tar to store them, with maps that fit their header and maps that do not."""
    path = tmp_path / ("s" * 20)
    with path.open("wb") as out:
        for at in range(holes):
            out.seek(at * 300_000 + 100_000)
            out.write(os.urandom(4096 * (at % 3 + 1)))
        out.truncate(holes * 300_000 + 500_000)
    done = subprocess.run(
        ["tar", "--sparse", *options, "-cf", "-", "-C", tmp_path, "--", path.name], check=True, capture_output=True
    )
    [(member, data)] = read(done.stdout)
    whole = bytearray(member.size)
    at = 0
    for offset, length in member.segments or []:
        whole[offset : offset + length] = data[at : at + length]
        at += length

    assert member.name == path.name.encode()
    assert member.segments is not None and len(member.segments) >= holes
    assert member.stored == len(data) < 1_000_000
    assert bytes(whole) == path.read_bytes()


def test_extended_attributes_of_every_writer_are_read() -> None:
    [(member, _)] = read(
        x(
            (b"SCHILY.xattr.user.note", b"one\ntwo\0three=="),
            (b"SCHILY.xattr.user.a%3Db%25c", b""),
            (b"LIBARCHIVE.xattr.user.note", b"b25lCnR3bwB0aHJlZT09"),
            (b"LIBARCHIVE.xattr.user.%C3%A9", b"AQI"),
            (b"RHT.security.selinux", b"system_u:object_r:bin_t:s0"),
        )
        + file(b"f")
        + END
    )
    assert member.xattrs == {
        b"user.note": b"one\ntwo\0three==",
        b"user.a=b%c": b"",
        b"user.\xc3\xa9": b"\1\2",
        b"security.selinux": b"system_u:object_r:bin_t:s0",
    }
    refused(x((b"LIBARCHIVE.xattr.user.a", b"%%")) + file(b"f") + END, "pax-record")
    refused(x((b"SCHILY.xattr.user.a", b"1"), (b"LIBARCHIVE.xattr.user.a", b"Mg")) + file(b"f") + END, "pax-ambiguous")


def test_xattrs_from_gnu_tar(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    try:
        os.setxattr(path, "user.colour", b"green")
    except OSError as error:
        pytest.skip(f"this file system has no user attributes: {error}")
    done = subprocess.run(["tar", "--xattrs", "-cf", "-", "-C", tmp_path, "f"], check=True, capture_output=True)

    assert read(done.stdout)[0][0].xattrs == {b"user.colour": b"green"}


# --------------------------------------------------------------------------------------------------- headers


def test_names_come_from_prefix_and_name_in_ustar_only() -> None:
    assert only(block(b"n", at={345: b"some/dir"})).name == b"some/dir/n"
    assert only(block(b"n", magic=GNU, at={345: b"00000000000\x00"})).name == b"n"
    assert only(block(b"n" * 100)).name == b"n" * 100


def test_old_archives_have_directories_that_end_in_a_slash() -> None:
    for magic in (V7, POSIX):
        member = only(block(b"dir/", b"\0", magic=magic))
        assert (member.type, member.name) == (stat.S_IFDIR, b"dir/")
    assert only(long_name(b"x" * 150 + b"/") + block(b"x" * 100, b"\0", magic=GNU)).type == stat.S_IFDIR
    assert only(long_name(b"x" * 150) + block(b"x" * 99 + b"/", b"\0", magic=GNU)).type == stat.S_IFREG
    refused(file(b"dir/", b"data") + END, "type-of-name")


def test_numbers_are_octal_or_base_256() -> None:
    big = struct.pack(">I", 0x80000000) + struct.pack(">Q", 2**33)
    member = only(block(at={108: b"\x80" + (4_000_000_000).to_bytes(7, "big"), 136: b"\xff" * 4 + struct.pack(">q", -5)}))
    assert (member.uid, member.mtime_ns) == (4_000_000_000, -5_000_000_000)
    assert only(block(b"d", b"5", at={124: big})).size == 0
    assert only(block(at={100: b"   644 \0", 116: b"\0" * 8})).mode == 0o644
    assert only(block(at={100: b"0100755\0"})).mode == 0o755


@pytest.mark.parametrize(
    "field",
    [
        b"+0000644",
        b"-0000644",
        b"0x644\0\0\0",
        b"6_4\0\0\0\0\0",
        b"0000648\0",
        b"644\0junk",
        b"\xd9\xa1\xd9\xa2\0\0\0\0",
        b"\x90" + bytes(7),
        b"\xff" * 8,
    ],
)
def test_numbers_in_other_writings_are_refused(field: bytes) -> None:
    for place in (100, 108, 116):
        refused(block(at={place: field}) + END, "number")


@pytest.mark.parametrize("size", [b"\xff" * 12, b" " * 12, b"\0" * 12])
def test_a_file_without_a_size_or_with_a_negative_one_is_refused(size: bytes) -> None:
    refused(block(at={124: size}) + END, "size")


def test_a_size_where_no_data_follows_is_ignored() -> None:
    for flag, link in ((b"5", b""), (b"1", b"t")):
        assert names(block(b"a", flag, size=5000, at={157: link}) + file(b"b") + END) == [b"a", b"b"]


@pytest.mark.parametrize("flag", [b"2", b"3", b"4", b"6"])
def test_a_size_of_what_never_has_data_is_refused_where_readers_disagree_on_what_follows(flag: bytes) -> None:
    """GNU tar passes over so many bytes, the others over none: a member could hide there from whoever looks with ``tar -t``."""
    refused(block(b"a", flag, size=512, at={157: b"t"}) + file(b"hidden") + END, "size-of-type")


def test_a_long_name_that_goes_on_behind_its_size_is_refused() -> None:
    """GNU tar reads on to the first NUL, and sees another name than everybody else."""
    name = block(b"././@LongLink", b"L", size=1, magic=GNU) + b"hello".ljust(512, b"\0")
    refused(name + block(b"n", magic=GNU) + END, "long-name")
    assert (
        only(block(b"././@LongLink", b"L", size=5, magic=GNU) + b"hello".ljust(512, b"\0") + block(b"n", magic=GNU)).name
        == b"hello"
    )


def test_a_sparse_map_in_an_ordinary_members_header_is_refused() -> None:
    """bsdtar believes the map, GNU tar the type: another one of them would see other members."""
    for at in ({482: b"\1"}, {386: b"00000000000\0" + b"00000001000\0"}, {483: b"00000001000\0"}):
        refused(block(b"f", magic=GNU, at=at) + file(b"hidden") + END, "sparse-map")


def test_a_magic_that_only_begins_like_one_is_refused() -> None:
    """Whether the prefix counts then depends on the reader, and so does the name."""
    for magic in (b"ustar   ", b"ustar00\0", b"ustarzzz"):
        refused(block(b"name", magic=magic, at={345: b"prefix"}) + END, "magic")


def test_the_checksum_holds_signed_too_and_nothing_else() -> None:
    header = bytearray(block(b"\xff" * 100))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in header)
    assert only(bytes(header)).name == b"\xff" * 100
    for stated in (b"%06o\0 " % (sum(block()) + 1), b"\0" * 8, b" " * 8, b"-00001\0 "):
        with pytest.raises(LayerCorrupt):
            read(block()[:148] + stated + block()[156:] + END)


def test_devices_have_their_numbers() -> None:
    numbers = {329: octal(8, 8), 337: octal(17, 8)}
    for flag, kind in ((b"3", stat.S_IFCHR), (b"4", stat.S_IFBLK)):
        member = only(block(b"dev", flag, at=numbers))
        assert (member.type, member.devmajor, member.devminor) == (kind, 8, 17)
    member = only(x((b"SCHILY.devmajor", b"300"), (b"SCHILY.devminor", b"1048575")) + block(b"dev", b"4", at=numbers))
    assert (member.devmajor, member.devminor) == (300, 1048575)
    refused(block(b"dev", b"4", magic=V7) + END, "device-number")


@pytest.mark.parametrize("flag", [b"D", b"M", b"N", b"A", b"E", b"I", b"X", b"8", b"z", b"\xff"])
def test_other_types_of_members_are_refused(flag: bytes) -> None:
    refused(block(flag=flag) + END, "typeflag")


def test_a_volume_label_is_passed_over() -> None:
    assert names(block(b"label", b"V", magic=GNU) + file(b"f") + END) == [b"f"]


# ----------------------------------------------------------------------------------------- names and overrides


def test_pax_overrides_reach_exactly_the_next_member() -> None:
    data = x(
        (b"path", "größe/é".encode()),
        (b"size", b"000000000000000000000000003"),
        (b"uid", b"4294967294"),
        (b"gid", b"70000"),
        (b"mtime", b"-1.25"),
        (b"comment", b""),
        (b"VENDOR.thing", b"\0\n"),
    )
    data += block(b"short") + padded(b"abc") + file(b"next")
    (first, content), (second, _) = read(data + END)

    assert (first.name, first.uid, first.gid, first.mtime_ns, content) == (
        "größe/é".encode(),
        2**32 - 2,
        70000,
        -1_250_000_000,
        b"abc",
    )
    assert (second.name, second.uid, second.mtime_ns) == (b"next", 0, 0)


def test_a_size_override_in_front_of_a_long_name_is_the_members() -> None:
    data = x((b"size", b"600")) + long_name(b"n" * 120 + b"\0") + block(b"n") + padded(b"d" * 600) + file(b"next")
    assert names(data + END) == [b"n" * 120, b"next"]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1", 10**9),
        (b"1.", 10**9),
        (b"0.1", 10**8),
        (b"1.123456789987", 1_123_456_789),
        (b"-1.5", -1_500_000_000),
        (b"-0.0000000001", -1),
    ],
)
def test_times_are_exact_to_the_nanosecond_and_rounded_down(text: bytes, nanoseconds: int) -> None:
    assert only(x((b"mtime", text)) + block()).mtime_ns == nanoseconds


@pytest.mark.parametrize("value", [b"", b"+5", b"-5", b"0x5", b"5_0", b" 5", b"5 ", "٥".encode(), b"1" * 5000, b"5e3"])
@pytest.mark.parametrize("key", [b"size", b"uid", b"mtime"])
def test_pax_numbers_in_other_writings_are_refused(key: bytes, value: bytes) -> None:
    if (key, value) != (b"mtime", b"-5"):
        refused(x((key, value)) + block() + END, "number")


def test_long_names_and_links_of_gnu_tar_are_used() -> None:
    for tail in (b"\0", b""):
        member = only(long_name(b"n" * 300 + tail) + long_name(b"t" * 300 + tail, b"K") + block(b"n", b"2", magic=GNU))
        assert (member.name, member.linkname) == (b"n" * 300, b"t" * 300)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (x((b"path", b"a"), (b"path", b"b")) + block(), "pax-ambiguous"),
        (x((b"path", b"a")) + x((b"path", b"a")) + block(), "ambiguous"),
        (x((b"path", b"a")) + long_name(b"a") + block(magic=GNU), "ambiguous"),
        (long_name(b"a", b"K") + x((b"linkpath", b"a")) + block(flag=b"2"), "ambiguous"),
        (long_name(b"a") + long_name(b"b") + block(magic=GNU), "ambiguous"),
        (x((b"path", b"a")), "dangling-header"),
        (long_name(b"a"), "dangling-header"),
        (x((b"path", b"a")) + block(b"label", b"V"), "volume-label"),
        (x((b"path", b"a")) + block(magic=V7), "version-7"),
        (x((b"path", b"a"), magic=V7) + block(), "version-7"),
        (x((b"path", b"")) + block(), "pax-name"),
        (x((b"path", b"a\0b")) + block(), "pax-name"),
        (x((b"linkpath", b"a\0b")) + block(flag=b"2"), "pax-name"),
        (long_name(b"a\0b") + block(magic=GNU), "long-name"),
        (long_name(b"\0") + block(magic=GNU), "long-name"),
        (x((b"size", b"5")) + block(flag=b"5"), "size-of-type"),
        (x((b"GNU.dumpdir", b"Yx\0")) + block(), "pax-unsupported"),
        *(
            (x((key, b"1"), flag=b"g") + block(), "pax-global")
            for key in (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")
        ),
        (x((b"GNU.sparse.map", b"0,1"), flag=b"g") + block(), "pax-global"),
        (x((b"SCHILY.xattr.user.a", b"1"), flag=b"g") + block(), "pax-global"),
    ],
)
def test_headers_that_readers_disagree_on_are_refused(data: bytes, rule: str) -> None:
    refused(data + END, rule)


def test_the_comment_that_git_archive_writes_is_fine() -> None:
    assert names(x((b"comment", b"0123abcd"), flag=b"g") + file(b"f") + END) == [b"f"]


@pytest.mark.parametrize(
    "payload",
    [
        b"0 a=b\n",
        b"5 a=b\n",
        b"7 a=b\n",
        b"6 a=b ",
        b"6 ab!\n",
        b"6 =ab\n",
        b"7 a\0=b\n",
        b"a=b\n",
        b" 6 a=b\n",
        b"99999999999999999999 a=b\n",
        b"6 a=b\n\0",
        b"-6 a=b\n",
        b"6 a=b\n6",
    ],
)
def test_malformed_pax_records_are_refused(payload: bytes) -> None:
    refused(block(b"x", b"x", size=len(payload)) + padded(payload) + block() + END, "pax-record")


def test_metadata_is_bounded_before_it_is_read() -> None:
    for flag in (b"x", b"L", b"K", b"g"):
        with pytest.raises(LayerRefused) as caught:
            read(block(b"x", flag, size=Limits().max_metadata_bytes + 1, magic=GNU))
        assert caught.value.rule == "limit-metadata"
    refused(x((b"comment", b"c"), flag=b"g") * 9 + block() + END, "limit-metadata")
    refused(long_name(b"n" * Limits().max_metadata_bytes) + long_name(b"k", b"K") + block(magic=GNU) + END, "limit-metadata")


# ---------------------------------------------------------------------------------------------------- sparse


def pax_sparse(*records: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    return x(*((b"GNU.sparse." + key, value) for key, value in records)) + file(b"s", data) + END


def one_zero(text: bytes, realsize: bytes = b"9000", data: bytes = b"x" * 10) -> bytes:
    return pax_sparse((b"major", b"1"), (b"minor", b"0"), (b"name", b"n"), (b"realsize", realsize), data=padded(text) + data)


def test_a_sparse_map_in_front_of_the_data_is_read() -> None:
    [(member, data)] = read(one_zero(b"3\n100\n512\n8000\n6\n9000\n0\n", data=b"x" * 518))
    assert (member.name, member.size, member.segments) == (b"n", 9000, [(100, 512), (8000, 6), (9000, 0)])
    assert data == b"x" * 518


@pytest.mark.parametrize(
    "data",
    [
        one_zero(b"2\n100\n4\n8000\n6\n"),
        one_zero(b"3\n0\n512\n600\n1\n700\n9\n", data=b"x" * 522),
        pax_sparse((b"size", b"4097"), (b"numblocks", b"2"), (b"map", b"0,1,4096,1"), data=b"AB"),
    ],
)
def test_a_segment_behind_one_that_fills_no_whole_block_is_refused(data: bytes) -> None:
    """GNU tar reads each segment from a new block on, so it takes the next member's header for data."""
    refused(data, "sparse-map")


def test_a_size_for_a_sparse_file_is_refused_unless_its_header_can_not_hold_it() -> None:
    """Python then looks for the next member elsewhere; GNU's old sparse headers are read in three ways."""
    records = (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"10")
    refused(x(*records, (b"size", b"522")) + block(size=522) + b"1\n0\n10\n".ljust(512, b"\0") + b"x" * 512 + END, "sparse-map")
    refused(x((b"size", b"5")) + old_sparse([(0, 5)], 5, 5), "sparse-map")


@pytest.mark.parametrize(
    "data",
    [
        one_zero(b"1\n0\n11\n"),
        one_zero(b"1\n0\n9\n"),
        one_zero(b"2\n8000\n4\n0\n6\n"),
        one_zero(b"2\n0\n6\n5\n4\n"),
        one_zero(b"1\n8995\n10\n"),
        one_zero(b"1\n-5\n10\n"),
        one_zero(b"3\n0\n10\n"),
        one_zero(b"1\n0\n10", data=b"1" * 3000),
        one_zero(b"1\n0\n10\n", realsize=b"5"),
        pax_sparse((b"major", b"1"), (b"minor", b"0"), data=b"0\n"),
        pax_sparse((b"major", b"2"), (b"minor", b"0"), (b"realsize", b"5"), data=b"0\n"),
        pax_sparse((b"size", b"5"), (b"numblocks", b"2"), (b"map", b"0,5"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"numblocks", b"1"), (b"map", b"0,5,"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"numblocks", b"1"), (b"map", b"0,18446744073709551615"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"numblocks", b"1"), (b"offset", b"0"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"numblocks", b"1"), (b"numbytes", b"5"), (b"offset", b"0"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"realsize", b"6"), (b"numblocks", b"1"), (b"map", b"0,5"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"surprise", b"5"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"numblocks", b"1"), (b"map", b"0,5"), (b"numblocks", b"1"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"map", b"0,5"), (b"numblocks", b"1"), data=b"x" * 5),
        pax_sparse((b"size", b"5"), (b"offset", b"0"), (b"numbytes", b"5"), (b"numblocks", b"1"), data=b"x" * 5),
        x((b"GNU.sparse.size", b"5"), (b"GNU.sparse.numblocks", b"0")) + block(flag=b"5") + END,
        x((b"path", b"other"), (b"GNU.sparse.size", b"0"), (b"GNU.sparse.numblocks", b"0"), (b"GNU.sparse.name", b"n"))
        + block()
        + END,
    ],
)
def test_sparse_maps_that_do_not_add_up_are_refused(data: bytes) -> None:
    with pytest.raises(LayerRefused) as caught:
        read(data)
    assert caught.value.rule in ("sparse-map", "number", "ambiguous", "pax-name")


def old_sparse(entries: list[tuple[int, int]], size: int, stored: int, *, more: bytes = b"", magic: bytes = GNU) -> bytes:
    table = b"".join(octal(offset, 12) + octal(length, 12) for offset, length in entries)
    header = block(b"s", b"S", size=stored, magic=magic, at={386: table, 482: b"\1" if more else b"\0", 483: octal(size, 12)})
    return header + more + padded(b"d" * stored) + END


def test_old_sparse_headers_are_read_and_checked() -> None:
    [(member, data)] = read(old_sparse([(0, 512), (600, 2)], 602, 514))
    assert (member.size, member.segments, data) == (602, [(0, 512), (600, 2)], b"d" * 514)
    refused(old_sparse([(0, 3), (500, 2)], 600, 5), "sparse-map")
    refused(old_sparse([(0, 3), (500, 2)], 600, 5, magic=POSIX), "sparse-map")
    refused(old_sparse([(500, 2), (0, 3)], 600, 5), "sparse-map")
    refused(old_sparse([(0, 3)], 600, 5), "sparse-map")
    refused(old_sparse([(0, 3)], 600, 3, more=bytes(512)), "sparse-map")
    refused(old_sparse([(0, 8**11 - 1)], 8**11 - 1, 3), "sparse-map")


@pytest.mark.parametrize("numbers", [b"\0" * 12 + octal(5, 12), octal(0, 12) + b"\0" * 6 + b"5" + b"\0" * 5])
def test_a_number_in_an_old_sparse_map_does_not_begin_with_a_nul(numbers: bytes) -> None:
    """GNU tar ends the map at such a length, bsdtar and Go at such an offset."""
    refused(block(b"s", b"S", size=5, magic=GNU, at={386: numbers, 483: octal(5, 12)}) + padded(b"d" * 5) + END, "sparse-map")


def test_endless_sparse_maps_come_to_an_end() -> None:
    table = b"".join(octal(0, 12) + octal(0, 12) for _ in range(21)) + b"\1" + bytes(7)
    refused(old_sparse([(0, 0)] * 4, 0, 0, more=table * 4800), "limit-segments")
    refused(one_zero(b"100001\n"), "limit-segments")


# ------------------------------------------------------------------------------------------------- the end


def test_an_archive_ends_with_two_blocks_of_zeros_and_nothing_else() -> None:
    assert names(file(b"f") + END) == [b"f"]
    assert names(file(b"f") + END + bytes(9216)) == [b"f"]
    assert names(file(b"f") + END + bytes(100)) == [b"f"]
    refused(file(b"f") + bytes(512) + file(b"g") + END, "lone-zero-block")
    refused(file(b"f") + END + file(b"hidden") + END, "trailing-data")
    refused(file(b"f") + END + bytes(3_000_000) + b"x", "trailing-data")


def test_a_policy_reads_over_what_follows_the_end_marker() -> None:
    hidden = file(b"f") + END + file(b"hidden") + END
    [(found, _)] = read(hidden, limits=Limits(trailing_data="ignore"))
    assert found.name == b"f"
    refused(file(b"f") + bytes(512) + file(b"g") + END, "lone-zero-block", Limits(trailing_data="ignore"))


def test_a_policy_accepts_tars_that_just_end_between_two_members() -> None:
    lenient = Limits(missing_end_marker="accept")
    for end in (b"", bytes(512)):
        [(found, _)] = read(file(b"f") + end, limits=lenient)
        assert found.name == b"f"
    for cut in (file(b"f", b"data")[:-512], file(b"f")[:-1], x((b"comment", b"c"))):
        with pytest.raises((LayerCorrupt, LayerRefused)):
            read(cut, limits=lenient)
    refused(file(b"f") + bytes(512) + file(b"g") + END, "lone-zero-block", lenient)


@pytest.mark.parametrize("tail", [b"", bytes(511), bytes(512), bytes(1023)])
def test_an_archive_without_its_end_is_taken_for_a_cut_download(tail: bytes) -> None:
    with pytest.raises(LayerCorrupt, match="store it again"):
        read(file(b"f", b"data") + tail)


def test_what_is_no_tar_is_said_to_be_none() -> None:
    for data in (b"hello", b"x" * 5000, os.urandom(2048)):
        with pytest.raises(LayerCorrupt):
            read(data)


def test_an_error_names_the_member_and_its_place() -> None:
    error = refused(file(b"a", b"1") + block(b"bad", flag=b"Q") + END, "typeflag")
    assert (error.member, error.offset) == (b"bad", 1024)


SMALL = (
    x((b"path", b"p"), (b"mtime", b"1.5"))
    + file(b"f", b"0123")
    + long_name(b"n" * 110)
    + file(b"g", magic=GNU)
    + old_sparse([(0, 2)], 4, 2)
)


def test_an_archive_cut_anywhere_is_never_accepted() -> None:
    assert len(read(SMALL)) == 3
    for end in range(len(SMALL)):
        with pytest.raises(ReconcilerError):
            read(SMALL[:end])


@given(st.integers(0, len(SMALL) * 8 - 1), st.sampled_from([100, 512, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_flipped_bits_raise_nothing_but_errors_of_ours(bit: int, step: int) -> None:
    data = bytearray(SMALL)
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(LayerCorrupt, LayerRefused):
        read(bytes(data), step)


@given(
    st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=12)), max_size=3),
    st.sampled_from([POSIX, GNU, V7]),
    st.sampled_from(b"01234567SLKxgV"),
)
@settings(max_examples=60, deadline=None)
@example([], GNU, ord("S"))
def test_headers_with_a_right_checksum_and_wrong_fields_raise_nothing_else(
    patches: list[tuple[int, bytes]], magic: bytes, flag: int
) -> None:
    at = {place: text[: 512 - place] for place, text in patches}
    data = block(b"f", bytes([flag]), size=20, magic=magic, at=at) + padded(b"13 path=long\n6 a=b\n") + file(b"z") + END
    with contextlib.suppress(LayerCorrupt, LayerRefused):
        read(data)


# --------------------------------------------------------------------------------------------------- reading


def bodies() -> Iterable[tuple[bytes, bytes]]:
    return [(b"a", b""), (b"b", os.urandom(1)), (b"c", os.urandom(512)), (b"d", os.urandom(5000)), (b"e", os.urandom(100_000))]


@pytest.mark.parametrize("step", [1, 511, 512, 513, 4096, 1 << 20])
def test_data_is_the_same_wherever_the_chunks_end(step: int) -> None:
    files = [(name, data[:600]) if step == 1 else (name, data) for name, data in bodies()]
    archive = b"".join(file(*pair) for pair in files) + END

    assert [(member.name, data) for member, data in read(archive, step)] == files


def test_data_that_nobody_reads_is_passed_over() -> None:
    archive = b"".join(file(name, data) for name, data in bodies()) + END
    reader = Reader(Dribble(archive, 3000))
    seen = []
    for member in reader:
        if member.name == b"e":
            next(iter(reader.data(member)))
        seen.append(member.name)
    assert seen == [b"a", b"b", b"c", b"d", b"e"]


def test_data_is_given_once_and_only_for_the_member_at_hand() -> None:
    reader = Reader(Dribble(file(b"a", b"1") + file(b"b", b"2") + END, 1 << 20))
    members = iter(reader)
    first = next(members)
    assert b"".join(reader.data(first)) == b"1"
    with pytest.raises(ValueError, match="once"):
        reader.data(first)
    second = next(members)
    with pytest.raises(ValueError, match="once"):
        reader.data(first)
    assert b"".join(reader.data(second)) == b"2"


def test_large_files_come_in_few_pieces_without_a_copy() -> None:
    body = os.urandom(5 << 20)
    reader = Reader(open_stream(io.BytesIO(file(b"a", body) + END), Limits()))
    for member in reader:
        pieces = list(reader.data(member))
        assert b"".join(pieces) == body
        assert len(pieces) <= 7


def test_the_reader_reads_the_stream_to_its_very_end() -> None:
    """Behind the end marker there are still a compressed stream's trailer, and bytes that the layer's digest covers."""
    source = io.BytesIO(file(b"f") + END + bytes(2 << 20))
    for _ in Reader(open_stream(source, Limits())):
        pass
    assert source.read() == b""


# ------------------------------------------------------------------------- what readers understand differently


@pytest.mark.parametrize("place", [100, 108, 116, 124, 136])
@pytest.mark.parametrize("spelling", [b"\0\0000100\0", b" \0000100\0", b"\000100"])
def test_a_number_behind_a_nul_is_refused(place: int, spelling: bytes) -> None:
    """GNU tar, bsdtar and Python end the number at the NUL, Go reads on: a size would hide members."""
    width = 12 if place in (124, 136) else 8
    refused(block(at={place: spelling[:width].ljust(width, b"\0")}) + bytes(512) + END, "number")


def test_a_checksum_behind_a_nul_does_not_hold() -> None:
    header = bytearray(block())
    header[148:156] = b"\0" + header[148:154] + b"\0"
    with pytest.raises(LayerCorrupt):
        read(bytes(header) + END)


@pytest.mark.parametrize(
    "name",
    [
        b"\x1f\x8b\x08\x04tttt\x02\x03\xf4\x01",
        b"\x28\xb5\x2f\xfd\x04",
        b"\x5a\x2a\x4d\x18\x10",
        b"\xfd7zXZ\0\0\4",
        b"BZh91AY&SY",
        b"\x04\x22\x4d\x18",
        b"LZIP\x01\x0c",
        b"\x5d\0\0\x80\0",
        b"begin 644 x\nM",
    ],
)
def test_a_tar_that_begins_as_a_compressed_stream_is_refused(name: bytes) -> None:
    """bsdtar and Python decompress it, GNU tar reads the tar: one of the two trees is hidden."""
    refused(file(name) + END, "polyglot")
    assert names(file(b"first") + file(name) + END)[0] == b"first"


@pytest.mark.parametrize("name", [b"!<arch>\n", b"WARC/1.0", b"MSCF\0"])
def test_a_version_7_tar_that_begins_as_another_archive_is_refused(name: bytes) -> None:
    refused(file(name, magic=bytes(8)) + END, "polyglot")
    assert names(file(name) + END)


@pytest.mark.parametrize("name", [b"BZh9 is a name", b"LZIP", b"]", b"PKGBUILD", b"begin 644 x"])
def test_a_name_that_only_resembles_a_compressed_stream_is_a_name(name: bytes) -> None:
    assert names(file(name) + END) == [name]


LINK = {157: b"f"}


@pytest.mark.parametrize(
    "archive",
    [
        x((b"comment", b"x")) + file(b"f") + block(b"h", b"1", size=512, at=LINK) + file(b"g") + END,
        x((b"comment", b"x"), flag=b"g") + file(b"f") + block(b"h", b"1", size=512, at=LINK) + END,
        file(b"f") + block(b"h", b"1", size=512, at=LINK) + file(b"g", magic=bytes(8)) + END,
        file(b"f") + block(b"h", b"1", size=512, at=LINK, magic=b"ustar\0\0\0") + file(b"g") + END,
    ],
)
def test_a_hard_link_with_a_size_is_refused_where_bsdtar_expects_data(archive: bytes) -> None:
    refused(archive, "size-of-type")


@pytest.mark.parametrize(
    "archive",
    [
        file(b"f") + block(b"h", b"1", size=512, at=LINK) + file(b"g") + END,
        file(b"f") + block(b"h", b"1", size=512, at=LINK) + END,
        x((b"comment", b"x")) + file(b"f") + block(b"h", b"1", size=512, at=LINK, magic=GNU) + file(b"g") + END,
    ],
)
def test_a_hard_link_with_a_size_and_no_data_is_accepted_where_all_readers_agree(archive: bytes) -> None:
    assert names(archive)[:2] == [b"f", b"h"]


@pytest.mark.parametrize("key", [b" size", b"\tpath"])
def test_a_key_behind_a_blank_is_refused(key: bytes) -> None:
    """GNU tar passes over the blank, the others know no such key."""
    refused(x((key, b"0")) + file(b"f") + END, "pax-record")


def test_a_global_header_behind_an_extended_one_is_refused() -> None:
    """Go applies the extended header to nothing then."""
    refused(x((b"path", b"p")) + x((b"comment", b"c"), flag=b"g") + file(b"f") + END, "pax-global")


def test_sparse_records_in_front_of_a_gnu_header_are_refused() -> None:
    """GNU tar reads its old sparse format there."""
    records = (b"GNU.sparse.size", b"5"), (b"GNU.sparse.numblocks", b"1"), (b"GNU.sparse.map", b"0,5")
    refused(x(*records) + file(b"s", b"xxxxx", magic=GNU) + END, "sparse-map")


@pytest.mark.parametrize("magic", [GNU, bytes(8)])
def test_a_prefix_in_a_header_that_has_none_is_refused(magic: bytes) -> None:
    refused(file(b"f", magic=magic, at={345: b"prefix"}) + END, "magic")
    times = {345: octal(1, 12) + octal(1, 12)}
    assert names(file(b"f", magic=GNU, at=times) + END) == [b"f"]


def test_a_global_header_of_star_is_read_over() -> None:
    dump = (b"SCHILY.archtype", b"exustar"), (b"SCHILY.release", b"star 1.6"), (b"SCHILY.volhdr.dumptype", b"full")
    assert names(x(*dump, flag=b"g") + file(b"f") + END) == [b"f"]


def test_bits_of_a_mode_above_the_twelfth_are_masked() -> None:
    """Go's os.FileMode has others there."""
    assert only(block(at={100: b"\x80\0\0\0\x80\0\x01\xed"})).mode == 0o755
