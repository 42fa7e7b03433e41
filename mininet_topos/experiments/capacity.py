"""HMux capacity (the paper's figure 11): UDP to ten VIPs, while an eleventh, idle, is pinged every 3 ms.

First the SMux carries all of it at 2/3 of its capacity, then at 4/3, then the HMux on ToR 1 does at the
highest rate that one CPU of this machine generates.

The SMux is one process with the Scapy data path, and its limit is its own: the socket buffer in front of
it overflows when it is too slow. An XDP SMux shares the CPU with the generator and has no queue, and
packets that XDP redirects pass no queueing discipline, so neither could show what the paper shows. There is
one SMux, not three, because this limit is a CPU's; its capacity is measured first, and the paper's
ratios of load to capacity are kept. The pings, which that SMux carries too, count as load. It
runs before ordinary processes, or the limit would be that of a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from duet_p4.model import MuxVip
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.load import Load, Meter
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
    PROBE_INTERVAL_S,
    Running,
    Say,
    brought_up,
    error_of_probes,
    running,
    told,
    write,
)
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.plan import SmuxPath
from mininet_topos.testbed.protocol import Request, ask

VIPS = 11
HMUX = "tor1"
SIZE = replace(fattree.PAPER, smux_tors=(1,))
GENERATOR, PROBER = "client1", "client2"
PHASES = ("smux_below", "smux_above", "hmux")
RATIOS = (2 / 3, 4 / 3)
"""Load over capacity in the SMux phases: the paper's 200 and 400 kpps for each SMux of 300 kpps."""

PHASE_S = 8.0
PAPER_PPS = (600e3, 1.2e6, 1.2e6)
_PAPER = ("mostly < 1 ms", "tens of ms", "about 1 ms")
_SETTLE_S = 1.0
_RAMP_S = 2.0
_FIRST_PPS = 500.0
_SHORT = 0.9
"""An SMux that delivers less than this share of what is offered is past its capacity."""


MODEL = (
    "Nothing fails; above its capacity, packets are lost in front of the SMux, pings among them: "
    "latencies are of those "
    "that were answered."
)


@dataclass(frozen=True)
class Measured:
    """What one bring-up gave. `phases` has rates, latencies and the share of pings lost, by phase."""

    capacity: float
    ramp: list[dict[str, float]]
    phases: dict[str, dict[str, float]]
    samples: Samples
    edges: list[tuple[float, float]]


def run(name: str, out: Path, bringups: int, say: Say) -> dict[str, Any]:
    """Measure the SMux's capacity, then the three phases, in each bring-up, and write it all."""

    def once() -> Measured:
        with running(
            name, [None] * VIPS, controller=False, smux_path=SmuxPath.SCAPY, size=SIZE, say=say
        ) as testbed:
            return measure(testbed, say)

    found = brought_up(bringups, say, once)
    told_of = summary(found)
    rows = [{"bringup": n} | row for n, one in enumerate(found, 1) for row in _rows(one.samples, one.edges)]
    write(out, "capacity", told_of, rows)
    _plot(out, found)
    return told_of


def measure(testbed: Running, say: Say) -> Measured:
    """Measure on a running testbed."""
    phases: dict[str, dict[str, float]] = {}
    edges: list[tuple[float, float]] = []
    load = Load(testbed, GENERATOR, testbed.vips[:-1])
    servers = [n.name for n in fattree.nodes(testbed.graph, Kind.SERVER) if n.is_dip]
    meter = Meter(testbed, (GENERATOR, PROBER), servers)
    _prefer(testbed)
    capacity, ramp = _capacity(load, meter, say)
    with testbed.probing(testbed.vips[-1:], PROBER) as found:
        for phase, pps in zip(PHASES, (*_beside_pings(capacity), None), strict=True):
            if pps is None:
                testbed.with_agents(lambda agents: _move(testbed, agents))
            with load.offered(pps):
                time.sleep(_SETTLE_S)
                meter.rates()
                began, busy = time.time(), _busy_s()
                time.sleep(PHASE_S)
                offered, delivered = meter.rates()
                edges.append((began, time.time()))
                cores = (_busy_s() - busy) / (edges[-1][1] - began)
            phases[phase] = {"offered_pps": offered, "delivered_pps": delivered, "cores_busy": cores}
            say(f"{phase}: {offered:.0f} pps offered, {delivered:.0f} delivered")
    samples = found[0]
    for phase, edge in zip(PHASES, edges, strict=True):
        rtt, lost = _latencies(samples, *edge)
        phases[phase] |= {
            "latency_ms_median": float(np.median(rtt)),
            "latency_ms_p99": float(np.quantile(rtt, 0.99)),
            "pings_lost": lost,
        }
        say(f"{phase}: median {phases[phase]['latency_ms_median']:.2f} ms, {lost:.1%} of pings lost")
    return Measured(capacity, ramp, phases, samples, edges)


