"""HMux failure (the paper's figure 12): a switch dies, and its VIPs fall back to the SMuxes.

Ten VIPs, seven on HMuxes and three on SMuxes, all pinged every 3 ms, and the one that is to fall every
0.2 ms, too, which tells for how long it is away. ToR 4 dies: it carries one VIP, and neither a server nor an
SMux nor the only path of any other VIP depends on it.

In variants of it, ToR 4 carries many VIPs, which are pinged in turn, one every 0.2 ms; and every core of the
machine is kept busy by a process that does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from controller.records import ON_SMUXES
from duet_p4 import results
from mininet_topos import addresses, fattree
from mininet_topos.experiments import busy
from mininet_topos.experiments.agent_logs import AgentLogs, Event, Mirrored, PortDown
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
    PROBE_INTERVAL_S,
    Repetition,
    Running,
    Say,
    brought_up,
    error_of_probes,
    over_bringups,
    running,
    told,
    write,
)

PAPER_OUTAGE_MS = 38.0
FAILED = "tor4"
OTHERS: list[str | None] = ["tor1", "tor2", "agg1", "agg2", "core1", "core2", None, None, None]
SWITCHES: list[str | None] = [FAILED, *OTHERS]
MOST_VIPS = 250
"""On the switch that fails: each takes 16 of the 4,096 slots of its ECMP table."""
PARTS = ("detection", "table_update", "bgp")
_BEFORE_S, _AFTER_S = 0.5, 1.0
CLOSE_INTERVAL_S = 0.0002
"""Between two probes of the VIPs that are to fall."""
_LATEST_S, _AROUND_S = 0.001, (-0.005, 0.05)
"""Of those probes, about the failure: where one left later, as long an outage may have been missed. So may
later ones, where more than 1% of all did."""


@dataclass(frozen=True)
class Breakdown:
    """Where the time goes, in ms since the failure or, for `table_update`, since it was noticed.

    `detection`: the last neighbour has noticed that its port has no carrier. `table_update`: the P4 switch
    of the last neighbour has taken what leads around the failure. `bgp`: the last switch of the fabric has
    withdrawn the VIP's route; no packet waits for that.
    """

    detection: float
    table_update: float
    bgp: float


FAILURE = (
    "Failure model: the switch loses its power. All its ports lose their carrier at once, which its "
    "neighbours see, "
    "and its processes halt. A failure that leaves the carrier is not tried here."
)


@dataclass(frozen=True)
class Measured:
    """What one bring-up gave: a value per run that was kept, in ms.

    `outages` is how long the VIP was away, or any of several on average; `spans` is from the first ping that
    was lost until all were back.
    """

    outages: list[float]
    spans: list[float]
    breakdowns: list[Breakdown]
    others_lost: int
    discarded: int
    lateness: list[float]
    close_lateness: list[float]
    rows: list[dict[str, Any]]
    shown: tuple[Samples, float]


@dataclass(frozen=True)
class Variant:
    """What the experiment is done under: so many VIPs on the switch that fails, and all cores busy or not."""

    vips: int = 1
    loaded: bool = False

    def __str__(self) -> str:
        """Return it for a figure."""
        vips = "" if self.vips == 1 else f"{self.vips} VIPs on the switch that fails, pinged in turn."
        return " ".join(
            [vips, "Every core is kept busy by a process of its own." if self.loaded else ""]
        ).strip()

    @property
    def label(self) -> str:
        """Return its name, to be kept by; none for the paper's experiment."""
        return "-".join(
            [*([f"{self.vips}-vips"] if self.vips > 1 else []), *(["loaded"] if self.loaded else [])]
        )


def run(
    name: str, out: Path, runs: int, bringups: int, say: Say, variant: Variant = Variant()
) -> dict[str, Any]:
    """Fail and restore the switch `runs` times in each bring-up; write samples, summary and figure."""
    switches = [*[FAILED] * variant.vips, *OTHERS]

    def once() -> Measured:
        with (
            running(name, switches, controller=False, log_level="DEBUG", say=say) as testbed,
            busy.every_core(variant.loaded),
        ):
            return measure(testbed, FAILED, runs, say)

    found = brought_up(bringups, say, once)
    told_of = summary(found, variant)
    rows = [{"bringup": n} | row for n, one in enumerate(found, 1) for row in one.rows]
    write(out, "failover", told_of, rows)
    _plot(out, found, variant)
    return told_of


