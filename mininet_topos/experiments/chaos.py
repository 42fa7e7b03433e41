"""Chaos (beyond the paper): random processes are killed while an operator changes what is wanted.

All the while clients come and go, so that changes meet live connections that they must pin. Then it is
quiet, and the testbed must come to hold exactly what was acknowledged: every device is read back, switches
also over P4Runtime, and every VIP must answer every client.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from controller.client import ControllerClient
from controller.records import VipRecord
from duet_p4 import results
from duet_p4.rest.client import RestError
from mininet_topos import fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.experiments import convergence
from mininet_topos.experiments.churn import Fate, Operator
from mininet_topos.experiments.connections import HTTP_PORT
from mininet_topos.experiments.setting import Say, write
from mininet_topos.fattree import PAPER, FatTree
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.operation import running
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask

SECONDS = 120.0

_KILL_EVERY_S = (0.2, 2.0)
_CHANGE_EVERY_S = (0.1, 1.0)
_INTO_CHANGE_S = (0.0, 0.2)
_CONNECT_EVERY_S = (0.0, 0.2)
_CONNECTED_S = (0.5, 10.0)
_CONNECT_TIMEOUT_S = 1.0
_CHANGE_S = 60.0
_CONVERGED_S = 90.0
_POLL_S = 0.2
_TOLD = 20


class Victim(StrEnum):
    """What is killed."""

    SWITCH = "switch"
    AGENT = "agent"
    SMUX = "smux"
    HOST_AGENT = "host-agent"
    CONTROLLER = "controller"
    BIRD = "bird"


@dataclass(frozen=True)
class Event:
    """A kill or a change of what is wanted: seconds since the start, what it was, what became of it."""

    at_s: float
    kind: str
    what: str
    subject: str
    fate: str
    took_ms: float
    detail: str


@dataclass
class _Chaos:
    """Kills, changes and connections until told to end."""

    folder: Folder
    operator: Operator
    clients: list[str]
    rng: random.Random
    connections: int = 0
    changing: asyncio.Event = field(default_factory=asyncio.Event)
    started: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)

    async def run(self, seconds: float) -> None:
        end = self.started + seconds
        async with asyncio.TaskGroup() as group:

            async def connect() -> None:
                seconds = self.rng.uniform(*_CONNECTED_S)
                group.create_task(self._connect(min(seconds, end - time.monotonic())))

            group.create_task(self._repeat(self._kill, _KILL_EVERY_S, end))
            group.create_task(self._repeat(self._change, _CHANGE_EVERY_S, end))
            group.create_task(self._repeat(connect, _CONNECT_EVERY_S, end))

    async def _repeat(self, act: Callable[[], Any], every_s: tuple[float, float], end: float) -> None:
        while time.monotonic() < end:
            await act()
            await asyncio.sleep(self.rng.uniform(*every_s))

    async def _kill(self) -> None:
        """Kill a process the hard way; whoever supervises it starts it again."""
        found = await asyncio.to_thread(_victims, self.folder)
        kind = self.rng.choice([kind for kind in Victim if found.get(kind)])
        node, pid = self.rng.choice(found[kind])
        if kind is Victim.CONTROLLER:
            # Only in the middle of a change has it something to lose.
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changing.wait(), max(_CHANGE_EVERY_S))
            await asyncio.sleep(self.rng.uniform(*_INTO_CHANGE_S))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._note("kill", kind, node, "killed", time.monotonic())

    async def _change(self) -> None:
        began = time.monotonic()
        self.changing.set()
        change = await self.operator.change()
        self.changing.clear()
        self._note("change", change.what, str(change.vip), change.fate, began, change.detail)

    async def _connect(self, seconds: float) -> None:
        """Hold a connection from some client to some VIP; whether it survives is not the question here."""
        if not self.operator.wanted:
            return
        vip = self.rng.choice(sorted(self.operator.wanted))
        with namespaces.entered(self.folder.namespace(self.rng.choice(self.clients))):
            client = socket.socket()
        with client, suppress(OSError, TimeoutError):
            client.setblocking(False)
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(client, (str(vip), HTTP_PORT))
            self.connections += 1
            await asyncio.sleep(seconds)

    def ended(self) -> float:
        """Return when the last kill was, or the last change was over (monotonic clock)."""
        return self.started + max((e.at_s + e.took_ms / 1000 for e in self.events), default=0.0)

    def _note(self, kind: str, what: str, subject: str, fate: str, began: float, detail: str = "") -> None:
        took_ms = round(1000 * (time.monotonic() - began), 3)
        self.events.append(Event(round(began - self.started, 3), kind, what, subject, fate, took_ms, detail))


def _victims(folder: Folder) -> dict[Victim, list[tuple[str, int]]]:
    """Return the running processes of each kind, with their nodes."""
    found: dict[Victim, list[tuple[str, int]]] = {}
    processes = ask(folder, Request(do="status")).processes
    for process in processes:
        if process.pid is not None and process.name in set(Victim):
            found.setdefault(Victim(process.name), []).append((process.node, process.pid))
    # BIRD is a child of its node's agent, but for those of clients.
    for node in sorted(
        {process.node for process in processes if process.name in (Victim.AGENT, Victim.SMUX)}
    ):
        for pid in namespaces.processes([folder.namespace(node)]):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "bird":
                    found.setdefault(Victim.BIRD, []).append((node, pid))
    return found


@dataclass(frozen=True)
class _Verdict:
    """How long it took until nothing differed any more, and until that was verified.

    `differences` are those that did not go away, `awaited` the last ones that did.
    """

    converged_s: float
    verified_s: float
    differences: tuple[str, ...]
    awaited: tuple[str, ...]


def run(
    name: str, out: Path, say: Say, seconds: float = SECONDS, seed: int = 1, size: FatTree = PAPER
) -> dict[str, Any]:
    """Kill and change for `seconds`, then wait for convergence; write events and summary; return it."""
    folder = Folder(name)
    say("bringing up the testbed, with a controller and no VIPs")
    with running(folder, Plan(size=size), []) as graph:
        say(f"killing and changing for {seconds:g} s (seed {seed})")
        chaos, verdict = asyncio.run(_play(folder, graph, seconds, seed, say))
    events, operator = chaos.events, chaos.operator
    fates = Counter(event.fate for event in events if event.kind == "change")
    summary = {
        "seconds": seconds,
        "seed": seed,
        "kills": {kind: _count(events, "kill", kind) for kind in Victim},
        "changes": {fate: fates[fate] for fate in Fate},
        "connections": chaos.connections,
        "vips": len(operator.wanted),
        "lost": operator.lost,
        "converged_s": verdict.converged_s,
        "verified_s": verdict.verified_s,
        "differences": verdict.differences,
        "awaited": verdict.awaited,
        "target": "xdp",
    }
    write(out, "chaos", summary, [vars(event) for event in events])
    _plot(out, events, verdict)
    return summary


async def _play(
    folder: Folder, graph: nx.Graph, seconds: float, seed: int, say: Say
) -> tuple[_Chaos, _Verdict]:
    switches = [node.name for node in fattree.nodes(graph, *SWITCHES)]
    servers = [node for node in fattree.nodes(graph, Kind.SERVER) if node.is_dip]
    async with agents_module.controller(folder, _CHANGE_S) as controller:
        operator = Operator(controller, random.Random(f"changes {seed}"), switches, servers)
        clients = [node.name for node in fattree.nodes(graph, Kind.CLIENT)]
        chaos = _Chaos(folder, operator, clients, random.Random(f"kills {seed}"))
        await chaos.run(seconds)
        kills = sum(event.kind == "kill" for event in chaos.events)
        say(f"{kills} kills, {len(chaos.events) - kills} changes; quiet now")
        verdict = await _await_convergence(folder, graph, controller, chaos.ended())
        await operator.check()
    for line in (*operator.lost, *verdict.differences)[:_TOLD]:
        say(f"wrong: {line}")
    differ, lost = len(verdict.differences), len(operator.lost)
    say(f"{differ} differences after {verdict.converged_s:.1f} s, {lost} changes lost")
    return chaos, verdict


async def _await_convergence(
    folder: Folder, graph: nx.Graph, controller: ControllerClient, began: float
) -> _Verdict:
    """Wait until nothing differs; times count from `began` (monotonic clock), the last kill or change."""
    awaited: list[str] = []
    while True:
        converged_s, found = await _differences(folder, graph, controller, began)
        verified_s = time.monotonic() - began
        if not found or verified_s > _CONVERGED_S:
            return _Verdict(round(converged_s, 3), round(verified_s, 3), tuple(found), tuple(awaited))
        awaited = found
        await asyncio.sleep(_POLL_S)


async def _differences(
    folder: Folder, graph: nx.Graph, controller: ControllerClient, began: float
) -> tuple[float, list[str]]:
    """Return what is not as wanted, the quickest look first, and the seconds from `began` to its end."""
    try:
        records: list[VipRecord] = await controller.vips()
    except RestError as error:
        return time.monotonic() - began, [str(error)]
    found = await convergence.amiss(folder, graph, records)
    converged_s = time.monotonic() - began
    vips: list[IPv4Address] = [record.address for record in records]
    found = found or await asyncio.to_thread(convergence.misprogrammed, folder, graph, records)
    found = found or await asyncio.to_thread(convergence.silent, folder, graph, vips)
    return converged_s, found


def _count(events: Iterable[Event], kind: str, what: str) -> int:
    return sum((event.kind, event.what) == (kind, what) for event in events)


def _plot(out: Path, events: list[Event], verdict: _Verdict) -> None:
    figure, axes = results.figure(figsize=(8, 3.8))
    rows = [*Victim, *Fate]
    for row, what in enumerate(rows):
        killed = [e.at_s for e in events if e.kind == "kill" and e.what == what]
        changed = [e.at_s for e in events if e.kind == "change" and e.fate == what]
        colour = results.SERIES[3] if row < len(Victim) else results.OURS
        axes.plot(killed + changed, np.full(len(killed + changed), row), "|", color=colour, markersize=9)
    last = max(event.at_s for event in events)
    axes.axvspan(last, last + verdict.converged_s, color=results.GREY, alpha=0.25, linewidth=0)
    axes.set_yticks(
        range(len(rows)), [f"{what} killed" for what in Victim] + [f"change {fate}" for fate in Fate]
    )
    axes.invert_yaxis()
    axes.set(xlabel="time (s); grey: until every device holds what was acknowledged", xlim=(0, None))
    axes.set_title(f"Converged {verdict.converged_s:.1f} s after the last kill")
    results.save_figure(figure, out / "chaos")
