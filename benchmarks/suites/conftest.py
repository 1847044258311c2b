"""Fixtures of the suites: their inputs, ``--short``, and how a round is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import inputs

T = TypeVar("T")
ROUNDS = 3
FULL = ("debian", "small-files-50000")
SHORT = ("quick-minbase", "small-files-1000")


class Measure(Protocol):
    def __call__(self, work: Callable[..., T], *arguments: object, **options: Any) -> T: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="small inputs and one round: shows that the suites run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", SHORT if metafunc.config.getoption("--short") else FULL)


@pytest.fixture
def short(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--short"))


@pytest.fixture(params=inputs.COMPRESSIONS)
def compression(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def layer(name: str, compression: str) -> Path:
    return inputs.get(name, compression)


@pytest.fixture
def plain_layer(name: str) -> Path:
    return inputs.get(name)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, short: bool) -> Measure:
    """Runs a function so many times, after once that does not count; ``setup`` as in pytest-benchmark's ``pedantic``."""
    benchmark.group = request.node.originalname.removeprefix("test_").replace("_", " ")

    def measured(work: Callable[..., T], *arguments: object, **options: Any) -> T:
        rounds = {"rounds": 1} if short else {"rounds": ROUNDS, "warmup_rounds": 1}
        result: T = benchmark.pedantic(work, arguments, **rounds, **options)  # type: ignore[no-untyped-call]
        return result

    return measured
