"""stateful.p4: a firewall whose verdict on a packet depends on the packets before it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from finsy import P4Schema, P4TableAction, P4TableEntry, P4TableMatch

from ptf_tests.conformance import headers as h
from ptf_tests.conformance.mutations import mutate
from ptf_tests.conformance.program import MIN_FRAME, ROOT, Case, Program, State, encode

INSIDE, OUTSIDE = (1, 2), (3, 4)
INNER = [IPv4Address("10.1.0.0") + n for n in range(1, 6)]
OUTER = [IPv4Address("192.0.2.0") + n for n in range(1, 6)]


def rule(
    priority: int,
    port: int,
    action: P4TableAction,
    source: str = "",
    destination: str = "",
    protocol: int = -1,
) -> P4TableEntry:
    """Return a rule; prefixes and the protocol match everything where they are left out."""
    match: dict[str, object] = {"port": port}
    for name, prefix in (("src_addr", source), ("dst_addr", destination)):
        if prefix:
            network = IPv4Network(prefix)
            match[name] = (int(network.network_address), int(network.netmask))
    if protocol >= 0:
        match["protocol"] = protocol
    return P4TableEntry("rule_table", match=P4TableMatch(match), priority=priority, action=action)


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return rules that overlap, so that their priorities matter."""
    out = [
        P4TableAction("allow", port=3, inside=1),
        P4TableAction("limit", port=4, packets=rng.randint(1, 40)),
    ]
    back = [P4TableAction("allow", port=1, inside=0), P4TableAction("allow", port=2, inside=0)]
    rows = []
    priorities = rng.sample(range(1, 1000), 40)
    for port in (*INSIDE, *OUTSIDE):
        rows.append(rule(priorities.pop(), port, rng.choice(out if port in INSIDE else back)))
        for _ in range(rng.randint(1, 6)):
            here, there = (INNER, OUTER) if port in INSIDE else (OUTER, INNER)
            action = rng.choice([*(out if port in INSIDE else back), P4TableAction("drop")])
            source = f"{rng.choice(here)}/{rng.choice((32, 32, 31))}" if rng.random() < 0.6 else ""
            destination = str(rng.choice(there)) if rng.random() < 0.4 else ""
            if source:
                source = str(IPv4Network(source, strict=False))
            protocol = rng.choice((h.TCP, h.UDP, -1, -1))
            rows.append(rule(priorities.pop(), port, action, source, destination, protocol))
    seen = set()
    unique = []
    for row in rows:
        key = str(row.match)
        if key not in seen:
            seen.add(key)
            unique.append(row)
    return State(name, encode(schema, unique))


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("empty", ())
    for number in range(3):
        yield random_state(schema, random.Random(number), f"rules {number}")


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield connections that open inside, answers to them, strangers, and what is no TCP."""
    opened: list[tuple[IPv4Address, IPv4Address, int, int]] = []
    while True:
        draw = rng.random()
        if draw < 0.3 or not opened:
            connection = (
                rng.choice(INNER),
                rng.choice(OUTER),
                rng.randrange(1024, 65536),
                rng.choice((80, 443)),
            )
            opened.append(connection)
            kind, port, frame = "opens", rng.choice(INSIDE), _segment(*connection, 0x02, rng)
        elif draw < 0.7:
            inner, outer, inner_port, outer_port = rng.choice(opened)
            kind, port = "answers", rng.choice(OUTSIDE)
            frame = _segment(outer, inner, outer_port, inner_port, 0x12, rng)
        elif draw < 0.85:
            # Some know the ports of a connection, but not who opened it.
            inner_port, outer_port = rng.choice(opened)[2:]
            inner_port = inner_port if rng.random() < 0.5 else rng.randrange(65536)
            kind, port = "comes from nowhere", rng.choice(OUTSIDE)
            ends = rng.choice(OUTER), rng.choice(INNER), outer_port, inner_port
            frame = _segment(*ends, rng.choice((0x02, 0x10)), rng)
        else:
            kind, port = "is no TCP", rng.choice((*INSIDE, *OUTSIDE))
            packet = h.ipv4(rng.choice(INNER), rng.choice(OUTER), h.UDP, h.udp(9, 9, h.fill(10)))
            frame = h.ethernet(packet, rng.choice((h.ETHERTYPE_IPV4, h.ETHERTYPE_IPV4, h.ETHERTYPE_ARP)))
        if rng.random() < 0.25:
            how, frame = mutate(rng, frame)
            kind = f"{kind}: {how}"
        yield Case(kind, port, frame.ljust(MIN_FRAME, b"\0"))


def _segment(
    source: IPv4Address,
    destination: IPv4Address,
    source_port: int,
    destination_port: int,
    flags: int,
    rng: random.Random,
) -> bytes:
    segment = h.tcp(source_port, destination_port, h.fill(rng.choice((0, 1, 40))), flags)
    mac = b"\x02\0\0\0" + rng.randbytes(2)
    return h.ethernet(h.ipv4(source, destination, h.TCP, segment), source=mac)


PROGRAM = Program(
    name="stateful",
    device_config=ROOT / "tests" / "p4" / "build" / "stateful.json",
    p4info=ROOT / "tests" / "p4" / "build" / "stateful.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
