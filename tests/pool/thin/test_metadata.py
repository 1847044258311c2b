"""A thin pool's metadata, made by thin_restore, is read as it was written; damage is told, and nothing else comes of it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.pool.thin.metadata import BLOCK, Metadata, MetadataUnreadable, ThinDevice, crc32c, first_blocks, read

MIB = 1 << 20
STAMP = 0x1234_5678 << 32

pytestmark = pytest.mark.skipif(shutil.which("thin_restore") is None, reason="needs thin_restore (thin-provisioning-tools)")

Restored = Callable[..., Path]


def xml(devices: Sequence[ThinDevice], *, transaction: int = STAMP | 7, flags: int = 0, data_blocks: int = 1 << 20) -> str:
    """As thin_dump prints it. Each device maps blocks of its own."""
    lines = [
        f'<superblock uuid="" time="3" transaction="{transaction}" flags="{flags}" version="2" data_block_size="128" '
        f'nr_data_blocks="{data_blocks}">'
    ]
    begin = 0
    for one in devices:
        lines.append(
            f'<device dev_id="{one.id}" mapped_blocks="{one.mapped_blocks}" transaction="{one.transaction}" '
            f'creation_time="{one.created}" snap_time="{one.snapshotted}">'
        )
        if one.mapped_blocks:
            lines.append(f'<range_mapping origin_begin="0" data_begin="{begin}" length="{one.mapped_blocks}" time="0"/>')
            begin += one.mapped_blocks
        lines.append("</device>")
    return "\n".join([*lines, "</superblock>"])


@contextmanager
def on_disk() -> Iterator[Path]:
    """The tools of thin pools insist on direct I/O, which a /tmp in memory may not have."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def restore(where: Path, text: str, size: int = 2 * MIB) -> Path:
    with on_disk() as directory:
        source, target = directory / "xml", directory / "metadata"
        source.write_text(text)
        with target.open("wb") as file:
            file.truncate(size)
        subprocess.run(["thin_restore", "-i", source, "-o", target], check=True, capture_output=True)
        shutil.copyfile(target, where)
    return where


def some(count: int) -> list[ThinDevice]:
    return [ThinDevice(3 * n, n % 5, STAMP | n, n % 7, n % 3) for n in range(count)]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Metadata with a tree of devices of two levels."""
    return restore(tmp_path_factory.mktemp("metadata") / "pristine", xml(some(300))).read_bytes()


@pytest.fixture
def restored(tmp_path: Path) -> Restored:
    return lambda devices, size=2 * MIB, **more: restore(tmp_path / "metadata", xml(devices, **more), size)


def believed(path: Path) -> Metadata:
    found = read(path)
    assert found is not None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 126, 127, 300, 2000, 20_000])
def test_every_device_is_read_with_its_details(count: int, restored: Restored) -> None:
    """One leaf, a root over leaves, and three levels."""
    devices = some(count)

    found = believed(restored(devices, size=2 * MIB + count * 2 * BLOCK))

    assert list(found.devices.values()) == devices
    assert list(found.devices) == [one.id for one in devices]


def test_the_pool_is_read_with_its_details(restored: Restored) -> None:
    found = believed(restored([ThinDevice(5, 40, STAMP | 2, 1, 2)], data_blocks=5000))

    assert (found.transaction, found.block_size, found.needs_check, found.held_root) == (STAMP | 7, 65536, False, None)
    assert (found.data_blocks, found.data_used) == (5000, 40)
    assert found.metadata_blocks == 2 * MIB // BLOCK
    assert 0 < found.metadata_used < 100, "a handful of trees"


def test_the_largest_numbers_are_read(restored: Restored) -> None:
    device = ThinDevice((1 << 24) - 1, 0, (1 << 63) - 1, (1 << 32) - 1, (1 << 32) - 1)

    found = believed(restored([device], transaction=(1 << 63) - 1))

    assert found.devices == {device.id: device}
    assert found.transaction == (1 << 63) - 1


def test_what_thin_ls_lists_is_what_is_read() -> None:
    columns = "DEV,TRANSACTION,CREATE_TIME,SNAP_TIME"
    with on_disk() as directory:
        path = restore(directory / "pool", xml(some(400)))

        listed = subprocess.run(["thin_ls", "--no-headers", "-o", columns, path], check=True, capture_output=True, text=True)

        lines = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        assert lines == [(d.id, d.transaction, d.created, d.snapshotted) for d in believed(path).devices.values()]


# --------------------------------------------------------------------------------------------- where the data of a device is


def begins(devices: Sequence[ThinDevice]) -> dict[int, int]:
    """The data block of each device's first block, as ``xml`` maps them."""
    found, begin = {}, 0
    for one in devices:
        if one.mapped_blocks:
            found[one.id] = begin
        begin += one.mapped_blocks
    return found


