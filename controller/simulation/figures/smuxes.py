"""Figure 16: SMuxes for DUET and Ananta against traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.simulation.figures.base import (
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
from controller.simulation.muxcount import CountRule
from controller.simulation.runner import Results
from controller.simulation.scale import SMUX_BPS, Scale
from controller.simulation.tasks import Ananta, Limit, Limits, Place, Task
from duet_p4 import results
from duet_p4.results import GREY, OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

STRATEGIES = ("duet", "balanced")
TALK = {
    1.25: (820, 33),
    2.5: (1462, 64),
    5.0: (2144, 142),
    10.0: (3839, 362),
}
"""Traffic in Tbps: Ananta's and DUET's SMuxes at 3.6 Gbps (slide 24)."""


@dataclass(frozen=True)
class Counted:
    """SMuxes at one traffic and capacity, counted by one rule. `share` is DUET's fallback over the
    traffic.
    """

    smux_gbps: float
    traffic_tbps: float
    rule: CountRule
    ananta: Estimate
    duet: Estimate
    duet_worst: Estimate
    balanced: Estimate
    balanced_worst: Estimate
    bound: Estimate
    ananta_over_duet: Estimate
    ananta_over_duet_worst: Estimate


@dataclass(frozen=True)
class Reached:
    """What the assignment does at one traffic, in shares; `duet` by the text's failures, `worst` by all.

    The bound is that of the first `bound_seeds` seeds; `ended` are the seeds in which DUET ended early.
    """

    traffic_tbps: float
    hmux_share: Estimate
    routes: Estimate
    unplaced: Estimate
    container: Estimate
    sampled: Estimate
    duet_share: Estimate
    duet_median_share: float
    duet_worst_share: Estimate
    balanced_worst_share: Estimate
    bound_share: Estimate
    bound_binds: str
    bound_hmux_share: Estimate
    bound_hmux_binds: str
    ended: list[Ended]


@dataclass(frozen=True)
class SMuxes:
    """The figure's numbers."""

    counted: list[Counted]
    reached: list[Reached]
    ananta_over_duet: dict[str, dict[str, float]]
    duet_share: dict[str, dict[str, float]]
    seeds: int
    runs: int


class Needed(Figure[SMuxes]):
    """SMuxes needed against traffic, for two SMux capacities and by four rules of counting."""

    number = 16
    name = "smuxes"
    help = "Figure 16: SMuxes for DUET and Ananta against traffic."
    paper = {  # noqa: RUF012
        "ananta_over_duet": {"3.6": [12, 24], "10": [8, 12]},
        "talk": {
            f"{rate:g}": {"ananta": a, "duet": d, "duet_share": d * 3.6e-3 / rate}
            for rate, (a, d) in TALK.items()
        },
    }

    def tasks(self, scale: Scale) -> Sequence[Task[Any]]:
        """Return the work that the figure needs."""
        found: list[Task[Any]] = []
        for seed in scale.seeds:
            for rate in scale.rates_tbps:
                found += [Place(seed, rate, name) for name in STRATEGIES]
                found.append(Ananta(seed, rate))
        found += [Limit(seed, rate) for seed in scale.seeds[: scale.bound_seeds] for rate in scale.rates_tbps]
        return found

    def summarize(self, scale: Scale, results: Results) -> SMuxes:
        """Count SMuxes per capacity, traffic and rule."""
        counted = [
            _counted(scale, results, capacity / 1e9, rate, rule)
            for capacity in SMUX_BPS
            for rule in CountRule
            for rate in scale.rates_tbps
        ]
        reached = [_reached(scale, results, rate) for rate in scale.rates_tbps]

        def by_rate(gbps: float) -> dict[str, float]:
            return {
                f"{one.traffic_tbps:g}": one.ananta_over_duet.mean
                for one in counted
                if one.smux_gbps == gbps and one.rule is CountRule.EVEN
            }

        shares = {f"{one.traffic_tbps:g}": one.duet_share.mean for one in reached}
        return SMuxes(
            counted=counted,
            reached=reached,
            ananta_over_duet={f"{capacity / 1e9:g}": by_rate(capacity / 1e9) for capacity in SMUX_BPS},
            duet_share={f"{capacity / 1e9:g}": shares for capacity in SMUX_BPS},
            seeds=len(scale.seeds),
            runs=len(self.tasks(scale)),
        )

    def draw(self, summary: SMuxes) -> Drawing:
        """Draw it."""
        fig, axes = results.figure(1, 3, figsize=(14.5, 4.6))
        for at, gbps in zip(axes, (3.6, 10.0), strict=False):
            rows = [one for one in summary.counted if (one.smux_gbps, one.rule) == (gbps, CountRule.EVEN)]
            placed = [one for one in summary.counted if (one.smux_gbps, one.rule) == (gbps, CountRule.PLACED)]
            x = [row.traffic_tbps for row in rows]
            series(at, x, [row.ananta for row in rows], "Ananta", GREY, "s")
            series(at, x, [row.duet for row in rows], "DUET (the paper's)", OURS, "o")
            series(at, x, [row.duet_worst for row in rows], "the same, worst failures", OURS, None, "--")
            series(
                at, x, [row.balanced_worst for row in rows], "balanced (ours), worst failures", SERIES[1], "^"
            )
            for field, colour in (("ananta", GREY), ("duet", OURS)):
                values = [getattr(row, field).mean for row in placed]
                at.plot(x, values, color=colour, linestyle=":", linewidth=1.2)
            if gbps == 3.6:
                known = [rate for rate in x if rate in TALK]
                results.paper_points(
                    at, known * 2, [TALK[r][i] for i in (0, 1) for r in known], "talk, slide 24"
                )
            low, high = self.paper["ananta_over_duet"][f"{gbps:g}"]
            for row in rows:
                at.annotate(
                    f"{row.ananta_over_duet.mean:.0f}x",
                    (row.traffic_tbps, row.duet.mean),
                    textcoords="offset points",
                    xytext=(0, -15),
                    ha="center",
                    fontsize=9,
                    color=OURS,
                    weight="bold",
                )
            at.set(xscale="log", yscale="log", xlabel="VIP traffic (Tbps)", ylabel="SMuxes needed")
            plain_ticks(at, x)
            at.set_title(f"{gbps:g} Gbps per SMux (paper: {low}-{high}x fewer)")
            at.legend(loc="upper left", fontsize=8)
            at.set_ylim(top=at.get_ylim()[1] * 6)
        share = axes[2]
        x = [one.traffic_tbps for one in summary.reached]
        for field, label, colour, style in (
            ("duet_share", "DUET, text's failures", OURS, "-"),
            ("duet_worst_share", "DUET, worst failures", OURS, "--"),
            ("balanced_worst_share", "balanced, worst failures", SERIES[1], "--"),
            ("bound_share", "no assignment below", "black", ":"),
            ("unplaced", "DUET, never placed", GREY, "-"),
        ):
            values = [percent(getattr(one, field)) for one in summary.reached]
            series(share, x, values, label, colour, "o" if style == "-" else None, style)
        known = [rate for rate in x if rate in TALK]
        results.paper_points(share, known, [100 * TALK[r][1] * 3.6e-3 / r for r in known], "DUET (talk)")
        share.set(
            xscale="log", xlabel="VIP traffic (Tbps)", ylabel="on the SMuxes in the worst case (% of traffic)"
        )
        share.set_ylim(0, share.get_ylim()[1] * 1.55)
        plain_ticks(share, x)
        share.set_title("What the SMuxes must carry")
        share.legend(loc="upper left", fontsize=8, ncols=2)
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; bars: 95% intervals. "
            "SMuxes: traffic over capacity; dotted: by the most loaded one under anycast ECMP, SMuxes "
            "standing where sources send.",
        )
        return fig

    def rows(self, summary: SMuxes) -> list[Row]:
        """Return every count."""
        return [flat(one) for one in summary.counted]

    def headline(self, summary: SMuxes) -> str:
        """Say how many fewer."""
        said = []
        for gbps, by_rate in summary.ananta_over_duet.items():
            low, high = self.paper["ananta_over_duet"][gbps]
            values = list(by_rate.values())
            said.append(f"{min(values):.0f}-{max(values):.0f}x fewer at {gbps} Gbps (paper: {low}-{high}x)")
        return f"DUET needs {'; '.join(said)}"


