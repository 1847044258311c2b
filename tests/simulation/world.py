"""A simulated host: registry and pools that outlive its processes, manifests that change, and a script that one seed decides.

``World.run`` plays the script, turns all faults off, waits until the host has converged, and stops the process. Called by
``__main__`` and the tests. State in memory, and the registry's file.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

from reconciler.claim import Claim, Recycle, SnapshotSet
from reconciler.controller.assess import Wish, prunable
from reconciler.engine.definitions import Result, Run, Status
from reconciler.errors import ReconcilerError
from reconciler.host.label_change import HOLD_SECONDS
from reconciler.image.custom import CustomSpec, FileSpec, Names, digest_of
from reconciler.image.spec import GIB, Layer, chain_ids
from reconciler.manifests.faults import Fault
from reconciler.model import Desired, ImageRow, ImageSpec, Kind, Observed, PoolSpec, ReplacePolicy, SnapshotRow, Where
from reconciler.planner.claims import kept, recycles
from reconciler.pool.memory import Storage
from reconciler.pool.memory.storage import Object, is_volume
from reconciler.registry.claims import Caller, Claims, Wanted
from reconciler.registry.marks import Mark, What
from reconciler.registry.reader import Records
from tests.simulation.checks import CONVERGED, EXIT, Checks, Violation, edit_of
from tests.simulation.process import Pace, Process, second_process
from tests.simulation.sources import MODES, SimulatedSources
from tests.simulation.threads import EPOCH, Deadlock, Kernel, VirtualEvent

T = TypeVar("T")

ROOT = Caller(0, is_admin=True)
NAMES = ("web", "db", "ci", "vpn", "dns", "job", "log")
POOLS = ("a", "b")
HUGE = 1 << 40
"""Bytes of a disk that is not full."""

CONVERGE_SECONDS = 3 * 3600.0
CONVERGE_LOOKS = 200
SAMPLE_SECONDS = 10.0

REMEMBERED_SECONDS = 5000.0
"""The longest pause after a failure, which outlives the process: so long a fault may have consequences."""


class Op(NamedTuple):
    """After a ``pause`` in seconds, do what ``name`` says; ``number`` seeds its choices."""

    pause: float
    name: str
    number: int


@dataclass
class PoolFault:
    mode: str
    operation: str = ""
    ends: list[VirtualEvent] = field(default_factory=list)


class SimulatedStorage(Storage):
    """A disk that reports what is deleted. ``outside`` is set while something other than reconcile does it."""

    name = ""
    outside = False
    dropped: Callable[[str, Object], None] = staticmethod(lambda pool, one: None)

    def drop(self, one: Object) -> None:
        if not self.outside:
            self.dropped(self.name, one)
        super().drop(one)


def _content(file: FileSpec, names: Names) -> bytes:
    return Path(file.source).read_bytes() if file.source else names.fill(file.content).encode()


_template: list[Path] = []


def new_registry(directory: Path) -> None:
    """An empty registry; the schema is created once for all worlds of this process."""
    if not _template:
        made = Path(tempfile.mkdtemp(prefix="simulation-")) / "registry.sqlite3"
        Records.of(made).close()
        with closing(sqlite3.connect(made)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _template.append(made)
    shutil.copyfile(_template[0], directory / "registry.sqlite3")


@dataclass(frozen=True)
class Options:
    """How a world runs its processes."""

    kind: str = "service"
    prune: bool = False
    grace: float = 0.0
    turn: float = 1.0

    @classmethod
    def of(cls, random: Random) -> Options:
        kind = "once" if random.random() < 0.15 else "service"
        return cls(kind, random.random() < 0.6, random.choice((0.0, 0.0, 60.0)), random.choice((1.0, 1.0, 1.0, 0.2)))


class World:
    def __init__(self, seed: int, options: Options | None = None, *, say: Callable[[str], None] | None = None) -> None:
        self.random = Random(seed)
        self.options = options or Options.of(self.random)
        self.kernel = Kernel(self.random)
        self.checks = Checks(self)
        self.sources = SimulatedSources(self.kernel)
        self.pools: dict[str, SimulatedStorage] = {}
        for name in POOLS:
            self.pools[name] = SimulatedStorage()
            self.pools[name].name, self.pools[name].dropped = name, self.checks.dropped
        self.pool_faults: dict[str, PoolFault] = {}
        self.chains: dict[str, tuple[str, ...]] = {}
        self.role, self.faults = "x", ()
        self.desired = Desired({name: PoolSpec(name) for name in POOLS}, {}, "/manifests")
        self._history: list[tuple[float, Desired]] = [(0.0, self.desired)]
        self._spoiled: dict[str, float] = {}
        self.process: Process | None = None
        self.claims: dict[str, Claim] = {}
        """What users were given and have not released."""
        self.recycled: set[tuple[str, str]] = set()
        """Names that were ever in a set that is recycled, or whose recycling was requested."""
        self._say = say
        self.kernel.started = lambda name: None if name.startswith("('") else self.log(f"  begins: {name}")
        self._directory = tempfile.TemporaryDirectory(prefix="world-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.state = Path(self._directory.name)
        new_registry(self.state)
        self.files = [self.state / f"key-{number}" for number in range(2)]
        for path in self.files:
            path.write_text("key\n")

    faults: tuple[Any, ...]

    # -------------------------------------------------------------------------------------------------- the registry

    def open_registry(self, clock: Callable[[], float]) -> Records:
        records = Records.of(self.state / "registry.sqlite3", clock=clock)
        records._raw.execute("PRAGMA synchronous = OFF")
        return records

    def read(self, what: Callable[[Records], T]) -> T:
        if self.process is not None and not self.process.dead:
            return what(self.process.records)
        with closing(self.open_registry(lambda: EPOCH + self.kernel.now)) as records:
            return what(records)

    def log(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{self.kernel.now:10.2f}  {text}")

    # ------------------------------------------------------------------------------------------------------- script

    def run(self, script: list[Op]) -> None:
        """Play the script and everything after it. Raises Violation where an invariant does not hold."""
        try:
            self.kernel.run(lambda: self._play(script))
        except Deadlock as error:
            self.checks.violated("no deadlock", str(error))
        finally:
            self._directory.cleanup()
        if self.checks.violations:
            raise Violation("\n".join(self.checks.violations))

    def _play(self, script: list[Op]) -> None:
        self._begin()
        for op in script:
            self._pass(op.pause)
            self.log(f"{op.name} {op.number}")
            getattr(self, op.name)(Random(op.number))
            self._begin()
            self.checks.threads()
            if self.checks.violations:
                break
        if not self.checks.violations:
            self._end()
        self._kill()
        self.checks.threads()

    def _pass(self, seconds: float) -> None:
        """Let time pass, and check the images meanwhile."""
        until = self.kernel.now + seconds
        while (left := until - self.kernel.now) > 0 and not self.checks.violations:
            self.kernel.sleep(min(left, SAMPLE_SECONDS))
            self.checks.sample()
            self._begin()

    def _begin(self) -> None:
        """Begin a process where none runs."""
        if self.process is not None and (self.process.ended or self.process.dead):
            self._kill()
        if self.process is None:
            wish = Wish(prune=self.options.prune, grace=self.options.grace, on_invalid="freeze")
            pace = Pace(self.options.turn, max(self.options.turn, 5.0))
            self.process = Process(self, self.options.kind, wish, pace)
            self.log(f"{self.options.kind} begins")

    def _kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            while self.kernel.alive(process):
                self.kernel.sleep(0.0)

    def _end(self) -> None:
        """All faults end; the host has to converge, and the process to stop."""
        self.log("all faults end")
        self._heal_everything()
        self._begin()
        self._converge()
        self.checks.content()
        if not self.checks.violations and self.options.kind == "service":
            self._stop()

    def _stop(self) -> None:
        process = self.process
        assert process is not None
        process.request_stop()
        until = self.kernel.now + 60
        while not process.ended and self.kernel.now < until:
            self.kernel.sleep(0.2)
        if not process.ended:
            self.checks.violated(EXIT, "it still runs after 60 s")

    def _converge(self) -> None:
        assert self.process is not None
        began, assessments, runs = self.kernel.now, self.process.assessments, 0
        while left := self.unsettled():
            process = self.process
            if process is None or process.dead or process.ended:
                runs += 1
                self._begin()
                assessments = 0
            self.kernel.sleep(15.0)
            if self.checks.violations:
                return
            assert self.process is not None
            seen = self.process.assessments - assessments
            if self.kernel.now - began > CONVERGE_SECONDS or seen > CONVERGE_LOOKS or runs > 12:
                self.checks.violated(CONVERGED, f"{left} after {self.kernel.now - began:.0f} s, {seen} assessments, {runs} runs")
                return

    # -------------------------------------------------------------------------------------------------- how it stands

    def declared_at(self, begin: float, end: float) -> Desired | None:
        """The manifests of that time; None where they changed within it."""
        last = [desired for at, desired in self._history if at <= begin][-1:]
        return None if not last or self.faults or any(begin < at <= end for at, _ in self._history) else last[0]

    def healthy(self) -> dict[str, ImageSpec]:
        """Images that nothing is in the way of, and that no fault has touched since the process began."""
        process = self.process
        if self.faults or process is None:
            return {}
        since = self.kernel.now - REMEMBERED_SECONDS

        def well(image: ImageSpec) -> bool:
            sources = [self.sources.all[layer.source] for layer in image.layers]
            if any(one.mode or one.healed >= since for one in sources) or image.suspend or self._is_unwell(image.pool):
                return False
            return not any(self._spoiled.get(name, 0.0) >= since for name in (image.name, f"pool {image.pool}"))

        return {name: image for name, image in self.desired.images.items() if well(image)}

    def hindered(self) -> bool:
        """Whether faults may be in the way of calling a step off: of manifests, a pool or a source, or a suspension."""
        suspended = any(image.suspend for image in self.desired.images.values())
        hung = any(one.mode == "hang" for one in self.sources.all.values())
        return bool(self.faults) or suspended or hung or self._spoiled_lately() or any(map(self._is_unwell, POOLS))

    def _spoiled_lately(self) -> bool:
        return any(
            at >= self.kernel.now - REMEMBERED_SECONDS for name, at in self._spoiled.items() if not name.startswith("pool ")
        )

    def _is_unwell(self, pool: str) -> bool:
        disk = self.pools[pool]
        return pool in self.pool_faults or disk.read_only or bool(disk.unreadable or disk.held) or disk.total != HUGE

    def kept(self, image: ImageSpec) -> tuple[str, ...]:
        """The names of the snapshots that there should be of an image now."""
        rows, snapshots = self.read(lambda records: (records.images([image.name]), records.snapshots([image.name])))
        return kept(image, Observed({}, images=rows, snapshots=snapshots, claims=self.current_claims())).names

    def current_claims(self) -> dict[tuple[str, str], Claim]:
        now, found = self.kernel.moment(), self.read(lambda records: records.claims())
        return {place: replace(one, state=one.at(now)) for place, one in found.items()}

    def unready(self, image: ImageSpec) -> str:
        """What an image lacks; empty where it is ready."""
        rows = self.read(lambda records: records.snapshots([image.name]))
        row = self.read(lambda records: records.images([image.name])).get(image.name)
        if row is None:
            return "its row"
        storage = self.pools[image.pool]
        if row.chain is None or not any(one.sealed and not one.damaged for one in storage.named(row.chain)):
            return "its volume"
        for name in self.kept(image):
            found = rows.get((image.pool, name))
            one = storage.by_identity(found.identity) if found else None
            if one is None or not one.active or one.damaged:
                return f"snapshot {name}"
        return ""

    def unsettled(self) -> str:
        """How the host differs from what is declared; empty where it has converged, or where a guard refuses the run."""
        if self.options.kind == "once" and self.options.prune and self._is_guarded():
            return ""
        for image in self.desired.images.values():
            if missing := self.unready(image):
                return f"image {image.name} lacks {missing}"
            digests = [layer.sha256 or self.sources.all[layer.source].digest for layer in image.layers]
            chain = chain_ids(image.size, digests)[-1]
            row = self.read(lambda records, name=image.name: records.images([name]))[image.name]
            if (row.chain, row.pool) != (chain, image.pool):
                return f"image {image.name} has another chain"
            if image.replace is not ReplacePolicy.KEEP:
                snapshots = self.read(lambda records, name=image.name: records.snapshots([name]))
                if any(snapshots[image.pool, name].chain != chain for name in self.kept(image)):
                    return f"a snapshot of image {image.name} has another chain"
            if other := self._customized_otherwise(image):
                return f"snapshot {other} of image {image.name} has other files than declared"
            if small := self._too_small(image):
                return f"snapshot {small} of image {image.name} is smaller than declared"
            for place, one in self.current_claims().items():
                if place[0] == image.pool and any(s.has(place[1]) and recycles(s, one) for s in image.sets):
                    return f"{one} has ended, and snapshot {place[1]} is not recycled"
        return self._unpruned() or self._leftovers() or self._open_run()

    def _open_run(self) -> str:
        """What is left of a run that no action needs any more: a step that was called off has ended, and its run with it."""
        if self.options.kind != "service":
            return ""
        return next((f"{run.machine} {run.subject} is still open" for run in self.read(lambda records: records.open_runs())), "")

    def _customized_otherwise(self, image: ImageSpec) -> str:
        """A snapshot that has other files or another kind of identity than declared, and may be replaced; empty for none."""
        rows = self.read(lambda records: records.snapshots([image.name]))
        for name in self.kept(image) if image.replace is not ReplacePolicy.KEEP else ():
            spec, row = image.custom.get(name, CustomSpec()), rows.get((image.pool, name))
            found = self.pools[image.pool].by_identity(row.identity) if row else None
            names = Names(name, spec.index, image.name, "host")
            files = [[one.path, digest_of(_content(one, names)), one.mode, one.uid, one.gid] for one in spec.files]
            has = json.loads(edit_of(found)[0] or "[1, 0, false, []]") if found else None
            if has is not None and has[2:] != [spec.unique_ids, files]:
                return name
        return ""

    def _too_small(self, image: ImageSpec) -> str:
        """A snapshot whose device is smaller than declared; empty where there is none."""
        rows = self.read(lambda records: records.snapshots([image.name]))
        for name in self.kept(image):
            wanted, row = image.custom.get(name, CustomSpec()).size, rows.get((image.pool, name))
            found = self.pools[image.pool].by_identity(row.identity) if row else None
            if row and found and not row.size <= found.size >= wanted:
                return name
        return ""

    def _leftovers(self) -> str:
        """What is left half-done in a pool that a service looks after."""
        if self.options.kind != "service":
            return ""
        volumes, snapshots = self.read(lambda records: (records.volumes(), records.snapshots()))
        recorded = {row.identity for row in (*volumes.values(), *snapshots.values())}
        for name, storage in self.pools.items():
            for one in storage.objects.values() if storage.assembled else ():
                if not one.foreign and not one.orphan and one.identity not in recorded:
                    return f"pool {name} holds {one}, which nothing needs"
        return ""

    def _unpruned(self) -> str:
        if not self.options.prune or not self.desired.images or self._is_relabelled() or self._is_guarded():
            return ""
        orphans = self._undeclared(self.read(lambda records: records.images()))
        return f"undeclared images {', '.join(orphans)} are still there" if orphans else ""

    def _undeclared(self, rows: Mapping[str, ImageRow]) -> list[str]:
        return [name for name, row in rows.items() if name not in self.desired.images and not row.retain]

    def _is_guarded(self) -> bool:
        """Whether a guard refuses to prune what is undeclared. The declared deletionPolicy counts, else the recorded one."""
        rows, snapshots = self.read(lambda records: records.images()), self.read(lambda records: records.snapshots())
        declared = {(image.pool, name) for image in self.desired.images.values() for name in image.snapshots}
        kept = {name for name, row in rows.items() if (self.desired.images.get(name) or row).retain}
        going = sum(place not in declared and row.image not in kept for place, row in snapshots.items())
        return len(self._undeclared(rows)) > prunable("50%", len(rows)) or going > prunable("50%", len(snapshots))

    def _is_relabelled(self) -> bool:
        """Whether nothing is pruned because the labels of the host have changed."""
        accepted, change = self.read(lambda records: (records.labels(), records.label_change()))
        recent = change is None or EPOCH + self.kernel.now < change[1] + HOLD_SECONDS
        return recent and accepted not in (None, {"role": self.role})

    # ------------------------------------------------------------------------------------------- steps of a script

    def _declare(self, images: Mapping[str, ImageSpec]) -> None:
        if self.faults:
            return
        before, self.desired = self.desired, replace(self.desired, images=dict(images))
        self._history.append((self.kernel.now, self.desired))
        named = {n for n in {*before.images, *images} if before.images.get(n) != images.get(n)}
        if self.process is not None:
            few = frozenset(named) if len(named) == 1 and self.random.random() < 0.7 else None
            self.process.changes.put(few)

    def _image(self, name: str, random: Random) -> ImageSpec:
        sources = random.sample([*self.sources.all], random.choice((1, 1, 2, 2, 3)))
        pins = [self.sources.all[source].digest if random.random() < 0.7 else None for source in sources]
        layers = tuple(Layer(source, digest) for source, digest in zip(sources, pins, strict=True))
        snapshots = tuple(f"{name}-{n}" for n in random.sample(range(3), random.choice((0, 1, 2, 2))))
        policy = random.choice((ReplacePolicy.KEEP, ReplacePolicy.RECREATE, ReplacePolicy.ON_RELEASE))
        retain, suspend = random.random() < 0.15, random.random() < 0.08
        pool = random.choice(POOLS)
        return ImageSpec(
            name, pool, random.choice((GIB, 2 * GIB)), layers, snapshots, retain=retain, suspend=suspend, replace=policy
        )

    def edit(self, random: Random) -> None:
        images = dict(self.desired.images)
        for _ in range(random.choice((1, 1, 2, 3))):
            name = random.choice(NAMES)
            if name in images and random.random() < 0.35:
                del images[name]
            else:
                images[name] = self._image(name, random)
        self._declare(images)

    def edit_twice(self, random: Random) -> None:
        """The second change arrives while the first is assessed."""
        self.edit(random)
        self._pass(random.uniform(0.0, 0.3))
        self.edit(random)

    def flip(self, random: Random) -> None:
        """An image goes, and comes back a moment later."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            image = self.desired.images[name]
            self._declare({other: one for other, one in self.desired.images.items() if other != name})
            self._pass(random.choice((0.05, 0.5, 3.0)) * random.uniform(0.5, 1.5))
            self._declare({**self.desired.images, name: image})

    def edit_snapshots(self, random: Random) -> None:
        """An image gets other snapshots and nothing else."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            chosen = tuple(f"{name}-{n}" for n in random.sample(range(4), random.choice((1, 2, 3))))
            self._declare({**self.desired.images, name: replace(self.desired.images[name], snapshots=chosen, sets=())})

    def claim_sets(self, random: Random) -> None:
        """An image gets a set of snapshots that are given out and recycled."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            count, more = random.choice((1, 2)), random.choice((0, 1, 3))
            one = SnapshotSet(name, count, count + more, recycle=Recycle.ON_RELEASE)
            image = replace(self.desired.images[name], snapshots=tuple(one.names), sets=(one,))
            self.recycled |= {(image.pool, snapshot) for snapshot in one.names}
            self._declare({**self.desired.images, name: image})

    def _claiming(self, act: Callable[[Claims], T]) -> T | None:
        """Another process changes claims, without the lock; None where it is refused."""
        path = self.state / "registry.sqlite3"
        with Claims.open(path, self.kernel.moment) as claims:
            claims._raw.execute("PRAGMA synchronous = OFF")
            try:
                return act(claims)
            except ReconcilerError as error:
                self.log(f"  refused: {error}")
                return None

    def claim(self, random: Random) -> None:
        """A user claims a snapshot of an image; several in a row."""
        images = [image for image in self.desired.images.values() if image.snapshots]
        for _ in range(random.choice((1, 1, 2, 4)) if images else 0):
            image, ttl = random.choice(images), random.choice((30.0, 120.0, 3600.0))
            wanted = Wanted(image.name, image.pool, dict.fromkeys(image.snapshots, ttl), 1000)
            storage = self.pools[image.pool]

            def there(rows: Sequence[SnapshotRow], storage: Storage = storage) -> list[SnapshotRow]:
                held = ((row, storage.by_identity(row.identity)) for row in rows)
                return [row for row, one in held if one and one.active and not one.damaged and one.name == row.name]

            found = self._claiming(lambda claims: claims.take(wanted, there))  # noqa: B023 - called at once
            if found is not None:
                self.claims[found.id] = found
                row = self.read(lambda records: records.snapshots())[found.pool, found.name]
                self.checks.given_out(found, storage.by_identity(row.identity))

    def release(self, random: Random) -> None:
        for claim_id in random.sample([*self.claims], min(len(self.claims), random.choice((1, 1, 3)))):
            self._claiming(lambda claims: claims.release(claim_id, ROOT))  # noqa: B023
            del self.claims[claim_id]

    def recycle(self, random: Random) -> None:
        if rows := [*self.read(lambda records: records.snapshots()).values()]:
            row = random.choice(rows)
            if self._claiming(lambda claims: claims.recycle(row, ROOT)):
                self.recycled.add((row.pool, row.name))

    def release_all(self) -> None:
        self.checks.none_is_lost()
        for claim_id in [*self.claims]:
            self._claiming(lambda claims: claims.release(claim_id, ROOT))  # noqa: B023
            del self.claims[claim_id]

    def declare_nothing(self, random: Random) -> None:
        self._declare({})

    def break_manifests(self, random: Random) -> None:
        self.faults = () if self.faults else (Fault(Where("web.yaml", 1, 1), "", "not valid"),)
        if self.process is not None:
            self.process.changes.put(None)

    def relabel(self, random: Random) -> None:
        self.role = random.choice("xy")
        if self.process is not None:
            self.process.changes.put(None)

    def break_source(self, random: Random) -> None:
        source = random.choice([*self.sources.all])
        self.sources.fail(source, random.choice(MODES))

    def heal_sources(self, random: Random) -> None:
        for source in self.sources.all:
            self.sources.heal(source)

    def publish(self, random: Random) -> None:
        """Another layer under the same name."""
        one = random.choice([*self.sources.all.values()])
        one.version += 1
        one.healed = self.kernel.now

    def break_pool(self, random: Random) -> None:
        name = random.choice(POOLS)
        self.heal_pools(random)
        operation = random.choice(("", "", "observe", "create_snapshot", "create_volume", "seal", "space", "holders", "assemble"))
        self.pool_faults[name] = PoolFault(random.choice(("hang", "error", "slow", "os", "odd")), operation)
        self._spoil(f"pool {name}")

    def fail_an_action(self, random: Random) -> None:
        """Some calls of a kind fail in every pool, just when an action needs them; later they succeed."""
        self.heal_pools(random)
        operation, cause = random.choice(CAUSES)
        mode = random.choice(("error", "odd"))
        for name in POOLS:
            self.pool_faults[name] = PoolFault(mode, operation)
            self._spoil(f"pool {name}")
        getattr(self, cause)(random)
        self._begin()
        self._pass(random.choice((2.0, 15.0, 120.0)) * random.uniform(0.5, 1.5))
        self.heal_pools(random)

    def update(self, random: Random) -> None:
        """An image gets other layers, its snapshots are replaced."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            source = random.choice([*self.sources.all])
            image = replace(self.desired.images[name], layers=(Layer(source, self.sources.all[source].digest),))
            self._declare({**self.desired.images, name: replace(image, replace=ReplacePolicy.RECREATE)})

    def share_layers(self, random: Random) -> None:
        """An image gets the layers of another one in its pool: its snapshots are replaced, and nothing has to be built."""
        images = self.desired.images
        pairs = [(a, b) for a in images for b in images if a != b and images[a].pool == images[b].pool and images[a].snapshots]
        if pairs:
            taker, giver = random.choice(pairs)
            one = replace(images[taker], layers=images[giver].layers, size=images[giver].size, replace=ReplacePolicy.RECREATE)
            self._declare({**images, taker: replace(one, suspend=False)})

    def resize(self, random: Random) -> None:
        """The snapshots of an image get larger sizes of their own."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            image = self.desired.images[name]
            least = max([image.size, *(one.size for one in image.custom.values())])
            custom = CustomSpec(least + random.choice((1, 2)) * GIB)
            self._declare({**self.desired.images, name: replace(image, custom=dict.fromkeys(image.snapshots, custom))})

    def customize(self, random: Random) -> None:
        """The snapshots of an image get files, some from the host, or identities of their own."""
        if self.desired.images:
            name = random.choice([*self.desired.images])
            image = self.desired.images[name]
            files = [FileSpec("/etc/hostname", f"{{snapshot}} {random.randrange(3)}\n")]
            if random.random() < 0.6:
                files.append(FileSpec("/etc/key", source=str(random.choice(self.files))))
            size, unique = max([0, *(one.size for one in image.custom.values())]), random.random() < 0.5
            spec = CustomSpec(size, unique, tuple(files))
            custom = {one: replace(spec, index=number) for number, one in enumerate(image.snapshots)}
            self._declare({**self.desired.images, name: replace(image, custom=custom)})

    def change_file(self, random: Random) -> None:
        """A file of the host that snapshots get has another content, or is gone for now."""
        path = random.choice(self.files)
        path.unlink(missing_ok=True)
        if random.random() < 0.8:
            path.write_text(f"key {random.randrange(1 << 30)}\n")
        for image in self.desired.images.values():
            if any(file.source == str(path) for one in image.custom.values() for file in one.files):
                self._spoil(image.name)

    def withdraw(self, random: Random) -> None:
        """An image goes."""
        if len(self.desired.images) > 1:
            name = random.choice([*self.desired.images])
            self._declare({other: one for other, one in self.desired.images.items() if other != name})

    def deactivate(self, random: Random) -> None:
        """Every snapshot loses its device."""
        for name, storage in self.pools.items():
            for one in storage.objects.values():
                one.active = one.active and is_volume(one)
            storage.changed()
            self._spoil(f"pool {name}")

    def slow_pools(self, random: Random) -> None:
        self.heal_pools(random)  # a call that hangs returns: else nothing would ever end it
        for name in POOLS:
            self.pool_faults[name] = PoolFault("slow")
            self._spoil(f"pool {name}")

    def heal_pools(self, random: Random) -> None:
        for name, fault in self.pool_faults.items():
            self._spoil(f"pool {name}")
            for event in fault.ends:
                event.set()
        self.pool_faults.clear()

    def _spoil(self, what: str) -> None:
        self._spoiled[what] = self.kernel.now

    def disk(self, random: Random) -> None:
        """A disk that is full, read-only or unreadable, or well again."""
        name = random.choice(POOLS)
        storage, trouble = self.pools[name], random.choice(("full", "read-only", "unreadable", "", ""))
        storage.total = storage.used() + 4096 if trouble == "full" else HUGE
        storage.read_only, storage.unreadable = trouble == "read-only", "input/output error" if trouble == "unreadable" else ""
        storage.changed()
        self._spoil(f"pool {name}")

    def cancel_a_step(self, random: Random) -> None:
        """The manifest of an image is edited or removed while a step of one of its runs is out."""
        getattr(self, random.choice(("edit", "update", "update", "edit_snapshots", "share_layers")))(random)
        self.heal_sources(random)
        if random.random() < 0.4:
            self.slow_pools(random)
        else:
            for source in self.sources.all:
                self.sources.fail(source, "drip")
        run = self._under_way(random)
        owners = [one for one in self.desired.images.values() if run is not None and self._concerns(run, one)]
        if run is None or not owners:
            return
        image = random.choice(owners)
        others = {name: one for name, one in self.desired.images.items() if one is not image}
        self.log(f"  manifest of {image.name} changes during {run.machine} {run.state} of {run.subject}")
        act = random.choice(("remove", "remove", "rename", "layers", "pool"))
        if act == "remove" and others:
            self._declare(others)
        elif act == "rename":
            self._declare({**others, image.name: replace(image, snapshots=(f"{image.name}-3",), sets=())})
        elif act == "layers":
            self._declare({**others, image.name: replace(self._image(image.name, random), pool=image.pool)})
        else:
            self._declare({**others, image.name: self._image(image.name, random)})
        self.checks.cancelled(run)
        self._pass(random.choice((0.0, 5.0, 60.0)))
        self.heal_pools(random)
        self.heal_sources(random)

    def _under_way(self, random: Random) -> Run | None:
        """A run whose step is out, within a minute."""
        for _ in range(120):
            self._begin()
            running = [run for run in self.read(lambda records: records.open_runs()) if self._is_out(run)]
            if running:
                return random.choice(running)
            self.kernel.sleep(0.5)
        return None

    def _is_out(self, run: Run) -> bool:
        last = self.read(lambda records: records.transitions(run.id))[-1:]
        return run.status is Status.ACTIVE and bool(last) and last[0].result is Result.RUNNING

    def _concerns(self, run: Run, image: ImageSpec) -> bool:
        """Whether a run does something for an image: its snapshot, its layer, or a volume of its pool and layers."""
        if run.subject.kind is Kind.SNAPSHOT:
            return run.subject.pool == image.pool and run.subject.name in image.snapshots
        urls = {layer.source.url for layer in image.layers}
        layers = [run.input["layer"]] if "layer" in run.input else run.input.get("layers", ())
        return run.subject.pool in ("", image.pool) and any(layer["url"] in urls for layer in layers)

    def wanted_by_an_image(self, run: Run) -> bool:
        return any(self._concerns(run, image) for image in self.desired.images.values())

    def drift(self, random: Random) -> None:
        """Something is lost, damaged, deactivated, or put there by another program."""
        name = random.choice(POOLS)
        storage = self.pools[name]
        ours = sorted({one.name for one in storage.objects.values() if not one.foreign and not one.orphan})
        act = random.choice(("lose", "damage", "deactivate", "foreign", "orphan"))
        storage.outside = True
        if act in ("foreign", "orphan"):
            made = storage.add(f"{act}-{random.randrange(9)}", "x", 4096, {})
            made.foreign, made.orphan = act == "foreign", act == "orphan"
        elif ours:
            target = random.choice(ours)
            self._act(storage, act, target)
        storage.outside = False
        self._spoil(f"pool {name}")

    def _act(self, storage: Storage, act: str, target: str) -> None:
        if act == "lose":
            storage.lose(target)
        elif act == "damage" and len(target) == 64:
            storage.damage(target)
        for one in storage.named(target) if act == "deactivate" else ():
            one.active = False
            storage.changed()

    def hold(self, random: Random) -> None:
        """A virtual machine opens a snapshot, or closes one."""
        for name, storage in self.pools.items():
            storage.held.clear()
            active = sorted(one.name for one in storage.objects.values() if one.active)
            if active and random.random() < 0.6:
                storage.held[random.choice(active)] = "process 1 (qemu)"
            self._spoil(f"pool {name}")

    def kill(self, random: Random) -> None:
        self._kill()

    def kill_at_a_step(self, random: Random) -> None:
        if self.process is not None:
            self.process.crash_in = random.randrange(1, 40)

    def stop(self, random: Random) -> None:
        if self.process is not None:
            self.process.request_stop()
            self._pass(random.uniform(6, 12))
            if self.process is not None and self.process.stopped is not None and not self.process.ended:
                self.checks.violated(EXIT, "it still runs")

    def reboot(self, random: Random) -> None:
        self._kill()
        self.kernel.boot, self.kernel.booted = self.kernel.boot + 1, self.kernel.now
        for storage in self.pools.values():
            storage.reboot()

    def mark(self, random: Random) -> None:
        name, what = random.choice(NAMES), random.choice((What.PROTECTED, What.SUSPENDED, What.RETRY, What.RETRY))
        until = random.choice((0.0, EPOCH + self.kernel.now + 120))
        self._spoiled[name] = self.kernel.now + 130 if until or what is What.RETRY else float("inf")
        second_process(self, lambda registry: registry.mark(Mark(name, what, "", EPOCH + self.kernel.now, until)))

    def unmark(self, random: Random) -> None:
        def act(registry: Any) -> None:
            for name, what in registry.marks():
                if what in (What.PROTECTED, What.SUSPENDED):
                    registry.unmark(name, what)
                    self._spoil(name)

        second_process(self, act)

    def wait(self, random: Random) -> None:
        """Nothing happens."""

    def _heal_everything(self) -> None:
        random = Random(0)
        self.release_all()
        self.heal_sources(random)
        self.heal_pools(random)
        self.unmark(random)
        for storage in self.pools.values():
            storage.held.clear()
            storage.total, storage.read_only, storage.unreadable = HUGE, False, ""
            storage.changed()
        for path in self.files:
            path.write_text("key\n")
        if self.faults:
            self.break_manifests(random)
        images = {name: self._repinned(replace(image, suspend=False)) for name, image in self.desired.images.items()}
        self._declare(images)

    def _repinned(self, image: ImageSpec) -> ImageSpec:
        layers = tuple(replace(one, sha256=one.sha256 and self.sources.all[one.source].digest) for one in image.layers)
        return replace(image, layers=layers)


