"""Monitoring's REST interface: the network, its agents, its DIPs, its traffic."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from controller.inventory import Inventory
from controller.monitoring.agents import AgentState
from controller.monitoring.links import LinkState
from controller.monitoring.network import NetworkState
from controller.monitoring.service import CheckedDip, Monitoring
from controller.records import TrafficSample
from duet_p4.api.health import HealthReport
from duet_p4.api.mux import MuxCounters, MuxStatus
from duet_p4.api.ports import PortReport
from duet_p4.rest.access import require_own
from duet_p4.rest.app import problem_responses

Seconds = Annotated[
    float, Query(gt=0, le=1e9, description="how far back; where less is known, the mean is of that")
]


def router(monitoring: Monitoring) -> APIRouter:
    """Return monitoring's paths."""
    api = APIRouter(prefix="/v1", tags=["monitoring"])

    @api.get("/inventory")
    async def get_inventory() -> Inventory:
        """Return the network: switches, SMuxes, servers, links."""
        return monitoring.inventory

    @api.get("/network")
    async def get_network() -> NetworkState:
        """Return what devices say of the network: sizes of tables, links and switches that are down."""
        return monitoring.network()

    @api.get("/muxes")
    async def get_muxes() -> list[MuxStatus]:
        """Return what switches and SMuxes say of themselves now: tables, ports, BGP sessions."""
        return await monitoring.muxes()

    @api.get("/muxes/{name}/counters", responses=problem_responses(404, 503))
    async def get_counters(name: str) -> MuxCounters:
        """Read the counters of a switch or SMux: per VIP, per tunnel, and drops by reason."""
        return await monitoring.counters(name)

    @api.get("/links")
    async def get_links() -> list[LinkState]:
        """Return every link between muxes: whether it is up, and what travels on it."""
        return await monitoring.links()

    @api.get("/agents")
    async def get_agents() -> list[AgentState]:
        """Return every agent, and whether it answers."""
        return monitoring.agents()

    @api.get("/dips")
    async def get_dips() -> list[CheckedDip]:
        """Return the DIPs that servers check, and whether they are fit."""
        return monitoring.dips()

    @api.post("/reports/health", status_code=204, responses=problem_responses(403, 404, 422))
    async def report(body: HealthReport, request: Request) -> None:
        """Take what a server, or an SMux, says in its own name of the DIPs that it checks."""
        require_own(request, body.reporter)
        await monitoring.report(body)

    @api.post("/reports/ports", status_code=204, responses=problem_responses(403, 404, 422))
    async def report_ports(body: PortReport, request: Request) -> None:
        """Take a switch's report of its ports to hosts: what is cut off there is out of service at once."""
        require_own(request, body.switch)
        monitoring.report_ports(body)

    @api.get("/traffic", responses=problem_responses(422))
    async def get_traffic(seconds: Seconds = 600.0) -> list[TrafficSample]:
        """Return the mean traffic matrix: VIP by ingress switch by DIP."""
        return monitoring.traffic(seconds)

    return api
