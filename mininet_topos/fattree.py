"""The FatTree: containers of ToRs and Aggs below Cores, with names, ports, addresses and capacities.

The default is the testbed of the paper's section 6: 10 switches (2 containers, each of 2 ToRs and
2 Aggs, and 2 Cores), 60 servers of which 34 are DIPs, and an SMux on each of ToR 1, 2 and 3.

    core1   core2            each Agg to `cores_per_agg` Cores
     | \\   / |
     |  \\ /  |
    agg1   agg2   ...        each ToR to every Agg of its container
     | \\   / |
    tor1   tor2   ...
     |       |
    server1..15, client1, smux1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import networkx as nx

from mininet_topos import addresses
from mininet_topos.addresses import SWITCHES, Kind

HOST_MTU = 1500
FABRIC_MTU = 1600
"""A full packet of a client and the outer header of 20 bytes fit, with room."""


@dataclass(frozen=True)
class FatTree:
    """The size of a FatTree. ToRs and Aggs are per container, servers per ToR; ToRs count from 1."""

    containers: int = 2
    tors: int = 2
    aggs: int = 2
    cores: int = 2
    cores_per_agg: int | None = None
    servers: int = 15
    dip_servers: int = 34
    smux_tors: tuple[int, ...] = (1, 2, 3)
    clients: bool = True
    tor_agg_bps: float = 10e9
    agg_core_bps: float = 10e9
    host_bps: float = 10e9

    def __post_init__(self) -> None:
        """Raise ValueError naming the first number that makes no FatTree."""
        for name in ("containers", "tors", "aggs", "cores"):
            if getattr(self, name) < 1:
                raise ValueError(f"a FatTree needs at least one of {name}, not {getattr(self, name)}")
        if self.containers > addresses.MAX_CONTAINERS:
            raise ValueError(f"containers: {self.containers} is more than {addresses.MAX_CONTAINERS}")
        if self.tors > addresses.MAX_TORS_PER_CONTAINER:
            raise ValueError(f"tors: {self.tors} is more than {addresses.MAX_TORS_PER_CONTAINER}")
        if self.servers < 0:
            raise ValueError(f"servers: {self.servers} is negative")
        if self.servers > 255:
            raise ValueError(f"servers: {self.servers} is more than the 255 that a ToR has addresses for")
        if self.cores_per_agg is not None and not 1 <= self.cores_per_agg <= self.cores:
            raise ValueError(f"cores_per_agg: {self.cores_per_agg} is not within 1..{self.cores}")
        if self.aggs * (self.cores_per_agg or self.cores) < self.cores:
            raise ValueError(
                f"cores_per_agg: {self.aggs} Aggs with {self.cores_per_agg} Cores each leave some of "
                f"the {self.cores} Cores unconnected"
            )
        if not 0 <= self.dip_servers <= self.server_count:
            raise ValueError(
                f"dip_servers: {self.dip_servers} is not within 0..{self.server_count}, all servers"
            )
        for tor in self.smux_tors:
            if not 1 <= tor <= self.tor_count:
                raise ValueError(f"smux_tors: there is no ToR {tor}, the ToRs are 1..{self.tor_count}")
        for name in ("tor_agg_bps", "agg_core_bps", "host_bps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: a capacity must be positive, not {getattr(self, name)}")

    @property
    def tor_count(self) -> int:
        """ToRs in all containers."""
        return self.containers * self.tors

    @property
    def server_count(self) -> int:
        """Servers on all ToRs."""
        return self.tor_count * self.servers

    def dips_on(self, tor: int) -> int:
        """Return how many servers of this ToR are DIPs: an even split, the first ToRs one more."""
        share, rest = divmod(self.dip_servers, self.tor_count)
        return share + (tor <= rest)


PAPER = FatTree()
"""The testbed of the paper's section 6."""


@dataclass(frozen=True)
class Port:
    """One end of a link. `number` counts from 1 on each node; the interface is `eth<number>`."""

    node: str
    number: int
    address: IPv4Interface
    mac: str
    mtu: int

    @property
    def name(self) -> str:
        """The name of the interface within its node."""
        return f"eth{self.number}"


@dataclass(frozen=True)
class Link:
    """A full-duplex link; capacity in bit/s each way."""

    ends: tuple[Port, Port]
    capacity_bps: float

    def port(self, node: str) -> Port:
        """Return this node's end."""
        return self.ends[0] if self.ends[0].node == node else self.ends[1]

    def peer(self, node: str) -> Port:
        """Return the other node's end."""
        return self.ends[1] if self.ends[0].node == node else self.ends[0]


@dataclass(frozen=True)
class Node:
    """A switch, SMux, server or client.

    `number` counts all nodes of the kind from 1, so `name` is `tor3` for the third ToR of all.
    `prefix` is what hangs behind the node: the addresses of a ToR's hosts, or a host's own block,
    one of which is `address`. A server's DIPs beyond the first are the other addresses of its block.
    `asn` is that of a node that speaks BGP.
    """

    name: str
    kind: Kind
    number: int
    index: int
    container: int | None = None
    asn: int | None = None
    loopback: IPv4Address | None = None
    management: IPv4Interface | None = None
    prefix: IPv4Network | None = None
    is_dip: bool = False

    @property
    def is_switch(self) -> bool:
        """Whether it runs the P4 program."""
        return self.kind in SWITCHES

    @property
    def address(self) -> IPv4Address:
        """The address that others know the node by: its loopback, or the second of a host's block."""
        if self.loopback is not None:
            return self.loopback
        if self.prefix is None:
            raise ValueError(f"{self.name} has no address")
        return self.prefix[1 if self.prefix.num_addresses > 1 else 0]


