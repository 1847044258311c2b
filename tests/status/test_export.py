"""``get``: the same work however many images there are, and the last good manifests where the present ones are invalid."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reconciler.controller import assess
from reconciler.host import context
from reconciler.host.context import Host
from reconciler.model import Key, Kind
from reconciler.settings import Settings
from reconciler.status import export, image, inventory

IMAGE = """
apiVersion: reconciler/v1alpha1
kind: Image
metadata: {{name: {name}}}
spec:
  size: 16MiB
  layers: [{{source: s3://images/base.tar, sha256: {digest}}}]
  snapshots: [{{name: {name}-a}}]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "manifests").mkdir()
    return Settings(manifests=tmp_path / "manifests", state=tmp_path / "state")


def declare(settings: Settings, *names: str, file: str | None = None) -> None:
    text = "---".join(IMAGE.format(name=name, digest="a" * 64) for name in names)
    (settings.manifests / f"{file or names[0]}.yaml").write_text(text)


def remember(settings: Settings) -> None:
    with context.writing(settings, stop=threading.Event()):
        pass


@contextmanager
def counted_queries(host: Host) -> Iterator[list[str]]:
    seen: list[str] = []
    host.records._raw.set_trace_callback(seen.append)
    yield seen
    host.records._raw.set_trace_callback(None)


def work(settings: Settings, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Host], object]) -> dict[str, int]:
    """How often the verb plans, computes statuses and queries the registry."""
    calls = {"plan": 0, "statuses": 0}

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch, context.reading(settings) as host, counted_queries(host) as queries:
        patch.setattr(assess, "plan", counting("plan", assess.plan))
        patch.setattr(image, "statuses", counting("statuses", image.statuses))
        verb(host)
    return calls | {"queries": len(queries)}


@pytest.mark.parametrize(
    "verb",
    [
        lambda host: export.documents(host, Kind.IMAGE, None),
        inventory.listing,
        lambda host: inventory.describe(host, Key(Kind.IMAGE, "", "image-0")),
    ],
    ids=["get", "list", "describe"],
)
def test_images_are_planned_and_queried_together(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Host], object]
) -> None:
    declare(settings, "image-0")
    remember(settings)
    few = work(settings, monkeypatch, verb)

    declare(settings, *(f"image-{number}" for number in range(30)), file="image-0")
    remember(settings)
    many = work(settings, monkeypatch, verb)

    assert (few["plan"], few["statuses"]) == (1, 1)
    assert many == few


def test_a_thousand_objects_cost_one_copy_of_the_registry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(settings, *(f"image-{number}" for number in range(1000)))
    remember(settings)
    opened: list[str] = []
    connect = sqlite3.connect

    def counting(where: Path | str, *args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(str(where))
        return connect(where, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", counting)
        with context.reading(settings) as host, counted_queries(host) as queries:
            found = export.documents(host, Kind.IMAGE, None)

    assert len(found) == 1000
    assert opened.count(":memory:") <= 1
    assert len([one for one in opened if "immutable" not in one and one != ":memory:"]) <= 1
    assert len(queries) < 50


def test_last_good_manifests_are_printed_where_all_of_them_are_in_force(settings: Settings) -> None:
    """``a`` now declares the image of ``b``, and ``b`` is broken: neither the present texts nor a mixture of them go together."""
    declare(settings, "a")
    declare(settings, "b")
    remember(settings)
    declare(settings, "b", file="a")
    (settings.manifests / "b.yaml").write_text("nonsense: [")

    with context.reading(settings, lenient=True) as host:
        assert host.faults
        found = export.documents(host, Kind.IMAGE, None)

    assert [one["metadata"]["name"] for one in found] == ["a", "b"]


def test_documents_of_a_converged_host_are_printed_without_a_parser(settings: Settings) -> None:
    declare(settings, "a")
    remember(settings)
    words = ["get", "images", "-o", "json", "-f", str(settings.manifests), "--state", str(settings.state)]
    loaded = "print('loaded', *({'pydantic', 'yaml'} & sys.modules.keys()))"
    code = f"import sys; from reconciler.cli import main; main.main({words!r}); {loaded}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert '"name": "a"' in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded"
