"""Rubik's claims, measured beside DUET on the same traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.settings import Setting
from controller.simulation.tasks import Carried, Carry
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

TRACES: dict[str, tuple[Setting, ...]] = {
    "as elsewhere": (),
    "half the sources near the DIPs": (("profile.sources_near", "0.5"),),
    "the same, no Internet traffic": (("profile.sources_near", "0.5"), ("profile.internet_share", "0")),
}
COMPARED = [*((trace, "lightest") for trace in TRACES), ("as elsewhere", "duet")]
"""Traces, and what places the VIPs that are not local."""
MODES = {"duet": "DUET", "locality": "locality alone", "rubik": "Rubik: locality and end-point flexibility"}


@dataclass(frozen=True)
class Compared:
    """One way on one trace; `..._less` are DUET's value over this one's, seed by seed."""

    trace: str
    mode: str
    placing: str
    bandwidth: Estimate
    max_link: Estimate
    local: Estimate
    hmux_share: Estimate
    bandwidth_less: Estimate
    max_link_less: Estimate


@dataclass(frozen=True)
class Claims:
    """The figure's numbers."""

    rows: list[Compared]
    traffic_tbps: float
    seeds: int
    runs: int


class RubikClaims(Figure[Claims]):
    """Bandwidth that load-balanced traffic takes, and the busiest link, under DUET and Rubik."""

    number = None
    name = "rubik"
    help = "Rubik (ATC 2015) beside DUET: bandwidth and the busiest link."
    paper = {  # noqa: RUF012
        "bandwidth_less": 3,
        "max_link_less": 4,
        "claim": "over 3x less bandwidth, 4x lower maximum link utilization",
    }

    def tasks(self, scale: Scale) -> Sequence[Carry]:
        """Return the work that the figure needs."""
        return [
            _task(scale, seed, mode, placing, trace)
            for seed in _seeds(scale)
            for trace, placing in COMPARED
            for mode in MODES
        ]

    def summarize(self, scale: Scale, results: Results) -> Claims:
        """Compare with DUET seed by seed."""
        rows = []
        for trace, placing in COMPARED:
            for mode in MODES:
                mine = [results[_task(scale, seed, mode, placing, trace)] for seed in _seeds(scale)]
                duet = [results[_task(scale, seed, "duet", placing, trace)] for seed in _seeds(scale)]
                rows.append(_row(trace, mode, placing, mine, duet))
        return Claims(rows, max(scale.rates_tbps), len(_seeds(scale)), len(self.tasks(scale)))

    def draw(self, summary: Claims) -> Drawing:
        """Draw it."""
        fig, axes = results.figure(1, 2, figsize=(12, 4.6))
        colours = (GREY, SERIES[1], OURS)
        rows = [row for row in summary.rows if row.placing == "lightest"]
        x = np.arange(len(TRACES))
        for at, field, factor in ((axes[0], "bandwidth", 1), (axes[1], "max_link", 100)):
            for i, (mode, label) in enumerate(MODES.items()):
                values = [getattr(row, field) for row in rows if row.mode == mode]
                bars = at.bar(
                    x + (i - 1) * 0.27,
                    [factor * v.mean for v in values],
                    0.25,
                    yerr=[factor * v.ci95 for v in values],
                    color=colours[i],
                    label=label,
                    error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#374151"},
                )
                less = [getattr(row, f"{field}_less") for row in rows if row.mode == mode]
                at.bar_label(
                    bars,
                    ["" if mode == "duet" else f"{v.mean:.1f}x less" for v in less],
                    fontsize=8,
                    padding=2,
                )
            at.set_xticks(x, [name.replace(", ", ",\n") for name in TRACES])
            at.set_ylim(0, at.get_ylim()[1] * 1.35)
        axes[0].set(ylabel="bit/s on links per bit/s of VIP traffic")
        axes[0].set_title("Bandwidth (Rubik's paper: over 3x less)")
        axes[1].set(ylabel="busiest link (%)")
        axes[1].set_title("Busiest link (Rubik's paper: about 4x lower)")
        axes[0].legend(loc="upper right", fontsize=8.5)
        results.note(
            fig,
            f"{summary.traffic_tbps:g} Tbps, {summary.seeds} seeds, {summary.runs} runs, none discarded. "
            "The lightest switch takes "
            "what is not local, under DUET too.",
        )
        return fig

    def rows(self, summary: Claims) -> list[Row]:
        """Return every way on every trace."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: Claims) -> str:
        """Say by how much."""
        best = [row for row in summary.rows if row.mode == "rubik"]
        band = [row.bandwidth_less.mean for row in best]
        link = [row.max_link_less.mean for row in best]
        return (
            f"Rubik takes {min(band):.1f}-{max(band):.1f}x less bandwidth (its paper: over 3x) and has a "
            f"{min(link):.1f}-{max(link):.1f}x lower maximum link utilization (about 4x)"
        )


def _seeds(scale: Scale) -> tuple[int, ...]:
    return scale.seeds[: scale.assumption_seeds]


def _task(scale: Scale, seed: int, mode: str, placing: str, trace: str) -> Carry:
    return Carry(seed, max(scale.rates_tbps), mode, placing, TRACES[trace])


def _row(trace: str, mode: str, placing: str, mine: list[Carried], duet: list[Carried]) -> Compared:
    pairs = list(zip(duet, mine, strict=True))
    return Compared(
        trace=trace,
        mode=mode,
        placing=placing,
        bandwidth=estimate(one.bandwidth for one in mine),
        max_link=estimate(one.max_link for one in mine),
        local=estimate(one.local for one in mine),
        hmux_share=estimate(one.hmux_share for one in mine),
        bandwidth_less=estimate(d.bandwidth / m.bandwidth for d, m in pairs),
        max_link_less=estimate(d.max_link / m.max_link for d, m in pairs),
    )


FIGURE = RubikClaims()
