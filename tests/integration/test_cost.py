"""What a packet costs: every packet takes the way that was intended, and instructions are counted."""

from __future__ import annotations

import os

import pytest

from duet_p4.bench import live
from duet_p4.bench.cost import Harness
from duet_p4.bench.floor import PROGRAM, RODATA
from duet_p4.bench.line import BenchError
from duet_p4.bench.packets import measure
from duet_p4.bench.traffic import frame
from duet_p4.bpf import Object, compile_object

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]

FRAME = frame(64, 0x0AFF0001, 0x0A000001, 4000)


def test_a_run_that_ends_otherwise_is_an_error_and_no_figure() -> None:
    with Harness() as harness, Object(compile_object(PROGRAM)) as floor:
        floor.load(RODATA)
        program = floor.program("encapsulate")
        # Its device map is empty: what it redirects is aborted.
        with pytest.raises(BenchError, match="ended with 0 and 84 bytes, not with 4 and 84"):
            harness.cost(program, [FRAME], 4, 84, batches=1, repeat=10)
        floor.map("egress").update(bytes(4), (1).to_bytes(4, "little"))
        harness.cost(program, [FRAME], 4, 84, batches=1, repeat=10)
        with pytest.raises(BenchError, match="and 84 bytes, not with 4 and 64"):
            harness.cost(program, [FRAME], 4, 64, batches=1, repeat=10)


def test_frames_that_the_kernel_makes_arrive_through_each_data_path() -> None:
    found = live.measure(lambda text: None, quick=True)
    assert set(found) == {"floor", "xdp", "smux"}
    assert min(found.values()) > 10_000


def test_each_kind_of_packet_is_measured_and_its_instructions_are_counted() -> None:
    measured = measure(lambda text: None, quick=True, full=False)
    found = {(one.subject, one.tables, one.packets): one for one in measured}
    floor, vip = found["floor", "-", "VIP"], found["xdp", "one", "VIP"]
    assert floor.instructions is not None and vip.instructions is not None
    assert floor.instructions < 100 < vip.instructions
    known, new = found["smux", "1 VIPs", "known flow"], found["smux", "1 VIPs", "new flows"]
    assert known.instructions is not None and new.instructions is not None
    assert known.instructions < new.instructions
    assert {one.packets for one in found.values() if one.subject == "xdp"} >= {"TIP", "pinned flow", "routed"}
