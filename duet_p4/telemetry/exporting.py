"""Spans to a collector by OTLP over HTTP, as OpenTelemetry's SDK sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from pydantic import Field

from duet_p4.model import Model
from duet_p4.telemetry.spans import recorded_by

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PATH = "/v1/traces"
_KEPT = 4096
"""Spans that wait for a collector; where there are more, they are given up."""
_BATCH = 512
_EVERY_MS = 1000
_TIMEOUT_S = 5


class TelemetryConfig(Model):
    """Where spans of changes go: an OTLP/HTTP collector, such as `http://127.0.0.1:4318`; None is nowhere."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://")


@asynccontextmanager
async def exporting(config: TelemetryConfig, service: str, instance: str) -> AsyncIterator[None]:
    """Have the spans of this process sent while it lasts; what a collector does not take is lost."""
    if config.endpoint is None:
        yield
        return
    # To import the SDK takes a third of a second, to end may take as long as a collector does not answer.
    provider = await asyncio.to_thread(_provider, config.endpoint, service, instance)
    try:
        with recorded_by(provider.get_tracer("duet_p4", version("duet-p4"))):
            yield
    finally:
        await asyncio.to_thread(provider.shutdown)


def _provider(endpoint: str, service: str, instance: str) -> TracerProvider:
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    session = requests.Session()
    session.trust_env = False  # No proxy stands between our processes and their collector.
    exporter = OTLPSpanExporter(endpoint.rstrip("/") + PATH, timeout=_TIMEOUT_S, session=session)
    resource = Resource.create(
        {
            "service.namespace": "duet-p4",
            "service.name": service,
            "service.instance.id": instance,
            "service.version": version("duet-p4"),
        }
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=_KEPT,
            max_export_batch_size=_BATCH,
            schedule_delay_millis=_EVERY_MS,
            export_timeout_millis=_TIMEOUT_S * 1000,
        )
    )
    return provider