def summary(found: Sequence[Measured]) -> dict[str, Any]:
    """Put bring-ups together: means with their intervals over the bring-ups."""
    phases = {
        phase: {
            key: results.estimate(one.phases[phase][key] for one in found) for key in found[0].phases[phase]
        }
        for phase in PHASES
    }
    return {
        "bringups": len(found),
        "smux_capacity_pps": results.estimate(one.capacity for one in found),
        "hmux_pps": phases["hmux"]["delivered_pps"],
        "latency_ms_median": {phase: phases[phase]["latency_ms_median"] for phase in PHASES},
        "pings_lost": {phase: phases[phase]["pings_lost"] for phase in PHASES},
        "phases": phases,
        "ramp": [one.ramp for one in found],
        "smuxes": 1,
        "smux_limit": "the socket buffer of one process with the Scapy data path",
        "model": MODEL,
        "probe_lateness_ms_p99": _lateness(found),
        "probe_stalled": any(one.samples.stalled() for one in found),
        "target": "xdp",
        "paper": {"smuxes": 3, "pps": PAPER_PPS, "latency": dict(zip(PHASES, _PAPER, strict=True))},
    }


def _lateness(found: Sequence[Measured]) -> list[float]:
    return [float(np.quantile(one.samples.lateness, 0.99)) * 1e3 for one in found]


def _prefer(testbed: Running) -> None:
    """Run the SMux before ordinary processes, so that its limit is its own; the prober still goes first."""
    for process in ask(testbed.folder, Request(do="status")).processes:
        if process.name == "smux" and process.pid is not None:
            os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(1))


def _capacity(load: Load, meter: Meter, say: Say) -> tuple[float, list[dict[str, float]]]:
    """Double the load until the SMux delivers clearly less; what it then delivers is its capacity."""
    ramp = []
    pps = _FIRST_PPS
    while True:
        with load.offered(pps):
            time.sleep(_SETTLE_S)
            meter.rates()
            time.sleep(_RAMP_S)
            offered, delivered = meter.rates()
        ramp.append({"offered_pps": offered, "delivered_pps": delivered})
        say(f"ramp: {offered:.0f} pps offered, {delivered:.0f} delivered")
        if delivered < _SHORT * offered:
            return delivered, ramp
        if offered < _SHORT * pps:
            raise RuntimeError(f"the generator sends {offered:.0f} of {pps:.0f} pps: the machine is too busy")
        pps *= 2


def _beside_pings(capacity: float) -> list[float]:
    """Return the UDP load (pps) of each SMux phase; raises RuntimeError if pings alone are too much."""
    loads = [ratio * capacity - 1 / PROBE_INTERVAL_S for ratio in RATIOS]
    if min(loads) <= 0:
        raise RuntimeError(
            f"the SMux forwards {capacity:.0f} pps, of which the pings would be most: "
            "run it again when this machine is less busy"
        )
    return loads


async def _move(testbed: Running, agents: Agents) -> None:
    """Put every VIP on the HMux."""
    await asyncio.gather(*(agents.switches[HMUX].put_vip(MuxVip.of(entry.vip)) for entry in testbed.stated))


