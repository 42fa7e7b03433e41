"""The event log: what happened, written to the store and told to whoever listens.

Events have consecutive numbers. They are told once they are stored, so that none that was told is ever
forgotten. Those of the last moment before a power cut may be missing: what they are about is not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from controller.records import Event
from controller.store import Batch, StateStore, StoreError

logger = logging.getLogger(__name__)

_ASKED_FOR = {"stated", "vip-added", "vip-changed", "vip-removed", "vip-placed"}
"""Kinds of events that come by the thousand when somebody asks for it: the store has them."""

_PAGE = 1000
_UNSTORED = 10_000
_RETRY_S = 1.0


class EventLog:
    """Numbers events, stores them in order, and passes them on. `run` does the storing."""

    def __init__(self, store: StateStore, last: int) -> None:
        """`last` is the number of the last event in the store."""
        self._store = store
        self._next = last + 1
        self._stored = last
        self._waiting: deque[Event] = deque()
        self._due = asyncio.Event()
        self._told = asyncio.Condition()

    @property
    def last(self) -> int:
        """The number of the last event in the store."""
        return self._stored

    async def heard(self, last: int) -> None:
        """Note that somebody else stored events up to a number."""
        async with self._told:
            self._stored = max(self._stored, last)
            self._next = self._stored + 1
            self._told.notify_all()

    def add(self, kind: str, subject: str, **detail: Any) -> None:
        """Record that `kind` happened to `subject`; `detail` must be JSON or have a text form."""
        plain = json.loads(json.dumps(detail, default=str))
        if len(self._waiting) >= _UNSTORED:
            logger.error("the store takes no events: %s %s %s is lost", kind, subject, plain)
            return
        event = Event(id=self._next, time=time.time(), kind=kind, subject=subject, detail=plain)
        self._next += 1
        logger.log(
            logging.DEBUG if kind in _ASKED_FOR else logging.INFO, "%s %s %s", kind, subject, plain or ""
        )
        self._waiting.append(event)
        self._due.set()

    async def run(self) -> None:
        """Store events as they come, until cancelled; what the store refuses is tried again."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.flush()
            except StoreError as error:
                logger.error("events cannot be stored: %s", error)
                await asyncio.sleep(_RETRY_S)
                self._due.set()

    async def flush(self) -> None:
        """Store what there is. Raises `StoreError`."""
        async with self._told:
            events = list(self._waiting)
            if not events:
                return
            await self._store.commit(Batch(events=events))
            for _ in events:
                self._waiting.popleft()
            self._stored = events[-1].id
            self._told.notify_all()

    async def page(self, after: int | None, limit: int) -> list[Event]:
        """Return up to `limit` events with a number above `after`, oldest first; with None, the newest."""
        return await self._store.events(after, limit)

    async def follow(self, after: int | None, quiet_s: float) -> AsyncIterator[Event | None]:
        """Yield every event with a number above `after` (None: of now), without a gap, and None when
        nothing has happened for `quiet_s`.

        All are read from the store, so a slow reader misses none but those that the store itself forgot:
        of these the first event that is left tells, by its number.
        """
        last = self._stored if after is None else after
        while True:
            while last < self._stored:
                for event in await self._store.events(last, _PAGE):
                    last = event.id
                    yield event
            if not await self._more_than(last, quiet_s):
                yield None

    async def _more_than(self, last: int, quiet_s: float) -> bool:
        """Wait until an event after `last` is stored; returns whether there was one in time."""
        try:
            async with asyncio.timeout(quiet_s), self._told:
                return await self._told.wait_for(lambda: self._stored > last)
        except TimeoutError:
            return False
