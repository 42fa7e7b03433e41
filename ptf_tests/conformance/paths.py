"""The ways of packets through a program: parser states, and tables with what they did.

BMv2 tells them in its log, as `duet_p4.tracing.bmv2_log` reads it; the xdp target's instrumented variant
in its records. A program's file has them as BMv2 went, for the frames of its vectors: JSON under xz with
`digest` (`Program.digest`), `oracle`, `elements` (each step there is, once), in `states`, by state, a list
of indices of elements for each frame, and in `told`, by state, for each frame a digest of all else that
BMv2's trace tells.

| element | meaning |
| --- | --- |
| `state NAME` | a parser state is entered |
| `table NAME hit ACTION 0x1 0x2` | an entry is hit, or none (`miss`), and an action, if any, runs |
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from duet_p4.api.trace import PacketTrace
from duet_p4.bmv2 import COMMAND
from duet_p4.tracing.bmv2_log import Messages, Passages, Reader
from duet_p4.xdp_switch.compiler.reader import read as read_program
from ptf_tests.conformance import vectors
from ptf_tests.conformance.bmv2 import Bmv2, SilentError
from ptf_tests.conformance.program import Program
from ptf_tests.conformance.vectors import Recording, Vectors
from ptf_tests.conformance.xdp import Xdp

Way = tuple[str, ...]
UNTRACED = ("copies",)
"""Programs that make more than one packet of one, which no trace follows."""

_DIGEST_BYTES = 4

SHOWN = 3
"""Differences of a state that are shown in full."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What BMv2 did with the frames of a program's vectors, by state; `told` are digests of its traces."""

    digest: str
    oracle: str
    by_state: dict[str, list[Way]]
    told: dict[str, list[str]]


def path_of(program: Program) -> Path:
    """Return the file of a program's ways."""
    return vectors.FOLDER / f"{program.name}.ways.json.xz"


def record(program: Program, recorded: Vectors) -> tuple[Ways, dict[str, list[PacketTrace]]]:
    """Have BMv2 go the ways of recorded frames; returns its traces, too, by state.

    Raises OracleError where it is not on PATH.
    """
    traces = {r.state.name: observe(program, r) for r in recorded.recordings}
    ways = {name: [way_of(trace) for trace in found] for name, found in traces.items()}
    digests = {name: digests_of(program, found) for name, found in traces.items()}
    return Ways(program.digest(), recorded.oracle, ways, digests), traces


def observe(program: Program, recording: Recording) -> list[PacketTrace]:
    """Send a state's frames through BMv2, and return what its log tells of each.

    Raises SilentError where this build of BMv2 logs nothing of them.
    """
    frames = [(case.port, case.frame) for case in recording.cases]
    with Bmv2(program, log_level="trace") as oracle:
        oracle.write(recording.state.updates)
        left = oracle.send(frames)
        log = oracle.end()
    messages, passages, reader = (
        Messages(),
        Passages(),
        Reader(read_program(program.device_config.read_bytes())),
    )
    ended = [one for told in (log, "") for message in messages.cut(told) for one in passages.take(message)]
    found: dict[int, PacketTrace] = {}
    for passage in (*ended, *passages.rest()):
        # Its ports are a stream here, so what left stands in no log.
        passage.frame_out = next((frame for _, frame in left[passage.packet]), None)
        found[passage.packet] = reader.trace(passage, frames[passage.packet][1])
    if frames and not found:
        raise SilentError(f"{COMMAND} logs nothing of packets: build BMv2 with its logging macros")
    return [found[number] for number in range(len(frames))]


def write(path: Path, ways: Ways) -> None:
    """Write a file of ways."""
    elements: dict[str, int] = {}
    states = {
        name: [[elements.setdefault(e, len(elements)) for e in way] for way in found]
        for name, found in ways.by_state.items()
    }
    whole = {
        "digest": ways.digest,
        "oracle": ways.oracle,
        "elements": list(elements),
        "states": states,
        "told": ways.told,
    }
    path.write_bytes(lzma.compress(json.dumps(whole, separators=(",", ":")).encode(), preset=9))


