"""Differential fuzzing: BMv2 and the xdp target get the same tables and the same frames.

States are the recorded ones, then random ones. What differs is shrunk, and shown with the entries that
it takes. Several times per state the entries change on both. A program that remembers packets gets all
frames of a state in the same order on both.
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
from ptf_tests.conformance.changes import Entries
from ptf_tests.conformance.differences import Difference, compare, describe, describe_counters
from ptf_tests.conformance.program import Case, Counters, Frame, Program, State, Target
from ptf_tests.conformance.shrink import shrink_entries, shrink_frame
from ptf_tests.conformance.xdp import Xdp

FRAMES_PER_STATE = 2500
FRAMES_PER_CHANGE = 500
SHRUNK_PER_CHANGE = 3


@dataclass(slots=True)
class Summary:
    """What a run found.

    `forwarded` frames caused others to leave; `counters` says how many cells of each counter were hit.
    """

    program: str
    seed: int
    states: int = 0
    frames: int = 0
    differences: int = 0
    counter_differences: int = 0
    seconds: float = 0.0
    forwarded: int = 0
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
        hit |= _fuzz_state(program, state, rng, wanted, summary, tell).keys()
    summary.counters = dict(sorted(Counter(name.partition("[")[0] for name in hit).items()))
    summary.seconds = round(time.monotonic() - started, 1)
    return summary


def _states(program: Program, seed: int) -> Iterator[State]:
    yield from program.states(program.schema)
    for number in itertools.count():
        state = program.random_state(program.schema, random.Random(f"state {seed} {number}"))
        yield State(f"random {seed} {number}", state.updates)


def _fuzz_state(
    program: Program,
    state: State,
    rng: random.Random,
    frames: int,
    summary: Summary,
    tell: Callable[[str], None],
) -> Counters:
    """Fuzz one state; return the counters that it hit."""
    entries = Entries(state.updates)
    traffic = itertools.islice(program.cases(state, rng), frames)
    with Bmv2(program) as oracle, Xdp(program) as target:
        pair = _Pair(oracle, target)
        pair.write(entries.updates())
        while cases := list(itertools.islice(traffic, FRAMES_PER_CHANGE)):
            sent = [(case.port, case.frame) for case in cases]
            expected, got = pair.send(sent)
            found = compare(cases, expected, got)
            summary.frames += len(cases)
            summary.differences += len(found)
            summary.forwarded += sum(1 for left in expected if left)
            for difference in found[:SHRUNK_PER_CHANGE]:
                tell(_shrunk(program, state, entries.updates(), difference, pair))
            pair.write(entries.change(rng))
        counters = target.counters()
        wrong = describe_counters(oracle.counters(), counters)
    summary.states += 1
    summary.counter_differences += len(wrong)
    for line in wrong:
        tell(f"{program.name}, state {state.name!r}: {line}")
    return counters


class _Pair:
    """Both targets, which always get the same."""

    def __init__(self, oracle: Target, target: Target) -> None:
        self._oracle, self._target = oracle, target

    def write(self, updates: Sequence[p4r.Update]) -> None:
        self._oracle.write(updates)
        self._target.write(updates)

    def send(self, frames: Sequence[Frame]) -> tuple[list[list[Frame]], list[list[Frame]]]:
        return self._oracle.send(frames), self._target.send(frames)


def _shrunk(
    program: Program, state: State, updates: Sequence[p4r.Update], difference: Difference, pair: _Pair
) -> str:
    """Return the description of a difference, made as small as it gets; the tables end as they were."""
    port = difference.case.port

    def both(frame: bytes) -> tuple[list[Frame], list[Frame]]:
        expected, got = pair.send([(port, frame)])
        return expected[0], got[0]

    def differs(frame: bytes) -> bool:
        expected, got = both(frame)
        return expected != got

    if not differs(difference.case.frame):
        text = describe(difference, program.name, state.name)
        return f"{text}\nIt does not differ when sent again: it depends on the frames before it."
    frame = shrink_frame(difference.case.frame, differs)
    left = shrink_entries(updates, pair.write, lambda: differs(frame))
    small = Difference(difference.index, Case(difference.case.kind, port, frame), *both(frame))
    pair.write([update for update in updates if update not in left])
    names = Counter(
        program.schema.tables[update.entity.table_entry.table_id].alias
        for update in left
        if update.entity.HasField("table_entry")
    )
    entries = ", ".join(f"{number} of {name}" for name, number in names.items())
    return f"{describe(small, program.name, state.name)}\nwith these entries: {entries or 'none'}"