def _counted(scale: Scale, found: Results, gbps: float, rate: float, rule: CountRule) -> Counted:
    limits = _limits(scale, found, rate)
    ananta = [found[Ananta(seed, rate)].smuxes(gbps, rule) for seed in scale.seeds]

    def of(name: str, *, worst: bool = False) -> list[int]:
        return [found[Place(seed, rate, name)].smuxes(gbps, rule, worst=worst) for seed in scale.seeds]

    def ratio(counts: list[int]) -> Estimate:
        return estimate(a / max(1, c) for a, c in zip(ananta, counts, strict=True))

    return Counted(
        smux_gbps=gbps,
        traffic_tbps=rate,
        rule=rule,
        ananta=estimate(ananta),
        duet=estimate(of("duet")),
        duet_worst=estimate(of("duet", worst=True)),
        balanced=estimate(of("balanced")),
        balanced_worst=estimate(of("balanced", worst=True)),
        bound=estimate(np.ceil(one.fallback_bps / gbps / 1e9) for one in limits),
        ananta_over_duet=ratio(of("duet")),
        ananta_over_duet_worst=ratio(of("duet", worst=True)),
    )


def _limits(scale: Scale, found: Results, rate: float) -> list[Limits]:
    return [found[Limit(seed, rate)] for seed in scale.seeds[: scale.bound_seeds]]


def _reached(scale: Scale, found: Results, rate: float) -> Reached:
    duet = [found[Place(seed, rate, "duet")] for seed in scale.seeds]
    balanced = [found[Place(seed, rate, "balanced")] for seed in scale.seeds]
    limits = _limits(scale, found, rate)
    return Reached(
        traffic_tbps=rate,
        hmux_share=estimate(one.hmux_share for one in duet),
        routes=estimate(one.routes for one in duet),
        unplaced=estimate(one.unplaced_bps / one.total_bps for one in duet),
        container=estimate(one.container_bps / one.total_bps for one in duet),
        sampled=estimate(one.sampled_bps / one.total_bps for one in duet),
        duet_share=estimate(one.text_bps / one.total_bps for one in duet),
        duet_median_share=float(np.median([one.text_bps / one.total_bps for one in duet])),
        duet_worst_share=estimate(one.worst_bps / one.total_bps for one in duet),
        balanced_worst_share=estimate(one.worst_bps / one.total_bps for one in balanced),
        bound_share=estimate(one.fallback_bps / one.total_bps for one in limits),
        bound_binds="; ".join(dict.fromkeys(name for one in limits for name in one.fallback_binds[:1])),
        bound_hmux_share=estimate(one.hmux_share for one in limits),
        bound_hmux_binds="; ".join(dict.fromkeys(name for one in limits for name in one.hmux_binds[:1])),
        ended=Ended.among(scale.seeds, duet),
    )


FIGURE = Needed()
