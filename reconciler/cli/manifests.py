"""Manifests and their fields, printed: ``get`` and ``explain``. No state."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.options import options, shared
from reconciler.errors import Exit, UsageError


@click.command()
@shared
@click.argument("what", metavar="KIND/NAME|KINDS")
@click.option("--output", type=click.Choice(("yaml", "json")), help="Form of the documents.  [default: yaml]")
@click.pass_context
def get(context: click.Context, /, what: str, output: str | None, **_: Any) -> int:
    """Print what is declared, in one spelling, with its status: reconcile get image/web, reconcile get images.

    What is printed is a manifest again: `validate` accepts it, and planning it changes nothing.
    """
    from reconciler.cli import session
    from reconciler.manifests import parser
    from reconciler.model import Kind
    from reconciler.output import console
    from reconciler.status import export

    chosen = options(context)
    kind, name = session.parse_object(what) if "/" in what else (session.parse_kind(what), None)
    if kind not in (Kind.IMAGE, Kind.POOL):
        raise UsageError(f"a {kind.lower()} has no manifest of its own", hint=f"reconcile describe {kind.lower()}/NAME")
    with session.looking(chosen.settings) as ours:
        found = export.documents(ours, kind, name)
    if chosen.json or output == "json":
        console.document(found[0] if name is not None else {"items": found})
    else:
        console.data(parser.to_yaml(found).rstrip())
    return Exit.OK


@click.command()
@click.argument("path", metavar="[FIELD]", default="")
def explain(path: str) -> int:
    """Tell what a field of a manifest is, and what it can be: reconcile explain image.spec.layers."""
    from reconciler.manifests import explain as explaining
    from reconciler.output import console

    console.data(explaining.explain(path))
    return Exit.OK
