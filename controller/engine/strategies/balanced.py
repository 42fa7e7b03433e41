"""Ours: least traffic on the SMuxes in the worst failure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.engine.demand import Demands
from controller.engine.strategy import FEASIBLE, SMUX, TIE, Candidates, Rule
from controller.engine.topology import Ints, Topology


@dataclass(frozen=True)
class Balanced:
    """Ours: among feasible switches, the one whose failure domains would lose least; MRU breaks ties.

    SMuxes are provisioned for the worst failure: a container, or `switches` switches at once. Greedy
    evens out link utilization instead, which heaps traffic onto the Cores. Here a VIP goes where the
    larger of (its container's traffic, its switch's plus that of the busiest others) stays smallest.
    """

    switches: int = 3
    name: str = "balanced"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        boxes = int(topology.container.max(initial=-1)) + 1
        box = np.where(topology.container < 0, boxes, topology.container)
        worst = min(self.switches, topology.switch_count)

        def rule(candidates: Candidates) -> int:
            carried = candidates.carried
            others = np.sort(np.partition(carried, -worst)[-worst:])
            # Together with the busiest others; a switch that is one of those itself is counted once.
            lost = np.minimum(carried + others[1:].sum(), others.sum()) + candidates.traffic
            per_box = np.bincount(box, weights=carried, minlength=boxes + 1)
            per_box[boxes] = 0.0
            lost = np.maximum(lost, per_box[box] + candidates.traffic)
            lost[candidates.offer.bounds() > FEASIBLE] = np.inf
            while (least := float(lost.min())) < np.inf:
                tied = np.flatnonzero(lost <= least * (1 + TIE))
                costs = candidates.offer.of(tied)
                if (cheapest := float(costs.min())) <= FEASIBLE:
                    chosen = np.zeros(len(lost), np.bool_)
                    chosen[tied[costs <= cheapest + TIE]] = True
                    return candidates.first(chosen)
                lost[tied] = np.inf
            return SMUX

        return rule


__all__ = ["Balanced"]
