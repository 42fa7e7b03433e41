"""Servers as the controller reaches them: what their host agents hold, and what they measure."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory
from controller.monitoring.traffic import Count, MeterKey
from controller.store import VipRecord
from controller.updater.plan import DeviceKind, DeviceState, Entry
from controller.updater.service import FlowSource
from duet_p4.api.changes import Change
from duet_p4.api.host import HostVip, LiveFlow, Source
from duet_p4.rest.client import RefusedError, RestClient, RestError


class ServerDevice:
    """A server's host agent, for the updater and for monitoring."""

    kind = DeviceKind.SERVER

    def __init__(self, client: RestClient) -> None:
        self.client = client

    async def observe(self) -> DeviceState:
        """Read back the VIPs that the server's DIPs serve."""
        vips = await self.client.call("GET", "/v1/vips", list[HostVip])
        return DeviceState(self.kind, {vip.address: vip for vip in vips}, {vip.address for vip in vips})

    async def put(self, entry: Entry, *, announce: bool = True) -> int:
        """Have the server's DIPs serve a VIP."""
        if not isinstance(entry, HostVip):
            raise TypeError(f"a server holds VIPs of its DIPs, not a {type(entry).__name__}")
        change = await self.client.call("PUT", f"/v1/vips/{entry.address}", Change, body=entry)
        return change.updates

    async def announce(self, entry: Entry) -> int:
        """Do nothing: a server announces nothing."""
        return 0

    async def delete(self, address: IPv4Address) -> int:
        """Have the server's DIPs serve a VIP no longer."""
        try:
            return (await self.client.call("DELETE", f"/v1/vips/{address}", Change)).updates
        except RefusedError as error:
            if error.problem.status != 404:
                raise
            return 0

    async def counts(self) -> list[tuple[MeterKey, Count]]:
        """Return what the server's DIPs received, by VIP, DIP and the clients' /24."""
        sources = await self.client.call("GET", "/v1/sources", list[Source])
        return [
            (MeterKey(source.vip, source.dip, source.source), Count(source.packets, source.bytes))
            for source in sources
        ]

    async def live_flows(self, vip: IPv4Address) -> list[LiveFlow]:
        """Return the connections that the server's DIPs have through a VIP, if they serve it."""
        try:
            return await self.client.call("GET", f"/v1/vips/{vip}/flows", list[LiveFlow])
        except RefusedError as error:
            if error.problem.status != 404:
                raise
            return []


def live_flows(inventory: Inventory, servers: Mapping[str, ServerDevice]) -> FlowSource:
    """Return a function that asks the servers of a VIP's DIPs for its live flows.

    A server that does not answer has no flows worth keeping: its DIPs went with it.
    """

    async def ask(name: str, vip: IPv4Address) -> list[LiveFlow]:
        try:
            return await servers[name].live_flows(vip)
        except RestError:
            return []

    async def flows(record: VipRecord) -> list[LiveFlow]:
        ends = {dip.encap for dip in record.spec.all_dips()}
        names = {server.name for end in ends if (server := inventory.server_at(end))}
        found = await asyncio.gather(*(ask(name, record.address) for name in sorted(names)))
        return [flow for part in found for flow in part]

    return flows
