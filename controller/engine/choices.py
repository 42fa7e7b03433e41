"""Which switch a VIP is put on: the choices that the ledger of a FatTree also makes in compiled code.

Each is called with what a rule decides on, and returns a switch, or `SMUX` where the VIP fits nowhere.
`fattree_run` has the same choices, number by number, decision by decision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.engine.ledger import FEASIBLE, TIE
from controller.engine.strategy import SMUX, STOP, Candidates
from controller.engine.topology import Topology


class Choice(Protocol):
    """Picks the switch of a VIP that does not stay where it is."""

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch, or `SMUX`."""


@dataclass(frozen=True)
class Lightest:
    """The switch of the smallest cost; the VIP's name breaks ties."""

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        return candidates.best()


@dataclass(frozen=True, eq=False)
class SmallestMru:
    """The paper's: a switch of the smallest MRU over *all* resources, drawn by `rng` where several tie."""

    rng: np.random.Generator

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        least = candidates.least()
        if least > FEASIBLE:
            return SMUX
        # The MRU over all resources is no smaller than that of the busiest so far: below it, all tie.
        return drawn(candidates, self.rng, min(max(least, candidates.worst) + TIE, FEASIBLE))


@dataclass(frozen=True, eq=False)
class AnyThatFits:
    """A switch that fits, drawn by `rng`."""

    rng: np.random.Generator

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        return drawn(candidates, self.rng, FEASIBLE)


@dataclass(frozen=True, eq=False)
class FirstListed:
    """The first switch of `order` that fits."""

    order: NDArray[np.int64]

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        return candidates.offer.pick(self.order, FEASIBLE)


@dataclass(frozen=True, eq=False)
class LeastLost:
    """The switch whose failure domains would lose least; the smallest cost, then the name, breaks ties.

    What would be lost is the larger of its container's traffic and its own together with that of the `others`
    busiest switches. `box` is every switch's container, numbered from 0; that of Cores is `boxes`.
    """

    box: NDArray[np.int64]
    boxes: int
    others: int

    @classmethod
    def of(cls, topology: Topology, switches: int) -> LeastLost:
        """Return the choice for failures of one container, or of so many switches at once."""
        boxes = int(topology.container.max(initial=-1)) + 1
        box = np.where(topology.container < 0, boxes, topology.container).astype(np.int64)
        return cls(box, boxes, min(switches, topology.switch_count))

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        carried = candidates.carried
        others = np.sort(np.partition(carried, -self.others)[-self.others :])
        # Together with the busiest others; a switch that is one of those itself is counted once.
        lost = np.minimum(carried + others[1:].sum(), others.sum()) + candidates.traffic
        per_box = np.bincount(self.box, weights=carried, minlength=self.boxes + 1)
        per_box[self.boxes] = 0.0
        lost = np.maximum(lost, per_box[self.box] + candidates.traffic)
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


@dataclass(frozen=True, eq=False)
class Preferred:
    """Of the switches within `epsilon` of the least cost, the one that rendezvous hashing prefers.

    `hashes` has one per row. `everywhere` compares the MRU over all resources, else that over the touched
    ones.
    """

    hashes: NDArray[np.uint64]
    epsilon: float
    everywhere: bool

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        costs, least = candidates.costs, candidates.least()
        if least > FEASIBLE:
            return SMUX
        if self.everywhere:
            least = max(least, candidates.worst)
        near = np.flatnonzero(costs <= min(least + self.epsilon + TIE, FEASIBLE))
        return int(near[preference(self.hashes[candidates.row], near.astype(np.uint64)).argmax()])


@dataclass(frozen=True)
class KeepOrChoose:
    """The rule of nearly every strategy. Some ledgers carry it out by themselves, much faster.

    A VIP stays where it fits, unless the cheapest switch lowers its MRU by more than `delta`. What does not
    stay goes where `choice` says, or, where VIPs do not move (`moves`), to the SMuxes. With `ends`, the first
    that is placed nowhere ends the assignment.
    """

    choice: Choice = Lightest()
    delta: float = -math.inf
    moves: bool = True
    ends: bool = False

    def __call__(self, candidates: Candidates) -> int:
        """Return the switch."""
        if candidates.stays() and candidates.gain() <= self.delta:
            return candidates.current
        chosen = self.choice(candidates) if self.moves else SMUX
        return STOP if chosen == SMUX and self.ends else chosen


def drawn(candidates: Candidates, rng: np.random.Generator, limit: float) -> int:
    """Draw one of the switches that cost at most `limit`; return `SMUX` where there is none."""
    near = np.flatnonzero(candidates.costs <= limit)
    return int(near[rng.integers(near.size)]) if near.size else SMUX


def preference(name: Any, switch: Any) -> Any:
    """Return how much a row of that hash prefers a switch, or each of several: SplitMix64 of both.

    Of unsigned integers of 64 bits; compiled code compiles this very function.
    """
    mixed = name ^ ((switch + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


__all__ = [
    "AnyThatFits",
    "Choice",
    "FirstListed",
    "KeepOrChoose",
    "LeastLost",
    "Lightest",
    "Preferred",
    "SmallestMru",
    "preference",
]
