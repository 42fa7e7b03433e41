"""HMux failure (the paper's figure 12): a switch dies, and its VIPs fall back to the SMuxes.

Ten VIPs, seven on HMuxes and three on SMuxes, all pinged every 3 ms. ToR 4 dies: it carries one VIP,
and neither a server nor an SMux nor the only path of any other VIP depends on it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import Running, Say, running, write

PAPER_OUTAGE_MS = 38.0
FAILED = "tor4"
SWITCHES: list[str | None] = [FAILED, "tor1", "tor2", "agg1", "agg2", "core1", "core2", None, None, None]
_BEFORE_S, _AFTER_S = 0.5, 1.0


def run(name: str, out: Path, runs: int, say: Say) -> dict[str, Any]:
    """Fail and restore the switch `runs` times; write samples, summary and figure; return the summary.

    A run in which the prober stalled is discarded and counted.
    """
    outages: list[float] = []
    others_lost = 0
    discarded = 0
    rows: list[dict[str, Any]] = []
    shown: tuple[Samples, float] | None = None
    lateness: list[float] = []
    with running(name, SWITCHES, controller=False, say=say) as testbed:
        where = {vip: switch for vip, switch in zip(testbed.vips, SWITCHES, strict=True) if switch}
        while len(outages) < runs:
            testbed.await_settled(where)
            samples, failed_at = _fail_once(testbed)
            if samples.stalled():
                discarded += 1
                say(f"a run is discarded: the prober stalled ({discarded} so far)")
                if discarded > runs:
                    raise RuntimeError(f"{discarded} runs discarded: this machine is too busy to measure")
                continue
            lateness.append(float(np.quantile(samples.lateness, 0.99)) * 1e3)
            outage = sum(seconds for _, seconds in samples.outages(0)) * 1e3
            lost = int(samples.lost[:, 1:].sum())
            outages.append(outage)
            others_lost += lost
            say(f"run {len(outages)} of {runs}: {outage:.1f} ms, {lost} lost on other VIPs")
            rows += _rows(len(outages), samples, failed_at)
            shown = shown or (samples, failed_at)
    assert shown is not None
    summary = {
        "runs": len(outages),
        "discarded": discarded,
        "outage_ms_median": float(np.median(outages)),
        "outage_ms_p95": float(np.quantile(outages, 0.95)),
        "outage_ms": outages,
        "others_lost": others_lost,
        "probe_interval_ms": 3.0,
        "probe_lateness_ms_p99_median": float(np.median(lateness)),
        "target": "xdp",
        "paper": {"outage_ms": PAPER_OUTAGE_MS},
    }
    write(out, "failover", summary, rows)
    _plot(out, shown, outages)
    return summary


def _fail_once(testbed: Running) -> tuple[Samples, float]:
    with testbed.probing(testbed.vips) as found:
        time.sleep(_BEFORE_S)
        failed_at = testbed.fail(FAILED)
        time.sleep(_AFTER_S)
    testbed.restore(FAILED)
    return found[0], failed_at


def _rows(number: int, samples: Samples, failed_at: float) -> list[dict[str, Any]]:
    return [
        {
            "run": number,
            "vip": str(vip),
            "sent_ms": round((float(samples.sent[index, target]) - failed_at) * 1e3, 4),
            "rtt_ms": round(rtt, 4) if not np.isnan(rtt := float(samples.rtt[index, target]) * 1e3) else None,
        }
        for target, vip in enumerate(samples.targets)
        for index in range(len(samples.due))
    ]


def _plot(out: Path, shown: tuple[Samples, float], outages: list[float]) -> None:
    samples, failed_at = shown
    figure, (timeline, spread) = results.figure(1, 2, figsize=(10, 3.8), gridspec_kw={"width_ratios": [2, 1]})
    labels = ("VIP on the HMux that fails", "VIP on another HMux", "VIP on the SMuxes")
    for target, label, colour in zip((0, 1, 7), labels, results.SERIES, strict=False):
        when = (samples.sent[:, target] - failed_at) * 1e3
        rtt = samples.rtt[:, target] * 1e3
        timeline.plot(when, rtt, ".", markersize=4, color=colour, label=label)
        lost = samples.lost[:, target]
        timeline.plot(when[lost], np.zeros(int(lost.sum())), "x", color=colour, markersize=5)
    timeline.axvline(0, color=results.GREY, linewidth=1)
    timeline.set(xlim=(-100, 200), xlabel="time since the failure (ms)", ylabel="round trip (ms)")
    timeline.set_ylim(bottom=-0.05 * float(np.nanmax(samples.rtt)) * 1e3)
    timeline.set_title("One run; a cross on the axis is a lost ping")
    timeline.legend(loc="upper right")
    ordered = np.sort(outages)
    spread.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", color=results.OURS)
    results.paper_line(spread, PAPER_OUTAGE_MS, "38 ms", vertical=True)
    spread.set(xlim=(0, None), ylim=(0, 1.02), xlabel="outage (ms)", ylabel="share of runs")
    spread.set_title(f"{len(outages)} runs")
    spread.legend(loc="lower right")
    results.save_figure(figure, out / "failover")
