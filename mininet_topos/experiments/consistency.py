"""Connection consistency (beyond the paper): live TCP connections through everything DUET does to a VIP.

Ten VIPs of four DIPs, seven on HMuxes and three on SMuxes, and a client with a thousand connections to
them. After each event every connection is asked which DIP is at its other end. One that was
reset, got no answer, or was answered by another DIP is broken. None should be, save those of a DIP
that itself left.

Then the same with as many connections to one VIP of more DIPs than a tunneling table holds, behind TIPs: DIPs
join, so many leave that it needs no TIPs, and join again.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np

from controller.client import ControllerClient
from controller.updater.outcome import Report as Update
from controller.updater.reads import Placement
from duet_p4 import results
from duet_p4.hmux import pipeline
from duet_p4.model import Dip, Vip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments.connections import Fate, Outcome, Report
from mininet_topos.experiments.setting import PROBER, Running, Say, running, write
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import namespaces

CONNECTIONS = 1000
DIPS = 4
FAILED_SWITCH = "tor4"
FAILED_SMUX = "smux1"
"""The SMux on the client's own ToR, which all of the client's connections to SMux VIPs go through."""

SWITCHES: list[str | None] = [
    "tor3",
    None,
    FAILED_SWITCH,
    "tor1",
    "tor2",
    "agg1",
    "core1",
    "core2",
    None,
    None,
]
MOVED: list[str | None] = [None, "tor3", "agg3"]
_ON_HMUX, _ON_SMUX = 3, 8
"""The VIPs that lose and gain a DIP: one on an HMux, one on the SMuxes."""

_LARGE_VIP = addresses.VIPS[100]
_LARGE_SWITCH = "tor3"

_FAILED_FOR_S = 2.0
_LABELS = {
    "none": "nothing happens",
    "dip_removal": "DIP removal",
    "dip_addition": "DIP addition",
    "smux_failure": "SMux failure",
    "smux_return": "SMux return",
    "tips_joined": "TIPs: DIPs join",
    "tips_left": "TIPs: not needed",
    "tips_back": "TIPs: needed again",
}


class Client:
    """The process that holds the connections."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def report(self, *, last: bool = False) -> tuple[Outcome, ...]:
        """Return what became of each connection since the last report; raises RuntimeError if it ended.

        Those that broke are replaced, unless this is the `last` report.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("last\n" if last else "report\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return Report.model_validate_json(self.line()).outcomes

    def line(self) -> str:
        """Return what the process prints next."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the client ended: {self._process.stderr.read().strip()}")
        return line


