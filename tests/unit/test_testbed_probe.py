import asyncio
import socket
import struct
from ipaddress import IPv4Address

from mininet_topos.testbed import probe

LOOPBACK = IPv4Address("127.0.0.1")


def test_a_connection_that_breaks_after_it_was_established_is_a_failed_exchange() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def ask() -> probe.Exchange:
        server = await asyncio.start_server(reset, str(LOOPBACK), 0)
        async with server:
            port: int = server.sockets[0].getsockname()[1]
            exchange = await probe.http(LOOPBACK, LOOPBACK, port, 5.0)
        assert exchange.flow.destination_port == port
        return exchange

    exchange = asyncio.run(ask())
    assert exchange.error
    assert exchange.flow.source_port
