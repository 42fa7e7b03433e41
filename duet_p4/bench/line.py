"""The measuring line: generator -> switch -> receiver, each in a network namespace of its own."""

from __future__ import annotations

import itertools
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pyroute2 import netns

from duet_p4.bpf import Link, Object, attach_xdp, compile_object

PROGRAMS = Path(__file__).parent / "bpf"
MTU = 1600
"""Room for a full frame and its outer header."""

_ZERO = struct.pack("=I", 0)


class BenchError(Exception):
    """A benchmark cannot run or its numbers cannot be trusted; the message says why."""


class Line:
    """Three namespaces joined by two veth pairs; entering makes them, leaving removes them.

    The switch's ports are `switch_in` and `switch_out` in namespace `switch`. At the far end an XDP
    program counts the frames that arrive and frees them.
    """

    _numbers = itertools.count()

    def __init__(self) -> None:
        tag = f"dtb{os.getpid()}n{next(self._numbers)}"
        self.generator, self.switch, self.receiver = (f"{tag}{end}" for end in "gsr")
        self.generator_port, self.switch_in = "dtb-gen", "dtb-in"
        self.switch_out, self.receiver_port = "dtb-out", "dtb-rcv"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        sweep()
        with ExitStack() as undo:
            for name in (self.generator, self.switch, self.receiver):
                run("ip", "netns", "add", name)
                undo.callback(remove_namespace, name)
                run("ip", "-n", name, "link", "set", "lo", "up")
            self._join(self.generator, self.generator_port, self.switch, self.switch_in)
            self._join(self.receiver, self.receiver_port, self.switch, self.switch_out)
            counter = undo.enter_context(Object(compile_object(PROGRAMS / "receiver.bpf.c")))
            counter.load()
            undo.enter_context(attach(counter, "count", self.receiver, self.receiver_port))
            self._received = counter.map("received")
            self._stack = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def received(self) -> int:
        """Return how many frames have arrived at the far end since the line was made."""
        return sum(struct.unpack("=Q", count)[0] for count in self._received.lookup_percpu(_ZERO))

    def _join(self, far: str, far_port: str, near: str, near_port: str) -> None:
        run(
            "ip",
            "link",
            "add",
            far_port,
            "netns",
            far,
            "type",
            "veth",
            "peer",
            "name",
            near_port,
            "netns",
            near,
        )
        for name, port in ((far, far_port), (near, near_port)):
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{port}.disable_ipv6=1")
            run("ip", "-n", name, "link", "set", port, "mtu", str(MTU), "up")


def attach(program: Object, name: str, namespace: str, interface: str) -> Link:
    """Attach a program of a loaded object as native XDP to an interface of a namespace."""
    with entered(namespace):
        return attach_xdp(program.program(name), socket.if_nametoindex(interface))


@contextmanager
def entered(namespace: str) -> Iterator[None]:
    """Have this thread in a namespace for a while."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


def run(*command: str) -> str:
    """Run a command and return its output; BenchError with its complaint where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BenchError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")
    return result.stdout


def sweep() -> None:
    """Remove what a benchmark that was killed has left: the namespaces of processes that are gone."""
    for path in Path("/run/netns").glob("dtb*"):
        made = re.fullmatch(r"dtb(\d+)n\d+[gsr]", path.name)
        if made and not Path(f"/proc/{made[1]}").exists():
            remove_namespace(path.name)


def remove_namespace(name: str) -> None:
    """Remove a namespace and, with it, the interfaces in it."""
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
