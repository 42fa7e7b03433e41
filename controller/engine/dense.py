"""The ledger of small networks of any form: numpy alone, and a table of all flows' shares of all links."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from controller.engine.demand import Flow
from controller.engine.ledger import NONE_BARRED, NOWHERE, TOUCHED, Costs, KnownCosts, Ledger
from controller.engine.topology import Floats, Ints, Topology


class DenseLedger(Ledger):
    """Knows what share of a flow u -> v each link carries; memory grows with switches^2 x links."""

    def __init__(self, topology: Topology) -> None:
        """Build the table."""
        super().__init__(topology)
        self._shares = ecmp_shares(topology)
        count = len(topology.entries)
        self._entry = np.full(count, 1 / count if count else 0.0)

    def costs(self, flow: Flow, barred: Ints = NONE_BARRED) -> Costs:
        """Return what placing a flow on each switch would lead to."""
        loads = np.tensordot(flow.sent, self._shares[flow.sources], axes=1)
        loads += np.tensordot(flow.received, self._shares[:, flow.dips], axes=(0, 1))
        if flow.internet:
            loads += flow.internet * np.tensordot(self._entry, self._shares[self.topology.entries], axes=1)
        busy = np.where(loads > self._least(flow), self.links + loads / self.topology.usable, 0.0)
        costs = np.maximum(busy.max(axis=1, initial=0.0), self.tables.costs(flow.tables))
        costs[self.cut_off] = costs[barred] = np.inf
        return KnownCosts(costs)

    def _load(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        loads = flow.sent @ self._shares[flow.sources, switch]
        loads = loads + flow.received @ self._shares[switch, flow.dips]
        if flow.internet:
            loads += flow.internet * (self._entry @ self._shares[self.topology.entries, switch])
        touched = np.flatnonzero(loads > self._least(flow))
        if not touched.size:
            return NOWHERE, 0.0
        self.links[touched] += sign * loads[touched] / self.topology.usable[touched]
        busiest = int(touched[self.links[touched].argmax()])
        return busiest, float(self.links[busiest])

    def _least(self, flow: Flow) -> float:
        return float(TOUCHED * (flow.sent.sum() + flow.internet + flow.received.sum()))


@lru_cache(maxsize=2)
def ecmp_shares(topology: Topology) -> Floats:
    """Return `shares[u, v, link]`: the share of a flow from switch u to v that each link carries.

    At every switch a flow splits evenly over the next hops on its shortest paths; parallel links
    count as several next hops. All zero where there is no path. Kept for the next
    ledger of the same topology.
    """
    n, links = topology.switch_count, topology.link_count
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
            if hops[u, v] >= n:
                break
            out = order[start[u] : start[u + 1]]
            out = out[hops[topology.target[out], v] == hops[u, v] - 1]
            shares[u, v] = shares[topology.target[out], v].sum(axis=0)
            shares[u, v, out] += 1
            shares[u, v] /= len(out)
    shares.flags.writeable = False
    return shares


__all__ = ["DenseLedger", "ecmp_shares"]
