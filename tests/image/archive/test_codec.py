"""A layer is decompressed whole, in bounded memory, or refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import LayerCorrupt, LayerRefused
from reconciler.image.archive.codec import CHUNK, open_stream
from reconciler.image.archive.tar import Reader
from reconciler.image.spec import MIB, Limits

SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


class Dribble:
    """A source that gives at most ``step`` bytes at once, as a slow download does."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, n: int) -> bytes:
        return self._file.read(min(n, self._step))


def unpack(data: bytes, limits: Limits | None = None, step: int = 1 << 30) -> bytes:
    stream = open_stream(Dribble(data, step), limits or Limits())
    parts = []
    while chunk := stream.read():
        assert len(chunk) <= CHUNK
        parts.append(chunk)
    whole = b"".join(parts)
    assert (stream.stored, stream.unpacked) == (len(data), len(whole))
    assert stream.read() == b""
    return whole


def zstd(data: bytes, **options: object) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(data)  # type: ignore[arg-type]


def gzip_header(*, extra: bytes = b"", name: bytes = b"", comment: bytes = b"", crc: bool = False) -> bytes:
    flags = (4 if extra else 0) | (8 if name else 0) | (16 if comment else 0) | (2 if crc else 0)
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\3"
    head += len(extra).to_bytes(2, "little") + extra if extra else b""
    head += name + b"\0" if name else b""
    head += comment + b"\0" if comment else b""
    return head + (struct.pack("<H", zlib.crc32(head) & 0xFFFF) if crc else b"")


DATA = os.urandom(3000) + b"reconcile " * 5000
FORMS = {"plain": DATA, "gzip": gzip.compress(DATA), "zstd": zstd(DATA), "xz": lzma.compress(DATA), "bzip2": bz2.compress(DATA)}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 30])
def test_a_layer_unpacks_however_slowly_it_arrives(form: str, step: int) -> None:
    assert unpack(FORMS[form], step=step) == DATA


@pytest.mark.parametrize("step", [1, 13, 1 << 30])
def test_gzip_headers_with_every_field_may_lie_across_reads(step: int) -> None:
    body = gzip.compress(DATA)[10:]
    header = gzip_header(extra=b"BC\2\0ab", name=b"layer.tar", comment=b"made by hand", crc=True)

    assert unpack(header + body + header + body, step=step) == DATA + DATA


def test_members_and_frames_that_follow_each_other_are_one_layer() -> None:
    assert unpack(b"".join(gzip.compress(DATA[i : i + 97]) for i in range(0, len(DATA), 97))) == DATA
    assert unpack(SKIPPABLE + zstd(DATA[:9]) + SKIPPABLE + zstd(b"") + zstd(DATA[9:]) + SKIPPABLE) == DATA
    assert unpack(b"".join(lzma.compress(DATA[i : i + 997]) for i in range(0, len(DATA), 997))) == DATA
    assert unpack(b"".join(bz2.compress(DATA[i : i + 997]) for i in range(0, len(DATA), 997))) == DATA
    assert unpack(bz2.compress(b"") + bz2.compress(DATA) + bz2.compress(b"")) == DATA


def test_zero_padding_behind_gzip_is_fine_and_anything_else_is_not() -> None:
    assert unpack(FORMS["gzip"] + bytes(1)) == DATA
    assert unpack(FORMS["gzip"] + bytes(10_000)) == DATA
    for junk in (b"x", b"\0x", bytes(600_000) + b"\1", b"\x1f", b"\x1f\x8c"):
        with pytest.raises(LayerCorrupt):
            unpack(FORMS["gzip"] + junk)


def test_junk_behind_zstd_is_damage() -> None:
    for junk in (b"x", b"junk and more junk", bytes(4), SKIPPABLE[:-1], SKIPPABLE[:3]):
        with pytest.raises(LayerCorrupt):
            unpack(FORMS["zstd"] + junk)


def test_padding_behind_xz_has_words_of_four_bytes() -> None:
    for padding in (4, 512, 1_000_000):
        assert unpack(FORMS["xz"] + bytes(padding)) == DATA
        assert unpack(FORMS["xz"] + bytes(padding) + FORMS["xz"] + bytes(4)) == DATA + DATA
    for padding in (1, 3, 511, 1_000_001):
        with pytest.raises(LayerCorrupt, match="multiple of 4"):
            unpack(FORMS["xz"] + bytes(padding))
        with pytest.raises(LayerCorrupt, match="multiple of 4"):
            unpack(FORMS["xz"] + bytes(padding) + FORMS["xz"])
    for junk in (b"x", bytes(4) + b"junk", b"\xfd7zXX", FORMS["gzip"], bytes(600_000) + b"\1"):
        with pytest.raises(LayerCorrupt, match="not xz follow"):
            unpack(FORMS["xz"] + junk)


def test_zero_padding_behind_bzip2_is_fine_and_anything_else_is_not() -> None:
    for padding in (1, 512, 1_000_000):
        assert unpack(FORMS["bzip2"] + bytes(padding)) == DATA
    for junk in (b"x", b"BZh", b"BZhx1AY&SY", bytes(20) + FORMS["bzip2"], bytes(600_000) + b"\1", FORMS["xz"]):
        with pytest.raises(LayerCorrupt):
            unpack(FORMS["bzip2"] + junk)


