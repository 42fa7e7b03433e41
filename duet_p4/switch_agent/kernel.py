"""What the kernel knows of routes, neighbours and links, kept up to date over netlink.

BIRD writes its best routes to the kernel's FIB and the kernel resolves neighbours on the host interfaces;
`Kernel` translates both into the vocabulary of `duet_p4.hmux.routes`, and says which of it changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network

from duet_p4 import netdev
from duet_p4.api.ports import HostPort
from duet_p4.backoff import Backoff
from duet_p4.hmux.routes import Adjacency, Gateway, Local, Target
from duet_p4.switch_agent import netlink
from duet_p4.switch_agent.config import SwitchConfig
from duet_p4.switch_agent.netlink_changes import Changes, RefusedError

logger = logging.getLogger(__name__)

_RETRY_S = 0.01
_LONGEST_RETRY_S = 1.0

Changed = Callable[[set[IPv4Network], set[Gateway]], None]


class Routes:
    """The routes of one kernel table: by prefix and metric, in the order in which the kernel tries them."""

    def __init__(self) -> None:
        self._routes: defaultdict[IPv4Network, dict[int, list[netlink.Route]]] = defaultdict(dict)

    def prefixes(self) -> set[IPv4Network]:
        """Return every prefix that has a route."""
        return set(self._routes)

    def best(self, prefix: IPv4Network) -> netlink.Route | None:
        """Return the route that the kernel takes for a prefix."""
        metrics = self._routes.get(prefix)
        return metrics[min(metrics)][0] if metrics else None

    def listed(self, route: netlink.Route) -> None:
        """Note a route of a list of all: those of one prefix and metric come in their order."""
        self._routes[route.prefix].setdefault(route.metric, []).append(route)

    def put(self, prefix: IPv4Network, listed: Routes) -> None:
        """Take a prefix's routes from a list of all."""
        if prefix in listed._routes:
            self._routes[prefix] = listed._routes[prefix]
        else:
            self._routes.pop(prefix, None)

    def changed(self, route: netlink.Route) -> bool:
        """Note what the kernel said of a route; return whether that makes sense with what it said before."""
        metrics = self._routes[route.prefix]
        routes = metrics.setdefault(route.metric, [])
        sound = True
        if not route.new:
            at = next((n for n, held in enumerate(routes) if _same(held, route)), None)
            sound = at is not None
            if at is not None:
                del routes[at]
        else:
            if route.replaces and routes:
                del routes[0]
            sound = not any(_same(held, route) for held in routes)
            routes.insert(len(routes) if route.last else 0, route)
        if not routes:
            del metrics[route.metric]
        if not metrics:
            del self._routes[route.prefix]
        return sound


