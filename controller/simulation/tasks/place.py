"""One assignment of a typical moment: what HMuxes carry, what falls back, the SMuxes for it, and the
bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from controller.engine import Assignment, assign
from controller.engine.bound import bound
from controller.engine.topology import Floats
from controller.simulation import muxcount
from controller.simulation.muxcount import CountRule
from controller.simulation.provisioning import Failures, Fallback
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.settings import Setting, with_settings
from controller.simulation.tasks.base import Task
from controller.simulation.tasks.strategies import strategy


@dataclass(frozen=True)
class Count:
    """SMuxes of one capacity by one rule of counting, under the text's failures and under the worst."""

    gbps: float
    rule: CountRule
    text: int
    worst: int


@dataclass(frozen=True)
class Placed:
    """One assignment: what HMuxes carry, what falls back (bit/s), and the SMuxes for it."""

    total_bps: float
    hmux_share: float
    routes: int
    seconds: float
    max_link: float
    unplaced_bps: float
    container_bps: float
    living_container_bps: float
    sampled_bps: float
    exact_bps: float
    text_bps: float
    worst_bps: float
    counts: list[Count]

    def smuxes(self, gbps: float, rule: CountRule, *, worst: bool = False) -> int:
        """Return the SMuxes of a capacity by a rule."""
        found = next(one for one in self.counts if (one.gbps, one.rule) == (gbps, rule))
        return found.worst if worst else found.text


@dataclass(frozen=True)
class Place(Task[Placed]):
    """Assign a typical moment's traffic by one strategy; `rate` in Tbps, nominal."""

    kind = "place"
    result = Placed
    cost = 0.6
    rate: float
    strategy: str
    settings: tuple[Setting, ...] = ()

    def compute(self, scale: Scale) -> Placed:
        """Do the work."""
        scale = with_settings(scale, self.settings)
        assignment, packet_bits, seconds = assigned(scale, self.seed, self.rate, self.strategy)
        failures = Failures(assignment)
        fallback = failures.analyse(scale.samples, self.seed)
        return Placed(
            total_bps=assignment.demands.total,
            hmux_share=assignment.hmux_share,
            routes=assignment.routes,
            seconds=seconds,
            max_link=float(assignment.ledger.links.max() * (1 - assignment.topology.headroom))
            + scale.background,
            unplaced_bps=fallback.unplaced,
            container_bps=max(fallback.containers),
            living_container_bps=max(fallback.living_containers),
            sampled_bps=max(fallback.triples, default=0.0),
            exact_bps=fallback.exact,
            text_bps=fallback.text,
            worst_bps=fallback.worst,
            counts=smux_counts(scale, failures, fallback, packet_bits),
        )


def assigned(scale: Scale, seed: int, rate: float, name: str) -> tuple[Assignment, Floats, float]:
    """Assign a typical moment; return the assignment, bits per packet of every VIP, and the seconds."""
    topology = scale.topology()
    trace = scale.trace(topology, seed)
    demands = trace.steady(scale.bps(rate))
    started = perf_counter()
    assignment = assign(topology, demands, strategy(name, seed))
    return assignment, trace.packet_bits, perf_counter() - started


def smux_counts(scale: Scale, failures: Failures, fallback: Fallback, packet_bits: Floats) -> list[Count]:
    demands = failures.demands
    none: tuple[int, ...] = ()
    needed = {
        dead: muxcount.counts(
            demands,
            failures.lost(np.array(dead, np.int32)) * demands.traffic,
            packet_bits,
            SMUX_BPS,
            scale.shape,
        )
        for dead in (none, fallback.worst_container, fallback.worst_sample, fallback.worst_triple)
    }
    text = (none, fallback.worst_container, fallback.worst_sample)
    worst = (fallback.worst_container, fallback.worst_triple)
    return [
        Count(
            capacity / 1e9,
            rule,
            max(needed[dead][capacity, rule] for dead in text),
            max(needed[dead][capacity, rule] for dead in worst),
        )
        for capacity, rule in needed[none]
    ]


@dataclass(frozen=True)
class Limits:
    """What no assignment beats, and what decides that."""

    total_bps: float
    hmux_share: float
    fallback_bps: float
    hmux_binds: list[str]
    fallback_binds: list[str]


@dataclass(frozen=True)
class Limit(Task[Limits]):
    """Bound what any assignment could do."""

    kind = "limit"
    result = Limits
    cost = 2.5
    rate: float

    def compute(self, scale: Scale) -> Limits:
        """Do the work."""
        topology = scale.topology()
        demands = scale.trace(topology, self.seed).steady(scale.bps(self.rate))
        best = bound(topology, demands)
        return Limits(
            total_bps=demands.total,
            hmux_share=best.hmux_share,
            fallback_bps=best.fallback_bps,
            hmux_binds=list(best.hmux_binds),
            fallback_binds=list(best.fallback_binds),
        )


@dataclass(frozen=True)
class Everything:
    """Ananta: SMuxes for all the traffic."""

    total_bps: float
    counts: list[Count]

    def smuxes(self, gbps: float, rule: CountRule) -> int:
        """Return the SMuxes of a capacity by a rule."""
        return next(one for one in self.counts if (one.gbps, one.rule) == (gbps, rule)).text


@dataclass(frozen=True)
class Ananta(Task[Everything]):
    """Count the SMuxes that carry everything."""

    kind = "ananta"
    result = Everything
    cost = 0.05
    rate: float
    settings: tuple[Setting, ...] = ()

    def compute(self, scale: Scale) -> Everything:
        """Do the work."""
        scale = with_settings(scale, self.settings)
        topology = scale.topology()
        trace = scale.trace(topology, self.seed)
        demands = trace.steady(scale.bps(self.rate))
        found = muxcount.counts(demands, demands.traffic, trace.packet_bits, SMUX_BPS, scale.shape)
        counts = [Count(capacity / 1e9, rule, n, n) for (capacity, rule), n in found.items()]
        return Everything(demands.total, counts)


__all__ = ["Ananta", "Count", "Everything", "Limit", "Limits", "Place", "Placed", "assigned"]
