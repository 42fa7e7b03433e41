"""A generator in the kernel: frames that it makes, at a pace, and sends by an interface; no socket, no copy.

    python -m duet_p4.bench.sender INTERFACE --pps RATE --cpu N < FRAMES

in the namespace of the interface; a line of FRAMES is a frame of 64 bytes in hexadecimal digits. Sends them
in turn, before ordinary processes, until it is killed or may send no longer.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from duet_p4.bench.line import PROGRAMS
from duet_p4.bpf import Object, compile_object

FRAME_BYTES = 64
MOST_FRAMES = 4096
LONGEST_S = 120.0
_MOST_AT_ONCE = 64
_AT_ONCE_S = 100e-6
"""Frames of how long a time are made and handed on at once, at most: a pace shall have no bursts."""
_FASTEST_PPS = 10e6
_FIRST = -20


def send(interface: str, frames: Sequence[bytes], pps: float | None) -> None:
    """Send frames in turn, `pps` of them a second, or as fast as this CPU can; needs root.

    It ends after `LONGEST_S` at a pace, and sooner or later than that without one.

    Raises ValueError for frames of another length, or too many of them; OSError as the kernel does.
    """
    if not 0 < len(frames) <= MOST_FRAMES or any(len(frame) != FRAME_BYTES for frame in frames):
        raise ValueError(f"a sender has 1 to {MOST_FRAMES} frames of {FRAME_BYTES} bytes each")
    with Object(compile_object(PROGRAMS / "sender.bpf.c")) as loaded:
        loaded.load()
        memory = loaded.map("frames").mapped()
        memory[: FRAME_BYTES * len(frames)] = b"".join(frames)
        loaded.memory("frame_count").cast("I")[0] = len(frames)
        loaded.memory("egress").cast("I")[0] = socket.if_nametoindex(interface)
        loaded.memory("gap_ns").cast("Q")[0] = round(1e9 / pps) if pps else 0
        program = loaded.program("sender")
        batch = min(max(1, round(pps * _AT_ONCE_S)), _MOST_AT_ONCE) if pps else _MOST_AT_ONCE
        # One run: between two of them, the kernel sends nothing for some 25 ms.
        program.send_live(frames[0], round((pps or _FASTEST_PPS) * LONGEST_S), batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interface")
    parser.add_argument("--pps", type=float, help="frames a second (default: as many as one CPU makes)")
    parser.add_argument("--cpu", type=int, help="the CPU it runs on")
    options = parser.parse_args(arguments)
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    if options.pps is None:
        os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
    else:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # A pace that others interrupt is none.
    frames = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    send(options.interface, frames, options.pps)


if __name__ == "__main__":
    main()
