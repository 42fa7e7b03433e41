"""What a trace looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.simulation.scale import Scale
from controller.simulation.tasks.base import Task


@dataclass(frozen=True)
class Traced:
    """A trace: cumulative shares over VIPs, largest first, DIPs per VIP, and examples over time."""

    vips: list[float]
    bytes: list[float]
    packets: list[float]
    dips: list[float]
    dip_counts: list[float]
    total_bps: list[float]
    alive: list[int]
    examples: list[Example]
    internet_share: float


@dataclass(frozen=True)
class Example:
    """One VIP over time."""

    rank: int
    bps: list[float]


@dataclass(frozen=True)
class Describe(Task[Traced]):
    """Describe a trace."""

    kind = "trace"
    result = Traced
    cost = 1.5

    def compute(self, scale: Scale) -> Traced:
        """Do the work."""
        trace = scale.trace(scale.topology(), self.seed)
        order = np.argsort(-trace.typical, kind="stable")[: int((trace.typical > 0).sum())]
        at = np.unique(np.geomspace(1, len(order), 200).astype(int))

        def cumulative(values: Any) -> list[float]:
            sums = np.cumsum(values[order])
            return [float(value) for value in sums[at - 1] / sums[-1]]

        always = order[(trace.rates[:, order] > 0).all(axis=0)]
        ranks = [len(always) // 1000, len(always) // 100, len(always) // 10]
        return Traced(
            vips=[float(n) for n in at / len(order)],
            bytes=cumulative(trace.typical),
            packets=cumulative(trace.typical / trace.packet_bits),
            dips=cumulative(trace.dips),
            dip_counts=[float(n) for n in np.quantile(trace.dips, np.linspace(0, 1, 201))],
            total_bps=[float(n) for n in trace.rates.sum(axis=1)],
            alive=[int(n) for n in (trace.rates > 0).sum(axis=1)],
            examples=[
                Example(
                    int(np.flatnonzero(order == always[n])[0]) + 1,
                    [float(r) for r in trace.rates[:, always[n]]],
                )
                for n in ranks
            ],
            internet_share=float((trace.demands.internet * trace.typical).sum() / trace.typical.sum()),
        )


__all__ = ["Describe", "Example", "Traced"]
