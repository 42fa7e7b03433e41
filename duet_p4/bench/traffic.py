"""The generator: trafgen flat out, tcpreplay at a pace; both send the same frames.

Frames are UDP, each of a flow of its own, so that neither a hash nor a cache is flattered.
"""

from __future__ import annotations

import ipaddress
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from duet_p4.bench.line import BenchError, Line
from duet_p4.checksum import checksum

FRAMES = 4096
"""Different frames, sent in turns."""
ETHERNET, IP, UDP = 14, 20, 8
MIN_FRAME = ETHERNET + IP + UDP
GENERATOR_MAC = bytes.fromhex("020000000009")
SWITCH_MAC = bytes.fromhex("020000000001")
DEADLINE = 60.0
SETTLE = 0.2
"""Seconds without an arrival after which a packet counts as lost."""
SAMPLE = 0.002
"""Seconds between two looks at the receiver; one that takes longer was interrupted, and says nothing."""
SEEN = 0.5
"""Share of what was received that must have come between the first and the last look."""
TRIES = 3
_PROCESS_CLOCK = 2
"""CPUCLOCK_SCHED, of a process as a whole: what the kernel has counted until now, not until the last tick."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One run: packets offered and received, and the pace while it was in full swing.

    `cpu_pps` is per second of the generator's CPU time and of the kernel's threads for packets. With XDP that
    includes what switch and receiver do, as veth hands a packet on in the context of who sends it, or leaves
    it to such a thread: flat out, it is what `pps` would be if nothing else ran on the machine.
    """

    offered: int
    received: int
    pps: float
    cpu_pps: float

    @property
    def loss(self) -> float:
        """Share of the packets that did not arrive."""
        return max(0.0, 1 - self.received / self.offered)


class TooFewError(BenchError):
    """What was seen of a run is too little to say anything."""


class Sample(NamedTuple):
    """Frames received and CPU seconds that they took at a moment."""

    moment: float
    received: int
    cpu: float


class Generator:
    """Sends frames of one size to given destinations into a line, with the files that this takes."""

    def __init__(
        self, line: Line, folder: Path, destinations: Sequence[int], size: int, seed: int = 1
    ) -> None:
        for tool in ("trafgen", "tcpreplay"):
            if shutil.which(tool) is None:
                package = {"trafgen": "netsniff-ng", "tcpreplay": "tcpreplay"}[tool]
                raise BenchError(f"{tool} is not on PATH: apt-get install {package}")
        self._line = line
        chance = random.Random(seed)
        frames = [
            frame(size, int(ipaddress.IPv4Address("10.255.0.1")) + n, address, chance.randrange(1024, 65536))
            for n, address in enumerate(chance.choices(destinations, k=FRAMES))
        ]
        self._config = folder / f"{line.generator}-{size}.cfg"
        self._config.write_text("".join(map(_trafgen, frames)))
        self._capture = folder / f"{line.generator}-{size}.pcap"
        self._capture.write_bytes(_pcap(frames))

    def flat_out(self, packets: int) -> Sent:
        """Send that many packets as fast as one CPU can."""
        return self._run(
            packets,
            "trafgen",
            f"--dev={self._line.generator_port}",
            f"--conf={self._config}",
            f"--num={packets}",
            "--cpus=1",
            "--no-sock-mem",
            "--no-cpu-stats",
        )

    def paced(self, rate: float, seconds: float) -> Sent:
        """Send at `rate` packets per second for so many seconds."""
        packets = max(1, round(rate * seconds))
        return self._run(
            packets,
            "tcpreplay",
            f"--intf1={self._line.generator_port}",
            "--preload-pcap",
            "--quiet",
            "--timer=nano",
            f"--pps={rate:.0f}",
            f"--limit={packets}",
            f"--loop={-(-packets // FRAMES)}",
            str(self._capture),
        )

    def _run(self, packets: int, *command: str) -> Sent:
        """Run a generator, again where too little was seen of it: this process got no CPU meanwhile."""
        for _ in range(TRIES - 1):
            with suppress(TooFewError):
                return self._run_once(packets, *command)
        return self._run_once(packets, *command)

    def _run_once(self, packets: int, *command: str) -> Sent:
        """Run a generator, sampling what arrives until nothing more does."""
        threads = _packet_threads()
        before = self._line.received()
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._line.generator, *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + DEADLINE
        samples: list[Sample] = []
        received, quiet_since = 0, time.monotonic()
        try:
            while received < packets:
                moment, cpu = time.perf_counter(), _cpu_seconds(process.pid, threads)
                seen = self._line.received() - before
                if seen and cpu is not None and time.perf_counter() - moment < SAMPLE:
                    samples.append(Sample(moment, seen, cpu))
                if seen != received or process.poll() is None:
                    received, quiet_since = seen, time.monotonic()
                elif time.monotonic() - quiet_since > SETTLE:
                    break
                if time.monotonic() > deadline:
                    raise BenchError(f"{command[0]} did not send {packets} packets within {DEADLINE:.0f} s")
                time.sleep(SAMPLE)
            process.wait(DEADLINE)
        finally:
            process.kill()
            complaint = (process.communicate()[1] or b"").decode(errors="replace").strip()
        if process.returncode:
            raise BenchError(f"{command[0]} failed with status {process.returncode}: {complaint}")
        return pace(packets, received, samples)


