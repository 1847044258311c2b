"""Options that verbs share, and what they come to. No state."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reconciler.manifests.selectors import parse_labels
from reconciler.settings import HOST_FILE, Settings, default_state

FORMATS = ("table", "json")


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every verb shares; given before the verb or behind it."""

    settings: Settings
    format: str

    @property
    def json(self) -> bool:
        return self.format == "json"


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-o", "--format", "format_", type=click.Choice(FORMATS), help="Form of the answer.  [default: table]"),
        click.option("--state", type=click.Path(path_type=Path), envvar="RECONCILER_STATE", help="State directory."),
        click.option(
            "-f", "--manifests", type=click.Path(path_type=Path), envvar="RECONCILER_MANIFESTS", help="Directory of manifests."
        ),
    ):
        command = option(command)
    return command


def options(context: click.Context) -> Options:
    """The shared options: what stands behind the verb wins over what stands before it."""

    def given(name: str) -> Any:
        own = context.params.get(name)
        return own if own is not None else context.find_root().params.get(name)

    root = context.find_root().params
    settings = Settings(
        manifests=given("manifests") or Path("manifests"),
        state=(given("state") or default_state()).absolute(),
        jobs=root.get("jobs") or 2,
        timeout=given("timeout"),
        resync=root.get("interval") or 300.0,
        host_file=Path(os.environ.get("RECONCILER_HOST_FILE", HOST_FILE)),
        host_labels=parse_labels(os.environ.get("RECONCILER_HOST_LABELS", "")),
    )
    return Options(settings, given("format_") or "table")


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that plan."""
    for option in (
        click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 where something changed or is pending."),
        click.option("-l", "--selector", metavar="SELECTOR", help="Only images with these labels: key=value,key!=value,key."),
        click.option("--prune-max", metavar="N|N%", help="Refuse to prune more images at once.  [default: 50%, or 5]"),
        click.option("--prune", is_flag=True, help="Also remove what no manifest declares any more."),
        click.option("--diff", is_flag=True, help="Show the fields of each change."),
    ):
        command = option(command)
    return command


def about_layers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that read layers given on the command line."""
    for option in (
        click.option("--anonymous", is_flag=True, help="Read s3:// layers without credentials."),
        click.option("--endpoint-url", metavar="URL", help="S3 endpoint for s3:// layers."),
        click.option("--limit", "limits", multiple=True, metavar="NAME=VALUE", help="As in the manifest: maxEntries=100000."),
    ):
        command = option(command)
    return command
