"""What VIPs ask of the network: traffic, where it comes from, where the DIPs are, and table entries."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from controller.engine.topology import Floats, Ints, Topology
from duet_p4.model import Dip, Group, MuxTip, MuxVip

INTERNET = "internet"
"""The source of traffic that enters the network in equal shares at `Topology.entries`."""

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class TableUse:
    """Entries that a VIP or a TIP needs on the switch that carries it."""

    host: int = 1
    ecmp: int = 0
    tunneling: int = 0
    acl: int = 0

    @classmethod
    def of(cls, groups: Iterable[Group], *, host: int = 1, acl: int = 0) -> Self:
        """Count the slots of the groups, and the members that own a slot."""
        kept = list(groups)
        return cls(
            host=host,
            ecmp=sum(len(group.slots) for group in kept),
            tunneling=sum(len(group.used()) for group in kept),
            acl=acl,
        )

    def row(self) -> tuple[int, int, int, int]:
        """Return the entries in the order of `topology.TABLES`."""
        return (self.host, self.ecmp, self.tunneling, self.acl)


@dataclass(frozen=True)
class TipDemand:
    """One TIP of a VIP. `dips` gives, per switch, the share of the VIP's traffic that the TIP sends there."""

    name: str
    dips: Mapping[str, float]
    tables: TableUse

    @property
    def share(self) -> float:
        """The share of the VIP's traffic that goes through this TIP."""
        return math.fsum(self.dips.values())


