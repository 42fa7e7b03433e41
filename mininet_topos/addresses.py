"""The one address plan: who has which address, AS number and MAC.

These addresses live inside the testbed's namespaces only; nothing is routed out of the machine.

| what | where |
| --- | --- |
| VIPs | 10.0.0.0/16 |
| TIPs | 20.0.0.0/24 |
| servers | 100.<container>.<ToR>.0/24, a block of addresses for each server |
| clients | the first block of their ToR; outside, the first of 192.0.2.0/24 |
| links | 172.31.0.0/16, a /31 each, hosts' links too |
| loopbacks of switches and SMuxes | 172.30.0.0/16 from the bottom: up to 254 nodes stay in 172.30.0.0/24 |
| all SMuxes, for fragments | 172.30.255.254 |
| management | 198.18.0.0/15 |

Containers, ToRs, servers and so on count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

VIPS = IPv4Network("10.0.0.0/16")
TIPS = IPv4Network("20.0.0.0/24")
SERVERS = IPv4Network("100.0.0.0/8")
OUTSIDE = IPv4Network("192.0.2.0/24")
LINKS = IPv4Network("172.31.0.0/16")
LOOPBACKS = IPv4Network("172.30.0.0/16")
MANAGEMENT = IPv4Network("198.18.0.0/15")
OURS = (VIPS, TIPS, SERVERS, LINKS, LOOPBACKS, MANAGEMENT)
"""What nobody outside has."""

CONTROLLERS = tuple(MANAGEMENT[number] for number in range(1, 10))
"""Where controllers are, at most as many. One alone is in the root namespace, on the management network's
bridge; each of several has a namespace of its own."""

OPERATORS = MANAGEMENT[10]
"""Where the root namespace is on the management network when there are several controllers."""


def managers(controllers: int) -> tuple[IPv4Address, ...]:
    """Return who asks agents: the root namespace, and each of several controllers."""
    return (OPERATORS, *CONTROLLERS[:controllers]) if controllers > 1 else CONTROLLERS[:1]


MAX_CONTAINERS = 255
MAX_TORS_PER_CONTAINER = 255
MAX_BLOCK = 16
"""Addresses that a server gets at most."""

_FIRST_AS = 4_200_000_000  # RFC 6996: private use, 32 bits


class Kind(StrEnum):
    """What a node is."""

    TOR = "tor"
    AGG = "agg"
    CORE = "core"
    SMUX = "smux"
    SERVER = "server"
    CLIENT = "client"


SWITCHES = (Kind.TOR, Kind.AGG, Kind.CORE)

# Where each kind's management addresses begin, as an offset in MANAGEMENT, and how many there are.
_MANAGEMENT = {
    Kind.CORE: (0x0100, 0x0100),
    Kind.AGG: (0x0200, 0x0600),
    Kind.TOR: (0x0800, 0x0F00),
    Kind.SMUX: (0x1700, 0x0900),
    Kind.SERVER: (0x2000, 0x1_D000),
}


def tor_prefix(container: int, tor: int) -> IPv4Network:
    """Return the prefix of everything attached to a ToR (its number within the container)."""
    _within("container", container, MAX_CONTAINERS)
    _within("ToR", tor, MAX_TORS_PER_CONTAINER)
    return IPv4Network((int(SERVERS.network_address) | container << 16 | tor << 8, 24))


def block_size(hosts: int) -> int:
    """Return how many addresses each of a ToR's `hosts` gets: a power of two, at most `MAX_BLOCK`."""
    _within("hosts of a ToR", hosts, 256)
    return min(MAX_BLOCK, 1 << (256 // hosts).bit_length() - 1)


def host_block(container: int, tor: int, host: int, hosts: int) -> IPv4Network:
    """Return the addresses of a ToR's host number `host`, from 0, of `hosts`."""
    if not 0 <= host < hosts:
        raise ValueError(f"host {host} is not among the {hosts} of ToR {container}.{tor}")
    size = block_size(hosts)
    base = tor_prefix(container, tor).network_address + host * size
    return IPv4Network((base, 33 - size.bit_length()))


def outside_block() -> IPv4Network:
    """Return the addresses of the client outside: a block of `OUTSIDE`, which the Cores announce whole."""
    return next(OUTSIDE.subnets(new_prefix=33 - MAX_BLOCK.bit_length()))


FRAGMENT_MUX = LOOPBACKS[-2]
"""The address of all SMuxes that HMuxes tunnel fragments of packets to VIPs to."""


def loopback(index: int) -> IPv4Address:
    """Return the loopback of the switch or SMux number `index`, from 1."""
    _within("loopback", index, LOOPBACKS.num_addresses - 3)
    return LOOPBACKS[index]


def link(index: int) -> tuple[IPv4Interface, IPv4Interface]:
    """Return the two ends of link number `index`, from 0."""
    _within("link", index + 1, LINKS.num_addresses // 2)
    return IPv4Interface((LINKS[2 * index], 31)), IPv4Interface((LINKS[2 * index + 1], 31))


def management(kind: Kind, number: int) -> IPv4Interface:
    """Return the management address of node `number`, from 1, among those of its kind."""
    start, count = _MANAGEMENT[kind]
    _within(f"{kind} with a management address", number, count - 1)
    return IPv4Interface((MANAGEMENT[start + number], MANAGEMENT.prefixlen))


def as_number(kind: Kind, number: int, container: int = 0) -> int:
    """Return the AS of a switch or SMux (RFC 7938).

    Each ToR and each SMux has its own, the Aggs of a container share one, and so do all Cores. Of a
    ToR, `number` is that within the container; of an SMux, that among all. The clients outside are
    another network, behind an AS of its own.
    """
    if kind is Kind.CORE:
        return _FIRST_AS
    if kind is Kind.AGG:
        return _FIRST_AS + container
    if kind is Kind.TOR:
        return _FIRST_AS + container * 1000 + number
    if kind is Kind.SMUX:
        return _FIRST_AS + 900_000 + number
    if kind is Kind.CLIENT:
        return _FIRST_AS + 999_999
    raise ValueError(f"a {kind} speaks no BGP")


@dataclass(frozen=True, slots=True)
class Mac:
    """A port's MAC address, locally administered: node index and port number within it."""

    node: int
    port: int

    def __str__(self) -> str:
        octets = b"\x02\xd0" + self.node.to_bytes(2, "big") + self.port.to_bytes(2, "big")
        return octets.hex(":")


def _within(what: str, number: int, limit: int) -> None:
    if not 1 <= number <= limit:
        raise ValueError(f"{what}: {number} is out of the address plan's range 1..{limit}")
