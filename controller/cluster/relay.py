"""Passes requests on from a follower to the leader, bodies and answers piece by piece."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from controller.cluster.lease import Leader
from duet_p4.api.problems import Problem, UnavailableError
from duet_p4.identity import Credentials, Identity, Role
from duet_p4.rest import problems
from duet_p4.rest.access import PEER

logger = logging.getLogger(__name__)

PASSED_ON = b"duet-passed-on"
"""The header of a request that a follower passes on, once: who asked it, or -."""

_PATIENCE_S = 5.0
_LOOK_S = 0.1
_ANSWER_S = 650.0
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
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the leader answer a request. While there is none, it is waited for, but not for ever."""
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
        if any(name == PASSED_ON for name, _ in headers):
            await refuse(scope, receive, send, f"{self._name} does not lead, and was taken for the leader")
            return
        peer: Identity | None = scope.get("state", {}).get(PEER)
        headers.append((PASSED_ON, peer.uri.encode() if peer else b"-"))
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
                passed_on = self._client(leader.url).build_request(
                    scope["method"], path, headers=headers, content=body
                )
                try:
                    reply = await self._client(leader.url).send(passed_on, stream=True)
                except httpx.ConnectError as error:
                    why = f"the leader {leader.name} does not answer: {error}"
                except httpx.HTTPError as error:
                    why = f"the leader {leader.name} gave no answer: {error or type(error).__name__}"
                    if scope["method"] != "GET":
                        await refuse(scope, receive, send, f"{why}; it may have done what was asked")
                        return
                else:
                    await _answer(reply, send)
                    return
            if time.monotonic() > deadline:
                await refuse(scope, receive, send, why)
                return
            await asyncio.sleep(_LOOK_S)

    def _client(self, url: str) -> httpx.AsyncClient:
        generation = self._credentials.generation if self._credentials else 0
        if url not in self._clients or generation != self._generation:
            self._generation = generation
            self._clients[url] = httpx.AsyncClient(
                base_url=url,
                verify=self._credentials.client() if self._credentials else True,
                timeout=httpx.Timeout(_ANSWER_S, connect=1.0),
                trust_env=False,
            )
        return self._clients[url]


async def _answer(reply: httpx.Response, send: Send) -> None:
    try:
        headers = [(name.lower(), value) for name, value in reply.headers.raw]
        headers = [(name, value) for name, value in headers if name not in _HOP_BY_HOP]
        await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
        async for piece in _pieces(reply):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await reply.aclose()


async def _pieces(reply: httpx.Response) -> AsyncIterator[bytes]:
    async for piece in reply.aiter_raw():
        yield piece


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
