"""What is built equals what the layers say: worked out by a model, by GNU tar, and read back by other code than ours.

Without root the image is read by the tests' own ext4 reader and by debugfs, and compared with a model of the OCI rules. With
``--root`` the kernel mounts it, and GNU tar unpacks the same layers onto an ext4 of mke2fs beside it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from samples import layers as samples
from tests.support import compare, ext4, images, layers, reference
from tests.support.compare import Facts, differences
from tests.support.trees import (
    ACL,
    ACL_MODE,
    DIALECTS,
    SECOND,
    Entry,
    Layer,
    capability,
    chains,
    directory,
    file,
    hardlink,
    opaque,
    sparse,
    symlink,
    whiteout,
)

MIB = 1 << 20
DEBIAN = os.environ.get("RECONCILER_TEST_ROOTFS")
"""A tar of a whole root file system; the tests' fixtures hide the variable, so it is read here."""

needs_debian = pytest.mark.skipif(DEBIAN is None, reason="RECONCILER_TEST_ROOTFS names no tar of a whole root file system")
needs_e2fsprogs = pytest.mark.skipif(shutil.which("e2fsck", path=images.ENVIRONMENT["PATH"]) is None, reason="needs e2fsprogs")


def read_back(image: Path) -> dict[bytes, Facts]:
    images.assert_e2fsck_is_content(image)
    return ext4.of_image(image)


def assert_same(expected: compare.Tree, actual: compare.Tree, ignoring: Iterable[str] = ()) -> None:
    found = differences(expected, actual, ignoring=tuple(ignoring))
    assert not found, "\n".join(found)


# ---------------------------------------------------------------------------------------- one case of everything


def everything() -> list[Layer]:
    """Three layers in which each thing that a root file system can hold, and each way to change it, occurs once or more."""
    nanoseconds = 1_700_000_000 * SECOND + 123_456_789
    base = [
        directory(b"./", 0o755, mtime=nanoseconds),
        *(directory(name, mtime=SECOND) for name in (b"usr", b"usr/bin", b"usr/lib", b"etc", b"opaque", b"gone", b"kept")),
        *(symlink(name, b"usr/" + name) for name in (b"bin", b"lib")),
        directory(b"tmp", 0o1777, mtime=-SECOND),
        file(b"usr/bin/su", b"#!", mode=0o4755, mtime=nanoseconds),
        file(b"usr/bin/ping", b"p" * 5000, mode=0o755, xattrs={b"security.capability": capability()}),
        file(b"usr/lib/empty", uid=2**21, gid=2**32 - 2, mtime=-(2**31 - 1) * SECOND + 1),
        file(b"usr/lib/far", b"\0" * 8192, mtime=(2**33 + 2**31 - 2) * SECOND + 999_999_999),
        hardlink(b"etc/su", b"usr/bin/su"),
        symlink(b"etc/long", b"/" + b"t" * 2000, uid=7),
        symlink(b"etc/59", b"t" * 59),
        symlink(b"etc/60", b"t" * 60),
        Entry(b"etc/null", stat.S_IFCHR, 0o666, device=(1, 3)),
        Entry(b"etc/many", stat.S_IFBLK, 0o660, device=(4095, 1048575)),
        Entry(b"etc/fifo", stat.S_IFIFO, 0o600),
        file(b"etc/acl", b"a", mode=ACL_MODE, xattrs={b"system.posix_acl_access": ACL, b"user.a": b"", b"user.b": b"v" * 3000}),
        directory(b"etc/defaults", 0o755, xattrs={b"system.posix_acl_default": ACL, b"user.colour": b"\0\xff"}),
        file(b"etc/\xff\n\x1b name", b"odd"),
        file(b"n" * 255 + b"/" + b"m" * 255, b"deep"),
        *(sparse(b"usr/lib/sparse%d" % n, n * 1_000_000, [(512, b"x" * 512), (8192, b"y" * 5000)]) for n in (1, 3)),
        sparse(b"usr/lib/hole", 10 * MIB, []),
        *(file(name) for name in (b"opaque/one", b"opaque/two", b"gone/file", b"kept/file", b"kept/other")),
        directory(b"becomes-file"),
        file(b"becomes-file/inside"),
        file(b"becomes-directory"),
        file(b"becomes-link"),
        file(b"rewritten", b"old" * 5000),
        hardlink(b"alias", b"rewritten"),
        file(b"many/implied/parents/file", b"x"),
    ]
    second = [
        file(b"bin/added", b"through a link to a directory"),
        file(b"opaque/new", b"before the whiteout"),
        opaque(b"opaque"),
        file(b"opaque/newer", b"behind the whiteout"),
        whiteout(b"gone"),
        whiteout(b"kept/file"),
        whiteout(b"never/was"),
        file(b"becomes-file", b"file"),
        directory(b"becomes-directory", 0o700),
        file(b"becomes-directory/inside", b"i"),
        symlink(b"becomes-link", b"rewritten"),
        file(b"rewritten", b"new"),
        hardlink(b"usr/lib/linked-below", b"usr/lib/far"),
        directory(b"usr/lib", 0o750, uid=5, mtime=nanoseconds),
    ]
    third = [
        directory(b"gone", 0o711),
        file(b"gone/again"),
        whiteout(b"bin"),
        directory(b"bin", 0o755),
        file(b"bin/own"),
        whiteout(b"alias"),
        file(b"usr/lib/late", b"l" * 70_000),
    ]
    return [base, second, third]


