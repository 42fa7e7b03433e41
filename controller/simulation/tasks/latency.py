"""Round trips under one strategy, and Ananta's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.simulation import latency, muxcount
from controller.simulation.provisioning import Failures
from controller.simulation.scale import PAPER_TORS, SMUX_BPS, Scale
from controller.simulation.tasks.base import Task
from controller.simulation.tasks.place import assigned


@dataclass(frozen=True)
class AnantaPoint:
    """Ananta's median round trip on so many SMuxes: evenly loaded, and loaded as anycast does."""

    smuxes: int
    even_us: float
    anycast_us: float


@dataclass(frozen=True)
class Latencies:
    """Round trips, us: DUET's quantiles on its own SMuxes, Ananta's median over SMux counts."""

    duet_smuxes: int
    duet_us: dict[str, float]
    link_us: float
    ananta: list[AnantaPoint]


@dataclass(frozen=True)
class Latency(Task[Latencies]):
    """Find the round trips under one strategy."""

    kind = "latency"
    result = Latencies
    cost = 1.0
    rate: float
    strategy: str

    def compute(self, scale: Scale) -> Latencies:
        """Do the work."""
        assignment, _, _ = assigned(scale, self.seed, self.rate, self.strategy)
        demands, shape = assignment.demands, scale.shape
        fallback = Failures(assignment).analyse(scale.samples, self.seed)
        capacity = SMUX_BPS[0]
        count = max(1, muxcount.evenly(fallback.text, capacity))
        journey = latency.journeys(assignment)
        per_link = latency.link_us(assignment, journey)
        duet = latency.duet_us(
            assignment, journey, float(latency.smux_us(fallback.unplaced / (count * capacity))), per_link
        )
        load = muxcount.Load.of(demands, demands.traffic, shape.tor_count)
        part = shape.tor_count / PAPER_TORS
        counts = sorted({max(1, round(n * part)) for n in np.geomspace(100, 30_000, 60)} | {count})
        points = []
        for n in counts:
            at = muxcount.standing(load, n, by_load=True)
            each = muxcount.shares(load, at, shape) / capacity
            points.append(
                AnantaPoint(
                    n,
                    latency.ananta_us(
                        assignment, n, np.full(1, demands.total / (n * capacity)), np.ones(1), per_link
                    ),
                    latency.ananta_us(assignment, n, each, each * at, per_link),
                )
            )
        quantiles = {
            f"{q:g}": latency.weighted_quantile(duet, demands.traffic, q) for q in (0.1, 0.5, 0.9, 0.99)
        }
        return Latencies(count, quantiles, per_link, points)


__all__ = ["AnantaPoint", "Latencies", "Latency"]
