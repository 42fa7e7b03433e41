"""Checks many DIPs, each by a quiet loop, and makes verdicts of the answers.

A busy checker is no reason to take a DIP down: where a check's time was over long before this process saw it,
it may have been answered meanwhile. It is asked once more, though not for ever.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address

from duet_p4.api.health import DipHealth
from duet_p4.health.checks import CheckError, Dial, UnansweredError, check
from duet_p4.model import Checked, HealthCheck

logger = logging.getLogger(__name__)

_JITTER = 0.1
_CALM_S = 300.0
_MOST_FLAPS = 6
_LATE_S = 0.05
"""A timer that is so late tells of a busy process or machine."""


@dataclass(frozen=True)
class Target:
    """What is asked of a DIP. `end` is where the tunnel to it ends, where there is one."""

    what: HealthCheck
    end: IPv4Address | None = None


DialTo = Callable[[IPv4Address, IPv4Address, Target], Dial]
"""Gives the way to a DIP: of a VIP, the DIP, its target."""


class _Check:
    """A check of one DIP, with its rise and fall counts."""

    def __init__(
        self, target: Target, vip: IPv4Address, checked: Checked, dial: Dial, changed: Callable[[], None]
    ) -> None:
        self.target = target
        dip, name = checked
        self.health = DipHealth(vip=vip, dip=dip, check=name, up=None, since=datetime.now(UTC), checks=0)
        self._dial = dial
        self._changed = changed
        self._streak = 0
        self._flaps = 0
        self._fell = float("-inf")
        self._void = 0
        self.task = asyncio.create_task(self._run(), name=f"health of {checked} for {vip}")

    async def _run(self) -> None:
        what = self.target.what
        interval = what.interval_ms / 1000
        # Checks of many DIPs, and those of one DIP by many, spread over the interval by themselves.
        await asyncio.sleep(random.uniform(0, min(interval, 1.0)))
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await check(what, self.health.vip, self.health.dip, self._dial)
            except CheckError as error:
                late = loop.time() - began - what.timeout_ms / 1000 > _LATE_S
                if late and isinstance(error, UnansweredError) and self._void < what.fall:
                    self._void += 1
                else:
                    self._note(up=False, detail=str(error), now=loop.time())
            else:
                self._note(up=True, detail="", now=loop.time())
            pause = interval * random.uniform(1 - _JITTER, 1 + _JITTER)
            await asyncio.sleep(max(0.0, began + pause - loop.time()))

    def _note(self, *, up: bool, detail: str, now: float) -> None:
        old, what = self.health, self.target.what
        self._void = 0
        self._streak = 0 if up is old.up else self._streak + 1
        update: dict[str, object] = {"checks": old.checks + 1, "detail": detail}
        if up is not old.up and self._streak >= self._needed(up, old.up, what, now):
            self._streak = 0
            update |= {"up": up, "since": datetime.now(UTC)}
            if old.up and not up:
                self._flaps = min(self._flaps + 1, _MOST_FLAPS) if now - self._fell < _CALM_S else 0
                self._fell = now
        self.health = old.model_copy(update=update)
        if self.health.up is not old.up:
            logger.info("DIP %s of %s is %s %s", old.checked, old.vip, "up" if up else "down", detail)
            self._changed()

    def _needed(self, up: bool, was: bool | None, what: HealthCheck, now: float) -> int:
        """Return how many answers alike make a verdict; one that flaps is believed less and less."""
        if not up:
            return what.fall
        if was is None:
            return 1
        return what.rise << (self._flaps if now - self._fell < _CALM_S else 0)


class HealthMonitor:
    """The checks of many VIPs; `changed` is called whenever the health of a DIP changes."""

    def __init__(self, dial: DialTo, changed: Callable[[], None]) -> None:
        self._dial = dial
        self._changed = changed
        self._checks: dict[IPv4Address, dict[Checked, _Check]] = {}

    def put_vip(self, vip: IPv4Address, targets: Mapping[Checked, Target]) -> None:
        """Check these DIPs of a VIP; checks that are the same as before go on undisturbed."""
        running = self._checks.setdefault(vip, {})
        for checked in [
            checked for checked, known in running.items() if targets.get(checked) != known.target
        ]:
            running.pop(checked).task.cancel()
        for checked, target in targets.items():
            if checked not in running:
                dial = self._dial(vip, checked.dip, target)
                running[checked] = _Check(target, vip, checked, dial, self._changed)
        if not running:
            del self._checks[vip]

    def delete_vip(self, vip: IPv4Address) -> None:
        """Stop to check a VIP's DIPs."""
        self.put_vip(vip, {})

    def vips(self) -> list[IPv4Address]:
        """Return the VIPs some of whose DIPs are checked."""
        return sorted(self._checks)

    def health(self) -> list[DipHealth]:
        """Return every check's verdict, ordered by VIP and DIP."""
        return [
            self._checks[vip][checked].health
            for vip in sorted(self._checks)
            for checked in sorted(self._checks[vip])
        ]

    async def close(self) -> None:
        """Stop all checks."""
        tasks = [check.task for running in self._checks.values() for check in running.values()]
        for vip in list(self._checks):
            self.delete_vip(vip)
        await asyncio.gather(*tasks, return_exceptions=True)
