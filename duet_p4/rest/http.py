"""The client's side of HTTP as this project speaks it: a request, and its answer in whole or as it comes.

Over a socket it is aiohttp's, whose parser is compiled: a controller asks dozens of agents something each
second, and several of them for every change, so what a request costs is what a change costs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlencode

import aiohttp
from aiohttp.client import _RequestContextManager
from starlette.types import ASGIApp, Message
from yarl import URL

_IDLE_S = 30.0
"""How long an idle connection is kept: less than servers do, so that one that is used again is alive."""

MOST = 64
"""Connections to one service at a time, where nobody says otherwise."""


class HttpError(Exception):
    """There is no connection, or it broke off, or its other end does not speak HTTP."""


class ConnectError(HttpError):
    """There is no connection: nothing was sent."""


@dataclass(frozen=True)
class Reply:
    """An answer: its status and the reason that goes with it, the media type, the body."""

    status: int
    reason: str
    content_type: str
    content: bytes

    @property
    def text(self) -> str:
        """The body as text, as far as it is."""
        return self.content.decode(errors="replace")


class Answering:
    """An answer that begins: its status and headers, and the body as it comes. Is to be closed."""

    def __init__(self, reply: aiohttp.ClientResponse) -> None:
        self._reply = reply
        self.status = reply.status
        self.headers = tuple(
            (name.decode("latin-1"), text.decode("latin-1")) for name, text in reply.raw_headers
        )

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, as it was sent. Raises `HttpError` where it breaks off."""
        with _told():
            async for piece in self._reply.content.iter_any():
                yield piece

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of the body as they come, however long they are. Raises `HttpError`."""
        rest = b""
        async for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    def close(self) -> None:
        """Let go of what has not come yet."""
        self._reply.close()


class Transport(Protocol):
    """A way to a service."""

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Send a request and return its answer. Raises `HttpError`."""

    async def close(self) -> None:
        """Close what is open."""


def target_of(path: str, query: Mapping[str, str]) -> str:
    """Return what a request asks for, encoded."""
    encoded = quote(path, safe="/:@!$&'()*+,;=~")
    return f"{encoded}?{urlencode(query)}" if query else encoded


@contextmanager
def _told() -> Iterator[None]:
    """Have the errors of connections be ours."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise ConnectError(_why(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise HttpError(_why(error)) from error


def _why(error: Exception) -> str:
    return f"{error}" or type(error).__name__


class Wire:
    """Connections to the service at `url`, or to its Unix socket `local`; `tls` is for https.

    A connection may take `connect_s` to come about, and there are at most `most` at a time; further requests
    wait for one.
    """

    def __init__(
        self,
        url: str,
        *,
        local: Path | None = None,
        tls: ssl.SSLContext | None = None,
        connect_s: float | None = None,
        most: int = MOST,
    ) -> None:
        self.url = url.rstrip("/")
        self._local = local
        self._tls = tls
        self._connect_s = connect_s
        self._most = most
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """See `Transport`."""
        with _told():
            async with self._request(method, target, headers.items(), body) as reply:
                content = await reply.read()
        return Reply(reply.status, reply.reason or "", reply.headers.get("Content-Type", ""), content)

    async def open(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | None,
        *,
        silent_s: float | None = None,
    ) -> Answering:
        """Send a request and return its answer once it begins.

        Nothing may come for `silent_s` at a time. Raises `HttpError`, `ConnectError` where nothing was sent.
        """
        with _told():
            return Answering(await self._request(method, target, headers, body, silent_s))

    async def close(self) -> None:
        """See `Transport`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | None,
        silent_s: float | None = None,
    ) -> _RequestContextManager:
        if self._session is None:
            self._session = self._opened()
        return self._session.request(
            method,
            URL(self.url + target, encoded=True),
            headers=list(headers),
            data=body,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s, sock_read=silent_s),
        )

    def _opened(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._local is not None:
            connector = aiohttp.UnixConnector(str(self._local), limit=self._most, keepalive_timeout=_IDLE_S)
        else:
            connector = aiohttp.TCPConnector(
                ssl=self._tls or True, limit=self._most, keepalive_timeout=_IDLE_S, use_dns_cache=False
            )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Content-Type"),
        )
        # It would send a PUT or DELETE again whose connection ends without an answer, and tell of the second
        # answer only: that there is no such VIP, where the first has removed it.
        session._retry_connection = False
        return session


class InProcess:
    """A service of this process, asked without a socket.

    As over one, what goes wrong inside of it is an answer, and no exception of the caller's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """See `Transport`."""
        path, _, query = target.partition("?")
        sent = {"host": "controller", **headers, "content-length": str(len(body or b""))}
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": None,
            "server": None,
        }
        asked, answered = False, asyncio.Event()
        status, fields = 500, dict[str, str]()
        parts: list[bytes] = []

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await answered.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body or b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, fields
            if message["type"] == "http.response.start":
                status = message["status"]
                found = message.get("headers", ())
                fields = {name.decode().lower(): value.decode("latin-1") for name, value in found}
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    answered.set()

        try:
            await self._app(scope, receive, send)
        except Exception:
            # The application has said so in its log, and answered 500 if it could.
            status = status if answered.is_set() else 500
        return Reply(status, "", fields.get("content-type", ""), b"".join(parts))

    async def close(self) -> None:
        """See `Transport`: nothing is open."""
