"""How much traffic moves where near-ties are equal: over the tolerance, and over the error of measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat, percent, series
from controller.simulation.runner import Results
from controller.simulation.scale import HOUR, Scale
from controller.simulation.settings import Setting
from controller.simulation.tasks import Follow
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

ERRORS = (0.001, 0.01, 0.03, 0.1)
"""Relative, as a standard deviation where traffic is measured, as a difference of utilization where it is
tolerated.
"""
TOLERANT = {"near-ties": "near-ties, of what a VIP touches", "near-mru": "near-ties, over all resources"}
EXACT = {"lightest": "the least, whatever the difference", "duet-skip": "the paper's, ties at random"}
STICKY = "sticky-skip"
STILL: tuple[Setting, ...] = tuple(
    (f"profile.{name}", "0") for name in ("burst_chance", "on_hours", "life_hours", "swing")
)
"""Nothing changes."""


@dataclass(frozen=True)
class Moved:
    """One strategy over an hour: what it moves in an interval and keeps on HMuxes, as shares of the traffic.

    `error` is the tolerance of a strategy that has one. Traffic is that of the trace or, `measured`, does not
    change at all but for what is measured, which is off by that error.
    """

    strategy: str
    error: float
    measured: bool
    shuffled_share: Estimate
    hmux_share: Estimate
    smuxes: Estimate


@dataclass(frozen=True)
class Shuffles:
    """The figure's numbers."""

    rows: list[Moved]
    traffic_tbps: float
    seeds: int
    runs: int

    def of(self, strategy: str, *, measured: bool) -> list[Moved]:
        """Return a strategy's curve."""
        return [row for row in self.rows if (row.strategy, row.measured) == (strategy, measured)]


class Shuffle(Figure[Shuffles]):
    """Traffic that moves in an interval, against the error within which costs count as equal."""

    number = None
    name = "shuffle"
    help = "Traffic that moves, against the error of measurement within which ties are equal."
    paper = {"remembered": {"sticky": 0.035, "non-sticky": [0.25, 0.37, 0.46]}}  # noqa: RUF012

    def tasks(self, scale: Scale) -> Sequence[Follow]:
        """Return the work that the figure needs."""
        points = [(name, error, measured) for name, error, measured in _points()]
        found = [_task(scale, seed, *point) for seed in _seeds(scale) for point in points]
        return list(dict.fromkeys(found))

    def summarize(self, scale: Scale, results: Results) -> Shuffles:
        """Average over seeds."""
        rows = []
        for name, error, measured in _points():
            found = [results[_task(scale, seed, name, error, measured)] for seed in _seeds(scale)]
            rows.append(
                Moved(
                    strategy=name,
                    error=error,
                    measured=measured,
                    shuffled_share=estimate(one.shuffled() for one in found),
                    hmux_share=estimate(one.hmux() for one in found),
                    smuxes=estimate(one.most_smuxes() for one in found),
                )
            )
        return Shuffles(rows, max(scale.rates_tbps), len(_seeds(scale)), len(self.tasks(scale)))

    def draw(self, summary: Shuffles) -> Drawing:
        """Draw it."""
        fig, (trace, still) = results.figure(1, 2, figsize=(11.5, 4.6), sharey=True)
        colours = dict(
            zip((*TOLERANT, *EXACT, STICKY), (OURS, SERIES[1], GREY, SERIES[3], SERIES[2]), strict=True)
        )
        labels = {**TOLERANT, **EXACT, STICKY: "sticky (the paper's)"}
        for at, measured in ((trace, False), (still, True)):
            for name, label in labels.items():
                curve = summary.of(name, measured=measured)
                if len({one.error for one in curve}) == 1:
                    at.axhline(
                        100 * curve[0].shuffled_share.mean, color=colours[name], linestyle=":", label=label
                    )
                    continue
                values = [percent(one.shuffled_share) for one in curve]
                series(at, [one.error for one in curve], values, label, colours[name], "o")
            at.set(xscale="log", ylim=(0, 119))
            at.set_xticks(ERRORS, [f"{error:.1%}" for error in ERRORS])
            at.set_xticks([], minor=True)
        results.paper_line(trace, 37, "non-sticky, about 37%")
        trace.set(xlabel="utilization within which switches tie", ylabel="traffic shuffled per interval (%)")
        trace.set_title("The trace: traffic changes")
        still.set(xlabel="error of measurement, and tolerance")
        still.set_title("Nothing changes but what is measured")
        trace.legend(loc="upper left", fontsize=8, ncols=2)
        results.note(
            fig,
            f"{summary.traffic_tbps:g} Tbps, an hour, {summary.seeds} seeds, {summary.runs} runs, none "
            "discarded; bars: 95% intervals. What does not fit is skipped; rendezvous hashing "
            "picks among ties. The paper's value is remembered.",
        )
        return fig

    def rows(self, summary: Shuffles) -> list[Row]:
        """Return every point."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: Shuffles) -> str:
        """Say what tolerance saves."""
        curve = summary.of("near-mru", measured=True)
        exact = summary.of("lightest", measured=True)
        first, last = curve[0], curve[-1]
        return (
            f"of traffic measured {first.error:.1%} to {last.error:.0%} wrong, hashing among near-ties "
            f"shuffles {first.shuffled_share.mean:.1%} to {last.shuffled_share.mean:.0%}, always taking the "
            f"least {exact[0].shuffled_share.mean:.0%} to {exact[-1].shuffled_share.mean:.0%}"
        )


def _points() -> list[tuple[str, float, bool]]:
    """Return strategy, error, and whether only measurement changes; what has no tolerance has one point."""
    found = [(name, error, False) for name in TOLERANT for error in ERRORS]
    found += [(name, 0.0, False) for name in (*EXACT, STICKY)]
    return [*found, *((name, error, True) for name in (*TOLERANT, *EXACT, STICKY) for error in ERRORS)]


def _seeds(scale: Scale) -> tuple[int, ...]:
    return scale.seeds[: scale.curve_seeds]


def _task(scale: Scale, seed: int, name: str, error: float, measured: bool) -> Follow:
    strategy = f"{name}@{error:g}" if name in TOLERANT else name
    # Without a memory, the drift of log traffic is an error that is drawn anew in every interval.
    drawn = (*STILL, ("profile.reversion", "1"), ("profile.drift", f"{error:g}")) if measured else ()
    return Follow(seed, max(scale.rates_tbps), strategy, (*drawn, HOUR))


FIGURE = Shuffle()
