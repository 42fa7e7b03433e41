"""The DIP server, over real sockets on the loopback."""

import asyncio
import json
import socket
from ipaddress import IPv4Address

import pytest

from duet_p4.dip_server.server import main, serving

DIP = IPv4Address("127.0.0.1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((str(DIP), 0))
        return int(probe.getsockname()[1])


async def exchange(port: int, *requests: bytes) -> list[bytes]:
    """Send requests on one connection, then close the sending side; return what came, split by answer."""
    reader, writer = await asyncio.open_connection(str(DIP), port)
    for request in requests:
        writer.write(request)
    writer.write_eof()
    raw = await reader.read()
    writer.close()
    return [b"HTTP/1.1" + part for part in raw.split(b"HTTP/1.1")[1:]]


def answers(*requests: bytes) -> list[bytes]:
    async def run() -> list[bytes]:
        port = free_port()
        async with asyncio.timeout(10), serving("server1", [DIP], [port], []):
            return await exchange(port, *requests)

    return asyncio.run(run())


def test_it_says_which_dip_answered_and_keeps_the_connection() -> None:
    found = answers(*[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] * 3)
    bodies = [json.loads(answer.split(b"\r\n\r\n")[1]) for answer in found]
    assert [body["requests"] for body in bodies] == [1, 2, 3]
    assert {(body["dip"], body["server"]) for body in bodies} == {("127.0.0.1", "server1")}


def test_it_closes_when_asked_to() -> None:
    found = answers(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n")
    assert len(found) == 1 and b"Connection: close" in found[0]
    assert len(answers(b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n")) == 1


def test_it_can_be_made_to_fail_its_health_check() -> None:
    def ask(method: str, path: str) -> bytes:
        return f"{method} {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi".encode()

    found = answers(
        ask("GET", "/health"), ask("POST", "/fail"), ask("GET", "/health"), ask("POST", "/recover"),
        ask("GET", "/health"),
    )  # fmt: skip
    assert [int(answer.split()[1]) for answer in found] == [200, 200, 503, 200, 200]


def test_it_sends_as_many_bytes_as_asked_for() -> None:
    (found,) = answers(b"GET /bytes/200001 HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert len(found.partition(b"\r\n\r\n")[2]) == 200_001


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"GET /bytes/99999999999 HTTP/1.1\r\n\r\n", 404),
        (b"DELETE / HTTP/1.1\r\n\r\n", 404),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: minus\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 999999\r\n\r\n", 400),
        (b"GET / HTTP", 400),
        (b"\x00\xff\xfe\r\n\r\n", 400),
    ],
)
def test_bad_requests_are_refused(request_: bytes, status: int) -> None:
    (found,) = answers(request_)
    assert int(found.split()[1]) == status


def test_an_endless_request_ends_the_connection_without_an_answer() -> None:
    assert answers(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000) == []


def test_udp_comes_back_behind_the_dips_address() -> None:
    async def run() -> bytes:
        port = free_port()
        async with asyncio.timeout(10), serving("server1", [DIP], [], [port]):
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                await loop.sock_connect(client, (str(DIP), port))
                await loop.sock_sendall(client, b"hello")
                return await loop.sock_recv(client, 100)

    assert asyncio.run(run()) == b"127.0.0.1 hello"


def test_an_address_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["192.0.2.123", "--http", "8080"]) == 1
    assert "192.0.2.123" in capsys.readouterr().err