@pytest.mark.parametrize("count", [1, 127, 300, 2000])
def test_the_first_block_of_every_device_is_found(count: int, restored: Restored) -> None:
    devices = some(count)

    found = first_blocks(restored(devices, size=2 * MIB + count * 2 * BLOCK), [one.id for one in devices])

    assert found == begins(devices)


def test_only_the_nodes_on_the_way_are_read(restored: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = some(2000)
    path = restored(devices, size=20 * MIB)
    reads = []
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: reads.append(offset) or PREADV(fd, buffers, offset))

    assert first_blocks(path, [devices[1].id]) == {devices[1].id: 0}
    assert len(reads) <= 6, "the superblock twice, two levels of devices, one of blocks"


def mapped_singly(thin_id: int, blocks: Sequence[tuple[int, int]]) -> str:
    """A device with these pairs of block and data block."""
    lines = [f'<single_mapping origin_block="{at}" data_block="{data}" time="1"/>' for at, data in blocks]
    device = f'<device dev_id="{thin_id}" mapped_blocks="{len(lines)}" transaction="7" creation_time="0" snap_time="0">'
    return "\n".join([device, *lines, "</device>"])


def test_the_first_block_of_a_device_of_many_scattered_blocks_is_found(tmp_path: Path) -> None:
    """A tree of mappings of two levels; another device has no first block, and a third one nothing at all."""
    many = mapped_singly(5, [(n, 9000 - 2 * n) for n in range(4000)])
    late = mapped_singly(6, [(3, 1), (9, 3)])
    head, _, tail = xml([]).partition("\n")
    path = restore(tmp_path / "scattered", "\n".join([head, many, late, mapped_singly(7, []), tail]))

    assert first_blocks(path, [5, 6, 7, 8]) == {5: 9000}


def test_no_pool_maps_nothing(tmp_path: Path) -> None:
    (tmp_path / "blank").write_bytes(bytes(BLOCK))

    assert first_blocks(tmp_path / "blank", [1]) == {}


# ---------------------------------------------------------------------------------------------------- not formatted


@pytest.mark.parametrize("size", [0, 512, BLOCK, 2 * MIB])
def test_what_was_never_formatted_is_none(size: int, tmp_path: Path) -> None:
    """An empty file is what a crash leaves of one that was being made."""
    with (tmp_path / "blank").open("wb") as file:
        file.truncate(size)

    assert read(tmp_path / "blank") is None


@pytest.mark.parametrize("content", [b"x", b"\0" * 511 + b"x", os.urandom(BLOCK), b"not thin " * 1000])
def test_anything_else_is_not_the_metadata_of_a_pool(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)

    with pytest.raises(MetadataUnreadable, match="not the metadata of a thin pool"):
        read(tmp_path / "other")


def test_unreadable_metadata_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MetadataUnreadable, match="nowhere: can't be read: No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(MetadataUnreadable, match="Is a directory"):
        read(tmp_path)