def _latencies(samples: Samples, began: float, ended: float) -> tuple[Any, float]:
    """Return the round trips (ms) of pings sent in a phase, and the share that was lost."""
    within = (samples.sent[:, 0] >= began) & (samples.sent[:, 0] < ended)
    rtt = samples.rtt[within, 0] * 1e3
    if not within.any() or np.isnan(rtt).all():
        raise RuntimeError("no ping of a phase was answered: `duet testbed check` says whether VIPs answer")
    return rtt[~np.isnan(rtt)], float(np.isnan(rtt).mean())


def _rows(samples: Samples, edges: list[tuple[float, float]]) -> list[dict[str, Any]]:
    rows = []
    for sent, rtt in zip(samples.sent[:, 0].tolist(), (samples.rtt[:, 0] * 1e3).tolist(), strict=True):
        phase = next((p for p, (a, b) in zip(PHASES, edges, strict=True) if a <= sent < b), None)
        rows.append(
            {
                "sent_s": round(sent - edges[0][0], 6),
                "phase": phase,
                "rtt_ms": None if np.isnan(rtt) else round(rtt, 4),
            }
        )
    return rows


def _busy_s() -> float:
    """Return the CPU seconds that this machine has been busy, over all cores."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _plot(out: Path, found: Sequence[Measured]) -> None:
    figure, (timeline, spread) = results.figure(1, 2, figsize=(11, 4.8), gridspec_kw={"width_ratios": [2, 1]})
    labels = ("SMux, 2/3 of its capacity", "SMux, 4/3 of its capacity", f"HMux on {HMUX}")
    samples, edges, told_of = found[0].samples, found[0].edges, summary(found)
    start = edges[0][0]
    top = float(np.nanmax(samples.rtt)) * 1e3
    for number, (phase, (began, ended), label) in enumerate(zip(PHASES, edges, labels, strict=True)):
        within = (samples.sent[:, 0] >= began) & (samples.sent[:, 0] < ended)
        colour = results.SERIES[number]
        when, rtt = samples.sent[within, 0] - start, samples.rtt[within, 0] * 1e3
        timeline.plot(when, rtt, ".", markersize=2, color=colour)
        measured = told_of["phases"][phase]
        lost = measured["pings_lost"]
        text = f"{label}\n{measured['offered_pps'].mean:,.0f} pps offered"
        text += f"\n{measured['delivered_pps'].mean:,.0f} delivered\n{100 * lost.mean:.1f}"
        text += f"{f'±{100 * lost.ci95:.1f}' if lost.n > 1 else ''}% of pings lost"
        middle = (began + ended) / 2 - start
        place = {"ha": "center", "fontsize": 8, "transform": timeline.get_xaxis_transform()}
        timeline.text(middle, 0.98, text, va="top", color=colour, **place)
        paper = f"paper: {PAPER_PPS[number] / 1e3:,.0f} kpps,\n{_PAPER[number]}"
        timeline.text(middle, 0.77, paper, va="top", color=results.PAPER, **place)
        for one in found:
            ordered = np.sort(_latencies(one.samples, *one.edges[number])[0])
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            spread.step(ordered, share, where="post", color=colour, linewidth=1.2)
    timeline.set(yscale="log", xlabel="time (s)", ylabel="round trip to the idle VIP (ms)")
    timeline.set_ylim(top=top * 60)
    capacity = told_of["smux_capacity_pps"]
    timeline.set_title(f"Scaled down: one SMux of {told(capacity, ' pps')} (paper: three of 300 kpps)")
    spread.set(xscale="log", xlabel="round trip (ms)", ylabel="share of answered pings", ylim=(0, 1.02))
    spread.axvline(1, color=results.PAPER, linestyle="--", linewidth=1.4, label="paper: 1 ms")
    spread.legend(loc="lower left", bbox_to_anchor=(0.46, 0.2))
    spread.set_title("Distribution, in the same colours")
    results.note(
        figure,
        f"{len(found)} bring-ups: numbers are means, with 95% intervals; dots are one bring-up, lines "
        f"all. {MODEL}",
        f"{error_of_probes(_lateness(found))} Generator, SMux and servers share them.",
    )
    results.save_figure(figure, out / "capacity")