class Kernel:
    """The kernel's routes, neighbours and carriers, as far as they concern the front-panel ports.

    `on_change` is called with prefixes whose `target` and gateways whose `adjacency` may have changed,
    `on_carrier` with a port and whether its link is up, `on_port_change` when anything of a port does.
    """

    def __init__(
        self, config: SwitchConfig, hostifs: Mapping[int, int], receive_buffer: int = 16 << 20
    ) -> None:
        """Take the port number of each host interface by its index."""
        self._ports = {port.number: port for port in config.ports}
        self._hostifs = dict(hostifs)
        self._links = {netdev.index(port.interface): port.number for port in config.ports}
        self._fib_table = config.bird.fib_table
        self._fixed = _fixed_targets(config)
        self._routes = Routes()
        self._neighbors: dict[Gateway, int] = {}
        self.carrier: dict[int, bool] = dict.fromkeys(self._ports, False)
        self._silent: set[int] = set()
        self._since = dict.fromkeys(self._ports, time.time())
        self.on_carrier: Callable[[int, bool], None] = lambda number, up: None
        self.on_port_change: Callable[[], None] = lambda: None
        self.on_change: Changed = lambda prefixes, gateways: None
        self._events = netlink.Events(receive_buffer)
        self._lost = asyncio.Event()
        self._doubtful: set[IPv4Network] | None = None
        """Prefixes whose routes are being read: what is told of them may be listed already. None: all."""
        self._told: set[IPv4Network] = set()
        """Doubtful prefixes that something was told of since their routes were asked for."""
        self._by_objects = False
        """Whether any route has been seen whose hops are a nexthop object's."""
        self.resyncs = 0
        """How often everything was read anew."""

    async def start(self, changes: Changes) -> None:
        """Learn the present state and install the routes to hosts; `follow` then follows changes."""
        self._changes = changes
        while not self.resyncs:
            await self._resync()
        for port in self._ports.values():
            for prefix in port.prefixes:
                changes.replace_route(prefix, port.peer, self._hostif_index(port.number), self._fib_table)

    async def follow(self) -> None:
        """Follow changes until cancelled. What the kernel could not tell is read anew."""
        backoff = Backoff(_RETRY_S, _LONGEST_RETRY_S)
        while True:
            await self._lost.wait()
            logger.warning("netlink events were lost: reading the kernel's state anew")
            try:
                await self._resync()
            except OSError as error:
                logger.error("%s", error)
            if self._lost.is_set():
                await asyncio.sleep(backoff.failed())
            else:
                backoff.succeeded()

    def stop(self) -> None:
        """Follow no more."""
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()

    def prefixes(self) -> set[IPv4Network]:
        """Return every prefix that has a target."""
        return {*self._fixed, *self._routes.prefixes()}

    def gateways(self) -> set[Gateway]:
        """Return every neighbour that is resolved."""
        return set(_ways(self._neighbors))

    def target(self, prefix: IPv4Network) -> Target | None:
        """Return where a prefix leads: the switch's own first, then the kernel's route of least metric."""
        if prefix in self._fixed:
            return self._fixed[prefix]
        route = self._routes.best(prefix)
        return (self._gateways(route) or None) if route is not None else None

    def adjacency(self, gateway: Gateway) -> Adjacency | None:
        """Return how a gateway is reached; None where it is not alive or its address not resolved."""
        mac = self._neighbors.get(replace(gateway, itself=False))
        alive = self.carrier[gateway.port] if gateway.itself else self.alive(gateway.port)
        if mac is None or not alive:
            return None
        port = self._ports[gateway.port]
        return Adjacency(source=_mac(port.mac), destination=mac, mtu=port.mtu)

    def alive(self, number: int) -> bool:
        """Return whether a port has carrier, and leads to a neighbour that is not silent."""
        return self.carrier[number] and number not in self._silent

    def peer_mac(self, number: int) -> int | None:
        """Return the Ethernet address at the other end of a port; None where it is not resolved."""
        return self._neighbors.get(Gateway(number, self._ports[number].peer))

    def set_silent(self, number: int, silent: bool) -> None:
        """Note that a port's neighbour forwards nothing although the link is up, or does so again."""
        (self._silent.add if silent else self._silent.discard)(number)
        self._since[number] = time.time()
        self.on_change(set(), self._gateways_at(number))
        self.on_port_change()

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

    def resolve(self, number: int) -> None:
        """Have the kernel resolve a port's peer, and keep it resolved, whether or not it sends to it.

        Raises OSError.
        """
        with suppress(RefusedError):
            self._changes.replace_neighbor(self._hostif_index(number), self._ports[number].peer)

    def forget(self, number: int) -> None:
        """Have the kernel forget a port's peer, so that it is not sent to before it answers again."""
        with suppress(RefusedError):
            self._changes.delete_neighbor(self._hostif_index(number), self._ports[number].peer)

    async def _resync(self) -> None:
        """Read everything anew.

        What waits to be read is older than that, and is thrown away first. The list of links waits until the
        kernel has done with a change that it has told of already. Links and neighbours are followed again at
        once: packets may be being lost. A change of routes that is told while they are listed may be
        in the list or not, so those prefixes are listed again, until nothing is told of them meanwhile.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._events.fileno())
        dump = netlink.Dump()
        try:
            self._events.drain()
            self._lost.clear()
            gateways = set(self._neighbors)
            self._neighbors.clear()
            for message in dump.links_and_neighbors():
                self._take_one(message)
            self.on_change(set(), set(_ways(gateways | set(self._neighbors))))
            self.on_port_change()
            self._doubtful = None
            loop.add_reader(self._events.fileno(), self._receive)
            backoff = Backoff(_RETRY_S, _LONGEST_RETRY_S)
            while True:
                await self._list_routes(dump)
                if self._lost.is_set() or not self._doubtful:
                    break
                await asyncio.sleep(backoff.failed())
        except BaseException:
            self._lost.set()
            raise
        finally:
            dump.close()
        if not self._lost.is_set():
            self.resyncs += 1

    async def _list_routes(self, dump: netlink.Dump) -> None:
        """Read the routes of the doubtful prefixes; those told of meanwhile stay doubtful."""
        self._told = set()
        messages = await asyncio.to_thread(dump.routes, self._fib_table)
        while not self._lost.is_set() and self._events.waiting():
            self._receive()
            await asyncio.sleep(0)
        if self._lost.is_set():
            return
        listed = Routes()
        for message in messages:
            if isinstance(message, netlink.Route) and message.table == self._fib_table:
                self._by_objects = self._by_objects or bool(message.nexthop)
                listed.listed(message)
        if self._doubtful is None:
            changed = {*self._routes.prefixes(), *listed.prefixes()}
            self._routes = listed
        else:
            changed = self._doubtful
            for prefix in changed:
                self._routes.put(prefix, listed)
        self._doubtful = self._told
        self.on_change(changed, set())

    def _receive(self) -> None:
        try:
            self._take(self._events.receive())
        except netlink.LostEventsError:
            # Nothing more is taken before everything was read anew.
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._lost.set()

    def _take(self, messages: Iterable[netlink.Message]) -> None:
        """Note messages, and tell of what they changed once for all of them."""
        prefixes: set[IPv4Network] = set()
        gateways: set[Gateway] = set()
        try:
            for message in messages:
                changed = self._take_one(message)
                if self._takes_routes_along(message):
                    self._lost.set()
                if isinstance(changed, IPv4Network):
                    prefixes.add(changed)
                else:
                    gateways.update(changed)
        finally:
            if prefixes or gateways:
                self.on_change(prefixes, set(_ways(gateways)))
            if any(self._ports[gateway.port].prefixes for gateway in gateways):
                self.on_port_change()

    def _takes_routes_along(self, message: netlink.Message) -> bool:
        """Whether routes may have gone with what a message tells of: the kernel says nothing of each.

        Nexthop objects go with their interface's carrier, routes that have their hops themselves do not.
        """
        match message:
            case netlink.Link():
                gone = not message.enabled or (self._by_objects and not message.up)
                return gone and message.index in self._hostifs
            case netlink.NexthopChange():
                return self._by_objects
        return False

    def _take_one(self, message: netlink.Message) -> IPv4Network | Collection[Gateway]:
        """Note a message; return the prefix or the gateways that it changes."""
        match message:
            case netlink.Neighbor():
                return self._take_neighbor(message)
            case netlink.Link():
                return self._take_link(message)
            case netlink.NexthopChange():
                return []
        self._by_objects = self._by_objects or bool(message.nexthop)
        if message.table != self._fib_table:
            return []
        if self._doubtful is None or message.prefix in self._doubtful:
            self._told.add(message.prefix)
            return []
        if not self._routes.changed(message):
            self._lost.set()
        return message.prefix

    def _gateways(self, route: netlink.Route) -> frozenset[Gateway]:
        return frozenset(
            Gateway(self._hostifs[index], address) for index, address in route.hops if index in self._hostifs
        )

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

    def _take_link(self, link: netlink.Link) -> set[Gateway]:
        number = self._links.get(link.index)
        if number is None or link.up == self.carrier[number]:
            return set()
        self.carrier[number] = link.up
        self._silent.discard(number)
        self._since[number] = time.time()
        self.on_port_change()
        logger.info("port %d (%s) is %s", number, self._ports[number].interface, "up" if link.up else "down")
        self.on_carrier(number, link.up)
        return self._gateways_at(number)

    def _gateways_at(self, number: int) -> set[Gateway]:
        return {gateway for gateway in self._neighbors if gateway.port == number}

    def _hostif_index(self, number: int) -> int:
        return next(index for index, port in self._hostifs.items() if port == number)


def _fixed_targets(config: SwitchConfig) -> dict[IPv4Network, Target]:
    """Return the routes that no protocol decides: the switch's addresses, its peers, its own prefixes."""
    behind_hosts = {prefix for port in config.ports for prefix in port.prefixes}
    fixed: dict[IPv4Network, Target] = dict.fromkeys({*config.originated} - behind_hosts, Local.DROP)
    routers = {neighbor.interface for neighbor in config.bird.neighbors}
    for port in config.ports:
        fixed[IPv4Network(port.address.ip)] = Local.PUNT
        # Two that take each other for silent must go on to send back what the other asks.
        itself = port.interface in routers
        fixed[IPv4Network(port.peer)] = frozenset({Gateway(port.number, port.peer, itself)})
    fixed[IPv4Network(config.address)] = Local.PUNT
    return fixed


def _ways(gateways: Iterable[Gateway]) -> Iterator[Gateway]:
    """Yield neighbours as ways on, and as ways to themselves."""
    for gateway in gateways:
        yield gateway
        yield replace(gateway, itself=True)


def _same(held: netlink.Route, gone: netlink.Route) -> bool:
    """Whether a route that is gone is one that was there."""
    return (held.kind, held.hops) == (gone.kind, gone.hops)


def _mac(text: str) -> int:
    return int(text.replace(":", ""), 16)