def test_the_model_agrees_with_what_was_written_down() -> None:
    """The reference itself is tried on what a person can check."""
    tree = reference.model(everything())

    assert {b"opaque/new", b"opaque/newer"} == {name for name in tree if name.startswith(b"opaque/")}
    assert b"kept/file" not in tree and b"kept/other" in tree
    assert tree[b"usr/bin/added"].size == 29 and tree[b"bin"].kind == stat.S_IFDIR and b"bin/added" not in tree
    assert tree[b"etc/su"].links == tree[b"usr/bin/su"].links == (b"etc/su", b"usr/bin/su")
    assert tree[b"usr/lib/linked-below"].links == (b"usr/lib/far", b"usr/lib/linked-below")
    assert tree[b"rewritten"].size == 3 and tree[b"becomes-file"].kind == stat.S_IFREG and not tree[b"rewritten"].links
    assert tree[b"usr/lib/sparse1"].data == ((0, 1), (2, 2))


@needs_e2fsprogs
@pytest.mark.parametrize("compression", layers.COMPRESSIONS)
def test_an_image_holds_what_its_layers_say(tmp_path: Path, compression: str) -> None:
    """Every type, bit, owner, time, attribute, link and hole, through the command that users run."""
    image = tmp_path / "image"
    paths = written(tmp_path, [layers.compress(layers.pack(layer), compression) for layer in everything()])

    told = images.build(paths, image)

    assert told["checked"]
    assert_same(reference.model(everything()), read_back(image))


@needs_e2fsprogs
@pytest.mark.parametrize("sparse_format", layers.SPARSE_FORMATS)
def test_sparse_files_of_each_pax_format_keep_their_holes(tmp_path: Path, sparse_format: str) -> None:
    image = tmp_path / "image"
    parts = [(at * 8192, b"%d" % at * 512) for at in range(1, 60)]
    layer = [sparse(b"many", 1_000_000, parts), sparse(b"tail", 5_000_000, [(0, b"x" * 4096)]), sparse(b"none", 10 << 30, [])]

    images.build_here([layers.pack(layer, sparse_format=sparse_format)], image)

    assert_same(reference.model([layer[:2]]), without(b"none", read_small(image)))


def read_small(image: Path) -> dict[bytes, Facts]:
    """Without the digest of 10 GiB of nothing."""
    images.assert_e2fsck_is_content(image)
    with ext4.opened(image) as opened:
        return opened.describe(largest=100 * MIB)


