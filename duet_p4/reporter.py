"""Posts what an agent knows to monitoring: at once when it changes, and again now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from pydantic import BaseModel

from duet_p4.identity import Credentials
from duet_p4.rest.client import RestClient, RestError

logger = logging.getLogger(__name__)


async def reporter_of(
    url: str, credentials: Credentials | None, interval_s: float, stack: AsyncExitStack
) -> Reporter:
    """Return what posts to a URL; `stack` closes its connections."""
    parts = urlsplit(url)
    client = RestClient(f"{parts.scheme}://{parts.netloc}", credentials=credentials)
    return Reporter(await stack.enter_async_context(client), parts.path, interval_s)


class Reporter:
    """Posts reports to `path` of a service when they change, and again every `interval_s` seconds."""

    def __init__(self, client: RestClient, path: str, interval_s: float) -> None:
        self._client = client
        self._path = path
        self._interval_s = interval_s
        self._due = asyncio.Event()
        self._said = ""

    def changed(self) -> None:
        """Report at once."""
        self._due.set()

    async def run(self, report: Callable[[], BaseModel]) -> None:
        """Report until cancelled; a report that fails is made up for by the next one."""
        while True:
            self._due.clear()
            problem = ""
            try:
                await self._client.call("POST", self._path, object, body=report())
            except RestError as error:
                problem = str(error)
            if problem != self._said:
                logger.warning("cannot report: %s", problem) if problem else logger.info("can report again")
                self._said = problem
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()
            except TimeoutError:
                continue
