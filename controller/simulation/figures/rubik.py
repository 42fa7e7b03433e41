"""Rubik's claims, measured beside DUET on the same traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat, percent, series
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import LINKS, Carried, Carry
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

INTERNET = (0.0, 0.15, 0.3)
"""Share of the bytes that enters at the Cores, which no ToR can keep: swept."""
PAPERS = ("duet", "duet")
"""DUET as its paper has it: the smallest MRU over all resources, tables among them, ties at random."""
WAYS = {
    PAPERS: "DUET",
    ("duet", "lightest"): "DUET, by the lightest touched resource",
    ("duet", LINKS): "DUET, by the busiest link alone",
    ("locality", LINKS): "locality alone, by the busiest link",
    ("rubik", "duet"): "Rubik, placing the rest as DUET does",
    ("rubik", LINKS): "Rubik, placing the rest by the busiest link",
}
"""Ways to carry the traffic, and to place what is not local."""


@dataclass(frozen=True)
class Compared:
    """One way at one Internet share; `..._less` are the paper's DUET's value over this one's, seed by seed.

    `max_link_less_alike` is that of DUET with the same way of placing.
    """

    internet: float
    mode: str
    placing: str
    bandwidth: Estimate
    max_link: Estimate
    local: Estimate
    hmux_share: Estimate
    bandwidth_less: Estimate
    max_link_less: Estimate
    max_link_less_alike: Estimate


@dataclass(frozen=True)
class Claims:
    """The figure's numbers."""

    rows: list[Compared]
    traffic_tbps: float
    seeds: int
    runs: int

    def of(self, mode: str, placing: str) -> list[Compared]:
        """Return one way at every Internet share."""
        return [row for row in self.rows if (row.mode, row.placing) == (mode, placing)]


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
            _task(scale, seed, way, share) for seed in _seeds(scale) for share in INTERNET for way in WAYS
        ]

    def summarize(self, scale: Scale, results: Results) -> Claims:
        """Compare with DUET seed by seed."""

        def of(way: tuple[str, str], share: float) -> list[Carried]:
            return [results[_task(scale, seed, way, share)] for seed in _seeds(scale)]

        rows = []
        for share in INTERNET:
            for mode, placing in WAYS:
                alike = of(("duet", placing), share)
                rows.append(_row(share, mode, placing, of((mode, placing), share), of(PAPERS, share), alike))
        return Claims(rows, max(scale.rates_tbps), len(_seeds(scale)), len(self.tasks(scale)))

    def draw(self, summary: Claims) -> Drawing:
        """Draw it."""
        fig, axes = results.figure(1, 3, figsize=(14.5, 4.8))
        colours = dict(zip(WAYS, (GREY, SERIES[3], SERIES[4], SERIES[1], SERIES[2], OURS), strict=True))
        x = [100 * share for share in INTERNET]
        for way, label in WAYS.items():
            rows = summary.of(*way)
            series(axes[0], x, [row.bandwidth for row in rows], label, colours[way], "o")
            series(axes[1], x, [percent(row.max_link) for row in rows], label, colours[way], "o")
            if way[0] == "rubik":
                less = [row.bandwidth_less for row in rows], [row.max_link_less for row in rows]
                series(axes[2], x, less[0], f"bandwidth: {label}", colours[way], "s", "--")
                series(axes[2], x, less[1], f"busiest link: {label}", colours[way], "o")
        results.paper_line(axes[2], self.paper["bandwidth_less"], "over 3x less bandwidth")
        results.paper_line(axes[2], self.paper["max_link_less"], "about 4x lower busiest link")
        for at, label, title in (
            (axes[0], "bit/s on links per bit/s of VIP traffic", "Bandwidth"),
            (axes[1], "busiest link (%)", "Busiest link"),
            (axes[2], "times less than under DUET", "Rubik's claims"),
        ):
            at.set(xlabel="Internet's share of the traffic (%)", ylabel=label)
            at.set_xticks(x)
            at.set_ylim(0, at.get_ylim()[1] * 1.5)
            at.set_title(title)
        axes[1].legend(loc="upper left", fontsize=7.5)
        axes[2].legend(loc="upper right", fontsize=7)
        results.note(
            fig,
            f"{summary.traffic_tbps:g} Tbps, {summary.seeds} seeds, {summary.runs} runs, none discarded; "
            "bars: 95% intervals. Compared with DUET as its paper has it, on the same trace.",
        )
        return fig

    def rows(self, summary: Claims) -> list[Row]:
        """Return every way at every share."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: Claims) -> str:
        """Say by how much."""
        found = summary.of("rubik", LINKS)
        band = [row.bandwidth_less.mean for row in found]
        link = [row.max_link_less.mean for row in found]
        return (
            f"Rubik takes {min(band):.1f}-{max(band):.1f}x less bandwidth (its paper: over 3x) and has a "
            f"{min(link):.1f}-{max(link):.1f}x lower maximum link utilization (about 4x) with "
            f"{max(INTERNET):.0%} to {min(INTERNET):.0%} of the traffic from the Internet"
        )


def _seeds(scale: Scale) -> tuple[int, ...]:
    return scale.seeds[: scale.curve_seeds]


def _task(scale: Scale, seed: int, way: tuple[str, str], internet: float) -> Carry:
    own = internet == scale.profile.internet_share
    settings = () if own else (("profile.internet_share", f"{internet:g}"),)
    return Carry(seed, max(scale.rates_tbps), *way, settings)


def _row(
    internet: float,
    mode: str,
    placing: str,
    mine: list[Carried],
    duet: list[Carried],
    alike: list[Carried],
) -> Compared:
    def less(of: list[Carried], field: str) -> Estimate:
        return estimate(getattr(d, field) / getattr(m, field) for d, m in zip(of, mine, strict=True))

    return Compared(
        internet=internet,
        mode=mode,
        placing=placing,
        bandwidth=estimate(one.bandwidth for one in mine),
        max_link=estimate(one.max_link for one in mine),
        local=estimate(one.local for one in mine),
        hmux_share=estimate(one.hmux_share for one in mine),
        bandwidth_less=less(duet, "bandwidth"),
        max_link_less=less(duet, "max_link"),
        max_link_less_alike=less(alike, "max_link"),
    )


FIGURE = RubikClaims()
