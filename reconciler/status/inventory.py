"""What this host holds and what happened to it: ``list``, ``describe``, ``events`` and ``runs``.

Called by ``cli`` with a Host that is open for reading. Works without manifests and with pools that can't be read. No state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from reconciler.controller import assess
from reconciler.dataclass import asdict, dataclass
from reconciler.engine.definitions import Event, Run
from reconciler.errors import UsageError, visible
from reconciler.host import claims
from reconciler.host.context import Host
from reconciler.model import ImageSpec, Key, Kind, Observed, PoolObserved, SnapshotRow, VolumeRow, labels
from reconciler.output import console
from reconciler.planner import growth
from reconciler.planner.goals import volume_name
from reconciler.planner.references import with_layer
from reconciler.planner.status import ImageStatus
from reconciler.pool.driver import Condition, SnapshotState, Space, VolumeState, is_read_only
from reconciler.status import image as status
from reconciler.status.image import Images

if TYPE_CHECKING:
    from reconciler.registry.writer import Registry

Row = TypeVar("Row", SnapshotRow, VolumeRow)

# ----------------------------------------------------------------------------------------------------- listing


@dataclass(frozen=True, slots=True)
class Listing:
    """The contract of ``list -o json``: images with their snapshots, volumes, and pools."""

    images: tuple[Mapping[str, Any], ...]
    volumes: tuple[Mapping[str, Any], ...]
    pools: tuple[Mapping[str, Any], ...]

    def json(self, kind: Kind | None) -> dict[str, Any]:
        whole = {"images": list(self.images), "volumes": list(self.volumes), "pools": list(self.pools)}
        if kind is None:
            return whole
        if kind is Kind.SNAPSHOT:
            return {"snapshots": [snapshot for image in self.images for snapshot in image["snapshots"]]}
        key = f"{kind.lower()}s"
        return {key: whole.get(key, [])}

    def show(self, kind: Kind | None) -> None:
        if kind in (None, Kind.IMAGE):
            rows = [(i["name"], phase(i), short(i["chain"]), console.size(i["size"]), ready(i)) for i in self.images]
            console.table(("IMAGE", "PHASE", "CHAIN", "SIZE", "SNAPSHOTS"), rows)
        if kind is None:
            console.data("")
        if kind in (None, Kind.SNAPSHOT):
            snapshots = [(s, i) for i in self.images for s in i["snapshots"]]
            rows = [(s["name"], i["name"], usage(s), console.size(s["used"]), s["path"]) for s, i in snapshots]
            console.table(("SNAPSHOT", "IMAGE", "STATE", "USED", "PATH"), rows)
        if kind is None:
            console.data("")
        if kind in (None, Kind.VOLUME):
            rows = [(short(v["chain"]), v["pool"], v["state"], console.size(v["used"]), v["path"]) for v in self.volumes]
            console.table(("VOLUME", "POOL", "STATE", "USED", "PATH"), rows)
        if kind is None:
            console.data("")
        if kind in (None, Kind.POOL):
            pools = [(p["name"], p["driver"], p["state"], occupied(p["data"]), occupied(p["metadata"])) for p in self.pools]
            console.table(("POOL", "DRIVER", "STATE", "DATA", "METADATA"), pools)


def phase(image: Mapping[str, Any]) -> str:
    """The phase of an image, with what the phase alone does not show: ``Ready, suspended``."""
    return ", ".join([image["phase"], *(word for word in ("undeclared", "suspended") if image[word])])


def usage(snapshot: Mapping[str, Any]) -> str:
    """The state of a snapshot, with that of its claim: ``intact, claimed``."""
    return str(snapshot["state"]) + (f", {snapshot['claim']['state']}" if snapshot["claim"] else "")


def ready(image: Mapping[str, Any]) -> str:
    """``2/3``: ready snapshots of those that are declared."""
    return f"{image['readySnapshots']}/{image['wantedSnapshots']}"


def occupied(space: Mapping[str, int] | None) -> str:
    return f"{console.size(space['used'])} of {console.size(space['total'])}" if space else "-"


def short(chain: str | None) -> str:
    return volume_name(chain) if chain else "-"


def listing(host: Host) -> Listing:
    """Everything that is declared or recorded."""
    found = status.read(host)
    observed = found.observed
    images = tuple(image(one, observed) | {"config": found.config(one)} for one in found.statuses.values())
    volumes = tuple(volume(row, observed) for _, row in sorted(observed.volumes.items()))
    return Listing(images, volumes, tuple(pool(name, host, observed) for name in pool_names(host, observed)))


def image(one: ImageStatus, observed: Observed) -> dict[str, Any]:
    return {
        "name": one.name,
        "phase": one.phase.value,
        "undeclared": not one.declared,
        "suspended": one.suspended,
        "chain": one.chain,
        "size": one.size,
        "pool": one.pool,
        "readySnapshots": len(one.ready & one.wanted),
        "wantedSnapshots": len(one.wanted),
        "snapshots": [snapshot(row, observed) for row in one.snapshots],
    }


def snapshot(row: SnapshotRow, observed: Observed) -> dict[str, Any]:
    state = observed.snapshot_state(row.pool, row.name)
    return {
        "name": row.name,
        "path": state.path if state else None,
        "active": state.active if state else False,
        "state": condition(state),
        "used": state.used if state else 0,
        "image": row.image,
        "pool": row.pool,
        "chain": row.chain,
        "claim": claim(row, observed),
        "custom": row.custom or None,
        "readOnly": is_read_only(row.custom),
        "seed": (state.seed or None) if state else None,
        "size": growth.device_size(row, observed) or None,
        "findings": claims.findings(row.pool, row.name, row.size, row.filesystem),
    }


def claim(row: SnapshotRow, observed: Observed) -> dict[str, Any] | None:
    """The claim that the snapshot has, or had since it was made."""
    found = observed.claims.get((row.pool, row.name))
    return {"id": found.id} | claims.summary(found, found.state) if found else None


def volume(row: VolumeRow, observed: Observed) -> dict[str, Any]:
    state = observed.volume_state(row.pool, row.chain)
    return {
        "chain": row.chain,
        "parent": row.parent,
        "pool": row.pool,
        "size": row.size,
        "used": state.used if state else 0,
        "state": condition(state),
        "path": state.path if state else None,
    }


def pool_names(host: Host, observed: Observed) -> list[str]:
    """Pools that are declared, and those that hold something which is recorded."""
    recorded = {pool for pool, _ in (*observed.volumes, *observed.snapshots)}
    return sorted({*host.desired.pools, *observed.pools, *recorded})


def pool(name: str, host: Host, observed: Observed) -> dict[str, Any]:
    spec, found = host.desired.pools.get(name), observed.pools.get(name)
    is_thin = spec.thin is not None if spec else host.records.thin_pool(name) is not None
    state, message = pool_state(found)
    return {
        "name": name,
        "driver": "thin" if is_thin else "file",
        "state": state,
        "message": message,
        "data": space(found.state.space if found and found.state else None),
        "metadata": space(found.state.metadata if found and found.state else None),
    }


def pool_state(found: PoolObserved | None) -> tuple[str, str]:
    """One word for programs, and why: ready, unready (the next run assembles it), halted (you have to repair it), unavailable."""
    if found is None:
        return "unavailable", "no longer declared"
    if found.state is None:
        return "unavailable", found.problem
    if found.state.halted:
        return "halted", f"{found.state.halted.reason}: {found.state.halted.message}"
    return ("unready", found.state.unready) if found.state.unready else ("ready", "")


def space(found: Space | None) -> dict[str, int] | None:
    """``available`` is what new work may take: what is free above the reserve. Bytes, all of them."""
    return {"total": found.total, "used": found.total - found.free, "available": found.available} if found else None


def condition(state: SnapshotState | VolumeState | None) -> str:
    """``unknown`` in a pool that can't be read."""
    return (state.condition if state else Condition.UNKNOWN).value


