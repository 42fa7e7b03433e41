"""The simulation cut into independent tasks: what each computes from a scale, a seed and a rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from controller.engine import Balanced, Greedy, OneTime, Random, Sticky, Strategy, assign
from controller.engine.bound import bound
from controller.simulation import latency
from controller.simulation.provisioning import FAILED_SWITCHES, Failures, smuxes
from controller.simulation.scale import SMUX_BPS, Scale

MIGRATIONS: dict[str, Strategy] = {
    "sticky": Sticky(),
    "non-sticky": Greedy("non-sticky"),
    "one-time": OneTime(),
}
"""The strategies of the migration figure."""


@dataclass(frozen=True)
class Task:
    """One piece of work. `kind` is a key of `KINDS`; `rate` in Tbps, nominal."""

    kind: str
    seed: int
    rate: float = 0.0
    strategy: str = ""

    @property
    def slug(self) -> str:
        """The name of its result file."""
        parts = [self.kind, self.strategy, f"{self.rate:g}T" if self.rate else "", f"seed{self.seed}"]
        return "-".join(part for part in parts if part)


def steady(scale: Scale, task: Task) -> dict[str, Any]:
    """Compare the strategies at one rate: what HMuxes carry, what falls back, and the bounds."""
    topology = scale.topology()
    demands = scale.trace(topology, task.seed).at(0, scale.bps(task.rate))
    result: dict[str, Any] = {"total_bps": demands.total, "strategies": {}}
    for strategy in (Greedy(), Random(task.seed), Balanced()):
        started = perf_counter()
        assignment = assign(topology, demands, strategy)
        seconds = perf_counter() - started
        failures = Failures(assignment)
        fallback = failures.analyse(scale.samples, task.seed)
        result["strategies"][strategy.name] = {
            "hmux_share": assignment.hmux_share,
            "routes": assignment.routes,
            "seconds": seconds,
            "unplaced_bps": fallback.unplaced,
            "container_bps": fallback.container,
            "container_mean_bps": float(np.mean(fallback.containers)),
            "switches_bps": fallback.switches,
            "switches_sampled_bps": list(fallback.sampled_switches),
            "worst_switches": [topology.names[switch] for switch in fallback.worst_switches],
            "worst_bps": fallback.worst,
            "max_link": float(assignment.ledger.links.max() * (1 - topology.headroom)),
        }
        if strategy.name == "greedy":
            result["latency"] = _latency(scale, assignment, fallback.worst)
    least = bound(topology, demands)
    result["bound"] = {"hmux_share": least.hmux_share, "fallback_bps": least.fallback_bps}
    return result


def _latency(scale: Scale, assignment: Any, worst_bps: float) -> dict[str, Any]:
    queue = latency.SMuxQueue()
    journey = latency.journeys(assignment)
    per_link = latency.link_us(assignment, journey)
    capacity = SMUX_BPS[0]
    count = max(1, smuxes(worst_bps, capacity))
    unplaced = assignment.demands.total - assignment.hmux_traffic
    duet = latency.duet_us(assignment, journey, queue.added_us(unplaced / (count * capacity)), per_link)
    traffic = assignment.demands.traffic
    tors = scale.shape.tor_count / 1600
    counts = sorted({max(1, round(n * tors)) for n in np.geomspace(100, 30_000, 60)} | {count})
    return {
        "duet_smuxes": count,
        "duet_us": {q: latency.weighted_quantile(duet, traffic, q) for q in (0.1, 0.5, 0.9, 0.99)},
        "link_us": per_link,
        "ananta": [
            {"smuxes": n, "us": latency.ananta_us(assignment, n, queue, capacity, per_link)} for n in counts
        ],
    }


def links(scale: Scale, task: Task) -> dict[str, Any]:
    """Find the maximum link utilization of greedy: all alive, each container dead, triples dead."""
    topology = scale.topology()
    demands = scale.trace(topology, task.seed).at(0, scale.bps(task.rate))
    failures = Failures(assign(topology, demands, Greedy()))
    fallback = failures.analyse(0, task.seed)
    count = smuxes(fallback.worst, SMUX_BPS[0])
    rng = np.random.default_rng(task.seed)

    def busiest(dead: Sequence[int]) -> dict[str, Any]:
        utilization = failures.link_utilization(np.array(dead, np.int32), count)
        link = int(utilization.argmax())
        return {
            "max": float(utilization[link]),
            "link": topology.link_name(link),
            "above_95": float((utilization > 0.95).mean()),
        }

    containers = range(int(topology.container.max()) + 1)
    return {
        "normal": busiest([]),
        "containers": [busiest(np.flatnonzero(topology.container == k).tolist()) for k in containers],
        "worst_switches": busiest(fallback.worst_switches),
        "switches": [
            busiest(rng.choice(topology.switch_count, FAILED_SWITCHES, replace=False).tolist())
            for _ in range(scale.link_samples)
        ],
    }


def migration(scale: Scale, task: Task) -> dict[str, Any]:
    """Follow one strategy over the trace."""
    topology = scale.topology()
    trace = scale.trace(topology, task.seed)
    previous = None
    intervals = []
    for interval in range(len(trace.rates)):
        demands = trace.at(interval, scale.bps(task.rate))
        started = perf_counter()
        assignment = assign(topology, demands, MIGRATIONS[task.strategy], previous)
        seconds = perf_counter() - started
        moved = np.zeros(demands.vip_count, bool)
        if previous is not None:
            rows = (assignment.switch != previous) & (previous >= 0)
            moved[demands.owners()[rows]] = True
        fallback = Failures(assignment).analyse(0, task.seed)
        transit = float(demands.traffic[moved].sum())
        intervals.append(
            {
                "total_bps": demands.total,
                "hmux_share": assignment.hmux_share,
                "shuffled_share": transit / demands.total,
                "moved_vips": int(moved.sum()),
                "fallback_bps": fallback.worst,
                "transit_bps": transit + fallback.unplaced,
                "seconds": seconds,
            }
        )
        previous = assignment.switch
    return {"intervals": intervals}


def distribution(scale: Scale, task: Task) -> dict[str, Any]:
    """Describe a trace: cumulative shares of bytes, packets and DIPs over VIPs, and traffic over time."""
    topology = scale.topology()
    trace = scale.trace(topology, task.seed)
    order = np.argsort(-trace.rates.mean(axis=0), kind="stable")
    at = np.unique(np.geomspace(1, len(order), 200).astype(int))

    def cumulative(values: Any) -> list[float]:
        sums = np.cumsum(values[order])
        return [float(value) for value in sums[at - 1] / sums[-1]]

    examples = order[[len(order) // 1000, len(order) // 100, len(order) // 10]]
    return {
        "vips": (at / len(order)).tolist(),
        "bytes": cumulative(trace.rates.mean(axis=0)),
        "packets": cumulative(trace.packets.mean(axis=0)),
        "dips": cumulative(trace.dips),
        "dip_counts": np.quantile(trace.dips, np.linspace(0, 1, 201)).tolist(),
        "total_bps": trace.rates.sum(axis=1).tolist(),
        "examples": [
            {"rank": int(np.flatnonzero(order == vip)[0]) + 1, "bps": trace.rates[:, vip].tolist()}
            for vip in examples
        ],
        "internet_share": float(
            (trace.demands.internet * trace.rates.mean(axis=0)).sum() / trace.rates.mean(axis=0).sum()
        ),
    }


KINDS: dict[str, Callable[[Scale, Task], dict[str, Any]]] = {
    "steady": steady,
    "links": links,
    "migration": migration,
    "trace": distribution,
}


def tasks_for(figure: str, scale: Scale) -> list[Task]:
    """Return the tasks that a figure needs."""
    top = max(scale.rates_tbps)
    if figure == "trace":
        return [Task("trace", scale.seeds[0])]
    if figure == "failures":
        return [
            Task("links", seed, rate) for seed in scale.seeds[: scale.link_seeds] for rate in scale.rates_tbps
        ]
    if figure == "migration":
        return [Task("migration", seed, top, name) for seed in scale.seeds for name in MIGRATIONS]
    rates = (top,) if figure == "latency" else scale.rates_tbps
    return [Task("steady", seed, rate) for seed in scale.seeds for rate in rates]


__all__ = ["KINDS", "MIGRATIONS", "Task", "tasks_for"]
