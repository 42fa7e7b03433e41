"""A prober: pings every target every few milliseconds, with the kernel's timestamps on both ways.

The kernel stamps a request when it leaves (SO_TIMESTAMPING) and a reply when it arrives, so scheduling
of this process shifts when a request is sent, never how long its round trip seems. How late requests
were is measured too (`Samples.lateness`), and a run in which the prober stalled can be told from a run
in which the network did. As the stamps are the kernel's, what came is read every few milliseconds only:
the prober shares its cores with the network that it measures. What waits to be read has room for seconds,
and the answers to other probers of the node are not among it: an answer that the socket has no room for is
none that the network lost, and ends the measurement (`OverrunError`).

Run it inside a node's network namespace: `python -m mininet_topos.experiments.probe --help`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import math
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duet_p4.checksum import checksum
from duet_p4.title import set_title

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPING, _SO_MEMINFO = 26, 33, 37, 55
_MEMINFO_DROPS = 8
_SCM_TIMESTAMPING = _SO_TIMESTAMPING
_TX_SOFTWARE, _RX_SOFTWARE, _SOFTWARE, _OPT_ID, _OPT_TSONLY = 1 << 1, 1 << 3, 1 << 4, 1 << 7, 1 << 11
_IP_RECVERR = 11
_LDX_HEADER_LENGTH, _LD_BYTE, _LD_WORD, _JUMP_UNLESS, _RETURN = 0xB1, 0x50, 0x40, 0x15, 0x06
"""Of classic BPF (linux/bpf_common.h): loads are from after the IP header, whose length is X."""
_SCHED_PRIORITY = 50
_HEADER = struct.Struct("!BBHHH")
_PAYLOAD = struct.Struct("!8sII")  # magic of this run, target, round
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_DRAIN_S = 1.0
_READ_S = 0.005
"""Between two looks at what the kernel has: replies, and stamps of requests."""
_SPARE_S = 0.00005
"""A look ends so long before the next request is due."""
_BUFFER_BYTES = 64 << 20
"""Room for answers and stamps that wait: more than a second's, at 20,000 requests a second."""
_IDENTIFIERS = 1 << 16

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Samples:
    """What a run measured: arrays of shape (rounds, targets), times in seconds of the realtime clock.

    `due` (rounds,) is when a round should have been sent, each target `spacing_s` after the one before it.
    `sent` is when each request left the kernel, `received` when its reply arrived: NaN where there was none.
    """

    targets: tuple[IPv4Address, ...]
    interval_s: float
    due: Floats
    sent: Floats
    received: Floats
    spacing_s: float = 0.0

    @property
    def rtt(self) -> Floats:
        """Round-trip times in seconds; NaN for a lost probe."""
        rtt: Floats = self.received - self.sent
        return rtt

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Which probes were never answered."""
        lost: NDArray[np.bool_] = np.isnan(self.received)
        return lost

    @property
    def lateness(self) -> Floats:
        """How long after it was due each request left, in seconds: the prober's own error."""
        lateness: Floats = self.sent - self.due[:, None] - self.spacing_s * np.arange(len(self.targets))
        return lateness

    @property
    def resolution_s(self) -> float:
        """The time between two requests, of one target or, where they take turns, of any."""
        return self.spacing_s or self.interval_s

    def stalled(self, tolerance_s: float | None = None) -> bool:
        """Whether the prober itself was too late to be trusted (by default: half an interval, at p99)."""
        limit = self.resolution_s / 2 if tolerance_s is None else tolerance_s
        return bool(np.quantile(self.lateness, 0.99) > limit)

    def worst_lateness(self, begin: float, end: float) -> float:
        """Return how late the latest request from `begin` to `end` left, in seconds; infinite if none did.

        Where it is much, what is lost in between may be missed.
        """
        within = (self.due >= begin) & (self.due < end)
        return float(np.nanmax(self.lateness[within])) if within.any() else math.inf

    def outages(self, target: int) -> list[tuple[float, float]]:
        """Return each outage of a target as (start, seconds).

        An outage lasts from the first lost request to the next answered one; the interval is the
        resolution. One that never ends lasts until the last request.
        """
        return self._outages(self.sent[:, target], self.lost[:, target])

    def outages_of_all(self) -> list[tuple[float, float]]:
        """Return each outage of the targets as if they were one, as (start, seconds).

        Where they take turns, the seconds of all outages together are how long one is away, on average of
        all; from the beginning of the first to the end of the last it takes until all are back.
        """
        order = np.argsort(self.sent, axis=None)
        return self._outages(self.sent.ravel()[order], self.lost.ravel()[order])

    def _outages(self, sent: Floats, lost: NDArray[np.bool_]) -> list[tuple[float, float]]:
        found = []
        start: float | None = None
        for when, gone in zip(sent.tolist(), lost.tolist(), strict=True):
            if gone and start is None:
                start = when
            elif not gone and start is not None:
                found.append((start, when - start))
                start = None
        if start is not None:
            found.append((start, float(sent[-1]) - start + self.resolution_s))
        return found

    def served_after(self, origin: float) -> float:
        """Return how many seconds after `origin` every request of every target was answered for good.

        0 where none was lost; the interval is the resolution. What is lost to the end counts until then.
        """
        lost = self.sent[self.lost & (self.sent >= origin)]
        return float(lost.max()) - origin + self.interval_s if lost.size else 0.0

    def lost_share(self, begin: float, end: float) -> float:
        """Return the share of the requests sent from `begin` to `end` that were lost; 0 if none was sent."""
        within = (self.sent >= begin) & (self.sent < end)
        return float(self.lost[within].mean()) if within.any() else 0.0

    def rows(self, origin: float) -> Iterator[dict[str, Any]]:
        """Yield each probe for a CSV file: times in ms, since `origin`; no round trip for a lost one."""
        sent, rtt = (self.sent - origin) * 1e3, self.rtt * 1e3
        for target, vip in enumerate(self.targets):
            for when, took in zip(sent[:, target].tolist(), rtt[:, target].tolist(), strict=True):
                yield {
                    "vip": str(vip),
                    "sent_ms": round(when, 4),
                    "rtt_ms": None if np.isnan(took) else round(took, 4),
                }

    def save(self, path: Path) -> None:
        """Write the samples to a .npz file."""
        np.savez_compressed(
            path,
            targets=np.array([int(target) for target in self.targets], np.uint32),
            interval_s=self.interval_s,
            spacing_s=self.spacing_s,
            due=self.due,
            sent=self.sent,
            received=self.received,
        )

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what `save` wrote."""
        with np.load(path) as data:
            return cls(
                targets=tuple(IPv4Address(int(target)) for target in data["targets"]),
                interval_s=float(data["interval_s"]),
                spacing_s=float(data["spacing_s"]),
                due=data["due"],
                sent=data["sent"],
                received=data["received"],
            )


class OverrunError(RuntimeError):
    """Answers came that the prober had no room for: what it takes for lost the network need not have lost."""


class Prober:
    """Sends one echo request to every target each `interval_s`, for `rounds` rounds or until `stop`.

    All at once, or `in_turn`: spread over the interval. A target has `flows` flows, which take turns: each is
    an ICMP identifier, which a mux sends to one DIP. Up to `buffer_bytes` wait to be read; without
    CAP_NET_ADMIN no more than this machine allows anybody. Raises PermissionError without CAP_NET_RAW.
    """

    def __init__(
        self,
        targets: Sequence[IPv4Address],
        interval_s: float,
        rounds: int,
        *,
        source: IPv4Address | None = None,
        identifier: int = 0,
        flows: int = 1,
        in_turn: bool = False,
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> None:
        if not targets:
            raise ValueError("a prober needs at least one target")
        if interval_s <= 0 or rounds < 1:
            raise ValueError(f"cannot probe for {rounds} rounds every {interval_s} s")
        if not 1 <= flows * len(targets) <= _IDENTIFIERS:
            raise ValueError(f"{len(targets)} targets cannot have {flows} flows each")
        self._flows = flows
        self._targets = tuple(targets)
        self._interval_s = interval_s
        self._spacing_s = interval_s / len(targets) if in_turn else 0.0
        self._rounds = rounds
        self._identifier = identifier or os.getpid() & 0x7FFF
        self._magic = os.urandom(8)
        shape = (rounds, len(targets))
        self._due = np.full(rounds, np.nan)
        self._sent = np.full(shape, np.nan)
        self._received = np.full(shape, np.nan)
        self._stopped = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        _receive_only(self._socket, self._magic)
        if source is not None:
            self._socket.bind((str(source), 0))
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 0)
        flags = _TX_SOFTWARE | _RX_SOFTWARE | _SOFTWARE | _OPT_ID | _OPT_TSONLY
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, flags)
        self._keys: list[tuple[int, int]] = []
        self._peers = [str(target) for target in self._targets]
        self._read_at = 0.0

    def stop(self) -> None:
        """End after the round under way."""
        self._stopped = True

    def run(self, ready: Callable[[], None] = lambda: None) -> Samples:
        """Probe, wait for the last replies, and return what was measured; calls `ready` when it begins.

        Raises `OverrunError` where what was measured cannot be trusted.
        """
        _prefer()
        ready()
        addresses = [(peer, 0) for peer in self._peers]
        start = time.clock_gettime(time.CLOCK_MONOTONIC) + self._interval_s
        offset = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        done = 0
        for number in range(self._rounds):
            due = start + number * self._interval_s
            self._wait(due)
            if self._stopped:
                break
            self._due[number] = due + offset
            for target, address in enumerate(addresses):
                if target and self._spacing_s:
                    self._wait(due + target * self._spacing_s)
                self._send(number, target, address)
            done = number + 1
        self._drain(done)
        dropped = self._dropped()
        self._socket.close()
        if dropped:
            raise OverrunError(
                f"the prober had no room for {dropped} answers: this machine is too busy to measure"
            )
        return Samples(
            self._targets,
            self._interval_s,
            self._due[:done],
            self._sent[:done],
            self._received[:done],
            self._spacing_s,
        )

    def _send(self, number: int, target: int, address: tuple[str, int]) -> None:
        body = _PAYLOAD.pack(self._magic, target, number)
        flow = target * self._flows + number % self._flows
        identifier = (self._identifier + flow) % _IDENTIFIERS
        check = checksum(_HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, number & 0xFFFF) + body)
        packet = _HEADER.pack(_ECHO_REQUEST, 0, check, identifier, number & 0xFFFF) + body
        # Until the kernel's own stamp comes; a request that finds no route or no neighbour never gets one.
        self._sent[number, target] = time.clock_gettime(time.CLOCK_REALTIME)
        try:
            self._socket.sendto(packet, address)
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOBUFS, errno.EAGAIN):
                raise
            return
        self._keys.append((number, target))

    def _wait(self, until: float) -> None:
        """Sleep until a moment; if nobody looked for a while, read first what has come, as time allows."""
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        if now >= self._read_at and self._read(until - _SPARE_S):
            self._read_at = now + _READ_S
        if (left := until - time.clock_gettime(time.CLOCK_MONOTONIC)) > 0:
            time.sleep(left)

    def _drain(self, rounds: int) -> None:
        """Read all that has come, and wait for the replies that are under way."""
        until = time.clock_gettime(time.CLOCK_MONOTONIC) + _DRAIN_S
        self._read(math.inf)
        while np.isnan(self._received[:rounds]).any():
            if (left := until - time.clock_gettime(time.CLOCK_MONOTONIC)) <= 0:
                return
            select.select([self._socket], [], [], left)  # Stamps count as readable.
            self._read(math.inf)

    def _dropped(self) -> int:
        """Return how many answers the socket had no room for."""
        told = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        return int(struct.unpack_from("=I", told, 4 * _MEMINFO_DROPS)[0])

    def _read(self, until: float) -> bool:
        """Read what the kernel has; return whether that was all by `until`."""
        try:
            while time.clock_gettime(time.CLOCK_MONOTONIC) < until:
                self._read_stamp()
        except BlockingIOError:
            pass
        try:
            while time.clock_gettime(time.CLOCK_MONOTONIC) < until:
                self._read_reply()
        except BlockingIOError:
            return True
        return False

    def _read_stamp(self) -> None:
        _, ancillary, _, _ = self._socket.recvmsg(512, 512, socket.MSG_ERRQUEUE)
        stamp, key = None, None
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == _SCM_TIMESTAMPING:
                stamp = _stamp(data)
            elif level == socket.IPPROTO_IP and kind == _IP_RECVERR:
                key = struct.unpack_from("=IBBBBII", data)[6]
        if stamp is not None and key is not None and key < len(self._keys):
            self._sent[self._keys[key]] = stamp

    def _read_reply(self) -> None:
        packet, ancillary, _, peer = self._socket.recvmsg(2048, 512)
        header = (packet[0] & 15) * 4
        # Others' may have come before the socket had its filter.
        if packet[header] != _ECHO_REPLY or len(packet) < header + _HEADER.size + _PAYLOAD.size:
            return
        magic, target, number = _PAYLOAD.unpack_from(packet, header + _HEADER.size)
        if magic != self._magic or peer[0] != self._peers[target]:
            return
        stamp = next((_stamp(data) for level, kind, data in ancillary if kind == _SCM_TIMESTAMPING), None)
        if math.isnan(self._received[number, target]):
            self._received[number, target] = stamp or time.clock_gettime(time.CLOCK_REALTIME)


def _receive_only(raw: socket.socket, magic: bytes) -> None:
    """Have a raw socket take nothing but the echo replies that begin with these 8 bytes."""
    wanted = struct.unpack("!II", magic)
    program = [
        (_LDX_HEADER_LENGTH, 0, 0, 0),
        (_LD_BYTE, 0, 0, 0),
        (_JUMP_UNLESS, 0, 5, _ECHO_REPLY),
        (_LD_WORD, 0, 0, _HEADER.size),
        (_JUMP_UNLESS, 0, 3, wanted[0]),
        (_LD_WORD, 0, 0, _HEADER.size + 4),
        (_JUMP_UNLESS, 0, 1, wanted[1]),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    raw.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code))
    )


def _stamp(data: bytes) -> float:
    seconds, nanoseconds = struct.unpack_from("=qq", data)
    return float(seconds) + float(nanoseconds) * 1e-9


def _prefer() -> None:
    """Run before ordinary processes where that is allowed, and never be paged out."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_SCHED_PRIORITY))
    except PermissionError:
        print("probe: no right to real-time scheduling; requests may leave late", file=sys.stderr)
    ctypes.CDLL(None, use_errno=True).mlockall(3)


