"""Rows of the HMux's tables as values: what `tables` and `routes` plan with.

A row's `key` identifies it in its table; two rows of one key differ only in what the key leads to. Each class
says which entries of hmux.p4 its rows are, and nothing else does: `codec`, `entries` and the tables' sizes go
by that. So a new table of the program is a new class here, and whoever plans its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from operator import attrgetter
from typing import ClassVar, TypeAlias

from duet_p4.model import Protocol

Key: TypeAlias = tuple[object, ...]


@dataclass(frozen=True)
class Action:
    """An action of the P4 program, and which attribute of a row each parameter is.

    `where` are the values of other attributes by which a row takes this action, where its table has several.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Entries:
    """The entries that rows of a class are: table, which attribute each field of the key is, and actions."""

    table: str
    key: Mapping[str, str]
    actions: tuple[Action, ...]

    @cached_property
    def identify(self) -> Callable[[object], Key]:
        """Returns a row's `table` and the values of its key."""
        return attrgetter("table", *self.key.values())


class _Row:
    """What rows of every class have."""

    __slots__ = ()
    table: ClassVar[str]
    """The table, as status and errors call it."""
    P4: ClassVar[Entries]

    @property
    def key(self) -> Key:
        """Table and match."""
        return self.P4.identify(self)

    @property
    def action(self) -> Action:
        """The action of the entry that this row is."""
        actions = self.P4.actions
        if len(actions) == 1:
            return actions[0]
        return next(
            action
            for action in actions
            if all(getattr(self, name) == value for name, value in action.where.items())
        )


@dataclass(frozen=True, slots=True)
class HostRow(_Row):
    """Host table: a VIP, or a TIP (`tip`), leads to the slots [`first`, `first + count`).

    A VIP that serves ports only has no slots. `has_ports` and `has_pinned` say that the ACL table and
    the pinned-flow table are looked at; without them their rows have no effect.
    """

    table: ClassVar[str] = "host"
    P4: ClassVar[Entries] = Entries(
        "host_table",
        {"dst_addr": "address"},
        (
            Action(
                "vip",
                {
                    "first_slot": "first",
                    "slot_count": "count",
                    "has_ports": "has_ports",
                    "has_pinned_flows": "has_pinned",
                },
                where={"tip": False},
            ),
            Action("tip", {"first_slot": "first", "slot_count": "count"}, where={"tip": True}),
        ),
    )
    address: IPv4Address
    first: int
    count: int
    tip: bool = False
    has_ports: bool = False
    has_pinned: bool = False


@dataclass(frozen=True, slots=True)
class AclRow(_Row):
    """ACL table: one port of a VIP leads to slots of its own."""

    table: ClassVar[str] = "acl"
    P4: ClassVar[Entries] = Entries(
        "acl_table",
        {"dst_addr": "address", "protocol": "protocol", "dst_port": "port"},
        (
            Action(
                "port_group",
                {"first_slot": "first", "slot_count": "count", "has_pinned_flows": "has_pinned"},
            ),
        ),
    )
    address: IPv4Address
    protocol: Protocol
    port: int
    first: int
    count: int
    has_pinned: bool = False


@dataclass(frozen=True, slots=True)
class SlotRow(_Row):
    """ECMP table: a slot leads to a tunnel."""

    table: ClassVar[str] = "ecmp"
    P4: ClassVar[Entries] = Entries(
        "ecmp_table", {"slot": "slot"}, (Action("set_tunnel", {"tunnel": "tunnel"}),)
    )
    slot: int
    tunnel: int


@dataclass(frozen=True, slots=True)
class TunnelRow(_Row):
    """Tunneling table: packets get an outer header to `encap`."""

    table: ClassVar[str] = "tunneling"
    P4: ClassVar[Entries] = Entries(
        "tunneling_table", {"tunnel": "tunnel"}, (Action("encapsulate", {"dst_addr": "encap"}),)
    )
    tunnel: int
    encap: IPv4Address


