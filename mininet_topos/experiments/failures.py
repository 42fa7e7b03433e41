"""What else may fail (beyond the paper's figure 12): whatever a data centre has, one kind after the other.

Ten VIPs of four DIPs each, pinged from two clients, every millisecond or as often as leaves cores idle,
with the controller running.
Each VIP has as many flows as reach all of its DIPs, so what is behind a failure shows: a flow whose DIP is
gone is unserved until another DIP has it. Beside them, a client holds TCP connections; those whose DIP is
not behind the failure must not break.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from duet_p4 import results
from mininet_topos.experiments.clients import connected
from mininet_topos.experiments.connections import Fate, Outcome
from mininet_topos.experiments.cpu import idle_share
from mininet_topos.experiments.damage import DAMAGES, inflicted, lost_dips
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
from mininet_topos.experiments.upheavals import await_whole
from mininet_topos.testbed import agents as agents_module

CONNECTIONS = 200
DIPS = 4
FLOWS = 16
"""Flows of a VIP: so many that none of its four DIPs is without one."""

_PROBERS = ("client2", "client3")
"""Client 2 is where what it sends to the SMuxes' VIPs goes through SMux 2. Neither is behind a failure."""

_INTERVALS_S = (0.001, 0.002, 0.004, 0.008)
"""How often each VIP may be pinged by each client; the first is taken that leaves cores idle."""
_IDLE_SHARE = 0.5
"""How much of the cores pings must leave: a repair that waits for a core says nothing of repair."""
_WATCHED_S = 1.0
_BEFORE_S, _AFTER_S, _LATE_S = 0.5, 6.0, 5.0
_AROUND_S = (-0.02, 0.2)
"""What is looked at about each failure: from when to when no prober may have been too late."""
_LATEST_S = 0.01
_USUALLY_LATE_S = 0.0015
"""How late a ping may leave then at most, and how late 99% of all may, or half an interval."""
_BIN_S = 0.05
_NOTHING_MS = 1.0


FAILURE = (
    "Failure models: halted nodes lose power (ports without carrier, processes stopped); what is killed "
    "starts again; all else as its name says. One failure ends before the next begins."
)


@dataclass(frozen=True)
class Seen:
    """One failure: when it was, what the far client and the connections saw, and the events told of it."""

    at: float
    far: Samples
    outcomes: tuple[Outcome, ...]
    told: tuple[str, ...]


@dataclass
class Kind:
    """What the failures of one kind did: an entry of the lists for each run that was kept.

    `served_ms` is until every flow of every VIP was served again, `late` the share of requests that were lost
    from 5 s on, `lateness_ms` how late the latest ping left about the failure. `broken` counts connections
    whose DIP was not behind the failure, `left` the others.
    """

    served_ms: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    lateness_ms: list[float] = field(default_factory=list)
    broken: int = 0
    left: int = 0
    events: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Measured:
    """What one bring-up gave."""

    kinds: dict[str, Kind]
    discarded: dict[str, int]
    rows: list[dict[str, Any]]
    interval_s: float
    """Between two pings of a client to a VIP."""


def run(name: str, out: Path, runs: int, bringups: int, say: Say) -> dict[str, Any]:
    """Inflict and heal every kind of failure `runs` times in each bring-up, and write it all."""

    def once() -> Measured:
        with running(name, SWITCHES, dips=DIPS, spread=True, controller=True, say=say) as testbed:
            return measure(testbed, runs, say)

    found = brought_up(bringups, say, once)
    told_of = summary(found)
    rows = [{"bringup": n} | row for n, one in enumerate(found, 1) for row in one.rows]
    write(out, "failures", told_of, rows)
    _plot(out, found)
    return told_of


