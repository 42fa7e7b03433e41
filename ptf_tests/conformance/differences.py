"""Shows where two targets disagree: the packet, what was expected and what came, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.utils import hexdump

from ptf_tests.conformance.program import Case, Counters, Frame

_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """A frame that two targets treat differently, by its place in what was sent."""

    index: int
    case: Case
    expected: list[Frame]
    got: list[Frame]


def compare(
    cases: Sequence[Case], expected: Sequence[list[Frame]], got: Sequence[list[Frame]]
) -> list[Difference]:
    """Return the cases in which not the same frames left by the same ports, in whatever order.

    In BMv2 the egress threads of two ports race.
    """
    return [
        Difference(index, case, right, left)
        for index, (case, right, left) in enumerate(zip(cases, expected, got, strict=True))
        if sorted(right) != sorted(left)
    ]


def describe(difference: Difference, program: str, state: str) -> str:
    """Return all there is to know about a difference, as lines for a terminal."""
    case = difference.case
    lines = [
        f"{program}, state {state!r}, frame {difference.index}: {case.kind}",
        f"in by port {case.port}, {len(case.frame)} bytes: {summary(case.frame)}",
        str(hexdump(case.frame, dump=True)),
    ]
    for number, (right, left) in enumerate(zip_longest(difference.expected, difference.got), 1):
        lines += [f"out {number}:", *_side_by_side(right, left)]
    return "\n".join(lines)


def describe_counters(expected: Counters, got: Counters) -> list[str]:
    """Return a line for every counter that differs."""
    return [
        f"counter {name}: expected {expected.get(name, (0, 0))}, got {got.get(name, (0, 0))} (packets, bytes)"
        for name in sorted(expected.keys() | got.keys())
        if expected.get(name) != got.get(name)
    ]


def summary(frame: bytes) -> str:
    """Return scapy's view of a frame in one line; a malformed one may have none."""
    try:
        packet = Ether(frame)
        said = str(packet.summary())
        return f"{said} (TTL {packet[IP].ttl}, length {packet[IP].len})" if IP in packet else said
    except Exception as error:  # scapy raises whatever its layers raise
        return f"scapy cannot read it: {error!r}"


def _side_by_side(expected: Frame | None, got: Frame | None) -> Iterator[str]:
    for name, frame in (("expected", expected), ("got", got)):
        if frame is None:
            yield f"  {name:8}: nothing"
        else:
            yield f"  {name:8}: by port {frame[0]}, {len(frame[1])} bytes: {summary(frame[1])}"
    right, left = (frame[1] if frame else b"" for frame in (expected, got))
    if right == left:
        return
    for at in range(0, max(len(right), len(left)), _WIDTH):
        a, b = right[at : at + _WIDTH], left[at : at + _WIDTH]
        yield f"  {at:04x}  {a.hex(' '):{3 * _WIDTH}}{' ' if a == b else '|'} {b.hex(' ')}"
