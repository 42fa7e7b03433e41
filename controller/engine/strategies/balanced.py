"""Ours: least traffic on the SMuxes in the worst failure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.engine.choices import KeepOrChoose, LeastLost
from controller.engine.demand import Demands
from controller.engine.strategy import Rule
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
        return KeepOrChoose(LeastLost.of(topology, self.switches))


__all__ = ["Balanced"]
