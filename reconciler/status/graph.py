"""``graph``: pools, volumes, images and snapshots with what each depends on, as lines of text or as SVG.

Called by ``cli``. Pure: ``nodes`` derives the graph from the status of images, ``text`` and ``svg`` draw it. Images that are
declared and do not exist yet are nodes too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from html import escape
from typing import TYPE_CHECKING

from reconciler.dataclass import dataclass
from reconciler.model import Key, Kind, labels
from reconciler.planner.goals import volume_name

if TYPE_CHECKING:
    from reconciler.status.image import Images

ROW, COLUMN, WIDTH, HEIGHT, MARGIN = 44, 250, 210, 32, 20
LONGEST = 30
COLOURS = {"pool": "#dfe7f2", "volume": "#e9e4f5", "image": "#e3f1e3", "snapshot": "#fdf3d8"}
BAD = "#f7d4d4"


@dataclass(frozen=True, slots=True)
class Node:
    """``below`` is the key of the node that it depends on; ``good`` whether nothing is wrong with it.

    ``pool`` is that of a volume or snapshot.
    """

    key: str
    kind: str
    name: str
    note: str
    below: str
    good: bool = True
    pool: str | None = None


def nodes(images: Images) -> tuple[Node, ...]:
    """Pools, volumes on their parents, images on their top volumes, snapshots on their images: parents before children."""
    observed = images.observed
    found: dict[str, Node] = {}
    for name, pool in sorted(observed.pools.items()):
        found[f"pool/{name}"] = Node(
            f"pool/{name}", "pool", name, "" if pool.state else "can't be read", "", pool.state is not None
        )
    for (pool_name, chain), row in sorted(observed.volumes.items(), key=lambda item: (len(item[1].digests), item[0])):
        below = f"volume/{pool_name}/{row.parent}" if row.parent else f"pool/{pool_name}"
        layers = "one layer more" if row.parent else f"{len(row.digests)} layer{'s' if len(row.digests) > 1 else ''}"
        key = f"volume/{pool_name}/{chain}"
        found[key] = Node(key, "volume", volume_name(chain), layers, below, pool=pool_name)
    for name, image in images.statuses.items():
        pool_name = image.row.pool if image.row else image.pool or ""
        below = f"volume/{pool_name}/{image.chain}" if image.chain else f"pool/{pool_name}"
        phase = image.phase.value
        found[f"image/{name}"] = Node(
            f"image/{name}", "image", name, phase, below if below in found else f"pool/{pool_name}", phase == "Ready"
        )
    acted = {action.key for action in images.plan.actions}
    keys = {Key(Kind.SNAPSHOT, *place): row for place, row in sorted(observed.snapshots.items())}
    names = labels(keys)
    for one, made in keys.items():
        key, drifted, snapshot = names[one], one in acted, one.name
        note = "to be repaired" if drifted else ""
        found[key] = Node(key, "snapshot", snapshot, note, f"image/{made.image}", not drifted, one.pool)
    return tuple(found.values())


def text(found: tuple[Node, ...]) -> str:
    return "\n".join(_lines(_children(found), "", ""))


def _children(found: tuple[Node, ...]) -> Mapping[str, list[Node]]:
    present = {node.key for node in found}
    children: defaultdict[str, list[Node]] = defaultdict(list)
    for node in found:
        children[node.below if node.below in present else ""].append(node)
    return children


def _lines(children: Mapping[str, list[Node]], key: str, indent: str) -> Iterator[str]:
    siblings = children.get(key, [])
    for node in siblings:
        last = node is siblings[-1]
        branch = ("└─ " if last else "├─ ") if key else ""
        note = f"  {node.note}" if node.note else ""
        yield f"{indent}{branch}{node.kind} {node.name}{note}{'' if node.good else '  !'}"
        yield from _lines(children, node.key, indent + (("   " if last else "│  ") if key else ""))


def svg(found: tuple[Node, ...]) -> str:
    """One column for each step away from the pool, one row for each leaf; what is not as it should be is red."""
    children = _children(found)
    places: dict[str, tuple[int, float]] = {}
    rows = _place(children, "", -1, 0, places)
    columns = 1 + max((column for column, _ in places.values()), default=0)
    width, height = columns * COLUMN + 2 * MARGIN, rows * ROW + 2 * MARGIN
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"']
    parts[0] += ' font-family="sans-serif" font-size="12">'
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    parts += (_edge(places[node.below], places[node.key]) for node in found if node.below in places)
    parts += (_box(node, places[node.key]) for node in found)
    return "\n".join([*parts, "</svg>"])


def _place(children: Mapping[str, list[Node]], key: str, column: int, row: int, places: dict[str, tuple[int, float]]) -> int:
    """Place the nodes above ``key`` from a row on, and return the first free row. A parent is in the middle of its children."""
    for node in children.get(key, []):
        first = row
        row = max(_place(children, node.key, column + 1, row, places), first + 1)
        places[node.key] = column + 1, (first + row - 1) / 2
    return row


def _corner(place: tuple[int, float]) -> tuple[float, float]:
    return MARGIN + place[0] * COLUMN, MARGIN + place[1] * ROW


def _edge(begin: tuple[int, float], end: tuple[int, float]) -> str:
    (x1, y1), (x2, y2) = _corner(begin), _corner(end)
    x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT / 2, y2 + HEIGHT / 2
    middle = (x1 + x2) / 2
    return f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#8a8f99"/>'


def _box(node: Node, place: tuple[int, float]) -> str:
    x, y = _corner(place)
    colour = COLOURS[node.kind] if node.good else BAD
    name = node.name if len(node.name) <= LONGEST else node.name[: LONGEST - 1] + "…"
    title = f"<title>{escape(f'{node.kind} {node.name} {node.note}')}</title>"
    label = f'<text x="{x + 8}" y="{y + 14}">{escape(name)}</text>'
    note = f'<text x="{x + 8}" y="{y + 27}" font-size="9" fill="#666">{escape(f"{node.kind} {node.note}")}</text>'
    shape = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{colour}" stroke="#b9bdc5"/>'
    return f"<g>{title}{shape}{label}{note}</g>"
