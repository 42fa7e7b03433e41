"""Asks a DIP once whether it serves a VIP, in the protocol that the VIP's health check states."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from functools import cache
from ipaddress import IPv4Address

from duet_p4.model import HealthCheck, HealthCheckKind, Protocol

Dial = Callable[[Protocol, int], Awaitable[socket.socket]]
"""Connects to a port of a DIP in its own way, and returns the socket, non-blocking. May raise OSError."""

_SOCKET_TYPE = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}
_MAX_STATUS_LINE = 256
_MAX_DATAGRAM = 65_535
_DNS_RECURSION, _DNS_ANSWER, _DNS_RCODE = 0x0100, 0x8000, 0x000F
_DNS_A, _DNS_INTERNET = 1, 1


class CheckError(Exception):
    """A check failed; the message says why."""


class UnansweredError(CheckError):
    """No answer came in time."""


async def connect(
    protocol: Protocol,
    address: IPv4Address,
    port: int,
    prepare: Callable[[socket.socket], None] = lambda _: None,
) -> socket.socket:
    """Return a non-blocking socket that is connected, after `prepare` has had it. Raises OSError."""
    client = socket.socket(type=_SOCKET_TYPE[protocol])
    try:
        client.setblocking(False)
        prepare(client)
        await asyncio.get_running_loop().sock_connect(client, (str(address), port))
        return client
    except BaseException:
        client.close()
        raise


async def check(what: HealthCheck, vip: IPv4Address, dip: IPv4Address, dial: Dial) -> None:
    """Ask a DIP once. Raises CheckError."""
    try:
        async with asyncio.timeout(what.timeout_ms / 1000):
            with await dial(what.protocol, what.port) as client:
                await _ASK[what.kind](client, what, what.host or str(vip))
    except TimeoutError as error:
        raise UnansweredError(f"{dip}:{what.port} does not answer in {what.timeout_ms} ms") from error
    except OSError as error:
        raise CheckError(f"{dip}:{what.port}: {error.strerror or error}") from error


async def _connected(client: socket.socket, what: HealthCheck, host: str) -> None:
    """A connection is all that is wanted."""


async def _http(client: socket.socket, what: HealthCheck, host: str) -> None:
    """The status of `GET path` is one of those wanted (RFC 9112)."""
    await _get(*await asyncio.open_connection(sock=client, limit=_MAX_STATUS_LINE), what, host)


async def _https(client: socket.socket, what: HealthCheck, host: str) -> None:
    """The same over TLS. Whose the certificate is does not matter: a check asks whether the DIP serves."""
    reader, writer = await asyncio.open_connection(
        sock=client, limit=_MAX_STATUS_LINE, ssl=_any_certificate(), server_hostname=what.host or ""
    )
    await _get(reader, writer, what, host)


@cache
def _any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: HealthCheck, host: str
) -> None:
    try:
        writer.write(f"GET {what.path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        line = (await reader.readline()).decode("latin-1").strip()
    except ValueError as error:
        raise CheckError(f"GET {what.path}: the answer is not HTTP") from error
    finally:
        writer.transport.abort()
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise CheckError(f"GET {what.path}: the answer is not HTTP: {line!r}")
    if not any(first <= int(words[1]) <= last for first, last in what.statuses()):
        raise CheckError(f"GET {what.path}: {' '.join(words[1:])}")


async def _udp(client: socket.socket, what: HealthCheck, host: str) -> None:
    """A datagram is answered by one that contains what is expected."""
    answer = await _exchange(client, what.send.encode())
    if what.expect.encode() not in answer:
        raise CheckError(f"UDP: the answer is {answer[:40]!r}, without {what.expect!r}")


async def _dns(client: socket.socket, what: HealthCheck, host: str) -> None:
    """A server of names answers a query of an A record without an error (RFC 1035)."""
    number = secrets.randbits(16)
    labels = [label.encode("idna") for label in what.name.rstrip(".").split(".") if label]
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    header = struct.pack("!HHHHHH", number, _DNS_RECURSION, 1, 0, 0, 0)
    answer = await _exchange(client, header + name + struct.pack("!HH", _DNS_A, _DNS_INTERNET))
    if len(answer) < len(header):
        raise CheckError(f"DNS {what.name}: the answer is not DNS: {answer!r}")
    returned, flags = struct.unpack_from("!HH", answer)
    if returned != number or not flags & _DNS_ANSWER:
        raise CheckError(f"DNS {what.name}: the answer is not one to the query")
    if code := flags & _DNS_RCODE:
        raise CheckError(f"DNS {what.name}: the answer has response code {code}")


async def _exchange(client: socket.socket, datagram: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, datagram)
    return await loop.sock_recv(client, _MAX_DATAGRAM)


async def _grpc(client: socket.socket, what: HealthCheck, host: str) -> None:
    """The gRPC health checking protocol says SERVING."""
    # Few VIPs are checked so, and every host agent would pay for the import.
    from duet_p4.health import grpc_health

    reader, writer = await asyncio.open_connection(sock=client)
    try:
        await grpc_health.ask(reader, writer, what.service, host)
    except grpc_health.NotServingError as error:
        raise CheckError(f"gRPC {what.service or 'server'}: {error}") from error
    finally:
        writer.transport.abort()


_ASK: dict[HealthCheckKind, Callable[[socket.socket, HealthCheck, str], Awaitable[None]]] = {
    HealthCheckKind.TCP: _connected,
    HealthCheckKind.HTTP: _http,
    HealthCheckKind.HTTPS: _https,
    HealthCheckKind.UDP: _udp,
    HealthCheckKind.DNS: _dns,
    HealthCheckKind.GRPC: _grpc,
}
