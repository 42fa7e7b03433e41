"""The gateway: an operator's process between browsers on this machine and the controller's Unix socket.

It listens on the loopback address only. Whoever may open the controller's socket is the operator; a browser
proves that it is theirs by a cookie (`sessions`). The page itself comes from here as well as from the
controller, so that it can say so when the controller is away.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.access import BODIES
from controller.web import DEFAULT_PORT
from controller.web.page import HEADERS, add_page
from controller.web.sessions import Rights, Sessions
from duet_p4.api.problems import ForbiddenError, ProblemError
from duet_p4.model import Model
from duet_p4.rest import problems
from duet_p4.rest.app import create_app
from duet_p4.rest.http import Answering, ConnectError, HttpError, Wire
from duet_p4.rest.server import serve_local, serve_on

HOST = "127.0.0.1"

RIGHTS = "duet.rights"
"""Where a request's scope has what its browser may do."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "cookie",
        "authorization",
    }
)
_CONNECT_S = 5.0
_ANSWER_S = 600.0
_LOCKED_OUT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>DUET</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}
code{background:#8882;padding:.1em .3em}:root{color-scheme:light dark}</style>
<h1>This page needs its address</h1><p>The address that was printed works once, in one browser.
For another, run <code>duet web</code> on the machine of the controller and open what it prints.</p></html>"""


class Ticket(Model):
    """Which rights an address shall give."""

    rights: Rights = Rights.OPERATOR


class Address(Model):
    """An address for a browser; it works once."""

    url: str


class Session(Model):
    """What the browser that asks may do, and what there is besides the controller."""

    rights: Rights
    testbed: str | None = None


@asynccontextmanager
async def running(
    listener: socket.socket,
    sessions: Sessions,
    upstreams: Sequence[Path],
    local: Path,
    *,
    testbed: str | None = None,
    routers: Iterable[APIRouter] = (),
) -> AsyncIterator[str]:
    """Run a gateway on a bound `listener` to the controllers' sockets `upstreams`; yields its URL.

    Any controller of a cluster will do, as all pass on to the leader what they cannot answer.

    On the Unix socket `local` it gives out addresses. `routers` are served besides the controller, for a
    browser with the same rights. `testbed` names the testbed, if any.
    """
    port = listener.getsockname()[1]
    url = f"http://{HOST}:{port}"
    async with AsyncExitStack() as stack:
        ways = [Wire("http://controller", local=path, connect_s=_CONNECT_S, most=0) for path in upstreams]
        for way in ways:
            stack.push_async_callback(way.close)
        app = create_app("DUET page", access=None, bodies=BODIES)
        add_page(app)
        for router in routers:
            app.include_router(router)
        guard = Guard(app, sessions, port, testbed)
        _add_forwarding(app, ways, guard)
        desk = create_app("DUET page: addresses", access=None)

        @desk.post("/v1/addresses")
        async def give_address(body: Ticket) -> Address:
            """Return an address that works once."""
            return Address(url=f"{url}/?token={sessions.ticket(body.rights)}")

        await stack.enter_async_context(serve_local(desk, local))
        await stack.enter_async_context(serve_on(guard, listener, url))
        yield url


def require_operator(request: Request) -> None:
    """Raise ForbiddenError for a browser that may only look, where a GET is more than looking."""
    if request.scope.get(RIGHTS) is not Rights.OPERATOR:
        raise ForbiddenError(f"{request.url.path} is for an operator: this browser may only look")


class Guard:
    """Lets only browsers in that were given an address, and writes only of the page itself."""

    def __init__(self, app: ASGIApp, sessions: Sessions, port: int, testbed: str | None) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        self._cookie = f"duet-{port}"  # browsers do not keep the cookies of ports apart
        self.testbed = testbed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return _refused(403, f"this is not {host!r}: use the address that was printed", "foreign-host")
        if scope["path"] == "/" and (words := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
            return self._redeemed(words[0])
        rights = self._sessions.rights(_cookie(headers.get("cookie", ""), self._cookie))
        if rights is None:
            if scope["path"] == "/":
                return HTMLResponse(_LOCKED_OUT, 401, HEADERS)
            return _refused(401, "the browser has no session: open an address of `duet web`", "no-session")
        scope[RIGHTS] = rights
        if scope["method"] not in _READS:
            if origin is not None and origin.removeprefix("http://") != host:
                return _refused(403, f"a page of {origin} may not write here", "foreign-origin")
            if rights is not Rights.OPERATOR:
                return _refused(
                    403, "this browser may only look: ask for an address of an operator", "reader"
                )
        return None

    def _redeemed(self, word: str) -> Response:
        cookie = self._sessions.redeem(word)
        if cookie is None:
            return HTMLResponse(_LOCKED_OUT, 401, HEADERS)
        reply = RedirectResponse("/", 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        reply.set_cookie(self._cookie, cookie, path="/", httponly=True, samesite="strict")
        return reply


def _refused(status: int, detail: str, kind: str) -> Response:
    return problems.response(ProblemError(status, detail, kind).problem)


def _cookie(header: str, name: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return None
    return morsel.value if morsel else None


def _add_forwarding(app: FastAPI, ways: Sequence[Wire], guard: Guard) -> None:
    @app.get("/session", include_in_schema=False)
    async def session(request: Request) -> Session:
        """Say what the browser may do."""
        return Session(rights=request.scope[RIGHTS], testbed=guard.testbed)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
    @app.api_route("/metrics", methods=["GET"], include_in_schema=False)
    async def forward(request: Request) -> Response:
        """Pass a request on to the controller, and its answer back as it comes."""
        try:
            answer = await _ask(ways, request)
        except HttpError as error:
            return _refused(502, f"the controller does not answer: {error}", "controller-away")

        async def content() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.pieces():
                    yield piece
            except HttpError:
                return  # The controller went away; the page sees the stream end, and asks again.
            finally:
                answer.close()

        return StreamingResponse(content(), answer.status, dict(_passed(answer.headers)))


async def _ask(ways: Sequence[Wire], request: Request) -> Answering:
    """Ask the first controller that takes the request. Raises `HttpError` of the last."""
    body = await request.body()
    path, query = request.scope["raw_path"].decode("latin-1"), request.url.query
    target = f"{path}?{query}" if query else path
    for way in ways:
        try:
            return await way.open(
                request.method, target, _passed(request.headers.items()), body or None, silent_s=_ANSWER_S
            )
        except ConnectError:
            # Nothing was sent yet, so another may be asked.
            if way is ways[-1]:
                raise
    raise ConnectError("there is no controller")


def _passed(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]


def bind(port: int | None) -> socket.socket:
    """Return a socket bound to a port of the loopback address; None is the usual one, or else any.

    Raises OSError naming an address that is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listener.bind((HOST, DEFAULT_PORT if port is None else port))
        except OSError:
            if port is not None:
                raise
            listener.bind((HOST, 0))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
