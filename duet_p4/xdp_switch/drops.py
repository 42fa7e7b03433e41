"""A log of the packets that did not leave a switch: all but what the program itself drops deserves a look."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.drop_reasons import BY_PROGRAM, REASONS
from duet_p4.xdp_switch.pipeline import XdpPipeline

PERIOD_S: Final = 10.0

_log = logging.getLogger("duet_p4.xdp_switch")


class Drops:
    """What was dropped between one look and the next."""

    def __init__(self) -> None:
        self._pipeline: XdpPipeline | None = None
        self._before: dict[str, int] = {}

    def look(self, pipeline: XdpPipeline | None) -> str:
        """Return what the pipeline that runs has dropped since the last look, and why; nothing for nothing.

        A new pipeline counts from 0.
        """
        if pipeline is not self._pipeline:
            self._pipeline, self._before = pipeline, {}
        if pipeline is None:
            return ""
        now = pipeline.drops()
        risen = {name: count - self._before.get(name, 0) for name, count in now.items()}
        self._before = now
        risen.pop(BY_PROGRAM)
        return "; ".join(f"{count} because {REASONS[name]}" for name, count in risen.items() if count)


async def watch(device: XdpDevice) -> None:
    """Log every `PERIOD_S` what was dropped meanwhile, for as long as it is not cancelled."""
    drops = Drops()
    while True:
        await asyncio.sleep(PERIOD_S)
        if told := drops.look(device.running):
            _log.warning("packets dropped in %g s: %s", PERIOD_S, told)
