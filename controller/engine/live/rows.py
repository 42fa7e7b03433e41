"""What the records of VIPs ask of the network, kept as columns, so that new traffic costs little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
from numpy.typing import NDArray

from controller.engine import Demand, Demands, Flow, Topology
from controller.engine.topology import Floats, Ints
from controller.records import VipRecord

Traffic = Mapping[IPv4Address, Mapping[str, float]]
"""Bit/s by VIP and source: a switch, or `INTERNET`. A source that is no switch counts as the Internet."""


@dataclass(frozen=True)
class Reach:
    """Where a VIP or a TIP sends its share of the VIP's traffic, and the table entries it needs."""

    address: IPv4Address
    name: str
    switches: Ints
    shares: Floats
    entries: tuple[int, int, int, int]
    tables: NDArray[np.int64]

    @property
    def share(self) -> float:
        """The share of the VIP's traffic that goes this way."""
        return float(self.shares.sum())


@dataclass(frozen=True)
class Row:
    """A VIP's record as the engine sees it, without its traffic."""

    record: VipRecord
    home: str | None
    own: Reach
    tips: tuple[Reach, ...]

    def flow(self, sources: Mapping[str, float], topology: Topology) -> Flow:
        """Return what the VIP itself loads, with bit/s from each source."""
        inside: dict[int, float] = {}
        internet = 0.0
        for name, bps in sources.items():
            switch = topology.index.get(name)
            if switch is None:
                internet += bps
            else:
                inside[switch] = inside.get(switch, 0.0) + bps
        traffic = internet + sum(inside.values())
        return Flow(
            np.array(list(inside), np.int32),
            np.array(list(inside.values()), np.float64),
            internet,
            self.own.switches,
            self.own.shares * traffic,
            self.own.tables,
        )

    def tip_flow(self, tip: Reach, traffic: float, origin: int | None) -> Flow:
        """Return what a TIP loads when the VIP of so much traffic is on switch `origin` (None: on SMuxes)."""
        sources = np.array([] if origin is None else [origin], np.int32)
        sent = np.full(len(sources), tip.share * traffic)
        return Flow(sources, sent, 0.0, tip.switches, tip.shares * traffic, tip.tables)


def row_of(record: VipRecord, topology: Topology, locate: Callable[[IPv4Address], str]) -> Row:
    """Read a record. `locate` names the switch of a DIP; raises ValueError where that knows none."""
    demand = Demand.of(record.layout, [placed.tip for placed in record.tips], 0.0, {}, locate)
    tips = tuple(_reach(IPv4Address(tip.name), tip.dips, tip.tables.row(), topology) for tip in demand.tips)
    return Row(record, record.home, _reach(record.address, demand.dips, demand.tables.row(), topology), tips)


def _reach(
    address: IPv4Address, dips: Mapping[str, float], entries: tuple[int, int, int, int], topology: Topology
) -> Reach:
    switches = np.array([topology.index[name] for name in dips], np.int32)
    shares = np.array(list(dips.values()), np.float64)
    return Reach(address, str(address), switches, shares, entries, np.array(entries, np.int64))


class Columns:
    """The demands of many rows; all but the traffic is put together once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        reaches = [row.own for row in rows]
        for row in rows:
            reaches += row.tips
        self._vips = [row.own.address for row in rows]
        self._names = tuple([reach.name for reach in reaches])
        self._dip_start = starts([len(reach.switches) for reach in reaches])
        self._dip_switch = np.concatenate([np.zeros(0, np.int32), *[reach.switches for reach in reaches]])
        self._dip_share = np.concatenate([np.zeros(0), *[reach.shares for reach in reaches]])
        self._tables = np.array([reach.entries for reach in reaches], np.int64).reshape(-1, 4)
        self._tip_start = starts([len(row.tips) for row in rows])

    def demands(self, traffic: Traffic, topology: Topology) -> Demands:
        """Return the demands under measured traffic. A VIP that was not measured has none."""
        none: Mapping[str, float] = {}
        measured = [traffic.get(address, none) for address in self._vips]
        owner = np.repeat(np.arange(len(measured)), [len(sources) for sources in measured])
        amounts = np.array([bps for sources in measured for bps in sources.values()], np.float64)
        index = topology.index
        switch = np.array([index.get(name, -1) for sources in measured for name in sources], np.int32)
        total: Floats = np.bincount(owner, weights=amounts, minlength=len(measured)).astype(np.float64)
        whole = np.where(total > 0, total, 1.0)
        inside = switch >= 0
        outside = np.bincount(owner[~inside], weights=amounts[~inside], minlength=len(measured))
        owner = owner[inside]
        return Demands(
            names=self._names,
            traffic=total,
            internet=outside / whole,
            source_start=starts(np.bincount(owner, minlength=len(measured))),
            source_switch=switch[inside],
            source_share=amounts[inside] / whole[owner],
            dip_start=self._dip_start,
            dip_switch=self._dip_switch,
            dip_share=self._dip_share,
            tables=self._tables,
            tip_start=self._tip_start,
        )


def starts(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of the parts of so many begins, and where the last ends."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(np.asarray(counts, np.int64))))


__all__ = ["Columns", "Reach", "Row", "Traffic", "row_of"]
