"""Which transitions between the states of objects simulated worlds have passed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

STATES = {
    "volume": ("pending", "downloading", "validating", "provisioning"),
    "snapshot": ("pending", "snapshotting"),
    "activation": ("activating",),
    "growth": ("growing",),
    "replacement": ("pending", "replacing", "discarding"),
    "removal": ("removing",),
    "pool": ("assembling",),
    "layer": ("downloading",),
}
"""The states of each machine that have a step, in order."""

ENDS = {"removal": "gone"}

CANCELLED = """A replacement that can't discard the old snapshot does not fail: the new one is recorded, so the next plan has no
replacement any more; the run is cancelled before another attempt, and the leftovers of its pool are discarded."""

Transition = tuple[str, str, str]
"""A machine, the state after it, and its result."""


def possible() -> Iterator[Transition]:
    """Each state is reached, its step is tried again, fails for good, and is stopped."""
    for machine, states in STATES.items():
        for state in (*states[1:], ENDS.get(machine, "ready")):
            yield machine, state, "advanced"
        for state in states:
            yield machine, state, "retry"
            if (machine, state) != ("replacement", "discarding"):  # see CANCELLED
                yield machine, state, "failed"


def covered(seen: Mapping[Transition, int]) -> float:
    """The share of the possible transitions that was passed, in per cent."""
    every = [*possible()]
    return 100 * sum(one in seen for one in every) / len(every)


def report(seen: Mapping[Transition, int]) -> Iterator[str]:
    every = [*possible()]
    missing = [one for one in every if one not in seen]
    yield f"transitions between object states: {len(every) - len(missing)} of {len(every)} ({covered(seen):.0f} %)"
    yield from (f"  never: {machine} {result} {state}" for machine, state, result in missing)
