"""Figure 20: sticky, non-sticky and one-time over the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat, plain_ticks
from controller.simulation.muxcount import evenly
from controller.simulation.runner import Results
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.tasks import Follow, Followed
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

STRATEGIES = {"sticky": "sticky", "non-sticky": "duet", "one-time": "one-time"}
"""The paper's name of each, and the strategy that is run: non-sticky is DUET's greedy anew in every
interval.
"""


@dataclass(frozen=True)
class Point:
    """One strategy in one interval."""

    strategy: str
    minute: int
    hmux_share: Estimate
    shuffled_share: Estimate
    smuxes: Estimate


@dataclass(frozen=True)
class Overall:
    """One strategy over the trace, without the first interval; SMuxes at 3.6 Gbps, divided evenly."""

    strategy: str
    hmux_share: Estimate
    least_hmux_share: Estimate
    last_hmux_share: Estimate
    shuffled_share: Estimate
    least_shuffled_share: Estimate
    most_shuffled_share: Estimate
    most_smuxes: Estimate
    seconds: Estimate


@dataclass(frozen=True)
class Migrations:
    """The figure's numbers."""

    strategies: list[Overall]
    points: list[Point]
    ananta_smuxes: list[Estimate]
    seeds: int
    runs: int

    def of(self, strategy: str) -> Overall:
        """Return a strategy over the trace."""
        return next(one for one in self.strategies if one.strategy == strategy)


class Migration(Figure[Migrations]):
    """Three ways to follow the traffic, at the highest rate."""

    number = 20
    name = "migration"
    help = "Figure 20: sticky, non-sticky and one-time over the trace."
    paper = {  # noqa: RUF012
        "remembered": True,
        "sticky": {"hmux_share": 0.95, "shuffled_share": [0.007, 0.035, 0.044]},
        "non-sticky": {"shuffled_share": [0.25, 0.37, 0.46]},
        "one-time": {"hmux_share": [0.60, 0.75, 0.89]},
        "talk": "Duet handles 86-99.9% traffic using HMuxes",
    }

    def tasks(self, scale: Scale) -> Sequence[Follow]:
        """Return the work that the figure needs."""
        top = max(scale.rates_tbps)
        return [Follow(seed, top, run) for seed in scale.seeds for run in STRATEGIES.values()]

    def summarize(self, scale: Scale, results: Results) -> Migrations:
        """Average over seeds."""
        top = max(scale.rates_tbps)
        runs = {
            name: [results[Follow(seed, top, run)] for seed in scale.seeds]
            for name, run in STRATEGIES.items()
        }
        points = [
            Point(
                name,
                10 * i,
                estimate(one.moments[i].hmux_share for one in found),
                estimate(one.moments[i].shuffled_share for one in found),
                estimate(one.moments[i].smuxes for one in found),
            )
            for name, found in runs.items()
            for i in range(len(found[0].moments))
        ]
        sticky = runs["sticky"]
        ananta = [
            estimate(evenly(one.moments[i].total_bps, SMUX_BPS[0]) for one in sticky)
            for i in range(len(sticky[0].moments))
        ]
        overall = [_overall(name, found) for name, found in runs.items()]
        return Migrations(overall, points, ananta, len(scale.seeds), len(self.tasks(scale)))

    def draw(self, summary: Migrations) -> Drawing:
        """Draw it."""
        fig, (share, shuffled, needed) = results.figure(1, 3, figsize=(13.5, 4.4))
        styles = {"sticky": (OURS, "o"), "non-sticky": (SERIES[3], "s"), "one-time": (SERIES[2], "^")}
        for name, (colour, marker) in styles.items():
            mine = [point for point in summary.points if point.strategy == name]
            for at, field, factor in (
                (share, "hmux_share", 100),
                (shuffled, "shuffled_share", 100),
                (needed, "smuxes", 1),
            ):
                if at is shuffled and name == "one-time":
                    continue
                used = mine[1:] if at is shuffled else mine
                minutes = [point.minute for point in used]
                mean = np.array([getattr(point, field).mean for point in used]) * factor
                half = np.array([getattr(point, field).ci95 for point in used]) * factor
                at.plot(minutes, mean, color=colour, marker=marker, markersize=3.5, label=name)
                at.fill_between(minutes, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
        last = max(point.minute for point in summary.points)
        for at, value, text in (
            (share, 0.95, "paper: sticky, about 95%"),
            (share, 0.75, "paper: one-time, about 75%"),
            (shuffled, 0.37, "paper: non-sticky, about 37%"),
            (shuffled, 0.035, "paper: sticky, about 3.5%"),
        ):
            at.axhline(100 * value, color=results.PAPER, linestyle="--", linewidth=1.4, zorder=1.5)
            at.text(last, 100 * value + 1.2, text, color=results.PAPER, fontsize=8.5, ha="right", va="bottom")
        minutes = [10 * i for i in range(len(summary.ananta_smuxes))]
        needed.plot(minutes, [v.mean for v in summary.ananta_smuxes], color=GREY, label="Ananta")
        share.set(ylabel="traffic on HMuxes (%)", ylim=(0, 106))
        shuffled.set(ylabel="traffic shuffled per interval (%)", ylim=(0, 106))
        needed.set(ylabel="SMuxes needed (3.6 Gbps each)", yscale="log")
        low, high = needed.get_ylim()
        plain_ticks(needed, [n for e in range(6) for n in (10**e, 3 * 10**e) if low <= n <= high], axis="y")
        needed.set_ylim(top=high * 2)
        for at, title in (
            (share, "On HMuxes"),
            (shuffled, "Shuffled"),
            (needed, "SMuxes, migration included"),
        ):
            at.set_xlabel("minutes")
            at.set_title(title)
        share.legend(loc="lower left", fontsize=8.5)
        shuffled.legend(loc="center right", fontsize=8.5)
        needed.legend(loc="upper right", ncols=2, fontsize=8.5)
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; bands: 95% intervals. The "
            "paper's values are remembered.",
        )
        return fig

    def rows(self, summary: Migrations) -> list[Row]:
        """Return every strategy in every interval."""
        return [flat(point) for point in summary.points]

    def headline(self, summary: Migrations) -> str:
        """Say what each keeps and moves."""
        return ", ".join(
            f"{one.strategy} keeps {one.hmux_share.mean:.1%} on HMuxes and shuffles "
            f"{one.shuffled_share.mean:.1%}"
            for one in summary.strategies
        )


def _overall(name: str, found: list[Followed]) -> Overall:
    later = [one.moments[1:] or one.moments for one in found]
    return Overall(
        strategy=name,
        hmux_share=estimate(one.hmux() for one in found),
        least_hmux_share=estimate(min(p.hmux_share for p in moments) for moments in later),
        last_hmux_share=estimate(moments[-1].hmux_share for moments in later),
        shuffled_share=estimate(one.shuffled() for one in found),
        least_shuffled_share=estimate(min(p.shuffled_share for p in moments) for moments in later),
        most_shuffled_share=estimate(max(p.shuffled_share for p in moments) for moments in later),
        most_smuxes=estimate(one.most_smuxes() for one in found),
        seconds=estimate(p.seconds for one in found for p in one.moments),
    )


FIGURE = Migration()