# ---------------------------------------------------------------------------------------------------- describe


def describe(host: Host, of: Key) -> dict[str, Any]:
    """All that is recorded or observed of one object. Raises UsageError where it does not exist, or several have the name."""
    found = about(status.read(host), of)
    if not found:
        raise UsageError(f"there is no {of.kind.lower()} {of.name!r}", hint=f"see them with: reconcile list {of.kind.lower()}")
    pool = str(found["pool"]) if of.kind in (Kind.SNAPSHOT, Kind.VOLUME) else ""
    keys = [Key(of.kind, pool, str(found["name"])), *parts(of.kind, found)]
    runs = sorted((run for key in keys for run in host.records.runs(key, limit=10)), key=lambda run: run.id)
    log = sorted((event for key in keys for event in host.records.events(key, 20)), key=lambda event: event.seq)
    return {"kind": of.kind.value} | found | {"runs": [run_json(run) for run in runs], "events": [event_json(one) for one in log]}


def parts(kind: Kind, found: Mapping[str, Any]) -> list[Key]:
    """The volume and the snapshots of an image: their runs and events belong to it."""
    if kind is not Kind.IMAGE:
        return []
    recorded = found["recorded"]
    volume = [Key(Kind.VOLUME, recorded["pool"], short(found["chain"]))] if found["chain"] else []
    return [*volume, *(Key(Kind.SNAPSHOT, one["pool"], one["name"]) for one in found["snapshots"])]


