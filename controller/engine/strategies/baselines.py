"""What the paper compares with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.engine.choices import FirstListed, KeepOrChoose
from controller.engine.demand import Demands
from controller.engine.strategy import SMUX, Rule
from controller.engine.topology import Ints, Topology


@dataclass(frozen=True)
class Random:
    """The paper's baseline: the first feasible switch of a random order (first-fit decreasing)."""

    seed: int = 0
    name: str = "random"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        order = np.random.default_rng(self.seed).permutation(topology.switch_count)
        return KeepOrChoose(FirstListed(order))


@dataclass(frozen=True)
class AllSMux:
    """Ananta: everything on the SMuxes."""

    name: str = "all-smux"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return lambda _: SMUX


__all__ = ["AllSMux", "Random"]
