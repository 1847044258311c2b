"""What VMMs get to boot from a snapshot."""

from __future__ import annotations

import pytest

from reconciler.errors import UsageError
from reconciler.status.boot import VMMS, Boot, command_of


def test_firecracker_gets_json() -> None:
    assert VMMS["firecracker"](Boot("/dev/mapper/thin-web", "/srv/vmlinux")) == {
        "boot-source": {
            "kernel_image_path": "/srv/vmlinux",
            "boot_args": "console=ttyS0 reboot=k panic=1 root=/dev/vda rw",
        },
        "drives": [{"drive_id": "rootfs", "path_on_host": "/dev/mapper/thin-web", "is_root_device": True, "is_read_only": False}],
    }


def test_the_format_is_raw_and_discards_are_passed_on() -> None:
    assert VMMS["qemu"](Boot("/a,b", read_only=True)) == [
        *("-drive", "file=/a,,b,if=none,id=rootfs,format=raw,discard=unmap,read-only=on"),
        *("-device", "virtio-blk-pci,drive=rootfs"),
    ]


def test_cloud_hypervisor_gets_arguments() -> None:
    assert VMMS["cloud-hypervisor"](Boot("/a,b", "/k", read_only=True))[-2:] == ["--disk", 'path="/a,b",readonly=on']


def test_a_seed_is_a_second_drive_that_is_read_only() -> None:
    boot = Boot("/d", seed="/s,1")

    assert VMMS["qemu"](boot)[4:] == [
        *("-drive", "file=/s,,1,if=none,id=seed,format=raw,read-only=on"),
        *("-device", "virtio-blk-pci,drive=seed"),
    ]
    assert VMMS["cloud-hypervisor"](boot) == ["--disk", "path=/d,readonly=off", 'path="/s,1",readonly=on']


def test_the_command_of_an_oci_image_is_init() -> None:
    config = {"config": {"Entrypoint": ["/bin/agent"], "Cmd": ["--name", "a b"], "Env": ["PATH=/bin", "odd.name=x"]}}
    command, env = command_of(config)

    assert Boot("/d", "/k", command=command, env=env).line.endswith('rw PATH=/bin init=/bin/agent -- --name "a b"')
    assert command_of(None) == command_of({"config": None}) == command_of({}) == ([], [])


def test_no_variable_of_an_image_is_a_parameter_of_the_kernel() -> None:
    env = ["root=/dev/vdb", "init=/evil", "panic=0", "quiet=1", "Mixed=1", "LANG=C", "_X=1"]

    assert Boot("/d", "/k", command=["/a"], env=env).line == "console=ttyS0 reboot=k panic=1 root=/dev/vda rw LANG=C _X=1 init=/a"


@pytest.mark.parametrize(
    "config",
    [
        *({"config": {name: value}} for name in ("Entrypoint", "Cmd", "Env") for value in ("/bin/sh", [1], {"a": 1}, 1)),
        {"config": []},
        {"config": "x"},
        [1],
        [],
        "x",
    ],
    ids=str,
)
def test_a_configuration_of_other_types_is_refused(config: object) -> None:
    with pytest.raises(UsageError, match="in the image's configuration has a type that OCI does not permit"):
        command_of(config)


@pytest.mark.parametrize(
    ("command", "words"),
    [(["agent"], "not an absolute path"), (["/a", 'say "x"'], "can't be"), (["/a", "x" * 3000], "more than")],
)
def test_what_no_command_line_can_hold_is_refused(command: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _ = Boot("/d", "/k", command=command).line


@pytest.mark.parametrize(("arguments", "variables"), [(32, 31), (33, 0), (0, 32)])
def test_more_than_a_kernel_passes_to_init_is_refused(arguments: int, variables: int) -> None:
    """It would panic."""
    env = ["HOME=/root", "TERM=vt100", *(f"V{n}=1" for n in range(variables)), "lower=1"]
    boot = Boot("/d", "/k", command=["/a", *["x"] * arguments], env=env)

    if (arguments, variables) == (32, 31):
        assert boot.line.endswith("-- " + " ".join(["x"] * 32))
    else:
        with pytest.raises(UsageError, match="panics with more") as refused:
            _ = boot.line
        assert "--init PATH" in refused.value.hint
