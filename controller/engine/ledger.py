"""What a placement costs: exact loads on directed links under ECMP, and table entries.

A `Ledger` keeps the utilization of every resource while VIPs are placed, and says what placing the
next one on each switch would lead to. Two ledgers give the same numbers: `DenseLedger`, here, for
any small network with numpy alone; `FatTreeLedger` for data-centre size (module `fattree`).

Traffic of a VIP on switch s goes from its sources to s, and from s to the DIPs. Every switch on the
way splits it evenly over its next hops on shortest paths. A resource that a placement does not touch
is no part of its cost: the switch with the smallest maximum over the touched resources also has the
smallest maximum over all, so this only breaks the ties of the paper's MRU, towards the lighter switch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from controller.engine.demand import Demands
from controller.engine.topology import TABLES, Floats, Ints, Topology

DENSE_LIMIT = 40_000_000
"""Most entries (switches x switches x links) of a dense ECMP table: 320 MB."""

TOUCHED = 1e-12
"""A load below this share of a VIP's traffic is rounding, not traffic."""


class Ledger(ABC):
    """Utilization of all resources (1 = full, headroom taken off), and the cost of the next placement."""

    def __init__(self, topology: Topology, demands: Demands) -> None:
        """Start with nothing placed."""
        self.topology = topology
        self.demands = demands
        self.links: Floats = np.zeros(topology.link_count)
        self.entries = np.zeros((topology.switch_count, len(TABLES)), order="F")
        with np.errstate(divide="ignore"):
            self._per_entry = np.asfortranarray(1 / topology.tables)
        self._row_share = demands.row_share()

    def costs(self, row: int, origin: int | None = None) -> Floats:
        """Return, per switch, the maximum utilization over the resources that placing `row` there touches.

        `row` is a VIP, or a TIP whose traffic comes from switch `origin`, where its VIP is. Above 1 the
        switch is infeasible; infinite where it lacks a table altogether.
        """
        costs = self._link_costs(*self._flow(row, origin))
        np.maximum(costs, self._table_costs(row), out=costs)
        return costs

    def place(self, row: int, switch: int, origin: int | None = None) -> tuple[int, float]:
        """Put `row` on a switch; return the most utilized resource it touches, and its utilization."""
        link, busiest = self._add(*self._flow(row, origin), switch, 1.0)
        self.entries[switch] += self.demands.tables[row]
        table, filled = self._fullest(row, switch)
        if filled >= busiest:
            return self.topology.link_count + switch * len(TABLES) + table, filled
        return link, busiest

    def remove(self, row: int, switch: int, origin: int | None = None) -> None:
        """Take `row` off a switch again."""
        self._add(*self._flow(row, origin), switch, -1.0)
        self.entries[switch] -= self.demands.tables[row]

    def worst(self) -> float:
        """Return the highest utilization of any resource."""
        filled = self.entries * np.where(np.isfinite(self._per_entry), self._per_entry, 0.0)
        return max(float(self.links.max(initial=0.0)), float(filled.max(initial=0.0)))

    def _flow(self, row: int, origin: int | None) -> tuple[Ints, Floats, float, Ints, Floats]:
        """Return sources with bit/s, the Internet's bit/s, DIP switches with bit/s."""
        demands = self.demands
        dips = slice(demands.dip_start[row], demands.dip_start[row + 1])
        if origin is not None:
            traffic = float(demands.traffic[self._owner(row)])
            amounts = np.array([traffic * self._row_share[row]])
            return (
                np.array([origin], np.int32),
                amounts,
                0.0,
                demands.dip_switch[dips],
                demands.dip_share[dips] * traffic,
            )
        traffic = float(demands.traffic[row])
        sources = slice(demands.source_start[row], demands.source_start[row + 1])
        return (
            demands.source_switch[sources],
            demands.source_share[sources] * traffic,
            float(demands.internet[row]) * traffic,
            demands.dip_switch[dips],
            demands.dip_share[dips] * traffic,
        )

    def _owner(self, row: int) -> int:
        tip = row - self.demands.vip_count
        return int(np.searchsorted(self.demands.tip_start, tip, side="right")) - 1

    def _table_costs(self, row: int) -> Floats:
        worst = np.zeros(self.topology.switch_count)
        for table, need in enumerate(self.demands.tables[row].tolist()):
            if need:
                np.maximum(worst, (self.entries[:, table] + need) * self._per_entry[:, table], out=worst)
        return worst

    def _fullest(self, row: int, switch: int) -> tuple[int, float]:
        filled = [
            (self.entries[switch, table] * self._per_entry[switch, table] if need else 0.0)
            for table, need in enumerate(self.demands.tables[row].tolist())
        ]
        table = max(range(len(filled)), key=filled.__getitem__)
        return table, float(filled[table])

    @abstractmethod
    def _link_costs(
        self, sources: Ints, sent: Floats, internet: float, dips: Ints, received: Floats
    ) -> Floats:
        """Return per switch the highest utilization among the links that placing there would load."""

    @abstractmethod
    def _add(
        self,
        sources: Ints,
        sent: Floats,
        internet: float,
        dips: Ints,
        received: Floats,
        switch: int,
        sign: float,
    ) -> tuple[int, float]:
        """Load the links; return the busiest link touched and its utilization (-1, 0.0 for none)."""


