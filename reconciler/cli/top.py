"""``top``: a live view. No state."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import Options, options, shared
from reconciler.errors import Exit

if TYPE_CHECKING:
    from reconciler.manifests.cache import ManifestCache
    from reconciler.status.top import Scene
    from reconciler.telemetry.activity import Running


SHARE = 0.25
"""Upper bound of the share of one core: a frame of ten thousand images takes longer than a second."""


@click.command()
@shared
@click.option("-n", "--frames", type=click.IntRange(min=1), help="Exit after N frames.  [default: 1 without a terminal]")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=1.0, show_default=True, metavar="SECONDS", help="Time between frames."
)
@click.pass_context
def top(context: click.Context, /, frames: int | None, every: float, **_: Any) -> int:
    """Show pools, running work and events live until you press q. Read-only."""
    from reconciler.output import console, streams
    from reconciler.status import top

    chosen = options(context)
    if chosen.json:
        console.document(top.document(next(scenes(chosen))))
        return Exit.OK
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        for number, scene in zip(range(frames or 1), scenes(chosen), strict=False):
            if streams.is_closed(sys.stdout):
                break
            time.sleep(every if number else 0)
            console.data(top.frame(scene, painted, width=shutil.get_terminal_size((120, 40)).columns))
        return Exit.OK
    with top.Screen().taken() as screen:
        began = time.process_time()
        for number, scene in enumerate(scenes(chosen), 1):
            screen.show(top.frame(scene, painted, *shutil.get_terminal_size()))
            took = time.process_time() - began
            if number == frames or screen.asked_to_end(max(every, took / SHARE)):
                return Exit.OK
            began = time.process_time()
    return Exit.OK


def scenes(chosen: Options) -> Iterator[Scene]:
    """A new scene each time that it is asked for."""
    from reconciler.manifests.cache import ManifestCache

    before: Sequence[Running] = ()
    cached = ManifestCache()
    while True:
        scene = observe(chosen, before, cached)
        before = scene.running
        yield scene


def observe(chosen: Options, before: Sequence[Running], cached: ManifestCache) -> Scene:
    from reconciler.host import context as host
    from reconciler.planner.claims import stocks
    from reconciler.registry import lock
    from reconciler.status import image, top
    from reconciler.telemetry import activity

    settings = chosen.settings
    with host.reading(settings, lenient=True, cached=cached) as ours:
        images = image.read(ours)
        running = activity.read(settings.running)
        return top.Scene(
            host=ours.name,
            at=time.time(),
            holder=lock.holder(settings.lock),
            pools=images.observed.pools,
            phases=[one.phase.value for one in images.statuses.values()],
            running=running,
            rates=top.rates(before, running),
            events=ours.records.events(limit=top.EVENTS),
            pending=len(images.plan.actions),
            faults=len(ours.faults),
            stocks=stocks(ours.desired, images.observed),
        )


def painted(text: str, code: str) -> str:
    from reconciler.output import console

    return console.paint(text, code, sys.stdout)
