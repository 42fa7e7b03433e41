"""Monitoring at work: watches agents, DIPs and traffic, and tells the updater what it must act upon.

What it tells of devices is the whole of what it knows, again and again: a report that is lost, or an updater
that starts anew, makes no difference.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from controller.client import UpdaterClient
from controller.inventory import Inventory
from controller.jobs import Job
from controller.monitoring.agents import AgentState, AgentWatch
from controller.monitoring.evidence import is_lost, neighbours_of, suspicion
from controller.monitoring.fabric import Fabric
from controller.monitoring.links import LinkLoads, LinkState
from controller.monitoring.network import NetworkState, NetworkView
from controller.monitoring.ports import HostPorts
from controller.monitoring.traffic import Count, MeterKey, TrafficHistory, TrafficMeter
from controller.monitoring.votes import Subject, Votes
from controller.reach import Reach, ReachMap
from controller.records import TrafficSample
from duet_p4.api.health import HealthReport
from duet_p4.api.mux import MuxCounters, MuxStatus
from duet_p4.api.ports import PortReport
from duet_p4.api.problems import ForbiddenError, UnavailableError, UnknownError
from duet_p4.model import VIP_CHECK, Checked, Model
from duet_p4.rest.client import MuxClient, RefusedError, RestClient, RestError

logger = logging.getLogger(__name__)

TRAFFIC_KEPT_S = 3 * 3600.0
"""How far back the traffic history goes at least."""

_TELL_S = 3.0
"""How often the updater is told what it has been told already."""

_JUDGE_S = 0.2
_ASK_AGAIN_S = 1.0
_RESTART_S = 5.0
"""How long a switch that answers may have no session before it counts as dead: BIRD restarts in less."""
_ASK_S = 3.0
_LOOK_S = 2.0
_FRESH_S = 0.5
_PORTS_S = 5.0
_PARALLEL = 64


class HostReader(Protocol):
    """A host agent."""

    async def counts(self) -> list[tuple[MeterKey, Count]]:
        """Return what the agent has counted since it started. May raise `RestError`."""


_PINNED = "pinned"
"""The table of pinned flows, as switches call it."""


class CheckedDip(Model):
    """A DIP as the check of one VIP sees it."""

    vip: IPv4Address
    dip: IPv4Address
    check: str = VIP_CHECK
    up: bool


class Monitoring:
    """Watches the network of `inventory` through its agents.

    `switch_hold_s` is how long a switch may be out of reach, or unwell, before it is found out whether it is
    lost: the SMuxes have its VIPs all the while, so there is no hurry. `suspicious_share` is the share of all
    devices that may be out of reach at once before monitoring suspects itself and takes none for lost.
    """

    def __init__(
        self,
        inventory: Inventory,
        updater: UpdaterClient,
        muxes: Mapping[str, MuxClient],
        clients: Mapping[str, RestClient],
        hosts: Mapping[str, HostReader],
        *,
        health_s: float,
        traffic_s: float,
        misses: int,
        switch_hold_s: float,
        suspicious_share: float = 0.3,
        traffic_kept_s: float = TRAFFIC_KEPT_S,
    ) -> None:
        self._updater = updater
        self._health_s = health_s
        self._traffic_s = traffic_s
        self._switch_hold_s = switch_hold_s
        self._suspicious_share = suspicious_share
        self._watch = AgentWatch({**muxes, **clients}, self._changed, interval_s=health_s, misses=misses)
        self._bad_since: dict[str, float] = {}
        self._lost: set[str] = set()
        self._told: ReachMap | None = None
        self._told_at = 0.0
        self._dead: set[str] = set()
        self._asked: dict[str, float] = {}
        self._ports = HostPorts(inventory)
        self._fabric = Fabric(inventory)
        self._view = NetworkView(inventory)
        self._loads = LinkLoads(inventory)
        self._looked_at = -math.inf
        self._looking: asyncio.Task[None] | None = None
        self._meter = TrafficMeter(_ingress_of(inventory))
        self._history = TrafficHistory(time.monotonic(), max(traffic_kept_s, TRAFFIC_KEPT_S))
        self._votes = Votes(frozenset())
        self._dip_up: dict[Subject, bool] = {}
        self._behind: dict[tuple[IPv4Address, IPv4Address], str] = {}
        """Whose a DIP is that is no server's own address."""
        self._look_at(inventory, muxes, hosts)

    def adopt(
        self,
        inventory: Inventory,
        muxes: Mapping[str, MuxClient],
        clients: Mapping[str, RestClient],
        hosts: Mapping[str, HostReader],
    ) -> None:
        """Go on with another inventory and its agents; what is known of those that stay is kept."""
        self._watch.adopt({**muxes, **clients})
        names = self._watch.states.keys()
        self._bad_since = {name: since for name, since in self._bad_since.items() if name in names}
        self._asked = {name: at for name, at in self._asked.items() if name in names}
        self._lost &= names
        self._dead &= names
        for part in (self._ports, self._fabric, self._view, self._loads):
            part.adopt(inventory)
        self._meter.adopt(_ingress_of(inventory))
        self._behind.clear()
        self._told = None
        self._look_at(inventory, muxes, hosts)

    def _look_at(
        self, inventory: Inventory, muxes: Mapping[str, MuxClient], hosts: Mapping[str, HostReader]
    ) -> None:
        self.inventory, self._muxes, self._hosts = inventory, muxes, hosts
        self._switches = {switch.name for switch in inventory.switches}
        self._neighbours = neighbours_of(inventory)
        smuxes = frozenset(smux.name for smux in inventory.smuxes)
        self._votes.adopt(smuxes)
        self._reporters = smuxes | {server.name for server in inventory.servers}

    def jobs(self) -> list[Job]:
        """Return what it does by itself."""
        return [
            Job("agents", self._watch.run),
            Job("reach", self._judge, every_s=_JUDGE_S),
            Job("network", self._look, every_s=min(_LOOK_S, self._traffic_s)),
            Job("ports", self._look_at_ports, every_s=max(_PORTS_S, self._health_s)),
            Job("traffic", self._read_traffic, every_s=self._traffic_s),
        ]

    # What is known

    def agents(self) -> list[AgentState]:
        """Return every agent, ordered by name."""
        states = dict(self._watch.states)
        for name in self._lost:
            states[name] = states[name].model_copy(update={"reach": Reach.LOST})
        return sorted(states.values(), key=lambda state: state.name)

    def network(self) -> NetworkState:
        """Return what changed of the network since the inventory was written."""
        return self._view.state

    def traffic(self, seconds: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the last `seconds`."""
        return self._history.matrix(seconds)

    async def muxes(self) -> list[MuxStatus]:
        """Return what switches and SMuxes say of themselves now; one that does not answer is not there."""
        await self._look_now()
        return [self._view.statuses[name] for name in sorted(self._view.statuses)]

    async def links(self) -> list[LinkState]:
        """Return every link, whether it is up, and what travels on it."""
        await self._look_now()
        return self._loads.links()

    async def counters(self, name: str) -> MuxCounters:
        """Read the counters of a switch or SMux. Raises `UnknownError`, `UnavailableError`."""
        if name not in self._muxes:
            raise UnknownError(f"no switch or SMux is called {name!r}")
        try:
            return await self._muxes[name].counters()
        except RestError as error:
            raise UnavailableError(f"{name} does not tell its counters: {error}") from error

    def dips(self) -> list[CheckedDip]:
        """Return the DIPs that servers check, and whether they are fit."""
        return [
            CheckedDip(vip=vip, dip=checked.dip, check=checked.check, up=up)
            for (vip, checked), up in sorted(self._dip_up.items())
        ]

    # Agents

    def _changed(self, state: AgentState) -> None:
        if state.reach in (Reach.UNREACHABLE, Reach.UNWELL):
            self._bad_since.setdefault(state.name, time.monotonic())
        else:
            self._bad_since.pop(state.name, None)
            self._asked.pop(state.name, None)
            self._dead.discard(state.name)
            self._lost.discard(state.name)
        if state.name in self._hosts and state.reach is Reach.UNREACHABLE:
            self._meter.forget(state.name)

    async def _judge(self) -> None:
        """Find out which switches are lost, and tell the updater what is new, or again after a while."""
        reach = {name: state.reach for name, state in self._watch.states.items()}
        suspect = suspicion(reach, self._suspicious_share)
        if not suspect:
            await self._find_lost(reach)

        def answers(name: str) -> bool:
            return name in reach and reach[name].answers

        dead = self._fabric.dead(answers)
        carry_nothing = self._dead | dead
        now = ReachMap(
            devices=self._reach_of(reach),
            cut_off=tuple(sorted(self._ports.cut_off(carry_nothing))),
            unheard=tuple(sorted(self._ports.unheard(carry_nothing))),
            dead=tuple(sorted(dead)),
            links_down=tuple(sorted({*self._view.links_lost(), *self._fabric.links_down(answers)})),
            pins={name: t[_PINNED] for name, t in self._view.state.tables.items() if _PINNED in t},
            restarted={
                name: state.restarted for name, state in self._watch.states.items() if state.restarted
            },
            troubles={name: state.trouble for name, state in self._watch.states.items() if state.trouble},
            suspect=suspect,
        )
        if now == self._told and time.monotonic() < self._told_at + _TELL_S:
            return
        # The engine, which the updater asks for new homes, reads from here who is lost.
        self._view.update(self._view.statuses, now.devices)
        try:
            await self._updater.set_reach(now)
        except RestError:
            self._told = None
            raise
        self._told, self._told_at = now, time.monotonic()

    async def _find_lost(self, reach: Mapping[str, Reach]) -> None:
        """Ask the neighbours of switches that are bad, again and again, whether they carry anything.

        A switch that carries nothing is lost once it has been bad for long enough.
        """
        now = time.monotonic()
        for name, since in list(self._bad_since.items()):
            if name not in self._switches or now < self._asked.get(name, 0.0) + _ASK_AGAIN_S:
                continue
            self._asked[name] = now
            near = self._neighbours[name] & reach.keys()
            neighbours = [n for n in near if reach[n].answers and n not in self._lost]
            statuses = await self._statuses(neighbours)
            sessions: dict[str, Collection[str] | None] = {
                n: {s.name for s in statuses[n].sessions if s.established} if n in statuses else None
                for n in neighbours
            }
            if name not in self._bad_since:
                continue  # it answered meanwhile
            if is_lost(name, sessions):
                # One that answers may have started BIRD anew, which costs its neighbours no route.
                if not reach[name].answers or now >= since + _RESTART_S:
                    self._dead.add(name)
                if now >= since + self._switch_hold_s:
                    self._lost.add(name)
            elif any(peers is not None for peers in sessions.values()):
                self._dead.discard(name)
                self._lost.discard(name)  # a neighbour has a session with it: it may announce again

    def _reach_of(self, reach: Mapping[str, Reach]) -> dict[str, Reach]:
        return {name: Reach.LOST if name in self._lost else known for name, known in reach.items()}

    async def _statuses(self, names: Collection[str]) -> dict[str, MuxStatus]:
        """Return what those muxes say that answer in time."""
        limit, muxes = asyncio.Semaphore(_PARALLEL), self._muxes

        async def ask(name: str) -> tuple[str, MuxStatus | None]:
            try:
                async with limit, asyncio.timeout(_ASK_S):
                    return name, await muxes[name].status()
            except (RestError, TimeoutError):
                return name, None

        found = await asyncio.gather(*(ask(name) for name in names))
        return {name: status for name, status in found if status is not None}

    async def _look(self) -> None:
        """Gather links and tables."""
        reach = {name: state.reach for name, state in self._watch.states.items()}
        statuses = await self._statuses([name for name in self._muxes if reach[name].answers])
        self._looked_at = time.monotonic()
        self._view.update(statuses, self._reach_of(reach))
        self._loads.note(statuses)

    async def _look_now(self) -> None:
        """Look, unless it was done just now; who asks while it is being done waits for that."""
        if time.monotonic() - self._looked_at < _FRESH_S:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look")
        await asyncio.shield(self._looking)

    # Servers and DIPs

    def report_ports(self, report: PortReport) -> None:
        """Take in what a switch says of its ports. Raises `UnknownError`."""
        if report.switch not in self._switches:
            raise UnknownError(f"no switch is called {report.switch!r}")
        self._ports.note(report.switch, report.ports)
        self._fabric.note(report.switch, report.neighbours)

    async def _look_at_ports(self) -> None:
        """Ask switches for their ports to hosts: a report may have been lost."""
        limit, muxes = asyncio.Semaphore(_PARALLEL), self._muxes

        async def ask(name: str) -> None:
            try:
                async with limit, asyncio.timeout(_ASK_S):
                    self._ports.note(name, await muxes[name].host_ports())
            except (RestError, TimeoutError) as error:
                logger.debug("%s tells nothing of its ports: %s", name, error)

        states = self._watch.states
        await asyncio.gather(*(ask(n) for n in self._ports.switches() if states[n].reach.answers))

    async def report(self, report: HealthReport) -> None:
        """Take what a server, or an SMux, says of DIPs that it checks; the updater is told what follows.

        What a reporter does not check any more is forgotten. A server has a say in its own DIPs only. Raises
        `UnknownError`, and `ForbiddenError` where a server reports on another's.
        """
        if report.reporter not in self._reporters:
            raise UnknownError(f"no server or SMux is called {report.reporter!r}")
        said = {(health.vip, health.checked): health.up for health in report.dips}
        if report.reporter in self._hosts:
            said = {
                (vip, checked): up
                for (vip, checked), up in said.items()
                if await self._owns(report.reporter, vip, checked.dip)
            }
        by_check: dict[tuple[IPv4Address, str], dict[IPv4Address, bool]] = {}
        for subject in self._votes.note(report.reporter, said):
            vip, checked = subject
            up = self._votes.verdict(subject)
            if up is None:
                self._dip_up.pop(subject, None)
            else:
                by_check.setdefault((vip, checked.check), {})[checked.dip] = up
        for (vip, check), told in by_check.items():
            try:
                await self._updater.set_dip_health(vip, told, check=check)
            except RefusedError as error:
                logger.info("%s reports on what is not wanted: %s", report.reporter, error)
                continue
            except RestError as error:
                raise UnavailableError(f"the updater cannot be told: {error}") from error
            self._dip_up.update({(vip, Checked(dip, check)): up for dip, up in told.items()})

    async def _owns(self, server: str, vip: IPv4Address, dip: IPv4Address) -> bool:
        """Return whether a DIP is a server's: one of its own addresses, or behind one of them."""
        owner = self.inventory.server_at(dip)
        if owner is not None:
            if owner.name != server:
                raise ForbiddenError(f"{server} reports on DIP {dip}, which is {owner.name}'s")
            return True
        if self._behind.get((vip, dip)) != server:
            try:
                record = await self._updater.vip(vip)
            except RestError as error:
                logger.info("%s reports on a VIP of which nothing is known: %s", server, error)
                return False
            stated = [known for known in record.spec.all_dips() if known.address == dip]
            owners = {self.inventory.server_at(known.encap) for known in stated}
            if not any(owner is not None and owner.name == server for owner in owners):
                logger.info("%s reports on DIP %s of VIP %s, which is not its own", server, dip, vip)
                return False
            self._behind[vip, dip] = server
        return True

    # Traffic

    async def _read_traffic(self) -> None:
        limit = asyncio.Semaphore(_PARALLEL)

        async def read(name: str, host: HostReader) -> None:
            try:
                async with limit, asyncio.timeout(_ASK_S):
                    counts = await host.counts()
            except (RestError, TimeoutError) as error:
                logger.debug("%s tells no traffic: %s", name, error)
                return
            for key, count in self._meter.read(name, counts).items():
                known = sent.get(key, Count(0, 0))
                sent[key] = Count(known.packets + count.packets, known.bytes + count.bytes)

        sent: dict[tuple[IPv4Address, str, IPv4Address], Count] = {}
        states = self._watch.states
        in_reach = [item for item in self._hosts.items() if states[item[0]].reach.answers]
        await asyncio.gather(*(read(name, host) for name, host in in_reach))
        self._history.add(time.monotonic(), sent)


def _ingress_of(inventory: Inventory) -> dict[IPv4Network, str]:
    """Return at which switch each source prefix enters the network."""
    return {prefix: switch.name for switch in inventory.switches for prefix in switch.prefixes}
