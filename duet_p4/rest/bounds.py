"""Bounds on what a peer can make a service hold: bodies here, connections and headers in `protocol`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from duet_p4.api.problems import Problem
from duet_p4.rest import problems

MIB = 1 << 20


@dataclass(frozen=True)
class Bodies:
    """How many bytes a request's body may have, in general and by path, and how long it may take."""

    most: int = 4 * MIB
    by_path: Mapping[str, int] = field(
        default_factory=lambda: {"/v1/changes": 64 * MIB, "/v1/state": 64 * MIB}
    )
    within_s: float = 60.0


class BodyBound:
    """Refuses bodies that are too big (413) or too slow (408), without keeping what has come of them."""

    def __init__(self, app: ASGIApp, bodies: Bodies) -> None:
        self._app = app
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with a body that ends in time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._bodies.by_path.get(scope["path"], self._bodies.most)
        stated = dict(scope["headers"]).get(b"content-length", b"0").decode("latin-1")
        if not re.fullmatch(r"\d{1,18}", stated) or int(stated) > most:
            await self._refuse(scope, receive, send, 413, f"has {stated[:20]} bytes of at most {most}")
            return
        begun = False
        got = 0
        deadline = asyncio.get_running_loop().time() + self._bodies.within_s

        async def bounded() -> Message:
            nonlocal got
            try:
                async with asyncio.timeout_at(deadline if got >= 0 else None):
                    message = await receive()
            except TimeoutError:
                raise _RefusedBodyError(408, f"is not there in {self._bodies.within_s:g} s") from None
            if message["type"] == "http.request" and got >= 0:
                got += len(message.get("body", b""))
                if got > most:
                    raise _RefusedBodyError(413, f"has more than {most} bytes")
                if not message.get("more_body", False):
                    got = -1  # what is received from now on is the end of the connection
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, bounded, noted)
        except _RefusedBodyError as error:
            if begun:
                raise
            await self._refuse(scope, receive, send, error.status, str(error))

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
        title = {413: "Content Too Large", 408: "Request Timeout"}[status]
        detail = f"{scope['method']} {scope['path']}: the body {why}"
        problem = Problem(title=title, status=status, detail=detail)
        await problems.response(problem, {"Connection": "close"})(scope, receive, send)


class _RefusedBodyError(BaseException):
    """Raised through the application, which makes problems of its own of all exceptions it knows."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
