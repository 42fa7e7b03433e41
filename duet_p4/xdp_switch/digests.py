"""Digests of a running program, as the ring buffer hands them over."""

from __future__ import annotations

import mmap
import struct

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.digests import RING_BYTES

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_HEADER = 8


class Digests:
    """Samples that wait to be read; `fd` becomes readable with them, and is None without digests."""

    def __init__(self, digests: dict[int, ir.Digest], loaded: bpf.Object | None) -> None:
        self.fd: int | None = None
        self._digests = digests
        if loaded is None:
            return
        self.fd = loaded.map("digests").fd
        self._lost = loaded.memory("digests_lost").cast("Q")
        self._consumer = mmap.mmap(self.fd, mmap.PAGESIZE)
        room = mmap.PAGESIZE + 2 * RING_BYTES
        self._ring = mmap.mmap(self.fd, room, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)

    @property
    def lost(self) -> int:
        """Samples that the ring had no room for."""
        return self._lost[0] if self.fd is not None else 0

    def poll(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the samples that wait, as (digest, values); never blocks."""
        samples: list[tuple[str, tuple[int, ...]]] = []
        if self.fd is None:
            return samples
        (at,) = struct.unpack_from("=Q", self._consumer, 0)
        while at < struct.unpack_from("=Q", self._ring, 0)[0]:
            start = mmap.PAGESIZE + at % RING_BYTES
            (length,) = struct.unpack_from("=I", self._ring, start)
            if length & _BUSY:
                break
            size = length & ~_DISCARDED
            if not length & _DISCARDED:
                samples.append(self._sample(self._ring[start + _HEADER : start + _HEADER + size]))
            at += (size + _HEADER + 7) // 8 * 8
            struct.pack_into("=Q", self._consumer, 0, at)
        return samples

    def _sample(self, data: bytes) -> tuple[str, tuple[int, ...]]:
        number, *halves = struct.unpack(f"={len(data) // 8}Q", data)
        values = tuple(low | high << 64 for low, high in zip(halves[::2], halves[1::2], strict=True))
        return self._digests[number].name, values

    def close(self) -> None:
        """Let go of the ring."""
        if self.fd is not None:
            self._consumer.close()
            self._ring.close()
            self.fd = None
