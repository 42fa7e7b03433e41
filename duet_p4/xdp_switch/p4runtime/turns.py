"""Who may touch what at the same time, such that all of it could have happened one after the other.

A Write holds the objects that it changes (tables, profiles, arrays), so Writes to different objects go on
beside each other, and one that leads around a dead neighbour waits for no other. A Read holds what it reads
while it takes a snapshot. A change of the pipeline or of the primary is alone.
(P4Runtime specification, "Parallelism of Read and Write Requests", "Batching and Ordering of Updates".)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Hashable
from contextlib import asynccontextmanager

PATIENCE = 64
"""How many Writes may pass a Read that waits."""


class _Turn:
    """A wish for some objects, None for all; `granted` is done once it holds them."""

    def __init__(self, objects: Collection[Hashable] | None, *, lets_pass: bool) -> None:
        self.objects = frozenset(objects) if objects is not None else None
        self.patience = PATIENCE if lets_pass else 0
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def conflicts(self, other: _Turn) -> bool:
        """Whether the two want the same thing."""
        if self.objects is None or other.objects is None:
            return True
        return not self.objects.isdisjoint(other.objects)


class Turns:
    """A queue in which whoever conflicts with nobody before him goes first."""

    def __init__(self) -> None:
        self._holding: list[_Turn] = []
        self._waiting: list[_Turn] = []

    @asynccontextmanager
    async def hold(
        self, objects: Collection[Hashable] | None, *, lets_pass: bool = False
    ) -> AsyncIterator[None]:
        """Hold objects, None for all there are; with `lets_pass` others that came later may go first."""
        turn = _Turn(objects, lets_pass=lets_pass)
        self._waiting.append(turn)
        self._grant()
        try:
            await turn.granted
            yield
        finally:
            # A wish whose task was cancelled may wait yet, or have been granted just then.
            (self._waiting if turn in self._waiting else self._holding).remove(turn)
            self._grant()

    def _grant(self) -> None:
        ahead = list(self._holding)
        passed: list[_Turn] = []
        for turn in list(self._waiting):
            if not any(turn.conflicts(other) for other in ahead):
                self._waiting.remove(turn)
                self._holding.append(turn)
                ahead.append(turn)
                if not turn.granted.done():
                    turn.granted.set_result(None)
                for other in passed:
                    other.patience -= other.conflicts(turn)
            elif turn.patience > 0:
                passed.append(turn)
            else:
                ahead.append(turn)
