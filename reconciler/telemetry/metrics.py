"""Metrics of each pass for Prometheus: a file for node_exporter's textfile collector, or HTTP on loopback.

Called by ``controller.service`` after each pass. The only file that imports prometheus_client. State: one collector registry of
this process. Names begin with ``reconcile_``; docs/observing.md lists them.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from reconciler import atomic_file
from reconciler.dataclass import dataclass, field
from reconciler.engine.definitions import Attempt
from reconciler.errors import HostCannot, NoneReady, PolicyRefused
from reconciler.model import Kind
from reconciler.output.result import Reporting, Result
from reconciler.planner.claims import Stock
from reconciler.pool.driver import PoolState
from reconciler.registry.marks import Marks, What

LOOPBACK = "127.0.0.1"
REPAIRS = ("rebuild", "repair", "activate", "assemble")


ACTIONS = {
    Kind.POOL: ("assemble",),
    Kind.LAYER: ("resolve",),
    Kind.VOLUME: ("build", "rebuild", "remove"),
    Kind.IMAGE: ("record", "forget"),
    Kind.SNAPSHOT: ("create", "repair", "activate", "replace", "record", "remove"),
}
"""Actions that are counted from zero on: Prometheus sees no increase in a counter that appears with its first one."""

CLAIMED = "Claimed"
FAILED = ("retry", "failed", "needs-operator")
WAITS = (0.002, 0.005, 0.015, 0.05, 0.25, 1, 5, 30, 120, 600)
BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 1800)


@dataclass(frozen=True, slots=True)
class Pass:
    """The outcome of a pass. ``attempts`` have ended since the one before, ``downloaded`` bytes since the service began.

    ``ahead`` are results for single images that changed, before the pass over all of them.
    """

    result: Result
    faults: int
    marks: Marks
    attempts: Sequence[Attempt] = ()
    downloaded: int = 0
    queued: int = 0
    stuck: Mapping[str, int] = field(default_factory=dict)
    registries: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """Answers of OCI registries since the service began, by registry and status."""
    prune_refused: bool = False
    manifests_changed: float = 0.0
    revision: str = ""
    ahead: Sequence[Result] = ()
    reporting: Reporting | None = None
    """None where the host reports to no sink."""
    stocks: Mapping[str, Stock] = field(default_factory=dict)
    """How the snapshots of images stand with claims."""


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._converged = self._gauge("converged", "1 if nothing is left to do and nothing has failed.")
        self._success = self._gauge("last_success_timestamp_seconds", "Time of the last pass without a failure.")
        self._objects = self._gauge("objects", "Objects by kind and phase.", "kind", "phase")
        self._ready = self._gauge("image_ready", "1 if the image is Ready.", "name")
        self._changed = self._gauge("manifests_changed_timestamp_seconds", "Time of the last change of the manifests.")
        self._revision = self._gauge("revision_info", "1, with the revision of the manifests as label.", "revision")
        self._refused = self._gauge("prune_refused", "1 if a guard refused to prune in the last pass.")
        self._faults = self._gauge("manifest_faults", "Faults in the manifests; nothing is pruned while there are any.")
        self._held = self._gauge("held_removals", "Undeclared objects that --prune removes.")
        self._policy = self._gauge("policy_refusals", "Images that this host's policy refuses.")
        self._queued = self._gauge("queued_actions", "Actions that wait for others, for a slot, or for their next attempt.")
        self._stuck = self._gauge("stuck_jobs", "Actions that report no progress for half an hour, by pool.", "pool")
        self._findings = self._gauge("findings", "Findings by reason (docs/operating.md).", "reason")
        self._suspended = self._gauge("suspended_seconds", "Time since the image was suspended by `reconcile suspend`.", "name")
        self._pool = self._gauge("pool_bytes", "Space of a pool: total, free, reserve.", "pool", "of", "what")
        self._snapshots = self._gauge("snapshots", "Snapshots for claims; wanting are those that are missing.", "image", "state")
        self._recycling = self._gauge(
            "recycling_wait_seconds", "Time since the claim ended whose snapshot has waited longest to be recycled.", "image"
        )
        self._claims = Counter(
            "reconcile_claims", "Answers to requests for claims by result.", ("image", "result"), registry=self._registry
        )
        self._waits = Histogram(
            "reconcile_claim_seconds", "Time from request to claim.", ("image",), registry=self._registry, buckets=WAITS
        )
        self._actions = Counter("reconcile_actions", "Actions carried out.", ("kind", "action"), registry=self._registry)
        self._drift = Counter("reconcile_drift", "Actions that repaired what was changed from outside.", registry=self._registry)
        self._errors = Counter("reconcile_errors", "Attempts that failed.", ("machine", "reason"), registry=self._registry)
        self._bytes = Counter("reconcile_download_bytes", "Bytes of layers downloaded.", registry=self._registry)
        self._registries = Counter(
            "reconcile_registry_answers", "Answers of OCI registries, by status.", ("registry", "status"), registry=self._registry
        )
        self._answered: dict[tuple[str, int], int] = {}
        self._seconds = Histogram("reconcile_pass_seconds", "Time that a pass took.", registry=self._registry, buckets=BUCKETS)
        self._states = Histogram(
            "reconcile_state_seconds", "Duration of a step.", ("machine", "state"), registry=self._registry, buckets=BUCKETS
        )
        self._reported = self._gauge("report_last_success_timestamp_seconds", "Time of the last report to the sink of the fleet.")
        self._unreported = self._gauge("report_failures", "Attempts to report that failed since then, by reason.", "reason")
        self._downloaded = 0
        for kind, actions in ACTIONS.items():
            for action in actions:
                self._actions.labels(kind.value, action)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"reconcile_{name}", text, labels, registry=self._registry)

    def record(self, done: Pass) -> None:
        """One pass."""
        result = done.result
        self._converged.set(not result.failed and not done.faults)
        if not result.failed:
            self._success.set_to_current_time()
        self._changed.set(done.manifests_changed)
        self._revision.clear()
        self._revision.labels(done.revision).set(1)
        self._refused.set(done.prune_refused)
        self._faults.set(done.faults)
        self._held.set(len(result.held))
        self._seconds.observe(result.seconds)
        self._queued.set(done.queued)
        self._stuck.clear()
        for pool, count in done.stuck.items():
            self._stuck.labels(pool).set(count)
        self._record_objects(result)
        for one in (*done.ahead, result):
            self._record_actions(one)
        self._record_pools(result.pools)
        self.count(done.stocks)
        self._record_work(done)
        self._unreported.clear()
        if done.reporting is not None:
            self._reported.set(done.reporting.succeeded)
            if done.reporting.failures:
                self._unreported.labels(done.reporting.reason).set(done.reporting.failures)
        self._suspended.clear()
        for (name, what), mark in done.marks.items():
            if what is What.SUSPENDED and mark.holds(time.time()):
                self._suspended.labels(name).set(time.time() - mark.since)

    def claim(self, image: str, result: str, seconds: float) -> None:
        """One answer to a request for a claim: ``Claimed``, or the reason why not. Called from any thread."""
        self._claims.labels(image, result).inc()
        if result == CLAIMED:
            self._waits.labels(image).observe(seconds)

    def count(self, stocks: Mapping[str, Stock]) -> None:
        """How snapshots stand with claims, also between two passes."""
        self._snapshots.clear()
        self._recycling.clear()
        for image, stock in stocks.items():
            for state, count in stock.by_state.items():
                self._snapshots.labels(image, state).set(count)
            self._recycling.labels(image).set(time.time() - stock.since if stock.since else 0)
            for result in (CLAIMED, NoneReady.reason):
                self._claims.labels(image, result)
            self._waits.labels(image)

    def _record_work(self, done: Pass) -> None:
        for one in done.attempts:
            self._states.labels(one.machine, one.state).observe(one.seconds)
            if one.result in FAILED:
                self._errors.labels(one.machine, one.reason).inc()
        for key, count in done.registries.items():
            self._registries.labels(key[0], str(key[1])).inc(count - self._answered.get(key, 0))
        self._answered = dict(done.registries)
        self._bytes.inc(done.downloaded - self._downloaded)
        self._downloaded = done.downloaded

    def _record_objects(self, result: Result) -> None:
        for gauge in (self._objects, self._ready, self._findings):
            gauge.clear()
        for (kind, phase), count in Tally((one.kind.value, one.phase) for one in result.objects).items():
            self._objects.labels(kind, phase).set(count)
        images = [one for one in result.objects if one.kind is Kind.IMAGE]
        self._policy.set(sum(one.reason == PolicyRefused.reason for one in images))
        for one in images:
            self._ready.labels(one.name).set(one.phase == "Ready")
        for reason, count in Tally(finding.reason for finding in result.findings).items():
            self._findings.labels(reason).set(count)

    def _record_actions(self, result: Result) -> None:
        for one in result.objects:
            if one.changed and one.ok:
                self._actions.labels(one.kind.value, one.action).inc()
            if one.ok and one.action in REPAIRS:
                self._drift.inc()

    def _record_pools(self, pools: Mapping[str, PoolState | None]) -> None:
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

    def serve(self, port: int, address: str = LOOPBACK) -> None:
        """Answer for as long as the process lives. Raises HostCannot."""
        try:
            start_http_server(port, addr=address, registry=self._registry)
        except OSError as error:
            message = f"metrics can't be served on {address}:{port}: {error.strerror}"
            raise HostCannot(message, hint="see --metrics-port and --metrics-address") from error