def measure(testbed: Running, runs: int, say: Say, kinds: Collection[str] = tuple(DAMAGES)) -> Measured:
    """Inflict and heal each of `kinds` `runs` times on a running testbed.

    A run in which a prober stalled is discarded and counted.
    """
    interval_s = _interval(testbed, say)
    found = Measured({}, {}, [], interval_s)
    for name in kinds:
        gone = lost_dips(testbed, name)
        kind = found.kinds[name] = Kind()
        repetition: Repetition[Seen] = Repetition(runs, say, _stalled)
        for number, near, seen in repetition.of(partial(_once, testbed, name, interval_s)):
            both = (near, seen.far)
            kind.served_ms.append(1e3 * max(samples.served_after(seen.at) for samples in both))
            kind.late += [samples.lost_share(seen.at + _LATE_S, np.inf) for samples in both]
            kind.lateness_ms.append(1e3 * _lateness(near, seen))
            kind.broken += _count(seen.outcomes, gone, among=False)
            kind.left += _count(seen.outcomes, gone, among=True)
            kind.events |= set(seen.told)
            for client, samples in zip(_PROBERS, both, strict=True):
                about = {"failure": name, "run": number, "client": client}
                found.rows.extend(about | row for row in _bins(samples, seen.at))
        found.discarded[name] = repetition.discarded
        say(
            f"{name}: all served again after {np.median(kind.served_ms):.0f} ms (median), "
            f"pings at most {max(kind.lateness_ms):.1f} ms late about it, {repetition.discarded} discarded, "
            f"{kind.broken} connections broken, {np.mean(kind.late):.1%} unserved after {_LATE_S:g} s; "
            f"events: {_list(sorted(kind.events))}"
        )
    return found


def _lateness(near: Samples, seen: Seen) -> float:
    """Return how late the latest ping of either prober left about a failure, in seconds."""
    begin, end = (seen.at + offset for offset in _AROUND_S)
    return max(samples.worst_lateness(begin, end) for samples in (near, seen.far))


def _stalled(near: Samples, seen: Seen) -> bool:
    """Whether a prober was late about the failure, or all the time."""
    late_s = max(_USUALLY_LATE_S, near.interval_s / 2)
    return near.stalled(late_s) or seen.far.stalled(late_s) or _lateness(near, seen) > _LATEST_S


def summary(found: Sequence[Measured]) -> dict[str, Any]:
    """Put bring-ups together: medians over all runs, intervals over the bring-ups."""
    names = list(found[0].kinds)
    of = {name: [one.kinds[name] for one in found] for name in names}
    served = {name: [ms for kind in kinds for ms in kind.served_ms] for name, kinds in of.items()}
    discarded = {name: sum(one.discarded[name] for one in found) for name in names}
    return {
        "runs": sum(len(values) for values in served.values()),
        "bringups": len(found),
        "discarded": sum(discarded.values()),
        "discarded_by_kind": discarded,
        "probe_interval_ms": 1e3 * max(one.interval_s for one in found),
        "lateness_ms_worst": {
            name: max(ms for kind in kinds for ms in kind.lateness_ms) for name, kinds in of.items()
        },
        "outage_ms_median": {name: float(np.median(values)) for name, values in served.items()},
        "outage_ms_worst": {name: max(values) for name, values in served.items()},
        "outage_ms_over_bringups": {
            name: over_bringups(kind.served_ms for kind in kinds) for name, kinds in of.items()
        },
        "outage_ms": {name: [kind.served_ms for kind in kinds] for name, kinds in of.items()},
        "connections": CONNECTIONS,
        "broken": {name: sum(kind.broken for kind in kinds) for name, kinds in of.items()},
        "left_with_their_dip": {name: sum(kind.left for kind in kinds) for name, kinds in of.items()},
        "unserved_share_after_5s": {
            name: float(np.mean([share for kind in kinds for share in kind.late]))
            for name, kinds in of.items()
        },
        "events": {name: sorted({e for kind in kinds for e in kind.events}) for name, kinds in of.items()},
        "means": {name: DAMAGES[name].means for name in names},
        "failure": FAILURE,
        "target": "xdp",
    }


def _interval(testbed: Running, say: Say) -> float:
    """Return the shortest interval of pings (seconds) that leaves cores idle, or the longest."""
    await_whole(testbed)
    with connected(testbed, testbed.vips, CONNECTIONS, _PROBERS[0]):
        for interval_s in _INTERVALS_S:
            with _probing(testbed, interval_s):
                idle = idle_share(_WATCHED_S)
            if idle >= _IDLE_SHARE:
                break
    say(f"a ping every {1e3 * interval_s:g} ms, with which {idle:.0%} of the cores are idle")
    return interval_s


