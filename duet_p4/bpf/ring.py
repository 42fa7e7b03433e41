"""The reader's side of a BPF ring buffer."""

from __future__ import annotations

import mmap
import struct

from duet_p4.bpf.objects import Map

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_HEADER = 8


class RingBuffer:
    """Records that programs write, in the order in which room for them was taken.

    `fd` becomes readable with them.
    """

    def __init__(self, ring: Map) -> None:
        self.fd = ring.fd
        self._size = ring.max_entries
        self._consumer = mmap.mmap(self.fd, mmap.PAGESIZE)
        room = mmap.PAGESIZE + 2 * self._size
        self._data = mmap.mmap(self.fd, room, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)

    def poll(self) -> list[bytes]:
        """Return the records that wait; never blocks."""
        records: list[bytes] = []
        (at,) = struct.unpack_from("=Q", self._consumer, 0)
        while at < struct.unpack_from("=Q", self._data, 0)[0]:
            start = mmap.PAGESIZE + at % self._size
            (length,) = struct.unpack_from("=I", self._data, start)
            if length & _BUSY:
                break
            size = length & ~_DISCARDED
            if not length & _DISCARDED:
                records.append(self._data[start + _HEADER : start + _HEADER + size])
            at += (size + _HEADER + 7) // 8 * 8
            struct.pack_into("=Q", self._consumer, 0, at)
        return records

    def close(self) -> None:
        """Let go of the memory."""
        self._consumer.close()
        self._data.close()
