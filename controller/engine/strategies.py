"""Assignment strategies: each is a rule that picks a switch for one VIP, given what every switch would cost.

To write one: a frozen dataclass with a `name` and a `begin` that returns the rule.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Demands
from controller.engine.topology import Floats, Ints, Topology

SMUX = -1
"""In place of a switch: the VIP is on the SMuxes."""

TIE = 1e-9
"""Costs this close are equal. Ties are frequent: where a source's or a DIP's own link is the bottleneck, it
is so wherever the VIP goes. The paper breaks them at random; here the name of the VIP decides, so that
the same VIP finds the same switch in every run."""

_FULL = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a rule decides on.

    `traffic` of the VIP or TIP in bit/s; `costs` per switch: the maximum utilization over the resources
    that placing it there touches, feasible up to 1; `current`, where it was before, or `SMUX`;
    `carried`, the bit/s that each switch carries so far, which fall back to the SMuxes should it fail;
    `turn`, the switch from which ties are broken, see `turn_of`; `worst`, the highest utilization of any
    resource so far, so that the paper's MRU of a switch is the larger of `worst` and its cost.
    """

    row: int
    traffic: float
    costs: Floats
    current: int
    carried: Floats
    turn: int
    worst: float = 0.0

    def best(self) -> int:
        """Return the switch of the smallest cost, `SMUX` where even that is infeasible."""
        least = float(self.costs.min())
        return self.first(self.costs <= least + TIE) if least <= _FULL else SMUX

    def first(self, chosen: NDArray[np.bool_]) -> int:
        """Return the first switch of those chosen, counting round from `turn`; at least one must be."""
        after = int(chosen[self.turn :].argmax()) + self.turn
        return after if chosen[after] else int(chosen.argmax())

    def gain(self) -> float:
        """Return by how much moving from `current` to the best switch lowers the VIP's MRU."""
        return max(self.worst, float(self.costs[self.current])) - max(self.worst, float(self.costs.min()))

    def stays(self) -> bool:
        """Whether it is on a switch and fits there again."""
        return self.current != SMUX and bool(self.costs[self.current] <= _FULL)


def turn_of(name: str, switches: int) -> int:
    """Return the switch from which the ties of a VIP or TIP of this name are broken."""
    return zlib.crc32(name.encode()) % switches


Rule = Callable[[Candidates], int]


class Strategy(Protocol):
    """How VIPs are placed. VIPs are offered by decreasing traffic."""

    @property
    def name(self) -> str:
        """Short name for tables and figures."""

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule for one assignment."""


@dataclass(frozen=True)
class Greedy:
    """The paper's: the switch with the smallest maximum resource utilization. Run anew: non-sticky."""

    name: str = "greedy"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return Candidates.best


@dataclass(frozen=True)
class Sticky:
    """The paper's migration: a VIP moves only where that lowers its MRU by more than `delta`."""

    delta: float = 0.05
    name: str = "sticky"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""

        def rule(candidates: Candidates) -> int:
            if candidates.stays() and candidates.gain() <= self.delta:
                return candidates.current
            return candidates.best()

        return rule


@dataclass(frozen=True)
class OneTime:
    """Greedy once, then never again: a VIP stays, or goes to the SMuxes for as long as it does not fit."""

    name: str = "one-time"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        if previous is None:
            return Candidates.best
        return lambda candidates: candidates.current if candidates.stays() else SMUX


@dataclass(frozen=True)
class Random:
    """The paper's baseline: the first feasible switch of a random order (first-fit decreasing)."""

    seed: int = 0
    name: str = "random"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        order = np.random.default_rng(self.seed).permutation(topology.switch_count)

        def rule(candidates: Candidates) -> int:
            feasible = candidates.costs[order] <= _FULL
            first = int(feasible.argmax())
            return int(order[first]) if feasible[first] else SMUX

        return rule


@dataclass(frozen=True)
class AllSMux:
    """Ananta: everything on the SMuxes."""

    name: str = "all-smux"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        return lambda _: SMUX


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
            feasible = candidates.costs <= _FULL
            if not feasible.any():
                return SMUX
            carried = candidates.carried
            others = np.sort(np.partition(carried, -worst)[-worst:])
            # Together with the busiest others; a switch that is one of those itself is counted once.
            lost = np.minimum(carried + others[1:].sum(), others.sum()) + candidates.traffic
            per_box = np.bincount(box, weights=carried, minlength=boxes + 1)
            per_box[boxes] = 0.0
            lost = np.maximum(lost, per_box[box] + candidates.traffic)
            lost[~feasible] = np.inf
            ties = np.where(lost <= lost.min() * (1 + TIE), candidates.costs, np.inf)
            return candidates.first(ties <= ties.min() + TIE)

        return rule


__all__ = [
    "SMUX",
    "TIE",
    "AllSMux",
    "Balanced",
    "Candidates",
    "Greedy",
    "OneTime",
    "Random",
    "Rule",
    "Sticky",
    "Strategy",
    "turn_of",
]
