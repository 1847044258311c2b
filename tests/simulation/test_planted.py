"""The simulation finds faults of the control loop that are planted into it."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.checks import Violation
from tests.simulation.planted import PLANTED, Planted
from tests.simulation.world import Options, World, script

WORLDS = 150
"""How many worlds a planted fault may hide in; each is found within 20."""


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_the_simulation_finds(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.apply(monkeypatch)

    found = next((text for seed in range(WORLDS) if planted.finds in (text := violation(planted, seed))), "")

    assert planted.finds in found


def violation(planted: Planted, seed: int) -> str:
    """What does not hold in a world; empty where everything does."""
    try:
        World(seed, Options(prune=planted.prune)).run(script(Random(seed), weights=planted.steps))
    except Violation as error:
        return str(error)
    return ""
