"""Latency breakdown (the paper's figure 14): adding and deleting a VIP on an HMux, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import bmv2, results
from duet_p4.model import Dip, MuxVip, Vip
from mininet_topos.experiments.setting import Running, Say, brought_up, over_bringups, running, told, write
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.plan import Target

ADDING = ("add_dips", "add_vip", "announce")
DELETING = ("withdraw", "drain", "delete_vip", "delete_dips")
STEPS = (*ADDING, *DELETING)
"""In the order in which they happen."""

SWITCH = "tor4"
_VIP = IPv4Address("10.0.200.1")
_PAPER = "each up to hundreds of ms; the BGP part is small"
MODEL = (
    "Nothing fails and no traffic flows. The agent times each step until the switch, or BIRD, has "
    "answered. The "
    "drain is a wait: until BGP has had its time to tell everybody, and no packet comes any more."
)
ERRORS = "Errors: REST is not included; `announce` ends when BIRD has the route, not when the fabric has."


Samples = dict[str, list[float]]
"""Milliseconds by step."""


def run(name: str, out: Path, runs: int, bringups: int, say: Say) -> dict[str, Any]:
    """Add and delete a VIP of two DIPs `runs` times in each bring-up, on xdp and, if it is there, BMv2."""
    targets = [Target.XDP, *([Target.BMV2] if bmv2.is_installed() else [])]
    found: dict[str, list[Samples]] = {}
    for target in targets:

        def once(target: Target = target) -> Samples:
            with running(name, ["tor1"], target=target, controller=False, say=say) as testbed:
                return measure(testbed, SWITCH, runs)

        found[target.value] = brought_up(bringups, say, once)
        medians = _medians(found[target.value])
        say(f"{target}: " + ", ".join(f"{step} {ms:.2f} ms" for step, ms in medians.items()))
    told_of = summary(found)
    write(out, "breakdown", told_of, _rows(found))
    _plot(out, found)
    return told_of


def measure(testbed: Running, switch: str, runs: int) -> Samples:
    """Add and delete the VIP `runs` times on a running testbed; return what every step took, in ms."""
    timings = testbed.with_agents(lambda agents: _repeat(agents, switch, runs))
    return {step: [one[step] for one in timings] for step in STEPS}


def summary(found: dict[str, list[Samples]]) -> dict[str, Any]:
    """Put bring-ups together, by target; the totals are the sums of the steps of a run."""
    return {
        "runs": sum(len(one[STEPS[0]]) for one in found[Target.XDP.value]),
        "bringups": len(found[Target.XDP.value]),
        "ms_median": {Target.BMV2.value: None} | {target: _medians(each) for target, each in found.items()},
        "ms_over_bringups": {
            target: {
                **{step: over_bringups(one[step] for one in each) for step in STEPS},
                "add": over_bringups(_total(one, ADDING) for one in each),
                "delete": over_bringups(_total(one, DELETING) for one in each),
            }
            for target, each in found.items()
        },
        "model": MODEL,
        "errors": ERRORS,
        "paper": {"text": _PAPER},
    }


def _total(samples: Samples, steps: Sequence[str]) -> list[float]:
    return [sum(parts) for parts in zip(*(samples[step] for step in steps), strict=True)]


def _medians(found: Sequence[Samples]) -> dict[str, float]:
    return {step: float(np.median([ms for one in found for ms in one[step]])) for step in STEPS}


def _rows(found: dict[str, list[Samples]]) -> list[dict[str, Any]]:
    return [
        {"target": target, "bringup": bringup, "step": step, "run": number, "ms": ms}
        for target, each in found.items()
        for bringup, one in enumerate(each, 1)
        for step in STEPS
        for number, ms in enumerate(one[step], 1)
    ]


async def _repeat(agents: Agents, switch: str, runs: int) -> list[dict[str, float]]:
    agent = agents.switches[switch]
    dips = tuple(Dip(address=IPv4Address("100.1.1.17") + 16 * n) for n in range(2))
    vip = MuxVip.of(Vip(address=_VIP, dips=dips))
    found = []
    for _ in range(runs):
        added = await agent.put_vip(vip)
        deleted = await agent.delete_vip(_VIP)
        found.append({**added.timings_ms, **deleted.timings_ms})
    return found


def _plot(out: Path, found: dict[str, list[Samples]]) -> None:
    figure, axes = results.figure(figsize=(9.5, 4.6))
    width = 0.8 / len(found)
    for index, (target, each) in enumerate(found.items()):
        data = [[ms for one in each for ms in one[step]] for step in STEPS]
        at = [position + (index - (len(found) - 1) / 2) * width for position in range(len(STEPS))]
        colour = results.SERIES[index]
        drawn = axes.boxplot(
            data, positions=at, widths=width * 0.8, patch_artist=True, showfliers=False, whis=(5, 95)
        )
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        adding, deleting = (
            told(over_bringups(_total(one, steps) for one in each)) for steps in (ADDING, DELETING)
        )
        axes.plot([], [], "s", color=colour, label=f"{target}: adding {adding}, deleting {deleting}")
    axes.set(yscale="log", ylabel="duration (ms)")
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axes.set_xticks(range(len(STEPS)), [step.replace("_", "-") for step in STEPS])
    axes.set_title(f"The paper: {_PAPER}", fontsize=9)
    axes.legend()
    xdp = found[Target.XDP.value]
    results.note(
        figure,
        f"{sum(len(one[STEPS[0]]) for one in xdp)} runs in {len(xdp)} bring-ups; box: quartiles, "
        f"whiskers: 5 to 95%; "
        "totals: medians, mean of the bring-ups, 95%.",
        MODEL,
        ERRORS,
    )
    results.save_figure(figure, out / "breakdown")
