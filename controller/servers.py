"""What servers tell the controller: what they measure, and which flows are live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

from controller.inventory import Inventory
from controller.monitoring.traffic import Count, MeterKey
from controller.records import VipRecord
from controller.updater.reconcile import Flows, FlowSource
from duet_p4.api.host import LiveFlow
from duet_p4.rest.client import HostClient, RefusedError, RestError

_ANSWER_S = 3.0
"""A server that takes longer is asked again; one that still does not answer is silent."""

_TRIES = 2


class Meters:
    """A server's meters, for monitoring."""

    def __init__(self, client: HostClient) -> None:
        self._client = client

    async def counts(self) -> list[tuple[MeterKey, Count]]:
        """Return what the server's DIPs received, by VIP, DIP and the clients' /24."""
        return [
            (MeterKey(source.vip, source.dip, source.source), Count(source.packets, source.bytes))
            for source in await self._client.sources()
        ]


def live_flows(inventory: Inventory, servers: Mapping[str, HostClient]) -> FlowSource:
    """Return a function that asks the servers of a VIP's DIPs for its live flows.

    DIPs that are in none of the VIP's groups have no flows to keep, so their servers are not asked.
    """

    async def ask(name: str, vip: IPv4Address) -> list[LiveFlow] | None:
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(_ANSWER_S):
                    return await servers[name].live_flows(vip)
            except RefusedError as error:
                return [] if error.problem.status == 404 else None
            except (RestError, TimeoutError):
                continue
        return None

    async def flows(record: VipRecord, can_be_asked: Callable[[str], bool]) -> Flows:
        members = set[IPv4Address]().union(*record.members().values())
        ends = {dip.encap for dip in record.spec.all_dips() if dip.address in members}
        names = sorted({server.name for end in ends if (server := inventory.server_at(end))})
        asked = [name for name in names if can_be_asked(name)]
        found = dict(zip(asked, await asyncio.gather(*(ask(n, record.address) for n in asked)), strict=True))
        return Flows(
            flows=tuple(flow for part in found.values() for flow in part or ()),
            silent=tuple(name for name in names if found.get(name) is None),
        )

    return flows
