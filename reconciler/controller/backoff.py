"""How long a service waits before it tries again what has failed: longer each time, until what is wanted changes.

Used by ``loop`` in a service; one invocation of ``--once`` tries everything, because somebody asked. State: what failed, in
memory; a service that is started anew tries everything once.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from reconciler.controller.executor import Done
from reconciler.model import Action, Key

FIRST_SECONDS = 30.0
LONGEST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Failed:
    """``wanted`` is what was tried: the same action with another chain, source or limit is another attempt."""

    done: Done
    wanted: Action
    times: int
    again: float


class Backoff:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._failed: dict[Key, Failed] = {}
        self._release = float("inf")

    def withheld(self, actions: Iterable[Action], retried: Collection[str], now: float) -> dict[Key, Done]:
        """What is not to be tried yet, as if it had just failed again. ``retried`` are images that somebody has asked for.

        ``actions`` come after what they need, as in a plan.
        """
        found: dict[Key, Done] = {}
        for action in actions:
            failed = self._failed.get(action.key)
            asked = {*action.images, action.image} & {*retried}
            if failed is None or failed.wanted != _wanted(action) or asked:
                continue
            # What has only waited for another waits for as long as that one, whatever its own time.
            if now < failed.again if failed.done.tried else not found.keys().isdisjoint(action.after):
                found[action.key] = failed.done
        return found

    def next(self) -> float:
        """When the first of them is due again, or it is time to see whether what is waited for is free."""
        return min((self._release, *(failed.again for failed in self._failed.values() if failed.done.tried)))

    def await_release(self, now: float, *, awaited: bool) -> None:
        """Nothing tells that a file or a device is closed: where something waits for that, it is looked at now and then."""
        self._release = now + FIRST_SECONDS if awaited else float("inf")

    def forget_all_but(self, actions: Iterable[Action]) -> None:
        """What is no longer to be done is not waited for."""
        keys = {action.key for action in actions}
        self._failed = {key: failed for key, failed in self._failed.items() if key in keys}

    def learn(self, results: Iterable[Done], now: float) -> None:
        for done in results:
            key, before = done.action.key, self._failed.get(done.action.key)
            if done.ok:
                self._failed.pop(key, None)
            elif before is None or before.done is not done:
                same = before is not None and before.wanted == _wanted(done.action)
                times = before.times + 1 if before and same else 1
                wait = min(FIRST_SECONDS * 2 ** (times - 1), LONGEST_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                self._failed[key] = Failed(done, _wanted(done.action), times, now + wait)


def _wanted(action: Action) -> Action:
    """Without what differs between two plans of the same thing."""
    return replace(action, because="", after=())
