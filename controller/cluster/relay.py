"""Passes requests on from a follower to the leader, bodies and answers piece by piece."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from controller.cluster.lease import Leader
from duet_p4.api.problems import Problem, UnavailableError
from duet_p4.identity import Credentials, Identity, Role
from duet_p4.rest import problems
from duet_p4.rest.access import PEER
from duet_p4.rest.http import Answering, ConnectError, HttpError, Wire

logger = logging.getLogger(__name__)

PASSED_ON = b"duet-passed-on"
"""The header of a request that a follower passes on, once: who asked it, or -."""

_PATIENCE_S = 5.0
_LOOK_S = 0.1
_ANSWER_S = 650.0
_CONNECT_S = 1.0
_HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"host"}


class Relay:
    """The way of requests to whoever leads; `leader` says who that is, None while nobody does."""

    def __init__(
        self, name: str, leader: Callable[[], Awaitable[Leader | None]], credentials: Credentials | None
    ) -> None:
        self._name = name
        self._leader = leader
        self._credentials = credentials
        self._generation = 0
        self._ways: dict[str, Wire] = {}
        self._retired: list[Wire] = []

    async def close(self) -> None:
        """Close the connections."""
        for way in (*self._ways.values(), *self._retired):
            await way.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the leader answer a request. While there is none, it is waited for, but not for ever."""
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
        if any(name == PASSED_ON for name, _ in headers):
            await refuse(scope, receive, send, f"{self._name} does not lead, and was taken for the leader")
            return
        peer: Identity | None = scope.get("state", {}).get(PEER)
        headers.append((PASSED_ON, peer.uri.encode() if peer else b"-"))
        passed_on = [(name.decode("latin-1"), text.decode("latin-1")) for name, text in headers]
        path = scope["raw_path"].decode() + (
            f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        )
        request = Request(scope, receive)
        body = await request.body()
        deadline = time.monotonic() + _PATIENCE_S
        why = "there is no leader"
        while True:
            leader = await self._leader()
            if leader is not None and leader.name != self._name:
                if await request.is_disconnected():  # Nobody waits for it any more, so it is not done late.
                    return
                try:
                    answer = await self._way(leader.url).open(
                        scope["method"], path, passed_on, body or None, silent_s=_ANSWER_S
                    )
                except ConnectError as error:
                    why = f"the leader {leader.name} does not answer: {error}"
                except HttpError as error:
                    why = f"the leader {leader.name} gave no answer: {error}"
                    if scope["method"] != "GET":
                        await refuse(scope, receive, send, f"{why}; it may have done what was asked")
                        return
                else:
                    await _answer(answer, send)
                    return
            if time.monotonic() > deadline:
                await refuse(scope, receive, send, why)
                return
            await asyncio.sleep(_LOOK_S)

    def _way(self, url: str) -> Wire:
        generation = self._credentials.generation if self._credentials else 0
        if generation != self._generation:
            self._generation = generation
            self._retired += self._ways.values()  # What they were asked they still answer.
            self._ways = {}
        if url not in self._ways:
            tls = self._credentials.client() if self._credentials else None
            self._ways[url] = Wire(url, tls=tls, connect_s=_CONNECT_S, most=0)
        return self._ways[url]


async def _answer(answer: Answering, send: Send) -> None:
    try:
        headers = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in answer.headers]
        headers = [(name, text) for name, text in headers if name not in _HOP_BY_HOP]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for piece in answer.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        answer.close()


def asked_by(scope: Scope) -> Scope:
    """Return a request with who asked it first, where another controller passes it on.

    Anybody else who says such a thing is not believed, and remains who they are.
    """
    said = dict(scope["headers"]).get(PASSED_ON)
    peer: Identity | None = scope.get("state", {}).get(PEER)
    if said is None or peer is None or peer.role is not Role.CONTROLLER:
        return scope
    try:
        first: Identity | None = Identity.from_uris([said.decode("latin-1")])
    except ValueError:
        first = None
    return {**scope, "state": {**scope.get("state", {}), PEER: first}}


async def refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    """Answer 503: the cluster cannot do what is asked now."""
    problem: Problem = UnavailableError(why).problem
    await problems.response(problem, {"Retry-After": "1"})(scope, receive, send)
