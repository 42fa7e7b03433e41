"""HMux capacity (the paper's figure 11): UDP to ten VIPs, while an eleventh, idle, is pinged every 3 ms.

First the SMux carries all of it at 2/3 of its capacity, then at 4/3, then the HMux on ToR 1 does at the
highest rate that one CPU of this machine generates.

The SMux is the one with the XDP data path. Its interface's ring of 256 frames is its queue, which a kernel
thread empties (threaded NAPI), on a CPU on which the generator is not; that CPU also takes each packet
the rest of its way. There is one SMux, not three, because this limit is a CPU's; its capacity is measured
first, and the paper's ratios of load to capacity are kept. The pings, which that SMux carries too, count
as load.

On a testbed of its own the SMux phases are repeated with the Scapy data path, as an illustration: a process
so slow, with a socket's buffer in front of it, that latency grows as it does in the paper. It runs before
ordinary processes, or its limit would be that of a busy machine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from duet_p4.model import MuxVip
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.cpu import busy_s
from mininet_topos.experiments.load import Load, Meter
from mininet_topos.experiments.probe import Samples
from mininet_topos.experiments.setting import (
    PROBE_INTERVAL_S,
    Running,
    Say,
    brought_up,
    error_of_probes,
    running,
    write,
)
from mininet_topos.testbed import namespaces
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

QUEUES = {
    SmuxPath.XDP: "its interface's ring of 256 frames, which one kernel thread on a CPU of its own empties",
    SmuxPath.SCAPY: "the socket buffer of one process with the Scapy data path",
}
PHASE_S = 8.0
PAPER_PPS = (600e3, 1.2e6, 1.2e6)
_PAPER = ("mostly < 1 ms", "tens of ms", "about 1 ms")
_SETTLE_S = 1.0
_RAMP_S = 2.0
_MOST_PPS = 16e6
_FIRST_PPS = {SmuxPath.XDP: 64_000.0, SmuxPath.SCAPY: 500.0}
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

    def once(path: SmuxPath) -> Measured:
        with running(name, [None] * VIPS, controller=False, smux_path=path, size=SIZE, say=say) as testbed:
            return measure(testbed, path, say)

    found = brought_up(bringups, say, lambda: once(SmuxPath.XDP))
    say("illustration: the Scapy data path")
    slow = once(SmuxPath.SCAPY)
    told_of = summary(found, slow)
    rows = [
        {"bringup": n, "smux": path} | row
        for n, path, one in (
            *((n, SmuxPath.XDP, one) for n, one in enumerate(found, 1)),
            (len(found) + 1, SmuxPath.SCAPY, slow),
        )
        for row in _rows(one.samples, one.edges)
    ]
    write(out, "capacity", told_of, rows)
    _plot(out, found, slow)
    return told_of


def measure(testbed: Running, path: SmuxPath, say: Say) -> Measured:
    """Measure on a running testbed; the HMux as well where the SMux is the real one."""
    phases: dict[str, dict[str, float]] = {}
    edges: list[tuple[float, float]] = []
    load = Load(testbed, GENERATOR, testbed.vips[:-1])
    servers = [n.name for n in fattree.nodes(testbed.graph, Kind.SERVER) if n.is_dip]
    meter = Meter(testbed, (GENERATOR, PROBER), servers)
    if path is SmuxPath.XDP:
        _queue(testbed)
    else:
        _prefer(testbed)
    capacity, ramp = _capacity(load, meter, _FIRST_PPS[path], say)
    loads: list[float | None] = list(_beside_pings(capacity))
    if path is SmuxPath.XDP:
        loads.append(None)
    with testbed.probing(testbed.vips[-1:], PROBER) as found:
        for phase, pps in zip(PHASES, loads, strict=False):
            if pps is None:
                testbed.with_agents(lambda agents: _move(testbed, agents))
            with load.offered(pps):
                time.sleep(_SETTLE_S)
                meter.rates()
                began, busy = time.time(), busy_s()
                time.sleep(PHASE_S)
                offered, delivered = meter.rates()
                edges.append((began, time.time()))
                cores = (busy_s() - busy) / (edges[-1][1] - began)
            phases[phase] = {"offered_pps": offered, "delivered_pps": delivered, "cores_busy": cores}
            say(f"{phase}: {offered:.0f} pps offered, {delivered:.0f} delivered")
    samples = found[0]
    for phase, edge in zip(phases, edges, strict=True):
        rtt, lost = _latencies(samples, *edge)
        phases[phase] |= {
            "latency_ms_median": float(np.median(rtt)),
            "latency_ms_p99": float(np.quantile(rtt, 0.99)),
            "pings_lost": lost,
        }
        say(f"{phase}: median {phases[phase]['latency_ms_median']:.2f} ms, {lost:.1%} of pings lost")
    return Measured(capacity, ramp, phases, samples, edges)


def summary(found: Sequence[Measured], slow: Measured) -> dict[str, Any]:
    """Put bring-ups together: means with intervals over them; `slow` is the Scapy data path."""
    phases = _over(found)
    return {
        "bringups": len(found),
        "smux": SmuxPath.XDP,
        "smux_capacity_pps": results.estimate(one.capacity for one in found),
        "hmux_pps": phases["hmux"]["delivered_pps"],
        "latency_ms_median": {phase: phases[phase]["latency_ms_median"] for phase in PHASES},
        "pings_lost": {phase: phases[phase]["pings_lost"] for phase in PHASES},
        "phases": phases,
        "ramp": [one.ramp for one in found],
        "smuxes": 1,
        "smux_queue": QUEUES[SmuxPath.XDP],
        "illustration": {
            "smux": SmuxPath.SCAPY,
            "smux_queue": QUEUES[SmuxPath.SCAPY],
            "smux_capacity_pps": slow.capacity,
            "phases": slow.phases,
            "ramp": slow.ramp,
        },
        "model": MODEL,
        "probe_lateness_ms_p99": _lateness([*found, slow]),
        "probe_stalled": any(one.samples.stalled() for one in (*found, slow)),
        "target": "xdp",
        "paper": {"smuxes": 3, "pps": PAPER_PPS, "latency": dict(zip(PHASES, _PAPER, strict=True))},
    }


def _over(found: Sequence[Measured]) -> dict[str, dict[str, results.Estimate]]:
    return {
        phase: {key: results.estimate(one.phases[phase][key] for one in found) for key in measured}
        for phase, measured in found[0].phases.items()
    }


def _lateness(found: Sequence[Measured]) -> list[float]:
    return [float(np.quantile(one.samples.lateness, 0.99)) * 1e3 for one in found]


def _prefer(testbed: Running) -> None:
    """Run the SMux before ordinary processes, so that its limit is its own; the prober still goes first."""
    for process in ask(testbed.folder, Request(do="status")).processes:
        if process.name == "smux" and process.pid is not None:
            os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(1))


def _queue(testbed: Running) -> None:
    """Have a kernel thread take frames from the SMux's interface, on the last CPU of this machine.

    Raises RuntimeError where there is one CPU only, or the kernel makes no such thread.
    """
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        raise RuntimeError("an SMux with a queue of its own needs a second CPU")
    [smux] = fattree.nodes(testbed.graph, Kind.SMUX)
    port = fattree.links(testbed.graph, smux.name)[0].port(smux.name).name
    before = _napi_threads()
    script = f"mount -t sysfs sysfs /sys && echo 1 >/sys/class/net/{port}/threaded"
    with namespaces.entered(testbed.folder.namespace(smux.name)):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
        )
    threads = _napi_threads() - before
    if done.returncode or not threads:
        raise RuntimeError(f"{port} of {smux.name} gets no thread of its own: {done.stderr.strip()}")
    for thread in threads:
        os.sched_setaffinity(thread, {max(cpus)})
        os.setpriority(os.PRIO_PROCESS, thread, -20)


def _napi_threads() -> set[int]:
    """Return the kernel's threads that take frames from interfaces."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text().startswith("napi/"):
                found.add(int(path.parent.name))
    return found


