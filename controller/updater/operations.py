"""Operations that take long, as resources: each can be asked how far it is, until some time after its end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

from controller.updater.outcome import Report
from duet_p4.api.problems import UnknownError
from duet_p4.model import Model

logger = logging.getLogger(__name__)

KEPT = 100
"""How many operations that have ended are remembered."""


class Phase(StrEnum):
    """How an operation stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class LongOperation(Model):
    """An operation: what was begun when (Unix time), and how much of it is done.

    `total` is known once it has been found out what there is to do. `report` says what was done, `problem`
    why it ended without a report.
    """

    id: int
    kind: str
    phase: Phase
    began: float
    ended: float | None = None
    total: int = 0
    done: int = 0
    report: Report | None = None
    problem: str = ""


@dataclass
class Progress:
    """How far something is that is done in many steps."""

    total: int = 0
    done: int = 0

    def expect(self, steps: int) -> None:
        """Note that so many more steps are to be done."""
        self.total += steps

    def step(self, _: object = None) -> None:
        """Note that a step is done."""
        self.done += 1


@dataclass
class _Running:
    kind: str
    began: float
    progress: Progress
    task: asyncio.Task[Report]
    ended: float | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Operations:
    """Begins operations, and tells how they stand. They go on when whoever began one has gone."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._known: OrderedDict[int, _Running] = OrderedDict()

    def begin(self, kind: str, work: Callable[[Progress], Awaitable[Report]]) -> LongOperation:
        """Begin one, and return how it stands."""
        number, progress = next(self._numbers), Progress()

        async def carry_out() -> Report:
            return await work(progress)

        task = asyncio.create_task(carry_out(), name=f"{kind} {number}")
        running = self._known[number] = _Running(kind, time.time(), progress, task)
        task.add_done_callback(lambda _: self._end(number, running))
        over = [known for known, operation in self._known.items() if operation.over.is_set()]
        for known in over[: max(0, len(over) - KEPT)]:
            del self._known[known]
        return self.get(number)

    def _end(self, number: int, running: _Running) -> None:
        running.ended = time.time()
        running.over.set()
        if not running.task.cancelled() and (error := running.task.exception()):
            logger.error("%s %d failed: %s", running.kind, number, error)

    def get(self, number: int) -> LongOperation:
        """Return how one stands. Raises `UnknownError`."""
        running = self._find(number)
        report, problem, phase = None, "", Phase.RUNNING
        if running.over.is_set():
            phase = Phase.FAILED
            if running.task.cancelled():
                problem = "the controller ended meanwhile"
            elif error := running.task.exception():
                problem = str(error) or type(error).__name__
            else:
                phase, report = Phase.DONE, running.task.result()
        return LongOperation(
            id=number,
            kind=running.kind,
            phase=phase,
            began=running.began,
            ended=running.ended,
            total=running.progress.total,
            done=running.progress.done,
            report=report,
            problem=problem,
        )

    async def wait(self, number: int, seconds: float) -> LongOperation:
        """Return how one stands once it is over, or after some seconds. Raises `UnknownError`."""
        try:
            async with asyncio.timeout(seconds):
                await self._find(number).over.wait()
        except TimeoutError:
            pass
        return self.get(number)

    def list(self) -> list[LongOperation]:
        """Return all that are known, the oldest first."""
        return [self.get(number) for number in self._known]

    async def close(self) -> None:
        """Stop what still runs."""
        tasks = [running.task for running in self._known.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, number: int) -> _Running:
        if number not in self._known:
            raise UnknownError(f"there is no operation {number}, or it is over for long")
        return self._known[number]
