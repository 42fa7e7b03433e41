"""labels.p4: stacks of labels of every depth, IPv6 behind them, keys of every kind."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy import P4Schema, P4TableAction, P4TableEntry, P4TableMatch

from ptf_tests.conformance import headers as h
from ptf_tests.conformance.mutations import mutate
from ptf_tests.conformance.program import MIN_FRAME, ROOT, Case, Program, State, encode

ETHERTYPE_MPLS = 0x8847
PORTS = (1, 2, 3, 4, 9)
"""The program drops what would leave by port 9."""
LABELS = range(1, 20)
ADDRESSES = [
    *(0x2001_0DB8 << 96 | n for n in range(4)),
    *(0, 1 << 127, 0xFE80 << 112 | 5, (1 << 128) - 1),
]
SOURCE_MASKS = ((1 << 128) - 1, 0xFFFF_FFFF_FFFF_FFFF << 64, 0xFF, 1 << 127)
RANGES = ((0, 0), (60, 61), (0, 63), (56, 63))
LENGTHS = ((64, 127), (0, 127), (96, 127), (0, 0x7FFF_FFFF))
_ALL = (1 << 128) - 1
_MAX_POP = 3 * 4
"""Bytes of labels that an action may remove; the program adds 4 of its own."""


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return labels with all kinds of fates, nested IPv6 prefixes, and classes that overlap."""
    rows = [
        P4TableEntry("label_table", match=P4TableMatch(label=label), action=_label_action(rng))
        for label in LABELS
        if rng.random() < 0.9
    ]
    prefixes = {
        (a & _ALL >> n << n, 128 - n) for a in ADDRESSES for n in (rng.randrange(129), rng.randrange(65))
    }
    for prefix in sorted(prefixes):
        match = P4TableMatch(dst_addr=prefix) if prefix[1] else P4TableMatch()
        action = P4TableAction("forward", port=rng.choice(PORTS))
        if rng.random() < 0.2:
            action = rng.choice((P4TableAction("drop"), P4TableAction("cut", length=100, port=1)))
        rows.append(P4TableEntry("ipv6_table", match=match, action=action))
    classes = {str(key): key for key in (_class_key(rng) for _ in range(9))}
    rows += [
        P4TableEntry(
            "class_table",
            match=P4TableMatch(key),
            priority=priority,
            action=P4TableAction("classify", kind=priority) if rng.random() < 0.9 else P4TableAction("drop"),
        )
        for priority, key in enumerate(classes.values(), 1)
    ]
    return State(name, encode(schema, rows))


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("empty", ())
    for number in range(3):
        yield random_state(schema, random.Random(number), f"labels {number}")


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield stacks of up to six labels, of which the parser takes four, and what is behind them."""
    while True:
        depth = rng.choice((0, 0, 1, 1, 2, 3, 4, 5, 6))
        behind = _ipv6(rng) if rng.random() < 0.8 else b"\x45" + bytes(rng.choice((3, 30, 1200)))
        frame = h.ethernet(behind, h.ETHERTYPE_IPV6 if rng.random() < 0.8 else h.ETHERTYPE_IPV4)
        if depth:
            labels = (
                rng.randrange(1, 24) << 12
                | rng.randrange(8) << 9
                | (n == depth - 1) << 8
                | rng.randrange(256)
                for n in range(depth)
            )
            stack = b"".join(label.to_bytes(4, "big") for label in labels)
            frame = h.ethernet(stack + behind, ETHERTYPE_MPLS)
        kind = f"{depth} labels"
        if rng.random() < 0.1:
            # The program cuts what has more than 1000 bytes once it has added 4, labels aside.
            frame = frame.ljust(rng.choice((900, 995, 996, 997, 1000, 1100)), b"\0")
        if rng.random() < 0.3:
            how, frame = mutate(rng, frame)
            kind = f"{kind}: {how}"
        yield Case(kind, rng.choice(PORTS[:4]), frame.ljust(MIN_FRAME + _MAX_POP, b"\0"))


def _label_action(rng: random.Random) -> P4TableAction:
    port, label = rng.choice(PORTS), rng.randrange(1 << 20)
    return rng.choice(
        (
            P4TableAction("swap", label=label, port=port),
            P4TableAction("pop", port=port),
            P4TableAction("push", label=label, port=port),
            P4TableAction("push_two", label=label, port=port),
            P4TableAction("pop_three", port=port),
            P4TableAction("cut", length=rng.choice((14, 20, 30, 60, 100)), port=port),
        )
    )


def _class_key(rng: random.Random) -> dict[str, object]:
    key: dict[str, object] = {"has_extension": rng.randrange(2)}
    if rng.random() < 0.5:
        mask = rng.choice(SOURCE_MASKS)
        key["src_addr"] = (rng.choice(ADDRESSES) & mask, mask)
    if rng.random() < 0.6:
        key["next_header"] = rng.choice(RANGES)
    if rng.random() < 0.3:
        key["first_word"] = rng.choice((0, 0x0001, 0x0102))
    if rng.random() < 0.3:
        key["packet_length"] = rng.choice(LENGTHS)
    return key


def _ipv6(rng: random.Random) -> bytes:
    extension = bytes((6, rng.choice((0, 0, 1, 2, 3, 255)))) + bytes(rng.choice(_BYTES) for _ in range(6))
    payload = extension + h.fill(rng.choice((0, 1, 2, 3, 4, 18, 20, 40)))
    head = bytes((rng.choice((6, 6, 6, 4, 5)) << 4, 0, 0, 1)) + len(payload).to_bytes(2, "big")
    head += bytes((rng.choice((0, 60, 61, 59, 6, 17)), 64))
    addresses = rng.choice(ADDRESSES).to_bytes(16, "big") + rng.choice(ADDRESSES).to_bytes(16, "big")
    return head + addresses + payload


_BYTES = (0, 1, 2, 0xFF)


PROGRAM = Program(
    name="labels",
    device_config=ROOT / "tests" / "p4" / "build" / "labels.json",
    p4info=ROOT / "tests" / "p4" / "build" / "labels.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
