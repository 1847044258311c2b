"""Worlds that a seed or hypothesis makes up hold every invariant, and one seed gives one world."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.simulation.world import CLAIM_WEIGHTS, WEIGHTS, Op, Options, World, script


@pytest.mark.parametrize("seed", range(8))
def test_a_world_holds_every_invariant(seed: int) -> None:
    World(seed).run(script(Random(seed)))


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_world_with_claims_holds_every_invariant(seed: int) -> None:
    World(seed).run(script(Random(seed), weights=CLAIM_WEIGHTS))


def test_one_seed_gives_one_world() -> None:
    def events(seed: int) -> list[str]:
        said: list[str] = []
        World(seed, Options(), say=said.append).run(script(Random(seed)))
        return said

    assert events(5) == events(5)


class Script(RuleBasedStateMachine):
    """Collects a script and plays it at the end; hypothesis leaves out steps until what fails is short."""

    @initialize(seed=st.integers(0, 1 << 16), prune=st.booleans(), kind=st.sampled_from(("service", "once")))
    def begin(self, seed: int, prune: bool, kind: str) -> None:
        self.world, self.ops = (seed, Options(kind, prune)), [Op(0.0, "edit", seed)]

    @rule(
        pause=st.sampled_from((0.0, 0.3, 2.0, 10.0, 100.0)), name=st.sampled_from(sorted(WEIGHTS)), number=st.integers(0, 1 << 16)
    )
    def step(self, pause: float, name: str, number: int) -> None:
        self.ops.append(Op(pause, name, number))

    def teardown(self) -> None:
        if hasattr(self, "ops"):
            World(*self.world).run(self.ops)


TestScripts = Script.TestCase
TestScripts.settings = settings(
    max_examples=15, stateful_step_count=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
