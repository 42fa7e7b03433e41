"""Records what BMv2 does: the vectors that every other target must reproduce."""

from __future__ import annotations

import itertools
import random

from duet_p4 import bmv2
from ptf_tests.conformance import vectors
from ptf_tests.conformance.bmv2 import Bmv2, OracleError
from ptf_tests.conformance.changes import changed
from ptf_tests.conformance.program import Case, Program, State
from ptf_tests.conformance.vectors import Recording, Vectors

CASES = 120
"""Cases drawn per state, beside the systematic ones."""


def record(program: Program, seed: int) -> Vectors:
    """Run every state of a program on BMv2; the same seed gives the same cases.

    Raises OracleError where BMv2 is not on PATH or fails.
    """
    oracle = bmv2.version()
    if oracle is None:
        raise OracleError(f"{bmv2.MISSING}: install BMv2 to record what it does")
    states = list(program.states(program.schema))
    fullest = max(states, key=lambda state: len(state.updates))
    if fullest.updates:
        states.append(changed(fullest, random.Random(seed)))
    recordings = [_record_state(program, state, seed) for state in states]
    return Vectors(program.name, program.digest(), oracle, seed, recordings)


def record_to_file(program: Program, seed: int) -> str:
    """Record a program, write its file, and return a line that says so."""
    recorded = record(program, seed)
    path = vectors.path_of(program)
    vectors.write(path, recorded)
    number = sum(len(recording.cases) for recording in recorded.recordings)
    size = path.stat().st_size / 1000
    return f"{program.name}: {number} vectors in {len(recorded.recordings)} states, {size:.0f} kB: {path}"


def _record_state(program: Program, state: State, seed: int) -> Recording:
    cases: list[Case] = list(program.systematic(state))
    cases += itertools.islice(program.cases(state, random.Random(f"{seed} {state.name}")), CASES)
    with Bmv2(program) as oracle:
        oracle.write(state.updates)
        expected = oracle.send([(case.port, case.frame) for case in cases])
        return Recording(state, cases, expected, oracle.counters())
