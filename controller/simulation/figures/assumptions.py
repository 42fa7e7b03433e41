"""What each assumption does to each figure: one change at a time, everything else as elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from controller.simulation.figures.base import Estimate, Figure, Row, estimate, flat
from controller.simulation.muxcount import CountRule
from controller.simulation.runner import Results
from controller.simulation.scale import HOUR, Scale
from controller.simulation.settings import Setting
from controller.simulation.tasks import Ananta, Follow, Place, Placed, Task
from duet_p4 import results
from duet_p4.results import OURS, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Variant:
    """One assumption made otherwise: settings, strategies, or how the same runs are read."""

    assumption: str
    value: str
    settings: tuple[Setting, ...] = ()
    duet: str = "duet"
    random: str = "random"
    sticky: str = "sticky"
    fresh: str = "duet"
    failures: str = "text"
    count: CountRule = CountRule.EVEN
    steady: bool = True
    """Whether the typical moment differs at all; else only the trace over time does."""
    follows: bool = True


def _profile(assumption: str, value: str, **settings: str) -> Variant:
    return Variant(assumption, value, tuple((f"profile.{key}", text) for key, text in settings.items()))


def _steady(assumption: str, value: str, **settings: str) -> Variant:
    return replace(_profile(assumption, value, **settings), follows=False)


def _churn(assumption: str, value: str, **settings: str) -> Variant:
    found = tuple((f"profile.{key}", text) for key, text in settings.items())
    return Variant(assumption, value, found, steady=False)


def _ties(value: str, strategy: str) -> Variant:
    return Variant("ties of the MRU", value, duet=strategy, fresh=strategy)


def _count(value: str, rule: CountRule) -> Variant:
    return Variant("SMuxes", value, count=rule, follows=False)


BASE = Variant("as in the figures", "")
VARIANTS = (
    BASE,
    _profile("largest VIP", "0.7% of the bytes", largest_share="0.007"),
    _steady("largest VIP", "1%", largest_share="0.01"),
    _steady("largest VIP", "4%", largest_share="0.04"),
    _profile("largest VIP", "8%", largest_share="0.08"),
    Variant(
        "first VIP that does not fit",
        "is skipped, not the end",
        duet="duet-skip",
        random="random-skip",
        sticky="sticky-skip",
        fresh="duet-skip",
    ),
    _ties("lightest touched resource", "lightest-stop"),
    *(_ties(f"the same within {e:g}, by hash", f"near-ties@{e:g}-stop") for e in (0.001, 0.01, 0.05)),
    _ties("over all resources, by hash", "near-mru@0-stop"),
    Variant("Random", "a new order per VIP", random="random-orders", follows=False),
    Variant("failures", "worst triple of all", failures="worst", follows=False),
    Variant("failures", "dead sources send nothing", failures="living", follows=False),
    _count("counted in packets", CountRule.PACKETS),
    replace(
        _profile("SMuxes", "counted in packets, of 200 to 600 bytes", packet_bytes="200:600"),
        count=CountRule.PACKETS,
        follows=False,
    ),
    replace(
        _profile("SMuxes", "counted in packets, of 1,000 to 1,500 bytes", packet_bytes="1000:1500"),
        count=CountRule.PACKETS,
        follows=False,
    ),
    _count("most loaded; evenly over ToRs", CountRule.ANYCAST),
    _count("most loaded; where sources send", CountRule.PLACED),
    _count("most loaded; best ToRs", CountRule.BEST),
    _steady("homes", "a container per rack: no locality", home_racks="1"),
    _steady("homes", "Zipf 0.5", home_zipf="0.5"),
    _steady("sources", "a quarter in the VIP's homes", sources_near="0.25"),
    _steady("Internet", "none", internet_share="0"),
    _steady("Internet", "60% of the bytes", internet_share="0.6"),
    Variant("background traffic", "10% of every link", (("background", "0.1"),), follows=False),
    _churn("ON/OFF", "none", on_hours="0"),
    _churn("ON/OFF", "1 h on", on_hours="1"),
    _churn("ON/OFF", "24 h on", on_hours="24"),
    _churn("ON/OFF", "half are on", on_share="0.5"),
    _churn("lives", "for ever", life_hours="0"),
    _churn("lives", "12 h", life_hours="12"),
    _churn("lives and ON/OFF", "heavier tails: 1.2", tail="1.2"),
    _churn("lives and ON/OFF", "lighter tails: 3", tail="3"),
    _churn("drift", "none, no bursts", drift="0", burst_chance="0"),
    _churn("drift", "0.25 per interval", drift="0.25"),
)


@dataclass(frozen=True)
class Effect:
    """What one variant gives: figures 16 and 18 at the lowest and the highest traffic, 19 and 20 at the
    highest.
    """

    assumption: str
    value: str
    duet_share_low: Estimate
    duet_share_high: Estimate
    ananta_over_duet_low: Estimate
    ananta_over_duet_high: Estimate
    random_extra_percent_low: Estimate
    random_extra_percent_high: Estimate
    hmux_share_high: Estimate
    routes_high: Estimate
    max_link_high: Estimate
    sticky_hmux_share: Estimate | None
    sticky_shuffled: Estimate | None
    fresh_shuffled: Estimate | None
    one_time_hmux_share: Estimate | None


@dataclass(frozen=True)
class Effects:
    """The table."""

    rows: list[Effect]
    low_tbps: float
    high_tbps: float
    seeds: int
    runs: int


class Assumptions(Figure[Effects]):
    """The table assumption -> effect on each figure."""

    number = None
    name = "assumptions"
    help = "What each assumption does to each figure."
    paper = {  # noqa: RUF012
        "duet_share": {"1.25": 0.095, "10": 0.130},
        "ananta_over_duet": {"1.25": 24.8, "10": 10.6},
        "random_extra_percent": [120, 307],
        "remembered": {"sticky": [0.95, 0.035], "non-sticky": 0.37, "one-time": 0.75},
    }

    def tasks(self, scale: Scale) -> Sequence[Task[Any]]:
        """Return the work that the table needs."""
        found = [task for variant in VARIANTS for task in _tasks(scale, variant)]
        return list(dict.fromkeys(found))

    def summarize(self, scale: Scale, results: Results) -> Effects:
        """Read every variant."""
        return Effects(
            rows=[_effect(scale, results, variant) for variant in VARIANTS],
            low_tbps=min(scale.rates_tbps),
            high_tbps=max(scale.rates_tbps),
            seeds=len(_seeds(scale)),
            runs=len(self.tasks(scale)),
        )

    def draw(self, summary: Effects) -> Drawing:
        """Draw it: one line a variant, one column an effect, the paper's value across."""
        columns = (
            ("duet_share_low", 100, "DUET's fallback\nat {low} Tbps (%)", 9.5),
            ("duet_share_high", 100, "DUET's fallback\nat {high} Tbps (%)", 13.0),
            ("ananta_over_duet_low", 1, "Ananta over DUET\nat {low} Tbps", 24.8),
            ("ananta_over_duet_high", 1, "Ananta over DUET\nat {high} Tbps", 10.6),
            ("hmux_share_high", 100, "on HMuxes\nat {high} Tbps (%)", None),
            ("sticky_shuffled", 100, "sticky shuffles\n(%)", 3.5),
            ("fresh_shuffled", 100, "non-sticky shuffles\n(%)", 37),
            ("one_time_hmux_share", 100, "one-time: on\nHMuxes (%)", 75),
        )
        fig, axes = results.figure(1, len(columns), figsize=(17, 0.3 * len(summary.rows) + 1.6), sharey=True)
        y = np.arange(len(summary.rows))[::-1]
        for at, (field, factor, title, paper) in zip(axes, columns, strict=True):
            for place, row in zip(y, summary.rows, strict=True):
                value = getattr(row, field)
                if value is not None:
                    at.errorbar(
                        [factor * value.mean],
                        [place],
                        xerr=[factor * value.ci95],
                        marker="o",
                        markersize=4,
                        capsize=2,
                        color=SERIES[1] if place == y[0] else OURS,
                    )
            first = getattr(summary.rows[0], field)
            if first is not None:
                at.axvline(factor * first.mean, color=SERIES[1], linewidth=0.8)
            if paper is not None:
                at.axvline(paper, color=results.PAPER, linestyle="--", linewidth=1.2)
            at.set_title(title.format(low=f"{summary.low_tbps:g}", high=f"{summary.high_tbps:g}"), fontsize=9)
            at.set_xlim(left=0)
            if field.startswith(("duet_share", "ananta")):
                at.set_xlim(0, 40)
            at.margins(y=0.02)
        axes[0].set_yticks(
            y,
            [f"{row.assumption}: {row.value}" if row.value else row.assumption for row in summary.rows],
            fontsize=8,
        )
        results.note(
            fig,
            f"{summary.seeds} seeds, {summary.runs} runs, none discarded; migrations last an hour; bars: 95% "
            "intervals. Dashed: the paper's talk, for migrations remembered. Values beyond 40 are cut.",
        )
        return fig

    def rows(self, summary: Effects) -> list[Row]:
        """Return the table."""
        return [flat(row) for row in summary.rows]

    def headline(self, summary: Effects) -> str:
        """Say which assumption moves figure 16 most."""
        base = summary.rows[0]
        most = max(
            summary.rows[1:],
            key=lambda row: abs(np.log(row.ananta_over_duet_high.mean / base.ananta_over_duet_high.mean)),
        )
        return (
            f"of {len(summary.rows) - 1} assumptions, {most.assumption!r} ({most.value}) moves Ananta over "
            "DUET most: "
            f"{base.ananta_over_duet_high.mean:.1f} to {most.ananta_over_duet_high.mean:.1f} at "
            f"{summary.high_tbps:g} Tbps"
        )


