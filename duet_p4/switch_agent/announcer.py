"""Announcements: /32 routes in the kernel table that BIRD learns from (`duet_p4.bird.config`)."""

from __future__ import annotations

import errno
import logging
import socket
from ipaddress import IPv4Address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from duet_p4.switch_agent.kernel import ROUTE_PROTOCOL

logger = logging.getLogger(__name__)


class Announcer:
    """The addresses that the switch announces. They outlive the agent: `load` finds them again."""

    def __init__(self, table: int) -> None:
        self._table = table
        self._announced: set[IPv4Address] = set()

    async def load(self, netlink: AsyncIPRoute) -> None:
        """Learn what is announced, and change it through `netlink` from now on."""
        self._netlink = netlink
        routes = await self._netlink.get_routes(family=socket.AF_INET, table=self._table)
        self._announced = {IPv4Address(route.get("RTA_DST")) async for route in routes}

    def announced(self) -> frozenset[IPv4Address]:
        """Return what is announced."""
        return frozenset(self._announced)

    async def add(self, address: IPv4Address) -> None:
        """Announce an address; BIRD passes it on within milliseconds."""
        if address not in self._announced:
            await self._change("add", address)
            self._announced.add(address)
            logger.debug("announced %s", address)

    async def remove(self, address: IPv4Address) -> None:
        """Withdraw an address."""
        if address in self._announced:
            self._announced.discard(address)
            await self._change("del", address)
            logger.debug("withdrew %s", address)

    async def _change(self, command: str, address: IPv4Address) -> None:
        try:
            await self._netlink.route(
                command, type="blackhole", dst=f"{address}/32", table=self._table, proto=ROUTE_PROTOCOL
            )
        except NetlinkError as error:
            if error.code not in (errno.EEXIST, errno.ESRCH):
                raise
