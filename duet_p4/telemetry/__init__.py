"""OpenTelemetry traces of a change, from REST to the write of a table; off unless an endpoint is stated.

Nothing of OpenTelemetry is imported before somebody has spans recorded.
"""

from duet_p4.telemetry.exporting import TelemetryConfig, exporting
from duet_p4.telemetry.spans import (
    HEADER,
    Kind,
    context_of,
    current,
    entered,
    failed,
    inject,
    put,
    recorded,
    recorded_by,
    span,
)

__all__ = [
    "HEADER",
    "Kind",
    "TelemetryConfig",
    "context_of",
    "current",
    "entered",
    "exporting",
    "failed",
    "inject",
    "put",
    "recorded",
    "recorded_by",
    "span",
]