@contextmanager
def _probing(testbed: Running, interval_s: float) -> Iterator[tuple[list[Samples], list[Samples]]]:
    """Probe all VIPs from both clients; the lists hold what each saw after the block."""
    with ExitStack() as stack:
        near, far = (
            stack.enter_context(testbed.probing(testbed.vips, prober, interval_s, FLOWS))
            for prober in _PROBERS
        )
        yield near, far


def _once(testbed: Running, kind: str, interval_s: float) -> tuple[Samples, Seen]:
    await_whole(testbed)
    before = _events(testbed, None)
    with connected(testbed, testbed.vips, CONNECTIONS, _PROBERS[0]) as client, ExitStack() as healing:
        client.report()
        with _probing(testbed, interval_s) as (near, far):
            time.sleep(_BEFORE_S)
            at = healing.enter_context(inflicted(testbed, kind))
            time.sleep(_AFTER_S)
        outcomes = client.report(last=True)
        told = tuple(event for number, event in _events(testbed, None) if number > before[-1][0])
    return near[0], Seen(at, far[0], outcomes, told)


def _events(testbed: Running, after: int | None) -> list[tuple[int, str]]:
    """Return the newest events, as number and what happened to what."""

    async def ask() -> list[tuple[int, str]]:
        async with agents_module.controller(testbed.folder) as controller:
            found = await controller.events(after, 1000)
            return [(event.id, f"{event.kind} {event.subject}") for event in found]

    return asyncio.run(ask())


def _count(outcomes: Iterable[Outcome], dips: Collection[IPv4Address], *, among: bool) -> int:
    return sum(o.fate is not Fate.KEPT and (o.dip in dips) is among for o in outcomes)


def _bins(samples: Samples, origin: float) -> Iterable[dict[str, Any]]:
    """Yield how many requests were sent and lost in each 50 ms since the failure."""
    places = np.floor((samples.sent - origin) / _BIN_S).astype(int)
    for place in np.unique(places):
        here = places == place
        yield {
            "from_ms": round(place * _BIN_S * 1e3),
            "sent": int(here.sum()),
            "lost": int(samples.lost[here].sum()),
        }


def _list(told: Collection[str]) -> str:
    shown = [*told][:4]
    return (
        ", ".join(shown) + (f" and {len(told) - len(shown)} more" if len(told) > len(shown) else "") or "none"
    )


def _plot(out: Path, found: Sequence[Measured]) -> None:
    told_of = summary(found)
    figure, axes = results.figure(figsize=(9, 6))
    names = list(told_of["outage_ms"])
    for place, name in enumerate(names):
        served = [max(ms, _NOTHING_MS) for kind in told_of["outage_ms"][name] for ms in kind]
        axes.plot(served, np.full(len(served), place), "o", color=results.OURS, alpha=0.5)
        axes.plot([np.median(served)], [place], "|", color=results.OURS, markersize=20, markeredgewidth=3)
        late = told_of["unserved_share_after_5s"][name]
        said = f"{told(told_of['outage_ms_over_bringups'][name])}; {told_of['broken'][name]} broken"
        said += f"; {late:.1%} unserved at the end" if late else ""
        axes.text(1.02, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * _NOTHING_MS, 1e4)
    axes.set_yticks(range(len(names)), [f"{name} {DAMAGES[name].what}".rstrip() for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("until every flow of every VIP is served again (ms; 1: nothing was lost)")
    runs = sum(map(len, told_of["outage_ms"][names[0]]))
    axes.set_title(
        f"{runs} runs each, {len(found)} bring-ups, {CONNECTIONS} TCP connections in each run\n"
        f"({told_of['discarded']} discarded: a prober stalled)"
    )
    worst = told_of["lateness_ms_worst"].values()
    about = f"the worst from {-1e3 * _AROUND_S[0]:g} ms before to {1e3 * _AROUND_S[1]:g} ms after failures"
    results.note(figure, FAILURE, error_of_probes(worst, told_of["probe_interval_ms"] / 1e3, about))
    results.save_figure(figure, out / "failures")
