"""The paths of a host agent, answered by a `HostService`."""

from __future__ import annotations

from ipaddress import IPv4Address

from fastapi import APIRouter

from duet_p4.api.changes import Change, Changed
from duet_p4.api.digest import Digest, Synced
from duet_p4.api.health import HealthReport
from duet_p4.api.host import (
    HostChanges,
    HostService,
    HostState,
    HostStatus,
    HostVip,
    LiveFlow,
    Meter,
    Source,
)
from duet_p4.api.problems import InvalidError
from duet_p4.rest.app import problem_responses


def router(service: HostService) -> APIRouter:
    """Return the paths of a host agent."""
    api = APIRouter(prefix="/v1")

    @api.get("/vips", tags=["vips"])
    async def get_vips() -> list[HostVip]:
        """List the VIPs that this server's DIPs serve."""
        return service.vips()

    @api.get("/vips/{vip}", tags=["vips"], responses=problem_responses(404))
    async def get_vip(vip: IPv4Address) -> HostVip:
        """Return one VIP."""
        return service.vip(vip)

    @api.put("/vips/{vip}", tags=["vips"], responses=problem_responses(409, 412))
    async def put_vip(vip: IPv4Address, body: HostVip) -> Change:
        """Serve a VIP exactly as given."""
        if vip != body.address:
            raise InvalidError(f"the path names VIP {vip}, the body {body.address}")
        return await service.put(body)

    @api.delete("/vips/{vip}", tags=["vips"], responses=problem_responses(404, 412))
    async def delete_vip(vip: IPv4Address) -> Change:
        """Stop to serve a VIP."""
        return await service.delete(vip)

    @api.get("/vips/{vip}/flows", tags=["vips"], responses=problem_responses(404))
    async def get_flows(vip: IPv4Address) -> list[LiveFlow]:
        """List the live flows that this server's DIPs have through a VIP."""
        return await service.live_flows(vip)

    @api.get("/digest", tags=["state"])
    async def get_digest() -> Digest:
        """Return what the server holds, in short."""
        return service.digest()

    @api.post("/changes", tags=["state"], responses=problem_responses(412))
    async def post_changes(body: HostChanges) -> Changed:
        """Change many VIPs; say of each what came of it."""
        return await service.change(body)

    @api.put("/state", tags=["state"], responses=problem_responses(412))
    async def put_state(body: HostState) -> Changed:
        """Serve just what is given; what is right already is not written."""
        return await service.become(body)

    @api.post("/synced", tags=["state"], status_code=204, responses=problem_responses(409, 412))
    async def post_synced(body: Synced) -> None:
        """Confirm what the server holds by its digest."""
        await service.confirm(body.digest)

    @api.get("/health", tags=["status"])
    async def get_health() -> HealthReport:
        """Return the health of the DIPs."""
        return service.health()

    @api.get("/meters", tags=["status"])
    async def get_meters() -> list[Meter]:
        """Return packets and bytes per VIP and DIP, both ways."""
        return service.meters()

    @api.get("/sources", tags=["status"])
    async def get_sources() -> list[Source]:
        """Return packets and bytes received per VIP, DIP and /24 of clients."""
        return service.sources()

    @api.get("/status", tags=["status"])
    async def get_status() -> HostStatus:
        """Return the agent at a glance."""
        return service.status()

    return api
