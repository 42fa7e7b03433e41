"""One change as a trace: what is recorded where, how contexts pass on, and what a collector gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from duet_p4 import telemetry
from duet_p4.model import Dip, Vip
from duet_p4.rest.server import serve
from duet_p4.telemetry import Span, SpanContext, TelemetryConfig
from tests.unit.controller.test_app import controlled
from tests.unit.test_keeping import FakeDatapath, service, vip

digits = st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: int(text, 16) > 0)
spans = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: int(text, 16) > 0)
TRACE, SPAN = "1" * 32, "1" * 16


@given(digits, spans)
def test_a_context_is_read_as_it_was_written(trace: str, span: str) -> None:
    context = SpanContext(trace, span)
    assert telemetry.context_of(telemetry.traceparent(context)) == context


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "x", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01"),
        *(f"00-{TRACE}-{SPAN}-00", f"00-{'A' * 32}-{SPAN}-01"),
    ],
)
def test_a_bad_context_and_one_that_is_not_recorded_are_none(header: str | None) -> None:
    assert telemetry.context_of(header) is None


def test_nothing_is_recorded_where_nobody_takes_it_or_of_no_trace() -> None:
    with telemetry.span("alone", root=True) as alone:
        assert alone is None
    taken: list[Span] = []
    with telemetry.taken_by(taken.append), telemetry.span("no root") as none:
        assert none is None
    assert not taken


def test_what_fails_is_told_with_the_error() -> None:
    taken: list[Span] = []
    with (
        telemetry.taken_by(taken.append),
        pytest.raises(ValueError, match="bad"),
        telemetry.span("outer", root=True),
        telemetry.span("inner"),
    ):
        raise ValueError("bad")
    inner, outer = taken
    assert (inner.parent, inner.context.trace) == (outer.context.span, outer.context.trace)
    assert inner.error == outer.error == "ValueError: bad" and inner.end_ns >= inner.start_ns


def test_an_smux_records_the_writes_of_its_maps(tmp_path: Path) -> None:
    taken: list[Span] = []

    async def put() -> None:
        with telemetry.span("request", root=True):
            await service(tmp_path, FakeDatapath()).put(vip(1), announce=True)

    with telemetry.taken_by(taken.append):
        asyncio.run(put())
    written, request = taken
    assert (written.name, written.parent) == ("BPF map writes", request.context.span)
    assert written.attributes == {"duet.address": "10.0.0.1", "bpf.updates": 1}


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        TelemetryConfig(endpoint="collector:4318")


class Collector:
    """An OTLP/HTTP receiver: keeps the spans that it is sent, with the service of each."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []

    def find(self, name: str, kind: int) -> dict[str, Any]:
        found = [span for span in self.spans if span["name"] == name and span["kind"] == kind]
        assert found, f"no {name} of kind {kind} in {[(s['name'], s['kind']) for s in self.spans]}"
        return found[0]

    def parent(self, span: dict[str, Any]) -> dict[str, Any]:
        (found,) = [one for one in self.spans if one["spanId"] == span["parentSpanId"]]
        assert found["traceId"] == span["traceId"]
        return found


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector, app = Collector(), FastAPI()

    @app.post("/v1/traces")
    async def take(request: Request) -> dict[str, Any]:
        assert request.headers["content-type"] == "application/json"
        for resource in (await request.json())["resourceSpans"]:
            assert {"service.name", "service.instance.id"} <= {
                a["key"] for a in resource["resource"]["attributes"]
            }
            for scope in resource["scopeSpans"]:
                collector.spans += scope["spans"]
        return {"partialSuccess": {}}

    async with serve(app, "127.0.0.1", 0, None) as url:
        yield collector, url


def test_one_change_is_one_trace_from_the_operators_request_to_the_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with collecting() as (collector, url):
            async with controlled(tmp_path, TelemetryConfig(endpoint=url)) as testbed:
                dips = (Dip(address=IPv4Address("100.1.1.1")),)
                await testbed.client.add_vip(Vip(address=IPv4Address("10.0.0.1"), dips=dips), "tor1")
            # The end of the controller sends what is left.
            asked = collector.find("POST /v1/vips", telemetry.Kind.SERVER)
            assert "parentSpanId" not in asked
            carried_out = [
                span
                for span in collector.spans
                if span["traceId"] == asked["traceId"]
                and (span["name"], span["kind"]) == ("POST /v1/changes", telemetry.Kind.SERVER)
            ]
            ways = set()
            for span in carried_out:
                sent = collector.parent(span)
                lane = collector.parent(sent)
                reconciled = collector.parent(lane)
                assert (sent["name"], sent["kind"]) == ("POST /v1/changes", telemetry.Kind.CLIENT)
                assert reconciled["name"] == "reconcile" and collector.parent(reconciled) == asked
                assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                ways.add(lane["name"])
            assert ways >= {"lane tor1", "lane smux1"}

    asyncio.run(scenario())
