"""Fixtures of the benchmarks: the inputs, and a place on this disk for what is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import inputs


@pytest.fixture(params=inputs.INPUTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=inputs.COMPRESSIONS)
def compression(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def layer(name: str, compression: str) -> Path:
    return inputs.get(name, compression)


@pytest.fixture
def plain_layer(name: str) -> Path:
    return inputs.get(name, "plain")
