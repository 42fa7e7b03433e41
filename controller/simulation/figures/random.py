"""Figure 18: DUET's assignment against Random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat
from controller.simulation.muxcount import CountRule
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import Limit, Place, Task
from duet_p4 import results
from duet_p4.results import OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

RANDOMS = ("random", "random-skip", "random-orders", "random-orders-skip")
LABELS = {
    "random": "one order, ends at the first VIP that does not fit",
    "random-skip": "one order, skips it",
    "random-orders": "an order per VIP, ends",
    "random-orders-skip": "an order per VIP, skips",
}


@dataclass(frozen=True)
class Baseline:
    """One kind of Random at one traffic, against DUET. Shares are of the traffic."""

    traffic_tbps: float
    strategy: str
    smuxes: Estimate
    extra_percent: Estimate
    extra_percent_worst: Estimate
    hmux_share: Estimate
    unplaced: Estimate
    routes: Estimate


@dataclass(frozen=True)
class Ours:
    """Our strategies and the bound at one traffic, against DUET under the worst failures."""

    traffic_tbps: float
    duet: Estimate
    duet_worst: Estimate
    balanced_worst: Estimate
    bound: Estimate
    balanced_extra_percent: Estimate
    balanced_over_bound: Estimate


@dataclass(frozen=True)
class Compared:
    """The figure's numbers; SMuxes at 3.6 Gbps, divided evenly."""

    baselines: list[Baseline]
    ours: list[Ours]
    seeds: int
    runs: int


class AgainstRandom(Figure[Compared]):
    """SMuxes under DUET, four kinds of Random, and our strategy."""

    number = 18
    name = "random"
    help = "Figure 18: DUET's assignment against Random."
    paper = {"extra_smuxes_percent": [120, 307]}  # noqa: RUF012

    def tasks(self, scale: Scale) -> Sequence[Task[Any]]:
        """Return the work that the figure needs."""
        found: list[Task[Any]] = []
        for seed in scale.seeds:
            for rate in scale.rates_tbps:
                found += [Place(seed, rate, name) for name in ("duet", "balanced", *RANDOMS)]
        bounded = scale.seeds[: scale.bound_seeds]
        return [*found, *(Limit(seed, rate) for seed in bounded for rate in scale.rates_tbps)]

    def summarize(self, scale: Scale, results: Results) -> Compared:
        """Compare the SMuxes of every kind of Random with DUET's, seed by seed."""
        return Compared(
            baselines=[_baseline(scale, results, r, n) for n in RANDOMS for r in scale.rates_tbps],
            ours=[_ours(scale, results, rate) for rate in scale.rates_tbps],
            seeds=len(scale.seeds),
            runs=len(self.tasks(scale)),
        )

    def draw(self, summary: Compared) -> Drawing:
        """Draw it."""
        fig, (extra, left, ours) = results.figure(1, 3, figsize=(14, 4.5))
        names = [f"{one.traffic_tbps:g}" for one in summary.ours]
        x = np.arange(len(names))
        low, high = self.paper["extra_smuxes_percent"]
        extra.axhspan(low, high, color=results.PAPER, alpha=0.18, linewidth=0, label=f"paper: {low}-{high}%")
        colours = (SERIES[3], SERIES[2], SERIES[4], SERIES[1])
        for i, (name, colour) in enumerate(zip(RANDOMS, colours, strict=True)):
            mine = [one for one in summary.baselines if one.strategy == name]
            extra.errorbar(
                x + (i - 1.5) * 0.08,
                [one.extra_percent.mean for one in mine],
                yerr=[one.extra_percent.ci95 for one in mine],
                color=colour,
                marker="D",
                markersize=4,
                capsize=2,
                label=LABELS[name],
            )
            left.plot(x, [100 * one.unplaced.mean for one in mine], color=colour, marker="D", markersize=4)
        extra.set(xlabel="VIP traffic (Tbps)", ylabel="SMuxes over DUET's (%)")
        extra.set_yscale("symlog", linthresh=100)
        extra.set_yticks([0, 100, 300, 1000, 3000], ["0", "100", "300", "1,000", "3,000"])
        extra.set_ylim(-50, 200_000)
        extra.set_title("Random against DUET")
        extra.legend(loc="upper left", fontsize=8)
        left.set(xlabel="VIP traffic (Tbps)", ylabel="traffic never placed (%)", ylim=(0, 100))
        left.set_title("What Random leaves to the SMuxes")
        for i, (field, label, colour) in enumerate(
            (("duet_worst", "DUET", OURS), ("balanced_worst", "balanced (ours)", SERIES[1]))
        ):
            values = [getattr(one, field) for one in summary.ours]
            bars = ours.bar(
                x + (i - 0.5) * 0.36,
                [v.mean for v in values],
                0.34,
                yerr=[v.ci95 for v in values],
                color=colour,
                label=label,
                error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
            )
            ours.bar_label(bars, [f"{v.mean:.0f}" for v in values], fontsize=8, padding=2)
        for i, one in enumerate(summary.ours):
            ours.plot(
                [i - 0.4, i + 0.4],
                [one.bound.mean] * 2,
                color="black",
                linestyle=":",
                linewidth=1.6,
                label="no assignment below (LP)" if i == 0 else None,
            )
        ours.set(xlabel="VIP traffic (Tbps)", ylabel="SMuxes, 3.6 Gbps each", yscale="log")
        ours.set_ylim(top=ours.get_ylim()[1] * 3)
        ours.set_title("Under the worst failures")
        ours.legend(loc="upper left", fontsize=8)
        for at in (extra, left, ours):
            at.set_xticks(x, names)
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; differences are paired by seed; "
            "bars: 95% intervals.",
        )
        return fig

    def rows(self, summary: Compared) -> list[Row]:
        """Return every kind of Random at every traffic."""
        return [flat(one) for one in summary.baselines]

    def headline(self, summary: Compared) -> str:
        """Say how many more."""
        said = []
        for name in RANDOMS[:2]:
            values = [one.extra_percent.mean for one in summary.baselines if one.strategy == name]
            said.append(f"{min(values):.0f}-{max(values):.0f}% more SMuxes ({LABELS[name]})")
        gap = max(one.balanced_over_bound.mean for one in summary.ours)
        return (
            f"Random needs {', '.join(said)}; paper: 120-307%; balanced is within {gap - 1:.0%} of the bound"
        )


