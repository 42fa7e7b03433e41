"""Carries one VIP's plan out: wave after wave, each step over the lane of its device.

What fails for one device stops the others of its wave no more than it must. Two things are never done,
whatever fails: no switch announces what another may still announce, and none withdraws what no SMux that
can be reached holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address

from controller.updater.devices import Came, Operation, is_table_full
from controller.updater.lane import AWAY, Lane, Priority
from controller.updater.outcome import Outcome
from controller.updater.plan import Action, DeviceKind, DeviceState, Plan, Step, Wave
from duet_p4.api.problems import Problem


class Waves:
    """One plan's way: `leaving` names, by address, switches that may announce it though they should not."""

    def __init__(
        self,
        plan: Plan,
        wanted: Mapping[str, DeviceState],
        lanes: Mapping[str, Lane],
        leaving: Mapping[IPv4Address, Collection[str]],
        priority: Priority,
    ) -> None:
        self._plan = plan
        self._wanted = wanted
        self._lanes = lanes
        self._leaving = leaving
        self._priority = priority
        self._smuxes = [lane for lane in lanes.values() if lane.kind is DeviceKind.SMUX]
        self._still_wanted = {address for state in wanted.values() for address in state.entries}
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Carry the plan out."""
        for wave in Wave:
            steps = [step for step in self._plan.steps if step.wave is wave and self._may(step)]
            if steps:
                began = time.monotonic()
                await asyncio.gather(*(self._perform(step) for step in steps))
                self.outcome.wave_ms[wave] = (time.monotonic() - began) * 1000
        return self.outcome

    def _may(self, step: Step) -> bool:
        why = ""
        if step.wave is Wave.WITHDRAW:
            why = self._without_backstop(step.address)
        elif step.wave is Wave.ANNOUNCE:
            why = self._announced_elsewhere(step)
        if why:
            self.outcome.barred.append((step, why))
        return not why

    def _without_backstop(self, address: IPv4Address) -> str:
        """Say why a switch must not give an address up: no SMux has it. What nobody wants needs none."""
        if address not in self._still_wanted or not self._smuxes:
            return ""
        for smux in self._smuxes:
            want = self._wanted[smux.name].entries.get(address) if smux.name in self._wanted else None
            have = smux.held.entries.get(address)
            if smux.open and smux.known and have is not None and (have is want or have == want):
                return ""
        return "no SMux that can be reached holds it"

    def _announced_elsewhere(self, step: Step) -> str:
        for name in self._leaving.get(step.address, ()):
            lane = self._lanes.get(name)
            if (
                name != step.device
                and lane is not None
                and not (lane.open and not lane.may_hold(step.address))
            ):
                return f"{name} may still announce it"
        for failed, _ in self.outcome.failed:
            if failed.address != step.address:
                continue
            if failed.wave is Wave.WITHDRAW:
                return f"{failed.device} did not withdraw it"
            if failed.action is Action.PROGRAM and failed.device == step.device:
                return "it could not be programmed"
        return ""

    async def _perform(self, step: Step) -> None:
        came = await self._do(step, step.action)
        writes = came.writes
        if came.problem is not None and self._gives_old_up(step, came.problem):
            # A switch that has no room for the old and the new at once gives up the old: the SMuxes have it.
            deleted = await self._do(step, Action.DELETE)
            writes += deleted.writes
            came = deleted if deleted.problem is not None else await self._do(step, step.action)
            writes += came.writes
        self.outcome.writes += writes
        if came.problem is None:
            self.outcome.done.append(step)
            return
        self.outcome.failed.append((step, came.problem))
        if came.problem.kind == AWAY:
            self.outcome.away.add(step.device)

    def _gives_old_up(self, step: Step, problem: Problem) -> bool:
        lane = self._lanes[step.device]
        return (
            is_table_full(problem)
            and lane.kind is DeviceKind.SWITCH
            and step.action in (Action.PUT, Action.PROGRAM)
            and step.address in lane.held.entries
            and not self._without_backstop(step.address)
        )

    async def _do(self, step: Step, action: Action) -> Came:
        entry = None if action is Action.DELETE else self._wanted[step.device].entries[step.address]
        return await self._lanes[step.device].submit(Operation(action, step.address, entry), self._priority)
