"""The flow records of all devices: asked for when somebody wants to see flows, at most once a second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from duet_p4.api.flows import FlowRecord
from duet_p4.model import Model
from duet_p4.rest.app import problem_responses
from duet_p4.rest.client import DeviceClient, RestError
from duet_p4.rest.streams import EventStreams

_FRESH_S = 1.0
_STREAM_S = 2.0
_ANSWER_S = 3.0
_AT_ONCE = 16
MAX_STREAMS = 16
MAX_RECORDS = 10_000


class Flows(Model):
    """Records of flows, the latest first, and the devices that did not answer."""

    records: tuple[FlowRecord, ...]
    unreachable: tuple[str, ...] = ()


class Wanted(Model):
    """Which records are wanted; None is any."""

    vip: IPv4Address | None = None
    dip: IPv4Address | None = None
    device: str | None = None
    source: IPv4Address | None = None
    protocol: int | None = None

    def has(self, record: FlowRecord) -> bool:
        """Whether a record is."""
        pairs = (
            (self.vip, record.destination),
            (self.dip, record.dip),
            (self.device, record.device),
            (self.source, record.source),
            (self.protocol, record.protocol),
        )
        return all(want is None or want == value for want, value in pairs)


class FlowView:
    """What devices say of flows, remembered for a moment."""

    def __init__(self, devices: Mapping[str, DeviceClient]) -> None:
        self._devices = devices
        self._lock = asyncio.Lock()
        self._seen = Flows(records=())
        self._at = float("-inf")

    async def flows(self, wanted: Wanted, limit: int) -> Flows:
        """Return what is wanted, the latest first."""
        async with self._lock:
            if time.monotonic() - self._at >= _FRESH_S:
                self._seen = await self._ask()
                self._at = time.monotonic()
        found = [record for record in self._seen.records if wanted.has(record)]
        return Flows(records=tuple(found[:limit]), unreachable=self._seen.unreachable)

    async def _ask(self) -> Flows:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> Sequence[FlowRecord] | None:
            async with slots:
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        return await self._devices[name].flow_records()
                except (RestError, TimeoutError):
                    return None

        answers = dict(zip(self._devices, await asyncio.gather(*map(one, self._devices)), strict=True))
        records = [record for answer in answers.values() for record in answer or ()]
        records.sort(key=lambda record: record.last, reverse=True)
        silent = tuple(name for name, answer in answers.items() if answer is None)
        return Flows(records=tuple(records), unreachable=silent)


def router(view: FlowView) -> APIRouter:
    """Return the paths of flow records."""
    api = APIRouter(prefix="/v1/flow-records", tags=["monitoring"])
    streams = EventStreams("the flows", MAX_STREAMS)

    @api.get("", responses=problem_responses(422))
    async def get_flow_records(
        vip: IPv4Address | None = None,
        dip: IPv4Address | None = None,
        device: str | None = None,
        source: IPv4Address | None = None,
        protocol: Annotated[int | None, Query(ge=0, le=255)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_RECORDS)] = 100,
    ) -> Flows:
        """Return what sampled packets say of flows of the last seconds, the latest first."""
        wanted = Wanted(vip=vip, dip=dip, device=device, source=source, protocol=protocol)
        return await view.flows(wanted, limit)

    @api.get("/stream", response_class=StreamingResponse, include_in_schema=False)
    async def stream_flow_records(vip: IPv4Address | None = None) -> StreamingResponse:
        """Follow records as server-sent events: each time those that are new or have more packets."""

        async def lines() -> AsyncGenerator[str]:
            told = 0.0
            while True:
                flows = await view.flows(Wanted(vip=vip), MAX_RECORDS)
                news = [record for record in flows.records if record.last > told]
                told = max([told, *(record.last for record in news)])
                data = json.dumps([record.model_dump(mode="json") for record in news])
                yield f"event: records\ndata: {data}\n\n" if news else ": quiet\n\n"
                await asyncio.sleep(_STREAM_S)

        return streams.answer(lines())

    return api
