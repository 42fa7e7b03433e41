"""One controller's StreamChannel: what it is owed, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
from finsy.proto import p4r

QUEUE_LIMIT = 4096
"""Messages that a slow controller may be behind; further packets, digests and errors are dropped."""

_log = logging.getLogger(__name__)


class Stream:
    """A queue of messages, and the task that writes them to a controller."""

    def __init__(self, write: Callable[[p4r.StreamMessageResponse], Awaitable[None]]) -> None:
        """Begin to write what is sent; on a running event loop."""
        self._outgoing: asyncio.Queue[p4r.StreamMessageResponse] = asyncio.Queue()
        self._dropped = 0
        self._task = asyncio.create_task(self._send(write))

    def send(self, message: p4r.StreamMessageResponse) -> None:
        """Send a message that the controller must get."""
        self._outgoing.put_nowait(message)

    def offer(self, message: p4r.StreamMessageResponse) -> bool:
        """Send a packet, a notification or an error; False where the controller is far behind."""
        if self._outgoing.qsize() < QUEUE_LIMIT:
            self.send(message)
            return True
        if not self._dropped:
            _log.warning("a controller is %d messages behind: drops its packets and errors", QUEUE_LIMIT)
        self._dropped += 1
        return False

    def close(self) -> None:
        """Write nothing more."""
        self._task.cancel()

    async def _send(self, write: Callable[[p4r.StreamMessageResponse], Awaitable[None]]) -> None:
        with suppress(grpc.aio.BaseError, grpc.aio.UsageError):
            while True:
                await write(await self._outgoing.get())
