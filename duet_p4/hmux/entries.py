"""The Python face of hmux.p4: one function per table entry. `rows` has the P4 names of those that are rows.

Every function returns a finsy entity; `+entity` inserts it, `~entity` modifies, `-entity` deletes
(`default_*` and `configuration` can only be modified). For what each table is for, see the drawing at
the top of p4src/hmux.p4; for the sizes, `pipeline.sizes`.

Values are checked here only where the P4 program takes a value that would not make sense; widths are
checked against P4Info when finsy encodes the entity.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from finsy import (
    MACAddress,
    P4CounterData,
    P4CounterEntry,
    P4MeterConfig,
    P4MeterEntry,
    P4PacketIn,
    P4PacketOut,
    P4TableAction,
    P4TableEntry,
    P4TableMatch,
)

from duet_p4.hmux.rows import (
    AclRow,
    BackstopRow,
    HostRow,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    PinnedRow,
    RouteRow,
    Row,
    SlotRow,
    TunnelRow,
)
from duet_p4.model import Protocol

MIN_MTU: Final = 68
"""The smallest MTU of an IPv4 link, bytes (RFC 791)."""

ETHERTYPE_ARP: Final = 0x0806


class DropReason(IntEnum):
    """Why the pipeline dropped a packet: the index of its `drop_counter` (drop_reasons.p4)."""

    NOT_CONFIGURED = 0
    ETHER_TYPE = 1
    MALFORMED = 2
    BAD_CHECKSUM = 3
    NO_GROUP = 4
    TUNNELED_VIP = 5
    BARE_TIP = 6
    EMPTY_SLOT = 7
    NO_ROUTE = 8
    BLACKHOLE = 9
    NO_NEXTHOP = 10
    TTL_EXPIRED = 11
    TOO_BIG = 12
    CONGESTION = 13
    BAD_QUOTE = 14
    FOREIGN_MAC = 15
    MARTIAN = 16
    SPOOFED = 17
    HOST_TUNNEL = 18
    NO_PORT = 19
    FRAGMENT = 20


class PortKind(StrEnum):
    """What is behind a port: the action of its entry in the port table."""

    FABRIC = "fabric_port"
    OUTSIDE = "outside_port"
    HOST = "host_port"


def of(row: Row) -> P4TableEntry:
    """Return the entry that a row is."""
    match = {name: _value(getattr(row, attribute)) for name, attribute in row.P4.key.items()}
    # P4Runtime has the prefix of length 0 as a field left out.
    match = {name: v for name, v in match.items() if not isinstance(v, IPv4Network) or v.prefixlen}
    action = row.action
    parameters = {name: _value(getattr(row, attribute)) for name, attribute in action.parameters.items()}
    return P4TableEntry(
        row.P4.table, match=P4TableMatch(match), action=P4TableAction(action.name, **parameters)
    )


def configuration(
    loopback: IPv4Address,
    underlay_seed: int,
    flow_key: int = 0,
    fragment_mux: IPv4Address | None = None,
) -> P4TableEntry:
    """Tell the switch its own address and its underlay hash seed (32 bits); IPv4 is dropped before.

    `loopback` is the source of tunnels and of ICMP errors, `flow_key` the key of `duet_p4.flow_hash`,
    `fragment_mux` the address of the SMuxes that take the fragments of packets to VIPs (by default none, and
    they are dropped). Only modify (`~`) applies.
    """
    return P4TableEntry(
        "switch_table",
        action=P4TableAction(
            "configure",
            loopback=loopback,
            underlay_seed=underlay_seed,
            flow_key=flow_key,
            fragment_mux=fragment_mux or IPv4Address(0),
        ),
        is_default_action=True,
    )


def port(number: int, mac: MACAddress | str | int, kind: PortKind = PortKind.FABRIC) -> P4TableEntry:
    """Port table: IPv4 frames for `mac` are taken from this port; from a port without an entry, none.

    From a port of kind `HOST`, only those with a `source`; tunnels from those of kind `FABRIC` only.
    """
    return P4TableEntry(
        "port_table",
        match=P4TableMatch(ingress_port=number),
        action=P4TableAction(kind.value, mac=mac),
    )


def source(ingress_port: int, prefix: IPv4Network) -> P4TableEntry:
    """Source table: packets of the hosts behind a port may have a source in `prefix`."""
    match = {"ingress_port": ingress_port} | ({"src_addr": prefix} if prefix.prefixlen else {})
    return P4TableEntry("source_table", match=P4TableMatch(match), action=P4TableAction("NoAction"))


def icmp_error_limit(port: int, per_second: int, burst: int) -> P4MeterEntry:
    """ICMP error meter: at most so many packets of a port are answered. Only modify (`~`) applies."""
    limit = P4MeterConfig(cir=per_second, cburst=burst, pir=per_second, pburst=burst)
    return P4MeterEntry("icmp_error_meter", index=port, config=limit)


def punt(ether_type: int = ETHERTYPE_ARP) -> P4TableEntry:
    """Send frames of this EtherType to the CPU; those of other types but IPv4 are dropped."""
    return P4TableEntry("punt_table", match=P4TableMatch(ether_type=ether_type), action=P4TableAction("punt"))


def vip(
    address: IPv4Address,
    first_slot: int,
    slot_count: int,
    *,
    has_ports: bool = False,
    has_pinned_flows: bool = False,
) -> P4TableEntry:
    """Host table: packets to a VIP take one of the slots [`first_slot`, `first_slot + slot_count`).

    `has_ports` says that the ACL table has entries of this VIP; without it they are never looked at.
    A VIP that serves ports only has `has_ports` and no slots: other packets to it are dropped.
    `has_pinned_flows` says the same of the pinned-flow table, for packets that take these slots.
    Raises ValueError where the packets would have nowhere to go.
    """
    if not slot_count and not has_ports:
        raise ValueError(f"VIP {address} has neither slots nor ports")
    return of(HostRow(address, first_slot, slot_count, False, has_ports, has_pinned_flows))


def tip(address: IPv4Address, first_slot: int, slot_count: int) -> P4TableEntry:
    """Host table: tunneled packets to a TIP lose their outer header and take one of its slots."""
    _check_count(slot_count, f"TIP {address}")
    return of(HostRow(address, first_slot, slot_count, tip=True))


def port_group(
    address: IPv4Address,
    protocol: Protocol,
    port: int,
    first_slot: int,
    slot_count: int,
    *,
    has_pinned_flows: bool = False,
) -> P4TableEntry:
    """ACL table: packets to one port of a VIP take slots of their own.

    Effective once the VIP's host entry has `has_ports`. `has_pinned_flows` is as in `vip`.
    """
    _check_count(slot_count, f"VIP {address} {protocol}/{port}")
    return of(AclRow(address, protocol, port, first_slot, slot_count, has_pinned_flows))


def slot(index: int, tunnel: int) -> P4TableEntry:
    """ECMP table: the flows of a slot take this tunnel."""
    return of(SlotRow(index, tunnel))


def pinned_flow(
    source: IPv4Address,
    destination: IPv4Address,
    protocol: int,
    source_port: int,
    destination_port: int,
    tunnel: int,
) -> P4TableEntry:
    """Pinned-flow table: this flow (`duet_p4.flow_hash.Flow`) takes a tunnel whatever its slot says.

    Effective once the entry that leads to its slots, of the VIP or of its port, has `has_pinned_flows`.
    """
    return of(PinnedRow(source, destination, protocol, source_port, destination_port, tunnel))


def tunnel(index: int, encap: IPv4Address) -> P4TableEntry:
    """Tunneling table: packets get an outer header from the switch's loopback to `encap`, a DIP or TIP."""
    return of(TunnelRow(index, encap))