def _capacity(load: Load, meter: Meter, pps: float, say: Say) -> tuple[float, list[dict[str, float]]]:
    """Double the load until the SMux delivers clearly less; what it then delivers is its capacity."""
    ramp = []
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
        if pps > _MOST_PPS:
            raise RuntimeError(f"the SMux forwards all that this machine sends: {offered:.0f} pps")
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
        phase = next((p for p, (a, b) in zip(PHASES, edges, strict=False) if a <= sent < b), None)
        rows.append(
            {
                "sent_s": round(sent - edges[0][0], 6),
                "phase": phase,
                "rtt_ms": None if np.isnan(rtt) else round(rtt, 4),
            }
        )
    return rows


def _plot(out: Path, found: Sequence[Measured], slow: Measured) -> None:
    figure, (timeline, spread, illustration) = results.figure(
        1, 3, figsize=(15, 4.8), gridspec_kw={"width_ratios": [2, 1, 1.35]}
    )
    samples, edges, told_of = found[0].samples, found[0].edges, summary(found, slow)
    labels = ("SMux, 2/3 of its capacity", "SMux, 4/3 of its capacity", f"HMux on {HMUX}")
    _timeline(timeline, samples, edges, labels, told_of["phases"])
    for number, colour in zip(range(len(PHASES)), results.SERIES, strict=False):
        for one in found:
            ordered = np.sort(_latencies(one.samples, *one.edges[number])[0])
            share = np.arange(1, len(ordered) + 1) / len(ordered)
            spread.step(ordered, share, where="post", color=colour, linewidth=1.2)
    capacity = told_of["smux_capacity_pps"]
    kpps = f"{capacity.mean / 1e3:.0f}" + (f"±{capacity.ci95 / 1e3:.0f}" if capacity.n > 1 else "")
    timeline.set_title(f"Scaled: one XDP SMux of {kpps} kpps (paper: three of 300 kpps)")
    spread.set(xscale="log", xlabel="round trip (ms)", ylabel="share of answered pings", ylim=(0, 1.02))
    spread.axvline(1, color=results.PAPER, linestyle="--", linewidth=1.4, label="paper: 1 ms")
    spread.legend(loc="lower right")
    spread.set_title("Distribution, in the same colours")
    _timeline(illustration, slow.samples, slow.edges, labels[:2], _over([slow]))
    illustration.set_title(f"Illustration: a Scapy SMux of {slow.capacity:,.0f} pps")
    results.note(
        figure,
        f"{len(found)} bring-ups: numbers are means, with 95% intervals; dots are one bring-up, lines "
        f"all. {MODEL}",
        f"The queue in front of the SMux is {QUEUES[SmuxPath.XDP]}; right, {QUEUES[SmuxPath.SCAPY]}.",
        f"{error_of_probes(_lateness([*found, slow]))} Generator, SMux and servers share them.",
    )
    results.save_figure(figure, out / "capacity")