def about(images: Images, of: Key) -> dict[str, Any]:
    observed, name = images.observed, of.name
    if of.kind is Kind.IMAGE and name in images.statuses:
        return about_image(images, images.statuses[name])
    if of.kind is Kind.SNAPSHOT:
        copy = only({Key(of.kind, *place): row for place, row in observed.snapshots.items() if place[1] == name}, of.pool)
        return snapshot(copy, observed) if copy else {}
    if of.kind is Kind.VOLUME:
        named = {Key(of.kind, pool, short(row.chain)): row for (pool, _), row in observed.volumes.items()}
        row = only({key: row for key, row in named.items() if row.chain.startswith(name)}, of.pool)
        return {"name": short(row.chain)} | volume(row, observed) | {"digests": list(row.digests)} if row else {}
    if of.kind is Kind.POOL and name in pool_names(images.host, observed):
        return about_pool(images.host, observed, name)
    return {}


def only(found: Mapping[Key, Row], pool: str) -> Row | None:
    """The one that is meant. Raises UsageError where several pools have one and ``pool`` names none of them."""
    meant = {key: row for key, row in found.items() if pool in ("", key.pool)}
    if len(meant) > 1:
        words = sorted(key.with_pool for key in meant)
        raise UsageError(f"{next(iter(meant))} is ambiguous: {len(words)} objects match", hint=f"name one: {', '.join(words)}")
    return next(iter(meant.values()), None)


def about_pool(host: Host, observed: Observed, name: str) -> dict[str, Any]:
    spec, found = host.desired.pools.get(name), observed.pools.get(name)
    state = found.state if found else None
    declared = (
        {"where": str(spec.where) if spec.where else None, "thin": asdict(spec.thin) if spec.thin else None} if spec else None
    )
    return pool(name, host, observed) | {
        "declared": declared,
        "sharesBlocks": found.shares_blocks if found else False,
        "volumes": [short(chain) for where, chain in sorted(observed.volumes) if where == name],
        "snapshots": [one for where, one in sorted(observed.snapshots) if where == name],
        "troubles": [asdict(trouble) for trouble in state.troubles] if state else [],
        "foreign": list(state.foreign) if state else [],
        "orphans": list(state.orphans) if state else [],
        "leftovers": list(state.leftovers) if state else [],
    }


def about_image(images: Images, one: ImageStatus) -> dict[str, Any]:
    declared = declaration(one.spec, images.observed) if one.spec else None
    if declared and (resolution := status.resolution_json(images, one)):
        declared |= {"reference": {key: value for key, value in resolution.items() if key != "config"}}
    recorded = asdict(one.row) if one.row else None
    found = image(one, images.observed) | {"config": images.config(one)} | status.document(images, one)
    return found | {"declared": declared, "recorded": recorded}


