"""Monitoring at work: watches agents, DIPs and traffic, and tells the updater what it must act upon."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address

from controller.client import UpdaterClient
from controller.inventory import Inventory
from controller.monitoring.agents import AgentState, AgentWatch, Reach
from controller.monitoring.hosts import HostReader
from controller.monitoring.traffic import TrafficMeter
from controller.store import Store, TrafficSample
from controller.updater.service import DeviceReach
from duet_p4.api.health import HealthReport
from duet_p4.api.problems import UnavailableError
from duet_p4.model import Model
from duet_p4.rest.client import MuxClient, RefusedError, RestClient, RestError

logger = logging.getLogger(__name__)


class CheckedDip(Model):
    """A DIP as the check of one VIP sees it."""

    vip: IPv4Address
    dip: IPv4Address
    up: bool


class Monitoring:
    """Watches the network of `inventory` through its agents.

    `switch_hold_s` is how long a switch may be out of reach before its VIPs are given to others: the
    SMuxes have them all the while, so there is no hurry. A switch that a neighbour still has a BGP session
    with is alive and carries its VIPs; only its agent is dead.
    """

    def __init__(
        self,
        inventory: Inventory,
        store: Store,
        updater: UpdaterClient,
        muxes: Mapping[str, MuxClient],
        clients: Mapping[str, RestClient],
        hosts: Mapping[str, HostReader],
        *,
        health_s: float,
        traffic_s: float,
        misses: int,
        switch_hold_s: float,
    ) -> None:
        self.inventory = inventory
        self._store = store
        self._updater = updater
        self._muxes = muxes
        self._hosts = hosts
        self._traffic_s = traffic_s
        self._switch_hold_s = switch_hold_s
        self._switches = {switch.name for switch in inventory.switches}
        self._watch = AgentWatch({**muxes, **clients}, self._changed, interval_s=health_s, misses=misses)
        prefixes = {prefix: switch.name for switch in inventory.switches for prefix in switch.prefixes}
        self._meter = TrafficMeter(prefixes)
        self._holds: dict[str, asyncio.Task[None]] = {}
        self._dip_up: dict[tuple[IPv4Address, IPv4Address], bool] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch.run(), name="agents")
                group.create_task(self._repeat(self._traffic_s, self._read_traffic), name="traffic")
        finally:
            for hold in self._holds.values():
                hold.cancel()

    def agents(self) -> list[AgentState]:
        """Return every agent, ordered by name."""
        return sorted(self._watch.states.values(), key=lambda state: state.name)

    def traffic(self, seconds: float) -> list[TrafficSample]:
        """Return the mean traffic matrix of the last `seconds`."""
        return self._store.traffic(time.time() - seconds)

    async def _changed(self, state: AgentState) -> None:
        if hold := self._holds.pop(state.name, None):
            hold.cancel()
        if state.reach is not Reach.UNREACHABLE:
            await self._updater.set_reach(state.name, DeviceReach.READY)
            return
        await self._updater.set_reach(state.name, DeviceReach.UNREACHABLE)
        if state.name in self._switches:
            self._holds[state.name] = asyncio.create_task(self._hold(state.name), name=f"hold {state.name}")

    async def _hold(self, name: str) -> None:
        await asyncio.sleep(self._switch_hold_s)
        while await self._has_sessions(name):
            logger.warning("the agent of %s is dead, but the switch is alive; its VIPs stay there", name)
            await asyncio.sleep(self._switch_hold_s)
        try:
            await self._updater.set_reach(name, DeviceReach.LOST)
        except RestError as error:
            logger.warning("switch %s is lost, but the updater could not be told: %s", name, error)

    async def _has_sessions(self, name: str) -> bool:
        """Whether any neighbour that answers has a BGP session with a switch."""

        async def ask(neighbour: str) -> bool:
            try:
                sessions = (await self._muxes[neighbour].status()).sessions
            except RestError:
                return False
            return any(session.name == name and session.established for session in sessions)

        neighbours = {end for link in self.inventory.links if name in link.ends for end in link.ends} - {name}
        neighbours |= {smux.name for smux in self.inventory.smuxes if smux.switch == name}
        return any(await asyncio.gather(*(ask(neighbour) for neighbour in sorted(neighbours))))

    async def _repeat(self, interval_s: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            await job()
            await asyncio.sleep(interval_s)

    async def report(self, report: HealthReport) -> None:
        """Take a server's report of its DIPs' health; what is new goes to the updater.

        That a DIP is down is told each time: its VIP may have been removed and added again meanwhile.
        """
        for health in report.dips:
            known = self._dip_up.get((health.vip, health.dip))
            if health.up is None or (health.up and known):
                continue
            try:
                await self._updater.set_dip_health(health.vip, health.dip, up=health.up)
            except RefusedError as error:
                logger.info("%s reports on what is not wanted: %s", report.server, error)
                continue
            except RestError as error:
                raise UnavailableError(f"the updater cannot be told: {error}") from error
            self._dip_up[health.vip, health.dip] = health.up

    def dips(self) -> list[CheckedDip]:
        """Return the DIPs that servers check, and whether they are fit."""
        return [CheckedDip(vip=vip, dip=dip, up=up) for (vip, dip), up in sorted(self._dip_up.items())]

    async def _read_traffic(self) -> None:
        samples: list[TrafficSample] = []

        async def read(name: str, host: HostReader) -> None:
            try:
                counts = await host.counts()
            except RestError as error:
                logger.debug("%s tells no traffic: %s", name, error)
                return
            samples.extend(self._meter.read(time.time(), counts))

        states = self._watch.states
        in_reach = [item for item in self._hosts.items() if states[item[0]].reach is not Reach.UNREACHABLE]
        await asyncio.gather(*(read(name, host) for name, host in in_reach))
        self._store.add_traffic(time.time(), samples)
