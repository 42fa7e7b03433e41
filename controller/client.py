"""Typed clients of the controller's three modules."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from controller.engine import Explanation
from controller.engine.live.api import AssignmentRequest, AssignmentResult
from controller.inventory import Inventory
from controller.monitoring.agents import AgentState
from controller.store import Event, TrafficSample, VipRecord
from controller.updater.api import Assignment, DipHealth, Reach, Target
from controller.updater.plan import Plan
from controller.updater.service import DeviceReach, Placement, Report
from duet_p4.model import Vip
from duet_p4.rest.client import RestClient


class UpdaterClient(RestClient):
    """Calls the assignment updater."""

    async def vips(self) -> list[VipRecord]:
        """Return every wanted VIP."""
        return await self.call("GET", "/v1/vips", list[VipRecord])

    async def vip(self, address: IPv4Address) -> VipRecord:
        """Return one wanted VIP."""
        return await self.call("GET", f"/v1/vips/{address}", VipRecord)

    async def add_vip(self, vip: Vip, switch: str | None = None) -> VipRecord:
        """Add a VIP, on `switch` or wherever the engine says."""
        return await self.call("POST", "/v1/vips", VipRecord, body=vip, query={"switch": switch})

    async def change_vip(self, vip: Vip) -> VipRecord:
        """Replace a VIP's DIPs, weights or options."""
        return await self.call("PUT", f"/v1/vips/{vip.address}", VipRecord, body=vip)

    async def remove_vip(self, address: IPv4Address) -> None:
        """Remove a VIP."""
        await self.call("DELETE", f"/v1/vips/{address}", type(None))

    async def migrate(self, address: IPv4Address, switch: str | None) -> Report:
        """Move a VIP by hand to a switch, or to the SMuxes."""
        return await self.call("POST", f"/v1/vips/{address}/migrate", Report, body=Target(switch=switch))

    async def release(self, address: IPv4Address) -> VipRecord:
        """Give a VIP that was placed by hand back to the engine."""
        return await self.call("POST", f"/v1/vips/{address}/release", VipRecord)

    async def drain(self, vip: IPv4Address, dip: IPv4Address) -> VipRecord:
        """Give a DIP no new flows."""
        return await self.call("POST", f"/v1/vips/{vip}/dips/{dip}/drain", VipRecord)

    async def set_dip_health(self, vip: IPv4Address, dip: IPv4Address, *, up: bool) -> None:
        """Say whether a DIP is fit for a VIP's traffic."""
        await self.call("PUT", f"/v1/vips/{vip}/dips/{dip}/health", DipHealth, body=DipHealth(up=up))

    async def set_reach(self, device: str, reach: DeviceReach) -> None:
        """Say whether a device answers."""
        await self.call("PUT", f"/v1/devices/{device}", Reach, body=Reach(reach=reach))

    async def assignment(self) -> Assignment:
        """Return where every VIP and TIP shall live."""
        return await self.call("GET", "/v1/assignment", Assignment)

    async def assign(self, placements: Iterable[Placement]) -> Report:
        """Carry an assignment out."""
        body = Assignment(placements=tuple(placements))
        return await self.call("PUT", "/v1/assignment", Report, body=body)

    async def plan(self, placements: Iterable[Placement]) -> Plan:
        """Return what carrying an assignment out would do."""
        body = Assignment(placements=tuple(placements))
        return await self.call("POST", "/v1/assignment/plan", Plan, body=body)

    async def resync(self) -> Report:
        """Repair what differs from what is wanted."""
        return await self.call("POST", "/v1/resync", Report)

    async def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """List events."""
        query = {"after": after, "limit": limit}
        return await self.call("GET", "/v1/events", list[Event], query=query)


class EngineClient(RestClient):
    """Calls the DUET engine."""

    async def compute(self, request: AssignmentRequest) -> AssignmentResult:
        """Compute an assignment; nothing is carried out."""
        return await self.call("POST", "/v1/assignments", AssignmentResult, body=request)

    async def place(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Say where one VIP and its TIPs go, while everything else stays."""
        return await self.call("POST", "/v1/placements", dict[IPv4Address, str | None], body=record)

    async def explain(self, address: IPv4Address) -> Explanation:
        """Say why the last computed assignment put a VIP or TIP where it did."""
        return await self.call("GET", f"/v1/explanations/{address}", Explanation)


class MonitoringClient(RestClient):
    """Calls datacenter monitoring."""

    async def inventory(self) -> Inventory:
        """Return the network."""
        return await self.call("GET", "/v1/inventory", Inventory)

    async def agents(self) -> list[AgentState]:
        """Return every agent as monitoring sees it."""
        return await self.call("GET", "/v1/agents", list[AgentState])

    async def traffic(self, seconds: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the last `seconds`."""
        return await self.call("GET", "/v1/traffic", list[TrafficSample], query={"seconds": seconds})


class ControllerClient(UpdaterClient, EngineClient, MonitoringClient):
    """Calls a controller whose three modules share an address, as the operator's commands do."""
