"""The floor: a hand-written XDP program that encapsulates towards one address and redirects, nothing else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from duet_p4.bench.line import PROGRAMS, Line, attach, entered
from duet_p4.bench.tables import FIRST_DIP, LOOPBACK
from duet_p4.bpf import Object, compile_object

PROGRAM = PROGRAMS / "floor.bpf.c"
RODATA = {"tunnel_source": LOOPBACK.packed, "tunnel_destination": IPv4Address(FIRST_DIP).packed}


@contextmanager
def floor(line: Line) -> Iterator[None]:
    """Have the floor forward in a line's middle."""
    with Object(compile_object(PROGRAM)) as program:
        program.load(RODATA)
        # The kernel looks interface numbers of a device map up in the namespace of who writes them.
        with entered(line.switch):
            egress = socket.if_nametoindex(line.switch_out)
            program.map("egress").update(struct.pack("=I", 0), struct.pack("=I", egress))
        with attach(program, "encapsulate", line.switch, line.switch_in):
            yield