def _baseline(scale: Scale, found: Results, rate: float, name: str) -> Baseline:
    mine = [found[Place(seed, rate, name)] for seed in scale.seeds]
    duet = [found[Place(seed, rate, "duet")] for seed in scale.seeds]
    return Baseline(
        traffic_tbps=rate,
        strategy=name,
        smuxes=estimate(one.smuxes(3.6, CountRule.EVEN) for one in mine),
        extra_percent=estimate(100 * (a.text_bps / b.text_bps - 1) for a, b in zip(mine, duet, strict=True)),
        extra_percent_worst=estimate(
            100 * (a.worst_bps / b.worst_bps - 1) for a, b in zip(mine, duet, strict=True)
        ),
        hmux_share=estimate(one.hmux_share for one in mine),
        unplaced=estimate(one.unplaced_bps / one.total_bps for one in mine),
        routes=estimate(one.routes for one in mine),
    )


def _ours(scale: Scale, found: Results, rate: float) -> Ours:
    duet = [found[Place(seed, rate, "duet")] for seed in scale.seeds]
    balanced = [found[Place(seed, rate, "balanced")] for seed in scale.seeds]
    limits = [found[Limit(seed, rate)] for seed in scale.seeds[: scale.bound_seeds]]
    return Ours(
        traffic_tbps=rate,
        duet=estimate(one.smuxes(3.6, CountRule.EVEN) for one in duet),
        duet_worst=estimate(one.smuxes(3.6, CountRule.EVEN, worst=True) for one in duet),
        balanced_worst=estimate(one.smuxes(3.6, CountRule.EVEN, worst=True) for one in balanced),
        bound=estimate(np.ceil(one.fallback_bps / 3.6e9) for one in limits),
        balanced_extra_percent=estimate(
            100 * (a.worst_bps / b.worst_bps - 1) for a, b in zip(balanced, duet, strict=True)
        ),
        balanced_over_bound=estimate(
            a.worst_bps / b.fallback_bps for a, b in zip(balanced, limits, strict=False)
        ),
    )


FIGURE = AgainstRandom()