CAUSES = (
    ("space", "update"),
    ("space", "share_layers"),
    ("space", "share_layers"),
    ("space", "edit_snapshots"),
    ("create_snapshot", "edit_snapshots"),
    ("activate_snapshot", "deactivate"),
    ("grow_snapshot", "resize"),
    ("customize", "customize"),
    ("replace_snapshot", "update"),
    ("discard_replaced", "update"),
    ("discard_replaced", "share_layers"),
    ("remove_snapshot", "withdraw"),
    ("remove_volume", "withdraw"),
    ("assemble", "reboot"),
)
"""Calls of a driver, and what makes them due."""

WEIGHTS = {
    "edit": 10,
    "edit_snapshots": 3,
    "edit_twice": 2,
    "flip": 2,
    "wait": 3,
    "break_source": 5,
    "heal_sources": 3,
    "publish": 2,
    "break_pool": 4,
    "slow_pools": 1,
    "fail_an_action": 6,
    "update": 2,
    "share_layers": 2,
    "resize": 3,
    "customize": 5,
    "change_file": 2,
    "withdraw": 2,
    "heal_pools": 3,
    "disk": 2,
    "drift": 4,
    "cancel_a_step": 5,
    "hold": 2,
    "kill": 2,
    "kill_at_a_step": 3,
    "stop": 1,
    "reboot": 1,
    "mark": 2,
    "unmark": 1,
    "break_manifests": 1,
    "relabel": 1,
    "declare_nothing": 1,
}
"""The steps of a script, and how often each is chosen."""

CLAIM_WEIGHTS = WEIGHTS | {"claim_sets": 12, "claim": 24, "release": 12, "recycle": 3, "kill_at_a_step": 8}
"""The same with users who claim snapshots."""


def script(random: Random, *, seconds: float = 0.0, weights: Mapping[str, int] = WEIGHTS) -> list[Op]:
    """A script of 4 to 16 steps, or of as many as ``seconds`` have room for. ``weights`` is how often each is chosen."""
    ops, total = [Op(0.0, "edit", random.randrange(1 << 30))], 0.0
    most = random.randrange(4, 17)
    while (total < seconds) if seconds else (len(ops) < most):
        pause = random.choice((0.0, 0.3, 2.0, 10.0, 40.0, 130.0)) * random.uniform(0.5, 1.5)
        total += pause
        ops.append(Op(pause, random.choices([*weights], [*weights.values()])[0], random.randrange(1 << 30)))
    return ops
