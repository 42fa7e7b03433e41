"""Figure 19: link utilization under failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import LinkLoads
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Busiest:
    """The busiest link at one traffic, as a share of its capacity; `..._more` are differences within a
    seed.
    """

    traffic_tbps: float
    normal: Estimate
    container_mean: Estimate
    container_worst: Estimate
    triple_mean: Estimate
    triple_worst: Estimate
    busiest_triple: Estimate
    container_more: Estimate
    triple_more: Estimate
    busiest_triple_more: Estimate


@dataclass(frozen=True)
class UnderFailures:
    """The figure's numbers."""

    rows: list[Busiest]
    seeds: int
    runs: int
    scenarios: int


class Failures(Figure[UnderFailures]):
    """Maximum link utilization without and under failures, under the paper's strategy."""

    number = 19
    name = "failures"
    help = "Figure 19: link utilization under failures."
    paper = {"stated": "container and switch failures change the maximum link utilization little"}  # noqa: RUF012

    def tasks(self, scale: Scale) -> Sequence[LinkLoads]:
        """Return the work that the figure needs."""
        return [LinkLoads(seed, rate, "duet") for seed in scale.seeds for rate in _rates(scale)]

    def summarize(self, scale: Scale, results: Results) -> UnderFailures:
        """Average over seeds; differences are taken within a seed first."""
        rows = []
        for rate in _rates(scale):
            found = [results[LinkLoads(seed, rate, "duet")] for seed in scale.seeds]
            normal = [one.normal.max for one in found]
            boxes = [[link.max for link in one.containers] for one in found]
            triples = [[link.max for link in one.triples] for one in found]
            busiest = [one.busiest_triple.max for one in found]

            def more(values: list[float], normal: list[float] = normal) -> Estimate:
                return estimate(v - n for v, n in zip(values, normal, strict=True))

            rows.append(
                Busiest(
                    traffic_tbps=rate,
                    normal=estimate(normal),
                    container_mean=estimate(float(np.mean(v)) for v in boxes),
                    container_worst=estimate(max(v) for v in boxes),
                    triple_mean=estimate(float(np.mean(v)) for v in triples),
                    triple_worst=estimate(max(v) for v in triples),
                    busiest_triple=estimate(busiest),
                    container_more=more([max(v) for v in boxes]),
                    triple_more=more([max(v) for v in triples]),
                    busiest_triple_more=more(busiest),
                )
            )
        one = results[self.tasks(scale)[0]]
        return UnderFailures(
            rows, len(scale.seeds), len(self.tasks(scale)), len(one.containers) + len(one.triples) + 2
        )

    def draw(self, summary: UnderFailures) -> Drawing:
        """Draw it."""
        fig, (at, more) = results.figure(1, 2, figsize=(11.5, 4.5), width_ratios=(3, 2))
        x = np.arange(len(summary.rows))
        kinds = (
            ("normal", None, "no failure", GREY),
            ("container_mean", "container_worst", "a container fails", OURS),
            ("triple_mean", "triple_worst", "3 random switches fail", SERIES[1]),
            ("busiest_triple", None, "the 3 switches with most traffic fail", SERIES[2]),
        )
        for i, (key, worst, label, colour) in enumerate(kinds):
            place = x + (i - 1.5) * 0.2
            values = [getattr(row, key) for row in summary.rows]
            at.bar(
                place,
                [v.mean for v in values],
                0.18,
                yerr=[v.ci95 for v in values],
                color=colour,
                label=label,
                error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
            )
            if worst:
                at.plot(
                    place,
                    [getattr(row, worst).mean for row in summary.rows],
                    linestyle="none",
                    marker="_",
                    markersize=13,
                    markeredgewidth=2,
                    color="black",
                    label="worst container or sample" if i == 1 else None,
                )
        at.axhline(0.8, color=GREY, linestyle=":", linewidth=1.4)
        at.text(
            len(summary.rows) - 0.45, 0.81, "limit of the assignment", color=GREY, fontsize=8.5, ha="right"
        )
        at.set(xlabel="VIP traffic (Tbps)", ylabel="maximum link utilization", ylim=(0, 1.35))
        at.set_title("Busiest link (the paper's strategy)")
        at.legend(loc="upper left", ncols=2, fontsize=8.5)
        for i, (key, label, colour) in enumerate(
            (
                ("container_more", "worst container", OURS),
                ("triple_more", "worst of the random triples", SERIES[1]),
                ("busiest_triple_more", "3 switches with most traffic", SERIES[2]),
            )
        ):
            values = [getattr(row, key) for row in summary.rows]
            more.errorbar(
                x + (i - 1) * 0.1,
                [100 * v.mean for v in values],
                yerr=[100 * v.ci95 for v in values],
                color=colour,
                marker="o",
                capsize=3,
                linestyle="none",
                label=label,
            )
        more.axhline(0, color=GREY, linewidth=1)
        results.paper_line(more, 0, '"changes little"')
        more.set(xlabel="VIP traffic (Tbps)", ylabel="more than without a failure (points)")
        more.set_title("Difference, paired by seed")
        more.set_ylim(top=more.get_ylim()[1] + 12)
        more.legend(loc="upper left", fontsize=8.5)
        for one in (at, more):
            one.set_xticks(x, [f"{row.traffic_tbps:g}" for row in summary.rows])
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs of {summary.scenarios} scenarios, none discarded; "
            "bars: 95% "
            "intervals. Failures are clean: routing has converged.",
        )
        return fig

    def rows(self, summary: UnderFailures) -> list[Row]:
        """Return every traffic."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: UnderFailures) -> str:
        """Say how much the worst failure changes."""
        worst = max(summary.rows, key=lambda row: row.container_more.mean)
        return (
            f"the worst container failure adds "
            f"{100 * worst.container_more.mean:.0f}±{100 * worst.container_more.ci95:.0f} "
            f"points to the busiest link at {worst.traffic_tbps:g} Tbps, from {worst.normal.mean:.0%}"
        )


def _rates(scale: Scale) -> tuple[float, ...]:
    """The lowest and the highest traffic: a run computes the loads of every link dozens of times."""
    return tuple(dict.fromkeys((min(scale.rates_tbps), max(scale.rates_tbps))))


FIGURE = Failures()
