"""The flows of a device that had packets lately, by samples of their packets."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from duet_p4.api.flows import DeviceKind, FlowRecord
from duet_p4.flow_hash import Flow

IDLE_S = 15.0
"""How long a flow without packets is remembered."""
ACTIVE_S = 60.0
"""How long a record of a flow that goes on is added to before another one begins (IPFIX's active timeout)."""
MAX_FLOWS = 4096


@dataclass(frozen=True)
class Sample:
    """A packet that was looked at: its flow, its DIP, its bytes, when (Unix seconds).

    One that a DIP answers with is so many `replies`, as its segments may still be joined; 0 is a client's.
    """

    flow: Flow
    dip: IPv4Address
    bytes: int
    at: float
    replies: int = 0


def booted_at() -> float:
    """Return when the monotonic clock, by which data paths stamp samples, was 0, in Unix seconds."""
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass
class _Sums:
    packets: int
    bytes: int
    reply_packets: int
    reply_bytes: int
    first: float
    last: float


class FlowCache:
    """Adds up samples by flow and DIP; one packet in `sampling` is one."""

    def __init__(self, device: str, kind: DeviceKind, sampling: int) -> None:
        self._device = device
        self._kind: DeviceKind = kind
        self._sampling = sampling
        self._sums: dict[tuple[Flow, IPv4Address], _Sums] = {}
        self._over: list[FlowRecord] = []

    def add(self, samples: Iterable[Sample]) -> None:
        """Count samples. Where there are too many flows, the one that is silent for the longest ends."""
        for sample in samples:
            key = (sample.flow, sample.dip)
            sums = self._sums.pop(key, None)
            if sums is None:
                sums = _Sums(0, 0, 0, 0, sample.at, sample.at)
                if len(self._sums) >= MAX_FLOWS:
                    self._end(next(iter(self._sums)))
            if sample.replies:
                sums.reply_packets += self._sampling * sample.replies
                sums.reply_bytes += self._sampling * sample.bytes
            else:
                sums.packets += self._sampling
                sums.bytes += self._sampling * sample.bytes
            sums.last = max(sums.last, sample.at)
            self._sums[key] = sums  # The one that had the last packet is the last.

    def records(self) -> list[FlowRecord]:
        """Return the flows that had packets lately, the latest first."""
        return [self._record(*key, sums) for key, sums in reversed(self._sums.items())]

    def expire(self, now: float) -> list[FlowRecord]:
        """End the records of what is idle or has gone on for long, and return all that ended."""
        for key, sums in list(self._sums.items()):
            if now - sums.last > IDLE_S or now - sums.first > ACTIVE_S:
                self._end(key)
        over, self._over = self._over, []
        return over

    def _end(self, key: tuple[Flow, IPv4Address]) -> None:
        self._over.append(self._record(*key, self._sums.pop(key)))
        del self._over[:-MAX_FLOWS]

    def _record(self, flow: Flow, dip: IPv4Address, sums: _Sums) -> FlowRecord:
        return FlowRecord(
            device=self._device,
            kind=self._kind,
            source=flow.source,
            source_port=flow.source_port,
            destination=flow.destination,
            destination_port=flow.destination_port,
            protocol=flow.protocol,
            dip=dip,
            packets=sums.packets,
            bytes=sums.bytes,
            reply_packets=sums.reply_packets,
            reply_bytes=sums.reply_bytes,
            sampling=self._sampling,
            first=sums.first,
            last=sums.last,
        )
