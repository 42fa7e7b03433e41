"""One change as a trace: what is recorded where, how contexts pass on, and what a collector gets."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from duet_p4 import telemetry
from duet_p4.model import Dip, Vip
from duet_p4.rest.server import serve
from duet_p4.telemetry import TelemetryConfig
from tests.unit.controller.test_app import controlled
from tests.unit.test_keeping import FakeDatapath, service, vip

digits = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: int(text, 16) > 0)
spans = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: int(text, 16) > 0)
TRACE, SPAN = "1" * 32, "1" * 16


class Recorded:
    """The spans of this process that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@contextmanager
def recorded() -> Iterator[Recorded]:
    found = Recorded()
    with telemetry.recorded_by(found.provider.get_tracer("test")):
        yield found


@given(digits, spans)
def test_a_context_is_passed_on_as_it_came(trace: str, span: str) -> None:
    headers: dict[str, str] = {}
    with recorded(), telemetry.entered(telemetry.context_of(f"00-{trace}-{span}-01")):
        telemetry.inject(headers)
    assert headers == {telemetry.HEADER: f"00-{trace}-{span}-01"}


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01"),
        *(f"00-{TRACE}-{SPAN}-00", f"00-{'A' * 32}-{SPAN}-01"),
    ],
)
def test_a_bad_context_and_one_that_is_not_recorded_are_none(header: str | None) -> None:
    with recorded():
        assert telemetry.context_of(header) is None


def test_nothing_is_recorded_where_nobody_takes_it_or_of_no_trace() -> None:
    headers: dict[str, str] = {}
    with telemetry.span("alone", root=True) as alone:
        assert alone is None and telemetry.current() is None
        telemetry.inject(headers)
    with recorded() as found, telemetry.span("no root") as none:
        assert none is None
        telemetry.inject(headers)
    assert not found.spans and not headers


def test_who_records_nothing_imports_nothing_of_the_sdk() -> None:
    modules = "controller.app, duet_p4.host_agent.agent, duet_p4.smux.agent, duet_p4.switch_agent.agent"
    program = f"import sys, {modules}; print(*(m for m in sys.modules if m.startswith('opentelemetry.')))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    imported = [
        name for name in told.split() if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))
    ]
    assert not imported


def test_what_fails_is_told_with_the_error() -> None:
    with (
        recorded() as found,
        pytest.raises(ValueError, match="bad"),
        telemetry.span("outer", root=True),
        telemetry.span("inner"),
    ):
        raise ValueError("bad")
    inner, outer = found.spans
    assert inner.parent == outer.context and inner.context.trace_id == outer.context.trace_id
    assert inner.status.description == outer.status.description == "ValueError: bad"
    assert inner.end_time is not None and inner.start_time is not None
    assert inner.end_time >= inner.start_time


def test_an_smux_records_the_writes_of_its_maps(tmp_path: Path) -> None:
    async def put() -> None:
        with telemetry.span("request", root=True):
            await service(tmp_path, FakeDatapath()).put(vip(1), announce=True)

    with recorded() as found:
        asyncio.run(put())
    written, request = found.spans
    assert (written.name, written.parent) == ("BPF map writes", request.context)
    assert written.attributes == {"duet.address": "10.0.0.1", "bpf.updates": 1}


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        TelemetryConfig(endpoint="collector:4318")


class Collector:
    """An OTLP/HTTP receiver: keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []

    def find(self, name: str, kind: int) -> trace_pb2.Span:
        found = [span for span in self.spans if span.name == name and span.kind == kind]
        assert found, f"no {name} of kind {kind} in {[(span.name, span.kind) for span in self.spans]}"
        return found[0]

    def parent(self, span: trace_pb2.Span) -> trace_pb2.Span:
        (found,) = [one for one in self.spans if one.span_id == span.parent_span_id]
        assert found.trace_id == span.trace_id
        return found


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector, app = Collector(), FastAPI()

    @app.post("/v1/traces")
    async def take(request: Request) -> Response:
        assert request.headers["content-type"] == "application/x-protobuf"
        for resource in ExportTraceServiceRequest.FromString(await request.body()).resource_spans:
            told = {a.key for a in resource.resource.attributes}
            assert {"service.name", "service.instance.id"} <= told
            for scope in resource.scope_spans:
                collector.spans += scope.spans
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, media_type="application/x-protobuf")

    async with serve(app, "127.0.0.1", 0, None) as url:
        yield collector, url


def test_one_change_is_one_trace_from_the_operators_request_to_the_agent(tmp_path: Path) -> None:
    server, client = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT

    async def scenario() -> None:
        async with collecting() as (collector, url):
            async with controlled(tmp_path, TelemetryConfig(endpoint=url)) as testbed:
                dips = (Dip(address=IPv4Address("100.1.1.1")),)
                await testbed.client.add_vip(Vip(address=IPv4Address("10.0.0.1"), dips=dips), "tor1")
            # The end of the controller sends what is left.
            asked = collector.find("POST /v1/vips", server)
            assert not asked.parent_span_id
            carried_out = [
                span
                for span in collector.spans
                if span.trace_id == asked.trace_id and (span.name, span.kind) == ("POST /v1/changes", server)
            ]
            ways = set()
            for span in carried_out:
                sent = collector.parent(span)
                lane = collector.parent(sent)
                reconciled = collector.parent(lane)
                assert (sent.name, sent.kind) == ("POST /v1/changes", client)
                assert reconciled.name == "reconcile" and collector.parent(reconciled) == asked
                assert span.start_time_unix_nano <= span.end_time_unix_nano
                ways.add(lane.name)
            assert ways >= {"lane tor1", "lane smux1"}

    asyncio.run(scenario())
