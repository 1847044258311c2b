"""From an empty Debian to images that a microVM can boot from, and back: one machine, one story, in the order of this file.

``vagrant up`` has booted the machine; each test goes on from where the one before it left. What it looks at is the guest's own
kernel, udev and systemd, through ssh.
"""

from __future__ import annotations

import textwrap

import pytest

from .machine import Machine

CAP_SYS_MODULE = 16
SNAPSHOTS = {"base-a", "python-a", "python-ci-0", "python-ci-1", "slim-a"}
POOL = "thin"
LATE = textwrap.dedent("""\
    apiVersion: reconciler/v1alpha1
    kind: Image
    metadata: {name: late}
    spec:
      size: 2GiB
      layers:
        - {source: s3://quickstart/base.tar}
        - {source: s3://quickstart/python.tar.gz}
        - {source: s3://quickstart/tools.tar.zst}
      s3: {endpointUrl: http://127.0.0.1:9460, region: us-east-1, anonymous: true}
      snapshots:
        - {name: late-a}
    """)
"""A size of its own, so that none of its layers is there yet."""

GREEDY = textwrap.dedent("""\
    apiVersion: reconciler/v1alpha1
    kind: Image
    metadata: {name: greedy}
    spec:
      size: 4GiB
      layers: [{source: s3://quickstart/base.tar}]
      s3: {endpointUrl: http://127.0.0.1:9460, region: us-east-1, anonymous: true}
      snapshots: [{name: greedy-a}]
    """)
"""Larger than the pool's disk."""

ADDED = """\
find /etc /opt /srv /usr /var/lib /root /home /boot -xdev -not -path '*/__pycache__*' | grep -v \
  -e ^/var/lib/systemd -e ^/var/lib/dpkg -e ^/var/lib/apt -e ^/var/lib/private$ -e ^/home/vagrant | sort
"""
"""Every path where an installation leaves something."""

DIFFER = """\
import sys
from tests.support import compare
mounted, unpacked = (compare.of_directory(top) for top in sys.argv[1:])
mounted.pop(b"."), unpacked.pop(b".")
assert len(mounted) > 500, len(mounted)
print("\\n".join(compare.differences(unpacked, mounted, ignoring=["data"])))
"""


@pytest.fixture(scope="session")
def empty(machine: Machine) -> set[str]:
    """The paths that there were before anything was installed."""
    return set(machine.run(ADDED).splitlines())


@pytest.fixture(scope="session")
def installed(machine: Machine, empty: set[str]) -> Machine:
    machine.vagrant("provision", "--provision-with", "install")
    return machine


@pytest.fixture(scope="session")
def serving(installed: Machine) -> Machine:
    installed.vagrant("provision", "--provision-with", "service")
    return installed


def active(machine: Machine) -> set[str]:
    """Snapshots that a microVM could boot from now: mapped, and resumed."""
    mapped = machine.mappings().items()
    return {name.removeprefix(f"{POOL}-") for name, row in mapped if name != POOL and row["suspended"] == "Active"}


def converged(machine: Machine) -> bool:
    """Nothing is to be done, as the exit code says; and everything that the manifests ask for is there."""
    return machine.ssh("set -a; . /etc/reconciler/environment; reconcile plan --detailed-exitcode").returncode == 0


def back_after_boot(machine: Machine, snapshots: set[str], within: float = 300) -> None:
    """The service has brought every snapshot back, with what its user had written, and nobody else had to do anything."""
    machine.eventually(lambda: machine.ssh("systemctl is-active reconcile.service").returncode == 0, "the service has started")
    machine.eventually(lambda: active(machine) >= snapshots, f"{sorted(snapshots)} are active", within=within)
    machine.eventually(lambda: converged(machine), "the plan is empty")


def written(machine: Machine, snapshot: str) -> str:
    """What the user of a snapshot had left in it."""
    return machine.run(f"mount /dev/mapper/{POOL}-{snapshot} /mnt && cat /mnt/etc/mine; umount /mnt")


# ------------------------------------------------------------------------------------------------- one-shot runs


def test_the_first_run_makes_everything_and_the_second_changes_nothing(installed: Machine) -> None:
    first = installed.reconcile("--once")
    second = installed.reconcile("--once", "--detailed-exitcode")

    assert first["failed"] == 0
    assert {o["name"] for o in first["objects"] if o["kind"] == "Snapshot" and o["action"] == "create"} == SNAPSHOTS
    assert second["changed"] == second["failed"] == 0
    assert second["unchanged"] > 0


def test_dmsetup_sees_the_pool_and_every_snapshot_and_nothing_else(installed: Machine) -> None:
    mappings = installed.mappings()
    listed = installed.reconcile("list")

    assert mappings.keys() == {POOL, *(f"{POOL}-{name}" for name in SNAPSHOTS)}
    assert {row["uuid"].partition("-")[0] for row in mappings.values()} == {"RECONCILE"}
    assert {s["path"] for image in listed["images"] for s in image["snapshots"]} == {f"/dev/mapper/{POOL}-{n}" for n in SNAPSHOTS}
    assert all(s["active"] for image in listed["images"] for s in image["snapshots"])


