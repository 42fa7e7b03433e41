"""Differential fuzzing: BMv2 and the xdp target get the same tables and the same frames.

States are the recorded ones, then random ones. What differs is shrunk, and shown with the entries that
it takes. A program that remembers packets gets all frames of a state in the same order on both.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from finsy.proto import p4r

from ptf_tests.conformance.bmv2 import Bmv2
from ptf_tests.conformance.differences import Difference, compare, describe, describe_counters
from ptf_tests.conformance.program import Case, Counters, Program, State
from ptf_tests.conformance.shrink import shrink_entries, shrink_frame
from ptf_tests.conformance.xdp import Xdp

FRAMES_PER_STATE = 2500
SHRUNK_PER_STATE = 3


@dataclass(slots=True)
class Summary:
    """What a run found; `counters` says how many cells of each counter were hit."""

    program: str
    seed: int
    states: int = 0
    frames: int = 0
    differences: int = 0
    counter_differences: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    counters: dict[str, int] = field(default_factory=dict)


def fuzz(program: Program, frames: int, seed: int, tell: Callable[[str], None]) -> Summary:
    """Send at least `frames` frames to both targets, and `tell` every difference.

    Raises OracleError where BMv2 is not on PATH or fails.
    """
    summary = Summary(program.name, seed)
    hit: set[str] = set()
    started = time.monotonic()
    for number, state in enumerate(_states(program, seed)):
        if summary.frames >= frames:
            break
        rng = random.Random(f"fuzz {seed} {number}")
        wanted = min(FRAMES_PER_STATE, frames - summary.frames)
        cases = list(itertools.islice(program.cases(state, rng), wanted))
        hit |= _fuzz_state(program, state, cases, summary, tell).keys()
    summary.counters = dict(sorted(Counter(name.partition("[")[0] for name in hit).items()))
    summary.seconds = round(time.monotonic() - started, 1)
    return summary


def _states(program: Program, seed: int) -> Iterator[State]:
    yield from program.states(program.schema)
    for number in itertools.count():
        state = program.random_state(program.schema, random.Random(f"state {seed} {number}"))
        yield State(f"random {seed} {number}", state.updates)


def _fuzz_state(
    program: Program, state: State, cases: list[Case], summary: Summary, tell: Callable[[str], None]
) -> Counters:
    frames = [(case.port, case.frame) for case in cases]
    with Bmv2(program) as oracle, Xdp(program) as target:
        oracle.write(state.updates)
        target.write(state.updates)
        expected, got = oracle.send(frames), target.send(frames)
        counters, theirs = target.counters(), oracle.counters()
        found = compare(cases, expected, got)
        summary.states += 1
        summary.frames += len(frames)
        summary.differences += len(found)
        for left in expected:
            summary.outcomes["left" if left else "dropped"] += 1
        for difference in found[:SHRUNK_PER_STATE]:
            tell(_shrunk(program, state, difference, oracle, target))
    wrong = describe_counters(theirs, counters)
    summary.counter_differences += len(wrong)
    for line in wrong:
        tell(f"{program.name}, state {state.name!r}: {line}")
    return counters


def _shrunk(program: Program, state: State, difference: Difference, oracle: Bmv2, target: Xdp) -> str:
    """Return the description of a difference, made as small as it gets."""
    port = difference.case.port

    def both(frame: bytes) -> tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]]:
        return oracle.send([(port, frame)])[0], target.send([(port, frame)])[0]

    def differs(frame: bytes) -> bool:
        right, left = both(frame)
        return right != left

    if not differs(difference.case.frame):
        text = describe(difference, program.name, state.name)
        return f"{text}\nIt does not differ when sent again: it depends on the frames before it."
    frame = shrink_frame(difference.case.frame, differs)

    def write(updates: Sequence[p4r.Update]) -> None:
        oracle.write(updates)
        target.write(updates)

    updates = shrink_entries(state.updates, write, lambda: differs(frame))
    right, left = both(frame)
    small = Difference(difference.index, Case(difference.case.kind, port, frame), right, left)
    write([update for update in state.updates if update not in updates])
    names = Counter(
        program.schema.tables[update.entity.table_entry.table_id].alias
        for update in updates
        if update.entity.HasField("table_entry")
    )
    entries = ", ".join(f"{number} of {name}" for name, number in names.items())
    return f"{describe(small, program.name, state.name)}\nwith these entries: {entries or 'none'}"
