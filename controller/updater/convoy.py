"""What operators ask for at the same time sets out together: then it shares requests, all the way.

One change costs every device that it concerns a request, and every switch a route. Many that set out at once
cost hardly more of those than one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

LONGEST_S = 0.2
"""How long those on their way keep others waiting, at most."""

GATHER_S = 0.01
"""How long is waited for more once those that were waited for have arrived: they may come again."""


@dataclass
class _Trip:
    size: int
    left: int
    over: bool = False


class Convoy:
    """Keeps those that come while others are on their way until these have arrived, or for long enough.

    One that comes while nobody is on the way waits for nothing.
    """

    def __init__(self) -> None:
        self._trip: _Trip | None = None
        self._waiting: list[asyncio.Future[_Trip]] = []

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """Wait to set out; be on the way while the context lasts."""
        trip = await self._departure() if self._trip is not None else self._set_out(1)
        try:
            yield
        finally:
            self._leave(trip)

    async def _departure(self) -> _Trip:
        departure: asyncio.Future[_Trip] = asyncio.get_running_loop().create_future()
        self._waiting.append(departure)
        try:
            return await departure
        except asyncio.CancelledError:
            if departure.done() and not departure.cancelled():
                self._leave(departure.result())
            raise

    def _set_out(self, size: int) -> _Trip:
        trip = self._trip = _Trip(size, size)
        asyncio.get_running_loop().call_later(LONGEST_S, self._over, trip)
        return trip

    def _leave(self, trip: _Trip) -> None:
        trip.left -= 1
        if not trip.left:
            self._over(trip)

    def _over(self, trip: _Trip) -> None:
        """Have a trip keep nobody waiting any more."""
        if trip.over:
            return
        trip.over = True
        if self._waiting or trip.size > 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._next)
        else:
            self._trip = None

    def _next(self) -> None:
        waiting, self._waiting = [one for one in self._waiting if not one.done()], []
        if not waiting:
            self._trip = None
            return
        trip = self._set_out(len(waiting))
        for departure in waiting:
            departure.set_result(trip)
