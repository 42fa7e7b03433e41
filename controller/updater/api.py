"""The updater's REST interface: VIPs, their placement, plans, events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from controller.events import EventLog
from controller.store import ON_SMUXES, Event, Store, VipRecord
from controller.updater.plan import Plan
from controller.updater.service import DeviceReach, Placement, Report, Updater
from duet_p4.api.problems import InvalidError
from duet_p4.model import Model, Vip
from duet_p4.rest.app import problem_responses


class Target(Model):
    """Where a VIP shall go; null leaves it to the SMuxes."""

    switch: str | None


class Assignment(Model):
    """A whole or partial assignment; what it does not name stays where it is."""

    placements: tuple[Placement, ...] = Field(max_length=100_000)


class Reach(Model):
    """Whether a device answers."""

    reach: DeviceReach


class DipHealth(Model):
    """Whether a DIP is fit for traffic."""

    up: bool


def router(updater: Updater, store: Store, events: EventLog) -> APIRouter:
    """Return the updater's paths."""
    api = APIRouter(prefix="/v1")
    found = problem_responses(404, 422)

    @api.get("/vips", tags=["vips"])
    async def get_vips() -> list[VipRecord]:
        """List every wanted VIP with its layout and placement."""
        return updater.vips()

    @api.get("/vips/{vip}", tags=["vips"], responses=found)
    async def get_vip(vip: IPv4Address) -> VipRecord:
        """Return one wanted VIP."""
        return updater.vip(vip)

    @api.post("/vips", tags=["vips"], status_code=201, responses=problem_responses(404, 409, 422))
    async def add_vip(
        body: Vip,
        switch: Annotated[
            str | None, Query(description="carry it here (`smux`: on the SMuxes), and let no engine move it")
        ] = None,
    ) -> VipRecord:
        """Add a VIP; the engine says where it goes unless `switch` does."""
        target = None if switch == ON_SMUXES else switch
        return await updater.add_vip(body, target, by_hand=switch is not None)

    @api.put("/vips/{vip}", tags=["vips"], responses=problem_responses(404, 409, 422))
    async def change_vip(vip: IPv4Address, body: Vip) -> VipRecord:
        """Replace a VIP's DIPs, weights or options; live flows of DIPs that stay are kept."""
        if vip != body.address:
            raise InvalidError(f"the path names VIP {vip}, the body {body.address}")
        return await updater.change_vip(body)

    @api.delete("/vips/{vip}", tags=["vips"], status_code=204, responses=found)
    async def remove_vip(vip: IPv4Address) -> None:
        """Remove a VIP."""
        await updater.remove_vip(vip)

    @api.post("/vips/{vip}/migrate", tags=["assignment"], responses=found)
    async def migrate_vip(vip: IPv4Address, body: Target) -> Report:
        """Move a VIP by hand, through the SMuxes; the engine leaves it there."""
        updater.vip(vip)
        return await updater.place([Placement(address=vip, switch=body.switch)], by_hand=True)

    @api.post("/vips/{vip}/release", tags=["assignment"], responses=found)
    async def release_vip(vip: IPv4Address) -> VipRecord:
        """Give a VIP that was placed by hand back to the engine."""
        return await updater.release(vip)

    @api.post("/vips/{vip}/dips/{dip}/drain", tags=["vips"], responses=found)
    async def drain_dip(vip: IPv4Address, dip: IPv4Address) -> VipRecord:
        """Give a DIP no new flows; those it has go on."""
        return await updater.drain_dip(vip, dip)

    @api.put("/vips/{vip}/dips/{dip}/health", tags=["vips"], responses=found)
    async def set_dip_health(vip: IPv4Address, dip: IPv4Address, body: DipHealth) -> DipHealth:
        """Say whether a DIP is fit for a VIP's traffic; monitoring does so."""
        await updater.set_dip_health([dip], up=body.up, vip=vip)
        return body

    @api.put("/devices/{name}", tags=["devices"], responses=found)
    async def set_reach(name: str, body: Reach) -> Reach:
        """Say whether a device answers; monitoring does so."""
        await updater.set_reach(name, body.reach)
        return body

    @api.get("/assignment", tags=["assignment"])
    async def get_assignment() -> Assignment:
        """Return where every VIP and TIP shall live."""
        return Assignment(placements=updater.placements())

    @api.put("/assignment", tags=["assignment"], responses=found)
    async def put_assignment(body: Assignment) -> Report:
        """Carry an assignment out, in waves; VIPs that were placed by hand stay where they are."""
        return await updater.place(body.placements)

    @api.post("/assignment/plan", tags=["assignment"], responses=found)
    async def plan_assignment(body: Assignment) -> Plan:
        """Return what carrying an assignment out would do, without doing it."""
        return await updater.plan(body.placements)

    @api.post("/resync", tags=["assignment"])
    async def resync() -> Report:
        """Read every device back and repair what differs."""
        return await updater.resync()

    @api.get("/events", tags=["events"], responses=problem_responses(422))
    async def get_events(
        after: Annotated[int, Query(ge=0, le=2**53)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[Event]:
        """List events after an id, oldest first; with `after` 0, the newest."""
        return store.events(after=after, limit=limit)

    @api.get("/events/stream", tags=["events"], response_class=StreamingResponse, include_in_schema=False)
    async def stream_events(after: Annotated[int, Query(ge=0, le=2**53)] = 0) -> StreamingResponse:
        """Follow events as server-sent events, from the one after `after`."""

        async def lines() -> AsyncIterator[str]:
            async for event in events.follow(after):
                yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.model_dump())}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    return api
