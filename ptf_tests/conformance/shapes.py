"""shapes.p4: header unions, varbit options, elements of a stack at an index of the packet's."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy import P4Schema

from ptf_tests.conformance.program import ROOT, Case, Program, State

SHORT, LONG, OPTIONS = 1, 2, 3
PORTS = range(1, 5)
_VALUES = (0, 1, 0x11, 0xFF)


def random_state(schema: P4Schema, rng: random.Random, name: str = "random") -> State:
    """Return the one state of a program without tables."""
    return State(name, ())


def states(_: P4Schema) -> Iterator[State]:
    """Yield the states to record."""
    yield State("no tables", ())


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield lists of items, too many of them at times, options of every length, and cells."""
    while True:
        count, index = rng.choice((0, 1, 2, 3, 3, 4)), rng.randrange(256)
        draw = rng.random()
        if draw < 0.7:
            kind, what = f"{count} items", b"\x12\x34"
            body = b"".join(_item(rng) for _ in range(rng.choice((count, count, 2, 5))))
        elif draw < 0.95:
            kind, what = "cells", b"\x12\x35"
            body = b"".join(rng.choice(_VALUES).to_bytes(2, "big") for _ in range(4))
        else:
            kind, what, body = "neither", b"\x08\x00", b""
        head = rng.randbytes(12) + what + bytes((count, index)) + rng.randbytes(4)
        yield Case(kind, rng.choice(PORTS), head + body + rng.randbytes(rng.choice((0, 1, 2, 3, 40, 600))))


def _item(rng: random.Random) -> bytes:
    kind = rng.choice((SHORT, SHORT, LONG, LONG, OPTIONS, 9))
    if kind == SHORT:
        return bytes((SHORT, rng.choice(_VALUES)))
    if kind == LONG:
        return bytes((LONG, *(rng.choice(_VALUES[:2]) for _ in range(4))))
    if kind == OPTIONS:
        length = rng.choice((0, 1, 2, 3, 4, 7, 39, 40, 41, 255))
        # The second byte is the length, and the first of the options' data.
        data = bytes((length,)) + rng.randbytes(max(rng.choice((length - 1, length - 1, 3)), 0))
        return bytes((OPTIONS,)) + data + rng.randbytes(2)
    return bytes((kind,))


PROGRAM = Program(
    name="shapes",
    device_config=ROOT / "tests" / "p4" / "build" / "shapes.json",
    p4info=ROOT / "tests" / "p4" / "build" / "shapes.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
