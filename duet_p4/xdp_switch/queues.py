"""The queues of ports that have a rate: packets wait here between ingress and egress.

What a packet sees of its queue is what it sees of BMv2's: how many packets waited when it came and when it
left, itself not counted, and for how long it waited. Where a queue is full, what comes is dropped. A packet
that finds its port idle leaves at once.
"""

from __future__ import annotations

import logging
import os
import re
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from duet_p4 import bpf

DEPTH = 64
"""Packets that a queue holds: as many as BMv2's."""

_TICKET = struct.Struct("=IIIIQQII")
_MAGIC = 0x44755051
_STATES = 1024
_MAX_FRAME = 65536
_UNITS = {"": 0, "pps": 0, "kbit": 1000, "mbit": 10**6, "gbit": 10**9}
_NS = 1_000_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a port sends: so many packets, or bits, per second."""

    packets: float = 0.0
    bits: float = 0.0

    def nanoseconds(self, length: int) -> int:
        """Return how long a packet of so many bytes keeps the port busy."""
        return int(_NS / self.packets) if self.packets else int(8 * length * _NS / self.bits)

    @staticmethod
    def parse(text: str) -> Rate:
        """Return a rate as `100` or `100pps` (packets per second), or `500kbit`, `10mbit`, `1gbit`."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(pps|[kmg]bit)?", text)
        if found is None or float(found[1]) <= 0:
            raise ValueError(
                f"{text!r} is no rate: give packets per second, or bits with kbit, mbit or gbit, above 0"
            )
        scale = _UNITS[found[2] or ""]
        return Rate(bits=float(found[1]) * scale) if scale else Rate(packets=float(found[1]))


@dataclass(slots=True)
class _Packet:
    """A packet that waits: its bytes without the ticket, and what was kept of it."""

    frame: bytes
    state: bytes
    port: int
    passes: int
    enqueued: int
    depth: int


@dataclass(slots=True)
class _Queue:
    rate: Rate
    packets: deque[_Packet] = field(default_factory=deque)
    free_at: int = 0
    """When the port may send again, nanoseconds of the monotonic clock."""


class Queues:
    """The queues of a running program, served by a thread until they are closed."""

    def __init__(
        self, loaded: bpf.Object, port: socket.socket, rates: Mapping[int, Rate], depth: int = DEPTH
    ) -> None:
        """`port` is where packets come from and go back to."""
        self._queues = {number: _Queue(rate) for number, rate in rates.items()}
        self._depth = depth
        self._port = port
        self._kept = loaded.memory("states")
        self._waiting = loaded.memory("waiting")
        self._size = len(self._kept) // _STATES
        self._sent = 0
        self.dropped = 0
        """Packets that found their queue full, or that were not to be had any more when their time came."""
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        waits = loaded.memory("port_waits")
        for number in rates:
            waits[number] = 1
        self._thread = threading.Thread(target=self._serve, name="queues", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop what waits."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)

    def _serve(self) -> None:
        while True:
            due = min((q.free_at for q in self._queues.values() if q.packets), default=None)
            timeout = None if due is None else max(due - time.monotonic_ns(), 0) / _NS
            readable, _, _ = select.select([self._port.fileno(), self._end], [], [], timeout)
            if self._end in readable:
                return
            try:
                self._receive()
                now = time.monotonic_ns()
                for queue in self._queues.values():
                    while queue.packets and queue.free_at <= now:
                        self._send(queue, now)
            except OSError as error:
                _log.error("a packet that waited for its port is lost: %s", error)

    def _receive(self) -> None:
        """Put what has come into its queue."""
        while True:
            try:
                frame = self._port.recv(_MAX_FRAME)
            except BlockingIOError:
                return
            if len(frame) < _TICKET.size:
                continue
            magic, number, port, passes, enqueued, *_ = _TICKET.unpack_from(frame)
            queue = self._queues.get(port)
            if magic != _MAGIC or queue is None:
                continue
            at = number % _STATES * self._size
            state = bytes(self._kept[at : at + self._size])
            depth = len(queue.packets)
            if depth >= self._depth or int.from_bytes(state[:4], "little") != number:
                self.dropped += 1
                continue
            if not queue.packets:
                queue.free_at = max(queue.free_at, enqueued)
            queue.packets.append(_Packet(frame[_TICKET.size :], state, port, passes, enqueued, depth))

    def _send(self, queue: _Queue, now: int) -> None:
        packet = queue.packets.popleft()
        # What leaves a little late does not make the next one later.
        queue.free_at += queue.rate.nanoseconds(len(packet.frame))
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        at = self._sent % _STATES * self._size
        self._waiting[at : at + self._size] = self._sent.to_bytes(4, "little") + packet.state[4:]
        ticket = _TICKET.pack(
            *(_MAGIC, self._sent, packet.port, packet.passes),
            *(packet.enqueued, now, packet.depth, len(queue.packets)),
        )
        self._port.send(ticket + packet.frame)
