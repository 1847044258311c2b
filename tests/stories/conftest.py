"""Fixtures of the stories."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from samples.s3 import S3Server
from tests.support.zygote import Zygote

from .gate import Gate
from .workshop import BUCKET, Workshop, WorkshopAt

SCHEMAS = Path(__file__).resolve().parent.parent / "cases" / "json"


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Where the commands of all stories come from."""
    with Zygote(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="session")
def workshop_at(zygote: Zygote) -> WorkshopAt:
    """Workshops whose layers are files."""
    return lambda root: Workshop(root, zygote)


@pytest.fixture
def workshop(tmp_path: Path, workshop_at: WorkshopAt) -> Workshop:
    return workshop_at(tmp_path)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server in a process of its own."""
    with S3Server() as server:
        yield server.endpoint


@pytest.fixture
def bucket(tmp_path: Path, zygote: Zygote, s3: str) -> Iterator[Workshop]:
    """A workshop with an empty bucket, behind a door of its own."""
    with Gate(s3) as gate:
        workshop = Workshop(tmp_path, zygote, gate, s3)
        workshop.upload("/moto-api/reset", method="POST")
        workshop.upload(f"/{BUCKET}")
        yield workshop


@pytest.fixture(scope="session")
def conforms() -> Callable[[str, Any], None]:
    """Checks a document against one of the schemas in ``tests/cases/json``."""

    def check(name: str, document: Any) -> None:
        schema = json.loads((SCHEMAS / f"{name}.json").read_text())
        Draft202012Validator.check_schema(schema)
        faults = [
            f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in Draft202012Validator(schema).iter_errors(document)
        ]
        assert not faults, "\n".join(faults)

    return check
