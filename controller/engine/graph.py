"""The ledger of networks of any form and size, such as a FatTree of which something is down.

Exact costs by walking a VIP's flows are too slow to do for every switch. So the cost of every switch is first
bounded from below, by the first and the last links of all flows, where nearly always the bottleneck
is; then switches are walked one by one, the most promising first, until no bound is below the best found.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Flow
from controller.engine.graph_costs import WITNESSED, lower_bounds, raise_by_groups, scratch, walk
from controller.engine.ledger import NONE_BARRED, NOWHERE, TOUCHED, Costs, Ledger
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
        self._to_neighbours = self._coming()
        self._witness = np.full(topology.switch_count, -1, np.int32)

    def costs(self, flow: Flow, barred: Ints = NONE_BARRED) -> Costs:
        """Return what placing a flow on each switch would lead to."""
        topology, routes = self.topology, self._routes
        nexts, arrivals, leaving, coming = routes.nexts, routes.arrivals, routes.leaving, routes.coming
        starts, on, shares = self._to_neighbours
        bounds = self.tables.costs(flow.tables)
        lower_bounds(
            topology.source, topology.target, topology.usable, self.links,
            nexts.first, nexts.start, nexts.links, nexts.by_owner, nexts.by_other,
            arrivals.first, arrivals.start, arrivals.links, arrivals.shares, arrivals.by_owner,
            arrivals.by_other, self._from_internet, self._witness, *flow[:5], bounds,
        )  # fmt: skip
        raise_by_groups(
            topology.usable, self.links, routes.groups,
            leaving.first, leaving.start, leaving.links, leaving.shares, leaving.by_owner,
            coming.first, coming.start, coming.links, coming.shares, coming.by_owner,
            starts, on, shares, self._work.load, self._work.touched, *flow[:5], bounds,
        )  # fmt: skip
        bounds[self.cut_off] = bounds[barred] = np.inf
        return _BoundedCosts(self, flow, bounds)

    def links_at(self, flow: Flow, switch: int, limit: float) -> float:
        """Return the utilization of the busiest link with a flow on a switch, or of one above `limit`."""
        busiest = self._walk(flow, switch, limit, 0)[1]
        if busiest > limit and flow.internet > 0 and self._routes.groups[switch] < 0:
            # The bound did not show it: the next time it shall show what the Internet's traffic meets.
            # Traffic of the switch's own goes nowhere, but makes smaller shares than asked for too little.
            own, enough = np.array([switch], np.int32), np.array([WITNESSED / TOUCHED])
            probe = Flow(own, enough, 1.0, own[:0], enough[:0], flow.tables)
            self._witness[switch] = self._walk(probe, switch, np.inf, 0)[0]
        return busiest

    def _load(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        return self._walk(flow, switch, np.inf, sign)

    def _walk(self, flow: Flow, switch: int, limit: float, sign: int) -> tuple[int, float]:
        topology, nexts = self.topology, self._routes.nexts
        busiest, link = walk(
            topology.target, topology.usable, self.links, self._routes.hops,
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

    def _coming(self) -> tuple[NDArray[np.int64], Ints, Floats]:
        """Return per group the links into its neighbours, and the Internet's shares on them: CSR."""
        coming, entries = self._routes.coming, self.topology.entries
        starts, links, shares = [0], [np.zeros(0, np.int32)], [np.zeros(0)]
        for group in range(len(coming.first) - 1):
            sums = np.zeros(self.topology.link_count)
            for number in (coming.first[group] + coming.by_owner[group, entries].astype(np.int64)).tolist():
                part = slice(coming.start[number], coming.start[number + 1])
                sums[coming.links[part]] += coming.shares[part] / len(entries)
            links.append(np.flatnonzero(sums).astype(np.int32))
            shares.append(sums[links[-1]])
            starts.append(starts[-1] + len(links[-1]))
        return np.array(starts, np.int64), np.concatenate(links), np.concatenate(shares)


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
