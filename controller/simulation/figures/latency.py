"""Figure 17: latency against the number of SMuxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat, plain_ticks
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.tasks import Latency
from duet_p4 import results
from duet_p4.results import GREY, OURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Point:
    """Ananta's median round trip on so many SMuxes, us: evenly loaded, and by anycast."""

    smuxes: int
    even_us: Estimate
    anycast_us: Estimate


@dataclass(frozen=True)
class RoundTrips:
    """The figure's numbers. `discarded` points of the curve are those that not every seed has."""

    duet_smuxes: Estimate
    duet_us: dict[str, Estimate]
    link_us: Estimate
    ananta_same_smuxes_us: Estimate
    ananta_floor_us: Estimate
    ananta: list[Point]
    seeds: int
    discarded: int


class RoundTrip(Figure[RoundTrips]):
    """Median round trip against the number of SMuxes, at the highest traffic."""

    number = 17
    name = "latency"
    help = "Figure 17: latency against the number of SMuxes."
    paper = {  # noqa: RUF012
        "rtt_us": 381,
        "duet": {"smuxes": 230, "median_us": 474},
        "ananta_same_smuxes_us_over": 6000,
        "ananta_smuxes_to_match": 15_000,
        "smux_added_us": {"100 kpps": 200, "300 kpps": 230, "450 kpps": 14_000},
    }

    def tasks(self, scale: Scale) -> Sequence[Latency]:
        """Return the work that the figure needs."""
        return [Latency(seed, max(scale.rates_tbps), "duet") for seed in scale.seeds]

    def summarize(self, scale: Scale, results: Results) -> RoundTrips:
        """Average over seeds."""
        found = [results[task] for task in self.tasks(scale)]
        curves = [{point.smuxes: point for point in one.ananta} for one in found]
        counts = sorted(set().union(*curves))
        kept = [n for n in counts if all(n in curve for curve in curves)]
        same = [curve[one.duet_smuxes].anycast_us for curve, one in zip(curves, found, strict=True)]
        return RoundTrips(
            duet_smuxes=estimate(one.duet_smuxes for one in found),
            duet_us={q: estimate(one.duet_us[q] for one in found) for q in found[0].duet_us},
            link_us=estimate(one.link_us for one in found),
            ananta_same_smuxes_us=estimate(same),
            ananta_floor_us=estimate(curve[max(kept)].anycast_us for curve in curves),
            ananta=[
                Point(
                    n,
                    estimate(curve[n].even_us for curve in curves),
                    estimate(curve[n].anycast_us for curve in curves),
                )
                for n in kept
            ],
            seeds=len(found),
            discarded=len(counts) - len(kept),
        )

    def draw(self, summary: RoundTrips) -> Drawing:
        """Draw it."""
        fig, at = results.figure(figsize=(7.6, 4.8))
        x = [point.smuxes for point in summary.ananta]
        at.plot(
            x,
            [point.anycast_us.mean for point in summary.ananta],
            color=GREY,
            label="Ananta, loaded as anycast does",
        )
        at.plot(
            x,
            [point.even_us.mean for point in summary.ananta],
            color=GREY,
            linestyle=":",
            label="Ananta, evenly loaded",
        )
        duet = summary.duet_us["0.5"]
        at.errorbar(
            [summary.duet_smuxes.mean],
            [duet.mean],
            xerr=[summary.duet_smuxes.ci95],
            yerr=[duet.ci95],
            color=OURS,
            marker="o",
            markersize=8,
            capsize=3,
            linestyle="none",
            label=f"DUET: {duet.mean:.0f} us with {summary.duet_smuxes.mean:.0f} SMuxes",
        )
        results.paper_points(at, [230], [474], "DUET, 474 us with 230 SMuxes")
        at.plot(
            [230, 15_000],
            [6000, 474],
            linestyle="none",
            marker="s",
            color=results.PAPER,
            markerfacecolor="none",
            markeredgewidth=1.6,
            label="paper: Ananta, > 6 ms (230), 474 us (15,000)",
        )
        results.paper_line(at, 381, "381 us without a mux")
        at.set(
            xscale="log", yscale="log", xlabel="SMuxes", ylabel="median round trip (us)", ylim=(300, 60_000)
        )
        plain_ticks(at, [100, 300, 1000, 3000, 10_000, 30_000])
        plain_ticks(at, [300, 500, 1000, 2000, 5000, 10_000, 20_000], axis="y")
        at.set_title("Latency against the number of SMuxes")
        at.legend(loc="upper right", fontsize=8)
        results.note(
            fig,
            f"{summary.seeds} seeds; {summary.discarded} points of the curve discarded: not every seed has "
            "them.",
        )
        return fig

    def rows(self, summary: RoundTrips) -> list[Row]:
        """Return Ananta's curve."""
        return [flat(point) for point in summary.ananta]

    def headline(self, summary: RoundTrips) -> str:
        """Say DUET's median."""
        return (
            f"DUET has median {summary.duet_us['0.5'].mean:.0f} us with {summary.duet_smuxes.mean:.0f} "
            "SMuxes "
            "(paper: 474 us with 230)"
        )


FIGURE = RoundTrip()
