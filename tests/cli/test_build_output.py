"""`build --output`: what it writes to and what it refuses, through the installed command's own entry point."""

from __future__ import annotations

import errno
import hashlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from reconciler.cli.build_output import Wish, opened
from reconciler.image.spec import MIB
from tests.support.layers import pack
from tests.support.origin import eventually
from tests.support.trees import file

RECONCILE = (sys.executable, "-m", "reconciler.cli.main")
SIZE = 24 * MIB
UUID = "0b1c7f0e-5a3b-4c1e-9d57-0b7a3a1f4e52"


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer.tar"
    path.write_bytes(pack([file(b"hello", b"world\n"), file(b"large", bytes(range(256)) * 8192)]))
    return path


def build(layer: Path, output: object, *words: str, size: str = "24MiB") -> subprocess.CompletedProcess[bytes]:
    sized = ["--size", size] if size else []
    command = [*RECONCILE, "build", "--progress", "none", *sized, "--output", str(output), str(layer), *words]
    return subprocess.run(command, capture_output=True, cwd=layer.parent, check=False)


def refused(done: subprocess.CompletedProcess[bytes], *words: str, code: int = 64) -> None:
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert "Traceback" not in said
    assert all(word in said for word in words), said


def dumped(image: Path) -> dict[str, str]:
    out = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    return {name: value.strip() for name, _, value in (line.partition(":") for line in out.splitlines())}


TRANSFERS = {
    *("ssl", "http.client", "boto3", "yaml", "pydantic", "isal", "zstandard"),
    *("reconciler.model", "reconciler.image.oci.registry", "reconciler.image.source.download"),
}


