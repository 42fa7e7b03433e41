"""What else may die (beyond the paper's figure 12): a ToR, an Agg, a Core, an SMux, a link.

The same ten VIPs, each pinged every 3 ms from two clients, one in each container. Here other VIPs are
touched, too, if their packets pass what fails: what counts is the longest outage of any VIP.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from mininet_topos.experiments.failover import SWITCHES
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import Repetition, Running, Say, running, write

FAILURES = ("tor4", "agg2", "core2", "smux2", "tor2-agg2")
"""What fails, one after the other. No DIP is behind ToR 4, so no VIP is away for good."""

GOAL_MS = 40.0
_PROBERS = ("client2", "client3")
"""Client 2 is where what it sends to the SMuxes' VIPs goes through SMux 2."""

_BEFORE_S, _AFTER_S = 0.3, 0.7


def run(name: str, out: Path, runs: int, say: Say) -> dict[str, Any]:
    """Fail and restore each of `FAILURES` `runs` times; write samples, summary and figure.

    A run in which a prober stalled is discarded and counted.
    """
    longest: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    discarded = 0
    with running(name, SWITCHES, controller=False, say=say) as testbed:
        where = {vip: switch for vip, switch in zip(testbed.vips, SWITCHES, strict=True) if switch}
        for what in FAILURES:
            longest[what] = []
            repetition: Repetition[tuple[float, Samples]] = Repetition(runs, say)

            def fail(what: str = what) -> tuple[Samples, tuple[float, Samples]]:
                testbed.await_settled(where)
                return _fail_once(testbed, what)

            for number, near, (failed_at, far) in repetition.of(fail):
                longest[what].append(max(_longest_ms(near), _longest_ms(far)))
                for client, samples in zip(_PROBERS, (near, far), strict=True):
                    told = {"failure": what, "run": number, "client": client}
                    rows += (told | row for row in samples.rows(failed_at))
            discarded += repetition.discarded
            say(f"{what}: longest outage of any VIP: median {np.median(longest[what]):.1f} ms")
    summary = {
        "runs": runs,
        "discarded": discarded,
        "outage_ms_median": {what: float(np.median(values)) for what, values in longest.items()},
        "outage_ms_p95": {what: float(np.quantile(values, 0.95)) for what, values in longest.items()},
        "outage_ms": longest,
        "goal_ms": GOAL_MS,
        "target": "xdp",
    }
    write(out, "failures", summary, rows)
    _plot(out, longest)
    return summary


def _fail_once(testbed: Running, what: str) -> tuple[Samples, tuple[float, Samples]]:
    with (
        testbed.probing(testbed.vips, _PROBERS[0]) as near,
        testbed.probing(testbed.vips, _PROBERS[1]) as far,
    ):
        time.sleep(_BEFORE_S)
        failed_at = testbed.fail(what)
        time.sleep(_AFTER_S)
    testbed.restore(what)
    return near[0], (failed_at, far[0])


def _longest_ms(samples: Samples) -> float:
    """Return the longest outage of any VIP; 0 where no ping was lost."""
    outages = [s for target in range(len(samples.targets)) for _, s in samples.outages(target)]
    return max(outages, default=0.0) * 1e3


def _plot(out: Path, longest: dict[str, list[float]]) -> None:
    figure, axes = results.figure(figsize=(8, 3.8))
    drawn = axes.boxplot(list(longest.values()), patch_artist=True, showfliers=False, whis=(5, 95))
    for box in drawn["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    axes.axhline(GOAL_MS, color=results.GREY, linestyle="--", label=f"our goal: {GOAL_MS:g} ms")
    axes.set_xticks(range(1, len(longest) + 1), list(longest))
    axes.set(ylim=(0, None), xlabel="what fails", ylabel="longest outage of any VIP (ms)")
    runs = len(next(iter(longest.values())))
    axes.set_title(f"{runs} runs each, a ping every 3 ms; box: quartiles, whiskers: 5 to 95%")
    axes.legend()
    results.save_figure(figure, out / "failures")