def pace(packets: int, received: int, samples: Sequence[Sample]) -> Sent:
    """Return what samples say of a run of `packets`, of which so many were received.

    Raises TooFewError where they are too few to say anything.
    """
    first = samples[0] if samples else None
    # Once a child of the generator has ended, its time is no longer counted.
    last = max(samples, key=lambda sample: (sample.cpu, sample.received), default=None)
    if first is None or last is None or last.received == first.received or last.cpu <= first.cpu:
        raise TooFewError(f"of {packets} packets, {received} arrived: too few to measure a pace")
    counted = last.received - first.received
    if counted < SEEN * received:
        raise TooFewError(
            f"{counted} packets came while anybody looked, of {received} that did: too few to measure a pace"
        )
    return Sent(packets, received, counted / (last.moment - first.moment), counted / (last.cpu - first.cpu))


def _cpu_seconds(pid: int, threads: Sequence[int]) -> float | None:
    """Return the CPU time of a process, its children and some kernel threads, or None once it has ended."""
    try:
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return sum(time.clock_gettime(~one << 3 | _PROCESS_CLOCK) for one in (pid, *children, *threads))
    except OSError:
        return None


def _packet_threads() -> list[int]:
    """Return the threads that the kernel leaves packets to where there are too many, one for each CPU."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text().startswith("ksoftirqd/"):
                found.append(int(path.parent.name))
    return found


def frame(size: int, source: int, destination: int, source_port: int) -> bytes:
    """Return a UDP frame of `size` bytes, without the FCS."""
    if size < MIN_FRAME:
        raise ValueError(f"a UDP frame has at least {MIN_FRAME} bytes, not {size}")
    header = struct.pack("!BBHHHBBHII", 0x45, 0, size - ETHERNET, 0, 0, 64, 17, 0, source, destination)
    header = header[:10] + checksum(header).to_bytes(2) + header[12:]
    udp = struct.pack("!HHHH", source_port, 80, size - ETHERNET - IP, 0)
    return (SWITCH_MAC + GENERATOR_MAC + b"\x08\x00" + header + udp).ljust(size, b"\0")


def _trafgen(data: bytes) -> str:
    head, tail = data[:MIN_FRAME], len(data) - MIN_FRAME
    fill = f",fill(0x00,{tail})" if tail else ""
    return "{" + ",".join(map(str, head)) + fill + "}\n"


def _pcap(frames: Sequence[bytes]) -> bytes:
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack("=IIII", 0, 0, len(f), len(f)) + f for f in frames)