def fattree(size: FatTree = PAPER) -> nx.Graph:
    """Build the graph of a FatTree.

    Every node has the attribute `node` (a `Node`) and `role` (its kind); every edge `link` (a `Link`)
    and `capacity_bps`. Raises ValueError where the address plan is exhausted.
    """
    return _Builder(size).build()


def nodes(graph: nx.Graph, *kinds: Kind) -> list[Node]:
    """Return the nodes of these kinds, or all, in the order in which they were built."""
    found: Iterator[Node] = (data["node"] for _, data in graph.nodes(data=True))
    return [node for node in found if not kinds or node.kind in kinds]


def links(graph: nx.Graph, node: str | None = None) -> list[Link]:
    """Return all links, or those of one node by its port numbers."""
    edges = graph.edges(data="link") if node is None else graph.edges(node, data="link")
    found: list[Link] = [link for _, _, link in edges]
    if node is None:
        return found
    return sorted(found, key=lambda link: link.port(node).number)


@dataclass
class _Builder:
    size: FatTree
    graph: nx.Graph = field(default_factory=nx.Graph)
    loopbacks: int = 0
    links: int = 0
    ports: dict[str, int] = field(default_factory=dict)

    def build(self) -> nx.Graph:
        size = self.size
        cores = [self._switch(Kind.CORE, n) for n in range(1, size.cores + 1)]
        for container in range(1, size.containers + 1):
            first_agg, first_tor = (container - 1) * size.aggs, (container - 1) * size.tors
            aggs = [self._switch(Kind.AGG, first_agg + n, container, n) for n in range(1, size.aggs + 1)]
            tors = [self._switch(Kind.TOR, first_tor + n, container, n) for n in range(1, size.tors + 1)]
            for tor in tors:
                for agg in aggs:
                    self._link(tor, agg, size.tor_agg_bps)
            uplinks = size.cores_per_agg or size.cores
            for position, agg in enumerate(aggs):
                for uplink in range(uplinks):
                    self._link(agg, cores[(position * uplinks + uplink) % size.cores], size.agg_core_bps)
            for within, tor in enumerate(tors, start=1):
                self._hosts(tor, container, within)
        if size.clients:
            outside = self._add(
                Node(
                    "outside",
                    Kind.CLIENT,
                    size.tor_count + 1,
                    self._index(),
                    asn=addresses.as_number(Kind.CLIENT, 1),
                    prefix=addresses.outside_block(),
                )
            )
            for core in cores:
                self._link(outside, core, size.host_bps, mtu=HOST_MTU)
        return self.graph

    def _hosts(self, tor: Node, container: int, within: int) -> None:
        """Attach SMuxes, then the client, then the servers, to a ToR."""
        size = self.size
        for number, smux_tor in enumerate(size.smux_tors, start=1):
            if smux_tor == tor.number:
                self._link(tor, self._smux(number, container), size.host_bps)
        hosts = size.servers + 1  # The first block is the client's.
        blocks = [addresses.host_block(container, within, host, hosts) for host in range(hosts)]
        if size.clients:
            client = Node(
                f"client{tor.number}", Kind.CLIENT, tor.number, self._index(), container, prefix=blocks[0]
            )
            self._link(tor, self._add(client), size.host_bps, mtu=HOST_MTU)
        for host in range(1, hosts):
            number = (tor.number - 1) * size.servers + host
            server = Node(
                f"server{number}",
                Kind.SERVER,
                number,
                self._index(),
                container,
                management=addresses.management(Kind.SERVER, number),
                prefix=blocks[host],
                is_dip=host <= size.dips_on(tor.number),
            )
            self._link(tor, self._add(server), size.host_bps)

    def _switch(self, kind: Kind, number: int, container: int | None = None, within: int = 0) -> Node:
        prefix = None
        if kind is Kind.TOR and container is not None:
            prefix = addresses.tor_prefix(container, within)
        return self._add(
            Node(
                f"{kind}{number}",
                kind,
                number,
                self._index(),
                container,
                asn=addresses.as_number(kind, within or number, container or 0),
                loopback=self._loopback(),
                management=addresses.management(kind, number),
                prefix=prefix,
            )
        )

    def _smux(self, number: int, container: int) -> Node:
        return self._add(
            Node(
                f"{Kind.SMUX}{number}",
                Kind.SMUX,
                number,
                self._index(),
                container,
                asn=addresses.as_number(Kind.SMUX, number),
                loopback=self._loopback(),
                management=addresses.management(Kind.SMUX, number),
            )
        )

    def _add(self, node: Node) -> Node:
        self.graph.add_node(node.name, node=node, role=node.kind.value)
        self.ports[node.name] = 0
        return node

    def _index(self) -> int:
        return len(self.graph)

    def _loopback(self) -> IPv4Address:
        self.loopbacks += 1
        return addresses.loopback(self.loopbacks)

    def _link(self, first: Node, second: Node, capacity_bps: float, mtu: int = FABRIC_MTU) -> None:
        ends = []
        for node, address in zip((first, second), addresses.link(self.links), strict=True):
            self.ports[node.name] += 1
            number = self.ports[node.name]
            mac = str(addresses.Mac(node.index, number))
            ends.append(Port(node.name, number, address, mac, mtu))
        self.links += 1
        link = Link((ends[0], ends[1]), capacity_bps)
        self.graph.add_edge(first.name, second.name, link=link, capacity_bps=capacity_bps)
