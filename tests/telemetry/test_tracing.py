"""Spans of passes, runs and steps, through OpenTelemetry's own SDK; and none where tracing is not enabled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reconciler.controller import once
from reconciler.controller.assess import Wish
from reconciler.output.progress import Silent
from reconciler.telemetry import tracing
from tests.support.bench import Bench, Running

EXPORTER = InMemorySpanExporter()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    tracing.tracer.cache_clear()
    EXPORTER.clear()
    yield EXPORTER
    tracing.tracer.cache_clear()


def converge(root: Path, *, sound: bool = True) -> None:
    bench = Bench(root)
    bench.declare("web", [0, 1], ["web-a"])
    if not sound:
        bench.images["web"]["layers"][1]["sha256"] = "0" * 64
    bench.write()
    with ExitStack() as stack:
        running = Running(bench, stack, "state")
        once.converge(running.host, Wish(), Silent(), stop=running.stop)


def test_a_pass_is_a_trace_of_runs_and_their_steps(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    converge(tmp_path)

    found = {span.name: span for span in spans.get_finished_spans()}
    assert {
        "pass",
        "build volume",
        "create snapshot",
        "downloading",
        "validating",
        "provisioning",
        "snapshotting",
    } <= found.keys()
    build = found["build volume"]
    assert parent(build) == found["pass"].context.span_id
    assert parent(found["provisioning"]) == build.context.span_id
    assert build.attributes is not None and str(build.attributes["reconcile.object"]).startswith("Volume/default/")
    step = found["downloading"]
    assert step.start_time is not None and step.end_time is not None and build.start_time is not None
    assert build.start_time - 10**9 <= step.start_time <= step.end_time


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def test_the_span_of_a_failed_run_has_its_error(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    converge(tmp_path, sound=False)

    [build] = [span for span in spans.get_finished_spans() if span.name == "build volume"]
    assert not build.status.is_ok
    assert "DigestMismatch" in (build.status.description or "")


def test_nothing_is_imported_where_tracing_is_not_enabled() -> None:
    begin = "import sys; from reconciler.telemetry.tracing import tracer; tracer(); "
    code = begin + "print([m for m in sys.modules if 'opentelemetry' in m])"
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)

    assert done.stdout.strip() == "[]"