class DenseLedger(Ledger):
    """For any topology that is small: a table of what share of a flow u -> v each link carries."""

    def __init__(self, topology: Topology, demands: Demands) -> None:
        """Build the table; ValueError where it would not fit."""
        super().__init__(topology, demands)
        self._shares = ecmp_shares(topology)
        self._entry = np.full(len(topology.entries), 1 / len(topology.entries))

    def _link_costs(
        self, sources: Ints, sent: Floats, internet: float, dips: Ints, received: Floats
    ) -> Floats:
        loads = np.tensordot(sent, self._shares[sources], axes=1)
        loads += np.tensordot(received, self._shares[:, dips], axes=(0, 1))
        if internet:
            loads += internet * np.tensordot(self._entry, self._shares[self.topology.entries], axes=1)
        total = sent.sum() + internet + received.sum()
        busy = np.where(loads > TOUCHED * total, self.links + loads / self.topology.usable, 0.0)
        return np.asarray(busy.max(axis=1, initial=0.0), np.float64)

    def _add(
        self,
        sources: Ints,
        sent: Floats,
        internet: float,
        dips: Ints,
        received: Floats,
        switch: int,
        sign: float,
    ) -> tuple[int, float]:
        loads = sent @ self._shares[sources, switch] + received @ self._shares[switch, dips]
        if internet:
            loads = loads + internet * (self._entry @ self._shares[self.topology.entries, switch])
        touched = np.flatnonzero(loads > TOUCHED * (sent.sum() + internet + received.sum()))
        if not touched.size:
            return -1, 0.0
        self.links[touched] += sign * loads[touched] / self.topology.usable[touched]
        busiest = int(touched[self.links[touched].argmax()])
        return busiest, float(self.links[busiest])


def ecmp_shares(topology: Topology) -> Floats:
    """Return `shares[u, v, link]`: the share of a flow from switch u to v that each link carries.

    At every switch a flow splits evenly over the next hops on its shortest paths; parallel links
    count as several next hops. Raises ValueError where the table would be too large.
    """
    n, links = topology.switch_count, topology.link_count
    if n * n * links > DENSE_LIMIT:
        raise ValueError(
            f"{n} switches and {links} links are too many for a topology that is no FatTree; "
            "build it with Topology.fat_tree"
        )
    start, order = topology.out_links
    hops = np.full((n, n), n, np.int64)
    np.fill_diagonal(hops, 0)
    for _ in range(n):
        via = hops.copy()
        np.minimum.at(via, topology.source, hops[topology.target] + 1)
        if np.array_equal(via, hops):
            break
        hops = via
    shares = np.zeros((n, n, links))
    for v in range(n):
        for u in np.argsort(hops[:, v], kind="stable")[1:]:
            out = order[start[u] : start[u + 1]]
            out = out[hops[topology.target[out], v] == hops[u, v] - 1]
            shares[u, v] = shares[topology.target[out], v].sum(axis=0)
            shares[u, v, out] += 1
            shares[u, v] /= len(out)
    return shares


def ledger_for(topology: Topology, demands: Demands) -> Ledger:
    """Return the ledger that suits the size: numba is only loaded for large FatTrees."""
    if topology.shape is None or topology.switch_count**2 * topology.link_count <= DENSE_LIMIT // 20:
        return DenseLedger(topology, demands)
    from controller.engine.fattree import FatTreeLedger

    return FatTreeLedger(topology, demands)


__all__ = ["DENSE_LIMIT", "TOUCHED", "DenseLedger", "Ledger", "ecmp_shares", "ledger_for"]
