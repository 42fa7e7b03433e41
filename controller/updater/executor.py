"""Carries a plan out: wave after wave, devices of a wave at once, a device's steps in order."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.updater.devices import Device
from controller.updater.plan import Action, DeviceState, Plan, Step, Wave
from duet_p4.rest.client import RestError

PARALLEL_DEVICES = 32


@dataclass
class Outcome:
    """What came of a plan: steps done, steps refused and why, and how long each wave took (ms)."""

    done: list[Step] = field(default_factory=list)
    failed: list[tuple[Step, RestError]] = field(default_factory=list)
    wave_ms: dict[Wave, float] = field(default_factory=dict)
    writes: int = 0

    @property
    def ok(self) -> bool:
        """Whether every step was done."""
        return not self.failed


async def execute(plan: Plan, wanted: Mapping[str, DeviceState], devices: Mapping[str, Device]) -> Outcome:
    """Carry out `plan` towards `wanted`.

    A failed step does not stop the others of its wave or of later waves, with one exception: an
    address that a switch did not withdraw is not announced from another, so that no two switches
    ever announce the same /32.
    """
    outcome = Outcome()
    limit = asyncio.Semaphore(PARALLEL_DEVICES)
    for wave in Wave:
        steps = plan.wave(wave)
        if not steps:
            continue
        started = time.monotonic()
        stuck = {step.address for step, _ in outcome.failed if step.wave is Wave.WITHDRAW}
        by_device: dict[str, list[Step]] = defaultdict(list)
        for step in steps:
            if not (wave is Wave.ANNOUNCE and step.address in stuck):
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


async def _perform(step: Step, wanted: DeviceState, device: Device) -> int:
    if step.action is Action.PUT:
        return await device.put(wanted.entries[step.address])
    return await device.delete(step.address)
