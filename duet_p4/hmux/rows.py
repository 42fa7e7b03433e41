"""Rows of the HMux's tables as values: what `tables` and `routes` plan with.

A row's `key` identifies it in its table; two rows of one key differ only in what the key leads to.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar, TypeAlias

from duet_p4.model import Protocol

Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class HostRow:
    """Host table: a VIP, or a TIP (`tip`), leads to the slots [`first`, `first + count`).

    A VIP that serves ports only has no slots. `has_ports` and `has_pinned` say that the ACL table and
    the pinned-flow table are looked at; without them their rows have no effect.
    """

    table: ClassVar[str] = "host"
    address: IPv4Address
    first: int
    count: int
    tip: bool = False
    has_ports: bool = False
    has_pinned: bool = False

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.address)


@dataclass(frozen=True, slots=True)
class AclRow:
    """ACL table: one port of a VIP leads to slots of its own."""

    table: ClassVar[str] = "acl"
    address: IPv4Address
    protocol: Protocol
    port: int
    first: int
    count: int
    has_pinned: bool = False

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.address, self.protocol, self.port)


@dataclass(frozen=True, slots=True)
class SlotRow:
    """ECMP table: a slot leads to a tunnel."""

    table: ClassVar[str] = "ecmp"
    slot: int
    tunnel: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.slot)


@dataclass(frozen=True, slots=True)
class TunnelRow:
    """Tunneling table: packets get an outer header to `encap`."""

    table: ClassVar[str] = "tunneling"
    tunnel: int
    encap: IPv4Address

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.tunnel)


@dataclass(frozen=True, slots=True)
class PinnedRow:
    """Pinned-flow table: a flow of a VIP that takes its tunnel past the slots."""

    table: ClassVar[str] = "pinned"
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int
    destination_port: int
    tunnel: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (
            self.table,
            self.source,
            self.destination,
            self.protocol,
            self.source_port,
            self.destination_port,
        )


@dataclass(frozen=True, slots=True)
class RouteRow:
    """Route table: a prefix leads to a next-hop group, to the CPU (`PUNT`) or nowhere (`DROP`).

    `up` says of VIPs and TIPs that the group leads up the tree; then the backstop table is looked at.
    """

    table: ClassVar[str] = "route"
    PUNT: ClassVar[int] = -1
    DROP: ClassVar[int] = -2
    prefix: IPv4Network
    group: int
    up: bool = False

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.prefix)


@dataclass(frozen=True, slots=True)
class BackstopRow:
    """Backstop table: the group, down to SMuxes, for what came down by a port and shall not go up again."""

    table: ClassVar[str] = "backstop"
    port: int
    group: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.port)


@dataclass(frozen=True, slots=True)
class NextHopGroupRow:
    """Next-hop group table: a group owns the next-hop slots [`first`, `first + count`)."""

    table: ClassVar[str] = "nexthop_group"
    group: int
    first: int
    count: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.group)


@dataclass(frozen=True, slots=True)
class NextHopSlotRow:
    """Next-hop slot table: a slot leads to a next hop."""

    table: ClassVar[str] = "nexthop_slot"
    slot: int
    nexthop: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.slot)


@dataclass(frozen=True, slots=True)
class NextHopRow:
    """Next-hop table: the port to leave by, the Ethernet addresses to leave with, and the link's MTU."""

    table: ClassVar[str] = "nexthop"
    nexthop: int
    port: int
    source: int
    destination: int
    mtu: int

    @property
    def key(self) -> Key:
        """Table and match."""
        return (self.table, self.nexthop)


VIP_ROWS = (HostRow, AclRow, SlotRow, TunnelRow, PinnedRow)
"""The rows of the load balancer; the others are the underlay's."""

VipRow: TypeAlias = HostRow | AclRow | SlotRow | TunnelRow | PinnedRow
UnderlayRow: TypeAlias = RouteRow | BackstopRow | NextHopGroupRow | NextHopSlotRow | NextHopRow
Row: TypeAlias = VipRow | UnderlayRow