@pytest.mark.parametrize("form", COMPRESS)
def test_a_compressed_layer_cut_anywhere_is_never_taken_for_whole(form: str) -> None:
    data = COMPRESS[form](b"a small layer, cut " * 3)
    for end in range(4, len(data)):
        if form in ("gzip", "zstd") or end >= 10:
            with pytest.raises(LayerCorrupt):
                unpack(data[:end])
        with pytest.raises(LayerCorrupt):
            list(Reader(open_stream(io.BytesIO(data[:end]), Limits())))


@pytest.mark.parametrize("at", range(1, 9))
def test_a_wrong_checksum_or_length_in_the_gzip_trailer_is_damage(at: int) -> None:
    damaged = bytearray(FORMS["gzip"])
    damaged[-at] ^= 0x40

    with pytest.raises(LayerCorrupt, match="damaged"):
        unpack(bytes(damaged))


def test_a_wrong_checksum_of_a_zstd_frame_is_damage() -> None:
    damaged = bytearray(FORMS["zstd"])
    damaged[-1] ^= 1

    with pytest.raises(LayerCorrupt, match="damaged"):
        unpack(bytes(damaged))


@pytest.mark.parametrize("form", ["xz", "bzip2"])
def test_a_wrong_checksum_of_an_xz_or_bzip2_stream_is_damage(form: str) -> None:
    for at in (len(FORMS[form]) // 2, -9):
        damaged = bytearray(FORMS[form])
        damaged[at] ^= 1

        with pytest.raises(LayerCorrupt, match="damaged"):
            unpack(bytes(damaged))


@given(st.sampled_from(["gzip", "zstd", "xz", "bzip2"]), st.integers(0, 10**6), st.integers(0, 7), st.integers(1, 5000))
def test_flipped_bits_give_the_same_bytes_or_an_error_of_ours(form: str, at: int, bit: int, step: int) -> None:
    data = bytearray(COMPRESS[form](DATA[-2000:]))
    data[at % len(data)] ^= 1 << bit
    try:
        whole = unpack(bytes(data), step=step)
    except (LayerCorrupt, LayerRefused):
        return
    # What is left are headers without a meaning for the content, or a magic that makes it a plain stream.
    assert whole == DATA[-2000:] or whole == bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("lz4", b"\x04\x22\x4d\x18" + bytes(20)),
        ("zip", b"PK\x03\x04" + bytes(20)),
    ],
)
def test_other_compressions_are_refused_by_name(name: str, data: bytes) -> None:
    with pytest.raises(LayerRefused, match=f"{name}.*gzip, zstd, xz or bzip2") as refused:
        unpack(data)
    assert refused.value.rule == "compression"


def test_an_empty_layer_is_damage() -> None:
    with pytest.raises(LayerCorrupt, match="empty"):
        unpack(b"")


@pytest.mark.slow
@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
def test_a_bomb_is_stopped_while_it_inflates(compress: Callable[[bytes], bytes]) -> None:
    """Neither limit lets more through than one chunk, and memory does not follow the promised size."""
    bomb = compress(bytes(200 * MIB))
    for limits, rule in (
        (Limits(max_unpacked_bytes=20 * MIB), "limit-unpacked"),
        (Limits(max_ratio=100), "limit-ratio"),
    ):
        stream = open_stream(io.BytesIO(bomb), limits)
        tracemalloc.start()
        with pytest.raises(LayerRefused) as refused:
            while stream.read():
                pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert refused.value.rule == rule
        assert stream.unpacked <= (20 if rule == "limit-unpacked" else 64) * MIB + CHUNK
        assert peak < 16 * MIB


def test_a_small_layer_may_compress_as_well_as_it_likes() -> None:
    assert len(unpack(gzip.compress(bytes(20 * MIB)), Limits(max_ratio=2))) == 20 * MIB


def test_the_plain_stream_counts_too() -> None:
    with pytest.raises(LayerRefused) as refused:
        unpack(bytes(3000), Limits(max_unpacked_bytes=2999))
    assert refused.value.rule == "limit-unpacked"


def test_endless_empty_members_come_to_an_end() -> None:
    for member in (gzip.compress(b""), SKIPPABLE, lzma.compress(b""), bz2.compress(b"")):
        with pytest.raises(LayerRefused) as refused:
            unpack(member * 50, Limits(max_entries=10))
        assert refused.value.rule == "limit-members"


def test_endless_empty_zstd_blocks_come_to_an_end() -> None:
    frame = b"\x28\xb5\x2f\xfd\0\0" + b"\0\0\0" * 100 + b"\1\0\0"
    assert unpack(frame) == b""
    with pytest.raises(LayerRefused) as refused:
        unpack(frame, Limits(max_entries=10))
    assert refused.value.rule == "limit-members"


