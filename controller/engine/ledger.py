"""What a placement costs: the interface of every ledger, and the tables of the switches.

A ledger keeps the utilization of every resource while VIPs are placed, and says what placing the
next one on each switch would lead to. All ledgers give the same numbers; `ledgers` chooses one.

Traffic of a VIP on switch s goes from its sources to s, and from s to the DIPs. Every switch on the
way splits it evenly over its next hops on shortest paths. A resource that a placement does not touch
is no part of its cost: the switch with the smallest maximum over the touched resources also has the
smallest maximum over all, so this only breaks the ties of the paper's MRU, towards the lighter switch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Flow, FlowColumns
from controller.engine.topology import TABLES, Floats, Ints, Topology

if TYPE_CHECKING:
    from controller.engine.choices import KeepOrChoose

TOUCHED = 1e-12
"""A load below this share of a VIP's traffic is rounding, not traffic."""

FEASIBLE = 1 + 1e-9
"""The highest cost that is feasible."""

TIE = 1e-9
"""Costs this close are equal. Ties are frequent: where a source's or a DIP's own link is the bottleneck, it
is so wherever the VIP goes. The paper breaks them at random; here the name of the VIP decides, so that
the same VIP finds the same switch in every run."""

NOWHERE = -1
"""In place of a switch: there is none."""

NONE_BARRED = np.zeros(0, np.int32)


class Costs(ABC):
    """What placing one row on each switch would lead to: the maximum utilization over what it touches there.

    Above 1 a switch is infeasible; infinite where it is barred, cut off, or lacks a table altogether.
    Valid until the ledger changes.
    """

    @abstractmethod
    def at(self, switch: int) -> float:
        """Return the cost of one switch."""

    @abstractmethod
    def bounds(self) -> Floats:
        """Return, quickly, numbers that no cost is below; where costs are known these are the costs."""

    @abstractmethod
    def of(self, switches: NDArray[np.int64]) -> Floats:
        """Return the costs of some switches."""

    @abstractmethod
    def least(self) -> float:
        """Return the smallest cost."""

    @abstractmethod
    def first(self, limit: float, turn: int) -> int:
        """Return the first switch, counting round from `turn`, whose cost is at most `limit`; or NOWHERE."""

    @abstractmethod
    def pick(self, order: NDArray[np.int64], limit: float) -> int:
        """Return the first switch of `order` whose cost is at most `limit`; or NOWHERE."""

    @abstractmethod
    def runner_up(self, switch: int) -> int:
        """Return the switch of the smallest cost besides `switch`; NOWHERE where all others are infinite."""

    @abstractmethod
    def all(self) -> Floats:
        """Return all costs; on some ledgers that takes far longer than `least` and `first`."""


class KnownCosts(Costs):
    """The costs of all switches, in an array."""

    __slots__ = ("_costs",)

    def __init__(self, costs: Floats) -> None:
        self._costs = costs

    def at(self, switch: int) -> float:
        """Return the cost of one switch."""
        return float(self._costs[switch])

    def bounds(self) -> Floats:
        """Return the costs."""
        return self._costs

    def of(self, switches: NDArray[np.int64]) -> Floats:
        """Return the costs of some switches."""
        return self._costs[switches]

    def least(self) -> float:
        """Return the smallest cost."""
        return float(self._costs.min())

    def first(self, limit: float, turn: int) -> int:
        """Return the first switch from `turn` on whose cost is at most `limit`, or NOWHERE."""
        chosen = self._costs <= limit
        after = int(chosen[turn:].argmax()) + turn
        if chosen[after]:
            return after
        before = int(chosen.argmax())
        return before if chosen[before] else NOWHERE

    def pick(self, order: NDArray[np.int64], limit: float) -> int:
        """Return the first switch of `order` whose cost is at most `limit`, or NOWHERE."""
        chosen = self._costs[order] <= limit
        first = int(chosen.argmax())
        return int(order[first]) if chosen[first] else NOWHERE

    def runner_up(self, switch: int) -> int:
        """Return the switch of the smallest cost besides `switch`."""
        own = self._costs[switch]
        self._costs[switch] = np.inf
        rival = int(self._costs.argmin())
        found = rival if self._costs[rival] < np.inf else NOWHERE
        self._costs[switch] = own
        return found

    def all(self) -> Floats:
        """Return the costs of all switches."""
        return self._costs


