"""What the controller does by itself: jobs that nobody has to look after.

A job that fails is tried again; one that ends though it should not is started again. Both are said: in the
log, as an event, under /healthz and in the metrics.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from controller.inventory import InventoryError
from controller.store import StoreError
from duet_p4.api.service import Health, State
from duet_p4.rest.client import RestError

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""How long after a failure a job is tried again: at first, and at most. Never before its own time."""

_OVERDUE = 3
_LEAST_OVERDUE_S = 30.0


@dataclass
class Job:
    """Something to do: every `every_s` seconds, or (None) without an end.

    `first` says whether it is done at the start, too.
    """

    name: str
    work: Callable[[], Awaitable[None]]
    every_s: float | None = None
    first: bool = True
    runs: int = 0
    failures: int = 0
    error: str = ""
    last_s: float | None = field(default=None, repr=False)
    took_s: float = 0.0
    _failed_in_a_row: int = 0
    _began: float = field(default_factory=time.monotonic, repr=False)

    async def run(self, told: Callable[[str, str], None]) -> None:
        """Do it again and again until cancelled; `told` is told of each new failure: of what, and why."""
        if not self.first and self.every_s is not None:
            await asyncio.sleep(self.every_s)
        while True:
            self._began = time.monotonic()
            try:
                await self.work()
                if self.every_s is None:
                    raise RuntimeError("it ended by itself")
                self._note("")
            except Exception as error:
                expected = isinstance(error, RestError | StoreError | InventoryError)
                why = str(error) if expected else f"{type(error).__name__}: {error}"
                logger.log(
                    logging.WARNING if expected else logging.ERROR,
                    "%s failed: %s",
                    self.name,
                    why,
                    exc_info=None if expected else error,
                )
                if why != self.error:
                    told(self.name, why)
                self._note(why)
            await asyncio.sleep(self._pause())

    def _note(self, error: str) -> None:
        now = time.monotonic()
        self.runs += 1
        self.took_s = now - self._began
        self.last_s = now
        self.error = error
        self._failed_in_a_row = self._failed_in_a_row + 1 if error else 0
        self.failures += bool(error)

    def _pause(self) -> float:
        every_s = self.every_s or 0.0
        if not self._failed_in_a_row:
            return every_s
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failed_in_a_row - 1, 16))
        return max(pause, min(every_s, LONGEST_PAUSE_S))

    @property
    def problem(self) -> str:
        """Say what is wrong with it: it fails, or has not been done for three times its interval."""
        if self.error:
            return f"{self.name}: {self.error}"
        if self.every_s is not None:
            quiet = time.monotonic() - (self.last_s or self._began)
            if quiet > max(_LEAST_OVERDUE_S, _OVERDUE * self.every_s):
                return f"{self.name} has not been done for {quiet:.0f} s"
        return ""


class Supervisor:
    """Runs jobs, and knows how they are."""

    def __init__(self, jobs: Sequence[Job], told: Callable[[str, str], None]) -> None:
        self.jobs = list(jobs)
        self.started = False
        self._told = told

    async def run(self) -> None:
        """Run all jobs until cancelled."""
        self.started = True
        async with asyncio.TaskGroup() as group:
            for job in self.jobs:
                group.create_task(job.run(self._told), name=job.name)

    def health(self) -> Health:
        """Say whether all jobs do their work."""
        problems = [job.problem for job in self.jobs if job.problem]
        state = State.DEGRADED if problems else State.READY
        return Health(state=state, detail="; ".join(problems))
