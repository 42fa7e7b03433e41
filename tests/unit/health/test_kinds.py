"""Every kind of health check against a real server of that protocol on the loopback."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from duet_p4.health.checks import CheckError, check, connect
from duet_p4.model import HealthCheck, HealthCheckKind, Protocol

VIP, DIP = IPv4Address("10.0.0.1"), IPv4Address("127.0.0.1")


async def dial(protocol: Protocol, port: int) -> socket.socket:
    return await connect(protocol, DIP, port)


def ask(kind: HealthCheckKind, port: int, **options: str) -> Awaitable[None]:
    return check(HealthCheck(kind=kind, port=port, timeout_ms=5000, **options), VIP, DIP, dial)


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A UDP server; yields its port."""

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: object) -> None:
            cast("asyncio.DatagramTransport", self.transport).sendto(answer(data), peer)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, (str(DIP), 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
        await asyncio.sleep(0)  # A turn of the loop closes the socket.


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anybody")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def test_an_https_check_asks_for_its_host_and_wants_its_status(tmp_path: Path) -> None:
    asked: list[bytes] = []
    names: list[str | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        writer.close()

    async def work() -> None:
        context = self_signed(tmp_path)
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        server = await asyncio.start_server(serve, str(DIP), 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await ask(HealthCheckKind.HTTPS, port, host="shop.example", status="200-299,404", path="/x")
            with pytest.raises(CheckError, match="GET /: 404 Not Found"):
                await ask(HealthCheckKind.HTTPS, port)

    asyncio.run(work())
    assert asked[0].startswith(b"GET /x HTTP/1.1\r\nHost: shop.example\r\n")
    assert asked[1].startswith(b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\n")
    assert names == ["shop.example", None]


def test_an_https_check_of_a_server_without_tls_fails() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, str(DIP), 0)
        async with server:
            with pytest.raises(CheckError, match=r"127\.0\.0\.1:"):
                await ask(HealthCheckKind.HTTPS, server.sockets[0].getsockname()[1])

    asyncio.run(work())


def test_a_udp_check_wants_an_answer_that_contains_what_is_expected() -> None:
    async def work() -> None:
        async with answering(lambda data: b"pong " + data) as port:
            await ask(HealthCheckKind.UDP, port, send="hello", expect="pong hello")
            with pytest.raises(CheckError, match="without 'nobody'"):
                await ask(HealthCheckKind.UDP, port, send="hello", expect="nobody")
        with pytest.raises(CheckError, match="refused"):
            await ask(HealthCheckKind.UDP, port)

    asyncio.run(work())


def test_a_dns_check_wants_an_answer_without_an_error() -> None:
    queries: list[bytes] = []
    code = 0

    def answer(query: bytes) -> bytes:
        queries.append(query)
        return query[:2] + struct.pack("!H", 0x8180 | code) + query[4:]

    async def work() -> None:
        nonlocal code
        async with answering(answer) as port:
            await ask(HealthCheckKind.DNS, port, name="www.example.org")
            code = 2
            with pytest.raises(CheckError, match="response code 2"):
                await ask(HealthCheckKind.DNS, port)
        async with answering(lambda query: b"what?") as port:
            with pytest.raises(CheckError, match="not DNS"):
                await ask(HealthCheckKind.DNS, port)

    asyncio.run(work())
    assert queries[0][12:] == b"\x03www\x07example\x03org\x00\x00\x01\x00\x01"


def test_a_grpc_check_wants_the_service_to_serve() -> None:
    states = {b"": b"\x08\x01", b"\x0a\x04shop": b"\x08\x02"}

    async def health(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if request not in states:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return states[request]

    async def work() -> None:
        server = grpc.aio.server()
        methods = {"Check": grpc.unary_unary_rpc_method_handler(health)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods),)
        )
        port = server.add_insecure_port(f"{DIP}:0")
        await server.start()
        try:
            await ask(HealthCheckKind.GRPC, port)
            with pytest.raises(CheckError, match="gRPC shop: NOT_SERVING"):
                await ask(HealthCheckKind.GRPC, port, service="shop")
            with pytest.raises(CheckError, match="gRPC other: gRPC status 5 unknown service"):
                await ask(HealthCheckKind.GRPC, port, service="other")
        finally:
            await server.stop(None)

    asyncio.run(work())


def test_a_grpc_check_of_a_server_of_something_else_fails() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, str(DIP), 0)
        async with server:
            with pytest.raises(CheckError, match="gRPC server: the server ends the connection"):
                await ask(HealthCheckKind.GRPC, server.sockets[0].getsockname()[1])

    asyncio.run(work())


@pytest.mark.parametrize(
    ("stated", "refusal"),
    [
        ({"kind": "tcp", "path": "/up"}, "path '/up' is for a check of kind http or https, not tcp"),
        ({"kind": "http", "send": "x"}, "send 'x' is for a check of kind udp, not http"),
        ({"kind": "http", "status": "299-200"}, "status 299-200 is no range"),
        ({"kind": "http", "status": "ok"}, "status"),
        ({"kind": "dns", "name": "a..b"}, "name"),
        ({"kind": "icmp"}, "kind"),
    ],
)
def test_options_that_a_check_would_not_use_are_refused(stated: dict[str, str], refusal: str) -> None:
    with pytest.raises(ValidationError, match=refusal):
        HealthCheck.model_validate({"port": 80, **stated})


def test_a_check_means_the_same_after_its_way_as_json() -> None:
    for kind in HealthCheckKind:
        stated = HealthCheck(kind=kind, port=80)
        assert HealthCheck.model_validate_json(stated.model_dump_json()) == stated
