"""What else may die (beyond the paper's figure 12): a ToR, an Agg, a Core, an SMux, a link.

The same ten VIPs, each pinged every 3 ms from two clients, one in each container. Here other VIPs are
touched, too, if their packets pass what fails: what counts is the longest outage of any VIP.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from mininet_topos.experiments.failover import SWITCHES
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
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

FAILURES = ("tor4", "agg2", "core2", "smux2", "tor2-agg2")
"""What fails, one after the other. No DIP is behind ToR 4, so no VIP is away for good."""

GOAL_MS = 40.0
_PROBERS = ("client2", "client3")
"""Client 2 is where what it sends to the SMuxes' VIPs goes through SMux 2."""

_BEFORE_S, _AFTER_S = 0.3, 0.7


FAILURE = (
    "Failure models: a node loses its power (its ports lose their carrier at once, its processes halt); a "
    "link loses "
    "its carrier at both ends. No failure is silent, and one ends before the next begins."
)


@dataclass(frozen=True)
class Measured:
    """What one bring-up gave: by failure, the longest outage of any VIP in every run that was kept, in ms."""

    longest: dict[str, list[float]]
    discarded: int
    lateness: list[float]
    rows: list[dict[str, Any]]


def run(name: str, out: Path, runs: int, bringups: int, say: Say) -> dict[str, Any]:
    """Fail and restore each of `FAILURES` `runs` times in each bring-up, and write it all."""

    def once() -> Measured:
        with running(name, SWITCHES, controller=False, say=say) as testbed:
            return measure(testbed, runs, say)

    found = brought_up(bringups, say, once)
    told_of = summary(found)
    rows = [{"bringup": n} | row for n, one in enumerate(found, 1) for row in one.rows]
    write(out, "failures", told_of, rows)
    _plot(out, found)
    return told_of


def measure(testbed: Running, runs: int, say: Say) -> Measured:
    """Fail and restore each of `FAILURES` `runs` times on a running testbed.

    A run in which a prober stalled is discarded and counted.
    """
    longest: dict[str, list[float]] = {}
    rows: list[dict[str, Any]] = []
    lateness: list[float] = []
    discarded = 0
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
                lateness.append(float(np.quantile(samples.lateness, 0.99)) * 1e3)
                about = {"failure": what, "run": number, "client": client}
                rows += (about | row for row in samples.rows(failed_at))
        discarded += repetition.discarded
        say(f"{what}: longest outage of any VIP: median {np.median(longest[what]):.1f} ms")
    return Measured(longest, discarded, lateness, rows)


def summary(found: Sequence[Measured]) -> dict[str, Any]:
    """Put bring-ups together: medians and quantiles over all runs, intervals over the bring-ups."""
    pooled = _pooled(found)
    return {
        "runs": sum(len(values) for values in pooled.values()),
        "bringups": len(found),
        "discarded": sum(one.discarded for one in found),
        "outage_ms_median": {what: float(np.median(values)) for what, values in pooled.items()},
        "outage_ms_p95": {what: float(np.quantile(values, 0.95)) for what, values in pooled.items()},
        "outage_ms_over_bringups": {
            what: over_bringups(one.longest[what] for one in found) for what in pooled
        },
        "outage_ms": [one.longest for one in found],
        "failure": FAILURE,
        "goal_ms": GOAL_MS,
        "target": "xdp",
    }


def _pooled(found: Sequence[Measured]) -> dict[str, list[float]]:
    return {what: [ms for one in found for ms in one.longest[what]] for what in found[0].longest}


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


def _plot(out: Path, found: Sequence[Measured]) -> None:
    longest = _pooled(found)
    figure, axes = results.figure(figsize=(9, 4.2))
    drawn = axes.boxplot(list(longest.values()), patch_artist=True, showfliers=False, whis=(5, 95))
    for box in drawn["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    axes.axhline(GOAL_MS, color=results.GREY, linestyle="--", label=f"our goal: {GOAL_MS:g} ms")
    medians = [told(over_bringups(one.longest[what] for one in found)) for what in longest]
    axes.set_xticks(
        range(1, len(longest) + 1), [f"{what}\n{ms}" for what, ms in zip(longest, medians, strict=True)]
    )
    axes.set(ylim=(0, None), xlabel="what fails; median, mean of the bring-ups", ylabel="longest outage (ms)")
    runs = len(next(iter(longest.values())))
    axes.set_title(f"Any VIP: {runs} runs each in {len(found)} bring-ups; box: quartiles, whiskers: 5 to 95%")
    axes.legend()
    results.note(figure, FAILURE, error_of_probes(ms for one in found for ms in one.lateness))
    results.save_figure(figure, out / "failures")