def route(prefix: IPv4Network, nexthop_group: int) -> P4TableEntry:
    """Route table: packets to `prefix`, where no longer one matches, take this next-hop group."""
    return of(RouteRow(prefix, nexthop_group))


def route_up_to_mux(prefix: IPv4Network, nexthop_group: int) -> P4TableEntry:
    """Route table: packets to `prefix`, of VIPs or TIPs, take this next-hop group, which leads up the tree.

    Those that came from above take the `backstop` instead.
    """
    return of(RouteRow(prefix, nexthop_group, up=True))


def backstop(ingress_port: int, nexthop_group: int) -> P4TableEntry:
    """Backstop table: packets to muxes that came down by a port take this group, down to the SMuxes."""
    return of(BackstopRow(ingress_port, nexthop_group))


def route_to_cpu(prefix: IPv4Network) -> P4TableEntry:
    """Route table: packets to `prefix`, an address of the switch itself, go to the CPU as they came."""
    return of(RouteRow(prefix, RouteRow.PUNT))


def route_to_nowhere(prefix: IPv4Network) -> P4TableEntry:
    """Route table: packets to `prefix` are dropped and counted as `DropReason.BLACKHOLE`."""
    return of(RouteRow(prefix, RouteRow.DROP))


def nexthop_group(index: int, first_slot: int, slot_count: int) -> P4TableEntry:
    """Next-hop group table: a group owns the next-hop slots [`first_slot`, `first_slot + slot_count`)."""
    _check_count(slot_count, f"next-hop group {index}")
    return of(NextHopGroupRow(index, first_slot, slot_count))


