"""Posts what an agent knows to monitoring: at once when it changes, and again now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from pydantic import BaseModel

from duet_p4.identity import Credentials
from duet_p4.rest.client import RestClient, RestError

logger = logging.getLogger(__name__)


HEALTH_REPORTS = "/v1/reports/health"
PORT_REPORTS = "/v1/reports/ports"


async def reporter_of(
    urls: Sequence[str],
    path: str,
    credentials: Credentials | None,
    interval_s: float,
    stack: AsyncExitStack,
) -> Reporter:
    """Return what posts to `path` of a service that answers at some URLs; `stack` closes its connections."""
    clients = [await stack.enter_async_context(RestClient(url, credentials=credentials)) for url in urls]
    return Reporter(clients, path, interval_s)


class Reporter:
    """Posts reports to `path` of a service when they change, and again every `interval_s` seconds.

    Of several `clients` one is asked until it does not answer, then the next.
    """

    def __init__(self, clients: Sequence[RestClient], path: str, interval_s: float) -> None:
        self._clients = tuple(clients)
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
            problem = await self._post(report())
            if problem != self._said:
                logger.warning("cannot report: %s", problem) if problem else logger.info("can report again")
                self._said = problem
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _post(self, report: BaseModel) -> str:
        """Post a report to the first that takes it; returns what is wrong where none does."""
        problem = ""
        for client in self._clients:
            try:
                await client.call("POST", self._path, object, body=report)
            except RestError as error:
                problem = problem or str(error)
                continue
            if client is not self._clients[0]:
                self._clients = (client, *(other for other in self._clients if other is not client))
            return ""
        return problem
