"""The simulation finds faults of the control loop that are planted into it."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED, Planted

WORLDS = 12
"""In how many orders of the threads a planted fault may show itself."""

each = pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)


@each
def test_the_simulation_finds(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.apply(monkeypatch)

    found = next((text for seed in range(WORLDS) if planted.finds in (text := planted.violation(seed))), "")

    assert planted.finds in found


@each
def test_the_same_world_holds_every_invariant_without_the_fault(planted: Planted) -> None:
    assert planted.violation(0) == ""
