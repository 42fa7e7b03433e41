"""From meter readings to a traffic matrix: VIP by ingress switch by DIP, in bit/s.

It is soft state: measured anew after a restart, and bounded in every way. All times are of a clock that only
grows, so that a clock that is set does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TypeAlias

from controller.records import TrafficSample

ELSEWHERE = "internet"
"""The source of traffic whose address is behind none of the switches."""

PERIODS_KEPT = 256
"""How many periods the history has at most; older ones are put together, two by two."""

Key: TypeAlias = tuple[IPv4Address, str, IPv4Address]
"""VIP, ingress switch, DIP."""


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


class Ingress:
    """Finds the switch at which traffic from an address enters: one look per length of prefix."""

    def __init__(self, prefixes: Mapping[IPv4Network, str]) -> None:
        self._by_length: dict[int, dict[int, str]] = {}
        for prefix, name in prefixes.items():
            self._by_length.setdefault(prefix.prefixlen, {})[int(prefix.network_address)] = name
        self._lengths = sorted(self._by_length, reverse=True)

    def of(self, source: IPv4Address) -> str:
        """Return the switch of the longest prefix that has an address, or `ELSEWHERE`."""
        number = int(source)
        for length in self._lengths:
            mask = (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF
            if name := self._by_length[length].get(number & mask):
                return name
        return ELSEWHERE


class TrafficMeter:
    """Turns readings of counters that only grow into what was sent between two readings."""

    def __init__(self, prefixes: Mapping[IPv4Network, str]) -> None:
        """`prefixes` names the switch at which each source prefix enters the network."""
        self.adopt(prefixes)
        self._last: dict[str, dict[MeterKey, Count]] = {}

    def adopt(self, prefixes: Mapping[IPv4Network, str]) -> None:
        """Go on with other prefixes."""
        self._ingress = Ingress(prefixes)

    def read(self, host: str, counts: Iterable[tuple[MeterKey, Count]]) -> dict[Key, Count]:
        """Return what a host received since its last reading, summed by ingress switch.

        A counter seen for the first time, or one that went backwards because its host restarted,
        counts from zero now. What the host does not count any more is forgotten.
        """
        before, now = self._last.get(host, {}), dict(counts)
        self._last[host] = now
        sent: dict[Key, Count] = {}
        for key, count in now.items():
            last = before.get(key)
            if last is None or count.bytes < last.bytes or count.packets <= last.packets:
                continue
            where = (key.vip, self._ingress.of(key.source), key.dip)
            known = sent.get(where, Count(0, 0))
            sent[where] = Count(
                known.packets + count.packets - last.packets, known.bytes + count.bytes - last.bytes
            )
        return sent

    def forget(self, host: str) -> None:
        """Forget the last reading of a host: what it counts until the next is nobody's interval."""
        self._last.pop(host, None)


@dataclass
class _Period:
    """What was sent from `begin` to `end`, in seconds of a monotonic clock."""

    begin: float
    end: float
    sent: dict[Key, Count] = field(default_factory=dict)

    def add(self, sent: Mapping[Key, Count]) -> None:
        for key, count in sent.items():
            known = self.sent.get(key)
            self.sent[key] = (
                Count(known.packets + count.packets, known.bytes + count.bytes) if known else count
            )


class TrafficHistory:
    """Who sent how much to whom, period by period; the older, the coarser."""

    def __init__(self, began: float, kept_s: float) -> None:
        """The history begins at `began`, and goes back `kept_s` at most."""
        self._kept_s = kept_s
        self._end = began
        self._periods: list[_Period] = []

    def add(self, when: float, sent: Mapping[Key, Count]) -> None:
        """Append what was sent since the last time; a period without traffic is one, too."""
        if when <= self._end:
            return
        period = _Period(self._end, when)
        period.add(sent)
        self._periods.append(period)
        self._end = when
        while self._periods[0].end <= when - self._kept_s:
            del self._periods[0]
        if len(self._periods) > PERIODS_KEPT:
            self._thin()

    def _thin(self) -> None:
        """Put the periods of the older half together, two by two."""
        old, new = self._periods[: PERIODS_KEPT // 2], self._periods[PERIODS_KEPT // 2 :]
        pairs = []
        for first, second in zip(old[::2], old[1::2], strict=True):
            both = _Period(first.begin, second.end, first.sent)
            both.add(second.sent)
            pairs.append(both)
        self._periods = pairs + new

    def matrix(self, seconds: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the last `seconds`, or of as much of them as is known.

        What is not seen in a period counts as zero there. A period of which only a part is asked for
        counts with that part.
        """
        since = self._end - seconds
        known_s, sums = 0.0, dict[Key, list[float]]()
        for period in self._periods:
            part = (period.end - max(since, period.begin)) / (period.end - period.begin)
            if part <= 0:
                continue
            known_s += part * (period.end - period.begin)
            for key, count in period.sent.items():
                total = sums.setdefault(key, [0.0, 0.0])
                total[0] += part * count.bytes * 8
                total[1] += part * count.packets
        return [
            TrafficSample(vip=vip, source=source, dip=dip, bps=bits / known_s, pps=packets / known_s)
            for (vip, source, dip), (bits, packets) in sums.items()
        ]