def _timeline(
    axes: Any,
    samples: Samples,
    edges: Sequence[tuple[float, float]],
    labels: Sequence[str],
    phases: dict[str, dict[str, results.Estimate]],
) -> None:
    start = edges[0][0]
    for number, (phase, (began, ended), label) in enumerate(zip(phases, edges, labels, strict=True)):
        within = (samples.sent[:, 0] >= began) & (samples.sent[:, 0] < ended)
        colour = results.SERIES[number]
        when, rtt = samples.sent[within, 0] - start, samples.rtt[within, 0] * 1e3
        axes.plot(when, rtt, ".", markersize=2, color=colour)
        measured = phases[phase]
        lost = measured["pings_lost"]
        text = f"{label}\n{measured['offered_pps'].mean / 1e3:,.4g} kpps offered"
        text += f"\n{measured['delivered_pps'].mean / 1e3:,.4g} delivered\n{100 * lost.mean:.1f}"
        text += f"{f'±{100 * lost.ci95:.1f}' if lost.n > 1 else ''}% of pings lost"
        middle = (began + ended) / 2 - start
        place = {"ha": "center", "fontsize": 8, "transform": axes.get_xaxis_transform()}
        axes.text(middle, 0.98, text, va="top", color=colour, **place)
        paper = f"paper: {PAPER_PPS[number] / 1e3:,.0f} kpps,\n{_PAPER[number]}"
        axes.text(middle, 0.77, paper, va="top", color=results.PAPER, **place)
    axes.set(yscale="log", xlabel="time (s)", ylabel="round trip to the idle VIP (ms)")
    axes.set_ylim(top=float(np.nanmax(samples.rtt)) * 1e3 * 60)
