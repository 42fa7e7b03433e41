"""l2_switch.p4: VLANs, reserved addresses, packet-in and packet-out."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy import P4Schema, P4TableAction, P4TableEntry, P4TableMatch

from ptf_tests.conformance import headers as h
from ptf_tests.conformance.mutations import mutate
from ptf_tests.conformance.program import MIN_FRAME, ROOT, Case, Program, State, encode

CPU_PORT = 510
PORTS = (1, 2, 3, 4)
VLANS = (1, 2, 100, 4095)
STATIONS = [0x0200_0000_0000 + n for n in range(12)]
RESERVED = [0x0180_C200_0000 + n for n in (0, 1, 2, 0xE)]


def port_vlan(port: int, vlan_id: int | None) -> P4TableEntry:
    """Return the VLAN of a port's untagged frames, None to drop them."""
    action = P4TableAction("drop") if vlan_id is None else P4TableAction("set_vlan", vlan_id=vlan_id)
    return P4TableEntry("port_vlan_table", match=P4TableMatch(port=port), action=action)


def station(vlan_id: int, address: int, action: P4TableAction) -> P4TableEntry:
    """Return what happens to frames for a station."""
    return P4TableEntry(
        "forwarding_table", match=P4TableMatch(vlan_id=vlan_id, dst_addr=address), action=action
    )


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return stations scattered over VLANs and ports."""
    rows = [port_vlan(port, rng.choice((None, *VLANS))) for port in PORTS if rng.random() < 0.7]
    for vlan_id in VLANS:
        for address in STATIONS:
            forward = P4TableAction(
                "forward", port=rng.choice((*PORTS, 0, 510, 511)), tagged=rng.randrange(2)
            )
            others = (P4TableAction("drop"), P4TableAction("to_cpu"))
            if rng.random() < 0.75:
                rows.append(station(vlan_id, address, forward if rng.random() < 0.85 else rng.choice(others)))
    if rng.random() < 0.4:
        rows.append(P4TableEntry("forwarding_table", action=P4TableAction("drop"), is_default_action=True))
    return State(name, encode(schema, rows))


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("empty", ())
    flood = P4TableAction("forward", port=3, tagged=1)
    yield State(
        "default forwards",
        encode(schema, [P4TableEntry("forwarding_table", action=flood, is_default_action=True)]),
    )
    for number in range(3):
        yield random_state(schema, random.Random(number), f"stations {number}")


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield frames with and without tags, to stations, groups and reserved addresses."""
    while True:
        kind, frame = _frame(rng)
        port = rng.choice(PORTS)
        if rng.random() < 0.1:
            kind, port = f"packet-out, {kind}", CPU_PORT
            frame = (rng.choice((*PORTS, 510, 511)) << 7 | rng.randrange(128)).to_bytes(2, "big") + frame
        if rng.random() < 0.3:
            how, frame = mutate(rng, frame)
            kind = f"{kind}: {how}"
        # Tags and controller headers that are removed must leave a frame.
        least = MIN_FRAME + (2 if port == CPU_PORT else 4)
        yield Case(kind, port, frame.ljust(least, b"\0"))


def _frame(rng: random.Random) -> tuple[str, bytes]:
    destination = rng.choice((*STATIONS, *RESERVED, 0xFFFF_FFFF_FFFF)).to_bytes(6, "big")
    source = rng.choice(STATIONS).to_bytes(6, "big")
    payload = h.fill(rng.choice((4, 20, 46, 100)))
    tags = rng.choice((0, 0, 1, 1, 1, 2))
    ether_type = rng.choice((h.ETHERTYPE_IPV4, h.ETHERTYPE_IPV6, 0x88B5, 0, 0x05DC))
    for _ in range(tags):
        payload = h.vlan(payload, ether_type, rng.choice((*VLANS, 0, 3)), rng.randrange(8))
        ether_type = h.ETHERTYPE_VLAN
    return f"{tags} tags", h.ethernet(payload, ether_type, destination, source)


PROGRAM = Program(
    name="l2_switch",
    device_config=ROOT / "tests" / "p4" / "build" / "l2_switch.json",
    p4info=ROOT / "tests" / "p4" / "build" / "l2_switch.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
