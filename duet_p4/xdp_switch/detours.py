"""What a program's tables become at once when a port dies: prepared here, carried out in the kernel.

The kernel's part (bpf/detour.bpf.c) writes the prepared words with the first frame that a port cannot send,
which takes microseconds. It knows nothing of tables, so its words hold for the tables as they are: whoever
changes one of them takes the detours away before (`disarm`) and prepares anew after what still stands.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from duet_p4 import bpf
from duet_p4.bpf.libbpf import bpf_call

_BPF = Path(__file__).parent / "bpf"
_RAW_TRACEPOINT_OPEN = 17
_SO_NETNS_COOKIE = 71
_PORTS = 512
_LONGEST_S = 1.0
CAPACITY = 65_536
"""Words of all detours together."""

Words = Mapping[int, int]
"""Offsets in the memory of a program's tables, and what these words become."""

_log = logging.getLogger(__name__)


class Detours:
    """The detours of a loaded program, which must hold its tables in global variables."""

    def __init__(self, loaded: bpf.Object, ingress_ports: bpf.Map) -> None:
        self._memory = loaded.whole_memory().cast("Q")
        self._before: dict[int, dict[int, int]] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._used = 0
        tables = next(held for held in loaded.maps() if held.name.endswith(".bss"))
        self._object = bpf.Object(bpf.compile_object(_BPF / "detour.bpf.c"))
        with socket.socket() as probe:
            cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        try:
            self._object.load(
                {"own_net": cookie, "table_bytes": struct.pack("=I", tables.value_size)},
                share={"tables": tables, "ingress_ports": ingress_ports},
            )
            steps, detours = (self._object.map(name).mapped() for name in ("steps", "detours"))
            self._steps = np.frombuffer(steps, dtype=np.uint64).reshape(-1, 2)
            self._detours = np.frombuffer(detours, dtype=np.uint32).reshape(-1, 4)
            program = self._object.program("not_sent")
            self._link = bpf.Link(bpf_call(_RAW_TRACEPOINT_OPEN, struct.pack("=QII", 0, program.fd, 0)))
        except BaseException:
            self._object.close()
            raise

    def prepare(self, port: int, words: Words) -> None:
        """Have these words written once the port can send nothing, in the place of what was prepared for it.

        Raises ValueError for a port or an offset that does not exist, or where there is no room.
        """
        if not 0 <= port < _PORTS:
            raise ValueError(f"port {port} is out of range: ports are 0 to {_PORTS - 1}")
        if any(at % 8 or not 0 <= at < 8 * len(self._memory) for at in words):
            raise ValueError("a detour consists of words of the tables")
        first, room = self._places.get(port, (0, 0))
        if len(words) > room:
            first, room = self._used, len(words)
        if first + room > CAPACITY:
            raise ValueError(f"detours have {CAPACITY} words, {self._used} of them used: no room for {room}")
        self._detours[port, 1] = 0
        self._wait()
        self._places[port] = first, room
        self._used = max(self._used, first + room)
        if words:
            self._steps[first : first + len(words)] = list(words.items())
        self._before[port] = {at: self._memory[at // 8] for at in words}
        self._detours[port, 0] = first
        self._detours[port, 1] = len(words)

    def disarm(self) -> set[int]:
        """Forget all detours: what they stand on is about to change. Returns the ports whose was taken."""
        begun = self._detours[:, 2].copy()
        taken = self.taken()
        self._detours[:, 1] = 0
        self._wait()
        taken |= {port for port in self._before if self._detours[port, 2] != begun[port]}
        self._before.clear()
        self._places.clear()
        self._used = 0
        return taken

    def taken(self) -> set[int]:
        """Return the ports whose detour was taken since it was prepared."""
        self._wait()
        return {port for port, words in self._before.items() if words and not self._detours[port, 1]}

    def undo(self, ports: Iterable[int]) -> None:
        """Put back what the tables held before the detours of these ports were taken."""
        for port in ports:
            _log.warning("port %d can send again: its detour is undone", port)
            for at, word in self._before[port].items():
                self._memory[at // 8] = word
            self.prepare(port, {int(at): int(word) for at, word in self._steps_of(port)})

    def close(self) -> None:
        """Detach, and free everything."""
        self._link.close()
        self._object.close()

    def _wait(self) -> None:
        """Wait until no CPU is taking a detour, which is a matter of microseconds."""
        deadline = time.monotonic() + _LONGEST_S
        while (self._detours[:, 2] != self._detours[:, 3]).any():
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "a detour that the kernel has begun to take does not end")

    def _steps_of(self, port: int) -> list[tuple[int, int]]:
        first, count = int(self._detours[port, 0]), len(self._before[port])
        return [(int(at), int(word)) for at, word in self._steps[first : first + count]]
