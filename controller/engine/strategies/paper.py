"""The paper's algorithms to the letter, and rules about ties: what `strategies` does otherwise, and by
how much.

The paper's greedy minimizes the maximum utilization over *all* resources, of which those a VIP does not
touch are a part, breaks ties at random, and ends at the first VIP that fits nowhere. `Greedy` looks at
the touched resources only, so that it picks the lightest of the switches that tie, and goes on with
smaller VIPs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from controller.engine.choices import AnyThatFits, KeepOrChoose, Preferred, SmallestMru
from controller.engine.demand import Demands
from controller.engine.strategy import SMUX, STOP, Candidates, Rule, Strategy
from controller.engine.topology import Ints, Topology


@dataclass(frozen=True)
class Mru:
    """The paper's greedy: the smallest MRU over all resources, ties at random; `seed` draws them.

    With `delta` it is the paper's sticky migration: a VIP moves only where that lowers its MRU by more.
    """

    seed: int = 0
    delta: float | None = None
    name: str = "mru"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        choice = SmallestMru(np.random.default_rng(self.seed))
        return KeepOrChoose(choice, -math.inf if self.delta is None else self.delta)


@dataclass(frozen=True)
class NearTies:
    """Costs within `epsilon` of the least are equal, as measured traffic is not exact; hashing decides.

    Rendezvous hashing of VIP and switch: a VIP keeps its switch for as long as that is among the
    near-best, and those that join or leave move only the VIPs that prefer them. `everywhere` compares the
    MRU over all resources, else that over the touched ones.
    """

    epsilon: float = 0.01
    everywhere: bool = False
    name: str = "near-ties"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return KeepOrChoose(Preferred(_hashes(tuple(demands.names)), self.epsilon, self.everywhere))


@dataclass(frozen=True)
class Terminating:
    """Another strategy that ends at the first VIP it places nowhere: that one and all smaller ones are on
    SMuxes.

    A VIP of which only a TIP fits nowhere does not end it: the paper does not say how TIPs are assigned.
    """

    inner: Strategy

    @property
    def name(self) -> str:
        """The other strategy's name."""
        return self.inner.name

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        rule = self.inner.begin(topology, demands, previous)
        if isinstance(rule, KeepOrChoose):
            return replace(rule, ends=True)

        def until(candidates: Candidates) -> int:
            switch = rule(candidates)
            return STOP if switch == SMUX else switch

        return until


@dataclass(frozen=True)
class Frozen:
    """Another strategy once, then never again: a VIP stays, or is on the SMuxes for as long as it does
    not fit.
    """

    first: Strategy
    name: str = "one-time"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        if previous is None:
            return self.first.begin(topology, demands, previous)
        return KeepOrChoose(delta=math.inf, moves=False)


@dataclass(frozen=True)
class RandomOrders:
    """The first feasible switch of a new random order for every VIP: a feasible switch at random."""

    seed: int = 0
    name: str = "random-orders"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return KeepOrChoose(AnyThatFits(np.random.default_rng(self.seed)))


@lru_cache(maxsize=2)
def _hashes(names: tuple[str, ...]) -> NDArray[np.uint64]:
    """Return FNV-1a of every name."""
    found = []
    for name in names:
        mixed = 0xCBF29CE484222325
        for byte in name.encode():
            mixed = (mixed ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        found.append(mixed)
    return np.array(found, np.uint64)


__all__ = ["Frozen", "Mru", "NearTies", "RandomOrders", "Terminating"]
