"""A machine boots from a claimed snapshot of an OCI image, and Debian's cloud-init configures it from its seed.

Nothing of it needs root: User-Mode Linux opens the two files.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import signal
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.stories.conftest import zygote  # noqa: F401 - a fixture
from tests.stories.workshop import Workshop, fsck
from tests.support import oci
from tests.support.guest import CHECKOUT, KERNEL, MODULES, PATH, memory_directory, one_processor
from tests.support.zygote import Zygote

pytestmark = [pytest.mark.reboots, pytest.mark.timeout(400)]

ROOTFS = "RECONCILER_TEST_CLOUD_ROOTFS"
"""Names a tar of a Debian with cloud-init (``.ci/run`` makes one)."""
GIVEN = os.environ.get(ROOTFS)
LOG = Path(os.environ.get("RECONCILER_TEST_ARTEFACTS") or CHECKOUT / "build") / "boot.log"
"""The console of the machine, kept after the test."""
BOOT_SECONDS = 240
NEEDED = ("cdrom", "isofs")
"""Modules of User-Mode Linux for the seed's file system, in the order in which they are loaded."""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1Hq3e7nq5cB1mYwq5sQe6G0C1l2i3d4e5f6g7h8i9j"
USER_DATA = f"""#cloud-config
disable_root: false
ssh_genkeytypes: [ed25519]
ssh_authorized_keys:
  - {KEY} {{snapshot}}@{{image}}
"""
AGENT = """#!/bin/sh
# What the image runs: process 1, with the kernel's file systems and modules, then cloud-init as systemd runs it.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
python3 -c 'import ctypes, os
for name in ("cdrom", "isofs"):
    if ctypes.CDLL(None).syscall(313, os.open(f"/opt/{name}.ko", 0), b"", 0): raise SystemExit(name)'
echo "agent: $* of $JOBS"
blkid -t LABEL=cidata
/usr/lib/cloud-init/ds-identify 2>/dev/null
cat /run/cloud-init/cloud.cfg
cloud-init init --local
cloud-init init
echo "hostname: $(hostname) in the kernel, $(cat /etc/hostname) in /etc/hostname"
echo "key: $(cat /root/.ssh/authorized_keys)"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def layer(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def rootfs() -> bytes:
    if GIVEN is None and os.environ.get("CI") == "true":
        pytest.fail(f"CI has to have {ROOTFS}")
    if GIVEN is None:
        pytest.skip(f"{ROOTFS} names no tar: mmdebstrap --variant=minbase --include=cloud-init bookworm FILE")
    return Path(GIVEN).read_bytes()


def declare(workshop: Workshop) -> None:
    modules = {f"opt/{path.stem}.ko": (path.read_bytes(), 0o644) for path in Path(MODULES).rglob("*.ko") if path.stem in NEEDED}
    run = {"Entrypoint": ["/usr/local/bin/agent"], "Cmd": ["--job", "7"], "Env": ["PATH=/usr/sbin:/usr/bin", "JOBS=9"]}
    own = layer({"usr/local/bin/agent": (AGENT.encode(), 0o755)} | modules)
    oci.layout(workshop.manifests / "layout", "x", oci.image([rootfs(), own], run=run, plain=True))
    (workshop.manifests / "user-data").write_text(USER_DATA)
    seed = {"nocloud": {"userData": "user-data"}}
    spec = {
        "size": "1GiB",
        "source": "oci-layout:layout:x",
        "snapshots": [{"name": "vm", "count": 1, "ttl": "1h", "seed": seed}],
    }
    workshop.pool()
    workshop.declare("vm", {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": "debian"}, "spec": spec})


def boot(line: str, disks: Mapping[str, Path], directory: Path) -> str:
    """Boot User-Mode Linux with this command line until it powers off; return its console."""
    directory.mkdir()
    arguments = ["mem=512M", "con=null", "ssl0=null,fd:1", "uml_dir=uml", "umid=boot", "quiet"]
    for name, path in disks.items():
        (directory / name).symlink_to(path)
        arguments.append(f"{name}={name}")
    command = ["taskset", "-c", str(one_processor()), KERNEL, *arguments, *shlex.split(line)]
    environment = {"PATH": f"{os.environ.get('PATH', '')}:{PATH}", **memory_directory("512M")}
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as console:
        machine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd=directory,
            env=environment,
        )
        try:
            machine.wait(BOOT_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()
    return LOG.read_text(errors="replace").replace("\r", "")


def test_a_claimed_snapshot_of_an_oci_image_boots_with_its_own_name_and_key(
    tmp_path: Path,
    zygote: Zygote,  # noqa: F811
) -> None:
    workshop = Workshop(tmp_path / "host", zygote)
    declare(workshop)
    workshop.converge()
    claim = workshop.run("claim", "image/debian", "--holder", "job 7", "-o", "json").expect(0).json
    words = workshop.run("boot-config", claim["claim"], "--vmm", "qemu", "--kernel", KERNEL, "-o", "json").json["arguments"]
    line = words[words.index("-append") + 1]
    assert "root=/dev/vda rw" in line and line.endswith("init=/usr/local/bin/agent -- --job 7")

    snapshot, seed = Path(claim["path"]), Path(claim["seed"])
    disks = {"ubda": snapshot, "ubdbr": seed}  # this kernel's name for the first disk; the second one is read-only
    console = boot(line.replace("/dev/vda", "/dev/ubda"), disks, tmp_path / "machine")

    assert "agent: --job 7 of 9" in console, console
    assert 'LABEL="cidata"' in console and 'TYPE="iso9660"' in console
    assert "hostname: vm-0 in the kernel, vm-0 in /etc/hostname" in console, console
    assert f"key: {KEY} vm-0@debian" in console, console
    assert "reboot: Power down" in console, console
    subprocess.run(["e2fsck", "-p", snapshot], check=False, capture_output=True)  # the journal: it was powered off while mounted
    fsck(snapshot)
