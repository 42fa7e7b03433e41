"""What the largest VIP decides: figure 16's shares, and whether all VIPs find a place, against its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from controller.simulation.figures.base import (
    ALL_PLACED,
    Ended,
    Estimate,
    Figure,
    Row,
    estimate,
    flat,
    percent,
    plain_ticks,
    series,
)
from controller.simulation.figures.smuxes import TALK
from controller.simulation.provisioning import FAILED_SWITCHES
from controller.simulation.runner import Results
from controller.simulation.scale import Scale
from controller.simulation.settings import Setting
from controller.simulation.tasks import Place, Placed, Task
from controller.simulation.workload import traffic_shares
from duet_p4 import results
from duet_p4.results import OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SHARES = (0.007, 0.01, 0.02, 0.04, 0.08)
"""The largest VIP's share of the bytes: all that the talk's first point allows."""
STRATEGIES = ("duet", "balanced")


@dataclass(frozen=True)
class Sized:
    """One size of the largest VIP at one traffic; shares are of the traffic.

    In `placed_in` of the seeds DUET's algorithm did not end at a large VIP; `duet_placed_share` is of those,
    `ended` are the others.
    """

    largest_share: float
    traffic_tbps: float
    duet_share: Estimate
    duet_placed_share: Estimate | None
    duet_worst_share: Estimate
    hmux_share: Estimate
    routes: Estimate
    placed_in: int
    ended: list[Ended]
    balanced_share: Estimate
    balanced_worst_share: Estimate
    three_largest: float


@dataclass(frozen=True)
class Sizes:
    """The figure's numbers."""

    rows: list[Sized]
    seeds: int
    runs: int


class Elephants(Figure[Sizes]):
    """DUET and our strategy against the size of the largest VIP."""

    number = None
    name = "elephants"
    help = "What the size of the largest VIP does to figure 16."
    paper = {  # noqa: RUF012
        "duet_share": {f"{rate:g}": duet * 3.6e-3 / rate for rate, (_, duet) in TALK.items()},
        "largest_share": [0.007, 0.08],
        "claim": "16k VIPs are on HMuxes at every traffic",
    }

    def tasks(self, scale: Scale) -> Sequence[Task[Any]]:
        """Return the work that the figure needs."""
        return [
            Place(seed, rate, name, settings)
            for seed in scale.seeds
            for settings in _shares(scale).values()
            for rate in scale.rates_tbps
            for name in STRATEGIES
        ]

    def summarize(self, scale: Scale, results: Results) -> Sizes:
        """Average over seeds."""
        rows = [_sized(scale, results, share, rate) for share in _shares(scale) for rate in scale.rates_tbps]
        return Sizes(rows, len(scale.seeds), len(self.tasks(scale)))

    def draw(self, summary: Sizes) -> Drawing:
        """Draw it."""
        fig, (shares, placed) = results.figure(1, 2, figsize=(11, 4.4))
        colours = (SERIES[2], SERIES[3], OURS, SERIES[1], SERIES[4])
        rates = list(dict.fromkeys(row.traffic_tbps for row in summary.rows))
        for share, colour in zip(
            dict.fromkeys(row.largest_share for row in summary.rows), colours, strict=False
        ):
            rows = [row for row in summary.rows if row.largest_share == share]
            series(
                shares,
                rates,
                [percent(row.duet_share) for row in rows],
                f"largest VIP: {share:.1%}",
                colour,
                "o",
            )
            worst = [100 * row.balanced_worst_share.mean for row in rows]
            shares.plot(rates, worst, color=colour, linestyle=":", linewidth=1.2)
            placed.plot(
                rates, [100 * row.placed_in / summary.seeds for row in rows], color=colour, marker="o"
            )
        known = [rate for rate in rates if rate in TALK]
        results.paper_points(shares, known, [100 * TALK[r][1] * 3.6e-3 / r for r in known], "DUET (talk)")
        for at in (shares, placed):
            at.set(xscale="log", xlabel="VIP traffic (Tbps)")
            plain_ticks(at, rates)
        shares.set(ylabel="on the SMuxes in the worst case (% of traffic)", ylim=(0, 30))
        shares.set_title("DUET by the text's failures; dotted: balanced, worst failures")
        shares.legend(loc="upper left", fontsize=8, ncols=2)
        placed.set(ylabel="seeds (%)", ylim=(0, 105))
        placed.set_title(f"DUET places {ALL_PLACED:.0%} of the traffic or more")
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; bars: 95% intervals. "
            "Values beyond 30% are cut.",
        )
        return fig

    def rows(self, summary: Sizes) -> list[Row]:
        """Return every size at every traffic."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: Sizes) -> str:
        """Say which sizes let DUET place everything, and which come closest to the talk."""
        sizes = list(dict.fromkeys(row.largest_share for row in summary.rows))
        whole = [
            size
            for size in sizes
            if all(r.placed_in == summary.seeds for r in summary.rows if r.largest_share == size)
        ]
        return (
            f"in all {summary.seeds} seeds DUET places large VIPs at every traffic with a largest VIP of "
            f"{', '.join(f'{size:.1%}' for size in whole) or 'no size'}; of {len(sizes)} sizes "
            f"{self._nearest(summary):.1%} comes closest to the talk's shares"
        )

    def _nearest(self, summary: Sizes) -> float:
        distance: dict[float, list[float]] = {}
        for row in summary.rows:
            stated = self.paper["duet_share"].get(f"{row.traffic_tbps:g}")
            if stated is not None:
                off = abs(row.duet_share.mean - stated)
                distance.setdefault(row.largest_share, []).append(off)
        return min(distance, key=lambda share: sum(distance[share])) if distance else 0.0


def _shares(scale: Scale) -> dict[float, tuple[Setting, ...]]:
    """Return the sizes, and the settings that make them; the set-up's own size needs none."""
    own = scale.profile.largest_share
    sizes = sorted({*SHARES, own})
    return {size: () if size == own else (("profile.largest_share", f"{size:g}"),) for size in sizes}


def _sized(scale: Scale, found: Results, share: float, rate: float) -> Sized:
    settings = _shares(scale)[share]

    def of(name: str) -> list[Placed]:
        return [found[Place(seed, rate, name, settings)] for seed in scale.seeds]

    duet, balanced = of("duet"), of("balanced")
    whole = [one for one in duet if one.hmux_share >= ALL_PLACED]
    return Sized(
        largest_share=share,
        traffic_tbps=rate,
        duet_share=estimate(one.text_bps / one.total_bps for one in duet),
        duet_placed_share=estimate(one.text_bps / one.total_bps for one in whole) if whole else None,
        duet_worst_share=estimate(one.worst_bps / one.total_bps for one in duet),
        hmux_share=estimate(one.hmux_share for one in duet),
        routes=estimate(one.routes for one in duet),
        placed_in=len(whole),
        ended=Ended.among(scale.seeds, duet),
        balanced_share=estimate(one.text_bps / one.total_bps for one in balanced),
        balanced_worst_share=estimate(one.worst_bps / one.total_bps for one in balanced),
        three_largest=three_largest(scale, share),
    )


def three_largest(scale: Scale, share: float) -> float:
    """Return the share of the bytes that the three largest VIPs have together."""
    shares = traffic_shares(replace(scale.profile, largest_share=share))
    return float(shares[:FAILED_SWITCHES].sum())


FIGURE = Elephants()
