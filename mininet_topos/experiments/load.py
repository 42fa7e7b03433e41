"""Load from kept generators in a node's network namespace: tcpreplay at a pace, trafgen as fast as it can.

trafgen's own pacing sends a second's packets in one burst, which would fill any queue.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from duet_p4.bench.traffic import frame
from mininet_topos import fattree
from mininet_topos.experiments.setting import Running
from mininet_topos.testbed import namespaces

FRAME_BYTES = 64
_FLOWS_PER_VIP = 32
_FIRST_PORT = 20_000
_MAC_BYTES = 12
_MOST_PACKETS = 50_000_000
_LONGEST_S = 120
"""What trafgen sends, and how long tcpreplay does, should nobody be there to stop it."""
_QUOTED = 500
"""Characters of what a generator that failed said last."""


class Load:
    """UDP to some VIPs, of many flows each, from a client; no DIP answers it."""

    def __init__(self, testbed: Running, client: str, vips: Sequence[IPv4Address]) -> None:
        for tool, package in (("trafgen", "netsniff-ng"), ("tcpreplay", "tcpreplay")):
            if shutil.which(tool) is None:
                raise RuntimeError(f"{tool} is not on PATH: apt-get install {package}")
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
        with tempfile.TemporaryDirectory() as scratch:
            command = self._paced(pps, Path(scratch)) if pps is not None else self._flat_out(Path(scratch))
            said = Path(scratch) / "said"
            with namespaces.entered(self.namespace), said.open("wb") as output:
                generator = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
            try:
                yield
                if generator.poll() is not None:
                    raise RuntimeError(
                        f"{command[0]} ended early, with status {generator.returncode}: "
                        f"{said.read_text(errors='replace').strip()[-_QUOTED:] or 'it said nothing'}"
                    )
            finally:
                # trafgen's workers survive the death of their parent.
                with suppress(ProcessLookupError):
                    os.killpg(generator.pid, signal.SIGKILL)
                generator.wait()

    def _flat_out(self, scratch: Path) -> list[str]:
        config = scratch / "load.cfg"
        config.write_text("".join("{" + ",".join(map(str, data)) + "}\n" for data in self._frames))
        command = ["trafgen", "--dev", self.interface, "--conf", str(config), "--cpus", "1"]
        return [*command, "--num", str(_MOST_PACKETS), "--no-sock-mem", "--no-cpu-stats"]

    def _paced(self, pps: float, scratch: Path) -> list[str]:
        capture = scratch / "load.pcap"
        capture.write_bytes(
            struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
            + b"".join(struct.pack("=IIII", 0, 0, len(f), len(f)) + f for f in self._frames)
        )
        loops = 1 + round(pps * _LONGEST_S) // len(self._frames)
        command = ["tcpreplay", f"--intf1={self.interface}", "--preload-pcap", "--quiet", "--timer=nano"]
        return [*command, f"--pps={pps:.0f}", f"--loop={loops}", str(capture)]


def received(namespace: Path, interface: str) -> int:
    """Return how many packets have come in through an interface."""
    return _packets(namespace, interface, 1)


def sent(namespace: Path, interface: str) -> int:
    """Return how many packets have gone out through an interface."""
    return _packets(namespace, interface, 9)


def _packets(namespace: Path, interface: str, column: int) -> int:
    with namespaces.entered(namespace):
        text = Path("/proc/thread-self/net/dev").read_text()
    for line in text.splitlines():
        name, colon, counters = line.partition(":")
        if colon and name.strip() == interface:
            return int(counters.split()[column])
    raise ValueError(f"there is no interface {interface} in {namespace}")


class Meter:
    """Packets per second that clients send and that servers receive, since the last look."""

    def __init__(self, testbed: Running, clients: Collection[str], servers: Collection[str]) -> None:
        def port(name: str) -> tuple[Path, str]:
            return testbed.folder.namespace(name), fattree.links(testbed.graph, name)[0].port(name).name

        self._clients = [port(name) for name in clients]
        self._servers = [port(name) for name in servers]
        self._last = self._read()

    def rates(self) -> tuple[float, float]:
        """Return packets per second (offered, delivered) since the last call."""
        was, now = self._last, self._read()
        self._last = now
        seconds = now[0] - was[0]
        return (now[1] - was[1]) / seconds, (now[2] - was[2]) / seconds

    def _read(self) -> tuple[float, int, int]:
        offered = sum(sent(*client) for client in self._clients)
        return time.monotonic(), offered, sum(received(*server) for server in self._servers)
