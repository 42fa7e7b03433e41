"""Connections that experiments hold: what becomes of each, against a real server on the loopback."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import cast

import pytest

from duet_p4.dip_server.server import serving
from mininet_topos.experiments.connections import Fate, Kind, _Holder

ONE, TWO, SOURCE = (IPv4Address(f"127.0.0.{n}") for n in (11, 12, 13))


def free_ports() -> tuple[int, int]:
    """Return a TCP and a UDP port that nobody has on the addresses."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind((str(ONE), 0))
        udp.bind((str(ONE), 0))
        return tcp.getsockname()[1], udp.getsockname()[1]


def held(work: Callable[[_Holder], Awaitable[None]], **options: IPv4Address) -> None:
    async def run() -> None:
        http, echo = free_ports()
        async with serving("s", [ONE, TWO], [http], [echo]):
            holder = _Holder([ONE, TWO], 6, 0 if options else 4, http, echo, **options)
            async with asyncio.timeout(20):
                await work(holder)
            holder.close()

    asyncio.run(run())


def test_tcp_and_udp_are_spread_over_servers_and_kept() -> None:
    async def work(holder: _Holder) -> None:
        await holder.fill()
        outcomes = (await holder.report()).outcomes
        assert Counter((o.kind, o.dip) for o in outcomes) == {
            (Kind.TCP, ONE): 3,
            (Kind.TCP, TWO): 3,
            (Kind.UDP, ONE): 2,
            (Kind.UDP, TWO): 2,
        }
        assert {o.fate for o in outcomes} == {Fate.KEPT} and all(o.requests for o in outcomes)

    held(work)


def test_a_dip_that_connects_out_is_known_by_what_the_server_sees() -> None:
    async def work(holder: _Holder) -> None:
        await holder.fill()
        outcomes = (await holder.report()).outcomes
        assert {(o.kind, o.dip, o.fate) for o in outcomes} == {(Kind.SNAT, SOURCE, Fate.KEPT)}

    held(work, source=SOURCE, seen_as=SOURCE)


def test_a_dip_that_is_seen_as_somebody_else_is_an_error() -> None:
    async def work(holder: _Holder) -> None:
        with pytest.raises(OSError, match=f"sees {SOURCE}:.*, not {TWO}"):
            await holder.fill()

    held(work, source=SOURCE, seen_as=TWO)


def test_whose_answers_come_from_another_has_moved_and_whose_connection_ends_was_reset() -> None:
    async def run() -> None:
        http, echo = free_ports()
        asked = 0

        class Fickle(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast(asyncio.DatagramTransport, transport)

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                nonlocal asked
                asked += 1
                self.transport.sendto(f"{ONE if asked == 1 else TWO} ".encode() + data, addr)

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = json.dumps({"dip": str(TWO)}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            writer.close()

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Fickle, local_addr=(str(ONE), echo))
        async with await asyncio.start_server(once, str(TWO), http):
            moving, ending = _Holder([ONE], 0, 1, http, echo), _Holder([TWO], 1, 0, http, echo)
            async with asyncio.timeout(20):
                await asyncio.gather(moving.fill(), ending.fill())
                (moved,) = (await moving.report()).outcomes
                (reset,) = (await ending.report()).outcomes
        transport.close()
        assert (moved.fate, moved.dip, reset.fate, reset.dip) == (Fate.MOVED, ONE, Fate.RESET, TWO)

    asyncio.run(run())
