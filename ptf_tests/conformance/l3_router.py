"""l3_router.p4: longest prefixes, next-hop selectors, shared policies, checksums, options."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from finsy import (
    P4ActionProfileGroup,
    P4ActionProfileMember,
    P4IndirectAction,
    P4Member,
    P4Schema,
    P4TableAction,
    P4TableEntry,
    P4TableMatch,
)

from ptf_tests.conformance import headers as h
from ptf_tests.conformance.mutations import mutate
from ptf_tests.conformance.program import MIN_FRAME, ROOT, Case, Program, State, encode

PORTS = (1, 2, 3, 4)
HOSTS = [IPv4Address("10.0.0.0") + n * 0x3501 for n in range(24)]
SERVICES = ((h.TCP, 80), (h.TCP, 22), (h.UDP, 53), (h.ICMP, 0))
MEMBERS = range(1, 9)
GROUP_SIZE = 14
"""The most members of a group (l3_router.p4)."""


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return a router whose prefixes nest, some with one next hop and some with a group.

    All weights are 1: which flows a weight takes is the target's own affair.
    """
    rows: list[object] = [
        P4ActionProfileMember(
            action_profile_id="nexthop_selector",
            member_id=member,
            action=P4TableAction(
                "L3Ingress.forward", port=rng.choice(PORTS), dst_addr=0x0200_0000_0000 + member
            )
            if rng.random() < 0.9
            else P4TableAction("L3Ingress.drop"),
        )
        for member in MEMBERS
    ]
    for group in range(1, 5):
        members = rng.sample(MEMBERS, rng.randint(1, len(MEMBERS)))
        rows.append(
            P4ActionProfileGroup(
                action_profile_id="nexthop_selector",
                group_id=group,
                max_size=GROUP_SIZE,
                members=[P4Member(member_id=member, weight=1) for member in members],
            )
        )
    prefixes = {
        IPv4Network((int(a) >> n << n, 32 - n)) for a in HOSTS for n in (rng.randrange(33), rng.randrange(13))
    }
    for prefix in sorted(prefixes):
        target = (
            P4IndirectAction(group_id=rng.randint(1, 4))
            if rng.random() < 0.6
            else P4IndirectAction(member_id=rng.choice(MEMBERS))
        )
        match = P4TableMatch(dst_addr=prefix) if prefix.prefixlen else P4TableMatch()
        rows.append(P4TableEntry("route_table", match=match, action=target))
    for member in (1, 2, 3):
        action = (
            P4TableAction("L3Ingress.drop") if member == 3 else P4TableAction("mark", dscp=rng.randrange(64))
        )
        rows.append(
            P4ActionProfileMember(action_profile_id="policy_profile", member_id=member, action=action)
        )
    rows += [
        P4TableEntry(
            "policy_table",
            match=P4TableMatch(protocol=protocol, dst_port=port),
            action=P4IndirectAction(member_id=rng.choice((1, 2, 2, 3))),
        )
        for protocol, port in SERVICES
        if rng.random() < 0.6
    ]
    rows += [
        P4TableEntry(
            "port_table",
            match=P4TableMatch(port=port),
            action=P4TableAction("set_source", src_addr=0x0200_0000_FF00 + port),
        )
        for port in rng.sample(PORTS, 3)
    ]
    return State(name, encode(schema, rows))


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("empty", ())
    for number in range(3):
        yield random_state(schema, random.Random(number), f"routes {number}")


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield packets between hosts: flows, fragments, options, expired and broken ones."""
    while True:
        kind, frame = _frame(rng)
        if rng.random() < 0.35:
            how, frame = mutate(rng, frame)
            kind = f"{kind}: {how}"
        yield Case(kind, rng.choice(PORTS), frame.ljust(MIN_FRAME, b"\0"))


def _frame(rng: random.Random) -> tuple[str, bytes]:
    protocol, port = rng.choice(SERVICES)
    payload = h.fill(rng.choice((0, 1, 3, 20, 100)))
    port = port if rng.random() < 0.7 else rng.randrange(0x10000)
    l4 = {
        h.TCP: h.tcp(rng.randrange(0x10000), port, payload),
        h.UDP: h.udp(rng.randrange(0x10000), port, payload),
        h.ICMP: h.icmp(8, 0, rng.randrange(1 << 32), payload),
    }[protocol]
    options = bytes(rng.randrange(256) for _ in range(4 * rng.choice((0, 0, 0, 1, 2, 9, 10))))
    destination = rng.choice(HOSTS) if rng.random() < 0.9 else IPv4Address(rng.randrange(1 << 32))
    packet = h.ipv4(
        rng.choice(HOSTS), destination, protocol, l4, options=options, tos=rng.randrange(256),
        identification=rng.randrange(0x10000), ttl=rng.choice((64, 255, 2, 1, 0)),
        flags_offset=rng.choice((0, h.DONT_FRAGMENT, h.DONT_FRAGMENT, h.MORE_FRAGMENTS, 1, 0x1FFF)),
        version=rng.choice((4,) * 9 + (6,)), ihl=None if rng.random() < 0.95 else rng.randrange(16),
    )  # fmt: skip
    if rng.random() < 0.08:
        return "not IPv4", h.ethernet(packet, rng.choice((h.ETHERTYPE_IPV6, h.ETHERTYPE_ARP, 0x0801)))
    frame = h.ethernet(packet)
    return f"protocol {protocol}, {len(options)} bytes of options", h.repair(
        frame
    ) if rng.random() < 0.9 else frame


PROGRAM = Program(
    name="l3_router",
    device_config=ROOT / "tests" / "p4" / "build" / "l3_router.json",
    p4info=ROOT / "tests" / "p4" / "build" / "l3_router.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
