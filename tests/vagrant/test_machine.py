"""From an empty Debian to images that a microVM can boot from, and back: one machine, one story, in the order of this file.

``vagrant up`` has booted the machine; each test continues where the one before it ended. The tests read the state of the guest's
kernel, udev and systemd through ssh.
"""

from __future__ import annotations

import textwrap

import pytest

from .machine import Machine

CAP_SYS_MODULE = 16
FAULT = ("reconciler/planner/pools.py", "and not found.active", "and found.active")
"""A module, a text in it, and the replacement that one of the tests plants: inactive snapshots are then not activated."""

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
"""No other image has this size, so that none of its layers exists yet."""

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
    """The paths that exist before the installation."""
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
    """Snapshots that a microVM can boot from now: mapped and resumed."""
    mapped = machine.mappings().items()
    return {name.removeprefix(f"{POOL}-") for name, row in mapped if name != POOL and row["suspended"] == "Active"}


def converged(machine: Machine) -> bool:
    """Whether the plan is empty, by its exit code."""
    return machine.ssh("set -a; . /etc/reconciler/environment; reconcile plan --detailed-exitcode").returncode == 0


def back_after_boot(machine: Machine, snapshots: set[str], within: float = 300) -> None:
    """Waits until the service has activated every snapshot by itself."""
    machine.eventually(lambda: machine.ssh("systemctl is-active reconcile.service").returncode == 0, "the service has started")
    machine.eventually(lambda: active(machine) >= snapshots, f"{sorted(snapshots)} are active", within=within)
    machine.eventually(lambda: converged(machine), "the plan is empty")


def written(machine: Machine, snapshot: str) -> str:
    """The content of the file that the user of a snapshot has written."""
    return machine.run(f"mount /dev/mapper/{POOL}-{snapshot} /mnt && cat /mnt/etc/mine; umount /mnt")


# --------------------------------------------------------------------------------------------------- the machine itself


def test_the_root_file_system_has_grown_to_its_disk_at_boot(machine: Machine) -> None:
    """``reconcile build`` made it of half that size; systemd-growfs grows it, as the guest's fstab asks."""
    assert machine.run("systemctl is-active systemd-growfs@-.service").strip() == "active"
    reported = machine.run("/sbin/dumpe2fs -h /dev/vda 2>/dev/null; blockdev --getsize64 /dev/vda").splitlines()
    blocks = next(line.split()[-1] for line in reported if line.startswith("Block count:"))
    assert int(blocks) * 4096 == int(reported[-1])


# ------------------------------------------------------------------------------------------------- one-shot runs


def test_the_first_run_creates_everything_and_the_second_changes_nothing(installed: Machine) -> None:
    first = installed.reconcile("--once")
    second = installed.reconcile("--once", "--detailed-exitcode")

    assert first["failed"] == 0
    assert {o["name"] for o in first["objects"] if o["kind"] == "Snapshot" and o["action"] == "create"} == SNAPSHOTS
    assert second["changed"] == second["failed"] == 0
    assert second["unchanged"] > 0


def test_dmsetup_lists_the_pool_and_every_snapshot_and_nothing_else(installed: Machine) -> None:
    mappings = installed.mappings()
    listed = installed.reconcile("list")

    assert mappings.keys() == {POOL, *(f"{POOL}-{name}" for name in SNAPSHOTS)}
    assert {row["uuid"].partition("-")[0] for row in mappings.values()} == {"RECONCILE"}
    assert {s["path"] for image in listed["images"] for s in image["snapshots"]} == {f"/dev/mapper/{POOL}-{n}" for n in SNAPSHOTS}
    assert all(s["active"] for image in listed["images"] for s in image["snapshots"])


def test_udev_has_links_to_the_devices_and_no_cookie_is_left(installed: Machine) -> None:
    """udev, not libdevmapper, makes the links; every cookie was awaited; blkid finds a file system in each device."""
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


def test_snapshots_have_the_access_that_their_pool_declares_and_udev_keeps_it(installed: Machine) -> None:
    """udev's rule sets it with every event of a device, also where its node was given another owner or mode by hand."""
    nodes = " ".join(f"/dev/mapper/{POOL}-{name}" for name in sorted(SNAPSHOTS))
    declared = ["root kvm 660"] * len(SNAPSHOTS)

    assert installed.run(f"stat -L -c '%U %G %a' {nodes}").splitlines() == declared
    installed.run(f"chown daemon:daemon {nodes} && chmod 600 {nodes}")
    installed.run("udevadm trigger --subsystem-match=block --action=change && udevadm settle --timeout 60")
    assert installed.run(f"stat -L -c '%U %G %a' {nodes}").splitlines() == declared
    assert installed.reconcile("--once", "--detailed-exitcode")["changed"] == 0


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


def test_a_write_to_a_snapshot_is_in_no_other(installed: Machine) -> None:
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


