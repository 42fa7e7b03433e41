"""Serving an application inside an asyncio loop that has other work too."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from duet_p4.identity import Credentials, Identity
from duet_p4.rest.protocol import Limits, Protocol

_KEEP_ALIVE_S = 75  # longer than any client keeps an idle connection, so that none is closed under a request
_TICK_S = 1.0
_STALE_S = (
    120.0  # what takes longer than this after credentials have changed is a stream, and can begin again
)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers and its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config, credentials: Credentials | None, limits: Limits) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()
        self._credentials = credentials
        self._limits = limits
        self._by_peer: Counter[Identity | None] = Counter()
        self._generation = credentials.generation if credentials else 0
        self._changed_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        tls = self._credentials is not None

        def protocol() -> Protocol:
            return Protocol(self.config, self.server_state, self._credentials, self._limits, self._by_peer)

        self.servers = [
            await asyncio.get_running_loop().create_server(
                protocol,
                sock=listener,
                ssl=self._credentials.server() if self._credentials else None,
                ssl_handshake_timeout=self._limits.handshake_s if tls else None,
                backlog=self.config.backlog,
            )
            for listener in sockets or ()
        ]
        self.started = True
        self.ready.set()

    async def main_loop(self) -> None:
        """Refresh the date header, and look for new credentials, once a second until told to stop."""
        while not self.stopping.is_set():
            await self.on_tick(0)
            self._look_at_credentials()
            try:
                async with asyncio.timeout(_TICK_S):
                    await self.stopping.wait()
            except TimeoutError:
                continue

    def _look_at_credentials(self) -> None:
        """End, after a while, connections of peers that have shown their certificate before a change."""
        if self._credentials is None:
            return
        now = asyncio.get_running_loop().time()
        if self._generation != self._credentials.generation:
            self._generation = self._credentials.generation
            self._changed_at = now
        if self._changed_at is not None and now >= self._changed_at + _STALE_S:
            self._changed_at = None
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol) and connection.stale:
                    connection.transport.close()


@asynccontextmanager
async def serve(
    app: ASGIApp, host: str, port: int, credentials: Credentials | None, limits: Limits | None = None
) -> AsyncIterator[str]:
    """Serve `app` while the context lasts; yields the URL, which has the real port where `port` is 0.

    With credentials over mutual TLS: who has no certificate of an authority that is believed gets no
    connection. None is plain HTTP, for everybody. Raises OSError, naming the address that cannot be bound.
    """
    listener = _listen(host, port)
    async with _serving(app, listener, f"{host}:{port}", credentials, limits or Limits()):
        yield f"{'https' if credentials else 'http'}://{host}:{listener.getsockname()[1]}"


@asynccontextmanager
async def serve_local(app: ASGIApp, path: Path) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket that only its owner may open, while the context lasts.

    Who opens it is an operator. A socket file that an earlier process left is replaced.
    """
    listener = _listen_locally(path)
    async with _serving(app, listener, str(path), None, Limits()):
        yield


@asynccontextmanager
async def serve_on(app: ASGIApp, listener: socket.socket, where: str) -> AsyncIterator[None]:
    """Serve `app`, plain, on a socket that is bound already, while the context lasts; `where` names it."""
    async with _serving(app, listener, where, None, Limits()):
        yield


@asynccontextmanager
async def _serving(
    app: ASGIApp, listener: socket.socket, where: str, credentials: Credentials | None, limits: Limits
) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        ws="none",
        http=Protocol,
    )
    server = _Server(config, credentials, limits)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"rest {where}")
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
    finally:
        ready.cancel()
        server.stopping.set()
        await task
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    # Only where the protocol is stated does asyncio turn Nagle's algorithm off, and with it the 40 ms that a
    # peer may delay its acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def _listen_locally(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    # The permissions are those of the socket before it is bound: nobody gets in between.
    os.fchmod(listener.fileno(), 0o600)
    listener.bind(str(path))
    listener.setblocking(False)
    return listener
