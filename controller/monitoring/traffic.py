"""From meter readings to a traffic matrix: VIP by ingress switch by DIP, in bit/s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from controller.store import TrafficSample

ELSEWHERE = "internet"
"""The source of traffic whose address is behind none of the switches."""


@dataclass(frozen=True)
class MeterKey:
    """What a host agent counts by: the source is the /24 (or wider) that clients share."""

    vip: IPv4Address
    dip: IPv4Address
    source: IPv4Address


@dataclass(frozen=True)
class Count:
    """Packets and bytes since the meter was created."""

    packets: int
    bytes: int


class TrafficMeter:
    """Turns readings of counters that only grow into rates between two readings."""

    def __init__(self, prefixes: Mapping[IPv4Network, str]) -> None:
        """`prefixes` names the switch at which each source prefix enters the network."""
        self._prefixes = sorted(prefixes.items(), key=lambda item: -item[0].prefixlen)
        self._last: dict[MeterKey, tuple[float, Count]] = {}

    def read(self, when: float, counts: Iterable[tuple[MeterKey, Count]]) -> list[TrafficSample]:
        """Return the rates since the last reading, summed by ingress switch.

        A counter seen for the first time, or one that went backwards because its host restarted,
        counts from zero now and gives its first rate at the next reading.
        """
        rates: dict[tuple[IPv4Address, str, IPv4Address], list[float]] = {}
        for key, count in counts:
            last = self._last.get(key)
            self._last[key] = (when, count)
            if last is None or count.bytes < last[1].bytes or when <= last[0]:
                continue
            seconds = when - last[0]
            rate = rates.setdefault((key.vip, self.ingress(key.source), key.dip), [0.0, 0.0])
            rate[0] += (count.bytes - last[1].bytes) * 8 / seconds
            rate[1] += (count.packets - last[1].packets) / seconds
        return [
            TrafficSample(vip=vip, source=source, dip=dip, bps=bps, pps=pps)
            for (vip, source, dip), (bps, pps) in rates.items()
            if pps
        ]

    def ingress(self, source: IPv4Address) -> str:
        """Return the switch at which traffic from `source` enters, or `ELSEWHERE`."""
        return next((name for prefix, name in self._prefixes if source in prefix), ELSEWHERE)
