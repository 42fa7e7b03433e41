"""What the kernel knows of routes, neighbours and links, kept up to date over netlink.

BIRD writes its best routes to the kernel's FIB and the kernel resolves neighbours on the host interfaces;
`Kernel` translates both into the vocabulary of `duet_p4.hmux.routes`, and says which of it changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import IPv4Network

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from duet_p4 import netdev
from duet_p4.api.ports import HostPort
from duet_p4.hmux.routes import Adjacency, Gateway, Local, Target
from duet_p4.switch_agent import netlink
from duet_p4.switch_agent.config import SwitchConfig

logger = logging.getLogger(__name__)

ROUTE_PROTOCOL = 201
"""Whose the agent's own routes are, in the kernel's tables (a number nobody else uses)."""

_NTF_EXT_MANAGED = 1

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
        self._since = dict.fromkeys(self._ports, time.time())
        self._on_carrier = on_carrier
        self.on_change: Changed = lambda prefixes, gateways: None
        self._events = netlink.Events()

    async def start(self, routing: AsyncIPRoute) -> None:
        """Learn the present state, install the routes to hosts, and follow changes from now on."""
        self._routing = routing
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._receive)
        self._dump()
        for port in self._ports.values():
            for prefix in port.prefixes:
                await self._routing.route(
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

    def host_ports(self) -> list[HostPort]:
        """Return the ports with hosts behind them."""
        return [
            HostPort(
                port=number,
                name=port.interface,
                prefixes=port.prefixes,
                carrier=self.carrier[number],
                adjacency=self.adjacency(Gateway(number, port.peer)) is not None,
                since=self._since[number],
            )
            for number, port in sorted(self._ports.items())
            if port.prefixes
        ]

    async def resolve(self, number: int) -> None:
        """Have the kernel resolve a port's peer, and keep it resolved, whether or not it sends to it."""
        with suppress(NetlinkError):
            await self._routing.neigh(
                "replace",
                dst=str(self._ports[number].peer),
                ifindex=self._hostif_index(number),
                state=0,
                NDA_FLAGS_EXT=_NTF_EXT_MANAGED,
            )

    async def forget(self, number: int) -> None:
        """Have the kernel forget a port's peer, so that it is not sent to before it answers again."""
        with suppress(NetlinkError):
            await self._routing.neigh(
                "del", dst=str(self._ports[number].peer), ifindex=self._hostif_index(number)
            )

    def _dump(self) -> None:
        """Learn everything anew."""
        prefixes, gateways = self.prefixes(), self.gateways()
        self._routes.clear()
        self._neighbors.clear()
        self._take(netlink.dump())
        self.on_change(prefixes | self.prefixes(), gateways | self.gateways())

    def _receive(self) -> None:
        try:
            self._take(self._events.receive())
        except netlink.LostEventsError:
            logger.warning("netlink events were lost: reading the kernel's state anew")
            self._dump()

    def _take(self, messages: Iterable[netlink.Message]) -> None:
        """Note messages, and tell of what they changed once for all of them."""
        prefixes: set[IPv4Network] = set()
        gateways: set[Gateway] = set()
        for message in messages:
            match message:
                case netlink.Route():
                    prefixes.update(self._take_route(message))
                case netlink.Neighbor():
                    gateways.update(self._take_neighbor(message))
                case netlink.Link():
                    gateways.update(self._take_link(message))
        if prefixes or gateways:
            self.on_change(prefixes, gateways)

    def _take_route(self, route: netlink.Route) -> list[IPv4Network]:
        hops = frozenset(
            Gateway(self._hostifs[index], address) for index, address in route.hops if index in self._hostifs
        )
        if route.table != self._fib_table or not hops:
            return []
        if route.new:
            self._routes[route.prefix][route.metric] = hops
        else:
            self._routes[route.prefix].pop(route.metric, None)
            if not self._routes[route.prefix]:
                del self._routes[route.prefix]
        return [route.prefix]

    def _take_neighbor(self, neighbor: netlink.Neighbor) -> list[Gateway]:
        if neighbor.index not in self._hostifs:
            return []
        gateway = Gateway(self._hostifs[neighbor.index], neighbor.address)
        if self._neighbors.get(gateway) == neighbor.mac:
            return []
        self._since[gateway.port] = time.time()
        if neighbor.mac is None:
            del self._neighbors[gateway]
        else:
            self._neighbors[gateway] = neighbor.mac
        return [gateway]

    def _take_link(self, link: netlink.Link) -> list[Gateway]:
        number = self._links.get(link.index)
        if number is None or link.up == self.carrier[number]:
            return []
        self.carrier[number] = link.up
        self._since[number] = time.time()
        logger.info("port %d (%s) is %s", number, self._ports[number].interface, "up" if link.up else "down")
        self._on_carrier(number, link.up)
        return [gateway for gateway in self._neighbors if gateway.port == number]

    def _hostif_index(self, number: int) -> int:
        return next(index for index, port in self._hostifs.items() if port == number)


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
