"""Chaos (beyond the paper): random processes are killed while an operator changes what is wanted.

Of several controllers, the leader also freezes and wakes up, and the network between them parts. All the
while clients come and go, so that changes meet live connections that they must pin, and no two switches may
announce one address; each connection is asked at its end whether it is still with its DIP, unless that was
told to leave. Then it is quiet, and the testbed must come to hold exactly what was acknowledged: every
device is read back, switches also over P4Runtime, and every VIP must answer every client.
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
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np

from controller import records
from controller.client import ControllerClient
from duet_p4 import results
from mininet_topos import fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.experiments import convergence
from mininet_topos.experiments.announcers import Announcers
from mininet_topos.experiments.churn import Fate, Operator
from mininet_topos.experiments.connections import HTTP_PORT, Http
from mininet_topos.experiments.discord import Cluster, Discord
from mininet_topos.experiments.setting import Say, write
from mininet_topos.fattree import PAPER, FatTree
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.folder import ROOT_NODE, Folder
from mininet_topos.testbed.nodes import controller_names
from mininet_topos.testbed.operation import running
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Request, ask

SECONDS = 120.0

_KILL_EVERY_S = (0.2, 2.0)
_CHANGE_EVERY_S = (0.1, 1.0)
_INTO_CHANGE_S = (0.0, 0.2)
_CONNECT_EVERY_S = (0.0, 0.2)
_DISCORD_EVERY_S = (3.0, 10.0)
_CONNECTED_S = (0.5, 10.0)
_CONNECT_TIMEOUT_S = 1.0
_ANSWER_S = 30.0
"""How long a connection may wait at its end: a rack whose switch was killed is away for a while."""
_CHANGE_S = 60.0
_CONVERGED_S = 90.0
_POLL_S = 0.2
_TOLD = 20
_TOLD_OF = "told"


class Victim(StrEnum):
    """What is killed."""

    SWITCH = "switch"
    AGENT = "agent"
    SMUX = "smux"
    HOST_AGENT = "host-agent"
    CONTROLLER = "controller"
    BIRD = "bird"
    LEADER = "leader"
    ETCD = "etcd"


@dataclass(frozen=True)
class Event:
    """A kill, a change, discord, or what was told of: seconds since the start, what it was, its end."""

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
    cluster: Cluster | None = None
    racks: dict[IPv4Network, str] = field(default_factory=dict)
    connections: int = 0
    broken: list[str] = field(default_factory=list)
    changing: asyncio.Event = field(default_factory=asyncio.Event)
    started: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)

    async def run(self, seconds: float, connections: asyncio.TaskGroup) -> None:
        """Kill and change for `seconds`; the last of `connections` may be judged only a while later."""
        end = self.started + seconds
        async with asyncio.TaskGroup() as group:

            async def connect() -> None:
                seconds = self.rng.uniform(*_CONNECTED_S)
                connections.create_task(self._connect(min(seconds, end - time.monotonic())))

            group.create_task(self._repeat(self._kill, _KILL_EVERY_S, end))
            group.create_task(self._repeat(self._change, _CHANGE_EVERY_S, end))
            group.create_task(self._repeat(connect, _CONNECT_EVERY_S, end))
            if self.cluster is not None:
                watching = group.create_task(self.cluster.watch())
                await self._repeat(self._sow, _DISCORD_EVERY_S, end)
                watching.cancel()

    async def _repeat(self, act: Callable[[], Any], every_s: tuple[float, float], end: float) -> None:
        while time.monotonic() < end:
            await act()
            await asyncio.sleep(self.rng.uniform(*every_s))

    async def _kill(self) -> None:
        """Kill a process the hard way; whoever supervises it starts it again."""
        found = await asyncio.to_thread(_victims, self.folder)
        if self.cluster is not None and (leader := self.cluster.leader()):
            found[Victim.LEADER] = [(n, pid) for n, pid in found.get(Victim.CONTROLLER, []) if n == leader]
        kind = self.rng.choice([kind for kind in Victim if found.get(kind)])
        node, pid = self.rng.choice(found[kind])
        if kind in (Victim.CONTROLLER, Victim.LEADER):
            # Only in the middle of a change has it something to lose.
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changing.wait(), max(_CHANGE_EVERY_S))
            await asyncio.sleep(self.rng.uniform(*_INTO_CHANGE_S))
        if kind is Victim.LEADER and self.cluster is not None and self.cluster.leader() != node:
            kind = Victim.CONTROLLER  # It was followed by another meanwhile.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._note("kill", kind, node, "killed", time.monotonic())
            if kind is Victim.LEADER and self.cluster is not None:
                await self.cluster.followed(kind, time.monotonic())

    async def _sow(self) -> None:
        assert self.cluster is not None
        began = time.monotonic()
        found = await asyncio.to_thread(_victims, self.folder)
        if sown := await self.cluster.sow(dict(found.get(Victim.CONTROLLER, []))):
            what, whom, lasted_s = sown
            self._note("discord", what, whom, "over", began, f"{lasted_s:.1f} s")

    async def _change(self) -> None:
        began = time.monotonic()
        self.changing.set()
        change = await self.operator.change()
        self.changing.clear()
        self._note("change", change.what, str(change.vip), change.fate, began, change.detail)

    async def _connect(self, seconds: float) -> None:
        """Hold a connection from some client to some VIP, and judge it at its end."""
        if not self.operator.wanted:
            return
        vip = self.rng.choice(sorted(self.operator.wanted))
        name = self.rng.choice(self.clients)
        with namespaces.entered(self.folder.namespace(name)):
            client = socket.socket()
        began = time.monotonic()
        with client:
            client.setblocking(False)
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await asyncio.get_running_loop().sock_connect(client, (str(vip), HTTP_PORT))
                    line = Http(*await asyncio.open_connection(sock=client), vip, "dip")
                    dip = IPv4Address(await line.ask())
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                return  # New ones may well fail.
            self.connections += 1
            await asyncio.sleep(seconds)
            broke = await _broke(line, dip)
            line.close()
        if broke and not self.operator.left_since(vip, dip, began) and not self._cut_off_since(dip, began):
            at = began - self.started
            self.broken.append(f"{name} to {vip} at {dip}, from {at:.1f} s on for {seconds:.1f} s: {broke}")

    def _cut_off_since(self, dip: IPv4Address, since: float) -> bool:
        """Whether the switch before a DIP's server was killed, so that the DIP had to leave for a while."""
        tors = {tor for prefix, tor in self.racks.items() if dip in prefix}
        killed = (e for e in self.events if e.kind == "kill" and e.what == Victim.SWITCH)
        return any(e.subject in tors and self.started + e.at_s >= since - _ANSWER_S for e in killed)

    def ended(self) -> float:
        """Return when the last kill was, or the last change was over (monotonic clock)."""
        return self.started + max((e.at_s + e.took_ms / 1000 for e in self.events), default=0.0)

    def tell(self, events: Iterable[records.Event]) -> None:
        """Note what the controllers say has happened; they count seconds since the epoch."""
        epoch = time.time() - time.monotonic()
        for event in events:
            at_s = round(event.time - epoch - self.started, 3)
            self.events.append(Event(at_s, _TOLD_OF, event.kind, event.subject, "", 0.0, str(event.detail)))
        self.events.sort(key=lambda event: event.at_s)

    def _note(self, kind: str, what: str, subject: str, fate: str, began: float, detail: str = "") -> None:
        took_ms = round(1000 * (time.monotonic() - began), 3)
        self.events.append(Event(round(began - self.started, 3), kind, what, subject, fate, took_ms, detail))


