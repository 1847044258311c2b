"""The back-off: how long to wait before something that has failed is tried again. Exponential, capped, with jitter.

Used by ``image.source`` between requests, by ``engine`` between the attempts of a step and between failed runs, and by the
control loop (``controller.withheld`` keeps actions back until their wait is over). Pure.
"""

from __future__ import annotations

import random

from reconciler.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """``first`` and ``longest`` in seconds. ``jitter``: the wait is drawn evenly from these multiples of the bound."""

    first: float
    longest: float
    jitter: tuple[float, float] = (0.8, 1.2)

    def seconds(self, failures: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after so many failures in a row: ``first``, doubled with each further one, up to ``longest``.

        Half of ``first`` after none: something was cut off, and made progress before.
        """
        bound = min(self.longest, self.first * 2.0 ** min(failures - 1, 64))
        return bound * (rng.uniform if rng else random.uniform)(*self.jitter)
