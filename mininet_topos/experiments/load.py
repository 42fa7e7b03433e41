"""Load from a client, made in the kernel and sent by its interface at a pace or as fast as one CPU can."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from duet_p4.bench.sender import FRAME_BYTES
from duet_p4.bench.traffic import frame
from mininet_topos import fattree
from mininet_topos.experiments.setting import Running
from mininet_topos.testbed import namespaces

_FLOWS_PER_VIP = 32
_FIRST_PORT = 20_000
_MAC_BYTES = 12
_QUOTED = 500
"""Characters of what a generator that failed said last."""


class Load:
    """UDP to some VIPs, of many flows each, from a client; no DIP answers it.

    The generator has the first of this machine's CPUs to itself, but for what needs it besides.
    """

    def __init__(self, testbed: Running, client: str, vips: Sequence[IPv4Address]) -> None:
        link = fattree.links(testbed.graph, client)[0]
        source = testbed.graph.nodes[client]["node"].address
        self.namespace = testbed.folder.namespace(client)
        self.interface = link.port(client).name
        macs = bytes.fromhex((link.peer(client).mac + link.port(client).mac).replace(":", ""))
        self._frames = [
            macs + frame(FRAME_BYTES, int(source), int(vip), _FIRST_PORT + number)[_MAC_BYTES:]
            for number in range(_FLOWS_PER_VIP)
            for vip in vips
        ]

    @contextmanager
    def offered(self, pps: float | None) -> Iterator[None]:
        """Send at `pps`, or as fast as one CPU can, while the context lasts."""
        cpu = str(min(os.sched_getaffinity(0)))
        command = [sys.executable, "-m", "duet_p4.bench.sender", self.interface, "--cpu", cpu]
        if pps is not None:
            command += ["--pps", str(pps)]
        with tempfile.TemporaryFile() as frames, tempfile.TemporaryFile() as said:
            frames.write("\n".join(frame.hex() for frame in self._frames).encode())
            frames.seek(0)
            with namespaces.entered(self.namespace):
                generator = subprocess.Popen(command, stdin=frames, stdout=said, stderr=subprocess.STDOUT)
            try:
                yield
                if generator.poll() is not None:
                    said.seek(0)
                    last = said.read().decode(errors="replace").strip()[-_QUOTED:]
                    raise RuntimeError(
                        f"the generator ended early, with status {generator.returncode}: "
                        f"{last or 'it said nothing'}"
                    )
            finally:
                generator.kill()
                generator.wait()


def received(namespace: Path, interface: str) -> int:
    """Return how many packets have come in through an interface."""
    with namespaces.entered(namespace):
        text = Path("/proc/thread-self/net/dev").read_text()
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == interface:
            return int(counters.split()[1])
    raise ValueError(f"there is no interface {interface} in {namespace}")


class Meter:
    """Packets per second that clients' switches take from them, and that servers receive."""

    def __init__(self, testbed: Running, clients: Collection[str], servers: Collection[str]) -> None:
        def where(port: fattree.Port) -> tuple[Path, str]:
            return testbed.folder.namespace(port.node), port.name

        def link(name: str) -> fattree.Link:
            return fattree.links(testbed.graph, name)[0]

        self._clients = [where(link(name).peer(name)) for name in clients]
        self._servers = [where(link(name).port(name)) for name in servers]
        self._last = self._read()

    def rates(self) -> tuple[float, float]:
        """Return packets per second (offered, delivered) since the last call."""
        was, now = self._last, self._read()
        self._last = now
        seconds = now[0] - was[0]
        return (now[1] - was[1]) / seconds, (now[2] - was[2]) / seconds

    def _read(self) -> tuple[float, int, int]:
        offered = sum(received(*client) for client in self._clients)
        return time.monotonic(), offered, sum(received(*server) for server in self._servers)
