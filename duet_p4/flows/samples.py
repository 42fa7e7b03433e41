"""Samples of packets as the data paths of SMuxes and servers write them (bpf/include/flow_samples.h)."""

from __future__ import annotations

import mmap
import struct
from ipaddress import IPv4Address

from duet_p4 import bpf
from duet_p4.flow_hash import Flow
from duet_p4.flows.cache import Sample, booted_at

_SAMPLE = struct.Struct("!4s4sHHB3x4s")
_REST = struct.Struct("=IQI4x")


def odds(sampling: int) -> bytes:
    """Return `flow_odds` for one packet in `sampling`; 0 is none."""
    return struct.pack("=Q", (1 << 32) // sampling if sampling else 0)


def ring_bytes(sampling: int) -> int:
    """Return how much room samples need between two looks: a page where there are none."""
    return 1 << 18 if sampling else mmap.PAGESIZE


class FlowSamples:
    """The samples of a loaded data path."""

    def __init__(self, loaded: bpf.Object) -> None:
        self._ring = bpf.RingBuffer(loaded.map("flow_samples"))
        self._lost = loaded.map("flow_samples_lost")

    def poll(self) -> list[Sample]:
        """Return the samples since the last call."""
        booted = booted_at()
        return [_sample(record, booted) for record in self._ring.poll()]

    @property
    def lost(self) -> int:
        """Samples for which there was no room."""
        return int.from_bytes(self._lost.lookup(bytes(4)) or b"", "little")

    def close(self) -> None:
        """Let go of the memory."""
        self._ring.close()


def _sample(record: bytes, booted: float) -> Sample:
    source, destination, source_port, port, protocol, dip = _SAMPLE.unpack_from(record)
    length, nanoseconds, replies = _REST.unpack_from(record, _SAMPLE.size)
    flow = Flow(IPv4Address(source), IPv4Address(destination), protocol, source_port, port)
    return Sample(flow, IPv4Address(dip), length, booted + nanoseconds / 1e9, replies)
