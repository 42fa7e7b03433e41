"""What can be read of the state without asking any device: the leader answers it, and so do followers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from ipaddress import IPv4Address
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from controller.events import EventLog
from controller.records import ON_SMUXES, Event, VipRecord
from controller.state import State
from duet_p4.api.problems import UnknownError
from duet_p4.model import Model
from duet_p4.rest.app import problem_responses
from duet_p4.rest.streams import EventStreams

HEARTBEAT_S = 10.0
"""How long the event stream is quiet at most."""

PAGE = 1000
"""How many VIPs one answer lists at most."""

MAX_PLACEMENTS = 1_000_000

MAX_STREAMS = 64
"""How many may follow the events at once."""

After = Annotated[int | None, Query(ge=0, le=2**53)]


class Placement(Model):
    """Where one VIP or TIP shall live; None leaves it to the SMuxes."""

    address: IPv4Address
    switch: str | None


class Assignment(Model):
    """A whole or partial assignment; what it does not name stays where it is."""

    placements: tuple[Placement, ...] = Field(max_length=MAX_PLACEMENTS)


def known_vip(state: State, address: IPv4Address) -> VipRecord:
    """Return one wanted VIP, or raise `UnknownError`."""
    record = state.get(address)
    if record is None:
        raise UnknownError(f"there is no VIP {address}")
    return record


def page_of(
    state: State, after: IPv4Address | None, limit: int, switch: str | None, dip: IPv4Address | None
) -> list[VipRecord]:
    """Return up to `limit` VIPs above an address, in order: all, or those on a switch, or with a DIP."""
    if dip is not None:
        found: Iterable[IPv4Address] = sorted(state.with_dip(dip))
    elif switch is not None and switch != ON_SMUXES:
        found = sorted(state.on(switch))
    else:
        found = state.addresses()
    records = (state.get(address) for address in found if after is None or address > after)
    fitting = (
        record
        for record in records
        if record is not None and (switch is None or (record.switch or ON_SMUXES) == switch)
    )
    return list(islice(fitting, limit))


def placements_of(state: State) -> tuple[Placement, ...]:
    """Return where every VIP and TIP shall live."""
    return tuple(
        Placement(address=address, switch=carried.switch)
        for vip in state.addresses()
        for address, carried in known_vip(state, vip).carried().items()
    )


def with_tag(response: Response, record: VipRecord) -> VipRecord:
    """Have an answer say which revision of a VIP it is about."""
    response.headers["ETag"] = f'"{record.revision}"'
    return record


def router(state: Callable[[], State], events: Callable[[], EventLog]) -> APIRouter:
    """Return the paths; `state` and `events` are asked at each request."""
    api = APIRouter(prefix="/v1")
    found = problem_responses(404, 422)
    streams = EventStreams("the events", MAX_STREAMS)

    @api.get("/vips", tags=["vips"], responses=problem_responses(422))
    async def get_vips(
        after: Annotated[IPv4Address | None, Query(description="only those above this address")] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
        switch: Annotated[str | None, Query(description="only those of this switch (`smux`: none)")] = None,
        dip: Annotated[IPv4Address | None, Query(description="only those with this DIP")] = None,
    ) -> list[VipRecord]:
        """List wanted VIPs by address, with layout and placement; after a full page there may be more."""
        return page_of(state(), after, limit, switch, dip)

    @api.get("/vips/{vip}", tags=["vips"], responses=found)
    async def get_vip(vip: IPv4Address, response: Response) -> VipRecord:
        """Return one wanted VIP."""
        return with_tag(response, known_vip(state(), vip))

    @api.get("/assignment", tags=["assignment"])
    async def get_assignment() -> Assignment:
        """Return where every VIP and TIP shall live."""
        return Assignment(placements=placements_of(state()))

    @api.get("/events", tags=["events"], responses=problem_responses(422))
    async def get_events(
        after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> list[Event]:
        """List events after an id, oldest first; without `after`, the newest."""
        return await events().page(after, limit)

    @api.get("/events/stream", tags=["events"], response_class=StreamingResponse, include_in_schema=False)
    async def stream_events(
        after: After = None,
        last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,15}$")] = None,
    ) -> StreamingResponse:
        """Follow events as server-sent events: from the one after Last-Event-ID or `after`, else from now."""
        start = int(last_event_id) if last_event_id is not None else after
        log = events()

        async def lines() -> AsyncGenerator[str]:
            yield ": here\n\n"
            async for event in log.follow(start, HEARTBEAT_S):
                if event is None:
                    yield ": quiet\n\n"
                else:
                    data = json.dumps(event.model_dump())
                    yield f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n"

        return streams.answer(lines())

    return api