def test_a_build_of_local_layers_loads_nothing_that_transfers_or_reads_manifests(layer: Path) -> None:
    words = ["build", "--progress", "none", "--size", "24MiB", "--output", str(layer.parent / "image"), str(layer)]
    code = (
        f"import sys; from reconciler.cli import main; main.main({words}); print('loaded', *{TRANSFERS!r} & sys.modules.keys())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "loaded"


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("kind", ["symlink to a file", "dangling symlink", "directory", "fifo", "socket", "character device"])
def test_what_is_neither_a_file_nor_a_block_device_is_refused_and_left_alone(layer: Path, kind: str) -> None:
    output = layer.parent / "out"
    victim = layer.parent / "victim"
    victim.write_text("precious")
    match kind:
        case "symlink to a file":
            output.symlink_to(victim)
        case "dangling symlink":
            output.symlink_to("nowhere")
        case "directory":
            output.mkdir()
        case "fifo":
            os.mkfifo(output)
        case "socket":
            os.mknod(output, 0o140600)
        case _:
            output = Path("/dev/null")
    before = output.lstat()

    refused(build(layer, output), str(output))

    after = output.lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_has_the_name_under_which_an_image_is_written_is_named_and_left_alone(layer: Path, kind: str) -> None:
    output, partial, victim = layer.parent / "out", layer.parent / ".out.partial", layer.parent / "victim"
    victim.write_text("precious")
    {"symlink": lambda: partial.symlink_to(victim), "fifo": lambda: os.mkfifo(partial), "directory": partial.mkdir}[kind]()

    refused(build(layer, output), f"{partial}, under which it is written, is a")

    assert victim.read_text() == "precious"
    assert partial.is_symlink() or partial.exists()
    assert not output.exists()


def test_a_size_that_no_file_of_the_file_system_has_is_named_as_such(layer: Path) -> None:
    """The limit of a process stands in for that of a file system."""
    limited = ["prlimit", f"--fsize={1 << 20}", sys.executable, "-m", "reconciler.cli.main"]
    done = subprocess.run(
        [*limited, "build", "--size", "64MiB", "--output", layer.parent / "out", layer],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69, done
    assert "File too large" in done.stderr
    assert "has no files of that size" in done.stderr


def test_a_new_image_is_its_owners_and_an_old_one_keeps_its_mode(layer: Path) -> None:
    output = layer.parent / "image"
    assert build(layer, output).returncode == 0
    assert output.stat().st_mode & 0o7777 == 0o600

    output.chmod(0o640)
    assert build(layer, output).returncode == 0
    assert output.stat().st_mode & 0o7777 == 0o640

    assert build(layer, output, "--mode", "0604").returncode == 0
    assert output.stat().st_mode & 0o7777 == 0o604
    refused(build(layer, output, "--mode", "9"), "--mode 9")


@pytest.mark.root
def test_an_old_image_of_another_user_stays_that_users(layer: Path) -> None:
    """`e2fsck`, which has no capabilities, reads the new one before."""
    output = layer.parent / "image"
    output.write_bytes(b"old")
    output.chmod(0o600)
    os.chown(output, 64055, 108)

    assert build(layer, output).returncode == 0

    found = output.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (64055, 108, 0o600)
    assert found.st_size > 3


@pytest.mark.slow
def test_two_builds_of_one_output_do_not_mix(layer: Path) -> None:
    """The second is refused while the first one writes."""
    output = layer.parent / "image"
    with opened(Wish(output, SIZE), lambda done, total: None) as target:
        refused(build(layer, output), "another process is writing it")
        os.pwrite(target.fd, b"first", 0)

    assert output.read_bytes().startswith(b"first")
    assert {path.name for path in layer.parent.iterdir()} == {"image", "layer.tar"}


def test_a_killed_build_leaves_a_partial_that_the_next_one_replaces(layer: Path) -> None:
    output = layer.parent / "image"
    os.mkfifo(layer.parent / "stuck.tar")
    partial = layer.parent / ".image.partial"
    partial.write_text("of a build that was killed")

    assert build(layer, output).returncode == 0
    assert not partial.exists()


def test_a_layer_is_not_overwritten_by_its_image(layer: Path) -> None:
    before = layer.read_bytes()
    other = layer.parent / "other"
    other.hardlink_to(layer)

    refused(build(layer, layer), "is the layer")
    refused(build(layer, other), "is the layer")
    assert layer.read_bytes() == before


def test_digests_are_compared_layer_by_layer(layer: Path) -> None:
    right = hashlib.sha256(layer.read_bytes()).hexdigest()

    assert build(layer, "image", "--sha256", right).returncode == 0
    refused(build(layer, "image2", "--sha256", "0" * 64), right, "0" * 64, code=1)
    refused(build(layer, "image2", "--sha256", right, "--sha256", right), "2 times for 1 layers")
    refused(build(layer, "image2", "--sha256", "12"), "64 hexadecimal digits")
    assert not (layer.parent / "image2").exists()


def test_an_image_has_the_label_and_uuid_that_were_asked_for(layer: Path) -> None:
    image = layer.parent / "image"
    assert build(layer, image, "--label", "root-é", "--uuid", UUID).returncode == 0

    found = dumped(image)
    assert (found["Filesystem volume name"], found["Filesystem UUID"]) == ("root-é", UUID)
    refused(build(layer, image, "--label", "x" * 17), "--label", "16 bytes")
    refused(build(layer, image, "--uuid", "x"), "--uuid x")


def test_a_size_is_needed_where_the_output_has_none(layer: Path) -> None:
    for output in ("image", "-"):
        refused(build(layer, output, size=""), "--size")


# ------------------------------------------------------------------------------------------------------ standard output


def test_standard_output_gets_the_image_and_nothing_else(layer: Path) -> None:
    image = layer.parent / "image"
    assert build(layer, image).returncode == 0

    piped = build(layer, "-")

    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == image.read_bytes()
    assert b"sha256:" in piped.stderr
    assert {path.name for path in layer.parent.iterdir()} == {"image", "layer.tar"}


def test_an_image_for_a_reader_that_has_ended_is_an_error(layer: Path) -> None:
    command = [*RECONCILE, "build", "--size", "24MiB", "--output", "-", str(layer)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert done.returncode == 69
    assert b"standard output" in done.stderr and b"Traceback" not in done.stderr


def test_an_image_is_not_written_to_a_terminal_or_into_json(layer: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*RECONCILE, "build", "--size", "24MiB", "--output", "-", str(layer)]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    os.close(ours)

    assert done.returncode == 64
    assert b"terminal" in done.stderr
    refused(build(layer, "-", "-o", "json"), "-o json")


# ------------------------------------------------------------------------------------------------------ devices


@contextmanager
def full_device(backing: Path) -> Iterator[Path]:
    """A loop device of 24 MiB that is full of 0xA5."""
    backing.write_bytes(b"\xa5" * SIZE)
    made = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=True).stdout.strip()
    yield Path(made)
    subprocess.run(["losetup", "--detach", made], check=True)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    with full_device(tmp_path / "disk") as made:
        yield made


@pytest.mark.root
def test_a_device_gets_every_byte_that_a_file_gets(layer: Path, device: Path) -> None:
    image = layer.parent / "image"
    assert build(layer, image).returncode == 0

    done = build(layer, device, "--force", size="")

    assert done.returncode == 0, done.stderr
    assert device.read_bytes() == image.read_bytes()
    assert device.is_block_device()


@pytest.mark.root
def test_a_device_that_can_forget_what_it_holds_is_not_written_twice(layer: Path, device: Path) -> None:
    backing = layer.parent / "disk"
    assert backing.stat().st_blocks * 512 >= SIZE

    assert build(layer, device, "--force", size="").returncode == 0

    os.sync()
    assert backing.stat().st_blocks * 512 < SIZE / 2


@pytest.mark.root
def test_a_device_that_can_only_be_written_gets_every_byte_too(layer: Path) -> None:
    image, memory = layer.parent / "image", layer.parent / "memory"
    assert build(layer, image).returncode == 0
    memory.mkdir()
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "ramfs", "ramfs", memory], check=True)  # its files can't have holes punched
        stack.callback(subprocess.run, ["umount", memory], check=True)
        device = stack.enter_context(full_device(memory / "disk"))

        done = build(layer, device, "--force", size="")

        assert done.returncode == 0, done.stderr
        assert device.read_bytes() == image.read_bytes()


