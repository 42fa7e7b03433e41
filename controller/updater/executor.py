"""Carries a plan out: wave after wave, devices of a wave at once, a device's steps in order."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.updater.devices import Device
from controller.updater.plan import Action, DeviceKind, DeviceState, Plan, Step, Wave
from duet_p4.rest.client import RefusedError, RestError

PARALLEL_DEVICES = 32


@dataclass
class Outcome:
    """What came of a plan: steps done, steps refused and why, and how long each wave took (ms).

    `barred` are the steps that were not tried because of one that failed.
    """

    done: list[Step] = field(default_factory=list)
    failed: list[tuple[Step, RestError]] = field(default_factory=list)
    barred: list[Step] = field(default_factory=list)
    wave_ms: dict[Wave, float] = field(default_factory=dict)
    writes: int = 0

    @property
    def ok(self) -> bool:
        """Whether every step was done."""
        return not self.failed


async def execute(plan: Plan, wanted: Mapping[str, DeviceState], devices: Mapping[str, Device]) -> Outcome:
    """Carry out `plan` towards `wanted`.

    A failed step does not stop the others of its wave or of later waves, with two exceptions: an
    address that a switch did not withdraw is not announced from another, so that no two switches
    ever announce the same /32; and a switch does not announce what it could not program.

    A switch that has no room for the old and the new of a VIP at once gives the old up first: the SMuxes
    have the new one by then.
    """
    outcome = Outcome()
    limit = asyncio.Semaphore(PARALLEL_DEVICES)
    for wave in Wave:
        steps = plan.wave(wave)
        if not steps:
            continue
        started = time.monotonic()
        by_device: dict[str, list[Step]] = defaultdict(list)
        for step in steps:
            if wave is Wave.ANNOUNCE and _is_barred(step, outcome):
                outcome.barred.append(step)
            else:
                by_device[step.device].append(step)

        async def run(name: str, steps: list[Step]) -> None:
            async with limit:
                for step in steps:
                    try:
                        outcome.writes += await _perform(step, wanted[name], devices[name])
                        outcome.done.append(step)
                    except RestError as error:
                        outcome.failed.append((step, error))

        await asyncio.gather(*(run(name, steps) for name, steps in by_device.items()))
        outcome.wave_ms[wave] = (time.monotonic() - started) * 1000
    return outcome


def _is_barred(announcing: Step, outcome: Outcome) -> bool:
    return any(
        step.address == announcing.address
        and (
            step.wave is Wave.WITHDRAW or (step.action is Action.PROGRAM and step.device == announcing.device)
        )
        for step, _ in outcome.failed
    )


async def _perform(step: Step, wanted: DeviceState, device: Device) -> int:
    if step.action is Action.DELETE:
        return await device.delete(step.address)
    entry = wanted.entries[step.address]
    if step.action is Action.ANNOUNCE:
        return await device.announce(entry)
    announce = step.action is Action.PUT
    try:
        return await device.put(entry, announce=announce)
    except RefusedError as error:
        if not is_table_full(error) or device.kind is not DeviceKind.SWITCH:
            raise
    return await device.delete(step.address) + await device.put(entry, announce=announce)


def is_table_full(error: RestError) -> bool:
    """Whether a device refused a request for want of room."""
    return isinstance(error, RefusedError) and error.problem.type.endswith(":table-full")
