"""Consistency schemes side by side under one churn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controller.simulation.consistency import SCHEMES, Churn
from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import Keep
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Compared:
    """One scheme. Percentages are of the connections; state is the most that one mux held."""

    scheme: str
    broken_percent: Estimate
    lost_percent: Estimate
    state_kb: Estimate
    imbalance: Estimate


@dataclass(frozen=True)
class SideBySide:
    """The figure's numbers."""

    rows: list[Compared]
    churn: Churn
    seeds: int
    runs: int


class Consistency(Figure[SideBySide]):
    """Broken connections, state and imbalance of seven schemes."""

    number = None
    name = "consistency"
    help = "Consistency schemes side by side under one churn."
    paper = {"note": "DUET's paper has no such figure; the schemes are those of later papers, modelled"}  # noqa: RUF012

    def tasks(self, scale: Scale) -> Sequence[Keep]:
        """Return the work that the figure needs."""
        return [Keep(seed, name) for name in SCHEMES for seed in range(1, scale.churn_seeds + 1)]

    def summarize(self, scale: Scale, results: Results) -> SideBySide:
        """Average over seeds."""
        rows = []
        for name in SCHEMES:
            found = [results[Keep(seed, name)] for seed in range(1, scale.churn_seeds + 1)]
            rows.append(
                Compared(
                    scheme=name,
                    broken_percent=estimate(100 * one.broken / one.connections for one in found),
                    lost_percent=estimate(100 * one.lost / one.connections for one in found),
                    state_kb=estimate(one.state_bytes / 1000 for one in found),
                    imbalance=estimate(one.imbalance for one in found),
                )
            )
        return SideBySide(rows, Churn(), scale.churn_seeds, len(self.tasks(scale)))

    def draw(self, summary: SideBySide) -> Drawing:
        """Draw it."""
        fig, axes = results.figure(1, 3, figsize=(12.5, 4.2), sharey=True)
        y = np.arange(len(summary.rows))[::-1]
        colours = [
            OURS if row.scheme == "DUET (pins)" else SERIES[1] if "DUET" in row.scheme else GREY
            for row in summary.rows
        ]
        for at, field, title, form in (
            (axes[0], "broken_percent", "connections broken (%)", "{:.2g}%"),
            (axes[1], "state_kb", "state of one mux at most (kB)", "{:.3g}"),
            (axes[2], "imbalance", "busiest DIP over the mean", "{:.2f}"),
        ):
            values = [getattr(row, field) for row in summary.rows]
            shown = at.barh(
                y,
                [v.mean for v in values],
                xerr=[v.ci95 for v in values],
                color=colours,
                height=0.65,
                error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
            )
            labels = ["none" if v.mean == 0 else form.format(v.mean) for v in values]
            at.bar_label(shown, labels, fontsize=8.5, padding=4)
            at.set_title(title)
            at.set_yticks(y, [row.scheme for row in summary.rows])
        axes[0].set_xscale("symlog", linthresh=0.01)
        axes[0].set_xticks([0, 0.01, 0.1, 1, 10, 100], ["0", "0.01", "0.1", "1", "10", "100"])
        axes[0].set_xlim(0, 1000)
        axes[1].set_xscale("log")
        axes[1].set_xlim(0.1, 1000)
        axes[2].set_xlim(1, 2.4)
        churn = summary.churn
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; bars: 95% intervals. "
            f"{churn.dips} DIPs, {churn.muxes} muxes, "
            f"{churn.connections_per_s:g} connections/s of {churn.mean_life_s:g} s, a DIP event every 10 "
            "s, a mux event a minute.",
        )
        return fig

    def rows(self, summary: SideBySide) -> list[Row]:
        """Return every scheme."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: SideBySide) -> str:
        """Say what breaks."""
        return "; ".join(f"{row.scheme} breaks {row.broken_percent.mean:.2g}%" for row in summary.rows)


FIGURE = Consistency()
