"""The file of a program's vectors: JSON lines under xz, the first about the recording, then one per state.

| line | keys |
| --- | --- |
| first | `program`, `digest` (`Program.digest`), `oracle` (its version), `seed` |
| state | `state`, `updates` (of P4Runtime, as proto3 JSON), `vectors`, `counters` (name: packets, bytes) |

A vector is [kind, ingress port, frame, [[egress port, frame], ...]], frames in hexadecimal. Vectors are in
the order they were sent, which matters to counters and registers.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finsy.proto import p4r
from google.protobuf import json_format

from ptf_tests.conformance.program import Case, Counters, Frame, Program, State

FOLDER = Path(__file__).parent / "vectors"


@dataclass(frozen=True, slots=True)
class Recording:
    """What the oracle did in one state."""

    state: State
    cases: list[Case]
    expected: list[list[Frame]]
    counters: Counters


@dataclass(frozen=True, slots=True)
class Vectors:
    """Everything recorded of one program."""

    program: str
    digest: str
    oracle: str
    seed: int
    recordings: list[Recording]


def path_of(program: Program) -> Path:
    """Return the file of a program's vectors."""
    return FOLDER / f"{program.name}.jsonl.xz"


def write(path: Path, vectors: Vectors) -> None:
    """Write a file of vectors."""
    head = {
        "program": vectors.program,
        "digest": vectors.digest,
        "oracle": vectors.oracle,
        "seed": vectors.seed,
    }
    lines = [head, *(_to_json(recording) for recording in vectors.recordings)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def read(path: Path) -> Vectors:
    """Read a file of vectors."""
    head, *lines = (json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines())
    return Vectors(**head, recordings=[_from_json(line) for line in lines])


def _to_json(recording: Recording) -> dict[str, Any]:
    return {
        "state": recording.state.name,
        "updates": [
            json_format.MessageToDict(update, preserving_proto_field_name=True)
            for update in recording.state.updates
        ],
        "vectors": [
            [case.kind, case.port, case.frame.hex(), [[port, frame.hex()] for port, frame in expected]]
            for case, expected in zip(recording.cases, recording.expected, strict=True)
        ],
        "counters": recording.counters,
    }


def _from_json(line: dict[str, Any]) -> Recording:
    updates = tuple(json_format.ParseDict(update, p4r.Update()) for update in line["updates"])
    vectors = line["vectors"]
    return Recording(
        State(line["state"], updates),
        [Case(kind, port, bytes.fromhex(frame)) for kind, port, frame, _ in vectors],
        [[(port, bytes.fromhex(frame)) for port, frame in left] for *_, left in vectors],
        {name: (packets, octets) for name, (packets, octets) in line["counters"].items()},
    )