def measure(testbed: Running, failed: str, runs: int, say: Say) -> Measured:
    """Fail and restore a switch that carries VIPs `runs` times on a running testbed.

    A run is discarded and counted in which the prober of all VIPs stalled, or that of those which fall did,
    of all its time or about the failure.
    """
    outages: list[float] = []
    spans: list[float] = []
    breakdowns: list[Breakdown] = []
    others_lost = 0
    rows: list[dict[str, Any]] = []
    shown: tuple[Samples, float] | None = None
    lateness: list[float] = []
    close_lateness: list[float] = []
    repetition: Repetition[tuple[float, Samples, Breakdown]] = Repetition(runs, say, _stalled)
    where = {one.vip.address: one.switch for one in testbed.stated if one.switch and one.switch != ON_SMUXES}
    own = [entry.vip.address for entry in testbed.stated if entry.switch == failed]
    # All that others lose counts, and for the figure one of those that fall.
    watched = (own[0], *(vip for vip in testbed.vips if vip not in own))
    switches = [node.name for node in fattree.nodes(testbed.graph, *addresses.SWITCHES)]
    with closing(AgentLogs(testbed.folder, switches)) as logs:
        routes: dict[str, int] = {}

        def once() -> tuple[Samples, tuple[float, Samples, Breakdown]]:
            """Fail the switch once all is as it was, and its neighbours are prepared for that."""
            testbed.await_settled(where)
            testbed.await_routes(routes)
            logs.await_prepared([other for other in switches if other in testbed.graph[failed]], own)
            routes.update(routes or testbed.routes())
            return _fail_once(testbed, failed, watched, tuple(own), logs)

        for number, samples, (failed_at, closely, breakdown) in repetition.of(once):
            lateness.append(float(np.quantile(samples.lateness, 0.99)) * 1e3)
            close_lateness.append(float(np.quantile(closely.lateness, 0.99)) * 1e3)
            away = closely.outages_of_all()
            outages.append(sum(seconds for _, seconds in away) * 1e3)
            spans.append((sum(away[-1]) - away[0][0]) * 1e3 if away else 0.0)
            breakdowns.append(breakdown)
            lost = int(samples.lost[:, 1:].sum())
            others_lost += lost
            say(
                f"run {number} of {runs}: {outages[-1]:.2f} ms, all back after {spans[-1]:.2f} ms, "
                f"{lost} lost on other VIPs; noticed after "
                f"{breakdown.detection:.1f} ms, led around in {breakdown.table_update:.1f} ms, "
                f"heard of everywhere after {breakdown.bgp:.1f} ms"
            )
            rows += ({"run": number} | row for row in samples.rows(failed_at))
            shown = shown or (samples, failed_at)
    assert shown is not None
    return Measured(
        outages,
        spans,
        breakdowns,
        others_lost,
        repetition.discarded,
        lateness,
        close_lateness,
        rows,
        shown,
    )


def summary(found: Sequence[Measured], variant: Variant = Variant()) -> dict[str, Any]:
    """Put bring-ups together: medians and quantiles over all runs, intervals over the bring-ups."""
    outages = [ms for one in found for ms in one.outages]
    spans = [ms for one in found for ms in one.spans]
    breakdowns = [breakdown for one in found for breakdown in one.breakdowns]
    return {
        "runs": len(outages),
        "bringups": len(found),
        "discarded": sum(one.discarded for one in found),
        "outage_ms_median": float(np.median(outages)),
        "outage_ms_p95": float(np.quantile(outages, 0.95)),
        "outage_ms_over_bringups": over_bringups(one.outages for one in found),
        "outage_ms": [one.outages for one in found],
        "all_back_ms_median": float(np.median(spans)),
        "all_back_ms_p95": float(np.quantile(spans, 0.95)),
        "all_back_ms": [one.spans for one in found],
        "variant": variant.label,
        "vips_that_fall": variant.vips,
        "loaded": variant.loaded,
        "breakdown_ms_median": {
            part: float(np.median([getattr(one, part) for one in breakdowns])) for part in PARTS
        },
        "breakdown_ms_over_bringups": {
            part: over_bringups([getattr(one, part) for one in each.breakdowns] for each in found)
            for part in PARTS
        },
        "breakdown_ms": [[asdict(one) for one in each.breakdowns] for each in found],
        "others_lost": sum(one.others_lost for one in found),
        "failure": FAILURE,
        "probe_interval_ms": CLOSE_INTERVAL_S * 1e3,
        "others_probe_interval_ms": PROBE_INTERVAL_S * 1e3,
        "probe_lateness_ms_p99_median": float(np.median([ms for one in found for ms in one.lateness])),
        "close_lateness_ms_p99_median": float(np.median([ms for one in found for ms in one.close_lateness])),
        "target": "xdp",
        "paper": {"outage_ms": PAPER_OUTAGE_MS},
    }


