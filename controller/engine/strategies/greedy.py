"""The paper's assignment (section 4): smallest maximum resource utilization, anew, sticky, or once only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controller.engine.choices import KeepOrChoose
from controller.engine.demand import Demands
from controller.engine.strategy import Rule
from controller.engine.topology import Ints, Topology


@dataclass(frozen=True)
class Greedy:
    """The paper's: the switch with the smallest maximum resource utilization. Run anew: non-sticky."""

    name: str = "greedy"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return KeepOrChoose()


@dataclass(frozen=True)
class Sticky:
    """The paper's migration: a VIP moves only where that lowers its MRU by more than `delta`."""

    delta: float = 0.05
    name: str = "sticky"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return KeepOrChoose(delta=self.delta)


@dataclass(frozen=True)
class OneTime:
    """Greedy once, then never again: a VIP stays, or goes to the SMuxes for as long as it does not fit."""

    name: str = "one-time"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return KeepOrChoose() if previous is None else KeepOrChoose(delta=math.inf, moves=False)


__all__ = ["Greedy", "OneTime", "Sticky"]
