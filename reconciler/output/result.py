"""The result of one invocation: every object once, with what was done to it. Frozen values.

Made by ``controller.summary`` (``Reporting``: by ``fleet.reporter``); read by ``console``, ``telemetry`` and ``cli``.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.dataclass import dataclass, field
from reconciler.model import Action, Finding, Key, Kind
from reconciler.pool.driver import PoolState


@dataclass(frozen=True, slots=True)
class ObjectResult:
    """One object after an invocation. ``action`` is the verb that was carried out (``none`` where nothing differed).

    ``ok`` False means that the object failed, or could not be reached because something it needs failed.
    """

    kind: Kind
    name: str
    action: str
    phase: str
    reason: str = ""
    message: str = ""
    ok: bool = True
    changed: bool = False
    pool: str = ""

    @property
    def key(self) -> Key:
        return Key(self.kind, self.pool, self.name)


@dataclass(frozen=True, slots=True)
class Result:
    """An invocation's outcome. ``pruned`` is the part of ``changed`` that removed something. ``seconds`` of wall time.

    ``pools`` is what was seen of them last, None where one can't be read.
    """

    host: str
    objects: tuple[ObjectResult, ...]
    findings: tuple[Finding, ...]
    held: tuple[Action, ...]
    seconds: float
    pruned: int = 0
    pools: Mapping[str, PoolState | None] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(1 for o in self.objects if o.changed and o.ok)

    @property
    def failed(self) -> int:
        return sum(1 for o in self.objects if not o.ok)

    @property
    def ready(self) -> int:
        """Objects that are Ready at the end, changed or not. A layer is fetched for them, and no object that stays."""
        return sum(1 for o in self.objects if o.ok and o.phase == "Ready" and o.kind is not Kind.LAYER)

    @property
    def unchanged(self) -> int:
        return len(self.objects) - self.changed - self.failed


@dataclass(frozen=True, slots=True)
class Reporting:
    """How reports to the sink of the fleet go. ``succeeded``: seconds since the epoch, 0 before the first."""

    succeeded: float = 0.0
    failures: int = 0
    """Attempts that failed since the last success."""
    reason: str = ""
    """Of the last failure; empty after a success."""
    batches: int = 0
    rows: int = 0
