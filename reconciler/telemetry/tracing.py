"""Spans for OpenTelemetry: a pass, the runs in it, the steps of each run. Costs nothing where they are not enabled.

Used by ``controller``. Enabled by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` or
``OTEL_TRACES_EXPORTER``), with the packages of the extra ``otel``. The only file that imports them. State: the tracer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from reconciler import __version__
from reconciler.engine.definitions import Transition

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@cache
def tracer() -> Any:
    """The tracer; None where tracing is not enabled or its packages are not installed. An existing provider is kept."""
    if not any(os.environ.get(name) for name in VARIABLES) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
    except ImportError:
        return None
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(_provider())
    return trace.get_tracer("reconciler", __version__)


def _provider() -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "reconcile")}))
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        return provider
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@contextmanager
def span(name: str, **attributes: str) -> Iterator[Span]:
    """A span around the body; one without effect where tracing is not enabled."""
    found = tracer()
    if found is None:
        yield Span(None)
        return
    named = {f"reconcile.{key}": value for key, value in attributes.items() if value}
    with found.start_as_current_span(name, attributes=named) as opened:
        yield Span(opened)


class Span:
    """An open span, to which a caller adds steps or a failure."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def __bool__(self) -> bool:
        """Whether the span is recorded."""
        return self._opened is not None

    def steps(self, transitions: Iterable[Transition]) -> None:
        """The steps of a run, as the registry has them: each a span of its own below this one."""
        for one in transitions:
            if self._opened is None or one.ended is None:
                continue
            attributes = {"reconcile.attempt": one.attempt, "reconcile.result": one.result.value, "reconcile.reason": one.reason}
            step = tracer().start_span(one.from_state, start_time=_nanoseconds(one.started), attributes=attributes)
            step.end(_nanoseconds(one.ended))

    def failed(self, reason: str, message: str) -> None:
        if self._opened is not None:
            from opentelemetry.trace import Status, StatusCode

            self._opened.set_status(Status(StatusCode.ERROR, f"{reason}: {message}"))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