def test_a_mapping_that_is_removed_by_hand_is_activated_again(serving: Machine) -> None:
    serving.eventually(lambda: converged(serving), "the plan is empty")
    serving.run(f"dmsetup remove {POOL}-python-a")

    serving.eventually(lambda: "python-a" in active(serving), "the removed mapping exists again", within=60)
    assert written(serving, "python-a") == "mine\n"


def test_an_invalid_manifest_changes_nothing_until_it_is_repaired(serving: Machine) -> None:
    before = serving.mappings().keys()
    serving.push("Oops", "echo 'spec: [' >>base.yaml && sed -i 's/count: 3/count: 4/' python.yaml")
    serving.eventually(lambda: "python-ci-3" in active(serving), "the valid file is applied")

    assert serving.mappings().keys() == before | {f"{POOL}-python-ci-3"}
    serving.push("Repaired", "git checkout -q HEAD~1 -- .")
    serving.eventually(lambda: serving.ssh("reconcile validate /srv/manifests").returncode == 0, "the repaired manifests arrived")


# ----------------------------------------------------------------------------------------------- reboots, power cuts


def test_every_snapshot_is_active_after_a_reboot(serving: Machine) -> None:
    serving.vagrant("reload", "--no-provision")

    back_after_boot(serving, SNAPSHOTS)
    assert written(serving, "python-a") == "mine\n"
    assert serving.run("systemctl is-active systemd-udevd").strip() == "active"


def test_a_service_that_does_not_activate_is_caught(serving: Machine) -> None:
    """The test above fails if the installed code has this fault."""
    path, sound, faulty = FAULT
    module = serving.run(f"ls /opt/reconciler/lib/python3*/site-packages/{path}").strip()
    serving.run(f"cp {module} /root/sound.py && sed -i 's/{sound}/{faulty}/' {module}")
    serving.run(f"! cmp -s {module} /root/sound.py")
    try:
        serving.vagrant("reload", "--no-provision")
        with pytest.raises(AssertionError, match="are active"):
            back_after_boot(serving, SNAPSHOTS, within=40)
        assert active(serving) == set()
    finally:
        serving.run(f"mv /root/sound.py {module} && systemctl restart reconcile.service")
    back_after_boot(serving, SNAPSHOTS)


def test_a_power_cut_in_the_middle_of_work_loses_nothing(serving: Machine) -> None:
    serving.push("A late one", f"cat >late.yaml <<'END'\n{LATE}END\n")

    serving.pull_the_plug(once="dmsetup ls | grep -q volume")  # a volume is mapped while it is written
    serving.vagrant("up", "--no-provision")

    back_after_boot(serving, SNAPSHOTS | {"late-a"})
    assert written(serving, "python-a") == "mine\n"
    serving.run("reconcile verify")
    assert "orphan" not in serving.run("reconcile list").lower()


# ------------------------------------------------------------------------------------------ removal, a full pool, the end


def test_an_undeclared_image_is_pruned(serving: Machine) -> None:
    used = data_used(serving)
    serving.push("No late one", "git rm -q late.yaml")
    serving.eventually(lambda: serving.ssh("test -e /srv/manifests/late.yaml").returncode == 1, "the commit arrived")
    serving.run("systemctl stop reconcile.service")
    assert "late-a" in active(serving), "nothing is removed without --prune"

    pruned = serving.reconcile("--once", "--prune", "--prune-grace", "0s")

    assert pruned["failed"] == 0
    assert "late-a" not in active(serving)
    assert data_used(serving) < used
    assert active(serving) >= SNAPSHOTS


def test_a_full_pool_is_reported_harms_no_other_snapshot_and_is_repaired_by_pruning(serving: Machine) -> None:
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
    assert written(serving, "python-a") == "mine\n", "other snapshots have lost nothing"

    serving.push("Not so greedy", "git rm -q greedy.yaml")
    serving.eventually(lambda: serving.ssh("test -e /srv/manifests/greedy.yaml").returncode == 1, "the commit arrived")
    serving.reconcile("--once", "--prune", "--prune-grace", "0s")
    assert converged(serving)
    assert active(serving) >= SNAPSHOTS


def test_the_service_has_the_limits_of_its_unit(serving: Machine) -> None:
    """All tests above ran within these limits; what the service doesn't need is missing."""
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


def test_nothing_is_left_after_uninstalling(serving: Machine, empty: set[str]) -> None:
    disk = serving.run("readlink -f /dev/disk/by-partlabel/reconciler-data").strip().rstrip("0123456789")

    serving.run("bash /vagrant/deploy/vagrant/uninstall.sh")

    assert serving.mappings() == {}
    assert serving.run("losetup --list --noheadings") == ""
    assert serving.ssh("pgrep -f '[/]opt/reconciler'").returncode == 1
    assert set(serving.run(ADDED).splitlines()) - empty == set()
    serving.run(f"cmp --bytes $(blockdev --getsize64 {disk}) {disk} /dev/zero")


def data_used(machine: Machine) -> int:
    """Blocks of the pool that are in use, according to dmsetup."""
    return int(machine.run(f"dmsetup status --noflush {POOL}").split()[5].split("/")[0])
