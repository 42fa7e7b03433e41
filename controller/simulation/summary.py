"""From task results to the series of a figure: means over seeds, confidence intervals, the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from controller.simulation.provisioning import smuxes
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.tasks import MIGRATIONS, Task

Results = dict[Task, dict[str, Any]]

PAPER: dict[str, dict[str, Any]] = {
    "trace": {
        "stated": "heavily skewed across VIPs; CDFs of bytes, packets and DIPs over VIPs",
        "fitted": {"vips": 0.10, "bytes": 0.99},
    },
    "smuxes": {"ananta_over_duet": {"3.6": [12, 24], "10": [8, 12]}},
    "latency": {
        "rtt_us": 381,
        "duet": {"smuxes": 230, "median_us": 474},
        "ananta_same_smuxes_us_over": 6000,
        "ananta_smuxes_to_match": 15_000,
    },
    "random": {"extra_smuxes_percent": [120, 307]},
    "failures": {"stated": "container and switch failures change the maximum link utilization little"},
    "migration": {
        "remembered": True,
        "sticky": {"hmux_share": 0.95, "shuffled_share": [0.007, 0.035, 0.044]},
        "non-sticky": {"shuffled_share": [0.25, 0.37, 0.46]},
        "one-time": {"hmux_share": [0.60, 0.75, 0.89]},
    },
}
"""What the paper reports. The migration values are remembered from it, not stated: a guide."""


def interval(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and the half width of its 95% confidence interval (Student's t over seeds)."""
    array = np.asarray(values, np.float64)
    half = 0.0
    if array.size > 1:
        half = float(student.ppf(0.975, array.size - 1) * array.std(ddof=1) / np.sqrt(array.size))
    return {"mean": float(array.mean()), "ci95": half}


def steady_at(results: Results, rate: float) -> list[dict[str, Any]]:
    """Return the steady results of all seeds at a rate."""
    return [result for task, result in results.items() if task.kind == "steady" and task.rate == rate]


def trace(scale: Scale, results: Results) -> dict[str, Any]:
    """Summarize the trace."""
    result = next(result for task, result in results.items() if task.kind == "trace")
    top = int(np.searchsorted(result["vips"], 0.10))
    return {**result, "top_10_percent_bytes": result["bytes"][min(top, len(result["bytes"]) - 1)]}


def smux_counts(scale: Scale, results: Results) -> dict[str, Any]:
    """Count SMuxes for DUET, our strategy, the bound and Ananta, per SMux capacity and traffic."""
    rows = []
    for capacity in SMUX_BPS:
        for rate in scale.rates_tbps:
            found = steady_at(results, rate)
            ananta = [smuxes(r["total_bps"], capacity) for r in found]
            row: dict[str, Any] = {
                "smux_gbps": capacity / 1e9,
                "traffic_tbps": rate,
                "ananta": interval(ananta),
            }
            for name, label in (("greedy", "duet"), ("balanced", "balanced")):
                counts = [smuxes(r["strategies"][name]["worst_bps"], capacity) for r in found]
                row[label] = interval(counts)
                row[f"ananta_over_{label}"] = interval(
                    [a / max(1, c) for a, c in zip(ananta, counts, strict=True)]
                )
            row["bound"] = interval([smuxes(r["bound"]["fallback_bps"], capacity) for r in found])
            row["unplaced"] = interval([r["strategies"]["greedy"]["unplaced_bps"] / capacity for r in found])
            row["hmux_share"] = interval([r["strategies"]["greedy"]["hmux_share"] for r in found])
            row["bound_share"] = interval([r["bound"]["hmux_share"] for r in found])
            row["routes"] = interval([r["strategies"]["greedy"]["routes"] for r in found])
            rows.append(row)
    over = {
        f"{capacity / 1e9:g}": {
            f"{row['traffic_tbps']:g}": row["ananta_over_duet"]["mean"]
            for row in rows
            if row["smux_gbps"] == capacity / 1e9
        }
        for capacity in SMUX_BPS
    }
    return {"rows": rows, "ananta_over_duet": over}


