"""Edits of a finished image: what e2fsck, debugfs, an independent reader and the kernel find afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import FileRefused, ImageTooSmall, ReconcilerError, Terminal, VolumeCorrupt
from reconciler.image.ext4 import structs
from reconciler.image.ext4.edit import Edit, File, apply
from tests.image.ext4.test_mount import mounted
from tests.support import ext4
from tests.support.compare import Facts
from tests.support.ext4_images import (
    GIB,
    MIB,
    build_empty,
    building,
    check,
    debugfs,
    directory,
    dumpe2fs,
    fill,
    inode,
    same_bytes,
    symlink,
)
from tests.support.sparse import copied

GROUP = 128 * MIB
OTHER = UUID("11111111-2222-3333-4444-555555555555")


def edited(path: Path, *files: File, size: int = 0, **options: object) -> None:
    """Apply an edit to the image at ``path`` and have e2fsck check it."""
    fd = os.open(path, os.O_RDWR)
    try:
        if size:
            os.ftruncate(fd, size)
        apply(fd, Edit(size=size, files=files, **options))  # type: ignore[arg-type]
    finally:
        os.close(fd)
    check(path)


def content(path: Path, name: bytes) -> bytes:
    with ext4.opened(path) as image:
        found = dict(image._walk(2, b""))
        return b"".join(image.content(found[name]))


def machine(path: Path, size: int = 64 * MIB) -> Path:
    """A small root file system."""
    with building(path, size) as image:
        fill(image, 20)
        image.file("etc/hostname", b"builder\n")
        image.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n", mode=0o444)
        image.file("etc/ssh/ssh_host_ed25519_key", b"secret" * 900, mode=0o600)
        image.file("etc/ssh/ssh_host_ed25519_key.pub", b"public")
        image.file("etc/ssh/sshd_config", b"Port 22\n")
        image.file("var/lib/systemd/random-seed", b"r" * 512, mode=0o600)
        image.put("run", directory())
        image.put("var/run", symlink(b"../run"))
        image.put("lib", symlink(b"usr/lib"))
        image.put("usr/lib/os-release", symlink(b"/etc/os-release"))
        image.put("loop", symlink(b"loop"))
        image.put("out", symlink(b"../../../etc"))
        image.put("dev/null", inode(stat.S_IFCHR, device=(1, 3)))
    check(path)
    return path


# ----------------------------------------------------------------------------------------------------------- files


def test_a_file_is_made_with_its_parents_mode_owner_and_content(tmp_path: Path) -> None:
    path = machine(tmp_path / "image")
    before = ext4.of_image(path)

    edited(path, File(b"/root/.ssh/authorized_keys", b"ssh-ed25519 AAAA\n", 0o600, 1000, 70000))

    after = ext4.of_image(path)
    made = after[b"root/.ssh/authorized_keys"]
    assert (made.kind, made.mode, made.uid, made.gid) == (stat.S_IFREG, 0o600, 1000, 70000)
    assert content(path, b"root/.ssh/authorized_keys") == b"ssh-ed25519 AAAA\n"
    assert (after[b"root/.ssh"].kind, after[b"root/.ssh"].mode) == (stat.S_IFDIR, 0o755)
    assert after.keys() - before.keys() == {b"root", b"root/.ssh", b"root/.ssh/authorized_keys"}
    assert {name: facts for name, facts in after.items() if name in before and name != b"."} == {
        name: facts for name, facts in before.items() if name != b"."
    }


@pytest.mark.parametrize("length", [0, 1, 4096, 4097, 300_000, MIB])
def test_a_file_is_replaced_whatever_its_length(tmp_path: Path, length: int) -> None:
    path, data = machine(tmp_path / "image"), random.Random(length).randbytes(length)
    free = int(dumpe2fs(path)["Free blocks"])

    edited(path, File(b"/etc/ssh/ssh_host_ed25519_key", data))

    assert content(path, b"etc/ssh/ssh_host_ed25519_key") == data
    assert int(dumpe2fs(path)["Free blocks"]) == free + 2 - -(-length // 4096)


def test_another_name_of_a_replaced_file_keeps_its_content(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        image.put("other", image.file("etc/hostname", b"both"))
    path = tmp_path / "image"

    edited(path, File(b"/etc/hostname", b"one"))

    assert (content(path, b"etc/hostname"), content(path, b"other")) == (b"one", b"both")


def test_attributes_of_a_replaced_file_go_with_it(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        image.file("bin", b"x", xattrs={b"user.a": b"a" * 900, b"security.capability": b"c" * 20})
    path = tmp_path / "image"

    edited(path, File(b"/bin", b"y"))

    assert ext4.of_image(path)[b"bin"].xattrs == ()


def test_symlinks_on_the_way_lead_to_places_inside_the_root(tmp_path: Path) -> None:
    path = machine(tmp_path / "image")

    edited(path, File(b"/lib/modules.conf", b"1"), File(b"/usr/lib/os-release", b"2"), File(b"/var/run/x/y", b"3"))

    assert content(path, b"usr/lib/modules.conf") == b"1"
    assert content(path, b"etc/os-release") == b"2"
    assert content(path, b"run/x/y") == b"3"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"/out/passwd", "leads out of the image's root directory"),
        (b"/loop/x", "more than 40 symlinks"),
        (b"/loop", "more than 40 symlinks"),
        (b"/etc", "is a directory of the image|is a directory in the image"),
        (b"/", "is a directory"),
        (b"/dev/null", "is no regular file"),
        (b"/etc/hostname/x", "on the way is not a directory"),
        (b"/etc/" + b"n" * 256, "longer than 255 bytes"),
    ],
)
def test_a_path_that_leads_to_no_file_is_refused(tmp_path: Path, name: bytes, words: str) -> None:
    path = machine(tmp_path / "image")
    with pytest.raises(FileRefused, match=words):
        edited(path, File(name, b"x"))


def test_a_symlink_with_a_long_target_is_followed(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        image.put("d/" + "n" * 100, directory())
        image.put("short", symlink(b"/d/" + b"n" * 100))
    path = tmp_path / "image"

    edited(path, File(b"/short/file", b"x"))

    assert content(path, b"d/" + b"n" * 100 + b"/file") == b"x"


@pytest.mark.parametrize("names", [10, 150, 400, 3000])
def test_names_go_into_directories_of_any_size(tmp_path: Path, names: int) -> None:
    """A single block, the step to an index, indexes whose leaves are full."""
    with building(tmp_path / "image", 256 * MIB) as image:
        for number in range(names):
            image.file(f"etc/{number:0{number % 40 + 5}}", b"")
    path = tmp_path / "image"
    files = [File(b"/etc/new-%d-%s" % (number, b"x" * (number * 7 % 200)), b"%d" % number) for number in range(300)]

    edited(path, *files)

    found = ext4.of_image(path)
    assert all(file.path[1:] in found for file in files)
    assert sum(name.startswith(b"etc/") for name in found) == names + 300
    assert "not found" not in debugfs(path, "htree_dump /etc", *(f"stat {file.path.decode()}" for file in files[:20]))


def test_a_full_file_system_is_reported_with_the_path(tmp_path: Path) -> None:
    with building(tmp_path / "image", 8 * MIB) as image:
        image.file("d/fill", b"x" * MIB)
    path = tmp_path / "image"

    with pytest.raises(ImageTooSmall, match=r"/d/\d: it needs 256 blocks of 4 KiB, and the file system has \d+ left"):
        edited(path, *(File(b"/d/%d" % number, b"y" * MIB) for number in range(7)))


def test_a_file_system_without_free_inodes_is_reported(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 8 * MIB)
    inodes = int(dumpe2fs(tmp_path / "image")["Free inodes"])

    with pytest.raises(ImageTooSmall, match=r"/d/\d+: the file system has no free inode"):
        edited(tmp_path / "image", *(File(b"/d/%d" % number, b"") for number in range(inodes)))


def test_the_same_edit_gives_the_same_bytes(tmp_path: Path) -> None:
    machine(tmp_path / "one", GIB)
    copied(tmp_path / "one", tmp_path / "other")
    for name in ("one", "other"):
        edited(tmp_path / name, File(b"/a/b", b"c"), size=2 * GIB, uuid=OTHER, unique=True)

    same_bytes(tmp_path / "one", tmp_path / "other")


def test_a_batch_of_small_files_changes_few_pieces_of_the_volume(tmp_path: Path) -> None:
    """Ten files of 1 KiB: at most 12 pieces of 64 KiB."""
    path = machine(tmp_path / "image", 8 * GIB)
    copied(path, tmp_path / "before")

    edited(path, *(File(b"/etc/conf.d/%d" % number, b"k" * 1024) for number in range(10)))

    with path.open("rb") as one, (tmp_path / "before").open("rb") as other:
        changed = [
            at
            for at in range(0, 256 * MIB, 1 << 16)
            if os.pread(one.fileno(), 1 << 16, at) != os.pread(other.fileno(), 1 << 16, at)
        ]
    assert 0 < len(changed) <= 12


# --------------------------------------------------------------------------------------------------------- identity


def test_unique_ids_leave_nothing_of_another_machine(tmp_path: Path) -> None:
    path = machine(tmp_path / "image")

    edited(path, uuid=OTHER, unique=True)

    found = ext4.of_image(path)
    assert dumpe2fs(path)["Filesystem UUID"] == str(OTHER)
    assert (found[b"etc/machine-id"].size, found[b"etc/machine-id"].mode) == (0, 0o444)
    assert not [name for name in found if b"ssh_host_" in name or b"random-seed" in name]
    assert b"etc/ssh/sshd_config" in found


def test_a_machine_id_behind_a_symlink_is_emptied(tmp_path: Path) -> None:
    with building(tmp_path / "image", 64 * MIB) as image:
        image.file("var/id", b"0123")
        image.put("etc/machine-id", symlink(b"../var/id"))
    path = tmp_path / "image"

    edited(path, unique=True)

    assert content(path, b"var/id") == b""
    assert ext4.of_image(path)[b"etc/machine-id"].target == b"../var/id"


def test_an_image_without_identities_stays_as_it_is(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 64 * MIB)
    copied(tmp_path / "image", tmp_path / "before")

    edited(tmp_path / "image", unique=True)

    same_bytes(tmp_path / "image", tmp_path / "before")


def test_a_new_uuid_changes_one_block(tmp_path: Path) -> None:
    path = machine(tmp_path / "image")
    before = path.read_bytes()

    edited(path, uuid=OTHER)

    after = path.read_bytes()
    assert before[4096:] == after[4096:]
    assert before[:4096] != after[:4096]


# ----------------------------------------------------------------------------------------------------------- growth

SHOWN = ("Block count", "Inode count", "Free blocks", "Free inodes", "Reserved GDT blocks", "Filesystem features")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "larger"),
    [
        (8 * MIB, 9 * MIB),
        (8 * MIB, 64 * MIB),
        (64 * MIB, GIB),
        (GROUP, GROUP + 4 * MIB),
        (GROUP + 4096, 2 * GROUP),
        (GROUP + 70 * MIB, 3 * GROUP + 700),
        (3 * GROUP, 3 * GROUP + MIB),
        (GIB, 20 * GIB),
        (8 * GIB, 8 * GIB + GROUP),
        (8 * GIB, 20 * GIB),
        (8 * GIB, 100 * GIB),
        (16 * GIB, 1024 * GIB),
    ],
)
def test_a_grown_file_system_is_that_of_resize2fs(tmp_path: Path, size: int, larger: int) -> None:
    path = machine(tmp_path / "image", size) if size > 8 * MIB else tmp_path / "image"
    if size == 8 * MIB:
        build_empty(path, size)
    subprocess.run(["cp", "--sparse=always", path, tmp_path / "peer"], check=True)

    edited(path, size=larger)

    os.truncate(tmp_path / "peer", larger)
    subprocess.run(["resize2fs", tmp_path / "peer"], capture_output=True, check=True)
    ours, peers = dumpe2fs(path), dumpe2fs(tmp_path / "peer")
    assert {key: ours.get(key) for key in SHOWN} == {key: peers.get(key) for key in SHOWN}
    assert ext4.of_image(path) == ext4.of_image(tmp_path / "peer")


@pytest.mark.slow
@pytest.mark.parametrize("size", [20 * GIB])
def test_a_grown_file_system_is_restored_from_each_backup(tmp_path: Path, size: int) -> None:
    path = machine(tmp_path / "image", 8 * GIB)
    edited(path, size=size)

    for group in (1, 3, 81, 125):
        copied = tmp_path / f"copy{group}"
        subprocess.run(["cp", "--sparse=always", path, copied], check=True)
        with copied.open("r+b") as file:
            file.write(bytes(8192))
        done = subprocess.run(["e2fsck", "-fy", "-b", str(group * 32768), copied], capture_output=True, text=True)
        assert done.returncode in (1, 2, 3), done.stdout
        check(copied)
        assert content(copied, b"etc/hostname") == b"builder\n"
        copied.unlink()


def test_a_grown_file_system_grows_again_with_resize2fs(tmp_path: Path) -> None:
    path = machine(tmp_path / "image", GIB)
    edited(path, File(b"/x", b"y"), size=5 * GIB)

    os.truncate(path, 30 * GIB)
    subprocess.run(["resize2fs", path], capture_output=True, check=True)

    check(path)


def test_files_fill_the_new_groups(tmp_path: Path) -> None:
    with building(tmp_path / "image", 16 * MIB) as image:
        image.file("fill", b"x" * (10 * MIB))
    path = tmp_path / "image"

    edited(path, *(File(b"/d/%d" % number, b"z" * MIB) for number in range(200)), size=400 * MIB)

    assert sum(name.startswith(b"d/") for name in ext4.of_image(path)) == 200


def test_a_size_without_room_for_descriptors_is_refused(tmp_path: Path) -> None:
    build_empty(tmp_path / "image", 8 * MIB)
    with pytest.raises(Terminal, match="no room is reserved for its descriptors"):
        edited(tmp_path / "image", size=64 * GIB)


def test_a_size_that_is_not_larger_changes_nothing(tmp_path: Path) -> None:
    path = machine(tmp_path / "image")
    before = path.read_bytes()

    edited(path, size=64 * MIB)

    assert path.read_bytes() == before


@pytest.mark.root
def test_the_kernel_mounts_an_edited_file_system_and_fills_its_new_groups(tmp_path: Path) -> None:
    path = machine(tmp_path / "image", GIB)
    edited(path, File(b"/etc/hostname", b"web-0\n"), size=3 * GIB, unique=True)

    with mounted(path, "rw") as place:
        assert Path(os.fsdecode(place), "etc/hostname").read_text() == "web-0\n"
        for number in range(50):
            Path(os.fsdecode(place), f"large{number}").write_bytes(b"w" * (40 * MIB))

    check(path)


# -------------------------------------------------------------------------------------------------------- properties

names = st.sampled_from([b"a", b"b", b"etc", b"root", b"n" * 255, b"x" * 120, b"lost+found", "ü".encode()])
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: b"/" + b"/".join(parts))
written = st.builds(
    File,
    paths,
    st.integers(0, 40_000).map(lambda n: random.Random(n).randbytes(n)),
    mode=st.sampled_from([0o644, 0o600, 0o4755]),
    uid=st.sampled_from([0, 1000, 1 << 20]),
    gid=st.integers(0, 3),
)


def fits(tree: dict[bytes, bytes | None], path: bytes) -> bool:
    """Whether a file can have this path: no file on its way, no directory in its place."""
    parts = path[1:].split(b"/")
    ancestors = [b"/".join(parts[:at]) for at in range(1, len(parts))]
    return tree.get(path[1:], b"") is not None and all(tree.get(one) is None for one in ancestors if one in tree)


@pytest.mark.slow
@given(files=st.lists(written, max_size=12), edits=st.lists(written, max_size=12), size=st.sampled_from([0, 9, 200, 300]))
@settings(max_examples=60, deadline=None)
def test_any_tree_holds_any_edit(
    tmp_path_factory: pytest.TempPathFactory, files: list[File], edits: list[File], size: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "image"
    tree: dict[bytes, bytes | None] = {b"lost+found": None}
    facts: dict[bytes, File] = {}

    def accept(file: File) -> bool:
        if not fits(tree, file.path) or file.path == b"/lost+found":
            return False
        parts = file.path[1:].split(b"/")
        tree.update({b"/".join(parts[:at]): None for at in range(1, len(parts))})
        tree[file.path[1:]] = file.content
        facts[file.path[1:]] = file
        return True

    with building(path, 8 * MIB) as image:
        for file in filter(accept, files):
            image.file(file.path[1:], file.content, mode=file.mode, uid=file.uid, gid=file.gid)
    edited(path, *filter(accept, edits), size=size * MIB)

    found = ext4.of_image(path)
    assert {name for name in found if name != b"."} | {b"lost+found"} == set(tree)
    for name, file in facts.items():
        assert content(path, name) == file.content
        assert owner(found[name]) == (file.mode, file.uid, file.gid)
    path.unlink()


def owner(facts: Facts) -> tuple[int, int, int]:
    return facts.mode, facts.uid, facts.gid


# -------------------------------------------------------------------------------------------------------- corruption

EDIT = Edit(
    size=3 * GROUP,
    uuid=OTHER,
    unique=True,
    files=(File(b"/etc/hostname", b"x"), File(b"/lib/n", b"y" * 9000), File(b"/usr/share/doc/z", b"")),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine(tmp_path_factory.mktemp("small") / "image", 16 * MIB)


def damaged(small: Path, tmp_path: Path, change: Callable[[bytearray], object]) -> Path:
    path, data = tmp_path / "damaged", bytearray(small.read_bytes())
    change(data)
    path.write_bytes(data)
    os.truncate(path, EDIT.size)
    return path


def apply_anyhow(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        with contextlib.suppress(ReconcilerError):
            apply(fd, EDIT)
    finally:
        os.close(fd)


@pytest.mark.parametrize("seed", range(60))
def test_damage_is_an_error_and_never_a_crash(small: Path, tmp_path: Path, seed: int) -> None:
    """A bit of a block that an edit reads. Without the checksums, too: then only the bounds protect."""
    rng = random.Random(seed)

    def change(data: bytearray) -> None:
        used = [at for at in range(0, 4 * MIB, 4096) if any(data[at : at + 4096])]
        for _ in range(rng.choice((1, 1, 30))):
            at = rng.choice(used[:40]) + rng.randrange(4096)
            data[at] ^= 1 << rng.randrange(8)

    apply_anyhow(damaged(small, tmp_path, change))


@pytest.mark.parametrize("seed", range(60))
def test_damage_with_right_checksums_is_an_error_and_never_a_crash(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a builder could write it that a layer has taken over: every checksum agrees."""
    rng = random.Random(seed)
    monkeypatch.setattr("reconciler.image.ext4.checksum.extend", lambda seed, data: 0)
    blind = tmp_path / "blind"
    with building(blind, 16 * MIB) as image:
        fill(image, 20)
        for number in range(200):
            image.file(f"etc/{number:040}", b"")
        image.put("lib", symlink(b"usr/lib"))
        image.file("etc/machine-id", b"x")
    data = bytearray(blind.read_bytes())
    used = [at for at in range(0, 4 * MIB, 4096) if any(data[at : at + 4096])]
    for _ in range(rng.choice((1, 3, 30))):
        at = rng.choice(used[:60]) + rng.randrange(4096)
        data[at] = rng.choice((0, 0xFF, data[at] ^ 1 << rng.randrange(8)))
    blind.write_bytes(data)
    os.truncate(blind, EDIT.size)
    apply_anyhow(blind)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("s_blocks_count_lo", 0),
        ("s_blocks_count_hi", 9),
        ("s_inodes_per_group", 7),
        ("s_reserved_gdt_blocks", 60_000),
        ("s_inode_size", 128),
    ],
)
def test_a_superblock_that_contradicts_itself_is_refused(small: Path, tmp_path: Path, field: str, value: int) -> None:
    def change(data: bytearray) -> None:
        block = bytearray(data[1024:2048])
        offset, form = structs.SUPERBLOCK_FIELDS[field]
        struct.pack_into(form, block, offset, value)
        structs.seal_superblock(block)
        data[1024:2048] = block

    fd = os.open(damaged(small, tmp_path, change), os.O_RDWR)
    with pytest.raises(VolumeCorrupt, match=r"contradicts itself|refers to block|damaged"):
        apply(fd, replace(EDIT, size=0))
    os.close(fd)


def test_other_file_systems_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"")
    os.truncate(tmp_path / "image", 64 * MIB)
    fd = os.open(tmp_path / "image", os.O_RDWR)
    with pytest.raises(VolumeCorrupt, match="there is none"):
        apply(fd, EDIT)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", tmp_path / "image"], check=True)
    with pytest.raises(VolumeCorrupt, match="has not layout 2"):
        apply(fd, EDIT)
    os.close(fd)