def _seeds(scale: Scale) -> tuple[int, ...]:
    return scale.seeds[: scale.assumption_seeds]


def _tasks(scale: Scale, variant: Variant) -> list[Task[Any]]:
    low, high = min(scale.rates_tbps), max(scale.rates_tbps)
    found: list[Task[Any]] = []
    steady = variant.settings if variant.steady else ()
    for seed in _seeds(scale):
        for rate in (low, high):
            found += [Place(seed, rate, name, steady) for name in (variant.duet, variant.random)]
            found.append(Ananta(seed, rate, steady))
        if variant.follows:
            settings = (*variant.settings, HOUR)
            for name in (variant.sticky, variant.fresh, "one-time"):
                found.append(Follow(seed, high, name, settings))
    return found


def _effect(scale: Scale, found: Results, variant: Variant) -> Effect:
    low, high = min(scale.rates_tbps), max(scale.rates_tbps)
    settings = variant.settings if variant.steady else ()
    seeds = _seeds(scale)

    def placed(rate: float, name: str) -> list[Placed]:
        return [found[Place(seed, rate, name, settings)] for seed in seeds]

    def share(rate: float) -> Estimate:
        return estimate(
            _fallback(one, variant.failures) / one.total_bps for one in placed(rate, variant.duet)
        )

    def over(rate: float) -> Estimate:
        ananta = [found[Ananta(seed, rate, settings)].smuxes(3.6, variant.count) for seed in seeds]
        return estimate(
            a / max(1, _smuxes(d, variant)) for a, d in zip(ananta, placed(rate, variant.duet), strict=True)
        )

    def extra(rate: float) -> Estimate:
        pairs = zip(placed(rate, variant.random), placed(rate, variant.duet), strict=True)
        return estimate(
            100 * (_fallback(r, variant.failures) / _fallback(d, variant.failures) - 1) for r, d in pairs
        )

    def follow(name: str, field: str) -> Estimate | None:
        if not variant.follows:
            return None
        runs = [found[Follow(seed, high, name, (*variant.settings, HOUR))] for seed in seeds]
        return estimate(one.hmux() if field == "hmux" else one.shuffled() for one in runs)

    at_high = placed(high, variant.duet)
    return Effect(
        assumption=variant.assumption,
        value=variant.value,
        duet_share_low=share(low),
        duet_share_high=share(high),
        ananta_over_duet_low=over(low),
        ananta_over_duet_high=over(high),
        random_extra_percent_low=extra(low),
        random_extra_percent_high=extra(high),
        hmux_share_high=estimate(one.hmux_share for one in at_high),
        routes_high=estimate(one.routes for one in at_high),
        max_link_high=estimate(one.max_link for one in at_high),
        sticky_hmux_share=follow(variant.sticky, "hmux"),
        sticky_shuffled=follow(variant.sticky, "shuffled"),
        fresh_shuffled=follow(variant.fresh, "shuffled"),
        one_time_hmux_share=follow("one-time", "hmux"),
    )


def _fallback(one: Placed, failures: str) -> float:
    if failures == "worst":
        return one.worst_bps
    if failures == "living":
        return max(one.unplaced_bps, one.living_container_bps, one.sampled_bps)
    return one.text_bps


def _smuxes(one: Placed, variant: Variant) -> float:
    count = one.smuxes(3.6, variant.count, worst=variant.failures == "worst")
    return count * _fallback(one, "living") / one.text_bps if variant.failures == "living" else count


FIGURE = Assumptions()
