"""calculator.p4: no tables to fill, only operands to choose."""

from __future__ import annotations

import random
from collections.abc import Iterator

from finsy import P4Schema

from ptf_tests.conformance import headers as h
from ptf_tests.conformance.program import ROOT, Case, Program, State

ETHERTYPE = 0x88B6
QUESTION_LENGTH = 78
OPERATIONS = 12
_EDGES = (0x00, 0x01, 0x7F, 0x80, 0xFF)


def states(_: P4Schema) -> Iterator[State]:
    """Yield the only state there is."""
    yield State("no entries", ())


def random_state(_: P4Schema, __: random.Random) -> State:
    """Return the only state there is."""
    return State("no entries", ())


def cases(_: State, rng: random.Random) -> Iterator[Case]:
    """Yield questions: random operands, operands at the edges, equal ones, and questions cut short."""
    while True:
        operation = rng.randrange(OPERATIONS) if rng.random() < 0.95 else rng.randrange(256)
        length = QUESTION_LENGTH - 1
        operands = bytearray(rng.randbytes(length))
        if rng.random() < 0.4:
            operands = bytearray(rng.choice(_EDGES) for _ in range(length))
        if rng.random() < 0.2:
            for at, size in ((3, 1), (5, 2), (9, 4), (17, 6), (29, 8), (45, 16)):
                operands[at + size : at + 2 * size] = operands[at : at + size]
        question = bytes([operation]) + operands + h.fill(rng.choice((0, 0, 0, 13)))
        if rng.random() < 0.05:
            question = question[: rng.randrange(QUESTION_LENGTH)]
        yield Case(f"operation {operation}", rng.randrange(1, 5), h.ethernet(question, ETHERTYPE))


PROGRAM = Program(
    name="calculator",
    device_config=ROOT / "tests" / "p4" / "build" / "calculator.json",
    p4info=ROOT / "tests" / "p4" / "build" / "calculator.p4info.txtpb",
    states=states,
    random_state=random_state,
    cases=cases,
)
