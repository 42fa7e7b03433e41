"""HMux failure (the paper's figure 12): a switch dies, and its VIPs fall back to the SMuxes.

Ten VIPs, seven on HMuxes and three on SMuxes, all pinged every 3 ms. ToR 4 dies: it carries one VIP,
and neither a server nor an SMux nor the only path of any other VIP depends on it.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from mininet_topos import addresses, fattree
from mininet_topos.experiments.agent_logs import AgentLogs, Mirrored, PortDown
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
    PROBE_INTERVAL_S,
    Repetition,
    Running,
    Say,
    running,
    write,
)

PAPER_OUTAGE_MS = 38.0
FAILED = "tor4"
SWITCHES: list[str | None] = [FAILED, "tor1", "tor2", "agg1", "agg2", "core1", "core2", None, None, None]
PARTS = ("detection", "table_update", "bgp")
_BEFORE_S, _AFTER_S = 0.5, 1.0


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


def run(name: str, out: Path, runs: int, say: Say) -> dict[str, Any]:
    """Fail and restore the switch `runs` times; write samples, summary and figure; return the summary.

    A run in which the prober stalled is discarded and counted.
    """
    outages: list[float] = []
    breakdowns: list[Breakdown] = []
    others_lost = 0
    rows: list[dict[str, Any]] = []
    shown: tuple[Samples, float] | None = None
    lateness: list[float] = []
    repetition: Repetition[tuple[float, Breakdown]] = Repetition(runs, say)
    with running(name, SWITCHES, controller=False, log_level="DEBUG", say=say) as testbed:
        where = {vip: switch for vip, switch in zip(testbed.vips, SWITCHES, strict=True) if switch}
        switches = [node.name for node in fattree.nodes(testbed.graph, *addresses.SWITCHES)]
        with closing(AgentLogs(testbed.folder, switches)) as logs:
            for number, samples, (failed_at, breakdown) in repetition.of(
                lambda: _fail_once(testbed, where, logs)
            ):
                lateness.append(float(np.quantile(samples.lateness, 0.99)) * 1e3)
                outages.append(sum(seconds for _, seconds in samples.outages(0)) * 1e3)
                breakdowns.append(breakdown)
                lost = int(samples.lost[:, 1:].sum())
                others_lost += lost
                say(
                    f"run {number} of {runs}: {outages[-1]:.1f} ms, {lost} lost on other VIPs; noticed after "
                    f"{breakdown.detection:.1f} ms, led around in {breakdown.table_update:.1f} ms, "
                    f"heard of everywhere after {breakdown.bgp:.1f} ms"
                )
                rows += ({"run": number} | row for row in samples.rows(failed_at))
                shown = shown or (samples, failed_at)
    assert shown is not None
    summary = {
        "runs": len(outages),
        "discarded": repetition.discarded,
        "outage_ms_median": float(np.median(outages)),
        "outage_ms_p95": float(np.quantile(outages, 0.95)),
        "outage_ms": outages,
        "breakdown_ms_median": {
            part: float(np.median([getattr(one, part) for one in breakdowns])) for part in PARTS
        },
        "breakdown_ms": [asdict(one) for one in breakdowns],
        "others_lost": others_lost,
        "probe_interval_ms": PROBE_INTERVAL_S * 1e3,
        "probe_lateness_ms_p99_median": float(np.median(lateness)),
        "target": "xdp",
        "paper": {"outage_ms": PAPER_OUTAGE_MS},
    }
    write(out, "failover", summary, rows)
    _plot(out, shown, outages, breakdowns)
    return summary


def _fail_once(
    testbed: Running, where: dict[IPv4Address, str], logs: AgentLogs
) -> tuple[Samples, tuple[float, Breakdown]]:
    testbed.await_settled(where)
    with testbed.probing(testbed.vips) as found:
        time.sleep(_BEFORE_S)
        failed_at = testbed.fail(FAILED)
        time.sleep(_AFTER_S)
    neighbours = [switch for switch in logs.switches if switch in testbed.graph[FAILED]]
    noticed, around = zip(*(_reaction(logs, switch, failed_at) for switch in neighbours), strict=True)
    farther = [switch for switch in logs.switches if switch not in (FAILED, *neighbours)]
    heard = [_last_change(logs, switch, failed_at, testbed.vips[0]) for switch in farther]
    testbed.restore(FAILED)
    breakdown = Breakdown(
        detection=(max(noticed) - failed_at) * 1e3,
        table_update=max(then - saw for saw, then in zip(noticed, around, strict=True)) * 1e3,
        bgp=(max(heard) - failed_at) * 1e3,
    )
    return found[0], (failed_at, breakdown)


def _reaction(logs: AgentLogs, switch: str, failed_at: float) -> tuple[float, float]:
    """Return when a neighbour noticed the failure, and when its tables led around it."""
    events = logs.since(switch, failed_at)
    noticed = next(event.at for event in events if isinstance(event, PortDown))
    return noticed, next(e.at for e in events if isinstance(e, Mirrored) and e.at >= noticed)


def _last_change(logs: AgentLogs, switch: str, failed_at: float, vip: IPv4Address) -> float:
    """Return when a switch farther away last changed what it has of a VIP's route."""
    events = logs.since(switch, failed_at)
    return max(e.at for e in events if isinstance(e, Mirrored) and f"{vip}/32" in e.prefixes)


def _plot(out: Path, shown: tuple[Samples, float], outages: list[float], breakdowns: list[Breakdown]) -> None:
    samples, failed_at = shown
    figure, (timeline, spread, parts) = results.figure(
        1, 3, figsize=(13, 3.8), gridspec_kw={"width_ratios": [2, 1, 1]}
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
    results.paper_line(spread, PAPER_OUTAGE_MS, "38 ms", vertical=True)
    spread.set(xlim=(0, None), ylim=(0, 1.02), xlabel="outage (ms)", ylabel="share of runs")
    spread.set_title(f"{len(outages)} runs")
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
    results.save_figure(figure, out / "failover")
