"""Which mutants of a program its oracles tell from it: what the vectors, and other tests, are worth.

Mutants run on BMv2, which takes a program as it is: a tenth of a second where xdp compiles for three.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from ptf_tests.conformance import vectors
from ptf_tests.conformance.bmv2 import Bmv2, OracleError
from ptf_tests.conformance.differences import compare
from ptf_tests.conformance.mutants import Mutant, mutants
from ptf_tests.conformance.program import Program
from ptf_tests.conformance.programs import PROGRAMS
from ptf_tests.conformance.vectors import Recording
from ptf_tests.p4runtime import WriteError

_SLICE = 144
"""Frames after which it is asked whether a mutant has shown itself."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant; `killed_by` is empty where it survived."""

    name: str
    operator: str
    what: str
    killed_by: str


def judge(program: str, number: int) -> Verdict:
    """Run the vectors on one mutant."""
    found = PROGRAMS[program]
    mutant = _mutants(found)[number]
    with tempfile.TemporaryDirectory(prefix="duet-mutant-") as folder:
        path = Path(folder) / "mutant.json"
        path.write_text(json.dumps(mutant.config()))
        killed = _killed_by(dataclasses.replace(found, device_config=path), _recordings(found))
    return Verdict(mutant.name, mutant.operator, mutant.what, killed)


_CACHE: dict[str, tuple[list[Mutant], list[Recording]]] = {}


def _load(program: Program) -> tuple[list[Mutant], list[Recording]]:
    if program.name not in _CACHE:
        config = json.loads(program.device_config.read_bytes())
        recordings = vectors.read(vectors.path_of(program)).recordings
        _CACHE[program.name] = list(mutants(config)), recordings
    return _CACHE[program.name]


def _mutants(program: Program) -> list[Mutant]:
    return _load(program)[0]


def _recordings(program: Program) -> list[Recording]:
    return _load(program)[1]


def _killed_by(mutated: Program, recordings: Sequence[Recording]) -> str:
    try:
        with Bmv2(mutated) as target:
            for number, recording in enumerate(recordings):
                if number:
                    target.empty()
                if _differs(target, recording):
                    return f"vectors: {recording.state.name}"
    except (OracleError, WriteError, RuntimeError, grpc.RpcError) as error:
        return f"BMv2: {str(error).splitlines()[0][:80]}"
    return ""


def _differs(target: Bmv2, recording: Recording) -> bool:
    target.write(recording.state.updates)
    for first in range(0, len(recording.cases), _SLICE):
        cases = recording.cases[first : first + _SLICE]
        got = target.send([(case.port, case.frame) for case in cases])
        if compare(cases, recording.expected[first : first + _SLICE], got):
            return True
    return target.counters() != recording.counters


def judge_all(program: str, numbers: Sequence[int], jobs: int) -> list[Verdict]:
    """Judge mutants, some at a time."""
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(judge, [program] * len(numbers), numbers, chunksize=4))
