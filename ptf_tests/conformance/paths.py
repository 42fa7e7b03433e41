"""The ways of packets through a program: parser states, and tables with what they did.

BMv2 tells them in its log; the xdp target's instrumented variant in its records. A program's file has them as
BMv2 went, for the frames of its vectors: JSON under xz with `digest` (`Program.digest`), `oracle`, `elements`
(each step there is, once), and in `states`, by state, a list of indices of elements for each frame.

| element | meaning |
| --- | --- |
| `state NAME` | a parser state is entered |
| `table NAME hit ACTION 0x1 0x2` | an entry is hit, or none (`miss`), and an action, if any, runs |
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from duet_p4.api.trace import PacketTrace
from ptf_tests.conformance import vectors
from ptf_tests.conformance.bmv2 import Bmv2
from ptf_tests.conformance.program import Program
from ptf_tests.conformance.vectors import Recording, Vectors
from ptf_tests.conformance.xdp import Xdp

Way = tuple[str, ...]
UNTRACED = ("copies",)
"""Programs that make more than one packet of one, which no trace follows."""

SHOWN = 3
"""Differences of a state that are shown in full."""

_LINE = re.compile(r"\[(\d+)\.0\] \[cxt \d+\] (.*)")
_STATE = re.compile(r"Parser '\w+' entering state '(.+)'")
_TABLE = re.compile(r"Table '(.+)': (hit|miss)")
_ACTION = re.compile(r"Action entry is (\S+) - (.*)")


@dataclass(frozen=True, slots=True)
class Ways:
    """What BMv2 did with the frames of a program's vectors, by state."""

    digest: str
    oracle: str
    by_state: dict[str, list[Way]]


def path_of(program: Program) -> Path:
    """Return the file of a program's ways."""
    return vectors.FOLDER / f"{program.name}.ways.json.xz"


def record(program: Program, recorded: Vectors) -> Ways:
    """Have BMv2 go the ways of recorded frames; OracleError where it is not on PATH."""
    return Ways(
        program.digest(), recorded.oracle, {r.state.name: _go(program, r) for r in recorded.recordings}
    )


def write(path: Path, ways: Ways) -> None:
    """Write a file of ways."""
    elements: dict[str, int] = {}
    states = {
        name: [[elements.setdefault(e, len(elements)) for e in way] for way in found]
        for name, found in ways.by_state.items()
    }
    whole = {"digest": ways.digest, "oracle": ways.oracle, "elements": list(elements), "states": states}
    path.write_bytes(lzma.compress(json.dumps(whole, separators=(",", ":")).encode(), preset=9))


def read(path: Path) -> Ways:
    """Read a file of ways."""
    whole = json.loads(lzma.decompress(path.read_bytes()))
    elements = whole["elements"]
    by_state = {
        name: [tuple(elements[e] for e in way) for way in found] for name, found in whole["states"].items()
    }
    return Ways(whole["digest"], whole["oracle"], by_state)


def compare(program: Program, recording: Recording, expected: list[Way]) -> list[str]:
    """Return a description of every frame that goes another way on xdp, or leaves otherwise when traced."""
    told = []
    with Xdp(program) as target:
        target.write(recording.state.updates)
        for number, (case, way, left) in enumerate(
            zip(recording.cases, expected, recording.expected, strict=True)
        ):
            sent, trace = target.trace((case.port, case.frame))
            got = way_of(trace)
            if got != way:
                told.append(
                    f"{program.name}, state {recording.state.name!r}, frame {number}: {_differ(way, got)}"
                )
            elif sent != left:
                told.append(
                    f"{program.name}, state {recording.state.name!r}, frame {number}: leaves otherwise"
                )
    return told[:SHOWN] + ([f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else [])


def way_of(trace: PacketTrace) -> Way:
    """Return the way that a trace tells."""
    way = []
    for step in trace.steps:
        if step.kind == "state":
            way.append(f"state {step.name}")
        elif step.kind == "table":
            verdict = "hit" if step.hit else "miss"
            values = "".join(f" {int(argument.value, 16):#x}" for argument in step.arguments)
            action = f" {step.action}{values}" if step.action is not None else ""
            way.append(f"table {step.name} {verdict}{action}")
    return tuple(way)


def ways_in(log: Iterable[str], count: int) -> list[Way]:
    """Return the ways of the first `count` packets that a BMv2 log at level debug tells."""
    ways: list[list[str]] = [[] for _ in range(count)]
    for line in log:
        found = _LINE.search(line)
        if found is None or int(found[1]) >= count:
            continue
        way, text = ways[int(found[1])], found[2]
        if state := _STATE.match(text):
            way.append(f"state {state[1]}")
        elif table := _TABLE.match(text):
            way.append(f"table {table[1]} {table[2]}")
        elif action := _ACTION.match(text):
            values = "".join(f" {int(value, 16):#x}" for value in action[2].split(",") if value.strip())
            way[-1] += f" {action[1]}{values}"
    return [tuple(way) for way in ways]


def _go(program: Program, recording: Recording) -> list[Way]:
    with Bmv2(program, log_level="debug") as oracle:
        oracle.write(recording.state.updates)
        oracle.send([(case.port, case.frame) for case in recording.cases])
        return ways_in(oracle.end(), len(recording.cases))


def _differ(expected: Way, got: Way) -> str:
    both = enumerate(zip(expected, got, strict=False))
    at = next((n for n, (a, b) in both if a != b), min(len(expected), len(got)))
    before = expected[max(0, at - 2) : at]
    return f"step {at} is {got[at : at + 1]}, on BMv2 {expected[at : at + 1]}, after {before}"
