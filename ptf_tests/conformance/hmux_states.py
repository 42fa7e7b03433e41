"""Table states of hmux.p4 in which each table hits and misses, rightly and wrongly filled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from finsy import P4Schema, P4TableAction, P4TableEntry, P4TableMatch

from duet_p4.hmux import entries, pipeline
from ptf_tests.conformance import headers as h
from ptf_tests.conformance.program import State, encode

_CONFIGURATION = ("switch_table", "port_table")
Entries = dict[str, list[P4TableEntry]]
"""Entries by table; the configuration is `switch_table`'s."""

LOOPBACK = IPv4Address("172.30.0.7")
SEED = 0x9E3779B9
PORTS = (1, 2, 3, 4)
VIPS = [IPv4Address("10.0.0.0") + n for n in range(1, 25)]
TIPS = [IPv4Address("20.0.0.0") + n for n in range(1, 6)]
CLIENTS = [IPv4Address("198.51.100.0") + n for n in range(1, 33)]
SERVERS = [IPv4Address("100.0.0.0") + n * 0x61 for n in range(16)]
PLACES = [IPv4Address("192.0.0.1") + n * 256 for n in range(24)]
"""One address in each /24 that leads to a peculiar next hop."""
OWN = [LOOPBACK, IPv4Address("172.31.0.1"), IPv4Address("224.0.0.5")]
ODD = [
    IPv4Address(a)
    for a in ("0.0.0.0", "127.0.0.1", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255")
]
SERVICES = ((h.TCP, 80), (h.TCP, 21), (h.UDP, 53), (h.ICMP, 0))
PINNED = [
    (CLIENTS[n], VIPS[6 + n % 2], protocol, source_port, destination_port)
    for n, (protocol, source_port, destination_port) in enumerate(
        (
            (h.TCP, 40000, 80),
            (h.UDP, 40001, 53),
            (h.ICMP, 7, 0),
            (h.TCP, 0, 0),
            (h.UDP, 65535, 65535),
            (h.GRE, 0, 0),
            (h.TCP, 40002, 443),
            (h.TCP, 40003, 80),
        )
    )
]


def vip(
    address: IPv4Address,
    first_slot: int,
    slot_count: int,
    has_ports: bool = False,
    has_pinned_flows: bool = False,
) -> P4TableEntry:
    """Return a VIP's entry without the checks of `duet_p4.hmux.entries`: a switch takes any entry."""
    return P4TableEntry(
        "host_table",
        match=P4TableMatch(dst_addr=address),
        action=P4TableAction(
            "vip",
            first_slot=first_slot,
            slot_count=slot_count,
            has_ports=int(has_ports),
            has_pinned_flows=int(has_pinned_flows),
        ),
    )


def tip(address: IPv4Address, first_slot: int, slot_count: int) -> P4TableEntry:
    """Return a TIP's entry, unchecked."""
    return P4TableEntry(
        "host_table",
        match=P4TableMatch(dst_addr=address),
        action=P4TableAction("tip", first_slot=first_slot, slot_count=slot_count),
    )


def port_group(
    address: IPv4Address,
    protocol: int,
    port: int,
    first_slot: int,
    slot_count: int,
    has_pinned_flows: bool = False,
) -> P4TableEntry:
    """Return an ACL entry, unchecked."""
    return P4TableEntry(
        "acl_table",
        match=P4TableMatch(dst_addr=address, protocol=protocol, dst_port=port),
        action=P4TableAction(
            "port_group", first_slot=first_slot, slot_count=slot_count, has_pinned_flows=int(has_pinned_flows)
        ),
    )


def nexthop_group(index: int, first_slot: int, slot_count: int) -> P4TableEntry:
    """Return a next-hop group, unchecked."""
    return P4TableEntry(
        "nexthop_group_table",
        match=P4TableMatch(nexthop_group=index),
        action=P4TableAction("select_nexthop", first_slot=first_slot, slot_count=slot_count),
    )


def nexthop(index: int, port: int, mtu: int) -> P4TableEntry:
    """Return a next hop, unchecked; its addresses tell which one it is."""
    return P4TableEntry(
        "nexthop_table",
        match=P4TableMatch(nexthop=index),
        action=P4TableAction(
            "forward", port=port, src_addr=0x0200_0000_0100 + port, dst_addr=0x0200_0000_0200 + index, mtu=mtu
        ),
    )


def full_world(mtu: int = 1500) -> Entries:
    """Return a switch with everything on it, right and wrong; `mtu` is that of its usual links."""
    world: Entries = {"switch_table": [entries.configuration(LOOPBACK, SEED, 0, SERVERS[7])]}
    world["port_table"] = [
        entries.port(1, h.SWITCH_MAC_TEXT),
        entries.port(2, h.SWITCH_MAC_TEXT, entries.PortKind.OUTSIDE),
        entries.port(3, h.SWITCH_MAC_TEXT),
        entries.port(4, h.SWITCH_MAC_TEXT, entries.PortKind.HOST),
    ]
    world["source_table"] = [
        entries.source(4, IPv4Network(prefix))
        for prefix in ("198.51.100.0/27", "198.51.100.32/32", "10.0.0.0/29", "240.0.0.0/8")
    ] + [entries.source(1, IPv4Network("0.0.0.0/0"))]
    world["punt_table"] = [entries.punt(h.ETHERTYPE_ARP), entries.punt(h.ETHERTYPE_LLDP)]
    world["host_table"] = [
        vip(VIPS[0], 0, 1),
        vip(VIPS[1], 1, 2),
        vip(VIPS[2], 3, 5),
        vip(VIPS[3], 8, 7),
        vip(VIPS[4], 15, 2, has_ports=True),
        vip(VIPS[5], 0, 0, has_ports=True),
        vip(VIPS[6], 17, 4, has_pinned_flows=True),
        vip(VIPS[7], 17, 4, has_ports=True),
        vip(VIPS[8], 2000, 4),  # Its slots are empty.
        vip(VIPS[9], 24, 6),  # Some are.
        vip(VIPS[10], 30, 2),  # Their tunnels do not exist.
        vip(VIPS[11], 32, 2),  # To DIPs without a route.
        vip(VIPS[12], 34, 3),  # To DIPs behind small links.
        vip(VIPS[13], 100, 64),
        vip(VIPS[14], 4090, 6),
        vip(VIPS[15], 4094, 4),  # Past the end of the table.
        vip(VIPS[16], 37, 1),  # Its DIP is a TIP,
        vip(VIPS[17], 38, 1),  # the switch itself,
        vip(VIPS[18], 39, 1),  # a black hole.
        vip(VIPS[19], 4095, 8191),
        vip(VIPS[20], 5, 0),
        tip(TIPS[0], 40, 4),
        tip(TIPS[1], 44, 1),
        tip(TIPS[2], 2100, 3),
        tip(TIPS[3], 40, 0),
    ]
    world["acl_table"] = [
        port_group(VIPS[4], h.TCP, 80, 50, 2),
        port_group(VIPS[4], h.TCP, 21, 52, 3),
        port_group(VIPS[4], h.ICMP, 0, 52, 0),
        port_group(VIPS[5], h.TCP, 80, 50, 2),
        port_group(VIPS[5], h.UDP, 53, 2000, 2),
        port_group(VIPS[7], h.TCP, 80, 52, 3, has_pinned_flows=True),
        port_group(VIPS[0], h.TCP, 80, 52, 3),  # Of a VIP that does not say it has ports.
    ]
    tunnels = {slot: slot % 16 for slot in (*range(24), *range(40, 45), *range(50, 55), *range(100, 164))}
    tunnels |= {3: 0, 4: 0, 5: 0, 6: 1, 7: 2}
    tunnels |= {24: 3, 26: 4, 29: 511, 30: 400, 31: 401, 32: 20, 33: 21, 34: 22, 35: 23, 36: 24}
    tunnels |= {37: 25, 38: 26, 39: 27} | {slot: slot % 16 for slot in range(4090, 4096)}
    world["ecmp_table"] = [entries.slot(slot, tunnel) for slot, tunnel in tunnels.items()]
    encaps = dict(enumerate(SERVERS))
    encaps |= {20: IPv4Address("9.9.9.9"), 21: PLACES[1], 22: PLACES[8], 23: PLACES[9], 24: PLACES[10]}
    encaps |= {25: TIPS[0], 26: LOOPBACK, 27: IPv4Address("203.0.113.1"), 511: SERVERS[3]}
    world["tunneling_table"] = [entries.tunnel(number, encap) for number, encap in encaps.items()]
    world["pinned_flow_table"] = [
        entries.pinned_flow(*flow, number % 4 + 9) for number, flow in enumerate(PINNED)
    ]
    world["route_table"] = [
        *(entries.route(IPv4Network(prefix), group) for prefix, group in (
            ("100.0.0.0/8", 0), ("100.0.0.0/16", 1), ("100.0.2.0/23", 2), ("100.0.3.0/24", 3),
            ("100.0.5.128/25", 0), ("100.0.5.138/31", 1), ("198.51.100.0/24", 1), ("20.0.0.0/24", 2),
            ("10.0.0.0/24", 3), ("198.51.100.4/30", 0),
        )),
        *(entries.route(IPv4Network((int(a) & 0xFFFFFF00, 24)), 100 + n) for n, a in enumerate(PLACES[:20])),
        *(entries.route_to_cpu(IPv4Network(own)) for own in OWN),
        entries.route_to_nowhere(IPv4Network("203.0.113.0/24")),
        entries.route_to_nowhere(IPv4Network("100.0.5.139/32")),
    ]  # fmt: skip
    world["route_table"] += [
        entries.route_up_to_mux(IPv4Network(prefix), group)
        for prefix, group in (
            ("10.0.0.20/30", 1), ("10.0.1.0/24", 3), ("20.0.0.5/32", 1), ("20.0.0.1/32", 0),
        )
    ]  # fmt: skip
    world["backstop_table"] = [entries.backstop(1, 2), entries.backstop(3, 0), entries.backstop(4, 101)]
    world["nexthop_group_table"] = [
        nexthop_group(0, 0, 1),
        nexthop_group(1, 1, 2),
        nexthop_group(2, 3, 4),
        nexthop_group(3, 7, 3),
        # Group 101 does not exist, 102's slots are empty, 103's next hop does not exist.
        nexthop_group(102, 3000, 2),
        nexthop_group(103, 20, 1),
        nexthop_group(104, 4094, 4),
        nexthop_group(105, 0, 0),
        *(nexthop_group(100 + n, 30 + n, 1) for n in (0, *range(6, 20))),
    ]
    slots = dict(enumerate((0, 0, 1, 0, 1, 2, 3, 1, 1, 2))) | {20: 900, 4094: 0, 4095: 1} | {30: 0}
    slots |= {30 + n: n for n in range(6, 20)}
    world["nexthop_slot_table"] = [entries.nexthop_slot(slot, number) for slot, number in slots.items()]
    world["nexthop_table"] = [
        *(nexthop(n, port, mtu) for n, port in enumerate(PORTS)),
        *(nexthop(n, 1, m) for n, m in ((6, 68), (7, 88), (8, 129), (9, 576), (10, 1280), (11, 9000))),
        *(nexthop(n, 2, m) for n, m in ((12, 0), (13, 19), (14, 20), (15, 65535))),
        nexthop(16, 511, 1500),  # BMv2's drop port.
        nexthop(17, pipeline.CPU_PORT, 1500),
        nexthop(18, 0, 1500),
        nexthop(19, 300, 1500),
    ]
    return world


def without(world: Entries, *tables: str) -> Entries:
    """Return the world with these tables empty."""
    return {name: [] if name in tables else table for name, table in world.items()}


def every_other(world: Entries, rng: random.Random, share: float) -> Entries:
    """Return the world with a share of its entries, the configuration aside."""
    return {
        name: [entry for entry in table if name in _CONFIGURATION or rng.random() < share]
        for name, table in world.items()
    }


def state(schema: P4Schema, name: str, world: Entries) -> State:
    """Return a world as updates."""
    return State(name, encode(schema, (entry for rows in world.values() for entry in rows)))


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record, from everything there is to nothing at all."""
    full = full_world()
    yield state(schema, "full", full)
    yield state(schema, "small MTU", full_world(mtu=120))
    default = full["route_table"] + [entries.route(IPv4Network("0.0.0.0/0"), 3)]
    yield state(schema, "default route", full | {"route_table": default})
    for table in sorted(pipeline.sizes()):
        yield state(schema, f"empty {table}", without(full, table))
    router = ("host_table", "acl_table", "ecmp_table", "tunneling_table", "pinned_flow_table")
    yield state(schema, "router only", without(full, *router))
    for kind in entries.PortKind:
        ports = [entries.port(port, h.SWITCH_MAC_TEXT, kind) for port in PORTS]
        yield state(schema, f"only ports of kind {kind.name}", full | {"port_table": ports})
    other = {"switch_table": [entries.configuration(IPv4Address("255.255.255.255"), 0xFFFFFFFF, 0xFFFFFFFF)]}
    yield state(schema, "other seed", full | other)
    # A meter without burst is never green, whatever the time.
    limits = [entries.icmp_error_limit(port, per_second=1, burst=0) for port in PORTS]
    errors = encode(schema, limits)
    yield State("no ICMP errors", (*state(schema, "", full).updates, *errors))
    yield state(schema, "half of the entries", every_other(full, random.Random(1), 0.5))
    yield state(schema, "most of the entries", every_other(full, random.Random(2), 0.85))
    yield state(schema, "only configured", {"switch_table": full["switch_table"]})
    yield state(schema, "not configured", without(full, "switch_table"))
    yield state(schema, "empty", {})


def random_state(schema: P4Schema, rng: random.Random) -> State:
    """Return a state with numbers drawn at random, most of which lead somewhere."""
    number = rng.randrange
    full = full_world(mtu=rng.choice((1500, 1500, 576, 100)))
    world = {name: list(rows) for name, rows in full.items()}
    world["switch_table"] = [
        entries.configuration(
            IPv4Address(number(1 << 32)),
            number(1 << 32),
            number(1 << 32),
            rng.choice((IPv4Address(0), *SERVERS[:3])),
        )
    ]
    kinds = (entries.PortKind.FABRIC, entries.PortKind.FABRIC, *entries.PortKind)
    world["port_table"] = [entries.port(port, h.SWITCH_MAC_TEXT, rng.choice(kinds)) for port in PORTS]
    world["source_table"] = [
        entries.source(port, prefix)
        for port in PORTS
        for prefix in {
            IPv4Network((int(c) >> n << n, 32 - n)) for c in CLIENTS for n in (number(4), number(33))
        }
    ]
    world["host_table"] = [
        tip(a, number(200), number(9)) if rng.random() < 0.15
        else vip(a, number(200), number(70), rng.random() < 0.3, rng.random() < 0.3)
        for a in (*VIPS, *SERVERS[:3])
    ] + [tip(a, number(200), number(9)) for a in TIPS]  # fmt: skip
    world["acl_table"] = [
        port_group(a, protocol, port, number(200), number(9), rng.random() < 0.5)
        for a in VIPS for protocol, port in SERVICES if rng.random() < 0.4
    ]  # fmt: skip
    world["ecmp_table"] = [entries.slot(slot, number(24)) for slot in range(280) if rng.random() < 0.97]
    targets = [*SERVERS, *SERVERS, *PLACES, *TIPS, *OWN]
    world["tunneling_table"] = [
        entries.tunnel(n, rng.choice(targets)) for n in range(24) if rng.random() < 0.97
    ]
    prefixes = {
        IPv4Network((int(a) >> n << n, 32 - n)) for a in (*SERVERS, *CLIENTS) for n in (number(33), number(9))
    }
    # A next hop that does not exist is worth a few packets, not most of them.
    groups = (0, 1, 2, 3, 0, 1, 2, 3, 104, 105, 108, 110)
    lead = (entries.route, entries.route_up_to_mux)
    world["route_table"] = [
        *(rng.choice(lead)(prefix, rng.choice(groups)) for prefix in sorted(prefixes)),
        *(e for e in full["route_table"] if _prefix(e) not in prefixes),
    ]
    world["backstop_table"] = [
        entries.backstop(port, rng.choice(groups)) for port in PORTS if rng.random() < 0.5
    ]
    return state(schema, "random", every_other(world, rng, rng.choice((1.0, 1.0, 0.95))))


def _prefix(entry: P4TableEntry) -> IPv4Network:
    assert entry.match is not None
    return IPv4Network(entry.match["dst_addr"])