def without(name: bytes, tree: Mapping[bytes, Facts]) -> dict[bytes, Facts]:
    assert tree[name].size == 10 << 30 and tree[name].data == ()
    return {path: found for path, found in tree.items() if path != name}


def written(directory: Path, tars: Sequence[bytes]) -> list[Path]:
    paths = [directory / f"layer{number}" for number in range(len(tars))]
    for path, tar in zip(paths, tars, strict=True):
        path.write_bytes(tar)
    return paths


# ------------------------------------------------------------------------------------------------ generated trees

quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.slow
@needs_e2fsprogs
@pytest.mark.parametrize("dialect", DIALECTS)
@quick
@given(data=st.data())
def test_any_tree_comes_out_as_it_went_in(tmp_path: Path, dialect: str, data: st.DataObject) -> None:
    """Generated layers, in each dialect of tar and each compression."""
    chain = data.draw(chains(DIALECTS[dialect]))
    tars = packed(chain, dialect, data.draw(st.sampled_from(layers.SPARSE_FORMATS)))
    stored = [layers.compress(tar, data.draw(st.sampled_from(layers.COMPRESSIONS))) for tar in tars]
    image = tmp_path / "image"

    images.build_here(stored, image)

    assert_same(reference.model(chain), read_back(image))


def packed(chain: Sequence[Layer], dialect: str, sparse_format: str = "1.0") -> list[bytes]:
    return [layers.pack(layer, dialect, sparse_format=sparse_format) for layer in chain]


@pytest.mark.root
@pytest.mark.parametrize("dialect", DIALECTS)
@settings(quick, max_examples=8, phases=(Phase.reuse, Phase.generate))
@given(data=st.data())
def test_the_kernel_and_gnu_tar_agree_on_any_tree(tmp_path: Path, dialect: str, data: st.DataObject) -> None:
    chain = data.draw(chains(DIALECTS[dialect]))
    paths = written(tmp_path, packed(chain, dialect))
    image = tmp_path / "image"

    images.build_here([path.read_bytes() for path in paths], image)

    assert_kernel_and_gnu_tar_agree(image, paths, chain, reference.model(chain))


# --------------------------------------------------------------------------------------- with a kernel and GNU tar


def assert_kernel_and_gnu_tar_agree(
    image: Path, paths: Sequence[Path], chain: Sequence[Layer], expected: compare.Tree, room: int = 64 * MIB
) -> None:
    """The mounted image equals the model, and what GNU tar makes of the same layers, holes aside."""
    images.assert_e2fsck_is_content(image)
    with images.mounted(image, "ro") as top:
        actual = compare.of_directory(top)
    assert_same(expected, actual)
    with images.fresh_ext4(image.with_name("peer"), room) as top:
        for path, layer in zip(paths, chain, strict=True):
            reference.unpack_with_gnu_tar(path, layer, top)
        unpacked = compare.of_directory(top)
    assert_same(reference.forgiving(unpacked, expected), actual, ignoring=["data"])


@pytest.mark.root
def test_the_kernel_and_gnu_tar_see_what_the_layers_say(tmp_path: Path) -> None:
    chain = everything()
    paths = written(tmp_path, packed(chain, "pax"))
    image = tmp_path / "image"
    images.build(paths, image)

    assert_kernel_and_gnu_tar_agree(image, paths, chain, reference.model(chain))


# ------------------------------------------------------------------------------------ real layered root file systems


@pytest.fixture(scope="module")
def sample_layers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return samples.make(tmp_path_factory.mktemp("samples"))


@needs_e2fsprogs
@pytest.mark.slow
@pytest.mark.parametrize("name", ["slim"])
def test_sample_root_file_systems_come_out_whole(tmp_path: Path, sample_layers: Mapping[str, Path], name: str) -> None:
    """Four layers with whiteouts, plain, gzip and zstd; Python's own ``tarfile`` says what is in them."""
    paths = [sample_layers[layer] for layer in samples.IMAGES[name]]
    image = tmp_path / "image"

    images.build(paths, image, "256MiB")

    assert_same(reference.model(map(layers.entries, paths)), read_back(image))


