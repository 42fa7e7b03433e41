"""Tasks that run for as long as their agent does: one that ends is said, and started again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from duet_p4.backoff import Backoff

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_LONGEST_RETRY_S = 10.0
_FORGIVEN_S = 30.0


class Tasks:
    """The tasks of one agent, each by a name that says what it does."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[str, float]] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work from now on, again from the start whenever it fails; in place of what has the name."""
        if name in self._tasks:
            self._tasks[name].cancel()
        self._tasks[name] = asyncio.create_task(self._keep(name, work), name=name)

    async def stop(self) -> None:
        """Cancel all, and wait for them."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    def problem(self) -> str:
        """Return what failed lately, or nothing."""
        now = asyncio.get_running_loop().time()
        lately = (why for why, since in self._failed.values() if now - since < _FORGIVEN_S)
        return "; ".join(lately)

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(_RETRY_S, _LONGEST_RETRY_S)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await work()
                return
            except Exception as error:
                logger.exception("%s failed and is started again", name)
                self._failed[name] = (f"{name} failed: {error!r}", loop.time())
            if loop.time() - began > _FORGIVEN_S:
                backoff.succeeded()
            await asyncio.sleep(backoff.failed())