@contextmanager
def connected(
    testbed: Running, vips: Iterable[IPv4Address], connections: int, client: str = PROBER
) -> Iterator[Client]:
    """Have `connections` live connections from a client to the VIPs together."""
    command = [sys.executable, "-m", "mininet_topos.experiments.connections", *map(str, vips)]
    with namespaces.entered(testbed.folder.namespace(client)):
        process = subprocess.Popen(
            [*command, "--connections", str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            holder = Client(process)
            holder.line()
            yield holder
        finally:
            process.kill()


def run(name: str, out: Path, say: Say, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Hold `connections` through every event; write samples, summary and figure; return the summary."""
    found: dict[str, tuple[Outcome, ...]] = {}
    left: dict[str, Collection[IPv4Address]] = {}
    with running(name, SWITCHES, dips=DIPS, controller=True, say=say) as testbed:
        changed = [testbed.stated[index].vip for index in (_ON_HMUX, _ON_SMUX)]
        left["dip_removal"] = {vip.dips[0].address for vip in changed}
        events: dict[str, Callable[[], None]] = {
            "none": lambda: time.sleep(_FAILED_FOR_S),
            "migration": lambda: _migrate(testbed),
            "dip_removal": lambda: _change(testbed, [_without_first(vip) for vip in changed]),
            "dip_addition": lambda: _change(testbed, changed),
            "smux_failure": lambda: _fail(testbed, FAILED_SMUX),
            "smux_return": lambda: _restore(testbed, FAILED_SMUX),
            "switch_failure": lambda: _fail(testbed, FAILED_SWITCH),
            "switch_return": lambda: _restore(testbed, FAILED_SWITCH),
        }
        large = _large(testbed)
        fan_out = pipeline.sizes()["tunneling_table"]
        most, few = large, _of_first(large, fan_out)
        left["tips_left"] = {dip.address for dip in most.dips[fan_out:]}
        large_events: dict[str, Callable[[], None]] = {
            "tips_joined": lambda: _change(testbed, [most]),
            "tips_left": lambda: _change(testbed, [few]),
            "tips_back": lambda: _change(testbed, [most]),
        }

        def go_through(vips: Iterable[IPv4Address], events: dict[str, Callable[[], None]]) -> None:
            with connected(testbed, vips, connections) as client:
                client.report()  # How long opening a thousand took is no event's.
                for event, happen in events.items():
                    happen()
                    found[event] = client.report()
                    say(f"{event}: {_told(found[event], left.get(event, ()))}")

        go_through(testbed.vips, events)
        _add(testbed, _of_first(large, len(large.dips) - addresses.MAX_BLOCK))
        go_through([large.address], large_events)
    summary = {
        "connections": connections,
        "broken": {event: _broken(outcomes, left.get(event, ())) for event, outcomes in found.items()},
        "left_with_their_dip": {event: _left(found[event], dips) for event, dips in left.items()},
        "slowest_ms_p99": {
            event: float(np.quantile(_slowest(outcomes), 0.99)) for event, outcomes in found.items()
        },
        "requests": {event: sum(o.requests for o in outcomes) for event, outcomes in found.items()},
        "target": "xdp",
        "paper": None,
    }
    rows = [{"event": event, **o.model_dump(mode="json")} for event, all_ in found.items() for o in all_]
    write(out, "consistency", summary, rows)
    _plot(out, connections, found, left)
    return summary


def _migrate(testbed: Running) -> None:
    """Move three VIPs in two waves, and back, as an engine would."""

    async def assign(controller: ControllerClient) -> None:
        for vip in testbed.vips[: len(MOVED)]:
            await controller.release(vip)
        for switches in (MOVED, SWITCHES[: len(MOVED)]):
            where = zip(testbed.vips, switches, strict=False)
            update: Update = await controller.assign(Placement(address=vip, switch=s) for vip, s in where)
            if update.failed:
                raise RuntimeError(f"a migration failed: {'; '.join(update.failed)}")

    _with_controller(testbed, assign)


def _change(testbed: Running, vips: list[Vip]) -> None:
    async def change(controller: ControllerClient) -> None:
        for vip in vips:
            await controller.change_vip(vip)

    _with_controller(testbed, change)


def _large(testbed: Running) -> Vip:
    """Return a VIP of more DIPs than a tunneling table holds: every address of every server with DIPs."""
    servers = [server for server in fattree.nodes(testbed.graph, Kind.SERVER) if server.is_dip]
    dips = (Dip(address=address) for server in servers for address in server.prefix or ())
    return Vip(address=_LARGE_VIP, dips=tuple(dips))


def _of_first(vip: Vip, count: int) -> Vip:
    return vip.model_copy(update={"dips": vip.dips[:count]})


def _add(testbed: Running, vip: Vip) -> None:
    _with_controller(testbed, lambda controller: controller.add_vip(vip, _LARGE_SWITCH))


def _without_first(vip: Vip) -> Vip:
    return vip.model_copy(update={"dips": vip.dips[1:]})


def _fail(testbed: Running, what: str) -> None:
    testbed.fail(what)
    time.sleep(_FAILED_FOR_S)


def _restore(testbed: Running, what: str) -> None:
    """Bring a node back, and wait until the VIPs are where the controller wants them."""
    testbed.restore(what)
    wanted: dict[IPv4Address, str] = {}

    async def ask(controller: ControllerClient) -> None:
        assignment = await controller.assignment()
        wanted.update({p.address: p.switch for p in assignment.placements if p.switch is not None})

    _with_controller(testbed, ask)
    testbed.await_settled(wanted)


def _with_controller(testbed: Running, job: Callable[[ControllerClient], Any]) -> None:
    async def work() -> None:
        async with agents_module.controller(testbed.folder) as controller:
            await job(controller)

    asyncio.run(work())


def _broken(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> int:
    return sum(outcome.fate is not Fate.KEPT and outcome.dip not in left for outcome in outcomes)


def _left(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> int:
    return sum(outcome.fate is not Fate.KEPT and outcome.dip in left for outcome in outcomes)


def _slowest(outcomes: Collection[Outcome]) -> list[float]:
    return [outcome.slowest_ms for outcome in outcomes if outcome.requests]


def _told(outcomes: Collection[Outcome], left: Collection[IPv4Address]) -> str:
    fates = Counter(outcome.fate for outcome in outcomes if outcome.dip not in left)
    told = ", ".join(f"{count} {fate}" for fate, count in fates.items())
    return f"{told}; {_left(outcomes, left)} ended with their DIP" if left else told


def _plot(
    out: Path,
    connections: int,
    found: dict[str, tuple[Outcome, ...]],
    left: dict[str, Collection[IPv4Address]],
) -> None:
    figure, (counts, slowest) = results.figure(1, 2, figsize=(10, 4.6), sharey=True)
    at = np.arange(len(found))
    labels = [_LABELS.get(event, event.replace("_", " ")) for event in found]
    broken = np.array([_broken(outcomes, left.get(event, ())) for event, outcomes in found.items()])
    gone = np.array([_left(outcomes, left.get(event, ())) for event, outcomes in found.items()])
    kept = connections - broken - gone
    counts.barh(at, kept, color=results.OURS, label="kept")
    counts.barh(at, gone, left=kept, color=results.GREY, label="its DIP left")
    counts.barh(at, broken, left=kept + gone, color=results.SERIES[3], label="broken")
    for position, number in zip(at, broken, strict=True):
        counts.text(connections * 1.02, position, f"{number} broken", va="center", fontsize=9)
    counts.set(xlabel="connections", xlim=(0, connections * 1.25))
    counts.set_title(f"{connections} live TCP connections")
    counts.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    data = [_slowest(outcomes) for outcomes in found.values()]
    boxes = slowest.boxplot(
        data,
        positions=at,
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=False,
        whis=(0, 99),
    )
    for box in boxes["boxes"]:
        box.set(facecolor=results.OURS, alpha=0.6)
    counts.set_yticks(at, labels)
    counts.invert_yaxis()
    slowest.set(xscale="log", xlabel="slowest answer of a connection (ms)")
    slowest.set_title("Box: quartiles; whiskers: fastest and 99%")
    results.save_figure(figure, out / "consistency")