def main(argv: Sequence[str] | None = None) -> int:
    """Probe, and write the samples."""
    parser = argparse.ArgumentParser(prog="probe", description="Ping targets with kernel timestamps.")
    parser.add_argument("targets", nargs="+", type=IPv4Address)
    parser.add_argument("--interval-ms", type=float, default=3.0)
    parser.add_argument("--duration-s", type=float, default=10.0, help="at most; a SIGTERM ends it earlier")
    parser.add_argument("--flows", type=int, default=1, help="of each target, in turn")
    parser.add_argument("--in-turn", action="store_true", help="targets are spread over the interval")
    parser.add_argument("--source", type=IPv4Address)
    parser.add_argument("--buffer-bytes", type=int, default=_BUFFER_BYTES, help="room for answers")
    parser.add_argument("--ready-fd", type=int, help="a byte is written here when probing begins")
    parser.add_argument("--out", type=Path, required=True, help="samples (.npz)")
    options = parser.parse_args(argv)
    set_title("probe", ["duet-probe", *map(str, options.targets)])
    interval = options.interval_ms / 1000
    rounds = max(1, round(options.duration_s / interval))
    prober = Prober(
        options.targets,
        interval,
        rounds,
        source=options.source,
        flows=options.flows,
        in_turn=options.in_turn,
        buffer_bytes=options.buffer_bytes,
    )
    signal.signal(signal.SIGTERM, lambda *_: prober.stop())

    def ready() -> None:
        if options.ready_fd is not None:
            os.write(options.ready_fd, b"1")
            os.close(options.ready_fd)

    try:
        samples = prober.run(ready)
    except OverrunError as error:
        print(error, file=sys.stderr)
        return 1
    samples.save(options.out)
    lost, late = int(samples.lost.sum()), float(np.quantile(samples.lateness, 0.99)) * 1e3
    print(f"{samples.sent.size} probes, {lost} lost, 99% left at most {late:.3f} ms late", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
