"""How many SMuxes a data centre needs: what falls back to them in the worst failure, and what never left.

A failed container takes its ToRs' servers along: sources there send nothing. The same holds for a
failed ToR. Traffic of VIPs whose every DIP died is still counted, so the result is on the safe side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from controller.engine import SMUX, Assignment
from controller.engine.paths import Paths
from controller.engine.topology import Floats, Ints, Topology

FAILED_SWITCHES = 3


@dataclass(frozen=True)
class Fallback:
    """Traffic on the SMuxes, bit/s: with all alive, and in the worst failures of either kind."""

    unplaced: float
    container: float
    worst_container: int
    containers: tuple[float, ...]
    switches: float
    worst_switches: tuple[int, ...]
    sampled_switches: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The most that ever reaches the SMuxes."""
        return max(self.unplaced, self.container, self.switches)


class Failures:
    """Failure scenarios of one assignment."""

    def __init__(self, assignment: Assignment) -> None:
        """Index the assignment by row and source."""
        self.assignment = assignment
        self.topology, self.demands = assignment.topology, assignment.demands
        vips = self.demands.vip_count
        self._source_owner = np.repeat(np.arange(vips), np.diff(self.demands.source_start))
        self._owners = self.demands.owners()
        self._row_share = self.demands.row_share()
        self._on_smux = assignment.switch[:vips] == SMUX

    def fallback(self, dead: Ints) -> float:
        """Return the bit/s on the SMuxes once these switches are dead."""
        down = np.zeros(self.topology.switch_count + 1, bool)
        down[dead] = True
        vips = self.demands.vip_count
        lost_rows = down[self.assignment.switch] * self._row_share
        lost = np.where(self._on_smux | (lost_rows[:vips] > 0), 1.0, 0.0)
        tips = np.bincount(self._owners[vips:], weights=lost_rows[vips:], minlength=vips)
        lost = np.maximum(lost, tips)
        return float((lost * self.demands.traffic * self._alive_share(down)).sum())

    def _alive_share(self, down: NDArray[np.bool_]) -> Floats:
        gone = down[self.demands.source_switch]
        if not gone.any():
            return np.ones(self.demands.vip_count)
        share = np.bincount(
            self._source_owner[gone],
            weights=self.demands.source_share[gone],
            minlength=self.demands.vip_count,
        )
        return np.asarray(1 - share, np.float64)

    def worst_triple(self) -> tuple[float, tuple[int, ...]]:
        """Return the triple of switches whose failure puts most on the SMuxes, found exactly.

        What a triple adds is at most the sum of what its switches carry, so triples are tried by
        decreasing sum until no other can be worse.
        """
        carried = self.carried()
        order = np.argsort(-carried, kind="stable")
        unplaced = float(self.demands.traffic[self._on_smux].sum())
        size = min(FAILED_SWITCHES, len(order))
        best, worst = -1.0, tuple(order[:size].tolist())
        tried = min(12, len(order))
        seen: set[tuple[int, ...]] = set()
        while True:
            triples = sorted(combinations(range(tried), size), key=lambda t: -carried[order[list(t)]].sum())
            for triple in triples:
                bound = unplaced + float(carried[order[list(triple)]].sum())
                if bound <= best:
                    break
                if triple in seen:
                    continue
                seen.add(triple)
                value = self.fallback(order[list(triple)].astype(np.int32))
                if value > best:
                    best, worst = value, tuple(order[list(triple)].tolist())
            if tried >= len(order):
                break
            outside = unplaced + float(carried[order[: size - 1]].sum() + carried[order[tried]])
            if outside <= best:
                break
            tried = min(2 * tried, len(order))
        return best, worst

    def carried(self) -> Floats:
        """Return the bit/s that each switch carries, of VIPs and TIPs."""
        rows = self.assignment.switch != SMUX
        traffic = self.demands.traffic[self._owners] * self._row_share
        carried = np.zeros(self.topology.switch_count)
        np.add.at(carried, self.assignment.switch[rows], traffic[rows])
        return carried

    def analyse(self, samples: int, seed: int) -> Fallback:
        """Fail every container, the worst triple of switches, and `samples` random triples."""
        topology = self.topology
        containers = [
            self.fallback(np.flatnonzero(topology.container == k).astype(np.int32))
            for k in range(int(topology.container.max()) + 1)
        ]
        worst_triple, switches = self.worst_triple()
        rng = np.random.default_rng(seed)
        sampled = [
            self.fallback(rng.choice(topology.switch_count, FAILED_SWITCHES, replace=False).astype(np.int32))
            for _ in range(samples)
        ]
        return Fallback(
            unplaced=float(self.demands.traffic[self._on_smux].sum()),
            container=max(containers, default=0.0),
            worst_container=int(np.argmax(containers)) if containers else -1,
            containers=tuple(containers),
            switches=worst_triple,
            worst_switches=switches,
            sampled_switches=tuple(sampled),
        )

    def link_utilization(self, dead: Ints, smux_count: int) -> Floats:
        """Return the utilization of every link (1 = its whole capacity) once these switches are dead.

        Traffic takes the shortest paths that are left. VIPs on dead HMuxes go to the SMuxes, which stand
        evenly over the ToRs and share the traffic evenly. Dead DIPs' traffic goes to the other DIPs.
        """
        topology = self.topology
        down = np.zeros(topology.switch_count + 1, bool)
        down[dead] = True
        matrix = self._matrix(down, smux_count)
        return Paths(topology, dead).loads(matrix) / topology.capacity

    def _matrix(self, down: NDArray[np.bool_], smux_count: int) -> Floats:
        demands, n = self.demands, self.topology.switch_count
        switch = np.where(down[self.assignment.switch], SMUX, self.assignment.switch)
        rows_vip = self._owners
        at = np.where(switch[rows_vip] == SMUX, SMUX, switch)
        row_owner = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
        alive_dip = np.where(down[demands.dip_switch], 0.0, demands.dip_share)
        reached = np.bincount(rows_vip[row_owner], weights=alive_dip, minlength=demands.vip_count)
        served = np.where(reached > 0, demands.traffic, 0.0)
        dips = alive_dip * (served / np.maximum(reached, 1e-300))[rows_vip[row_owner]]
        # The last row and column of the matrix stand for the SMuxes: index -1.
        size = n + 1
        alive = ~down[demands.source_switch]
        sent = demands.source_share * served[self._source_owner]
        sent = np.where(alive, sent, 0.0)
        share = self._alive_share(down)
        dips = dips * share[rows_vip[row_owner]]
        cells = np.concatenate(
            (
                demands.source_switch.astype(np.int64) * size + at[self._source_owner] % size,
                (at[row_owner] % size).astype(np.int64) * size + demands.dip_switch,
            )
        )
        matrix: Floats = np.zeros((size, size))
        matrix += (
            np.bincount(cells, weights=np.concatenate((sent, dips)), minlength=size * size)
            .astype(np.float64)
            .reshape(size, size)
        )
        vips = demands.vip_count
        to_tips = np.bincount(row_owner, weights=dips, minlength=demands.row_count)[vips:]
        np.add.at(matrix, (at[rows_vip[vips:]] % size, at[vips:] % size), to_tips)
        entries = self.topology.entries[~down[self.topology.entries]]
        if entries.size:
            arriving = np.bincount(at[:vips] % size, weights=served * demands.internet, minlength=size)
            matrix[entries] += arriving / entries.size
        return _spread_smuxes(matrix, self.topology, down, smux_count)


def smuxes(traffic_bps: float, capacity_bps: float) -> int:
    """Return how many SMuxes of that capacity carry the traffic."""
    return math.ceil(traffic_bps / capacity_bps * (1 - 1e-12))


def _spread_smuxes(matrix: Floats, topology: Topology, down: NDArray[np.bool_], smux_count: int) -> Floats:
    """Replace the last row and column by the ToRs that hold SMuxes."""
    n = topology.switch_count
    shape = topology.shape
    tors = shape.tor_count if shape else n
    count = max(1, min(smux_count, tors))
    racks = np.unique(np.linspace(0, tors, count, endpoint=False).astype(np.int64))
    racks = racks[~down[racks]]
    spread = matrix[:n, :n].copy()
    if racks.size:
        spread[:, racks] += matrix[:n, n:] / racks.size
        spread[racks, :] += matrix[n:, :n] / racks.size
    return np.ascontiguousarray(spread)


__all__ = ["FAILED_SWITCHES", "Failures", "Fallback", "smuxes"]
