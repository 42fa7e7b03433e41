"""Serving an application inside an asyncio loop that has other work too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

_KEEP_ALIVE_S = 75  # longer than any client keeps an idle connection, so that none is closed under a request
_TICK_S = 1.0


@dataclass(frozen=True)
class Tls:
    """A server's certificate and its private key, both PEM files."""

    certificate: Path
    key: Path


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers and its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and say so."""
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Refresh the date header once a second until told to stop."""
        while not self.stopping.is_set():
            await self.on_tick(0)
            try:
                async with asyncio.timeout(_TICK_S):
                    await self.stopping.wait()
            except TimeoutError:
                continue


@asynccontextmanager
async def serve(app: FastAPI, host: str, port: int, tls: Tls | None = None) -> AsyncIterator[str]:
    """Serve `app` while the context lasts; yields the URL, which has the real port where `port` is 0.

    Raises OSError, naming the address, where it cannot be bound.
    """
    listener = _listen(host, port)
    async with _serving(app, listener, f"{host}:{port}", tls):
        yield f"{'https' if tls else 'http'}://{host}:{listener.getsockname()[1]}"


@asynccontextmanager
async def serve_local(app: FastAPI, path: Path) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket that only its owner may open, while the context lasts.

    A socket file that an earlier process left is replaced.
    """
    listener = _listen_locally(path)
    async with _serving(app, listener, str(path), None):
        yield


@asynccontextmanager
async def _serving(app: FastAPI, listener: socket.socket, where: str, tls: Tls | None) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    server = _Server(config)
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
    listener.bind(str(path))
    path.chmod(0o600)
    listener.setblocking(False)
    return listener
