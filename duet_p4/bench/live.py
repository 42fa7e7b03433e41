"""Packets per second from the kernel's own generator: frames that are made, run through a program, and sent.

No process touches a packet: the kernel's test run makes frames of a page pool, gives them to the program, and
carries its verdict out. They leave by a real device map over a veth, and are counted and freed by an XDP
program at its far end. So the figure is what the program and the sending of a frame take, without sockets and
their buffers.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Callable, Iterator

from duet_p4.bench import packets
from duet_p4.bench.cost import Harness
from duet_p4.bench.line import BenchError, Line, entered
from duet_p4.bench.switches import OUT_PORT
from duet_p4.bench.tables import FIRST_VIP, Fill
from duet_p4.bench.traffic import frame
from duet_p4.bpf import Program

PACKETS = 300_000
RUNS = 7

Progress = Callable[[str], None]


def measure(progress: Progress, *, quick: bool = False) -> dict[str, float]:
    """Return packets per second that arrive, a median, by subject: floor, xdp, smux; needs root."""
    found: dict[str, float] = {}
    with Line() as line, entered(line.switch), Harness() as harness:
        egress = socket.if_nametoindex(line.switch_out)
        ingress = socket.if_nametoindex(line.switch_in)
        data = frame(64, packets.CLIENT, FIRST_VIP, 4000)
        for subject, program, source in _subjects(ingress, egress):
            progress(f"{subject}: live frames")
            packets_sent = PACKETS // 10 if quick else PACKETS
            rates = []
            for _ in range(3 if quick else RUNS):
                before = line.received()
                seconds = harness.send(program, data, source, packets_sent)
                rates.append((line.received() - before) / seconds)
            if not min(rates):
                raise BenchError(f"{subject}: no live frame arrives")
            found[subject] = statistics.median(rates)
    return found


def _subjects(ingress: int, egress: int) -> Iterator[tuple[str, Program, int]]:
    """Yield each subject's program, sending by an interface, and where its frames come in."""
    with packets.floor_program(egress) as (_, program):
        yield "floor", program, ingress
    with packets.switch(Fill.one(), {OUT_PORT: egress}, ingress) as (pipeline, _):
        yield "xdp", pipeline.program, ingress
    # It sends back to where a frame came from.
    with packets.smux(1) as datapath:
        yield "smux", datapath.program, egress
