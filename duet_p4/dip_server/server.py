"""HTTP/1.1 with keep-alive, and UDP echo, in one asyncio process for all DIPs of a server.

`GET /` answers with the DIP's name and addresses as JSON; `GET /bytes/N` with N bytes (at most 1 GiB);
`GET /health` with 200, or with 503 after `POST /fail` and until `POST /recover`, which the server itself may
ask for. Everything else is a 404.
A UDP datagram comes back as it was, behind the DIP's address and a space.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import cast

from duet_p4.signals import told_to_end

_MAX_REQUEST = 16_384
_MAX_BYTES = 1 << 30
_BLOCK = bytes(65_536)
_BACKLOG = 1024
_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}


class DipServer:
    """What one DIP answers."""

    def __init__(self, name: str, dip: IPv4Address) -> None:
        self.name = name
        self.dip = dip
        self.failing = False
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until the client closes it."""
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                _respond(writer, 400, b"", keep=False)
            return False
        line, *fields = head.split("\r\n")
        words = line.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            _respond(writer, 400, b"", keep=False)
            return False
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)
        }
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _MAX_REQUEST:
            _respond(writer, 400, b"", keep=False)
            return False
        await reader.readexactly(int(length))
        keep = headers.get("connection", "").lower() != "close" and words[2] == "HTTP/1.1"
        self.requests += 1
        await self._route(writer, words[0], words[1], keep)
        return keep

    async def _route(self, writer: asyncio.StreamWriter, method: str, path: str, keep: bool) -> None:
        match method, path.strip("/").split("/"):
            case "GET", [""]:
                _respond(writer, 200, self._about(writer), keep=keep)
            case "GET", ["health"]:
                _respond(writer, 503 if self.failing else 200, b"", keep=keep)
            case "POST", ["fail" | "recover" as what]:
                # A VIP brings the world to this port: only the server itself may say that it is not well.
                asking = IPv4Address(writer.get_extra_info("peername")[0])
                if asking != self.dip and not asking.is_loopback:
                    _respond(writer, 403, b"", keep=keep)
                    return
                self.failing = what == "fail"
                _respond(writer, 200, b"", keep=keep)
            case "GET", ["bytes", count] if count.isdecimal() and int(count) <= _MAX_BYTES:
                await _stream(writer, int(count), keep)
            case _:
                _respond(writer, 404, b"", keep=keep)

    def _about(self, writer: asyncio.StreamWriter) -> bytes:
        client, port = writer.get_extra_info("peername")[:2]
        about = {
            "dip": str(self.dip),
            "server": self.name,
            "client": f"{client}:{port}",
            "requests": self.requests,
        }
        return json.dumps(about).encode() + b"\n"


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, dip: IPv4Address) -> None:
        self._prefix = f"{dip} ".encode()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._prefix + data, addr)


@asynccontextmanager
async def serving(
    name: str, dips: Sequence[IPv4Address], http_ports: Sequence[int], udp_ports: Sequence[int]
) -> AsyncIterator[None]:
    """Serve every DIP while the context lasts. Raises OSError naming an address that cannot be bound."""
    loop = asyncio.get_running_loop()
    servers: list[asyncio.Server] = []
    transports: list[asyncio.BaseTransport] = []
    try:
        for dip in dips:
            server = DipServer(name, dip)
            for port in http_ports:
                servers.append(
                    await asyncio.start_server(
                        server.serve, str(dip), port, limit=_MAX_REQUEST, backlog=_BACKLOG
                    )
                )
            for port in udp_ports:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda dip=dip: _Echo(dip),  # type: ignore[misc]
                    local_addr=(str(dip), port),
                )
                transports.append(transport)
        yield
    finally:
        for tcp in servers:
            tcp.close()
        for udp in transports:
            udp.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to end; returns the exit status."""
    parser = argparse.ArgumentParser(prog="duet_p4.dip_server", description=__doc__.splitlines()[0])
    parser.add_argument("dips", nargs="+", type=IPv4Address, metavar="DIP", help="an address to serve on")
    parser.add_argument("--name", default="", help="the server's name, as told to clients")
    parser.add_argument("--http", action="append", type=int, metavar="PORT", help="default: 80; repeatable")
    parser.add_argument("--udp", action="append", type=int, metavar="PORT", help="default: 7; repeatable")
    parser.add_argument("--ready", action="store_true", help="print `ready` once clients may connect")
    options = parser.parse_args(argv)
    http_ports, udp_ports = options.http or [80], options.udp or [7]
    try:
        asyncio.run(_run(options.name, options.dips, http_ports, udp_ports, tell=options.ready))
    except OSError as error:
        print(f"duet_p4.dip_server: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(
    name: str,
    dips: Sequence[IPv4Address],
    http_ports: Sequence[int],
    udp_ports: Sequence[int],
    *,
    tell: bool,
) -> None:
    ended = told_to_end()
    async with serving(name, dips, http_ports, udp_ports):
        if tell:
            print("ready", flush=True)
        await ended.wait()


def _respond(writer: asyncio.StreamWriter, status: int, body: bytes, *, keep: bool) -> None:
    writer.write(_head(status, len(body), keep) + body)


async def _stream(writer: asyncio.StreamWriter, count: int, keep: bool) -> None:
    writer.write(_head(200, count, keep))
    while count:
        size = min(count, len(_BLOCK))
        writer.write(_BLOCK[:size])
        await writer.drain()
        count -= size


def _head(status: int, length: int, keep: bool) -> bytes:
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {length}\r\n"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    ).encode()
