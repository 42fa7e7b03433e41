"""How good an assignment can be at all: linear programs that no assignment beats.

Three variables per VIP: the share of it on ToRs, on Aggs, on Cores; beyond the `LARGE` largest VIPs, one,
which may have the best of the three in every constraint. Every constraint is one that each
real assignment meets, summed over switches or over failures, so the optimum is a bound:

- at most `routes` /32 routes; per tier no more tunneling entries than its switches have; one VIP once; -
a VIP that alone exceeds every switch of a tier is not on that tier; - the links between ToRs and Aggs
together, and those between Aggs and Cores, each way: a VIP loads them at least with what it sends and
receives, less the best that standing beside its own sources and DIPs could save; - SMuxes are provisioned
for the total traffic of the VIPs on the worst container, which is no less than the average over
containers; on the worst three Cores, no less than three average ones; and on the switches of the three
largest VIPs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, vstack

from controller.engine.demand import Demands
from controller.engine.ledgers import ledger_for
from controller.engine.topology import Floats, Topology

FAILED_SWITCHES = 3
_CAPACITIES = (
    "links from Aggs to ToRs", "links from ToRs to Aggs",
    "links from Cores to Aggs", "links from Aggs to Cores",
    "/32 routes", "tunneling entries of ToRs", "tunneling entries of Aggs", "tunneling entries of Cores",
    "tunneling entries of all switches",
)  # fmt: skip
_FAILURES = (
    "an average container fails",
    "three average Cores fail",
    "the switches of the three largest VIPs fail",
)
_PRICE = 1e-7
LARGE = 1000
"""VIPs whose tier matters. With 4,000 the bound of a typical moment is higher by a millionth of the traffic,
and takes five times as long."""


@dataclass(frozen=True)
class Bound:
    """`hmux_share`: no assignment puts a larger share of the traffic on HMuxes. `fallback_bps`: none has
    less traffic on the SMuxes in its worst failure. `..._binds` name the constraints without which the bound
    would be another, the one that costs most first; "every VIP is placed" where none does.
    """

    hmux_share: float
    fallback_bps: float
    hmux_binds: tuple[str, ...] = ()
    fallback_binds: tuple[str, ...] = ()


def bound(topology: Topology, demands: Demands) -> Bound:
    """Solve both linear programs for a FatTree. Raises ValueError for another topology."""
    if topology.shape is None:
        raise ValueError("the bound needs a FatTree; build the topology with Topology.fat_tree")
    if not demands.total:
        return Bound(hmux_share=1.0, fallback_bps=0.0)
    program = _Program(topology, demands)
    most, hmux_binds = program.most_hmux_traffic()
    least, fallback_binds = program.least_fallback()
    return Bound(most / demands.total, least, hmux_binds, fallback_binds)


class _Program:
    def __init__(self, topology: Topology, demands: Demands) -> None:
        shape = topology.shape
        assert shape is not None
        self.topology, self.demands, self.shape = topology, demands, shape
        self.vips = demands.vip_count
        self.scale = demands.total
        self.traffic = demands.traffic / self.scale
        order = np.argsort(-demands.traffic, kind="stable")
        self.large, self.small = order[:LARGE], order[LARGE:]
        self._shares()
        self.upper = np.concatenate((self._feasible().reshape(-1), np.ones(self.small.size)))
        self.rows, self.limits = self._capacity_rows()
        self.names = [*_CAPACITIES, *("a VIP is placed once" for _ in range(self.large.size))]

    def _shares(self) -> None:
        """Find what standing beside one ToR, or in one container, saves a VIP at most."""
        demands, tors = self.demands, self.shape.tor_count
        owner = np.repeat(np.arange(self.vips), np.diff(demands.source_start))
        dip_owner = demands.owners()[np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))]
        pairs = np.concatenate((owner * tors + demands.source_switch, dip_owner * tors + demands.dip_switch))
        both = np.concatenate((demands.source_share, demands.dip_share))
        self.save_tor = _largest(pairs, both, tors, self.vips)
        boxes = pairs // tors * self.shape.containers + pairs % tors // self.shape.tors
        self.save_box = _largest(boxes, both, self.shape.containers, self.vips)
        self.inside = 1 - demands.internet

    def _columns(self, per_tier: Floats) -> Floats:
        """Turn coefficients per VIP and tier into those of the variables."""
        return np.concatenate((per_tier[self.large].reshape(-1), per_tier[self.small].min(axis=1)))

    def _feasible(self) -> Floats:
        """Return for large VIPs and tiers whether some switch of the tier could carry the VIP alone."""
        shape, demands = self.shape, self.demands
        ledger = ledger_for(self.topology, demands)
        at = [0, shape.tor_count, shape.tor_count + shape.agg_count]
        feasible = [
            np.minimum.reduceat(ledger.costs(demands.flow(vip)).all(), at) <= 1 + 1e-9
            for vip in self.large.tolist()
        ]
        return np.array(feasible, np.float64)

    def _capacity_rows(self) -> tuple[csr_matrix, Floats]:
        demands, shape, topology = self.demands, self.shape, self.topology
        traffic, inside, internet = self.traffic, self.inside, demands.internet
        tips = np.diff(demands.tip_start)
        crossing = internet * (shape.aggs - 1) / shape.aggs
        from_cores = internet * (shape.core_count - 1) / shape.core_count
        # A TIP's switch is free to choose, so only the way to the VIP's own switch counts.
        direct = (tips == 0).astype(np.float64)
        tor_down = _tiers(1 + direct - self.save_tor, direct + crossing, direct + crossing)
        tor_up = _tiers(inside + direct - self.save_tor, inside + crossing, inside + crossing)
        within = inside + direct - self.save_box
        core_down = _tiers(internet + within, internet + within, from_cores + direct)
        core_up = _tiers(within, within, inside + from_cores)
        usable = topology.usable / self.scale
        low = float(usable[: shape.tor_count * shape.aggs].sum())
        high = float(usable[2 * shape.tor_count * shape.aggs :].sum()) / 2
        rows = [
            (np.maximum(use, 0.0) * traffic[:, None], limit)
            for use, limit in ((tor_down, low), (tor_up, low), (core_down, high), (core_up, high))
        ]
        rows.append((np.tile((1.0 + tips)[:, None], 3), float(topology.routes)))
        tunnels = topology.tables[:, 2]
        first = [0, shape.tor_count, shape.tor_count + shape.agg_count, shape.switch_count]
        own = demands.tables[: self.vips, 2].astype(np.float64)
        for tier in range(3):
            row = np.zeros((self.vips, 3))
            row[:, tier] = own
            rows.append((row, float(tunnels[first[tier] : first[tier + 1]].sum())))
        entries = np.bincount(demands.owners(), weights=demands.tables[:, 2], minlength=self.vips)
        rows.append((np.tile(entries[:, None], 3), float(tunnels.sum())))
        capacity = csr_matrix(np.stack([self._columns(row) for row, _ in rows]))
        count = self.large.size
        once = csr_matrix(
            (np.ones(3 * count), (np.repeat(np.arange(count), 3), np.arange(3 * count))),
            shape=(count, capacity.shape[1]),
        )
        limits = np.concatenate(([limit for _, limit in rows], np.ones(count)))
        return vstack([capacity, once], format="csr"), limits

    def most_hmux_traffic(self) -> tuple[float, tuple[str, ...]]:
        """Return the most traffic that fits, bit/s, and what binds."""
        gain = self._columns(np.tile(self.traffic[:, None], 3))
        box = np.stack((np.zeros_like(gain), self.upper), axis=1)
        solved = linprog(-gain, A_ub=self.rows, b_ub=self.limits, bounds=box, method="highs-ipm")
        return -float(_optimum(solved)) * self.scale, _binding(solved, self.names)

    def least_fallback(self) -> tuple[float, tuple[str, ...]]:
        """Return the least traffic on SMuxes in the worst failure, bit/s, and what binds."""
        traffic, shape = self.traffic, self.shape
        # Each row: traffic on SMuxes in one (averaged) failure <= worst.
        failures = []
        lost = np.zeros((self.vips, 3))
        lost[:, :2] = (traffic / shape.containers)[:, None]
        failures.append((lost - traffic[:, None], float(traffic.sum())))
        lost = np.zeros((self.vips, 3))
        lost[:, 2] = traffic * min(1.0, FAILED_SWITCHES / shape.core_count)
        failures.append((lost - traffic[:, None], float(traffic.sum())))
        lost = np.zeros((self.vips, 3))
        largest = np.argsort(-traffic, kind="stable")[:FAILED_SWITCHES]
        lost[largest] = traffic[largest, None]
        failures.append((lost - traffic[:, None], float(traffic.sum())))
        matrix = csr_matrix(np.stack([self._columns(row) for row, _ in failures]))
        worst = csr_matrix(np.full((len(failures), 1), -1.0))
        rows = vstack(
            [
                hstack([self.rows, csr_matrix((self.rows.shape[0], 1))]),
                hstack([matrix, worst]),
            ],
            format="csr",
        )
        limits = np.concatenate((self.limits, [-unplaced for _, unplaced in failures]))
        cost = np.zeros(self.upper.size + 1)
        cost[-1] = 1.0
        upper = np.append(self.upper, np.inf)
        solved = linprog(
            cost,
            A_ub=rows,
            b_ub=limits,
            bounds=np.stack((np.zeros_like(upper), upper), axis=1),
            method="highs",
        )
        return float(_optimum(solved)) * self.scale, _binding(solved, [*self.names, *_FAILURES])


def _binding(solved: object, names: list[str]) -> tuple[str, ...]:
    """Name the constraints with a shadow price, by decreasing price; that a VIP is placed once is none to
    tell.
    """
    prices = -np.asarray(solved.ineqlin.marginals)  # type: ignore[attr-defined]
    found = {names[at]: prices[at] for at in np.argsort(prices) if prices[at] > _PRICE}
    told = [name for name in reversed(found) if name != "a VIP is placed once"]
    return tuple(told) or ("every VIP is placed",)


def _optimum(solved: object) -> float:
    if getattr(solved, "status", 1) != 0:
        raise RuntimeError(f"the linear program was not solved: {getattr(solved, 'message', solved)}")
    return float(solved.fun)  # type: ignore[attr-defined]


def _tiers(tor: Floats, agg: Floats, core: Floats) -> Floats:
    return np.stack((tor, agg, core), axis=1)


def _largest(pairs: Floats, values: Floats, per_vip: int, vips: int) -> Floats:
    """Sum values of equal (vip, place) pairs, and return the largest sum of every VIP."""
    keys, position = np.unique(pairs, return_inverse=True)
    sums = np.bincount(position, weights=values)
    largest = np.zeros(vips)
    np.maximum.at(largest, (keys // per_vip).astype(np.int64), sums)
    return largest


__all__ = ["Bound", "bound"]