def latencies(scale: Scale, results: Results) -> dict[str, Any]:
    """Average DUET's latency, and Ananta's over its SMux count."""
    found = [result["latency"] for result in steady_at(results, max(scale.rates_tbps))]
    counts = sorted({point["smuxes"] for r in found for point in r["ananta"]})
    curve: dict[int, list[float]] = {n: [] for n in counts}
    for result in found:
        for point in result["ananta"]:
            curve[point["smuxes"]].append(point["us"])
    complete = {n: values for n, values in curve.items() if len(values) == len(found)}
    same = [next(point["us"] for point in r["ananta"] if point["smuxes"] == r["duet_smuxes"]) for r in found]
    return {
        "duet_smuxes": interval([r["duet_smuxes"] for r in found]),
        "duet_us": {q: interval([r["duet_us"][q] for r in found]) for q in found[0]["duet_us"]},
        "link_us": interval([r["link_us"] for r in found]),
        "ananta_same_smuxes_us": interval(same),
        "ananta": [{"smuxes": n, **interval(values)} for n, values in complete.items()],
    }


def random(scale: Scale, results: Results) -> dict[str, Any]:
    """Compare the SMuxes of Random, of our strategy and of the bound with greedy's."""
    rows = []
    for rate in scale.rates_tbps:
        found = steady_at(results, rate)
        row: dict[str, Any] = {"traffic_tbps": rate}
        for name in ("greedy", "random", "balanced"):
            row[name] = interval([smuxes(r["strategies"][name]["worst_bps"], SMUX_BPS[0]) for r in found])
            row[f"{name}_routes"] = interval([r["strategies"][name]["routes"] for r in found])
        row["bound"] = interval([smuxes(r["bound"]["fallback_bps"], SMUX_BPS[0]) for r in found])
        base = [r["strategies"]["greedy"]["worst_bps"] for r in found]
        for name in ("random", "balanced"):
            worst = [r["strategies"][name]["worst_bps"] for r in found]
            row[f"{name}_extra_percent"] = interval(
                [100 * (w / b - 1) for w, b in zip(worst, base, strict=True)]
            )
        rows.append(row)
    return {"rows": rows}


def failures(scale: Scale, results: Results) -> dict[str, Any]:
    """Average the maximum link utilization without and under failures."""
    rows = []
    for rate in scale.rates_tbps:
        found = [result for task, result in results.items() if task.kind == "links" and task.rate == rate]
        rows.append(
            {
                "traffic_tbps": rate,
                "normal": interval([r["normal"]["max"] for r in found]),
                "container_mean": interval(
                    [float(np.mean([c["max"] for c in r["containers"]])) for r in found]
                ),
                "container_worst": interval([max(c["max"] for c in r["containers"]) for r in found]),
                "switches_mean": interval([float(np.mean([c["max"] for c in r["switches"]])) for r in found]),
                "switches_worst": interval([max(c["max"] for c in r["switches"]) for r in found]),
                "most_traffic_switches": interval([r["worst_switches"]["max"] for r in found]),
            }
        )
    return {"rows": rows}


def migration(scale: Scale, results: Results) -> dict[str, Any]:
    """Average the three strategies over seeds, per interval and over the trace."""
    series = {}
    for name in MIGRATIONS:
        found = [
            result["intervals"]
            for task, result in results.items()
            if task.kind == "migration" and task.strategy == name
        ]

        def over_time(key: str, found: list[Any] = found) -> list[dict[str, float]]:
            return [interval([seed[i][key] for seed in found]) for i in range(len(found[0]))]

        def needed(point: dict[str, float]) -> int:
            return smuxes(max(point["fallback_bps"], point["transit_bps"]), SMUX_BPS[0])

        series[name] = {
            "hmux_share": over_time("hmux_share"),
            "shuffled_share": over_time("shuffled_share")[1:],
            "smuxes": [interval([needed(seed[i]) for seed in found]) for i in range(len(found[0]))],
            "mean_hmux_share": interval([float(np.mean([p["hmux_share"] for p in seed])) for seed in found]),
            "last_hmux_share": interval([seed[-1]["hmux_share"] for seed in found]),
            "mean_shuffled_share": interval(
                [float(np.mean([p["shuffled_share"] for p in seed[1:]])) for seed in found]
            ),
            "most_smuxes": interval([max(needed(p) for p in seed) for seed in found]),
            "seconds": interval([p["seconds"] for seed in found for p in seed]),
        }
    ananta = [
        interval(
            [
                smuxes(result["intervals"][i]["total_bps"], SMUX_BPS[0])
                for task, result in results.items()
                if task.kind == "migration" and task.strategy == "sticky"
            ]
        )
        for i in range(len(series["sticky"]["smuxes"]))
    ]
    return {"strategies": series, "ananta_smuxes": ananta}


SUMMARIES = {
    "trace": trace,
    "smuxes": smux_counts,
    "latency": latencies,
    "random": random,
    "failures": failures,
    "migration": migration,
}

__all__ = ["PAPER", "SUMMARIES", "Results", "interval"]
