"""The figures of the paper's section 8, ours beside the paper's values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.simulation.summary import PAPER
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Summary = dict[str, Any]
_BETTER, _RANDOM, _SLOW = SERIES[1], SERIES[3], SERIES[2]


def trace(summary: Summary) -> Figure:
    """Figure 15: cumulative shares over VIPs, DIPs per VIP, and traffic over time."""
    fig, (skew, dips, time) = results.figure(1, 3, figsize=(12, 3.8))
    for key, colour in (("bytes", OURS), ("packets", _BETTER), ("dips", _SLOW)):
        label = "DIPs" if key == "dips" else key
        skew.plot(summary["vips"], summary[key], color=colour, label=label)
    fitted = PAPER["trace"]["fitted"]
    results.paper_points(skew, [fitted["vips"]], [fitted["bytes"]], "10% carry 99% (fitted)")
    skew.set(xscale="log", xlabel="share of VIPs, largest first", ylabel="cumulative share", ylim=(0, 1.04))
    skew.set_title("Skew across VIPs")
    skew.legend(loc="upper left", fontsize=8.5)
    counts = np.maximum(summary["dip_counts"], 0.9)
    dips.plot(counts, np.linspace(0, 1, len(counts)), color=OURS)
    dips.axvline(512, color=GREY, linestyle=":", linewidth=1.4)
    dips.text(470, 0.04, "above 512:\nthrough TIPs", color=GREY, fontsize=8.5, ha="right")
    dips.set(xscale="log", xlabel="DIPs of a VIP", ylabel="share of VIPs", ylim=(0, 1.04))
    dips.set_title("DIPs per VIP")
    minutes = np.arange(len(summary["total_bps"])) * 10
    mean = float(np.mean(summary["total_bps"]))
    time.plot(minutes, np.array(summary["total_bps"]) / mean, color=OURS, label="all VIPs", linewidth=2.4)
    for example, colour in zip(summary["examples"], (_BETTER, _SLOW, _RANDOM), strict=True):
        rates = np.array(example["bps"])
        time.plot(
            minutes,
            rates / rates.mean(),
            color=colour,
            linewidth=1.3,
            label=f"VIP of rank {example['rank']:,}",
        )
    time.set(xlabel="minutes", ylabel="traffic over its mean")
    time.set_ylim(0, time.get_ylim()[1] * 1.3)
    time.set_title("Drift and bursts")
    time.legend(loc="upper left", ncols=2, fontsize=8.5)
    return fig


def smuxes(summary: Summary) -> Figure:
    """Figure 16: SMuxes needed against traffic, for two SMux capacities."""
    fig, axes = results.figure(1, 2, figsize=(10, 4.2), sharey=True)
    for at, (capacity, band) in zip(axes, PAPER["smuxes"]["ananta_over_duet"].items(), strict=True):
        rows = [row for row in summary["rows"] if row["smux_gbps"] == float(capacity)]
        x = [row["traffic_tbps"] for row in rows]
        ananta = np.array([row["ananta"]["mean"] for row in rows])
        at.fill_between(
            x, ananta / band[1], ananta / band[0], color=results.PAPER, alpha=0.18, linewidth=0,
            label=f"paper: DUET, {band[0]}-{band[1]}x fewer",
        )  # fmt: skip
        _series(at, x, [row["ananta"] for row in rows], "Ananta", GREY, "s")
        _series(at, x, [row["duet"] for row in rows], "DUET (greedy)", OURS, "o")
        _series(at, x, [row["balanced"] for row in rows], "DUET (balanced, ours)", _BETTER, "^")
        _series(at, x, [row["bound"] for row in rows], "lower bound (LP)", "black", None, style=":")
        for row in rows:
            at.annotate(
                f"{row['ananta_over_duet']['mean']:.0f}x", (row["traffic_tbps"], row["duet"]["mean"]),
                textcoords="offset points", xytext=(0, 8), ha="center", fontsize=9, color=OURS, weight="bold",
            )  # fmt: skip
        at.set(xscale="log", yscale="log", xlabel="VIP traffic (Tbps)")
        _plain_ticks(at, x)
        at.set_title(f"{capacity} Gbps per SMux")
    axes[0].set_ylabel("SMuxes needed")
    axes[0].legend(loc="lower right", fontsize=8.5)
    return fig


def latency(summary: Summary) -> Figure:
    """Figure 17: median round trip against the number of SMuxes."""
    fig, at = results.figure(figsize=(7, 4.2))
    paper = PAPER["latency"]
    x = [point["smuxes"] for point in summary["ananta"]]
    at.plot(x, [point["mean"] for point in summary["ananta"]], color=GREY, label="Ananta")
    duet = summary["duet_smuxes"]["mean"], summary["duet_us"]["0.5"]["mean"]
    at.errorbar(
        [duet[0]], [duet[1]], xerr=[summary["duet_smuxes"]["ci95"]], yerr=[summary["duet_us"]["0.5"]["ci95"]],
        color=OURS, marker="o", markersize=8, capsize=3, linestyle="none",
        label=f"DUET: {duet[1]:.0f} us with {duet[0]:.0f} SMuxes",
    )  # fmt: skip
    results.paper_points(
        at, [paper["duet"]["smuxes"]], [paper["duet"]["median_us"]], "DUET, 474 us with 230 SMuxes"
    )
    at.plot(
        [paper["duet"]["smuxes"], paper["ananta_smuxes_to_match"]],
        [paper["ananta_same_smuxes_us_over"], paper["duet"]["median_us"]],
        linestyle="none", marker="s", color=results.PAPER, markerfacecolor="none", markeredgewidth=1.6,
        label="paper: Ananta, > 6 ms (230), 474 us (15,000)",
    )  # fmt: skip
    results.paper_line(at, paper["rtt_us"], "381 us without a mux")
    at.set(xscale="log", yscale="log", xlabel="SMuxes", ylabel="median round trip (us)", ylim=(300, 12000))
    _plain_ticks(at, [100, 300, 1000, 3000, 10000, 30000])
    _plain_ticks(at, [300, 500, 1000, 2000, 5000, 10000], axis="y")
    at.set_title("Latency against the number of SMuxes, 10 Tbps")
    at.legend(loc="center left", bbox_to_anchor=(0.0, 0.55), fontsize=8)
    return fig


def random(summary: Summary) -> Figure:
    """Figure 18: SMuxes under greedy, Random and our strategy."""
    fig, (counts, extra) = results.figure(1, 2, figsize=(10.5, 4.2), width_ratios=(3, 2))
    rows = summary["rows"]
    names = [f"{row['traffic_tbps']:g}" for row in rows]
    x = np.arange(len(rows))
    for i, (key, label, colour) in enumerate(
        (
            ("random", "Random", _RANDOM),
            ("greedy", "DUET (greedy)", OURS),
            ("balanced", "DUET (balanced, ours)", _BETTER),
        )
    ):
        values = [row[key] for row in rows]
        bars = counts.bar(
            x + (i - 1) * 0.27, [v["mean"] for v in values], 0.25, yerr=[v["ci95"] for v in values],
            color=colour, label=label, error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
        )  # fmt: skip
        counts.bar_label(bars, [f"{v['mean']:.0f}" for v in values], fontsize=8, padding=2)
    for i, row in enumerate(rows):
        counts.plot(
            [i - 0.4, i + 0.4], [row["bound"]["mean"]] * 2, color="black", linestyle=":", linewidth=1.6,
            label="lower bound (LP)" if i == 0 else None,
        )  # fmt: skip
    counts.set(xlabel="VIP traffic (Tbps)", ylabel="SMuxes needed (3.6 Gbps each)", yscale="log")
    counts.set_xticks(x, names)
    counts.set_ylim(top=counts.get_ylim()[1] * 1.6)
    counts.set_title("SMuxes")
    counts.legend(loc="upper left", fontsize=8.5)
    low, high = PAPER["random"]["extra_smuxes_percent"]
    extra.axhspan(
        low, high, color=results.PAPER, alpha=0.18, linewidth=0, label=f"paper: Random, {low}-{high}% more"
    )
    for key, label, colour, marker in (
        ("random", "Random", _RANDOM, "D"),
        ("balanced", "balanced (ours)", _BETTER, "^"),
    ):
        values = [row[f"{key}_extra_percent"] for row in rows]
        extra.errorbar(
            x, [v["mean"] for v in values], yerr=[v["ci95"] for v in values], color=colour, marker=marker,
            capsize=3, label=label,
        )  # fmt: skip
    extra.axhline(0, color=OURS, linewidth=1.4)
    extra.text(x[-1], 6, "greedy", color=OURS, fontsize=8.5, ha="right")
    extra.set(xlabel="VIP traffic (Tbps)", ylabel="SMuxes over greedy's (%)")
    extra.set_xticks(x, names)
    extra.set_title("Difference to greedy")
    extra.set_ylim(top=max(extra.get_ylim()[1], high * 1.35))
    extra.legend(loc="upper left", fontsize=8.5)
    return fig


def failures(summary: Summary) -> Figure:
    """Figure 19: maximum link utilization without and under failures."""
    fig, at = results.figure(figsize=(8.5, 4.2))
    rows = summary["rows"]
    x = np.arange(len(rows))
    kinds = (
        ("normal", None, "no failure", GREY),
        ("container_mean", "container_worst", "container fails", OURS),
        ("switches_mean", "switches_worst", "3 random switches fail", _BETTER),
        ("most_traffic_switches", None, "the 3 switches with most traffic fail", _SLOW),
    )
    for i, (key, worst, label, colour) in enumerate(kinds):
        place = x + (i - 1.5) * 0.2
        values = [row[key] for row in rows]
        at.bar(
            place, [v["mean"] for v in values], 0.18, yerr=[v["ci95"] for v in values],
            color=colour, label=label,
            error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
        )  # fmt: skip
        if worst:
            at.plot(
                place, [row[worst]["mean"] for row in rows], linestyle="none", marker="_", markersize=13,
                markeredgewidth=2, color="black", label="worst container or sample" if i == 1 else None,
            )  # fmt: skip
    at.axhline(0.8, color=GREY, linestyle=":", linewidth=1.4)
    at.text(len(rows) - 0.45, 0.81, "limit of the assignment", color=GREY, fontsize=8.5, ha="right")
    at.plot([], [], linestyle="none", label='paper: failures change it "little"')
    at.set(xlabel="VIP traffic (Tbps)", ylabel="maximum link utilization")
    at.set_xticks(x, [f"{row['traffic_tbps']:g}" for row in rows])
    at.set_ylim(0, max(1.0, at.get_ylim()[1]) * 1.3)
    at.set_title("Busiest link under failures (greedy)")
    for text in at.legend(loc="upper left", ncols=2, fontsize=8.5).get_texts():
        if text.get_text().startswith("paper"):
            text.set_color(results.PAPER)
    return fig


def migration(summary: Summary) -> Figure:
    """Figure 20: the migration strategies over the trace."""
    fig, (share, shuffled, needed) = results.figure(1, 3, figsize=(13, 4.0))
    paper = PAPER["migration"]
    styles = {"sticky": (OURS, "o"), "non-sticky": (_RANDOM, "s"), "one-time": (_SLOW, "^")}
    for name, series in summary["strategies"].items():
        colour, marker = styles[name]
        for at, key, factor, first in (
            (share, "hmux_share", 100, 0),
            (shuffled, "shuffled_share", 100, 1),
            (needed, "smuxes", 1, 0),
        ):
            if key == "shuffled_share" and name == "one-time":
                continue
            values = series[key]
            minutes = (np.arange(len(values)) + first) * 10
            mean = np.array([v["mean"] for v in values]) * factor
            half = np.array([v["ci95"] for v in values]) * factor
            at.plot(minutes, mean, color=colour, marker=marker, markersize=3.5, label=name)
            at.fill_between(minutes, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    for at, value, text in (
        (share, paper["sticky"]["hmux_share"], "paper: sticky, about 95%"),
        (share, paper["one-time"]["hmux_share"][1], "paper: one-time, about 75%"),
        (shuffled, paper["non-sticky"]["shuffled_share"][1], "paper: non-sticky, about 37%"),
        (shuffled, paper["sticky"]["shuffled_share"][1], "paper: sticky, about 3.5%"),
    ):
        at.axhline(100 * value, color=results.PAPER, linestyle="--", linewidth=1.4, zorder=1.5)
        above = at is shuffled
        at.text(
            10 * (len(summary["ananta_smuxes"]) - 1), 100 * value + (1.5 if above else -1.5), text,
            color=results.PAPER, fontsize=8.5, ha="right", va="bottom" if above else "top",
        )  # fmt: skip
    minutes = np.arange(len(summary["ananta_smuxes"])) * 10
    needed.plot(minutes, [v["mean"] for v in summary["ananta_smuxes"]], color=GREY, label="Ananta")
    share.set(ylabel="traffic on HMuxes (%)", ylim=(0, 104))
    shuffled.set(ylabel="traffic shuffled per interval (%)", ylim=(0, 104))
    needed.set(ylabel="SMuxes needed (3.6 Gbps each)", yscale="log")
    low, high = needed.get_ylim()
    _plain_ticks(needed, [n for e in range(6) for n in (10**e, 3 * 10**e) if low <= n <= high], axis="y")
    for at, title in ((share, "On HMuxes"), (shuffled, "Shuffled"), (needed, "SMuxes, migration included")):
        at.set_xlabel("minutes")
        at.set_title(title)
    share.legend(loc="lower left", fontsize=8.5)
    shuffled.legend(loc="center right", fontsize=8.5)
    needed.legend(loc="center right", fontsize=8.5)
    return fig


FIGURES: dict[str, Callable[[Summary], Figure]] = {
    "trace": trace,
    "smuxes": smuxes,
    "latency": latency,
    "random": random,
    "failures": failures,
    "migration": migration,
}


def _series(
    at: Axes,
    x: list[float],
    values: list[dict[str, float]],
    label: str,
    colour: str,
    marker: str | None,
    style: str = "-",
) -> None:
    at.errorbar(
        x, [v["mean"] for v in values], yerr=[v["ci95"] for v in values], label=label, color=colour,
        marker=marker, linestyle=style, capsize=3,
    )  # fmt: skip


def _plain_ticks(at: Axes, ticks: list[float], axis: str = "x") -> None:
    one = at.xaxis if axis == "x" else at.yaxis
    one.set_ticks(ticks, [f"{tick:g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
    one.set_ticks([], minor=True)


__all__ = ["FIGURES"]
