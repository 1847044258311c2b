"""What a VMM needs to boot from a snapshot: the drive, the kernel, and its command line. Called by ``cli`` and ``api``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler.dataclass import dataclass
from reconciler.errors import UsageError

CONSOLE = "console=ttyS0 reboot=k panic=1 root=/dev/vda"
LINE_BYTES = 2047
"""Of a kernel's command line on x86."""
MOST_ARGUMENTS, MOST_VARIABLES = 32, 31
"""What a kernel passes to init, ``HOME`` and ``TERM`` aside; it panics with more (CONFIG_INIT_ENV_ARG_LIMIT, init/main.c)."""
_GIVEN = ("HOME", "TERM")
_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
"""Of a variable that the kernel passes to init. It takes names in lower case, such as ``init``, as its parameters."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user chooses. ``init`` runs in place of the image's command, which ``entrypoint`` False leaves out."""

    vmm: str
    kernel: str = ""
    read_only: bool = False
    entrypoint: bool = True
    init: str = ""


@dataclass(frozen=True, slots=True)
class Boot:
    """``command`` is what runs as init, empty for the image's own; ``env`` has its ``NAME=value``; ``seed`` is a second disk."""

    path: str
    kernel: str = ""
    read_only: bool = False
    command: Sequence[str] = ()
    env: Sequence[str] = ()
    seed: str = ""

    @property
    def line(self) -> str:
        """The kernel's command line. Raises UsageError for what it can't hold."""
        words = [CONSOLE, "ro" if self.read_only else "rw"]
        if self.command:
            env = [one for one in self.env if _NAME.fullmatch(one.partition("=")[0])]
            first, *rest = self.command
            _require_few("arguments", len(rest), MOST_ARGUMENTS)
            _require_few("variables", len({one.partition("=")[0] for one in env}.difference(_GIVEN)), MOST_VARIABLES)
            words += map(_word, env)
            if not first.startswith("/"):
                message = f"the image's entrypoint {first!r} is not an absolute path, and the kernel searches no PATH"
                raise UsageError(message, hint="--no-entrypoint boots the image's own init")
            words += [f"init={_word(first)}", *(["--", *map(_word, rest)] if rest else [])]
        line = " ".join(words)
        if len(line.encode()) > LINE_BYTES:
            raise UsageError(f"the kernel's command line has more than {LINE_BYTES} bytes", hint="--no-entrypoint leaves it out")
        return line


def _require_few(what: str, count: int, most: int) -> None:
    if count > most:
        message = f"the image's command has {count} {what}; a kernel passes {most} to init, and panics with more"
        hint = "write a script that runs it into the snapshot (`files`, mode 0755), and boot that with --init PATH"
        raise UsageError(message, hint=f"{hint}; --no-entrypoint boots the image's own init")


def _word(text: str) -> str:
    """One word of the command line; the kernel has quotes around blanks, and no escape for quotes or new lines."""
    if '"' in text or "\n" in text:
        raise UsageError(f"{text!r} can't be on a kernel's command line", hint="--no-entrypoint leaves the entrypoint out")
    return f'"{text}"' if " " in text or "\t" in text or not text else text


def command_of(config: Any) -> tuple[list[str], list[str]]:
    """The command and the environment of an OCI image's configuration; empty where there is none. Raises UsageError."""
    run = _member(config, "config", dict) or {}
    return [*_texts(run, "Entrypoint"), *_texts(run, "Cmd")], _texts(run, "Env")


def _texts(run: Mapping[str, Any], name: str) -> list[str]:
    found = _member(run, name, list) or []
    if not all(isinstance(one, str) for one in found):
        raise _malformed(name)
    return list(found)


def _member(of: Any, name: str, kind: type) -> Any:
    """A member of a JSON object; None where it or the object is absent. Raises UsageError for one of another type."""
    found = of.get(name) if isinstance(of, dict) else of
    if found is not None and not (isinstance(of, dict) and isinstance(found, kind)):
        raise _malformed(name)
    return found


def _malformed(name: str) -> UsageError:
    hint = "--no-entrypoint boots the image's own init"
    return UsageError(f"{name} in the image's configuration has a type that OCI does not permit", hint=hint)


def firecracker(boot: Boot) -> dict[str, Any]:
    """The parts of a configuration file (`--config-file`), each of which is also the body of a PUT."""
    drive = {"drive_id": "rootfs", "path_on_host": boot.path, "is_root_device": True, "is_read_only": boot.read_only}
    source = {"boot-source": {"kernel_image_path": boot.kernel, "boot_args": boot.line}} if boot.kernel else {}
    seed = {"drive_id": "seed", "path_on_host": boot.seed, "is_root_device": False, "is_read_only": True}
    return {**source, "drives": [drive, *([seed] if boot.seed else [])]}


def cloud_hypervisor(boot: Boot) -> list[str]:
    disk = f"path={_quoted(boot.path)},readonly={'on' if boot.read_only else 'off'}"
    seed = [f"path={_quoted(boot.seed)},readonly=on"] if boot.seed else []
    return [*(["--kernel", boot.kernel, "--cmdline", boot.line] if boot.kernel else []), "--disk", disk, *seed]


def _quoted(path: str) -> str:
    return f'"{path}"' if "," in path else path


def qemu(boot: Boot) -> list[str]:
    """``format=raw`` always: a guest could write another format's header, and QEMU would open the files that it names."""
    kernel = ["-kernel", boot.kernel, "-append", boot.line] if boot.kernel else []
    drive = _qemu_drive("rootfs", boot.path, "discard=unmap" + (",read-only=on" if boot.read_only else ""))
    return [*kernel, *drive, *(_qemu_drive("seed", boot.seed, "read-only=on") if boot.seed else [])]


def _qemu_drive(name: str, path: str, options: str) -> list[str]:
    file = path.replace(",", ",,")
    return ["-drive", f"file={file},if=none,id={name},format=raw,{options}", "-device", f"virtio-blk-pci,drive={name}"]


VMMS: Mapping[str, Callable[[Boot], dict[str, Any] | list[str]]] = {
    "firecracker": firecracker,
    "cloud-hypervisor": cloud_hypervisor,
    "qemu": qemu,
}


def configured(wish: Wish, path: str, seed: str, config: Any, *, read_only: bool) -> dict[str, Any] | list[str]:
    """The VMM's configuration for a snapshot, whose image has the OCI configuration ``config`` or None. Raises UsageError."""
    command, env = command_of(config) if wish.entrypoint and not wish.init else ([wish.init] if wish.init else [], [])
    return VMMS[wish.vmm](Boot(path, wish.kernel, wish.read_only or read_only, command, env, seed))