def test_udev_knows_the_devices_and_waits_for_nothing(installed: Machine) -> None:
    """Links are udev's, not libdevmapper's own nodes; cookies were waited for and are gone; blkid sees a file system in each."""
    installed.run("udevadm settle --timeout 60")

    for name in SNAPSHOTS:
        path = f"/dev/mapper/{POOL}-{name}"
        link, linked = installed.run(f"readlink {path} && udevadm info --query symlink --name {path}").split("\n", 1)
        assert link.startswith("../dm-"), "udevd made it"
        assert f"mapper/{POOL}-{name}" in linked.split()
        assert installed.run(f"blkid --probe --output value --match-tag TYPE {path}").strip() == "ext4"
    assert len(installed.run("dmsetup udevcookies").splitlines()) == 1, "only the heading: no cookie is left"
    by_uuid = installed.run("readlink -f /dev/disk/by-uuid/* || true")
    assert "dm-" not in by_uuid, "copies of one file system don't fight for the link with its UUID"


def test_a_mounted_snapshot_is_what_gnu_tar_unpacks(installed: Machine) -> None:
    layers = "/srv/sample-s3"
    unpack = "tar --extract --delay-directory-restore --numeric-owner --same-permissions --xattrs --xattrs-include='*'"
    installed.run("rm -rf /var/tmp/peer && mkdir /var/tmp/peer")
    for layer in ("base.tar", "python.tar.gz"):
        installed.run(f"{unpack} --directory /var/tmp/peer --file {layers}/{layer}")
    installed.run(f"mount -o noatime /dev/mapper/{POOL}-python-a /mnt")

    found = installed.run("cd /vagrant && /opt/reconciler/bin/python - /mnt /var/tmp/peer", stdin=DIFFER)

    installed.run("umount /mnt && rm -r /var/tmp/peer")
    assert found.strip() == ""


def test_what_is_written_to_a_snapshot_is_in_no_other(installed: Machine) -> None:
    installed.run(f"mount /dev/mapper/{POOL}-python-a /mnt && echo mine >/mnt/etc/mine && umount /mnt")

    assert written(installed, "python-a") == "mine\n"
    assert "No such file" in installed.ssh(f"mount /dev/mapper/{POOL}-python-ci-0 /mnt; cat /mnt/etc/mine; umount /mnt").stderr
    installed.reconcile("verify")


# -------------------------------------------------------------------------------------------------- the service


def test_the_service_starts_and_finds_nothing_to_do(serving: Machine) -> None:
    assert serving.run("systemctl is-active reconcile.service manifests-pull.timer").split() == ["active", "active"]
    assert converged(serving)
    assert active(serving) == SNAPSHOTS


def test_a_pushed_commit_converges(serving: Machine) -> None:
    serving.push("One more for CI", "sed -i 's/count: 2/count: 3/' python.yaml")

    serving.eventually(lambda: "python-ci-2" in active(serving), "the snapshot of the pushed commit is there")


def test_what_is_removed_by_hand_comes_back(serving: Machine) -> None:
    serving.eventually(lambda: converged(serving), "the plan is empty")
    serving.run(f"dmsetup remove {POOL}-python-a")

    serving.eventually(lambda: "python-a" in active(serving), "the removed mapping is back", within=60)
    assert written(serving, "python-a") == "mine\n"


def test_broken_manifests_change_nothing_until_they_are_mended(serving: Machine) -> None:
    before = serving.mappings().keys()
    serving.push("Oops", "echo 'spec: [' >>base.yaml && sed -i 's/count: 3/count: 4/' python.yaml")
    serving.eventually(lambda: "python-ci-3" in active(serving), "the file without a fault is followed")

    assert serving.mappings().keys() == before | {f"{POOL}-python-ci-3"}
    serving.push("Mended", "git checkout -q HEAD~1 -- .")
    serving.eventually(lambda: serving.ssh("reconcile validate /srv/manifests").returncode == 0, "the mended manifests arrived")


# ----------------------------------------------------------------------------------------------- reboots, power cuts


def test_a_reboot_brings_every_snapshot_back(serving: Machine) -> None:
    serving.vagrant("reload", "--no-provision")

    back_after_boot(serving, SNAPSHOTS)
    assert written(serving, "python-a") == "mine\n"
    assert serving.run("systemctl is-active systemd-udevd").strip() == "active"