@pytest.mark.parametrize("window_log", [28, 31, 41])
def test_a_zstd_window_beyond_128_mib_is_refused(window_log: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([(window_log - 10) << 3]) + b"\1\0\0"
    with pytest.raises(LayerRefused) as refused:
        unpack(frame)
    assert refused.value.rule == "zstd-window"


def test_a_zstd_window_of_128_mib_is_accepted() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    squeezer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    assert unpack(squeezer.compress(DATA) + squeezer.flush()) == DATA


def xz_with_dictionary(size: int) -> bytes:
    return lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}])


def test_an_xz_dictionary_of_128_mib_is_accepted_and_a_larger_one_refused() -> None:
    assert unpack(xz_with_dictionary(128 * MIB)) == DATA
    for data in (xz_with_dictionary(192 * MIB), lzma.compress(DATA) + xz_with_dictionary(256 * MIB)):
        with pytest.raises(LayerRefused, match="128 MiB") as refused:
            unpack(data)
        assert refused.value.rule == "xz-dictionary"


@pytest.mark.parametrize("check", [lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_every_check_of_xz_is_read(check: int) -> None:
    assert unpack(lzma.compress(DATA, check=check)) == DATA


def test_a_check_that_the_decoder_passes_over_is_refused() -> None:
    """Kind 2 has four bytes, as CRC32 has, and no decoder computes it."""
    whole = bytearray(lzma.compress(DATA, check=lzma.CHECK_CRC32))
    whole[7] = 2
    whole[8:12] = zlib.crc32(whole[6:8]).to_bytes(4, "little")
    whole[-3] = 2
    whole[-12:-8] = zlib.crc32(whole[-8:-2]).to_bytes(4, "little")

    with pytest.raises(LayerRefused) as refused:
        unpack(bytes(whole))
    assert refused.value.rule == "xz-check"


@pytest.mark.parametrize("form", COMPRESS)
def test_the_ratio_does_not_depend_on_how_a_layer_arrives(form: str) -> None:
    """Random bytes behind a run of zeros: at each byte of the stream the verdict is one of two, and the same for all steps."""
    tail = os.urandom(700_000)
    data = COMPRESS[form](bytes(3 * MIB) + tail)
    for ratio in (2, 6, 12, 30):
        limits = Limits(max_ratio=ratio, ratio_floor_bytes=MIB)
        assert len({verdict(data, limits, step) for step in (1 << 30, 300_000, 4096, 999)}) == 1


def verdict(data: bytes, limits: Limits, step: int) -> str:
    try:
        return str(len(unpack(data, limits, step)))
    except LayerRefused as refused:
        return refused.rule


@pytest.mark.parametrize("form", ["xz", "bzip2"])
def test_blocks_without_content_do_not_pass_the_limit_of_time(form: str) -> None:
    with pytest.raises(LayerRefused) as refused:
        unpack(COMPRESS[form](b"") * 1000, Limits(max_seconds=0))
    assert refused.value.rule == "limit-seconds"


def test_what_was_compressed_twice_is_unwrapped_once() -> None:
    assert unpack(gzip.compress(FORMS["gzip"])) == FORMS["gzip"]


@pytest.mark.parametrize(
    "name", [b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY", b"PK\x03\x04", b"\xfd7zXZ"]
)
def test_a_tar_whose_first_name_begins_like_a_compression_is_a_tar(name: bytes) -> None:
    header = tarfile.TarInfo(os.fsdecode(name)).tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
    layer = header + bytes(1024)

    assert unpack(layer) == layer


def test_frames_that_hold_something_are_not_bounded_by_the_entries() -> None:
    """Seekable formats store a large file in thousands of them."""
    piece = bytes(range(256)) * 8
    few = Limits(max_entries=1)
    assert unpack(gzip.compress(piece) * 50, few) == piece * 50
    assert unpack(zstandard.ZstdCompressor().compress(piece) * 50, few) == piece * 50


def test_a_gzip_header_with_a_wrong_checksum_is_damaged() -> None:
    header = b"\x1f\x8b\x08\x1a\0\0\0\0\0\x03name\0comment\0"
    body = gzip.compress(b"x" * 600)[10:]
    right = (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    assert unpack(header + right + body) == b"x" * 600
    with pytest.raises(LayerCorrupt, match="checksum"):
        unpack(header + bytes([right[0] ^ 1, right[1]]) + body)


def test_a_zstd_frame_with_a_dictionary_is_refused_by_that_name() -> None:
    with pytest.raises(LayerRefused) as refused:
        unpack(b"\x28\xb5\x2f\xfd\x01\x00\x07\x01\0\0")
    assert refused.value.rule == "zstd-dictionary"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML or HTML page"),
        (b"QFI\xfb" + bytes(508), "qcow2"),
        (b"notes\n", "has 6 bytes, fewer than one header"),
        (b"x" * 600, "first block is not a header"),
    ],
)
def test_what_is_no_tar_is_named(data: bytes, words: str) -> None:
    with pytest.raises(LayerCorrupt, match=words) as caught:
        list(Reader(open_stream(io.BytesIO(data), Limits())))
    assert caught.value.hint
