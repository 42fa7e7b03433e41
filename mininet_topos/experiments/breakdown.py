"""Latency breakdown (the paper's figure 14): adding and deleting a VIP on an HMux, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import bmv2, results
from duet_p4.hmux.plan import JOINED
from duet_p4.model import Dip, MuxVip, Vip
from mininet_topos.experiments.setting import Running, Say, brought_up, over_bringups, running, told, write
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.plan import Target

ADDING = ("add_dips", "add_vip", "announce")
DELETING = ("withdraw", "drain", "delete_vip", "delete_dips")
STEPS = (*ADDING, *DELETING)
"""The paper's, and the drain, in the order in which they happen."""

SWITCH = "tor4"
_VIP = IPv4Address("10.0.200.1")
_PAPER = "each up to hundreds of ms; the BGP part is small"
MODEL = (
    "Nothing fails and no traffic flows. The agent times each step until the switch, or BIRD, has "
    "answered; steps that are one request to the switch have one time. The "
    "drain is a wait: until BGP has had its time to tell everybody, and no packet comes any more."
)
ERRORS = "Errors: REST is not included; `announce` ends when BIRD has the route, not when the fabric has."


Samples = dict[str, list[float]]
"""Milliseconds by step of the agent's: one of `STEPS`, or several that were one request; see `parts`."""


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
    return {step: [one[step] for one in timings] for step in sorted(timings[0], key=_place)}


def summary(found: dict[str, list[Samples]]) -> dict[str, Any]:
    """Put bring-ups together, by target; the totals are the sums of the steps of a run."""
    return {
        "runs": _runs(found[Target.XDP.value]),
        "bringups": len(found[Target.XDP.value]),
        "ms_median": {Target.BMV2.value: None} | {target: _medians(each) for target, each in found.items()},
        "ms_over_bringups": {
            target: {
                **{step: over_bringups(one[step] for one in each) for step in each[0]},
                "add": over_bringups(_total(one, ADDING) for one in each),
                "delete": over_bringups(_total(one, DELETING) for one in each),
            }
            for target, each in found.items()
        },
        "model": MODEL,
        "errors": ERRORS,
        "paper": {"text": _PAPER},
    }


def parts(step: str) -> list[str]:
    """Return which of `STEPS` a step of the agent's is, several where the switch got them by one request."""
    return step.split(JOINED)


def _place(step: str) -> tuple[int, int]:
    """Return what steps of the agent's are in order by: one of several parts comes after the last of them."""
    return STEPS.index(parts(step)[-1]), len(parts(step))


def _total(samples: Samples, steps: Sequence[str]) -> list[float]:
    each = (values for step, values in samples.items() if set(parts(step)) <= set(steps))
    return [sum(of_run) for of_run in zip(*each, strict=True)]


def _runs(found: Sequence[Samples]) -> int:
    return sum(len(next(iter(one.values()))) for one in found)


def _medians(found: Sequence[Samples]) -> dict[str, float]:
    return {step: float(np.median([ms for one in found for ms in one[step]])) for step in found[0]}


def _rows(found: dict[str, list[Samples]]) -> list[dict[str, Any]]:
    return [
        {"target": target, "bringup": bringup, "step": step, "run": number, "ms": ms}
        for target, each in found.items()
        for bringup, one in enumerate(each, 1)
        for step, values in one.items()
        for number, ms in enumerate(values, 1)
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
    steps = sorted({step for each in found.values() for step in each[0]}, key=_place)
    for index, (target, each) in enumerate(found.items()):
        data = [[ms for one in each for ms in one[step]] for step in each[0]]
        at = [steps.index(step) + (index - (len(found) - 1) / 2) * width for step in each[0]]
        colour = results.SERIES[index]
        drawn = axes.boxplot(
            data, positions=at, widths=width * 0.8, patch_artist=True, showfliers=False, whis=(5, 95)
        )
        for box in drawn["boxes"]:
            box.set(facecolor=colour, alpha=0.6)
        adding, deleting = (
            told(over_bringups(_total(one, which) for one in each)) for which in (ADDING, DELETING)
        )
        axes.plot([], [], "s", color=colour, label=f"{target}: adding {adding}, deleting {deleting}")
    axes.set(yscale="log", ylabel="duration (ms)")
    axes.yaxis.get_minor_locator().set_params(subs=(2, 5))
    for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatted("{x:g}")
    names = [step.replace("_", "-").replace(JOINED, f"\n{JOINED} ") for step in steps]
    axes.set_xticks(range(len(steps)), names)
    axes.set_title(f"The paper: {_PAPER}", fontsize=9)
    axes.legend()
    xdp = found[Target.XDP.value]
    results.note(
        figure,
        f"{_runs(xdp)} runs in {len(xdp)} bring-ups; box: quartiles, "
        f"whiskers: 5 to 95%; "
        "totals: medians, mean of the bring-ups, 95%.",
        MODEL,
        ERRORS,
    )
    results.save_figure(figure, out / "breakdown")
