"""The event log: what happened, kept in the store and told to whoever listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from controller.store import Event, Store

logger = logging.getLogger(__name__)

_BACKLOG = 1000


class EventLog:
    """Appends events to the store and passes them on to subscribers as they come."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subscribers: set[asyncio.Queue[Event]] = set()

    def add(self, kind: str, subject: str, **detail: Any) -> Event:
        """Record that `kind` happened to `subject`; `detail` must be JSON or have a text form."""
        event = self._store.add_event(kind, subject, **detail)
        logger.info("%s %s %s", kind, subject, event.detail or "")
        for queue in self._subscribers:
            if queue.full():
                queue.get_nowait()  # a reader that fell behind loses the oldest; the store has them all
            queue.put_nowait(event)
        return event

    async def follow(self, after: int) -> AsyncIterator[Event]:
        """Yield every event with an id above `after`: those in the store, then those to come."""
        queue: asyncio.Queue[Event] = asyncio.Queue(_BACKLOG)
        self._subscribers.add(queue)
        try:
            last = after
            while past := self._store.events(after=last, limit=_BACKLOG) if last else []:
                for event in past:
                    yield event
                last = past[-1].id
            while True:
                event = await queue.get()
                if event.id > last:
                    last = event.id
                    yield event
        finally:
            self._subscribers.discard(queue)
