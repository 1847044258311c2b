"""Spans for OpenTelemetry: a pass, the runs in it, the steps of each run. Where nobody has asked for them this costs nothing.

Used by ``loop`` and ``execute``. Asked for by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` or
``OTEL_TRACES_EXPORTER``), with the packages of the extra ``otel``. The only file that knows them. State: the tracer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from reconciler import __version__
from reconciler.engine.definitions import Transition

ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


@cache
def tracer() -> Any:
    """What makes spans; None where nobody asked, or the packages are not there. A provider that is already set up is kept."""
    if not any(os.environ.get(name) for name in ASKED_BY) or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
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
    """A span around what happens inside; one that does nothing where nobody asked."""
    found = tracer()
    if found is None:
        yield Span(None)
        return
    named = {f"reconcile.{key}": value for key, value in attributes.items() if value}
    with found.start_as_current_span(name, attributes=named) as opened:
        yield Span(opened)


class Span:
    """What a caller may say of a span."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def __bool__(self) -> bool:
        """Whether anybody listens: what is only made for the span need not be made otherwise."""
        return self._opened is not None

    def steps(self, transitions: Iterable[Transition]) -> None:
        """The steps of a run, as the registry has them: each a span of its own below this one."""
        for one in transitions:
            if self._opened is None or one.ended is None:
                continue
            told = {"reconcile.attempt": one.attempt, "reconcile.result": one.result.value, "reconcile.reason": one.reason}
            step = tracer().start_span(one.from_state, start_time=_nanoseconds(one.started), attributes=told)
            step.end(_nanoseconds(one.ended))

    def failed(self, reason: str, message: str) -> None:
        if self._opened is not None:
            from opentelemetry.trace import Status, StatusCode

            self._opened.set_status(Status(StatusCode.ERROR, f"{reason}: {message}"))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
