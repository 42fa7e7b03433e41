"""HTTP connections that know who is at the other end, and of which there are not too many."""

from __future__ import annotations

import asyncio
import logging
import pwd
import socket
import ssl
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from duet_p4.identity import Credentials, Identity, Role
from duet_p4.rest.access import PEER

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What connections may cost a service: seconds for the handshake and for headers, bytes of these, and
    their number.
    """

    handshake_s: float = 15.0
    header_s: float = 15.0
    header_bytes: int = 65_536
    connections: int = 1024
    connections_per_peer: int = 128


class Protocol(HttpToolsProtocol):
    """One connection. Its requests' state has the peer's `Identity` (`duet_p4.rest.access.PEER`)."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        credentials: Credentials | None,
        limits: Limits,
        by_peer: Counter[Identity | None],
    ) -> None:
        super().__init__(config, state, {})
        self._credentials = credentials
        self._generation = credentials.generation if credentials else 0
        self._limits = limits
        self._by_peer = by_peer
        self._peer: Identity | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    @property
    def stale(self) -> bool:
        """Whether credentials have changed since the peer showed its own."""
        return self._credentials is not None and self._credentials.generation != self._generation

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Find out who is there."""
        super().connection_made(transport)
        try:
            self._peer = _peer(transport)
        except ValueError as error:
            logger.warning("refuses %s: %s", self.client, error)
            transport.abort()
            return
        finally:
            self._by_peer[self._peer] += 1
        limits = self._limits
        if self._by_peer[self._peer] > limits.connections_per_peer and self._credentials is not None:
            logger.warning("refuses %s, which has too many connections", self._peer)
            transport.abort()
        elif len(self.connections) > limits.connections:
            logger.warning("refuses %s: there are too many connections", self._peer)
            transport.abort()
        self.app_state = {PEER: self._peer}
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._by_peer[self._peer] -= 1
        if not self._by_peer[self._peer]:
            del self._by_peer[self._peer]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; a request's header must be whole in time, and before it is too long."""
        if self.transport.is_closing():
            return
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._await_header()
        waiting = self._patience
        super().data_received(data)
        if waiting is not None and self._patience is waiting:
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes and not self.transport.is_closing():
                self._stop_waiting()
                self.send_400_response("The header is too long.")

    def on_headers_complete(self) -> None:
        """Begin with a request, whose header is whole."""
        self._stop_waiting()
        super().on_headers_complete()
        if self.stale:
            # The next request needs a connection with a certificate of the day.
            self.cycle.keep_alive = False

    def _await_header(self) -> None:
        self._header_bytes = 0
        self._patience = self.loop.call_later(self._limits.header_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        self.transport.abort()


def _peer(transport: asyncio.Transport) -> Identity | None:
    """Return who is at the other end; None for plain TCP. Raises ValueError."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is not None:
        certificate: dict[str, Any] | None = tls.getpeercert()
        return Identity.of_peer(certificate or {})
    sock: socket.socket = transport.get_extra_info("socket")
    if sock.family != socket.AF_UNIX:
        return None
    # Whoever may open the socket is an operator; the kernel says which user it is.
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid-{uid}"
    try:
        return Identity(Role.OPERATOR, name)
    except ValueError:
        return Identity(Role.OPERATOR, f"uid-{uid}")
