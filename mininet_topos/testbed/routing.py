"""Every node's BGP: who is a neighbour, and what each may announce.

- An SMux, to its ToR: the prefixes that cover all VIPs and all TIPs, each as a whole, the SMuxes' address for
  fragments, and itself.
- A switch, to one above: itself and what hangs below it, VIPs and TIPs, and the rest of the fabric only as a
  detour.
- A switch, to one below: everything.
- The network outside: itself. It is told VIPs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

import networkx as nx

from duet_p4.bird.config import BirdConfig, Neighbor, Timers
from duet_p4.bird.policy import Origin, Policy, PrefixRange
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind

VIPS = (PrefixRange.exactly(addresses.VIPS), PrefixRange.exactly(addresses.VIPS, 32))
TIPS = (PrefixRange.exactly(addresses.TIPS), PrefixRange.exactly(addresses.TIPS, 32))
RACKS = (PrefixRange.exactly(addresses.SERVERS, 24),)
LOOPBACKS = (PrefixRange.exactly(addresses.LOOPBACKS, 32),)
OUTSIDE = (PrefixRange.exactly(addresses.OUTSIDE),)
FRAGMENT_MUX = PrefixRange.exactly(IPv4Network(addresses.FRAGMENT_MUX))

SPACE = (*VIPS, *TIPS, *RACKS, *LOOPBACKS, *OUTSIDE)

ORIGINS = (
    Origin(value=1, ranges=VIPS),
    Origin(value=2, ranges=TIPS),
    Origin(value=3, ranges=RACKS),
    Origin(value=4, ranges=LOOPBACKS),
    Origin(value=5, ranges=OUTSIDE),
)

_SESSION_ENDS = 200
"""Of a machine's BGP sessions, so many ends are served in time as the timers of a single router are."""
_LONGEST_HOLD_S = 90

_TIERS = (Kind.SMUX, Kind.TOR, Kind.AGG, Kind.CORE)
_DETOUR_HOPS = {Kind.TOR: 3, Kind.AGG: 4}
"""ASes in the shortest detour through a switch below: one more than the straight way has from here."""


def passwords(graph: nx.Graph) -> dict[frozenset[str], str]:
    """Return a new password for the session on every link."""
    return {frozenset(ends): secrets.token_hex(16) for ends in graph.edges}


def bird_of(graph: nx.Graph, node: fattree.Node, keys: Mapping[frozenset[str], str]) -> BirdConfig:
    """Return a node's BGP: every link to another node that speaks it is a session.

    Aggs of one container share an AS, as Cores do, so they accept paths with it: an HMux must reach
    its DIPs also when its own link to their ToR is down. For VIPs and TIPs they do not: there the
    SMuxes' prefix is the second way, and no packet runs in circles while a route goes away.

    Switches ask each other whether they forward, so need no BFD; an SMux has no other way than its ToR.
    """
    assert node.asn is not None
    neighbors = []
    for link in fattree.links(graph, node.name):
        own, theirs = link.port(node.name), link.peer(node.name)
        peer: fattree.Node = graph.nodes[theirs.node]["node"]
        if peer.asn is not None:
            neighbors.append(
                Neighbor(
                    name=peer.name,
                    interface=own.name,
                    local=own.address.ip,
                    address=theirs.address.ip,
                    asn=peer.asn,
                    bfd=not (node.is_switch and peer.is_switch),
                    patient=node.kind is Kind.SMUX,
                    passive=_is_above(node, peer),
                    policy=policy_for(graph, node, peer),
                    password=keys[frozenset((node.name, peer.name))],
                )
            )
    return BirdConfig(
        router_id=node.address,
        timers=timers_of(graph),
        asn=node.asn,
        neighbors=tuple(neighbors),
        space=SPACE,
        transit=node.is_switch,
        allow_own_as=1 if node.kind in (Kind.CORE, Kind.AGG) else 0,
        anycast=(*VIPS, *TIPS),
        origins=ORIGINS,
        originated=(addresses.OUTSIDE,) if node.kind is Kind.CLIENT else (),
        preferred_source=node.address if node.kind is Kind.CLIENT else None,
    )


def _is_above(node: fattree.Node, peer: fattree.Node) -> bool:
    """Whether a node is nearer to the Cores than its neighbour; the network outside is above all."""
    tiers = (*_TIERS, Kind.CLIENT)
    return tiers.index(node.kind) > tiers.index(peer.kind)


def timers_of(graph: nx.Graph) -> Timers:
    """Return how patient BGP is: many routers on one machine come to word more seldom.

    A neighbour that is gone is noticed without them: by its link's carrier, by echoes, or by BFD.
    """
    usual = Timers()
    nodes = {node.name: node for node in fattree.nodes(graph)}
    ends = sum(2 for one, other in graph.edges if nodes[one].asn is not None and nodes[other].asn is not None)
    hold = max(usual.hold, min(_LONGEST_HOLD_S, round(usual.hold * ends / _SESSION_ENDS)))
    return usual.model_copy(update={"hold": hold, "keepalive": hold // 3})


def policy_for(graph: nx.Graph, node: fattree.Node, peer: fattree.Node) -> Policy:
    """Return what `node` takes from its neighbour `peer`, and tells it."""
    if peer.kind is Kind.CLIENT:
        return Policy(behind=OUTSIDE, told=VIPS, limit=16, foreign=True)
    if node.kind is Kind.CLIENT:
        return Policy(behind=VIPS, foreign=True)
    if peer.kind is Kind.SMUX:
        covering = (VIPS[0], TIPS[0], FRAGMENT_MUX)
        return Policy(behind=(*covering, *_own(graph, peer)), limit=16)
    if _TIERS.index(peer.kind) < _TIERS.index(node.kind):
        return Policy(
            behind=(*VIPS, *TIPS, FRAGMENT_MUX, *_own(graph, peer)),
            beyond=(*RACKS, *LOOPBACKS),
            beyond_hops=_DETOUR_HOPS[peer.kind],
        )
    return Policy()


def _own(graph: nx.Graph, node: fattree.Node) -> Iterator[PrefixRange]:
    """Yield the addresses of a node and of all that hangs below it."""
    yield PrefixRange.exactly(IPv4Network(node.loopback or node.address))
    if node.kind is Kind.TOR and node.prefix is not None:
        yield PrefixRange.exactly(node.prefix)
    for name in graph[node.name]:
        below: fattree.Node = graph.nodes[name]["node"]
        if below.kind in _TIERS and _TIERS.index(below.kind) < _TIERS.index(node.kind):
            yield from _own(graph, below)