# --------------------------------------------------------------------------------------------------------- damaged


def signed(block: bytes, xor: int) -> bytes:
    """With a checksum that fits."""
    return struct.pack("<I", crc32c(block[4:]) ^ xor) + block[4:]


class Editor:
    """Changes metadata block by block; what is changed gets a fitting checksum, if asked for."""

    SUPERBLOCK, NODE = 160774, 121107

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.content = bytearray(content)

    def put(self, number: int, offset: int, new: bytes, xor: int | None = None) -> Editor:
        block = bytearray(self.content[number * BLOCK : (number + 1) * BLOCK])
        block[offset : offset + len(new)] = new
        self.content[number * BLOCK : (number + 1) * BLOCK] = signed(bytes(block), xor) if xor is not None else block
        return self

    @property
    def root(self) -> int:
        """Block of the tree of devices' root."""
        return int(struct.unpack_from("<Q", self.content, 328)[0])

    @property
    def values(self) -> int:
        """Offset of the root's values: block numbers of its children."""
        (room,) = struct.unpack_from("<I", self.content, self.root * BLOCK + 20)
        return 32 + 8 * int(room)

    @property
    def first_leaf(self) -> int:
        return int(struct.unpack_from("<Q", self.content, self.root * BLOCK + self.values)[0])

    def read(self) -> Metadata | None:
        self.path.write_bytes(self.content)
        return read(self.path)


@pytest.fixture
def editor(pristine: bytes, tmp_path: Path) -> Editor:
    return Editor(tmp_path / "edited", pristine)


def test_the_editor_finds_every_block(editor: Editor) -> None:
    assert struct.unpack_from("<I", editor.content, editor.root * BLOCK + 4) == (1,), "an internal node"
    assert struct.unpack_from("<I", editor.content, editor.first_leaf * BLOCK + 4) == (2,), "a leaf"


def test_flags_of_the_pool_are_read(editor: Editor) -> None:
    found = editor.put(0, 4, struct.pack("<I", 1), Editor.SUPERBLOCK).put(0, 56, struct.pack("<Q", 77), Editor.SUPERBLOCK).read()

    assert found is not None
    assert found.needs_check
    assert found.held_root == 77


@pytest.mark.parametrize(
    ("offset", "new", "said"),
    [
        (40, struct.pack("<I", 3), "version 3"),
        (40, struct.pack("<I", 0), "version 0"),
        (360, struct.pack("<I", 2), "features 0x2"),
        (340, struct.pack("<I", 16), "blocks of 8192 bytes"),
        (8, struct.pack("<Q", 1), "block 0 has a wrong checksum"),
        (32, struct.pack("<Q", 1), "not the metadata of a thin pool"),
        (328, struct.pack("<Q", 0), "metadata block 0 "),
        (328, struct.pack("<Q", 1 << 40), "beyond the end"),
        (328, struct.pack("<Q", (1 << 64) - 1), "beyond the end"),
    ],
)
def test_a_superblock_that_makes_no_sense_is_refused(offset: int, new: bytes, said: str, editor: Editor) -> None:
    with pytest.raises(MetadataUnreadable, match=said):
        editor.put(0, offset, new, Editor.SUPERBLOCK).read()


@pytest.mark.parametrize(
    ("offset", "new", "said"),
    [
        (4, struct.pack("<I", 0), "is not a node"),
        (4, struct.pack("<I", 1), "is not a node"),
        (4, struct.pack("<I", 3), "is not a node"),
        (8, struct.pack("<Q", 1), "is not a node"),
        (16, struct.pack("<I", 5000), "is not a node"),
        (16, struct.pack("<II", 5000, 5000), "is not a node"),
        (24, struct.pack("<I", 8), "is not a node"),
        (32, struct.pack("<Q", 1 << 24), "not thin ids in order"),
        (32, struct.pack("<QQ", 3, 3), "not thin ids in order"),
    ],
)
def test_a_node_that_makes_no_sense_is_refused_by_its_number(offset: int, new: bytes, said: str, editor: Editor) -> None:
    with pytest.raises(MetadataUnreadable, match=f"metadata block {editor.first_leaf} .*{said}"):
        editor.put(editor.first_leaf, offset, new, Editor.NODE).read()