def read(path: Path) -> Ways:
    """Read a file of ways."""
    whole = json.loads(lzma.decompress(path.read_bytes()))
    elements = whole["elements"]
    by_state = {
        name: [tuple(elements[e] for e in way) for way in found] for name, found in whole["states"].items()
    }
    return Ways(whole["digest"], whole["oracle"], by_state, whole["told"])


def compare(
    program: Program,
    recording: Recording,
    ways: Ways,
    *,
    every: int = 1,
    traces: Sequence[PacketTrace] | None = None,
) -> list[str]:
    """Return a description of every frame that goes another way on xdp, or leaves otherwise when traced.

    Of every so manieth frame, all that the traces tell is compared; BMv2's own `traces` say in what they
    differ.
    """
    told = []
    name, whole = recording.state.name, _whole(program)
    frames = zip(recording.cases, ways.by_state[name], ways.told[name], recording.expected, strict=True)
    with Xdp(program) as target:
        target.write(recording.state.updates)
        for number, (case, way, digest, left) in enumerate(frames):
            detail = number % every == 0
            sent, trace = target.trace((case.port, case.frame), detail=detail)
            where = f"{program.name}, state {name!r}, frame {number}"
            if (got := way_of(trace)) != way:
                told.append(f"{where}: {_differ(way, got)}")
            elif sent != left:
                told.append(f"{where}: leaves otherwise")
            elif detail and _digest(trace, whole) != digest:
                differs = _difference(trace, traces[number], whole) if traces else "`ways` says in what"
                told.append(f"{where} is told of otherwise: {differs}")
    return told[:SHOWN] + ([f"and {len(told) - SHOWN} more"] if len(told) > SHOWN else [])


def digests_of(program: Program, traces: Sequence[PacketTrace]) -> list[str]:
    """Return a digest for each trace, of all that both targets tell."""
    whole = _whole(program)
    return [_digest(trace, whole) for trace in traces]


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


def _whole(program: Program) -> bool:
    """Say whether BMv2 tells where all headers end: not where a length varies, nor of unions."""
    compiled = read_program(program.device_config.read_bytes())
    return not compiled.unions and all(one.type.varbit is None for one in compiled.headers.values())


def _digest(trace: PacketTrace, whole: bool) -> str:
    def plain(model: Any) -> Any:
        return model.model_dump(exclude_defaults=True)

    facts = json.dumps(list(_facts(trace, whole)), default=plain)
    return hashlib.blake2b(facts.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _difference(trace: PacketTrace, expected: PacketTrace, whole: bool) -> str:
    both = zip_longest(_facts(trace, whole), _facts(expected, whole))
    one, other = next((one, other) for one, other in both if one != other)
    return f"{one} on xdp, {other} on BMv2"


def _facts(trace: PacketTrace, whole: bool) -> Iterator[tuple[object, ...]]:
    """Yield what both targets tell of a packet: all but times, and what each step changed."""
    yield (trace.ingress, trace.frame, trace.length, trace.verdict, trace.egress, trace.frame_out)
    yield (trace.headers_in, trace.headers_out) if whole else ()
    for step in trace.steps:
        if step.kind == "done":  # xdp leaves out a pipeline that does nothing.
            continue
        yield (step.kind, step.name, step.line, step.taken, step.key, step.hit, step.priority)
        yield (step.action, step.action_line, step.arguments, step.counters)


def _differ(expected: Way, got: Way) -> str:
    both = enumerate(zip(expected, got, strict=False))
    at = next((n for n, (a, b) in both if a != b), min(len(expected), len(got)))
    before = expected[max(0, at - 2) : at]
    return f"step {at} is {got[at : at + 1]}, on BMv2 {expected[at : at + 1]}, after {before}"
