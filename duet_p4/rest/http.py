"""The client's side of HTTP/1.1 as this project's services speak it, over connections that stay open.

No redirects, cookies, compression or proxies. A controller asks dozens of agents something each second, and
several of them for every change: what a request costs is what a change costs.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlencode, urlsplit

from starlette.types import ASGIApp, Message

_IDLE_S = 30.0
"""How long an idle connection is kept: less than servers do, so that one that is used again is alive."""

_KEPT = 8
_HEADER_END = b"\r\n\r\n"
_LINE_END = b"\r\n"
_LONGEST_HEADER = 65_536


class HttpError(Exception):
    """There is no connection, or it broke off, or its other end does not speak HTTP."""


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


class Wire:
    """Connections to the service at `url`, or to its Unix socket `local`; `tls` is for https."""

    def __init__(self, url: str, *, local: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "localhost"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._local = local
        self._tls = tls if parts.scheme == "https" else None
        self._named = f"Host: {parts.netloc or self._host}\r\n"
        self._idle: list[tuple[float, _Connection]] = []

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """See `Transport`."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if body is not None or method in ("POST", "PUT"):
            lines += f"Content-Length: {len(body or b'')}\r\n"
        head = f"{method} {target} HTTP/1.1\r\n{self._named}Accept: */*\r\n{lines}\r\n".encode("latin-1")
        connection = self._take() or await self._connect()
        try:
            reply = await connection.ask(head + (body or b""))
        except BaseException:
            connection.abort()
            raise
        self._give_back(connection)
        return reply

    async def close(self) -> None:
        """See `Transport`."""
        idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.abort()

    def _take(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            since, connection = self._idle.pop()
            if connection.usable and now < since + _IDLE_S:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: _Connection) -> None:
        if connection.usable and len(self._idle) < _KEPT:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.abort()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            if self._local is not None:
                _, connection = await loop.create_unix_connection(_Connection, str(self._local))
            else:
                name = self._host if self._tls else None
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._tls, server_hostname=name
                )
        except OSError as error:
            raise HttpError(f"{error}" or type(error).__name__) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._reply: asyncio.Future[Reply] | None = None
        self._head: tuple[int, str, dict[str, str]] | None = None
        self._last = False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._last and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its answer. Raises `HttpError`."""
        if self._transport is None or self._transport.is_closing():
            raise HttpError("the connection was closed")
        self._reply = asyncio.get_running_loop().create_future()
        self._head = None
        self._transport.write(request)
        return await self._reply

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        try:
            self._advance(ended=False)
        except ValueError as error:
            self._fail(HttpError(f"the answer is no HTTP: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        try:
            if exc is None:
                self._advance(ended=True)
        except ValueError:
            pass
        self._fail(HttpError(f"the connection broke off: {exc}" if exc else "the connection was closed"))

    def _advance(self, *, ended: bool) -> None:
        """Take the answer out of what has come, if it is whole."""
        if self._reply is None or self._reply.done():
            return
        while self._head is None or self._head[0] < HTTPStatus.OK:  # what is below is said in between
            self._head = self._parse_head()
            if self._head is None:
                return
        status, reason, headers = self._head
        body = self._parse_body(status, headers, ended=ended)
        if body is None:
            return
        self._last = headers.get("connection", "").lower() == "close"
        self._reply.set_result(Reply(status, reason, headers.get("content-type", ""), body))

    def _parse_head(self) -> tuple[int, str, dict[str, str]] | None:
        end = self._buffer.find(_HEADER_END)
        if end < 0:
            if len(self._buffer) > _LONGEST_HEADER:
                raise ValueError("its header has no end")
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + len(_HEADER_END)]
        version, _, rest = first.partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdecimal():
            raise ValueError(f"it begins with {first[:40]!r}")
        fields = (line.partition(":") for line in lines)
        return int(code), reason, {name.lower(): value.strip() for name, _, value in fields}

    def _parse_body(self, status: int, headers: Mapping[str, str], *, ended: bool) -> bytes | None:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._parse_chunks()
        if "content-length" not in headers:
            return bytes(self._buffer) if ended else None
        length = int(headers["content-length"])
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    def _parse_chunks(self) -> bytes | None:
        at, chunks = 0, list[bytes]()
        while True:
            end = self._buffer.find(_LINE_END, at)
            if end < 0:
                return None
            size = int(self._buffer[at:end].partition(b";")[0], 16)
            first = end + len(_LINE_END)
            at = first + size + len(_LINE_END)
            if len(self._buffer) < at:
                return None
            if not size:
                del self._buffer[:at]
                return b"".join(chunks)
            chunks.append(bytes(self._buffer[first : first + size]))

    def _fail(self, error: HttpError) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


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