def test_an_id_that_no_thin_device_can_have_is_refused(editor: Editor) -> None:
    (entries,) = struct.unpack_from("<I", editor.content, editor.first_leaf * BLOCK + 16)
    last = 32 + 8 * (entries - 1)
    assert editor.put(editor.first_leaf, last, struct.pack("<Q", (1 << 24) - 1), Editor.NODE).read() is not None

    editor.put(editor.first_leaf, last, struct.pack("<Q", 1 << 24), Editor.NODE)

    with pytest.raises(MetadataUnreadable, match="not thin ids in order"):
        editor.read()


def test_a_tree_that_leads_back_to_itself_ends(editor: Editor) -> None:
    root = struct.pack("<Q", editor.root)

    with pytest.raises(MetadataUnreadable, match=f"metadata block {editor.root} is met twice"):
        editor.put(editor.root, editor.values, root, Editor.NODE).read()


def test_a_tree_that_never_ends_is_left(tmp_path: Path, pristine: bytes) -> None:
    """A chain of nodes, each with one child, through the whole device."""
    editor = Editor(tmp_path / "chain", pristine)
    editor.put(0, 328, struct.pack("<Q", 1), Editor.SUPERBLOCK)
    for number in range(1, 1024):
        head = struct.pack("<IIQIIII", 0, 1, number, 1, 252, 8, 0)
        node = head + bytes(252 * 8) + struct.pack("<Q", number + 1)
        editor.put(number, 0, node.ljust(BLOCK, b"\0"), Editor.NODE)

    with pytest.raises(MetadataUnreadable, match="too deep"):
        editor.read()


def test_damage_on_the_way_to_a_block_is_reported(editor: Editor) -> None:
    (root,) = struct.unpack_from("<Q", editor.content, 320)
    editor.put(root, BLOCK - 1, b"\x01")
    editor.read()

    with pytest.raises(MetadataUnreadable, match=f"metadata block {root} has a wrong checksum"):
        first_blocks(editor.path, [3])


def test_a_way_to_a_block_that_never_ends_is_left(tmp_path: Path, pristine: bytes) -> None:
    editor = Editor(tmp_path / "loop", pristine)
    editor.put(0, 320, struct.pack("<Q", 1), Editor.SUPERBLOCK)
    head = struct.pack("<IIQIIII", 0, 1, 1, 1, 252, 8, 0)
    editor.put(1, 0, (head + bytes(252 * 8) + struct.pack("<Q", 1)).ljust(BLOCK, b"\0"), Editor.NODE).read()

    with pytest.raises(MetadataUnreadable, match="too deep"):
        first_blocks(editor.path, [3])


@pytest.mark.parametrize("which", ["superblock", "root", "leaf"])
def test_a_flipped_bit_is_reported_with_its_block_number(which: str, editor: Editor) -> None:
    number = {"superblock": 0, "root": editor.root, "leaf": editor.first_leaf}[which]

    with pytest.raises(MetadataUnreadable, match=f"metadata block {number} has a wrong checksum") as caught:
        editor.put(number, BLOCK - 1, b"\x01").read()
    assert "thin_check" in caught.value.hint


