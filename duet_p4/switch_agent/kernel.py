"""What the kernel knows of routes, neighbours and links, kept up to date over netlink.

BIRD writes its best routes to the kernel's FIB and the kernel resolves neighbours on the host interfaces;
`Kernel` translates both into the vocabulary of `duet_p4.hmux.routes`, and says which of it changed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from duet_p4 import netdev
from duet_p4.hmux.routes import Adjacency, Gateway, Local, Target
from duet_p4.switch_agent.config import SwitchConfig

logger = logging.getLogger(__name__)

ROUTE_PROTOCOL = 201
"""Whose the agent's own routes are, in the kernel's tables (a number nobody else uses)."""

_GROUPS = 0x1 | 0x4 | 0x40  # RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_ROUTE
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 16 << 20
_MESSAGE_SIZE = 1 << 16
_IFF_LOWER_UP = 0x10000
_NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_NTF_EXT_MANAGED = 1
_UNICAST = 1

Changed = Callable[[set[IPv4Network], set[Gateway]], None]


class Kernel:
    """The kernel's routes, neighbours and carriers, as far as they concern the front-panel ports.

    `on_change` is called with prefixes whose `target` and gateways whose `adjacency` may have changed;
    `on_carrier` with a port and whether its link is up.
    """

    def __init__(
        self, config: SwitchConfig, hostifs: Mapping[int, int], on_carrier: Callable[[int, bool], None]
    ) -> None:
        """Take the port number of each host interface by its index."""
        self._ports = {port.number: port for port in config.ports}
        self._hostifs = dict(hostifs)
        self._links = {netdev.index(port.interface): port.number for port in config.ports}
        self._fib_table = config.bird.fib_table
        self._fixed = _fixed_targets(config)
        self._routes: defaultdict[IPv4Network, dict[int, frozenset[Gateway]]] = defaultdict(dict)
        self._neighbors: dict[Gateway, int] = {}
        self.carrier: dict[int, bool] = dict.fromkeys(self._ports, False)
        self._on_carrier = on_carrier
        self.on_change: Changed = lambda prefixes, gateways: None
        self._events = _open_events()
        self._marshal = MarshalRtnl()
        self._resyncing: asyncio.Task[None] | None = None

    async def start(self, netlink: AsyncIPRoute) -> None:
        """Learn the present state, install the routes to hosts, and follow changes from now on."""
        self._netlink = netlink
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._receive)
        await self._dump()
        for port in self._ports.values():
            for prefix in port.prefixes:
                await self._netlink.route(
                    "replace",
                    dst=str(prefix),
                    gateway=str(port.peer),
                    oif=self._hostif_index(port.number),
                    table=self._fib_table,
                    proto=ROUTE_PROTOCOL,
                    flags=["onlink"],
                )

    def stop(self) -> None:
        """Follow no more."""
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
        if self._resyncing is not None:
            self._resyncing.cancel()

    def prefixes(self) -> set[IPv4Network]:
        """Return every prefix that has a target."""
        return {*self._fixed, *(prefix for prefix, routes in self._routes.items() if routes)}

    def gateways(self) -> set[Gateway]:
        """Return every neighbour that is resolved."""
        return set(self._neighbors)

    def target(self, prefix: IPv4Network) -> Target | None:
        """Return where a prefix leads: the switch's own first, then the kernel's route of least metric."""
        if prefix in self._fixed:
            return self._fixed[prefix]
        routes = self._routes.get(prefix)
        return routes[min(routes)] if routes else None

    def adjacency(self, gateway: Gateway) -> Adjacency | None:
        """Return how a gateway is reached; None where its link is down or its address not resolved."""
        mac = self._neighbors.get(gateway)
        if mac is None or not self.carrier[gateway.port]:
            return None
        port = self._ports[gateway.port]
        return Adjacency(source=_mac(port.mac), destination=mac, mtu=port.mtu)

    async def resolve(self, number: int) -> None:
        """Have the kernel resolve a port's peer, and keep it resolved, whether or not it sends to it."""
        with suppress(NetlinkError):
            await self._netlink.neigh(
                "replace",
                dst=str(self._ports[number].peer),
                ifindex=self._hostif_index(number),
                state=0,
                NDA_FLAGS_EXT=_NTF_EXT_MANAGED,
            )

    async def forget(self, number: int) -> None:
        """Have the kernel forget a port's peer, so that it is not sent to before it answers again."""
        with suppress(NetlinkError):
            await self._netlink.neigh(
                "del", dst=str(self._ports[number].peer), ifindex=self._hostif_index(number)
            )

    async def _dump(self) -> None:
        """Learn everything anew."""
        prefixes, gateways = self.prefixes(), self.gateways()
        self._routes.clear()
        self._neighbors.clear()
        for dump in (self._netlink.get_links, self._netlink.get_neighbours):
            self._take([message async for message in await dump()])
        self._take(
            [m async for m in await self._netlink.get_routes(family=socket.AF_INET, table=self._fib_table)]
        )
        self.on_change(prefixes | self.prefixes(), gateways | self.gateways())

    def _receive(self) -> None:
        messages: list[Any] = []
        while True:
            try:
                data = self._events.recv(_MESSAGE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                logger.warning("netlink events were lost: reading the kernel's state anew")
                self._resyncing = asyncio.get_running_loop().create_task(self._dump())
                continue
            messages.extend(self._marshal.parse(data))
        self._take(messages)

    def _take(self, messages: Iterable[Any]) -> None:
        """Note messages, and tell of what they changed once for all of them."""
        prefixes: set[IPv4Network] = set()
        gateways: set[Gateway] = set()
        for message in messages:
            kind = message["event"]
            if kind in ("RTM_NEWROUTE", "RTM_DELROUTE"):
                prefixes.update(self._take_route(message, new=kind == "RTM_NEWROUTE"))
            elif kind in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
                gateways.update(self._take_neighbor(message, new=kind == "RTM_NEWNEIGH"))
            elif kind == "RTM_NEWLINK":
                gateways.update(self._take_link(message))
        if prefixes or gateways:
            self.on_change(prefixes, gateways)

    def _take_route(self, message: Any, *, new: bool) -> list[IPv4Network]:
        table = message.get("RTA_TABLE") or message["table"]
        if message["family"] != socket.AF_INET or table != self._fib_table or message["type"] != _UNICAST:
            return []
        prefix = IPv4Network((message.get("RTA_DST") or "0.0.0.0", message["dst_len"]))
        metric = message.get("RTA_PRIORITY") or 0
        gateways = frozenset(self._hops(message))
        if not gateways:
            return []
        if new:
            self._routes[prefix][metric] = gateways
        else:
            self._routes[prefix].pop(metric, None)
            if not self._routes[prefix]:
                del self._routes[prefix]
        return [prefix]

    def _hops(self, message: Any) -> Iterable[Gateway]:
        """Yield the gateways of a route that are behind host interfaces."""
        hops = message.get("RTA_MULTIPATH")
        if hops:
            pairs = [(hop["oif"], hop.get("RTA_GATEWAY")) for hop in hops]
        else:
            pairs = [(message.get("RTA_OIF"), message.get("RTA_GATEWAY"))]
        for index, address in pairs:
            if index in self._hostifs and address is not None:
                yield Gateway(self._hostifs[index], IPv4Address(address))

    def _take_neighbor(self, message: Any, *, new: bool) -> list[Gateway]:
        if message["family"] != socket.AF_INET or message["ifindex"] not in self._hostifs:
            return []
        gateway = Gateway(self._hostifs[message["ifindex"]], IPv4Address(message.get("NDA_DST")))
        mac = message.get("NDA_LLADDR")
        if new and mac and message["state"] & _NUD_VALID:
            if self._neighbors.get(gateway) == _mac(mac):
                return []
            self._neighbors[gateway] = _mac(mac)
        elif self._neighbors.pop(gateway, None) is None:
            return []
        return [gateway]

    def _take_link(self, message: Any) -> list[Gateway]:
        number = self._links.get(message["index"])
        if number is None:
            return []
        up = bool(message["flags"] & _IFF_LOWER_UP)
        if up == self.carrier[number]:
            return []
        self.carrier[number] = up
        logger.info("port %d (%s) is %s", number, self._ports[number].interface, "up" if up else "down")
        self._on_carrier(number, up)
        return [gateway for gateway in self._neighbors if gateway.port == number]

    def _hostif_index(self, number: int) -> int:
        return next(index for index, port in self._hostifs.items() if port == number)


def _open_events() -> socket.socket:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    events.bind((0, _GROUPS))
    return events


def _fixed_targets(config: SwitchConfig) -> dict[IPv4Network, Target]:
    """Return the routes that no protocol decides: the switch's addresses, its peers, its own prefixes."""
    behind_hosts = {prefix for port in config.ports for prefix in port.prefixes}
    fixed: dict[IPv4Network, Target] = dict.fromkeys({*config.originated} - behind_hosts, Local.DROP)
    for port in config.ports:
        fixed[IPv4Network(port.address.ip)] = Local.PUNT
        fixed[IPv4Network(port.peer)] = frozenset({Gateway(port.number, port.peer)})
    fixed[IPv4Network(config.address)] = Local.PUNT
    return fixed


def _mac(text: str) -> int:
    return int(text.replace(":", ""), 16)
