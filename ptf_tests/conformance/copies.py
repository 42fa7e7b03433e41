"""copies.p4: packets that become several, or go round."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy import P4CloneSessionEntry, P4MulticastGroupEntry, P4Schema

from ptf_tests.conformance.program import ROOT, Case, Program, State, encode

PORTS = range(1, 8)
GROUPS = range(1, 6)
AT_INGRESS, AT_EGRESS = 5, 6
"""The program's clone sessions."""
_ORDERS = {
    0: "unicast",
    1: "multicast",
    2: "clone at ingress",
    3: "clone at egress",
    4: "resubmit",
    5: "recirculate",
    6: "clone and multicast",
}


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return some of the groups, with up to five members, and mostly both clone sessions."""
    rows: list[P4MulticastGroupEntry | P4CloneSessionEntry] = []
    for group in GROUPS:
        if rng.random() < 0.8:
            rows.append(P4MulticastGroupEntry(group, replicas=_replicas(rng, rng.randint(1, 5))))
    for session in (AT_INGRESS, AT_EGRESS):
        if rng.random() < 0.9:
            # BMv2 does not truncate clones.
            rows.append(P4CloneSessionEntry(session, replicas=_replicas(rng, rng.randint(1, 2))))
    return State(name, encode(schema, rows))


def _replicas(rng: random.Random, count: int) -> list[tuple[int, int]]:
    """Return (port, instance) pairs, no two alike."""
    every = [(port, instance) for port in PORTS for instance in range(1, 4)]
    return rng.sample(every, count)


def states(schema: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("empty", ())
    for number in range(3):
        yield random_state(schema, random.Random(number), f"copies {number}")


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield orders of every kind."""
    while True:
        what = rng.choice((*_ORDERS, 9))
        frame = rng.randbytes(12) + b"\x12\x34" + bytes((what, rng.choice(PORTS)))
        frame += rng.choice((*GROUPS, 9)).to_bytes(2, "big") + rng.randbytes(8)
        frame += rng.randbytes(rng.choice((0, 1, 4, 50, 1000)))
        yield Case(_ORDERS.get(what, "unknown"), rng.choice(PORTS), frame)


PROGRAM = Program(
    name="copies",
    device_config=ROOT / "tests" / "p4" / "build" / "copies.json",
    p4info=ROOT / "tests" / "p4" / "build" / "copies.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
