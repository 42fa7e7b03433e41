"""Server-sent events: answers that go on until nobody follows them, of which there are not too many."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import StreamingResponse

from duet_p4.api.problems import UnavailableError


class EventStreams:
    """The streams of one kind of events, such as "the flows"; at most so many at a time."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._open = 0

    def answer(self, lines: AsyncGenerator[str]) -> StreamingResponse:
        """Return the answer that tells `lines`. Raises UnavailableError where as many are told as may be."""
        if self._open >= self._most:
            raise UnavailableError(f"{self._open} follow {self._what} already, which is as many as may")
        return StreamingResponse(self._counted(lines), media_type="text/event-stream")

    async def _counted(self, lines: AsyncGenerator[str]) -> AsyncGenerator[str]:
        self._open += 1
        try:
            async with aclosing(lines):
                async for line in lines:
                    yield line
        finally:
            self._open -= 1
