"""What falls back to the SMuxes: in the failures that the paper provisions for, and in the worst there are.

The text's rule: the *total* traffic of the VIPs on the switches of one container, or on three random
switches. Beside it stand the worst triple of all, found exactly, and the traffic of a container's failure
without what the dead servers themselves would have sent. Traffic of VIPs whose every DIP died is counted,
so all are on the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.engine import SMUX, Assignment
from controller.engine.paths import Paths
from controller.engine.topology import Floats, Ints, Topology

FAILED_SWITCHES = 3


@dataclass(frozen=True)
class Fallback:
    """Traffic on the SMuxes, bit/s: with all alive, and in failures. The last three are switches."""

    unplaced: float
    containers: tuple[float, ...]
    living_containers: tuple[float, ...]
    """As `containers`, without what sources in the dead container would have sent."""
    triples: tuple[float, ...]
    exact: float
    worst_container: tuple[int, ...]
    worst_sample: tuple[int, ...]
    worst_triple: tuple[int, ...]

    @property
    def text(self) -> float:
        """The most under the paper's rule: any container, or the random triples."""
        return max(self.unplaced, *self.containers, *self.triples)

    @property
    def worst(self) -> float:
        """The most in any container's failure or that of any three switches."""
        return max(self.unplaced, self.exact, *self.containers)


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
        self.unplaced = float(self.demands.traffic[self._on_smux].sum())
        # What each switch carries of VIPs themselves; the last entry stands for the SMuxes, index -1.
        self._of_vips = np.bincount(
            assignment.switch[:vips] % (self.topology.switch_count + 1),
            weights=self.demands.traffic,
            minlength=self.topology.switch_count + 1,
        )
        self._split = np.flatnonzero((np.diff(self.demands.tip_start) > 0) & ~self._on_smux)
        at = np.isin(self._owners[vips:], self._split)
        self._tip_switch = assignment.switch[vips:][at]
        self._tip_share = self._row_share[vips:][at]
        self._tip_of = np.searchsorted(self._split, self._owners[vips:][at])

    def lost(self, dead: Ints) -> Floats:
        """Return the share of every VIP's traffic that is on the SMuxes once these switches are dead."""
        down = np.zeros(self.topology.switch_count + 1, bool)
        down[dead] = True
        vips = self.demands.vip_count
        lost_rows = down[self.assignment.switch] * self._row_share
        lost = np.where(self._on_smux | (lost_rows[:vips] > 0), 1.0, 0.0)
        tips = np.bincount(self._owners[vips:], weights=lost_rows[vips:], minlength=vips)
        return np.maximum(lost, tips)

    def fallback(self, dead: Ints) -> float:
        """Return the bit/s on the SMuxes once these switches are dead."""
        behind = (self._split_lost(dead) * self.demands.traffic[self._split]).sum()
        return float(self.unplaced + self._of_vips[dead].sum() + behind)

    def _split_lost(self, dead: Ints) -> Floats:
        """Return the share of the VIPs with TIPs that is lost by TIPs alone: their own switch is alive."""
        down = np.zeros(self.topology.switch_count + 1, bool)
        down[dead] = True
        lost = np.bincount(
            self._tip_of, weights=down[self._tip_switch] * self._tip_share, minlength=self._split.size
        )
        return np.where(down[self.assignment.switch[self._split]], 0.0, lost)

    def living(self, boxes: list[Ints]) -> list[float]:
        """Return the fallback of each container's failure without what its own ToRs would have sent."""
        demands, switch = self.demands, self.assignment.switch
        box = np.full(self.topology.switch_count + 1, -1)
        for number, switches in enumerate(boxes):
            box[switches] = number
        at, home = box[demands.source_switch], np.where(self._on_smux, -1, box[switch[: demands.vip_count]])
        sent = demands.source_share * demands.traffic[self._source_owner]
        lost = (self._on_smux[self._source_owner] | (at == home[self._source_owner])).astype(np.float64)
        behind = np.zeros((len(boxes), demands.vip_count))
        for number, switches in enumerate(boxes):
            behind[number, self._split] = self._split_lost(switches)
        lost += behind[at, self._source_owner] * (at >= 0)
        gone = np.bincount(at[at >= 0], weights=(sent * lost)[at >= 0], minlength=len(boxes))
        return [self.fallback(switches) - float(own) for switches, own in zip(boxes, gone, strict=True)]

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

        What a switch adds to others is at most what it carries (a VIP on one and its TIP on the other count
        once), so triples are tried by decreasing sums and whole branches are left out.
        """
        carried = self.carried()
        order = np.argsort(-carried, kind="stable").astype(np.int32)
        if len(order) <= FAILED_SWITCHES:
            return self.fallback(order), tuple(order.tolist())
        loads = carried[order]
        best, worst = -1.0, (0, 1, 2)
        for i in range(len(order) - 2):
            if self.unplaced + loads[i : i + 3].sum() <= best:
                break
            for j in range(i + 1, len(order) - 1):
                if self.unplaced + loads[i] + loads[j] + loads[j + 1] <= best:
                    break
                pair = self.fallback(order[[i, j]])
                for k in range(j + 1, len(order)):
                    if pair + loads[k] <= best:
                        break
                    value = self.fallback(order[[i, j, k]])
                    if value > best:
                        best, worst = value, (i, j, k)
        return best, tuple(order[list(worst)].tolist())

    def carried(self) -> Floats:
        """Return the bit/s that each switch carries, of VIPs and TIPs."""
        rows = self.assignment.switch != SMUX
        traffic = self.demands.traffic[self._owners] * self._row_share
        carried = np.zeros(self.topology.switch_count)
        np.add.at(carried, self.assignment.switch[rows], traffic[rows])
        return carried

    def analyse(self, samples: int, seed: int) -> Fallback:
        """Fail every container, `samples` random triples of switches, and the worst triple of all."""
        topology = self.topology
        boxes = [
            np.flatnonzero(topology.container == k).astype(np.int32)
            for k in range(int(topology.container.max()) + 1)
        ]
        containers = [self.fallback(box) for box in boxes]
        rng = np.random.default_rng(seed)
        size = min(FAILED_SWITCHES, topology.switch_count)
        drawn = [
            rng.choice(topology.switch_count, size, replace=False).astype(np.int32) for _ in range(samples)
        ]
        triples = [self.fallback(dead) for dead in drawn]
        exact, worst = self.worst_triple()
        return Fallback(
            unplaced=self.unplaced,
            containers=tuple(containers),
            living_containers=tuple(self.living(boxes)),
            triples=tuple(triples),
            exact=exact,
            worst_container=tuple(boxes[int(np.argmax(containers))].tolist()) if boxes else (),
            worst_sample=tuple(drawn[int(np.argmax(triples))].tolist()) if triples else (),
            worst_triple=worst,
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


__all__ = ["FAILED_SWITCHES", "Failures", "Fallback"]