def nexthop_slot(index: int, nexthop: int) -> P4TableEntry:
    """Next-hop slot table: the flows of a next-hop slot take this next hop."""
    return of(NextHopSlotRow(index, nexthop))


def nexthop(
    index: int, port: int, source: MACAddress | str | int, destination: MACAddress | str | int, mtu: int
) -> P4TableEntry:
    """Next-hop table: leave by `port`, with these Ethernet addresses.

    `mtu` is the port's, bytes of IP packet. Raises ValueError where IPv4 forbids it.
    """
    if not MIN_MTU <= mtu <= 0xFFFF:
        raise ValueError(f"next hop {index}: MTU {mtu} is not within {MIN_MTU} to 65535")
    return of(NextHopRow(index, port, _mac(source), _mac(destination), mtu))


def vip_counter(address: IPv4Address) -> P4TableEntry:
    """Return what to read for the direct counter of a VIP or TIP."""
    return P4TableEntry("host_table", match=P4TableMatch(dst_addr=address), counter_data=P4CounterData())


def drop_counters() -> list[P4CounterEntry]:
    """Return what to read for the drop counters, in the order of `DropReason`."""
    return [P4CounterEntry("drop_counter", index=reason) for reason in DropReason]


def drop_counts(counters: Iterable[P4CounterEntry]) -> dict[DropReason, int]:
    """Return packets dropped by reason, from drop counters that were read."""
    return {DropReason(counter.index or 0): counter.packet_count for counter in counters}


def packet_out(egress_port: int, frame: bytes) -> P4PacketOut:
    """Return a frame to leave by a port, past the pipeline."""
    return P4PacketOut(frame, egress_port=egress_port, padding=0)


def ingress_port(packet: P4PacketIn) -> int:
    """Return the port by which a punted frame came in."""
    return int(packet["ingress_port"])


def _value(value: object) -> Any:
    """Return an attribute of a row as finsy takes it."""
    if isinstance(value, Protocol):
        return value.number
    return int(value) if isinstance(value, bool) else value


def _mac(address: MACAddress | str | int) -> int:
    return int(MACAddress(address)) if isinstance(address, str) else int(address)


def _check_count(slot_count: int, where: str) -> None:
    if slot_count < 1:
        raise ValueError(f"{where} has {slot_count} slots; it needs at least one")
