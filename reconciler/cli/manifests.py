"""``get`` and ``explain``: print declared objects as manifests, and describe the fields of a manifest. No state."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.complete import declared_kinds
from reconciler.cli.options import TEXT, logged, options, shared
from reconciler.errors import Exit, UsageError


@click.command()
@shared
@click.argument("what", metavar="KIND/NAME|KINDS", type=TEXT, shell_complete=declared_kinds)
@click.option("--output", type=click.Choice(("yaml", "json")), help="Format of the manifests.  [default: yaml]")
@click.pass_context
def get(context: click.Context, /, what: str, output: str | None, **_: Any) -> int:
    """Print declared objects as manifests, with their status.

    For example: reconcile get image/web, reconcile get images.
    `validate` accepts the output, and a plan of it is empty.
    """
    from reconciler.cli import session
    from reconciler.model import Kind
    from reconciler.output import console
    from reconciler.status import export

    chosen = options(context)
    of = session.parse_object(what) if "/" in what else None
    kind, name = (of.kind, of.name) if of else (session.parse_kind(what), None)
    if kind not in (Kind.IMAGE, Kind.POOL):
        raise UsageError(f"a {kind.lower()} has no manifest of its own", hint=f"reconcile describe {kind.lower()}/NAME")
    with session.reading(chosen.settings, *([(kind, name)] if name is not None else [])) as ours:
        found = export.documents(ours, kind, name)
    if chosen.json or output == "json":
        console.document(found[0] if name is not None else {"items": found})
    else:
        from reconciler.manifests import parser

        console.data(parser.to_yaml(found).rstrip())
    return Exit.OK


@click.command()
@logged
@click.argument("path", metavar="[FIELD]", default="")
def explain(path: str, **_: Any) -> int:
    """Describe a field of a manifest.

    For example: reconcile explain image.spec.layers.
    """
    from reconciler.manifests import explain as explaining
    from reconciler.output import console

    console.data(explaining.explain(path))
    return Exit.OK
