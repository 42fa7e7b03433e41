"""What BMv2 did with each recorded frame, the xdp target does as well."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence

import pytest

from duet_p4 import bmv2
from duet_p4.bench.by_hand import by_hand
from duet_p4.hmux import pipeline
from duet_p4.hmux.entries import DropReason
from duet_p4.xdp_switch.compiler.program import REPLAYED
from duet_p4.xdp_switch.pipeline import LOOPBACK_IFINDEX
from ptf_tests.conformance import muxes, vectors
from ptf_tests.conformance.fuzz import fuzz
from ptf_tests.conformance.program import Frame, Program
from ptf_tests.conformance.programs import PROGRAMS
from ptf_tests.conformance.replay import replay
from ptf_tests.conformance.vectors import Vectors
from ptf_tests.conformance.xdp import Xdp

FUZZ_FRAMES = 5000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
needs_bmv2 = pytest.mark.skipif(not bmv2.is_installed(), reason=f"{bmv2.MISSING}: nothing to compare with")


@functools.cache
def recorded(program: str) -> Vectors:
    return vectors.read(vectors.path_of(PROGRAMS[program]))


def _states() -> list[tuple[str, str]]:
    return [(name, recording.state.name) for name in PROGRAMS for recording in recorded(name).recordings]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_the_vectors_are_of_the_program_as_it_is_compiled(program: Program) -> None:
    assert recorded(program.name).digest == program.digest(), (
        f"{program.name} has changed since it was recorded: run `make vectors` where BMv2 is on PATH"
    )


def test_the_vectors_are_many_and_cover_every_table_and_every_drop_reason() -> None:
    recordings = recorded("hmux").recordings
    assert sum(len(recording.cases) for recording in recordings) >= 2000
    counters = set().union(*(recording.counters for recording in recordings))
    assert counters >= {f"drop_counter[{reason}]" for reason in DropReason}
    names = {recording.state.name for recording in recordings}
    assert names >= {"full", "empty", *(f"empty {table}" for table in pipeline.sizes())}


def test_half_of_the_vectors_or_so_leave_the_switch() -> None:
    expected = [frames for recording in recorded("hmux").recordings for frames in recording.expected]
    leaving = sum(1 for frames in expected if frames)
    assert 0.25 < leaving / len(expected) < 0.75
    assert any(port == pipeline.CPU_PORT for frames in expected for port, _ in frames)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(("program", "state"), _states())
def test_xdp_does_what_bmv2_did(program: str, state: str) -> None:
    recording = next(r for r in recorded(program).recordings if r.state.name == state)
    different = replay(PROGRAMS[program], recording)
    assert not different, "\n\n".join(["xdp differs from what BMv2 did:", *different])


class _ByHand(Xdp):
    """hmux.p4 by hand, which hands over to the compiled one what is not a common packet's."""

    def send(self, frames: Sequence[Frame]) -> list[list[Frame]]:
        shared = self.device.shared["ingress_ports"]
        left: list[list[Frame]] = []
        with by_hand(self.pipeline, replays=True) as (_, program):
            for port, frame in frames:
                shared.update(LOOPBACK_IFINDEX.to_bytes(4, "little"), (port + 1).to_bytes(4, "little"))
                run = program.test_run(frame)
                left.append([(run.retval - REPLAYED, run.data_out)] if run.retval >= REPLAYED else [])
        return left


@pytest.mark.root
@needs_root
def test_hmux_by_hand_does_what_bmv2_did() -> None:
    recording = next(r for r in recorded("hmux").recordings if r.state.name == "full")
    different = replay(PROGRAMS["hmux"], recording, _ByHand)
    assert not different, "\n\n".join(["by hand differs from what BMv2 did:", *different])


@pytest.mark.root
@needs_root
def test_a_difference_is_told_with_state_packet_expected_and_got() -> None:
    recording = recorded("hmux").recordings[0]
    place, (port, frame) = next((n, frames[0]) for n, frames in enumerate(recording.expected) if frames)
    wrong = list(recording.expected)
    wrong[place] = [(port, frame[:-1] + bytes([frame[-1] ^ 1]))]
    dropped = next(n for n, frames in enumerate(recording.expected) if not frames)
    wrong[dropped] = [(7, b"never sent by anyone")]
    counters = recording.counters | {"drop_counter[2]": (1, 1)}
    told = replay(PROGRAMS["hmux"], dataclasses.replace(recording, expected=wrong, counters=counters))
    assert len(told) == 3
    assert "state 'full'" in told[0] and frame.hex(" ")[:40] in "".join(told)
    assert any("got     : nothing" in text and "by port 7, 20 bytes" in text for text in told)
    assert "counter drop_counter[2]: expected (1, 1)" in told[2]


@pytest.mark.root
@needs_root
def test_hmux_and_smux_do_the_same_with_every_frame() -> None:
    told: list[str] = []
    summary = muxes.fuzz(3000, 2014, told.append)
    assert not told, "\n\n".join(told)
    assert min(summary.outcomes[how] for how in ("forward", "answer", "drop")) > 100, summary


@pytest.mark.root
@needs_root
@needs_bmv2
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_xdp_and_bmv2_agree_on_frames_never_seen_before(program: Program) -> None:
    told: list[str] = []
    summary = fuzz(program, FUZZ_FRAMES, os.getpid(), told.append)
    assert not told, "\n\n".join([f"seed {summary.seed}:", *told])
    assert summary.frames == FUZZ_FRAMES
