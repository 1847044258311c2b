"""``boot-config``: what a VMM needs to boot from a snapshot. No state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reconciler.cli import complete
from reconciler.cli.options import TEXT, options, shared
from reconciler.errors import Exit


@click.command("boot-config")
@shared
@click.argument("object_", metavar="snapshot/NAME|CLAIM", type=TEXT, shell_complete=complete.bootable)
@click.option(
    "--vmm", type=click.Choice(("firecracker", "cloud-hypervisor", "qemu")), required=True, help="Whose configuration to print."
)
@click.option("--kernel", type=click.Path(path_type=Path), help="Kernel to boot; with its command line.")
@click.option("--read-only", is_flag=True, help="The drive is read-only: for a root with an overlay.")
@click.option("--entrypoint/--no-entrypoint", default=True, help="Run the command of an OCI image as init, where it has one.")
@click.option("--init", type=TEXT, metavar="PATH", help="Run this program of the snapshot as init, without arguments.")
@click.pass_context
def boot_config(
    context: click.Context,
    /,
    object_: str,
    vmm: str,
    kernel: Path | None,
    read_only: bool,
    entrypoint: bool,
    init: str | None,
    **_: Any,
) -> int:
    """Print the drive of a snapshot for a VMM.

    JSON for Firecracker, arguments for Cloud Hypervisor and QEMU.
    """
    import shlex

    from reconciler.cli import booting
    from reconciler.output import console

    chosen = options(context)
    found = booting.configured(chosen.settings, object_, vmm, kernel, read_only=read_only, entrypoint=entrypoint, init=init)
    if isinstance(found, dict):
        console.document(found)
    elif chosen.json:
        console.document({"arguments": found})
    else:
        console.data(shlex.join(found))
    return Exit.OK