def declaration(spec: ImageSpec, observed: Observed) -> dict[str, Any]:
    """What the manifest declares; each layer with the digest that was applied last."""
    spec = with_layer(spec, observed.references)
    applied = assess.as_applied(spec, observed)
    return {
        "where": str(spec.where),
        "labels": dict(spec.labels),
        "suspend": spec.suspend,
        "limits": asdict(spec.limits),
        "layers": [
            {"source": layer.source.url, "sha256": layer.sha256, "applied": found.sha256}
            for layer, found in zip(spec.layers, applied.layers, strict=True)
        ],
        "snapshots": list(spec.snapshots),
        "snapshotSets": [
            {"name": one.name, "count": one.count, "max": one.most, "ttl": one.ttl, "recycle": one.recycle} for one in spec.sets
        ],
        "replacePolicy": spec.replace.value,
    }


def show_description(found: Mapping[str, Any], indent: int = 0) -> None:
    """Nested values as indented lines; empty ones are left out."""
    pad = "  " * indent
    for name, value in found.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping):
            console.data(f"{pad}{name}:")
            show_description(value, indent + 1)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            console.data(f"{pad}{name}:")
            for item in value:
                console.data(f"{pad}  - {visible(inline(item))}")
        else:
            console.data(f"{pad}{name}: {visible(str(value))}")


def inline(item: object) -> str:
    if isinstance(item, Mapping):
        return "  ".join(f"{k}={v}" for k, v in item.items() if v not in (None, "", [], {}))
    return str(item)


# --------------------------------------------------------------------------------------------- events and runs


def events(host: Host, of: Key | None, limit: int) -> list[dict[str, Any]]:
    return [event_json(event) for event in host.records.events(of, limit)]


def event_json(event: Event) -> dict[str, Any]:
    return asdict(event) | {"at": status.at(event.at), "pool": event.pool or None}


def show_events(found: Sequence[Mapping[str, Any]]) -> None:
    keys = [Key(Kind(e["kind"]), e["pool"] or "", e["name"]) for e in found]
    names = labels(keys)
    rows = [(e["at"], names[key], e["reason"], e["message"]) for e, key in zip(found, keys, strict=True)]
    console.table(("AT", "OBJECT", "REASON", "MESSAGE"), rows)


def runs(host: Host, run_id: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest runs; one run comes with its transitions. Raises UsageError for an unknown one."""
    if run_id is None:
        return [run_json(run) for run in host.records.runs(limit=limit)]
    try:
        run = host.records.run(run_id)
    except KeyError:
        raise UsageError(f"there is no run {run_id!r}", hint="see them with: reconcile runs") from None
    steps = [
        asdict(step) | {"started": status.at(step.started), "ended": status.at(step.ended) if step.ended is not None else None}
        for step in host.records.transitions(run_id)
    ]
    return [run_json(run) | {"input": run.input, "data": run.data, "transitions": steps}]


def release(registry: Registry, run_id: str) -> None:
    """Retry a run in state needs-operator: the service does at once, else the next run. Raises UsageError."""
    from reconciler.engine.engine import Engine

    with _named(run_id):
        Engine(registry, ()).release(run_id)


def cancel(host: Host, run_id: str) -> None:
    """Cancel a run. Raises UsageError where there is no such run."""
    with _named(run_id):
        host.engine.cancel(run_id, "cancelled with `reconcile runs --cancel`")


@contextmanager
def _named(run_id: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise UsageError(f"there is no run {run_id!r}", hint="see them with: reconcile runs") from None


def run_json(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "machine": run.machine,
        "kind": run.subject.kind.value,
        "pool": run.subject.pool or None,
        "name": run.subject.name,
        "object": run.subject.path,
        "status": run.status.value,
        "state": run.state,
        "attempt": run.attempt,
        "opened": status.at(run.opened),
        "updated": status.at(run.updated),
        "reason": run.reason,
        "message": run.message,
    }


def show_runs(found: Sequence[Mapping[str, Any]]) -> None:
    rows = [(r["id"], r["object"], r["status"], r["state"], r["opened"], r["reason"]) for r in found]
    console.table(("RUN", "OBJECT", "STATUS", "STATE", "OPENED", "REASON"), rows)
    for step in (step for run in found for step in run.get("transitions", ())):
        moved = f"{step['from_state']} -> {step['to_state']}"
        console.data(f"  {step['started']}  {moved}  {step['result']}  {step['reason']} {visible(step['message'])}".rstrip())
