"""A small host whose manifests a test edits, and a scheduler over it that runs when the test asks for it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from reconciler.controller.assess import Assessment, Wish, assess, changed
from reconciler.controller.executor import Ledger
from reconciler.controller.scheduler import Scheduler, Wanted
from reconciler.controller.summary import outcome
from reconciler.controller.withheld import Withheld
from reconciler.host import context
from reconciler.host.context import Host
from reconciler.model import Plan
from reconciler.output.progress import Silent
from reconciler.output.result import Result
from reconciler.settings import Settings
from tests.stories import layers
from tests.support import policy

WISH = Wish()


@dataclass
class Bench:
    """Manifests in ``root``, by the names of their images, and layers ``0`` to ``3``."""

    root: Path
    images: dict[str, dict[str, Any]] = field(default_factory=dict)

    def layer(self, number: int) -> dict[str, str]:
        path = self.root / "layers" / f"{number}.tar"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(layers.tar(str(number), layers.file(f"etc/{number}", b"x")).data)
        return {"source": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def declare(self, name: str, numbers: list[int], snapshots: list[str], **more: Any) -> None:
        spec = {"size": "16MiB", "layers": [self.layer(n) for n in numbers], "snapshots": [{"name": s} for s in snapshots]}
        self.images[name] = spec | more

    def write(self) -> None:
        directory = self.root / "manifests"
        directory.mkdir(exist_ok=True)
        for old in directory.iterdir():
            old.unlink()
        for name, spec in self.images.items():
            document = {"apiVersion": "reconciler/v1alpha1", "kind": "Image", "metadata": {"name": name}, "spec": spec}
            (directory / f"{name}.yaml").write_text(yaml.safe_dump(document))


class Running:
    """A service's scheduler: what an assessment of some images, or at everything, leads to."""

    def __init__(self, bench: Bench, stack: ExitStack, state: str) -> None:
        self.stop, self.withheld, self._only_changed = threading.Event(), Withheld(), False
        host_file = policy.write(bench.root / "host.yaml")
        settings = Settings(bench.root / "manifests", bench.root / state, jobs=2, host_file=host_file)
        host = stack.enter_context(context.writing(settings, stop=self.stop))
        self.scheduler = Scheduler(host, WISH, Silent(), self.stop, self.withheld, read=self._read)

    @property
    def host(self) -> Host:
        return self.scheduler.host

    def converge(self) -> Result:
        """Read the manifests, and carry out what they want of all images."""
        self.scheduler.request(manifests=True)
        return self._result(self.scheduler.run_until_idle())

    def hint(self, *names: str) -> Result:
        """Carry out what these files lead to because they are said to have changed, and look at nothing else."""
        self.scheduler.request([str(self.host.settings.manifests / f"{name}.yaml") for name in names], manifests=True)
        return self._settle()

    def ahead(self) -> Result:
        """Read all manifests, and carry out what those images want that have changed; look at nothing else."""
        self._only_changed = True
        self.scheduler.request(manifests=True)
        result = self._settle()
        self._only_changed = False
        return result

    def _settle(self) -> Result:
        self.scheduler.pause(3600)
        while not self._rests():
            self.scheduler.turn(0.05)
        self.scheduler.pause(0)
        return self._result(Assessment(assess(self.host, WISH).observed, Plan(), self.host.desired))

    def plan(self) -> Plan:
        return self.assess().plan

    def assess(self) -> Assessment:
        return assess(self.host.informed("freeze").sharing(self.host), WISH)

    def _rests(self) -> bool:
        scheduler = self.scheduler
        todo = scheduler._todo.slots() or scheduler._todo.resting
        return not (scheduler.jobs or scheduler._assessing or scheduler._wanted or todo)

    def _read(self, host: Host, wanted: Wanted) -> tuple[Host, Wanted]:
        if wanted.names is not None:
            few = host.glanced(wanted.names)
            return (host, Wanted(frozenset())) if few is None else (few.sharing(host), self._changed(host, few))
        if not wanted.manifests:
            return host, wanted
        now = host.informed("freeze").sharing(host)
        now.remember()
        return now, self._changed(host, now) if self._only_changed else wanted

    @staticmethod
    def _changed(before: Host, now: Host) -> Wanted:
        return Wanted(changed(before.desired, now.desired))

    def _result(self, now: Assessment) -> Result:
        ledger, self.scheduler.ledger = self.scheduler.ledger, Ledger()
        shown = Ledger({**ledger.done, **ledger.withheld})
        result = outcome("host", now.desired, now.observed, now.plan, shown, 0.0)
        return replace(result, held=now.plan.held)

    def names(self) -> Collection[str]:
        return self.host.desired.images
