"""Replays recorded vectors on the xdp target."""

from __future__ import annotations

from ptf_tests.conformance.differences import compare, describe, describe_counters
from ptf_tests.conformance.program import Program
from ptf_tests.conformance.vectors import Recording
from ptf_tests.conformance.xdp import Xdp

SHOWN = 5
"""Differences of a state that are shown in full."""


def replay(program: Program, recording: Recording, kind: type[Xdp] = Xdp) -> list[str]:
    """Return a description of every difference from the recording, none where it is reproduced."""
    with kind(program) as target:
        target.write(recording.state.updates)
        got = target.send([(case.port, case.frame) for case in recording.cases])
        counters = target.counters()
    found = compare(recording.cases, recording.expected, got)
    name = recording.state.name
    told = [describe(difference, program.name, name) for difference in found[:SHOWN]]
    if len(found) > SHOWN:
        told.append(f"{program.name}, state {name!r}: {len(found) - SHOWN} more frames differ")
    wrong = describe_counters(recording.counters, counters)
    return told + [f"{program.name}, state {name!r}: {line}" for line in wrong]