def test_a_service_that_does_not_activate_is_caught(serving: Machine) -> None:
    """The test above can fail: with a fault planted into the installed code, it does."""
    module = serving.run("ls /opt/reconciler/lib/python3*/site-packages/reconciler/planner/pools.py").strip()
    serving.run(f"cp {module} /root/sound.py && sed -i 's/and not found.active/and found.active/' {module}")
    serving.run(f"! cmp -s {module} /root/sound.py")
    try:
        serving.vagrant("reload", "--no-provision")
        with pytest.raises(AssertionError, match="are active"):
            back_after_boot(serving, SNAPSHOTS, within=40)
        assert active(serving) == set()
    finally:
        serving.run(f"mv /root/sound.py {module} && systemctl restart reconcile.service")
    back_after_boot(serving, SNAPSHOTS)


def test_power_that_fails_in_the_middle_of_work_costs_nothing(serving: Machine) -> None:
    serving.push("A late one", f"cat >late.yaml <<'END'\n{LATE}END\n")

    serving.pull_the_plug(once="dmsetup ls | grep -q volume")  # one is mapped for as long as it is being written
    serving.vagrant("up", "--no-provision")

    back_after_boot(serving, SNAPSHOTS | {"late-a"})
    assert written(serving, "python-a") == "mine\n"
    serving.run("reconcile verify")
    assert "orphan" not in serving.run("reconcile list").lower()


# ------------------------------------------------------------------------------------------ removal, a full pool, the end


def test_what_is_no_longer_declared_is_pruned(serving: Machine) -> None:
    used = data_used(serving)
    serving.push("No late one", "git rm -q late.yaml")
    serving.eventually(lambda: serving.ssh("test -e /srv/manifests/late.yaml").returncode == 1, "the commit arrived")
    serving.run("systemctl stop reconcile.service")
    assert "late-a" in active(serving), "nothing goes without --prune"

    pruned = serving.reconcile("--once", "--prune")

    assert pruned["failed"] == 0
    assert "late-a" not in active(serving)
    assert data_used(serving) < used
    assert active(serving) >= SNAPSHOTS


def test_a_full_pool_says_so_harms_nobody_and_is_mended_by_pruning(serving: Machine) -> None:
    serving.run("systemctl stop reconcile.service")
    serving.push("A greedy one", f"cat >greedy.yaml <<'END'\n{GREEDY}END\n")
    serving.eventually(lambda: serving.ssh("test -e /srv/manifests/greedy.yaml").returncode == 0, "the commit arrived")
    serving.reconcile("--once")
    full = serving.ssh(f"dd if=/dev/zero of=/dev/mapper/{POOL}-greedy-a bs=4M oflag=direct")
    serving.push("And one more", "sed -i 's/greedy-a}/greedy-a}, {name: greedy-b}/' greedy.yaml")
    serving.eventually(lambda: serving.ssh("grep -q greedy-b /srv/manifests/greedy.yaml").returncode == 0, "the commit arrived")

    refused = serving.reconcile("--once", expect=1)
    health = serving.ssh("set -a; . /etc/reconciler/environment; reconcile health")

    assert "No space left on device" in full.stderr
    assert {o["reason"] for o in refused["objects"] if o["name"] == "greedy"} == {"PoolFull"}
    assert "--prune" in health.stdout
    assert written(serving, "python-a") == "mine\n", "who does not write has lost nothing"

    serving.push("Not so greedy", "git rm -q greedy.yaml")
    serving.eventually(lambda: serving.ssh("test -e /srv/manifests/greedy.yaml").returncode == 1, "the commit arrived")
    serving.reconcile("--once", "--prune")
    assert converged(serving)
    assert active(serving) >= SNAPSHOTS


def test_the_service_is_as_confined_as_its_unit_says(serving: Machine) -> None:
    """What it needs works within the unit's limits: all above; and what it does not need is not there."""
    serving.run("systemctl start reconcile.service")
    serving.eventually(lambda: converged(serving), "the plan is empty")
    pid = serving.run("systemctl show --value --property MainPID reconcile.service").strip()
    status = serving.run(f"cat /proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert not int(status.split("CapBnd:")[1].split()[0], 16) >> CAP_SYS_MODULE & 1
    assert "Read-only" in serving.ssh(f"nsenter --target {pid} --mount touch /usr/ours").stderr
    health = serving.reconcile("health")
    assert not [check for check in health["checks"] if check["level"] == "fail"], health


def test_nothing_is_left_once_it_is_uninstalled(serving: Machine, empty: set[str]) -> None:
    disk = serving.run("readlink -f /dev/disk/by-partlabel/reconciler-data").strip().rstrip("0123456789")

    serving.run("bash /vagrant/deploy/vagrant/uninstall.sh")

    assert serving.mappings() == {}
    assert serving.run("losetup --list --noheadings") == ""
    assert serving.ssh("pgrep -f '[/]opt/reconciler'").returncode == 1
    assert set(serving.run(ADDED).splitlines()) - empty == set()
    serving.run(f"cmp --bytes $(blockdev --getsize64 {disk}) {disk} /dev/zero")


def data_used(machine: Machine) -> int:
    """Blocks of the pool that are in use, by dmsetup's word."""
    return int(machine.run(f"dmsetup status --noflush {POOL}").split()[5].split("/")[0])
