"""What a packet costs a program: nanoseconds by the kernel's test run, net of the harness."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from duet_p4.bench.line import PROGRAMS, BenchError
from duet_p4.bpf import Object, Program, compile_object

HEAD = 64
"""Bytes of a frame that a program may change; frames are no shorter."""
FRAMES = 65536
REPEAT = 10_000
_LIVE_BATCH = 64
BATCHES = 60


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of a run, the least of many short batches, without what the harness itself takes."""

    ns: float
    gross_ns: float


class _Kind:
    """The harness of one kind of programs; `verdict` is that of the one which does nothing."""

    def __init__(self, loaded: Object, programs: str, harness: str, trivial: str, verdict: int) -> None:
        self.programs = loaded.map(programs)
        self.harness, self.trivial = loaded.program(harness), loaded.program(trivial)
        self.verdict = verdict


class Harness:
    """Runs programs on frames that are the same again for every run; needs root."""

    def __init__(self) -> None:
        self._object = Object(compile_object(PROGRAMS / "harness.bpf.c")).load()
        self._frames = np.frombuffer(self._object.map("frames").mapped(), dtype=np.uint8).reshape(-1, HEAD)
        self._words = {
            name: self._object.memory(name).cast("I" if name in ("frame_count", "expected_length") else "Q")
            for name in ("frame_count", "expected_length", "started", "runs", "astray", "live")
        }
        self._next = self._object.memory("next_frame").cast("I")
        self._kinds = {
            "xdp": _Kind(self._object, "programs", "harness", "trivial", 2),
            "tc": _Kind(self._object, "classifiers", "classifier_harness", "trivial_classifier", 0),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._object.close()

    def cost(
        self,
        program: Program,
        frames: Sequence[bytes],
        verdict: int,
        length: int,
        *,
        kind: Literal["xdp", "tc"] = "xdp",
        batches: int = BATCHES,
        repeat: int = REPEAT,
    ) -> Cost:
        """Return what a run costs when frames come in turn, all of one length.

        Raises BenchError unless every run left a frame of `length`, and the last of a batch `verdict`.
        """
        used, size = self._kinds[kind], len(frames[0])
        before = self._least(used, used.trivial, frames, used.verdict, size, batches, repeat)
        gross = self._least(used, program, frames, verdict, length, batches, repeat)
        after = self._least(used, used.trivial, frames, used.verdict, size, batches // 4 + 1, repeat)
        return Cost(gross - min(before, after), gross)

    def send(self, program: Program, frame: bytes, ifindex: int, packets: int) -> float:
        """Have the kernel send so many frames through an XDP program, as come in by an interface.

        Returns the seconds it took. What the program redirects leaves: the caller counts what arrives.
        """
        kind = self._kinds["xdp"]
        self._load(kind, program, [frame], len(frame))
        self._words["live"][0] = 1
        began = time.perf_counter()
        try:
            kind.harness.send_live(frame, packets, _LIVE_BATCH, ifindex)
        finally:
            self._words["live"][0] = 0
        return time.perf_counter() - began

    def _load(self, kind: _Kind, program: Program, frames: Sequence[bytes], length: int) -> None:
        """Have the harness run a program on frames, from the first on."""
        kind.programs.update(bytes(4), program.fd.to_bytes(4, "little"))
        heads = b"".join(frame[:HEAD] for frame in frames)
        self._frames[: len(frames)] = np.frombuffer(heads, dtype=np.uint8).reshape(-1, HEAD)
        words = self._words
        words["frame_count"][0], words["expected_length"][0] = len(frames), length
        words["runs"][0] = words["astray"][0] = 0
        self._next[0] = 0

    def _least(
        self,
        kind: _Kind,
        program: Program,
        frames: Sequence[bytes],
        verdict: int,
        length: int,
        batches: int,
        repeat: int,
    ) -> float:
        self._load(kind, program, frames, length)
        words = self._words
        least = float("inf")
        for _ in range(batches):
            words["started"][0] = 0
            run = kind.harness.test_run(frames[0], repeat)
            if run.retval != verdict or len(run.data_out) != length:
                raise BenchError(
                    f"{program.name}: a run ended with {run.retval} and {len(run.data_out)} bytes, "
                    f"not with {verdict} and {length}"
                )
            least = min(least, run.ns)
        if words["runs"][0] != batches * repeat or words["astray"][0]:
            raise BenchError(f"{program.name}: {words['astray'][0]} runs took another path than intended")
        return least
