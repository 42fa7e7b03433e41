"""Digests of a running program, as the ring buffer hands them over."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from duet_p4 import bpf


class Digests:
    """Samples that wait to be read; `fd` becomes readable with them, and is None without digests."""

    def __init__(self, names: Mapping[int, str], loaded: bpf.Object | None) -> None:
        self._names = names
        self._ring: bpf.RingBuffer | None = None
        if loaded is not None:
            self._ring = bpf.RingBuffer(loaded.map("digests"))
            self._lost = loaded.memory("digests_lost").cast("Q")

    @property
    def fd(self) -> int | None:
        """What becomes readable with samples."""
        return self._ring.fd if self._ring is not None else None

    @property
    def lost(self) -> int:
        """Samples that the ring had no room for."""
        return self._lost[0] if self._ring is not None else 0

    def poll(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the samples that wait, as (digest, values); never blocks."""
        return [self._sample(record) for record in self._ring.poll()] if self._ring is not None else []

    def _sample(self, data: bytes) -> tuple[str, tuple[int, ...]]:
        number, *halves = struct.unpack(f"={len(data) // 8}Q", data)
        values = tuple(low | high << 64 for low, high in zip(halves[::2], halves[1::2], strict=True))
        return self._names[number], values

    def close(self) -> None:
        """Let go of the ring."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