def test_a_truncated_device_is_reported(pristine: bytes, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(pristine[: BLOCK + 100])

    with pytest.raises(MetadataUnreadable, match="lies beyond the end"):
        read(tmp_path / "cut")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_reported_or_harmless(data: st.DataObject, pristine: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes of the blocks that matter, with checksums that don't fit and with checksums that do."""
    editor = Editor(tmp_path_factory.getbasetemp() / "damaged", pristine)
    number = data.draw(st.sampled_from([0, editor.root, editor.first_leaf]))
    xor = data.draw(st.sampled_from([None, Editor.NODE if number else Editor.SUPERBLOCK]))
    for _ in range(data.draw(st.integers(1, 4))):
        editor.put(number, data.draw(st.integers(0, 400)), data.draw(st.binary(min_size=1, max_size=16)), xor)

    try:
        found = editor.read()
    except MetadataUnreadable as error:
        assert str(editor.path) in str(error)
    else:
        assert found is not None
        if xor is None:
            assert editor.content == pristine, "damage under a checksum was not seen"


# ------------------------------------------------------------------------------------------------ while it is changed


class Committing:
    """A pool that makes its next commit in the middle of a walk: after a number of reads that a superblock isn't in."""

    def __init__(self, path: Path, commits: Iterator[bytes], every: int = 1) -> None:
        self.path = path
        self.commits = commits
        self.every = every
        self.reads = 0

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset:
            self.reads += 1
            if self.reads % self.every == 0 and (content := next(self.commits, None)) is not None:
                self.path.write_bytes(content)
        return PREADV(fd, buffers, offset)


PREADV = os.preadv


def test_a_commit_in_the_middle_of_a_walk_starts_it_again(
    tmp_path: Path, pristine: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tree has moved, and blocks of the old one are in use for something else: what is read is the new one."""
    later = restore(tmp_path / "later", xml(some(50), transaction=STAMP | 8)).read_bytes()
    pool = tmp_path / "pool"
    pool.write_bytes(pristine)
    monkeypatch.setattr(os, "preadv", Committing(pool, iter([later]), every=2).preadv)

    found = believed(pool)

    assert found.transaction == STAMP | 8
    assert list(found.devices.values()) == some(50)


def test_a_commit_in_the_middle_of_the_way_to_a_block_starts_it_again(
    tmp_path: Path, pristine: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = restore(tmp_path / "later", xml(some(50)[10:], transaction=STAMP | 8)).read_bytes()
    pool = tmp_path / "pool"
    pool.write_bytes(pristine)
    monkeypatch.setattr(os, "preadv", Committing(pool, iter([later]), every=2).preadv)

    assert first_blocks(pool, [3, 36]) == {36: begins(some(50)[10:])[36]}


def test_a_pool_that_never_rests_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (restore(tmp_path / str(n), xml(some(n), transaction=n)).read_bytes() for n in (3, 4))
    pool = tmp_path / "pool"
    pool.write_bytes(first)
    forever = (content for _ in iter(int, 1) for content in (second, first))
    monkeypatch.setattr(os, "preadv", Committing(pool, forever).preadv)

    with pytest.raises(MetadataUnreadable, match="changed each time"):
        read(pool, attempts=5)


# ----------------------------------------------------------------------------------------------------------- around


def test_a_file_system_without_direct_io_is_read_all_the_same(
    pristine: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of one that has none, tmpfs before Linux 6.6 for instance."""
    (tmp_path / "plain").write_bytes(pristine)
    opened = os.open

    def without(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return opened(path, flags, mode, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", without)
        read = believed(tmp_path / "plain")

    assert len(read.devices) == 300


def test_reading_changes_nothing_and_leaves_no_descriptor_open(pristine: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pool"
    path.write_bytes(pristine)
    path.chmod(0o400)
    before = os.listdir("/proc/self/fd")

    believed(path)

    assert os.listdir("/proc/self/fd") == before
    assert path.read_bytes() == pristine


def test_the_checksum_is_the_published_one() -> None:
    """RFC 3720, B.4; the kernel leaves out the last inversion."""
    assert crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA
    assert crc32c(b"\xff" * 32) ^ 0xFFFFFFFF == 0x62A8AB43
    assert crc32c(bytes(range(32))) ^ 0xFFFFFFFF == 0x46DD794E