class Tables:
    """The entries in use on every switch, and how full that makes its tables."""

    def __init__(self, topology: Topology) -> None:
        """Start with empty tables."""
        self.entries: Floats = np.zeros((topology.switch_count, len(TABLES)), order="F")
        with np.errstate(divide="ignore"):
            self.per_entry: Floats = np.asfortranarray(1 / topology.tables)

    def costs(self, need: NDArray[np.int64]) -> Floats:
        """Return per switch how full the fullest of the tables that `need` touches would be."""
        worst = np.zeros(len(self.entries))
        for table, entries in enumerate(need.tolist()):
            if entries:
                np.maximum(worst, (self.entries[:, table] + entries) * self.per_entry[:, table], out=worst)
        return worst

    def add(self, need: NDArray[np.int64], switch: int, sign: int) -> tuple[int, float]:
        """Fill tables of a switch, or empty them again; return the fullest touched and how full it is."""
        self.entries[switch] += sign * need
        filled = np.where(need > 0, self.entries[switch], 0.0)
        with np.errstate(invalid="ignore"):
            filled = np.where(filled > 0, filled * self.per_entry[switch], 0.0)
        table = int(filled.argmax())
        return table, float(filled[table])

    def worst(self) -> float:
        """Return how full the fullest table of all is."""
        filled = self.entries * np.where(np.isfinite(self.per_entry), self.per_entry, 0.0)
        return float(filled.max(initial=0.0))


@dataclass(frozen=True, eq=False)
class Batch:
    """VIPs that are to be placed one after the other, and what becomes of them.

    `current` is where rows were; those that are `staying` stay there, whether they fit or not. `excluded`
    switches may carry nothing, `closed` ones nothing new. The rest is filled in row by row, as in
    `Assignment`: `switch`, `cost`, `bottleneck`, `runner_up`, `runner_up_cost`; and what each switch
    has `carried` so far, bit/s.
    """

    flows: FlowColumns
    order: NDArray[np.int64]
    has_tips: NDArray[np.bool_]
    current: Ints
    staying: NDArray[np.bool_]
    turns: NDArray[np.int64]
    traffic: Floats
    excluded: Ints
    closed: Ints
    switch: Ints
    cost: Floats
    bottleneck: Ints
    runner_up: Ints
    runner_up_cost: Floats
    carried: Floats


@dataclass(frozen=True)
class Progress:
    """How far a batch is: the number in its order, /32 routes left, the highest utilization so far."""

    at: int
    left: int
    worst: float


class Ledger(ABC):
    """Utilization of all resources (1 = full, headroom taken off), and the cost of the next placement."""

    def __init__(self, topology: Topology) -> None:
        """Start with nothing placed."""
        self.topology = topology
        self.links: Floats = np.zeros(topology.link_count)
        self.tables = Tables(topology)
        self.cut_off: Ints = np.flatnonzero(~topology.living).astype(np.int32)

    @abstractmethod
    def costs(self, flow: Flow, barred: Ints = NONE_BARRED) -> Costs:
        """Return what placing a flow on each switch would lead to; `barred` switches may not carry it."""

    def place(self, flow: Flow, switch: int) -> tuple[int, float]:
        """Put a flow on a switch; return the most utilized resource it touches, and its utilization."""
        link, busiest = self._load(flow, switch, 1)
        table, filled = self.tables.add(flow.tables, switch, 1)
        if filled >= busiest:
            return self.topology.link_count + switch * len(TABLES) + table, filled
        return link, busiest

    def remove(self, flow: Flow, switch: int) -> None:
        """Take a flow off a switch again."""
        self._load(flow, switch, -1)
        self.tables.add(flow.tables, switch, -1)

    def place_rows(self, batch: Batch, so_far: Progress, rule: KeepOrChoose) -> Progress:
        """Place VIPs of a batch by a rule as far as the ledger can by itself.

        It stops before a VIP with TIPs; a ledger that cannot do it better than its caller does nothing.
        """
        return so_far

    def worst(self) -> float:
        """Return the highest utilization of any resource."""
        return max(float(self.links.max(initial=0.0)), self.tables.worst())

    @abstractmethod
    def _load(self, flow: Flow, switch: int, sign: int) -> tuple[int, float]:
        """Load the links; return the busiest link touched and its utilization (NOWHERE, 0.0 for none)."""


__all__ = [
    "FEASIBLE",
    "NONE_BARRED",
    "NOWHERE",
    "TIE",
    "TOUCHED",
    "Batch",
    "Costs",
    "KnownCosts",
    "Ledger",
    "Progress",
    "Tables",
]