@pytest.mark.slow
@needs_e2fsprogs
def test_debugfs_reads_the_same_files(tmp_path: Path, sample_layers: Mapping[str, Path]) -> None:
    """A third reader, without root: owners, devices and attributes can't be set then, the rest is compared."""
    image, top = tmp_path / "image", tmp_path / "dumped"
    top.mkdir()
    paths = [sample_layers["base.tar"], sample_layers["python.tar.gz"]]
    images.build(paths, image, "256MiB")

    images.run("debugfs", "-R", f'rdump / "{top}"', image)

    expected = {name: found for name, found in ext4.of_image(image).items() if found.kind in PLAIN}
    dumped = {name: found for name, found in compare.of_directory(top).items() if found.kind in PLAIN}
    assert_same(expected, dumped, ignoring=["mode", "uid", "gid", "mtime", "data", "xattrs", "links"])


PLAIN = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


@pytest.mark.root
def test_the_kernel_and_gnu_tar_agree_on_sample_root_file_systems(tmp_path: Path, sample_layers: Mapping[str, Path]) -> None:
    paths = [sample_layers[layer] for layer in samples.IMAGES["slim"]]
    image = tmp_path / "image"
    images.build(paths, image, "256MiB")

    chain = [list(layers.entries(path)) for path in paths]
    assert_kernel_and_gnu_tar_agree(image, paths, chain, reference.model(chain), 512 * MIB)


@needs_debian
@pytest.mark.slow
@needs_e2fsprogs
@pytest.mark.timeout(600)
def test_a_whole_debian_comes_out_whole(tmp_path: Path) -> None:
    assert DEBIAN is not None
    image = tmp_path / "image"

    images.build([Path(DEBIAN)], image, "4GiB")

    assert_same(reference.model([layers.entries(Path(DEBIAN))]), read_back(image))


@needs_debian
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_the_kernel_and_gnu_tar_agree_on_a_whole_debian(tmp_path: Path) -> None:
    assert DEBIAN is not None
    image, path = tmp_path / "image", Path(DEBIAN)
    images.build([path], image, "4GiB")
    described = [reference.without_data(entry) for entry in layers.entries(path)]
    expected = reference.model([layers.entries(path)])

    assert_kernel_and_gnu_tar_agree(image, [path], [described], expected, 4 << 30)


# ------------------------------------------------------------------------------------------ the readers are tried, too


@needs_e2fsprogs
def test_the_reader_reads_what_mke2fs_makes(tmp_path: Path) -> None:
    """A file system of another maker, with features that ours has not, filled without root."""
    top, image = tmp_path / "top", tmp_path / "image"
    (top / "directory").mkdir(parents=True)
    (top / "file").write_bytes(os.urandom(100_000))
    (top / "directory" / "link").symlink_to("../file")
    (top / "long").symlink_to("t" * 100)
    os.link(top / "file", top / "directory" / "again")
    for number in range(400):
        (top / "directory" / f"{'n' * 40}{number}").write_bytes(b"x" * number)
    os.mkfifo(top / "fifo")
    with (top / "sparse").open("wb") as holes:
        holes.seek(5_000_000)
        holes.write(b"end")
    with image.open("wb") as blank:
        blank.truncate(64 * MIB)

    owner = f"root_owner={os.getuid()}:{os.getgid()}"
    images.run("mkfs.ext4", "-q", "-F", "-b", "4096", "-E", owner, "-d", top, image)

    ignored = ["mtime", "xattrs"]  # mke2fs keeps whole seconds only, and security labels of this machine
    assert_same(compare.of_directory(top), ext4.of_image(image), ignored)


def test_a_difference_is_told_in_words() -> None:
    one = reference.model([[file(b"a", b"1"), file(b"b", mode=0o4755)]])
    other = reference.model([[file(b"b", mode=0o755), directory(b"c")]])

    assert differences(one, other) == [
        "b'a': missing, expected a file",
        "b'b' (file): mode is 0o755, expected 0o4755",
        "b'c': a directory that nothing declares",
    ]