@dataclass(frozen=True)
class Demand:
    """One VIP. `traffic` in bit/s; `sources` and `dips` give shares of it per switch.

    A source is a switch or `INTERNET`. `dips` are those the VIP's own tunneling entries reach;
    `tips` reach the rest. The shares of the sources, and those of all DIPs, sum to 1.
    """

    name: str
    traffic: float
    sources: Mapping[str, float]
    dips: Mapping[str, float]
    tables: TableUse
    tips: tuple[TipDemand, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError naming the VIP and what is wrong with it."""
        if not (math.isfinite(self.traffic) and self.traffic >= 0):
            raise ValueError(f"VIP {self.name} has traffic {self.traffic:g} bit/s")
        if not self.dips and not self.tips:
            raise ValueError(f"VIP {self.name} has no DIPs")
        reached = [*self.dips.values(), *(share for tip in self.tips for share in tip.dips.values())]
        for what, shares in (("sources", list(self.sources.values())), ("DIPs", reached)):
            if any(share < 0 for share in shares):
                raise ValueError(f"VIP {self.name}: a share of its {what} is negative")
            if (shares or self.traffic) and abs(math.fsum(shares) - 1) > _TOLERANCE:
                raise ValueError(
                    f"VIP {self.name}: the shares of its {what} sum to {math.fsum(shares):g}, not 1"
                )

    @classmethod
    def of(
        cls,
        layout: MuxVip,
        tips: Sequence[MuxTip],
        traffic: float,
        sources: Mapping[str, float],
        locate: Callable[[IPv4Address], str],
    ) -> Self:
        """Read a VIP's demand off its layout. `locate` names the ToR of a DIP's encap address.

        The VIP's groups, the default one and those of its ports, are taken to carry equal traffic;
        within a group traffic follows the slots, so weights count.
        """
        groups = layout.groups()
        by_address = {tip.address: tip for tip in tips}
        dips: dict[str, float] = {}
        reached: dict[IPv4Address, dict[str, float]] = {}
        for group in groups:
            for member, share in _slot_shares(group):
                part = share / len(groups)
                tip = by_address.get(member.address)
                if tip is None:
                    where = locate(member.encap)
                    dips[where] = dips.get(where, 0.0) + part
                    continue
                behind = reached.setdefault(tip.address, {})
                for dip, inner in _slot_shares(tip.group):
                    where = locate(dip.encap)
                    behind[where] = behind.get(where, 0.0) + part * inner
        return cls(
            name=str(layout.address),
            traffic=traffic,
            sources=sources,
            dips=dips,
            tables=TableUse.of(groups, host=int(layout.group is not None), acl=len(layout.ports)),
            tips=tuple(
                TipDemand(str(tip.address), reached[tip.address], TableUse.of([tip.group]))
                for tip in tips
                if tip.address in reached
            ),
        )


class FlowColumns(NamedTuple):
    """The flows of all rows but what comes from a TIP's VIP: `Flow`, one after the other."""

    source_start: NDArray[np.int64]
    sources: Ints
    sent: Floats
    internet: Floats
    dip_start: NDArray[np.int64]
    dips: Ints
    received: Floats
    tables: NDArray[np.int64]


def turn_of(name: str, switches: int) -> int:
    """Return the switch from which the ties of a VIP or TIP of this name are broken: a hash of it."""
    return zlib.crc32(name.encode()) % switches


# The same names come again with other traffic, interval by interval.
@lru_cache(maxsize=2)
def _index(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: row for row, name in enumerate(names)}


@lru_cache(maxsize=2)
def _turns(names: tuple[str, ...], switches: int) -> NDArray[np.int64]:
    return np.array([turn_of(name, switches) for name in names], np.int64)


class Flow(NamedTuple):
    """What one VIP or TIP loads on the network, and needs in tables, wherever it goes.

    `sent` is in bit/s from each switch of `sources`, `internet` in bit/s from the Internet, `received` in
    bit/s to each switch of `dips`; `tables` are entries in the order of `topology.TABLES`.
    """

    sources: Ints
    sent: Floats
    internet: float
    dips: Ints
    received: Floats
    tables: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Demands:
    """Many demands as columns. Rows 0..n-1 are VIPs, the rows after them are TIPs.

    `traffic` and `internet` (share) are per VIP; sources are CSR over VIPs, DIPs CSR over all rows
    (`dip_share` is of the VIP's traffic); TIP rows of VIP v are `n + tip_start[v]..n + tip_start[v + 1]`;
    `tables` holds the entries per row in the order of `topology.TABLES`.
    """

    names: Sequence[str]
    traffic: Floats
    internet: Floats
    source_start: NDArray[np.int64]
    source_switch: Ints
    source_share: Floats
    dip_start: NDArray[np.int64]
    dip_switch: Ints
    dip_share: Floats
    tables: NDArray[np.int64]
    tip_start: NDArray[np.int64]
    index: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Check the columns; raise ValueError naming the first VIP that is wrong."""
        object.__setattr__(self, "index", _index(tuple(self.names)))
        bad = np.flatnonzero(~(np.isfinite(self.traffic) & (self.traffic >= 0)))
        if bad.size:
            raise ValueError(f"VIP {self.names[int(bad[0])]} has traffic {self.traffic[bad[0]]:g} bit/s")
        rows = np.flatnonzero(np.diff(self.dip_start) == 0)
        direct = np.diff(self.tip_start) == 0
        for row in rows:
            if row >= len(direct) or direct[row]:
                raise ValueError(f"VIP {self.names[int(row)]} has no DIPs")

    @property
    def vip_count(self) -> int:
        """Number of VIPs."""
        return len(self.traffic)

    @property
    def row_count(self) -> int:
        """Number of VIPs and TIPs."""
        return len(self.tables)

    @property
    def total(self) -> float:
        """Traffic of all VIPs, bit/s."""
        return float(self.traffic.sum())

    def tips(self, vip: int) -> range:
        """Return the rows of a VIP's TIPs."""
        n = self.vip_count
        return range(n + int(self.tip_start[vip]), n + int(self.tip_start[vip + 1]))

    def owners(self) -> Ints:
        """Return the VIP of every row."""
        tips = np.repeat(np.arange(self.vip_count), np.diff(self.tip_start))
        return np.concatenate((np.arange(self.vip_count), tips)).astype(np.int32)

    def row_share(self) -> Floats:
        """Return the share of its VIP's traffic that each row carries: 1 for VIPs."""
        return self._row_share

    @cached_property
    def _row_share(self) -> Floats:
        shares = np.ones(self.row_count)
        sums = np.concatenate(([0.0], np.cumsum(self.dip_share)))
        tips = slice(self.vip_count, self.row_count)
        shares[tips] = (sums[self.dip_start[1:]] - sums[self.dip_start[:-1]])[tips]
        return shares

    @cached_property
    def row_traffic(self) -> Floats:
        """The traffic that each row carries, bit/s."""
        traffic: Floats = self.traffic[self.owners()] * self._row_share
        return traffic

    def turns(self, switches: int) -> NDArray[np.int64]:
        """Return, per row, the switch from which its ties are broken: a hash of its name."""
        return _turns(tuple(self.names), switches)

    @cached_property
    def flows(self) -> FlowColumns:
        """What the rows load; sources are those of VIPs."""
        return FlowColumns(
            self.source_start,
            self.source_switch,
            self._sent,
            self.internet * self.traffic,
            self.dip_start,
            self.dip_switch,
            self._received,
            self.tables,
        )

    def flow(self, row: int, origin: int | None = None) -> Flow:
        """Return what a row loads. The traffic of a TIP comes from switch `origin`, where its VIP is."""
        first, end = self._dip_bounds[row], self._dip_bounds[row + 1]
        dips, received, tables = self.dip_switch[first:end], self._received[first:end], self.tables[row]
        if origin is not None:
            at = np.array([origin], np.int32)
            return Flow(at, self.row_traffic[row : row + 1], 0.0, dips, received, tables)
        first, end = self._source_bounds[row], self._source_bounds[row + 1]
        internet = self._internet[row]
        return Flow(self.source_switch[first:end], self._sent[first:end], internet, dips, received, tables)

    @cached_property
    def _sent(self) -> Floats:
        sent: Floats = self.source_share * np.repeat(self.traffic, np.diff(self.source_start))
        return sent

    @cached_property
    def _received(self) -> Floats:
        received: Floats = self.dip_share * np.repeat(self.traffic[self.owners()], np.diff(self.dip_start))
        return received

    @cached_property
    def _internet(self) -> list[float]:
        internet: list[float] = (self.internet * self.traffic).tolist()
        return internet

    @cached_property
    def _source_bounds(self) -> list[int]:
        return [int(i) for i in self.source_start]

    @cached_property
    def _dip_bounds(self) -> list[int]:
        return [int(i) for i in self.dip_start]

    def with_traffic(self, traffic: Floats) -> Demands:
        """Return the same VIPs with other traffic, bit/s per VIP."""
        return replace(self, traffic=np.ascontiguousarray(traffic, np.float64))

    @classmethod
    def of(cls, demands: Sequence[Demand], topology: Topology) -> Demands:
        """Put demands into columns. Raises ValueError for a switch that the topology does not have."""
        rows: list[Demand | TipDemand] = [*demands, *(tip for demand in demands for tip in demand.tips)]
        sources = [_located(d.name, d.sources, topology, skip=INTERNET) for d in demands]
        dips = [_located(row.name, row.dips, topology) for row in rows]
        return cls(
            names=tuple(row.name for row in rows),
            traffic=np.array([d.traffic for d in demands], np.float64),
            internet=np.array([d.sources.get(INTERNET, 0.0) for d in demands], np.float64),
            source_start=_starts([len(s) for s in sources]),
            source_switch=np.array([switch for s in sources for switch, _ in s], np.int32),
            source_share=np.array([share for s in sources for _, share in s], np.float64),
            dip_start=_starts([len(d) for d in dips]),
            dip_switch=np.array([switch for d in dips for switch, _ in d], np.int32),
            dip_share=np.array([share for d in dips for _, share in d], np.float64),
            tables=np.array([r.tables.row() for r in rows], np.int64).reshape(-1, 4),
            tip_start=_starts([len(d.tips) for d in demands]),
        )


def _slot_shares(group: Group) -> list[tuple[Dip, float]]:
    counts = Counter(group.slots)
    size = len(group.slots)
    return [(dip, counts[index] / size) for index, dip in enumerate(group.members) if index in counts]


def _starts(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(np.array(counts, np.int64))))


def _located(
    name: str, shares: Mapping[str, float], topology: Topology, skip: str | None = None
) -> list[tuple[int, float]]:
    located = []
    for switch, share in shares.items():
        if switch == skip:
            continue
        if switch not in topology.index:
            raise ValueError(f"VIP {name} names switch {switch!r}, which the topology does not have")
        located.append((topology.index[switch], share))
    return located
