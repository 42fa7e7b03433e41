"""A strategy that follows the trace."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from controller.engine import Assignment, Demands, assign
from controller.engine.topology import Ints
from controller.simulation.muxcount import evenly
from controller.simulation.provisioning import Failures
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.settings import Setting, with_settings
from controller.simulation.tasks.base import Task
from controller.simulation.tasks.strategies import strategy


@dataclass(frozen=True)
class Moment:
    """One interval of a migration; traffic in bit/s, shares of it."""

    total_bps: float
    hmux_share: float
    shuffled_share: float
    moved_vips: int
    fallback_bps: float
    transit_bps: float
    seconds: float

    @property
    def smuxes(self) -> int:
        """SMuxes of 3.6 Gbps, divided evenly, for the worst failure or for what moves."""
        return evenly(max(self.fallback_bps, self.transit_bps), SMUX_BPS[0])


@dataclass(frozen=True)
class Followed:
    """A strategy over the trace."""

    moments: list[Moment]

    def shuffled(self) -> float:
        """Return the mean share of the traffic that moves in an interval."""
        return float(np.mean([one.shuffled_share for one in self.moments[1:]] or [0.0]))

    def hmux(self) -> float:
        """Return the mean share of the traffic on HMuxes after the first interval."""
        return float(np.mean([one.hmux_share for one in self.moments[1:] or self.moments]))

    def most_smuxes(self) -> int:
        """Return the SMuxes that every interval needs."""
        return max(one.smuxes for one in self.moments)


@dataclass(frozen=True)
class Follow(Task[Followed]):
    """Follow one strategy over the trace: `sticky` and `one-time` look back, all others start anew each
    time.
    """

    kind = "migration"
    result = Followed
    cost = 6.0
    rate: float
    strategy: str
    settings: tuple[Setting, ...] = ()

    def compute(self, scale: Scale) -> Followed:
        """Do the work."""
        scale = with_settings(scale, self.settings)
        topology = scale.topology()
        trace = scale.trace(topology, self.seed)
        previous = None
        moments = []
        for interval in range(len(trace.rates)):
            demands = trace.at(interval, scale.bps(self.rate))
            started = perf_counter()
            chosen = strategy(self.strategy, 1000 * self.seed + interval, delta=scale.delta)
            assignment = assign(topology, demands, chosen, previous)
            seconds = perf_counter() - started
            moments.append(_moment(demands, assignment, previous, seconds))
            previous = assignment.switch
        return Followed(moments)


def _moment(demands: Demands, assignment: Assignment, previous: Ints | None, seconds: float) -> Moment:
    moved = np.zeros(demands.vip_count, bool)
    if previous is not None:
        rows = (assignment.switch != previous) & (previous >= 0)
        moved[demands.owners()[rows]] = True
    fallback = Failures(assignment).analyse(0, 0)
    transit = float(demands.traffic[moved].sum())
    return Moment(
        total_bps=demands.total,
        hmux_share=assignment.hmux_share,
        shuffled_share=transit / demands.total,
        moved_vips=int((moved & (demands.traffic > 0)).sum()),
        fallback_bps=fallback.text,
        transit_bps=transit + fallback.unplaced,
        seconds=seconds,
    )


__all__ = ["Follow", "Followed", "Moment"]