@pytest.mark.root
def test_a_symlink_to_a_device_is_followed(layer: Path, device: Path) -> None:
    link = layer.parent / "by-id"
    link.symlink_to(device)

    done = build(layer, link, "--force", "--label", "there", size="16MiB")

    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert dumped(device)["Filesystem volume name"] == "there"
    with device.open("rb") as opened_:
        opened_.seek(-MIB, os.SEEK_END)
        assert not any(opened_.read()), "a signature at the end is gone, too"


@pytest.mark.root
def test_a_device_that_holds_something_is_overwritten_by_force_only(layer: Path, device: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "precious", device], check=True)
    before = device.read_bytes()

    refused(build(layer, device, size=""), "ext4 file system", "precious", "--force", code=5)
    assert device.read_bytes() == before
    assert build(layer, device, "--force", size="").returncode == 0
    assert dumped(device)["Filesystem volume name"] == "<none>"


@pytest.mark.root
def test_a_device_in_use_is_refused_even_by_force(layer: Path, device: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    mounted = layer.parent / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", device, mounted], check=True)
    try:
        refused(build(layer, device, "--force", size=""), "in use")
    finally:
        subprocess.run(["umount", mounted], check=True)
    # A builder of another test that is about to leave the mounts it was started with keeps this one for a moment.
    eventually(lambda: not in_use(device))
    held = os.open(device, os.O_RDWR | os.O_EXCL)
    refused(build(layer, device, "--force", size=""), "in use")
    os.close(held)


def in_use(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    except OSError as error:
        assert error.errno == errno.EBUSY
        return True
    return False


@pytest.mark.root
def test_a_device_is_not_touched_where_the_request_is_wrong(layer: Path, device: Path) -> None:
    before = device.read_bytes()

    refused(build(layer, device, "--force", size="32MiB"), "24MiB", "32MiB")
    refused(build(layer, device, "--force", "--mode", "0600", size=""), "--mode")
    refused(build(layer.parent / "none.tar", device, "--force", size=""), "none.tar", code=1)

    assert device.read_bytes() == before


@pytest.mark.root
def test_a_build_that_fails_leaves_no_file_system_on_a_device(layer: Path, device: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    layer.write_bytes(pack([file(b"../evil", b"x")]))

    refused(build(layer, device, "--force", size=""), "../evil", code=1)

    assert subprocess.run(["blkid", "-p", device], check=False).returncode == 2
