"""Notices that pools or the registry have changed, at little cost.

Called by ``controller.service`` between assessments. State: what they were like when the last assessment began; calls under way.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from reconciler.dataclass import dataclass, field
from reconciler.host.calls import Call
from reconciler.host.context import REGISTRY, Host
from reconciler.registry.change_counts import ChangeCounts

PULSE_SECONDS = 0.5
"""How often pools and the registry are asked whether they have changed."""


@dataclass
class Pulses:
    """What pools and registry were like when the last assessment began, at little cost; a change is a reason to assess."""

    seconds: float = PULSE_SECONDS
    base: Mapping[str, Hashable] = field(default_factory=dict)
    expiry: float = float("inf")
    """When (monotonic seconds) the next claim expires."""
    _next: float = 0.0
    _taken: float = 0.0
    _serial: int = 0
    _heard: int = 0
    _calls: dict[str, Call[Hashable]] = field(default_factory=dict)

    def take(self, host: Host) -> None:
        """Called in an assessment's thread, before it observes anything. What does not answer at once is not compared."""
        self._taken, self.expiry = host.threads.monotonic(), float("inf")
        answers = host.calls.gather({("base", name): one for name, one in host.pulses().items()}, 1.0)
        self.base = {name: call.result() for (_, name), call in answers.items() if isinstance(call, Call)}
        if isinstance(found := self.base.get(REGISTRY), ChangeCounts):
            self._serial = self._heard = found.serial

    def changed(self, host: Host) -> bool:
        """Whether anything has changed; asks in the background, and answers with what has been heard of so far.

        A registry that was too busy when the assessment began may have changed since.
        """
        now = host.threads.monotonic()
        if now < self._next:
            return False
        self._next = now + self.seconds
        returned = {name: call for name, call in self._calls.items() if call.returned}
        found = {name: call.result() for name, call in returned.items() if call.began >= self._taken}
        if isinstance(other := found.get(REGISTRY), ChangeCounts):
            self._heard, self.expiry = other.serial, returned[REGISTRY].began + other.left
        begun = {name: host.calls.begin(("pulse", name), one) for name, one in host.pulses().items()}
        waiting = {name: call for name, call in self._calls.items() if not call.returned}
        self._calls = waiting | {name: call for name, call in begun.items() if call is not None}
        return any(self.base[name] != value if name in self.base else name == REGISTRY for name, value in found.items())

    def claimed(self) -> bool:
        """Whether claims have begun since this was asked last, or an assessment began, that were no reason to assess."""
        before, self._serial = self._serial, self._heard
        return before != self._serial
