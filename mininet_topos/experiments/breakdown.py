"""Latency breakdown (the paper's figure 14): adding and deleting a VIP on an HMux, step by step."""

from __future__ import annotations

import shutil
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from duet_p4.model import Dip, MuxVip, Vip
from mininet_topos.experiments.setting import Say, running, write
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.plan import Target

STEPS = ("add_dips", "add_vip", "announce", "delete_dips", "delete_vip", "withdraw")
SWITCH = "tor4"
_VIP = IPv4Address("10.0.200.1")
_PAPER = "each up to hundreds of ms; the BGP part is small"


def run(name: str, out: Path, runs: int, say: Say) -> dict[str, Any]:
    """Add and delete a VIP of two DIPs `runs` times, on xdp and, where it is on PATH, on BMv2."""
    targets = [Target.XDP, *([Target.BMV2] if shutil.which("simple_switch_grpc") else [])]
    rows: list[dict[str, Any]] = []
    medians: dict[str, dict[str, float] | None] = {Target.BMV2.value: None}
    for target in targets:
        samples: dict[str, list[float]] = {step: [] for step in STEPS}
        with running(name, ["tor1"], target=target, controller=False, say=say) as testbed:
            for timings in testbed.with_agents(lambda agents: _repeat(agents, runs)):
                for step in STEPS:
                    samples[step].append(timings[step])
        rows += [
            {"target": target.value, "step": step, "run": number + 1, "ms": ms}
            for step, values in samples.items()
            for number, ms in enumerate(values)
        ]
        medians[target.value] = {step: float(np.median(values)) for step, values in samples.items()}
        say(f"{target}: " + ", ".join(f"{s} {m:.2f} ms" for s, m in medians[target.value].items()))  # type: ignore[union-attr]
    summary = {"runs": runs, "ms_median": medians, "paper": {"text": _PAPER}}
    write(out, "breakdown", summary, rows)
    _plot(out, rows, [target.value for target in targets])
    return summary


async def _repeat(agents: Agents, runs: int) -> list[dict[str, float]]:
    agent = agents.switches[SWITCH]
    dips = tuple(Dip(address=IPv4Address("100.1.1.17") + 16 * n) for n in range(2))
    vip = MuxVip.of(Vip(address=_VIP, dips=dips))
    found = []
    for _ in range(runs):
        added = await agent.put_vip(vip)
        deleted = await agent.delete_vip(_VIP)
        found.append({**added.timings_ms, **deleted.timings_ms})
    return found


def _plot(out: Path, rows: list[dict[str, Any]], targets: list[str]) -> None:
    figure, axes = results.figure(figsize=(8, 4))
    width = 0.8 / len(targets)
    for index, target in enumerate(targets):
        data = [[r["ms"] for r in rows if r["target"] == target and r["step"] == step] for step in STEPS]
        at = [position + (index - (len(targets) - 1) / 2) * width for position in range(len(STEPS))]
        colour = results.SERIES[index]
        drawn = axes.boxplot(
            data, positions=at, widths=width * 0.8, patch_artist=True, showfliers=False, whis=(5, 95)
        )
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        axes.plot([], [], "s", color=colour, label=f"{target} (box: quartiles, whiskers: 5 to 95%)")
    axes.set(yscale="log", ylabel="duration (ms)")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.set_xticks(range(len(STEPS)), [step.replace("_", "-") for step in STEPS])
    axes.set_title(f"The paper: {_PAPER}", fontsize=9)
    axes.legend()
    results.save_figure(figure, out / "breakdown")