@dataclass(frozen=True, slots=True)
class PinnedRow(_Row):
    """Pinned-flow table: a flow of a VIP that takes its tunnel past the slots."""

    table: ClassVar[str] = "pinned"
    P4: ClassVar[Entries] = Entries(
        "pinned_flow_table",
        {
            "src_addr": "source",
            "dst_addr": "destination",
            "protocol": "protocol",
            "src_port": "source_port",
            "dst_port": "destination_port",
        },
        (Action("pin", {"tunnel": "tunnel"}),),
    )
    source: IPv4Address
    destination: IPv4Address
    protocol: int
    source_port: int
    destination_port: int
    tunnel: int


@dataclass(frozen=True, slots=True)
class RouteRow(_Row):
    """Route table: a prefix leads to a next-hop group, to the CPU (`PUNT`) or nowhere (`DROP`).

    `up` says of VIPs and TIPs that the group leads up the tree; then the backstop table is looked at.
    """

    table: ClassVar[str] = "route"
    PUNT: ClassVar[int] = -1
    DROP: ClassVar[int] = -2
    P4: ClassVar[Entries] = Entries(
        "route_table",
        {"dst_addr": "prefix"},
        (
            Action("to_cpu", where={"group": PUNT}),
            Action("blackhole", where={"group": DROP}),
            Action("up_to_mux", {"nexthop_group": "group"}, where={"up": True}),
            Action("to_nexthop_group", {"nexthop_group": "group"}, where={"up": False}),
        ),
    )
    prefix: IPv4Network
    group: int
    up: bool = False


@dataclass(frozen=True, slots=True)
class BackstopRow(_Row):
    """Backstop table: the group, down to SMuxes, for what came down by a port and shall not go up again."""

    table: ClassVar[str] = "backstop"
    P4: ClassVar[Entries] = Entries(
        "backstop_table", {"ingress_port": "port"}, (Action("to_backstop", {"nexthop_group": "group"}),)
    )
    port: int
    group: int


@dataclass(frozen=True, slots=True)
class NextHopGroupRow(_Row):
    """Next-hop group table: a group owns the next-hop slots [`first`, `first + count`)."""

    table: ClassVar[str] = "nexthop_group"
    P4: ClassVar[Entries] = Entries(
        "nexthop_group_table",
        {"nexthop_group": "group"},
        (Action("select_nexthop", {"first_slot": "first", "slot_count": "count"}),),
    )
    group: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class NextHopSlotRow(_Row):
    """Next-hop slot table: a slot leads to a next hop."""

    table: ClassVar[str] = "nexthop_slot"
    P4: ClassVar[Entries] = Entries(
        "nexthop_slot_table", {"slot": "slot"}, (Action("set_nexthop", {"nexthop": "nexthop"}),)
    )
    slot: int
    nexthop: int


@dataclass(frozen=True, slots=True)
class NextHopRow(_Row):
    """Next-hop table: the port to leave by, the Ethernet addresses to leave with, and the link's MTU."""

    table: ClassVar[str] = "nexthop"
    P4: ClassVar[Entries] = Entries(
        "nexthop_table",
        {"nexthop": "nexthop"},
        (Action("forward", {"port": "port", "src_addr": "source", "dst_addr": "destination", "mtu": "mtu"}),),
    )
    nexthop: int
    port: int
    source: int
    destination: int
    mtu: int


VipRow: TypeAlias = HostRow | AclRow | SlotRow | TunnelRow | PinnedRow
UnderlayRow: TypeAlias = RouteRow | BackstopRow | NextHopGroupRow | NextHopSlotRow | NextHopRow
Row: TypeAlias = VipRow | UnderlayRow

VIP_ROWS = (HostRow, AclRow, SlotRow, TunnelRow, PinnedRow)
"""The rows of the load balancer."""

UNDERLAY_ROWS = (
    RouteRow,
    BackstopRow,
    NextHopGroupRow,
    NextHopSlotRow,
    NextHopRow,
)
"""The rows of the underlay."""
