"""The simulation cut into independent tasks, whose results are kept so that a run can be resumed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from controller.engine import Balanced, Greedy, OneTime, Random, Sticky, Strategy, assign
from controller.engine.bound import bound
from controller.simulation import latency
from controller.simulation.provisioning import FAILED_SWITCHES, Failures, smuxes
from controller.simulation.scale import SMUX_BPS, Scale
from duet_p4.results import write_json

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


def run(
    scale: Scale, tasks: Sequence[Task], out: Path, jobs: int, done: Callable[[Task, bool], None]
) -> dict[Task, dict[str, Any]]:
    """Run tasks in parallel and return their results; `done` hears of each, and whether it was kept.

    A result is kept in `out`/raw, under a digest of the set-up and of the code that computes it.
    """
    raw = out / "raw"
    digest = _digest(scale)
    results: dict[Task, dict[str, Any]] = {}
    missing = []
    for task in tasks:
        kept = _kept(raw / f"{task.slug}.json", digest)
        if kept is None:
            missing.append(task)
        else:
            results[task] = kept
            done(task, True)
    if not missing:
        return results
    # Long tasks first, so that no worker is left with one at the end.
    missing.sort(key=lambda task: (-["trace", "steady", "links", "migration"].index(task.kind), -task.rate))
    for task, result in _compute(scale, missing, jobs):
        write_json(raw / f"{task.slug}.json", {"digest": digest, "task": task, "result": result})
        results[task] = json.loads((raw / f"{task.slug}.json").read_text())["result"]
        done(task, False)
    return results


def _compute(scale: Scale, tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    if jobs == 1:
        for task in tasks:
            yield task, KINDS[task.kind](scale, task)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(KINDS[task.kind], scale, task): task for task in tasks}
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _digest(scale: Scale) -> str:
    here = Path(__file__).parent
    engine = ("assignment", "bound", "demand", "fattree", "ledger", "paths", "strategies", "topology")
    sources = [
        *(here.parent / "engine" / f"{name}.py" for name in engine),
        *(
            here / f"{name}.py"
            for name in ("latency", "provisioning", "scale", "tasks", "tracefile", "workload")
        ),
    ]
    # A task names its own seed and rate, so results are kept when others are added.
    digest = hashlib.sha256(repr(replace(scale, seeds=(), rates_tbps=(), link_seeds=0)).encode())
    for source in [*sources, *([scale.trace_file] if scale.trace_file else [])]:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _kept(path: Path, digest: str) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("digest") != digest:
        return None
    result: dict[str, Any] = record["result"]
    return result


__all__ = ["KINDS", "MIGRATIONS", "Task", "run", "tasks_for"]
