"""The ledger of networks of any form and size, such as a FatTree of which something is down.

Exact costs by walking a VIP's flows are too slow to do for every switch. So the cost of every switch is first
bounded from below, by the first and the last links of all flows, where nearly always the bottleneck
is; then switches are walked one by one, the most promising first, until no bound is below the best found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Flow
from controller.engine.graph_costs import lower_bounds, scratch, walk
from controller.engine.ledger import NONE_BARRED, NOWHERE, Costs, Ledger
from controller.engine.routes import routes_of
from controller.engine.topology import Floats, Ints, Topology


class GraphLedger(Ledger):
    """For any topology, with sources and DIPs at any switch."""

    def __init__(self, topology: Topology) -> None:
        """Find all routes."""
        super().__init__(topology)
        self._routes = routes_of(topology)
        self._work = scratch(topology.switch_count, topology.link_count)
        self._from_internet = self._arriving()

    def costs(self, flow: Flow, barred: Ints = NONE_BARRED) -> Costs:
        """Return what placing a flow on each switch would lead to."""
        topology, (_, nexts, arrivals) = self.topology, self._routes
        bounds = self.tables.costs(flow.tables)
        lower_bounds(
            topology.source, topology.target, topology.usable, self.links,
            nexts.first, nexts.start, nexts.links, nexts.by_owner, nexts.by_other,
            arrivals.first, arrivals.start, arrivals.links, arrivals.shares, arrivals.by_owner,
            arrivals.by_other, self._from_internet, *flow[:5], bounds,
        )  # fmt: skip
        bounds[self.cut_off] = bounds[barred] = np.inf
        return _BoundedCosts(self, flow, bounds)

    def links_at(self, flow: Flow, switch: int, limit: float) -> float:
        """Return the utilization of the busiest link with a flow on a switch, or of one above `limit`."""
        return self._walk(flow, switch, limit, 0)[1]

    def _load(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        return self._walk(flow, switch, np.inf, sign)

    def _walk(self, flow: Flow, switch: int, limit: float, sign: int) -> tuple[int, float]:
        topology, (hops, nexts, _) = self.topology, self._routes
        busiest, link = walk(
            topology.target, topology.usable, self.links, hops,
            nexts.first, nexts.start, nexts.links, nexts.by_other, topology.entries, *self._work,
            *flow[:5], switch, limit, sign,
        )  # fmt: skip
        return link, busiest

    def _arriving(self) -> Floats:
        """Return per link the share of the Internet's traffic that comes by it to a VIP at its end."""
        arriving, entries = np.zeros(self.topology.link_count), self.topology.entries
        arrivals = self._routes.arrivals
        for entry in entries.tolist():
            numbers = arrivals.first[:-1] + arrivals.by_other[entry]
            begins, ends = arrivals.start[numbers], arrivals.start[numbers + 1]
            for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
                arriving[arrivals.links[begin:end]] += arrivals.shares[begin:end] / len(entries)
        return arriving


class _BoundedCosts(Costs):
    """Costs that are found out when they are asked for. `_bounds` are exact where `_known`."""

    def __init__(self, ledger: GraphLedger, flow: Flow, bounds: Floats) -> None:
        self._ledger, self._flow, self._bounds = ledger, flow, bounds
        self._known = np.isinf(bounds)

    def at(self, switch: int) -> float:
        """Return the cost of one switch."""
        return self._look(switch, np.inf)

    def bounds(self) -> Floats:
        """Return numbers that no cost is below."""
        return self._bounds

    def of(self, switches: NDArray[np.int64]) -> Floats:
        """Return the costs of some switches."""
        return np.array([self.at(switch) for switch in switches.tolist()], np.float64)

    def least(self) -> float:
        """Return the smallest cost."""
        return float(self._bounds[self._cheapest()])

    def first(self, limit: float, turn: int) -> int:
        """Return the first switch from `turn` on whose cost is at most `limit`, or NOWHERE."""
        promising = np.flatnonzero(self._bounds <= limit)
        at = int(np.searchsorted(promising, turn))
        return self.pick(np.concatenate((promising[at:], promising[:at])), limit)

    def pick(self, order: NDArray[np.int64], limit: float) -> int:
        """Return the first switch of `order` whose cost is at most `limit`, or NOWHERE."""
        for switch in order[self._bounds[order] <= limit].tolist():
            if self._look(switch, limit) <= limit:
                return int(switch)
        return NOWHERE

    def runner_up(self, switch: int) -> int:
        """Return the switch of the smallest cost besides `switch`."""
        own, known = self._bounds[switch], self._known[switch]
        self._bounds[switch], self._known[switch] = np.inf, True
        rival = self._cheapest()
        found = rival if self._bounds[rival] < np.inf else NOWHERE
        self._bounds[switch], self._known[switch] = own, known
        return found

    def all(self) -> Floats:
        """Return the costs of all switches."""
        for switch in np.flatnonzero(~self._known).tolist():
            self._look(switch, np.inf)
        return self._bounds

    def _cheapest(self) -> int:
        """Return the switch of the smallest cost: the one whose bound is smallest, once that is exact."""
        best, least = -1, np.inf
        if self._known.any():
            settled = np.where(self._known, self._bounds, np.inf)
            best = int(settled.argmin())
            least = float(settled[best])
        while True:
            switch = int(self._bounds.argmin())
            if self._known[switch] or self._bounds[switch] >= least:
                return switch if self._known[switch] else best
            cost = self._look(switch, least)
            if self._known[switch] and cost < least:
                best, least = switch, cost

    def _look(self, switch: int, limit: float) -> float:
        """Return the cost of a switch, or a bound of it above `limit`; keep what was found."""
        if not self._known[switch]:
            busiest = self._ledger.links_at(self._flow, switch, limit)
            self._bounds[switch] = max(self._bounds[switch], busiest)
            self._known[switch] = busiest <= limit
        return float(self._bounds[switch])


__all__ = ["GraphLedger"]