def _fail_once(
    testbed: Running,
    switch: str,
    watched: tuple[IPv4Address, ...],
    own: tuple[IPv4Address, ...],
    logs: AgentLogs,
) -> tuple[Samples, tuple[float, Samples, Breakdown]]:
    neighbours = [other for other in logs.switches if other in testbed.graph[switch]]
    with (
        testbed.probing(watched) as found,
        testbed.probing(own, interval_s=CLOSE_INTERVAL_S * len(own), in_turn=True) as closely,
    ):
        time.sleep(_BEFORE_S)
        failed_at = testbed.fail(switch)
        time.sleep(_AFTER_S)
    noticed, around = zip(*(_reaction(logs, other, failed_at) for other in neighbours), strict=True)
    farther = [other for other in logs.switches if other not in (switch, *neighbours)]
    heard = [_last_change(logs, other, failed_at, own[0]) for other in farther]
    testbed.restore(switch)
    breakdown = Breakdown(
        detection=(max(noticed) - failed_at) * 1e3,
        table_update=max(then - saw for saw, then in zip(noticed, around, strict=True)) * 1e3,
        bgp=(max(heard) - failed_at) * 1e3,
    )
    return found[0], (failed_at, closely[0], breakdown)


def _stalled(all_vips: Samples, found: tuple[float, Samples, Breakdown]) -> bool:
    failed_at, closely, _ = found
    begin, end = (failed_at + offset for offset in _AROUND_S)
    late = closely.stalled(_LATEST_S) or closely.worst_lateness(begin, end) > _LATEST_S
    return late or all_vips.stalled()


def _reaction(logs: AgentLogs, switch: str, failed_at: float) -> tuple[float, float]:
    """Return when a neighbour noticed the failure, and when its tables led around it."""

    def wanted(events: list[Event]) -> list[float]:
        noticed = [event.at for event in events if isinstance(event, PortDown)][:1]
        around = [e.at for e in events if isinstance(e, Mirrored) and noticed and e.at >= noticed[0]][:1]
        return noticed + around if around else []

    noticed, around = logs.awaited(switch, failed_at, wanted)
    return noticed, around


def _last_change(logs: AgentLogs, switch: str, failed_at: float, vip: IPv4Address) -> float:
    """Return when a switch farther away last changed what it has of a VIP's route."""

    def wanted(events: list[Event]) -> list[float]:
        return [e.at for e in events if isinstance(e, Mirrored) and f"{vip}/32" in e.prefixes]

    return max(logs.awaited(switch, failed_at, wanted))


def _plot(out: Path, found: Sequence[Measured], variant: Variant = Variant()) -> None:
    samples, failed_at = found[0].shown
    outages = [ms for one in found for ms in one.outages]
    breakdowns = [breakdown for one in found for breakdown in one.breakdowns]
    figure, (timeline, spread, parts) = results.figure(
        1, 3, figsize=(13, 4.2), gridspec_kw={"width_ratios": [2, 1, 1]}
    )
    labels = ("VIP on the HMux that fails", "VIP on another HMux", "VIP on the SMuxes")
    for target, label, colour in zip((0, 1, 7), labels, results.SERIES, strict=False):
        when = (samples.sent[:, target] - failed_at) * 1e3
        rtt = samples.rtt[:, target] * 1e3
        timeline.plot(when, rtt, ".", markersize=4, color=colour, label=label)
        lost = samples.lost[:, target]
        timeline.plot(when[lost], np.zeros(int(lost.sum())), "x", color=colour, markersize=5)
    timeline.axvline(0, color=results.GREY, linewidth=1)
    timeline.set(xlim=(-50, 100), xlabel="time since the failure (ms)", ylabel="round trip (ms)")
    timeline.set_ylim(bottom=-0.05 * float(np.nanmax(samples.rtt)) * 1e3)
    timeline.set_title("One run; a cross on the axis is a lost ping")
    timeline.legend(loc="upper right")
    ordered = np.sort(outages)
    spread.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=results.OURS)
    for one in found if len(found) > 1 else ():
        own = np.sort(one.outages)
        spread.step(
            own, np.arange(1, len(own) + 1) / len(own), where="post", color=results.GREY, linewidth=0.8
        )
    results.paper_line(spread, PAPER_OUTAGE_MS, "38 ms", vertical=True)
    spread.set(xlim=(0, None), ylim=(0, 1.02), xlabel="outage (ms)", ylabel="share of runs")
    spread.set_title(f"{len(outages)} runs, {len(found)} bring-ups (grey)")
    spread.legend(loc="center")
    drawn = parts.boxplot(
        [[getattr(one, part) for one in breakdowns] for part in PARTS],
        patch_artist=True,
        showfliers=False,
        whis=(5, 95),
    )
    for box in drawn["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    parts.set_xticks(range(1, len(PARTS) + 1), ["noticed", "led around\n(from then)", "BGP\neverywhere"])
    parts.set(ylim=(0, None), ylabel="ms")
    parts.set_title("Quartiles, 5 to 95%")
    median = told(over_bringups(one.outages for one in found))
    results.note(
        figure,
        f"{variant} {FAILURE}".strip(),
        f"{error_of_probes((ms for one in found for ms in one.close_lateness), CLOSE_INTERVAL_S)} "
        f"Median outage, mean of {len(found)} bring-ups: {median}.",
    )
    results.save_figure(figure, out / "failover")
