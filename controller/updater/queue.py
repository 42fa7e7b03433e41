"""Which addresses are to be looked at, the most urgent first; each by one worker at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Generic, TypeVar

from controller.updater.lane import Priority
from duet_p4.telemetry import current

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long an address that could not be brought where it shall be is left alone: first, and at most."""

Answer = TypeVar("Answer")


@dataclass
class _Entry(Generic[Answer]):
    priority: Priority
    since: float
    due: float
    cause: SpanContext | None = None
    waiters: list[asyncio.Future[Answer]] = field(default_factory=list)


class WorkQueue(Generic[Answer]):
    """A queue of addresses. One that is added again while it waits keeps its place, or a better one.

    One that is added while it is being worked on comes again afterwards.
    """

    def __init__(self) -> None:
        self._entries: dict[IPv4Address, _Entry[Answer]] = {}
        self._heap: list[tuple[Priority, int, IPv4Address]] = []
        self._later: list[tuple[float, int, IPv4Address]] = []
        self._numbers = itertools.count()
        self._working: dict[IPv4Address, _Entry[Answer]] = {}
        self._failures: dict[IPv4Address, int] = {}
        self._idle: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, address: IPv4Address, priority: Priority, *, in_s: float = 0.0) -> None:
        """Have an address looked at, at once or in a while."""
        now = time.monotonic()
        entry = self._entries.get(address)
        if entry is not None and entry.priority <= priority and entry.due <= now + in_s:
            entry.cause = entry.cause or current()
            return
        if entry is None:
            entry = self._entries[address] = _Entry(priority, now, now + in_s)
        entry.cause = entry.cause or current()
        entry.priority = min(entry.priority, priority)
        entry.due = min(entry.due, now + in_s)
        if address not in self._working:
            self._push(address, entry)

    def wait(self, address: IPv4Address, priority: Priority) -> asyncio.Future[Answer]:
        """Have an address looked at, and return what will come of it."""
        self.add(address, priority)
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._entries[address].waiters.append(done)
        return done

    async def get(self) -> tuple[IPv4Address, Priority]:
        """Return the most urgent address that is due; `done` must be called for it."""
        while True:
            now = time.monotonic()
            while self._heap:
                priority, _, address = heapq.heappop(self._heap)
                entry = self._entries.get(address)
                if entry is None or address in self._working or entry.priority != priority or entry.due > now:
                    continue
                del self._entries[address]
                self._working[address] = entry
                return address, priority
            await self._rest()

    def cause(self, address: IPv4Address) -> SpanContext | None:
        """Return who first had an address looked at that is being worked on, as far as that is traced."""
        return self._working[address].cause

    def done(self, address: IPv4Address, answer: Answer, *, failed: bool) -> None:
        """Say what came of an address. One that failed comes again by itself, after a pause."""
        entry = self._working.pop(address)
        for waiter in entry.waiters:
            if not waiter.done():
                waiter.set_result(answer)
        if again := self._entries.get(address):
            self._push(address, again)
        if not failed:
            self._failures.pop(address, None)
            return
        failures = self._failures.get(address, 0)
        self._failures[address] = failures + 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures, 16))
        self.add(address, max(entry.priority, Priority.REPAIR), in_s=pause)

    def due(self) -> list[IPv4Address]:
        """Return the addresses that are due or being worked on, in order."""
        now = time.monotonic()
        return sorted({a for a, entry in self._entries.items() if entry.due <= now} | self._working.keys())

    @property
    def depth(self) -> int:
        """How many addresses are due or being worked on."""
        now = time.monotonic()
        return sum(entry.due <= now for entry in self._entries.values()) + len(self._working)

    @property
    def idle(self) -> bool:
        """Whether nothing is due, and nobody works."""
        return self.depth == 0

    def oldest_s(self) -> float:
        """Return for how long the address that has waited the longest has been due."""
        now = time.monotonic()
        due = [entry.due for entry in self._entries.values()] + [e.due for e in self._working.values()]
        return max(0.0, now - min(due, default=now))

    def retry_in(self, address: IPv4Address) -> float | None:
        """Return in how many seconds an address is looked at again; None where that is not foreseen."""
        if address in self._working:
            return 0.0
        entry = self._entries.get(address)
        return max(0.0, entry.due - time.monotonic()) if entry else None

    async def _rest(self) -> None:
        """Wait for something that is due; of those who wait, one is woken for each thing."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self._wake()
            raise

    def _wake(self) -> None:
        while self._idle:
            woken = self._idle.popleft()
            if not woken.done():
                woken.set_result(None)
                return

    def _push(self, address: IPv4Address, entry: _Entry[Answer]) -> None:
        if entry.due <= time.monotonic():
            heapq.heappush(self._heap, (entry.priority, next(self._numbers), address))
            self._wake()
        else:
            heapq.heappush(self._later, (entry.due, next(self._numbers), address))
            if self._later[0][2] == address:
                self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        in_s = max(0.0, self._later[0][0] - time.monotonic())
        self._alarm = asyncio.get_running_loop().call_later(in_s, self._ripen)

    def _ripen(self) -> None:
        """Have looked at what has become due."""
        self._alarm = None
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, _, address = heapq.heappop(self._later)
            if (entry := self._entries.get(address)) and address not in self._working:
                self._push(address, entry)
        if self._later:
            self._set_alarm()
