"""Spans to a collector, by OTLP over HTTP in its JSON encoding (opentelemetry.io/docs/specs/otlp)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import Field

from duet_p4.model import Model
from duet_p4.telemetry.spans import Span, taken_by

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

PATH = "/v1/traces"
KEPT = 4096
"""Spans that wait for a collector; where there are more, the oldest are given up."""
_BATCH = 512
_EVERY_S = 1.0
_TIMEOUT_S = 5.0
_OK, _ERROR = 1, 2


class TelemetryConfig(Model):
    """Where spans of changes go: an OTLP/HTTP collector, such as `http://127.0.0.1:4318`; None is nowhere."""

    endpoint: str | None = Field(default=None, pattern=r"^https?://")


class _Exporter:
    """Collects spans and sends them, a batch each second."""

    def __init__(self, service: str, instance: str) -> None:
        self._resource = {
            "attributes": _attributes(
                {
                    "service.namespace": "duet-p4",
                    "service.name": service,
                    "service.instance.id": instance,
                    "service.version": version("duet-p4"),
                }
            )
        }
        self._waiting: deque[Span] = deque(maxlen=KEPT)
        self._said = False

    def take(self, span: Span) -> None:
        """Keep a span that has ended until it is sent."""
        self._waiting.append(span)

    async def run(self, http: httpx.AsyncClient) -> None:
        """Send until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.flush(http)

    async def flush(self, http: httpx.AsyncClient) -> None:
        """Send what waits; what a collector does not take is lost, and said once."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                (await http.post(PATH, json=self._message(batch))).raise_for_status()
                self._said = False
            except Exception as error:  # Spans may be lost, nothing else may be by them.
                if not self._said:
                    logger.warning("spans do not reach %s: %s", http.base_url, error)
                self._said = True
                return

    def _message(self, spans: Sequence[Span]) -> dict[str, Any]:
        scope = {"name": "duet_p4", "version": version("duet-p4")}
        told = [_span(one) for one in spans]
        return {
            "resourceSpans": [{"resource": self._resource, "scopeSpans": [{"scope": scope, "spans": told}]}]
        }


@asynccontextmanager
async def exporting(config: TelemetryConfig, service: str, instance: str) -> AsyncIterator[None]:
    """Have the spans of this process sent while it lasts."""
    if config.endpoint is None:
        yield
        return
    import httpx  # Only who exports pays for it.

    exporter = _Exporter(service, instance)
    async with httpx.AsyncClient(base_url=config.endpoint, timeout=_TIMEOUT_S, trust_env=False) as http:
        task = asyncio.create_task(exporter.run(http), name="spans")
        try:
            with taken_by(exporter.take):
                yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await exporter.flush(http)


def _span(span: Span) -> dict[str, Any]:
    told: dict[str, Any] = {
        "traceId": span.context.trace,
        "spanId": span.context.span,
        "name": span.name,
        "kind": int(span.kind),
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {"code": _ERROR, "message": span.error} if span.error else {"code": _OK},
    }
    if span.parent:
        told["parentSpanId"] = span.parent
    if span.links:
        told["links"] = [{"traceId": link.trace, "spanId": link.span} for link in span.links]
    return told


def _attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}
