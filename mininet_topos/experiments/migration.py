"""VIP migration (the paper's figure 13): three VIPs move, in two waves through the SMuxes.

VIP 1 goes from an HMux to the SMuxes, VIP 2 from the SMuxes to an HMux, VIP 3 from one HMux to another.
The controller carries it out, while every VIP is pinged every 3 ms; then it goes back, and so on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from controller.updater.outcome import Report
from controller.updater.plan import Wave
from controller.updater.reads import Placement
from duet_p4 import results
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
    Repetition,
    Running,
    Say,
    brought_up,
    error_of_probes,
    over_bringups,
    running,
    write,
)
from mininet_topos.testbed import agents as agents_module

PAPER_WAVES_MS = (450.0, 400.0)
SWITCHES: list[str | None] = ["tor3", None, "tor4", "tor1", "tor2", "agg1", "core1", "core2", None, None]
MOVED: list[str | None] = [None, "tor3", "agg3"]
_BEFORE_S, _AFTER_S = 0.3, 0.5


MODEL = (
    "Nothing fails. A wave is timed by the controller, from its first request until the last device's "
    "answer; "
    "withdrawing waits until BGP has had time to tell everybody and no packet comes any more."
)


@dataclass(frozen=True)
class Measured:
    """What one bring-up gave: the two waves of every run that was kept, in ms."""

    waves: list[tuple[float, float]]
    lost: int
    discarded: int
    lateness: list[float]
    rows: list[dict[str, Any]]
    shown: tuple[Samples, float, tuple[float, float]]

    def wave(self, number: int) -> list[float]:
        """Return the durations of wave 1 or 2."""
        return [waves[number - 1] for waves in self.waves]


def run(name: str, out: Path, runs: int, bringups: int, say: Say) -> dict[str, Any]:
    """Migrate there and back `runs` times in all in each bring-up; write samples, summary and figure."""

    def once() -> Measured:
        with running(name, SWITCHES, controller=True, say=say) as testbed:
            return measure(testbed, runs, say)

    found = brought_up(bringups, say, once)
    told_of = summary(found)
    rows = [{"bringup": n} | row for n, one in enumerate(found, 1) for row in one.rows]
    write(out, "migration", told_of, rows)
    _plot(out, found)
    return told_of


def measure(testbed: Running, runs: int, say: Say) -> Measured:
    """Migrate there and back on a running testbed, `runs` times in all."""
    waves: list[tuple[float, float]] = []
    lost = 0
    rows: list[dict[str, Any]] = []
    lateness: list[float] = []
    shown: tuple[Samples, float, tuple[float, float]] | None = None
    repetition: Repetition[tuple[float, Report]] = Repetition(runs, say)
    release(testbed, testbed.vips[: len(MOVED)])
    targets = cycle((MOVED, SWITCHES[:3]))
    for number, samples, (began, report) in repetition.of(lambda: move_once(testbed, next(targets))):
        pair = (report.wave_ms[Wave.WITHDRAW.value], report.wave_ms[Wave.ANNOUNCE.value])
        waves.append(pair)
        lateness.append(float(np.quantile(samples.lateness, 0.99)) * 1e3)
        gone = int(samples.lost.sum())
        lost += gone
        say(f"run {number} of {runs}: waves {pair[0]:.1f} and {pair[1]:.1f} ms, {gone} pings lost")
        rows += ({"run": number} | row for row in samples.rows(began))
        shown = shown or (samples, began, pair)
    assert shown is not None
    return Measured(waves, lost, repetition.discarded, lateness, rows, shown)


def summary(found: Sequence[Measured]) -> dict[str, Any]:
    """Put bring-ups together: medians and quantiles over all runs, intervals over the bring-ups."""
    told_of: dict[str, Any] = {
        "runs": sum(len(one.waves) for one in found),
        "bringups": len(found),
        "discarded": sum(one.discarded for one in found),
        "lost": sum(one.lost for one in found),
        "model": MODEL,
        "target": "xdp",
        "paper": {"wave1_ms": PAPER_WAVES_MS[0], "wave2_ms": PAPER_WAVES_MS[1], "lost": 0},
    }
    for number in (1, 2):
        pooled = [ms for one in found for ms in one.wave(number)]
        told_of |= {
            f"wave{number}_ms": [one.wave(number) for one in found],
            f"wave{number}_ms_median": float(np.median(pooled)),
            f"wave{number}_ms_p95": float(np.quantile(pooled, 0.95)),
            f"wave{number}_ms_over_bringups": over_bringups(one.wave(number) for one in found),
        }
    return told_of


def move_once(testbed: Running, target: list[str | None]) -> tuple[Samples, tuple[float, Report]]:
    """Move the first VIPs while all are probed; return the samples, when it was ordered, and the waves."""
    with testbed.probing(testbed.vips) as found:
        time.sleep(_BEFORE_S)
        began = time.time()
        report = _move(testbed, dict(zip(testbed.vips, target, strict=False)))
        time.sleep(_AFTER_S)
    if report.failed:
        raise RuntimeError(f"a migration failed: {'; '.join(report.failed)}")
    return found[0], (began, report)


def release(testbed: Running, vips: Sequence[IPv4Address]) -> None:
    """Give VIPs that were placed by hand back to the engine, or an assignment leaves them where they are."""

    async def release() -> None:
        async with agents_module.controller(testbed.folder) as controller:
            for vip in vips:
                await controller.release(vip)

    asyncio.run(release())


def _move(testbed: Running, where: dict[IPv4Address, str | None]) -> Report:
    async def move() -> Report:
        async with agents_module.controller(testbed.folder) as controller:
            return await controller.assign(Placement(address=vip, switch=s) for vip, s in where.items())

    return asyncio.run(move())


def _plot(out: Path, found: Sequence[Measured]) -> None:
    samples, began, pair = found[0].shown
    figure, (timeline, bars) = results.figure(1, 2, figsize=(10, 4.2), gridspec_kw={"width_ratios": [2, 1]})
    labels = ("VIP 1: HMux to SMux", "VIP 2: SMux to HMux", "VIP 3: HMux to HMux")
    for target, label in enumerate(labels):
        when = (samples.sent[:, target] - began) * 1e3
        timeline.plot(
            when, samples.rtt[:, target] * 1e3, ".", markersize=4, color=results.SERIES[target], label=label
        )
    for edge in (0, pair[0], sum(pair)):
        timeline.axvline(edge, color=results.GREY, linewidth=1)
    timeline.set(xlim=(-100, sum(pair) + 150), xlabel="time since the order (ms)", ylabel="round trip (ms)")
    timeline.set_ylim(bottom=0)
    timeline.set_title("One run; lines: the order, end of wave 1, end of wave 2")
    timeline.legend(loc="upper right")
    at = np.arange(2)
    waves = [over_bringups(one.wave(number) for one in found) for number in (1, 2)]
    bars.bar(
        at,
        [wave.mean for wave in waves],
        yerr=[wave.ci95 for wave in waves],
        width=0.5,
        capsize=4,
        color=results.OURS,
        label=f"medians, {len(found)} bring-ups, 95%",
    )
    results.paper_points(bars, at.tolist(), PAPER_WAVES_MS, "about 450 and 400 ms")
    bars.set(ylim=(0, None), ylabel="duration (ms)", xticks=at, xticklabels=["wave 1", "wave 2"])
    bars.legend()
    runs = sum(len(one.waves) for one in found)
    results.note(
        figure,
        f"{runs} runs, {sum(one.lost for one in found)} pings lost. {MODEL}",
        error_of_probes(ms for one in found for ms in one.lateness),
    )
    results.save_figure(figure, out / "migration")
