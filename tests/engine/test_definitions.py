"""Definitions of machines are checked when they are loaded; retries have an end."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.engine.definitions import Context, Machine, Outcome, Retry, Step


def nothing(context: Context) -> Outcome:
    return Outcome()


def chain(*states: str, name: str = "volume", initial: str | None = None, ends: frozenset[str] | None = None) -> Machine:
    steps = tuple(Step(state, nothing, following) for state, following in pairwise(states))
    return Machine(name, steps, initial or states[0], frozenset(states[-1:]) if ends is None else ends)


def test_a_chain_of_steps_is_accepted() -> None:
    assert list(chain("pending", "downloading", "ready").by_state) == ["pending", "downloading"]


@pytest.mark.parametrize(
    ("definition", "complaint"),
    [
        (lambda: chain("a", "b", "a", "ready"), "state 'a' has two steps"),
        (lambda: chain("a", "b", ends=frozenset({"ready"})), "state 'a' leads to unknown state 'b'"),
        (lambda: chain("a", "b", "ready", initial="b"), "state 'a' can't be reached from 'b'"),
        (lambda: chain("a", "ready", ends=frozenset({"ready", "gone"})), "state 'gone' can't be reached from 'a'"),
        (lambda: chain("a", "b", "a", ends=frozenset({"ready"})), "state 'a' is reached again: no way to an end"),
        (lambda: chain("a", "ready", initial="nowhere"), "initial state 'nowhere' has no step"),
        (lambda: chain("a", "ready", ends=frozenset({"a", "ready"})), "state 'a' is an end and has a step"),
        (lambda: chain("a", "", "ready"), "empty or padded name"),
        (lambda: chain("a", "ready", name=""), "empty or padded name"),
        (lambda: Machine("volume", (), "a", frozenset({"ready"})), "no steps"),
        (lambda: Machine("volume", (Step("a", nothing, "ready", timeout=0),), "a", frozenset({"ready"})), "time-out of 0 s"),
    ],
)
def test_a_malformed_machine_is_refused_with_its_name_and_fault(definition, complaint) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="machine ") as refused:
        definition()

    assert complaint in str(refused.value)


def test_every_fault_of_a_definition_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"unknown state 'c'.*can't be reached"):
        Machine("m", (Step("a", nothing, "c"), Step("b", nothing, "ready")), "a", frozenset({"ready"}))


def test_the_digest_separates_definitions_and_ignores_the_code_behind_them() -> None:
    assert chain("a", "b", "ready").digest == chain("a", "b", "ready").digest
    assert chain("a", "b", "ready").digest != chain("a", "c", "ready").digest
    assert (
        chain("a", "ready").digest
        == Machine("volume", (Step("a", lambda c: Outcome({"x": 1}), "ready"),), "a", frozenset({"ready"})).digest
    )


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base": 0}, {"base": 2, "cap": 1}, {"total": 0}, {"crashes": 0}])
def test_a_retry_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Retry(**wrong)  # type: ignore[arg-type]


@given(st.integers(1, 10_000), st.integers())
def test_back_off_grows_to_the_cap_with_full_jitter(attempt: int, seed: int) -> None:
    delay = Retry(base=0.5, cap=60).delay(attempt, random.Random(seed))

    assert 0 <= delay <= min(60, 0.5 * 2 ** min(attempt - 1, 10))


@pytest.mark.parametrize("value", [{"x": object()}, {"x": float("nan")}, {"x": b"bytes"}])
def test_what_a_step_returns_must_be_json(value: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Outcome(value)
