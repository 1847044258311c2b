"""Layers that several images share are fetched once, whatever their objects are called, and stored once where possible."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ext4_images import dumpe2fs

from .layers import Layer, change, noise, root
from .workshop import Workshop, cat, contents, digest, fsck

FAMILIES = {
    "golang": ("os", "tools", "libs", "both", "go"),
    "node": ("os", "tools", "libs", "both", "js"),
    "python": ("os", "tools", "libs", "py1", "py2"),
}
LARGE = 200_000


def content(word: str) -> bytes:
    return noise(LARGE, len(word)) if word in ("os", "tools") else word.encode()


def challenge() -> dict[str, list[Layer]]:
    """Three families of five layers under names of their own; the lower ones are the same bytes: eight are distinct."""
    made = {word: change(word, {f"srv/{word}": content(word)}) for words in FAMILIES.values() for word in words}
    made["os"] = root("os", {"srv/os": content("os")})
    return {name: [Layer(f"{name}-{n}", made[word].data) for n, word in enumerate(words, 1)] for name, words in FAMILIES.items()}


def declare(host: Workshop, *, pinned: bool) -> None:
    for name, stack in challenge().items():
        assert len(stack) == 5
        host.image(name, stack, pinned=pinned, s3=True)


def distinct() -> set[str]:
    return {layer.sha256 for stack in challenge().values() for layer in stack}


def whole(host: Workshop) -> None:
    """Each family has what is its own, and what it shares."""
    for name, words in FAMILIES.items():
        fsck(host.snapshot(f"{name}-a"))
        for word in words:
            assert cat(host.snapshot(f"{name}-a"), f"/srv/{word}") == content(word)


@pytest.mark.parametrize("pinned", [True, False], ids=["pinned", "unpinned"])
def test_fifteen_sources_of_which_eight_are_distinct_are_eight_downloads(bucket: Workshop, pinned: bool) -> None:
    """Each layer is fetched once, and the second run fetches none. What no digest tells is told by the key, never by an ETag."""
    assert len(distinct()) == 8
    declare(bucket, pinned=pinned)

    bucket.converge()

    assert bucket.gate is not None
    assert set(bucket.gate.downloads.values()) == {1}
    assert len(bucket.gate.downloads) == (8 if pinned else 15), bucket.gate.downloads
    whole(bucket)
    bucket.gate.forget()
    bucket.settled()
    assert sum(bucket.gate.downloads.values()) == 0
    if pinned:
        assert bucket.gate.requests == [], "a digest says it all"


def test_an_image_is_made_although_the_first_image_with_the_same_layer_names_an_endpoint_that_is_down(bucket: Workshop) -> None:
    layer = root("same", {"srv/same": b"same"})
    with socket.create_server(("127.0.0.1", 0)) as server:
        nothing = f"http://127.0.0.1:{server.getsockname()[1]}"
    bucket.image("first", [layer], s3=True)
    text = (bucket.manifests / "first.yaml").read_text()
    (bucket.manifests / "first.yaml").write_text(text.replace(bucket.s3_options["endpointUrl"], nothing))
    bucket.once().expect(1)
    bucket.image("second", [layer], s3=True)

    bucket.converge()

    assert bucket.gate is not None
    assert sum(bucket.gate.downloads.values()) == 1
    for name in ("first", "second"):
        assert cat(bucket.snapshot(f"{name}-a"), "/srv/same") == b"same"


def test_where_blocks_cannot_be_shared_there_is_one_volume_for_each_image(bucket: Workshop) -> None:
    """On an ordinary file system a chain is one volume, written in one go."""
    from reconciler.pool.file.clone import shares_blocks

    if shares_blocks(bucket.root):
        pytest.skip("this file system can share blocks")
    declare(bucket, pinned=True)

    bucket.converge()

    assert len(bucket.volumes) == 3
    assert len(set(contents(bucket.volumes).values())) == 3


def test_images_share_a_volume_where_their_inodes_are_as_many(workshop: Workshop) -> None:
    """`bytesPerInode` with the size's default is the same geometry as none; another value is another volume."""
    for name, spec in {"none": {}, "default": {"bytesPerInode": "4KiB"}, "fewer": {"bytesPerInode": "16KiB"}}.items():
        workshop.image(name, [root("base")], **spec)

    workshop.converge()

    assert len(workshop.volumes) == 2
    inodes = {name: int(dumpe2fs(workshop.snapshot(f"{name}-a"))["Inode count"]) for name in ("none", "default", "fewer")}
    assert inodes == {"none": 4096, "default": 4096, "fewer": 1024}
    workshop.once("--detailed-exitcode").expect(0)


@pytest.fixture(params=["xfs", "btrfs"])
def reflinking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that can share blocks, in a file."""
    image, where = tmp_path / "disk", tmp_path / "reflinking"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    make = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}[request.param]
    subprocess.run([*make, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.root
def test_where_blocks_can_be_shared_there_are_eight_volumes_that_share_them(bucket: Workshop, reflinking: Path) -> None:
    """One volume a distinct chain, all sharing the blocks of what lies below, and the same bytes as without sharing."""
    declare(bucket, pinned=True)
    bucket.converge()
    tops = contents(bucket.volumes)
    state = reflinking / "state"

    bucket.once("--state", str(state)).expect(0)

    assert bucket.gate is not None
    assert sum(bucket.gate.downloads.values()) == 16, "eight in each of the two state directories"
    volumes = sorted((state / "pools/default/volumes").glob("*.ext4"))
    assert len(volumes) == 8
    assert {name: digest(state / "pools/default/volumes" / name) for name in tops} == tops
    assert _shared(volumes) >= 2 * LARGE * 7, "the two large layers are stored once"
    for path in volumes:
        fsck(path)
    bucket.once("--state", str(state), "--detailed-exitcode").expect(0)


def _shared(paths: list[Path]) -> int:
    """Bytes of these files that some other file has too, as the file system's own map of extents says."""
    total = 0
    for path in paths:
        said = subprocess.run(["filefrag", "-v", "-b1", path], capture_output=True, text=True, check=True).stdout
        extents = [line.split(":") for line in said.splitlines() if "shared" in line]
        total += sum(int(parts[3]) for parts in extents)
    return total
