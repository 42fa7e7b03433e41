"""What several controllers of a testbed must survive beyond kills: a leader that freezes and wakes up, and a
network that carries nothing between some of them, their members of etcd, and agents.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from controller.client import ControllerClient
from controller.cluster.lease import Leader
from duet_p4.rest.client import RestError
from mininet_topos.addresses import CONTROLLERS
from mininet_topos.testbed import wiring
from mininet_topos.testbed.folder import Folder

_LASTS_S = (2.0, 10.0)
_POLL_S = 0.05
_ANSWER_S = 1.0


class Discord(StrEnum):
    """What happens to controllers."""

    FROZEN_LEADER = "frozen leader"
    """The leader's process is stopped, and goes on later."""

    PARTED = "parted"
    """A controller and the member of etcd beside it hear none of the others, nor they it."""

    PARTED_AGENTS = "parted from agents"
    """The leader and half of the agents hear nothing of each other."""


@dataclass
class Reign:
    """That somebody leads: since when (monotonic time), and with which term."""

    leader: Leader
    since: float


@dataclass
class Cluster:
    """The controllers of a testbed, by name, and what is known of who leads them."""

    folder: Folder
    clients: Mapping[str, ControllerClient]
    agents: Sequence[IPv4Address]
    rng: random.Random
    reigns: list[Reign] = field(default_factory=list)
    vacancies: list[tuple[str, float]] = field(default_factory=list)
    """What ended a leader's reign, and for how many seconds nobody led then."""
    _followed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def watch(self) -> None:
        """Keep up with who leads, until cancelled; one that does not answer delays nothing."""
        async with asyncio.TaskGroup() as group:
            for name in self.clients:
                group.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        while True:
            found = await self._reigning(name)
            if found and (not self.reigns or found.term > self.reigns[-1].leader.term):
                self.reigns.append(Reign(found, time.monotonic()))
                async with self._followed:
                    self._followed.notify_all()
            await asyncio.sleep(_POLL_S)

    async def _reigning(self, name: str) -> Leader | None:
        """Return a controller as the leader, if it says that it leads."""
        with suppress(RestError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                status = await self.clients[name].cluster()
            if status.leads and status.leader is not None:
                return status.leader
        return None

    def leader(self) -> str | None:
        """Return the name of the last one that was seen to lead."""
        return self.reigns[-1].leader.name if self.reigns else None

    async def followed(self, why: str, began: float) -> None:
        """Note how long nobody led after something that may have ended the leader's reign, if it did."""
        before = len(self.reigns)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LASTS_S[1]), self._followed:
                await self._followed.wait_for(lambda: len(self.reigns) > before)
            self.vacancies.append((why, round(self.reigns[-1].since - began, 3)))

    async def sow(self, pids: Mapping[str, int]) -> tuple[Discord, str, float] | None:
        """Do one thing to the controllers for a while; returns what, to whom, and for how long.

        `pids` are the processes of those that run.
        """
        leader = self.leader()
        if leader is None or leader not in pids:
            return None
        what, lasts_s = self.rng.choice(list(Discord)), self.rng.uniform(*_LASTS_S)
        match what:
            case Discord.FROZEN_LEADER:
                await self._freeze(pids[leader], lasts_s)
                return what, leader, lasts_s
            case Discord.PARTED:
                parted = self.rng.choice([leader, *self.clients])
                others = [address for name, address in self._addresses().items() if name != parted]
                await self._part(parted, others, lasts_s, leads=parted == leader)
                return what, parted, lasts_s
            case Discord.PARTED_AGENTS:
                half = self.rng.sample(list(self.agents), len(self.agents) // 2)
                await self._part(leader, half, lasts_s, leads=False)
                return what, leader, lasts_s

    def _addresses(self) -> dict[str, IPv4Address]:
        return dict(zip(self.clients, CONTROLLERS, strict=False))

    async def _freeze(self, pid: int, lasts_s: float) -> None:
        began = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.followed(Discord.FROZEN_LEADER, began))
            try:
                await asyncio.sleep(lasts_s)
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _part(self, name: str, others: Sequence[IPv4Address], lasts_s: float, *, leads: bool) -> None:
        began = time.monotonic()
        namespace = self.folder.namespace(name)
        await asyncio.to_thread(wiring.part, namespace, others)
        async with asyncio.TaskGroup() as group:
            if leads:
                group.create_task(self.followed(Discord.PARTED, began))
            try:
                await asyncio.sleep(lasts_s)
            finally:
                await asyncio.to_thread(wiring.meet, namespace, others)
