"""OpenTelemetry traces of a change, from REST to the write of a table; off unless an endpoint is stated."""

from duet_p4.telemetry.otlp import TelemetryConfig, exporting
from duet_p4.telemetry.spans import (
    HEADER,
    Kind,
    Span,
    SpanContext,
    context_of,
    current,
    entered,
    span,
    taken_by,
    traceparent,
)

__all__ = [
    "HEADER",
    "Kind",
    "Span",
    "SpanContext",
    "TelemetryConfig",
    "context_of",
    "current",
    "entered",
    "exporting",
    "span",
    "taken_by",
    "traceparent",
]
