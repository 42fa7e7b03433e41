"""What an assignment strategy is: a rule that picks a switch for one VIP, given what every switch would cost.

To write one: a frozen dataclass with a `name` and a `begin` that returns the rule, registered under the
entry points `duet.strategies` (`registry`). Those that come with the engine are in `strategies/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.engine.demand import Demands
from controller.engine.ledger import FEASIBLE, TIE, Costs
from controller.engine.topology import Floats, Ints, Topology

SMUX = -1
"""In place of a switch: the VIP is on the SMuxes."""

STOP = -2
"""In place of a switch: this VIP and all that would come after it are on the SMuxes."""


@dataclass(slots=True)
class Candidates:
    """What a rule decides on.

    `traffic` of the VIP or TIP in bit/s; `offer`, what it would cost on each switch: the maximum
    utilization over the resources that placing it there touches, feasible up to `FEASIBLE`; `current`,
    where it was before, or `SMUX`; `carried`, the bit/s that each switch carries so far, which fall back to
    the SMuxes should it fail; `turn`, the switch from which ties are broken, by the VIP's name; `worst`, the
    highest utilization of any resource so far, so that the paper's MRU of a switch is the larger of
    `worst` and its cost.
    """

    row: int
    traffic: float
    offer: Costs
    current: int
    carried: Floats
    turn: int
    worst: float = 0.0

    @property
    def costs(self) -> Floats:
        """The cost of every switch. Where the network is irregular, `least` and `first_within` are faster."""
        return self.offer.all()

    def cost(self, switch: int) -> float:
        """Return the cost of one switch."""
        return self.offer.at(switch)

    def least(self) -> float:
        """Return the smallest cost."""
        return self.offer.least()

    def first_within(self, limit: float) -> int:
        """Return the first switch, counting round from `turn`, that costs at most `limit`; or `SMUX`."""
        return self.offer.first(limit, self.turn)

    def best(self) -> int:
        """Return the switch of the smallest cost, `SMUX` where even that is infeasible."""
        least = self.offer.least()
        return self.offer.first(least + TIE, self.turn) if least <= FEASIBLE else SMUX

    def first(self, chosen: NDArray[np.bool_]) -> int:
        """Return the first switch of those chosen, counting round from `turn`; at least one must be."""
        after = int(chosen[self.turn :].argmax()) + self.turn
        return after if chosen[after] else int(chosen.argmax())

    def gain(self) -> float:
        """Return by how much moving from `current` to the best switch lowers the VIP's MRU."""
        return max(self.worst, self.cost(self.current)) - max(self.worst, self.least())

    def stays(self) -> bool:
        """Whether it is on a switch and fits there again."""
        return self.current != SMUX and self.cost(self.current) <= FEASIBLE


Rule = Callable[[Candidates], int]
"""Returns a switch, `SMUX` or `STOP`; for a TIP, `STOP` leaves its VIP on the SMuxes and ends nothing."""


class Strategy(Protocol):
    """How VIPs are placed. VIPs are offered by decreasing traffic."""

    @property
    def name(self) -> str:
        """Short name for tables and figures."""

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule for one assignment."""


__all__ = ["FEASIBLE", "SMUX", "STOP", "TIE", "Candidates", "Rule", "Strategy"]