async def _broke(line: Http, dip: IPv4Address) -> str:
    """Return how a connection broke, or nothing."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            who = await line.ask()
    except TimeoutError:
        return "silent"
    except (OSError, asyncio.IncompleteReadError):
        return "reset"
    return "" if who == str(dip) else f"moved to {who}"


def _victims(folder: Folder) -> dict[Victim, list[tuple[str, int]]]:
    """Return the running processes of each kind, with their nodes, or names where one node has several."""
    found: dict[Victim, list[tuple[str, int]]] = {}
    processes = ask(folder, Request(do="status")).processes
    for process in processes:
        kind = process.name.rstrip("0123456789")
        if process.pid is not None and kind in set(Victim):
            who = process.name if process.node == ROOT_NODE else process.node
            found.setdefault(Victim(kind), []).append((who, process.pid))
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
    name: str,
    out: Path,
    say: Say,
    seconds: float = SECONDS,
    seed: int = 1,
    size: FatTree = PAPER,
    controllers: int = 1,
) -> dict[str, Any]:
    """Kill and change for `seconds`, then wait for convergence; write events and summary; return it."""
    folder = Folder(name)
    say(f"bringing up the testbed, with {controllers} controllers and no VIPs")
    with running(folder, Plan(size=size, controllers=controllers), []) as graph:
        say(f"killing and changing for {seconds:g} s (seed {seed})")
        switches = {n.name: folder.namespace(n.name) for n in fattree.nodes(graph, *SWITCHES)}
        with Announcers(switches) as announcers:
            chaos, verdict = asyncio.run(_play(folder, graph, seconds, seed, controllers, say))
    if announcers.failure:
        raise RuntimeError(f"who announces what was not followed to the end: {announcers.failure}")
    events, operator = chaos.events, chaos.operator
    fates = Counter(event.fate for event in events if event.kind == "change")
    summary = {
        "seconds": seconds,
        "seed": seed,
        "controllers": controllers,
        "kills": {kind: _count(events, "kill", kind) for kind in Victim},
        "discord": {kind: _count(events, "discord", kind) for kind in Discord},
        "leaderless_s": chaos.cluster.vacancies if chaos.cluster is not None else [],
        "changes": {fate: fates[fate] for fate in Fate},
        "connections": chaos.connections,
        "broken": len(chaos.broken),
        "how_they_broke": chaos.broken,
        "vips": len(operator.wanted),
        "announcements": announcers.changes,
        "announced_twice": [
            f"{o.address} by {', '.join(o.switches)} at {o.at - chaos.started:.3f} s"
            for o in announcers.overlaps
        ],
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
    folder: Folder, graph: nx.Graph, seconds: float, seed: int, controllers: int, say: Say
) -> tuple[_Chaos, _Verdict]:
    switches = [node.name for node in fattree.nodes(graph, *SWITCHES)]
    servers = [node for node in fattree.nodes(graph, Kind.SERVER) if node.is_dip]
    async with AsyncExitStack() as stack:

        async def client(name: str) -> ControllerClient:
            local = folder.controller_socket(name)
            made = ControllerClient("http://controller", local=local, timeout_s=_CHANGE_S)
            return await stack.enter_async_context(made)

        clients = {name: await client(name) for name in controller_names(controllers)}
        operator = Operator(list(clients.values()), random.Random(f"changes {seed}"), switches, servers)
        agents = [node.management.ip for node in fattree.nodes(graph) if node.management is not None]
        cluster = (
            Cluster(folder, clients, agents, random.Random(f"discord {seed}")) if controllers > 1 else None
        )
        outside = [node.name for node in fattree.nodes(graph, Kind.CLIENT)]
        racks = {
            server.prefix: link.peer(server.name).node
            for server in servers
            for link in fattree.links(graph, server.name)
            if server.prefix is not None
        }
        chaos = _Chaos(folder, operator, outside, random.Random(f"kills {seed}"), cluster, racks)
        async with asyncio.TaskGroup() as connections:
            await chaos.run(seconds, connections)
            kills = sum(event.kind == "kill" for event in chaos.events)
            say(f"{kills} kills, {len(chaos.events) - kills} changes and other events; quiet now")
            verdict = await _await_convergence(folder, graph, operator, chaos.ended())
        await operator.check()
        chaos.tell(await operator.events())
    for line in (*operator.lost, *verdict.differences, *chaos.broken)[:_TOLD]:
        say(f"wrong: {line}")
    differ, lost = len(verdict.differences), len(operator.lost)
    say(
        f"{differ} differences after {verdict.converged_s:.1f} s, {lost} changes lost, "
        f"{len(chaos.broken)} of {chaos.connections} connections broken"
    )
    return chaos, verdict


async def _await_convergence(folder: Folder, graph: nx.Graph, operator: Operator, began: float) -> _Verdict:
    """Wait until nothing differs; times count from `began` (monotonic clock), the last kill or change."""
    awaited: list[str] = []
    while True:
        converged_s, found = await _differences(folder, graph, operator, began)
        verified_s = time.monotonic() - began
        if not found or verified_s > _CONVERGED_S:
            return _Verdict(round(converged_s, 3), round(verified_s, 3), tuple(found), tuple(awaited))
        awaited = found
        await asyncio.sleep(_POLL_S)


async def _differences(
    folder: Folder, graph: nx.Graph, operator: Operator, began: float
) -> tuple[float, list[str]]:
    """Return what is not as wanted, the quickest look first, and the seconds from `began` to its end."""
    try:
        wanted = list((await operator.records()).values())
    except TimeoutError:
        return time.monotonic() - began, ["no controller answers"]
    found = await convergence.amiss(folder, graph, wanted)
    converged_s = time.monotonic() - began
    vips = [record.address for record in wanted]
    found = found or await asyncio.to_thread(convergence.misprogrammed, folder, graph, wanted)
    found = found or await asyncio.to_thread(convergence.silent, folder, graph, vips)
    return converged_s, found


def _count(events: Iterable[Event], kind: str, what: str) -> int:
    return sum((event.kind, event.what) == (kind, what) for event in events)


def _plot(out: Path, events: list[Event], verdict: _Verdict) -> None:
    figure, axes = results.figure(figsize=(8, 3.8))
    rows = [*Victim, *Discord, *Fate]
    for row, what in enumerate(rows):
        killed = [e.at_s for e in events if e.kind in ("kill", "discord") and e.what == what]
        changed = [e.at_s for e in events if e.kind == "change" and e.fate == what]
        colour = results.SERIES[3] if row < len(Victim) + len(Discord) else results.OURS
        axes.plot(killed + changed, np.full(len(killed + changed), row), "|", color=colour, markersize=9)
    last = max(event.at_s for event in events if event.kind != _TOLD_OF)
    axes.axvspan(last, last + verdict.converged_s, color=results.GREY, alpha=0.25, linewidth=0)
    axes.set_yticks(
        range(len(rows)),
        [f"{what} killed" for what in Victim] + [*Discord] + [f"change {fate}" for fate in Fate],
    )
    axes.invert_yaxis()
    axes.set(xlabel="time (s); grey: until every device holds what was acknowledged", xlim=(0, None))
    axes.set_title(f"Converged {verdict.converged_s:.1f} s after the last kill")
    results.save_figure(figure, out / "chaos")
