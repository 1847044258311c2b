"""What Prometheus is told: the outcome of each pass, as a file for node_exporter's textfile collector, or over HTTP on loopback.

Fed by ``service`` after each pass. The only file that knows prometheus_client. State: one collector registry, of one process.
Names begin with ``reconcile_``; ``docs/service.md`` lists them.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from reconciler import atomic_file
from reconciler.engine.definitions import Attempt
from reconciler.errors import HostCannot
from reconciler.model import Kind
from reconciler.output.result import Result
from reconciler.pool.driver import PoolState
from reconciler.registry.marks import Marks, What

LOOPBACK = "127.0.0.1"
MENDED = ("rebuild", "repair", "activate", "assemble")


ACTIONS = {
    Kind.POOL: ("assemble",),
    Kind.LAYER: ("resolve",),
    Kind.VOLUME: ("build", "rebuild", "remove"),
    Kind.IMAGE: ("record", "forget"),
    Kind.SNAPSHOT: ("create", "repair", "activate", "replace", "record", "remove"),
}
"""What can be done, and is counted from zero on: Prometheus sees no increase in a counter that appears with its first one."""

FAILED = ("retry", "failed", "needs-operator")
BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800)


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass came to. ``attempts`` have ended since the one before, ``downloaded`` bytes since the service began.

    ``ahead`` is what was done since then for a few images before everything was looked at.
    """

    result: Result
    faults: int
    marks: Marks
    attempts: Sequence[Attempt] = ()
    downloaded: int = 0
    prune_refused: bool = False
    manifests_changed: float = 0.0
    revision: str = ""
    ahead: Sequence[Result] = ()


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._converged = self._gauge("converged", "1 where nothing is left to do and nothing has failed.")
        self._success = self._gauge("last_success_timestamp_seconds", "When a pass last ended without a failure.")
        self._objects = self._gauge("objects", "Objects by kind and phase.", "kind", "phase")
        self._ready = self._gauge("image_ready", "1 where an image is what its manifest says.", "name")
        self._changed = self._gauge("manifests_changed_timestamp_seconds", "When the manifests last said something else.")
        self._revision = self._gauge("revision_info", "1, for the state of their source that the manifests are in.", "revision")
        self._refused = self._gauge("prune_refused", "1 where a guard has kept the last pass from pruning.")
        self._faults = self._gauge("manifest_faults", "Faults in the manifests; nothing is pruned while there are any.")
        self._held = self._gauge("held_removals", "What is no longer declared and waits for --prune.")
        self._findings = self._gauge("findings", "Findings by reason (docs/operating.md).", "reason")
        self._suspended = self._gauge("suspended_seconds", "For how long an image has been suspended by hand.", "name")
        self._pool = self._gauge("pool_bytes", "Space of a pool: total, free, reserve.", "pool", "of", "what")
        self._actions = Counter("reconcile_actions", "Actions carried out.", ("kind", "action"), registry=self._registry)
        self._drift = Counter("reconcile_drift", "Actions that mended what somebody else had changed.", registry=self._registry)
        self._errors = Counter("reconcile_errors", "Attempts that failed.", ("machine", "reason"), registry=self._registry)
        self._bytes = Counter("reconcile_download_bytes", "Bytes of layers that have arrived.", registry=self._registry)
        self._seconds = Histogram("reconcile_pass_seconds", "Duration of a pass.", registry=self._registry, buckets=BUCKETS)
        self._states = Histogram(
            "reconcile_state_seconds", "Duration of a step.", ("machine", "state"), registry=self._registry, buckets=BUCKETS
        )
        self._downloaded = 0
        for kind, actions in ACTIONS.items():
            for action in actions:
                self._actions.labels(kind.value, action)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"reconcile_{name}", text, labels, registry=self._registry)

    def learn(self, told: Pass) -> None:
        """One pass."""
        result = told.result
        self._converged.set(not result.failed and not told.faults)
        if not result.failed:
            self._success.set_to_current_time()
        self._changed.set(told.manifests_changed)
        self._revision.clear()
        self._revision.labels(told.revision).set(1)
        self._refused.set(told.prune_refused)
        self._faults.set(told.faults)
        self._held.set(len(result.held))
        self._seconds.observe(result.seconds)
        self._learn_objects(result)
        for done in (*told.ahead, result):
            self._learn_actions(done)
        self._learn_pools(result.pools)
        self._learn_work(told)
        self._suspended.clear()
        for (name, what), mark in told.marks.items():
            if what is What.SUSPENDED and mark.holds(time.time()):
                self._suspended.labels(name).set(time.time() - mark.since)

    def _learn_work(self, told: Pass) -> None:
        for one in told.attempts:
            self._states.labels(one.machine, one.state).observe(one.seconds)
            if one.result in FAILED:
                self._errors.labels(one.machine, one.reason).inc()
        self._bytes.inc(told.downloaded - self._downloaded)
        self._downloaded = told.downloaded

    def _learn_objects(self, result: Result) -> None:
        for gauge in (self._objects, self._ready, self._findings):
            gauge.clear()
        for (kind, phase), count in Tally((one.kind.value, one.phase) for one in result.objects).items():
            self._objects.labels(kind, phase).set(count)
        for one in result.objects:
            if one.kind is Kind.IMAGE:
                self._ready.labels(one.name).set(one.phase == "Ready")
        for reason, count in Tally(finding.reason for finding in result.findings).items():
            self._findings.labels(reason).set(count)

    def _learn_actions(self, result: Result) -> None:
        for one in result.objects:
            if one.changed and one.ok:
                self._actions.labels(one.kind.value, one.action).inc()
            if one.ok and one.action in MENDED:
                self._drift.inc()

    def _learn_pools(self, pools: Mapping[str, PoolState | None]) -> None:
        self._pool.clear()
        for name, state in pools.items():
            for of, space in (("data", state.space), ("metadata", state.metadata)) if state else ():
                if space is not None:
                    for what in ("total", "free", "reserve"):
                        self._pool.labels(name, of, what).set(getattr(space, what))

    def write(self, path: Path) -> None:
        """Replace the file in one step, readable by everybody, as the textfile collector wants it. Raises HostCannot."""
        try:
            atomic_file.write(path, generate_latest(self._registry), durable=False, mode=0o644)
        except OSError as error:
            raise HostCannot(f"metrics can't be written to {path}: {error.strerror}", hint="see --metrics-file") from error

    def serve(self, port: int) -> None:
        """Answer on loopback for as long as the process lives. Raises HostCannot."""
        try:
            start_http_server(port, addr=LOOPBACK, registry=self._registry)
        except OSError as error:
            message = f"metrics can't be served on {LOOPBACK}:{port}: {error.strerror}"
            raise HostCannot(message, hint="see --metrics-port") from error
