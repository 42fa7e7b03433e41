"""Every BPF program of the project is loaded; run this alone on a kernel that nobody has tried."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4 import bpf
from duet_p4.hmux import pipeline
from duet_p4.xdp_switch.counters import rows
from duet_p4.xdp_switch.pipeline import SAMPLED, build, translate
from mininet_topos import shipped

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

BUDGET = 1_000_000
"""Instructions that the verifier looks at before it gives up."""
HMUX = Path(str(pipeline.DEVICE_CONFIG))
CONFIGS = [HMUX, *sorted((Path(__file__).parents[1] / "p4" / "build").glob("*.json"))]
_CALL, _MOVES, _MOVES_OF_CONSTANTS, _LOAD, _IF_AT_LEAST = (
    0x85,
    {0xB4, 0xB7, 0xBC, 0xBF},
    {0xB4, 0xB7},
    0x79,
    0x35,
)
_XDP_LOAD_BYTES, _XDP_STORE_BYTES = 189, 190
_NEAR = 40


def info_of(config: Path) -> p4i.P4Info:
    if config == HMUX:
        return pipeline.schema().p4info
    return text_format.Parse(config.with_suffix(".p4info.txtpb").read_text(), p4i.P4Info())


def unbounded_sizes(code: bytes) -> list[int]:
    """Return which calls take a size that nothing shortly before them has held to 1 or more."""
    instructions = [
        (opcode, registers & 15, registers >> 4, offset, value)
        for opcode, registers, offset, value in struct.iter_unpack("<BBhi", code)
    ]
    bounds = {
        at
        for at, ((opcode, register, _, offset, value), (following, held, *_, least)) in enumerate(
            pairwise(instructions)
        )
        if (opcode, offset, value) == (_IF_AT_LEAST, 1, 1)
        and following in _MOVES_OF_CONSTANTS
        and (held, least) == (register, 1)
    }
    found = []
    for at, (opcode, _, source, _, value) in enumerate(instructions):
        if (opcode, source) != (_CALL, 0) or value not in (_XDP_LOAD_BYTES, _XDP_STORE_BYTES):
            continue
        size = next(i for i in reversed(instructions[:at]) if i[0] in _MOVES | {_LOAD} and i[1] == 4)
        if size[0] not in _MOVES_OF_CONSTANTS and not bounds & set(range(at - _NEAR, at)):
            found.append(at)
    return found


def check(loaded: bpf.Object) -> None:
    """Check what the verifier looked at, and that 6.1's sees each size to be more than 0, as others do."""
    for name in loaded.programs():
        looked_at = loaded.program(name).verified_instructions()
        print(f"{loaded.path.name} {name}: the verifier looked at {looked_at} instructions")
        assert looked_at < BUDGET / 2, name
        assert not unbounded_sizes(loaded.instructions(name)), name


@pytest.mark.parametrize(
    ("source", "defines"),
    [pytest.param(*part, id="-".join((part[0].name, *part[1]))) for part in shipped.sources()],
)
def test_a_program_in_c(source: Path, defines: Mapping[str, str]) -> None:
    with bpf.Object(bpf.compile_object(source, defines=defines)) as opened:
        check(opened.load())


@pytest.mark.parametrize("traced", [False, True], ids=["plain", "traced"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_program_in_p4(config: Path, traced: bool) -> None:
    if traced and config.stem == "copies":
        pytest.skip("what copies packets is not traced")
    if traced and config.stem == "corners" and platform.release().startswith("6.1."):
        pytest.skip("Linux 6.1 takes a call in front of a loop for a way back (docs/xdp.md)")
    compiled = translate(config.read_bytes(), info_of(config), rows(), traced=traced)
    with bpf.Object(build(compiled)) as opened:
        check(opened.load())


def test_hmux_that_samples() -> None:
    compiled = translate(HMUX.read_bytes(), info_of(HMUX), rows())
    with bpf.Object(build(compiled, SAMPLED)) as opened:
        check(opened.load())
