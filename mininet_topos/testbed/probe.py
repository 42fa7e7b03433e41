"""Real traffic from the testbed's clients: HTTP over TCP, UDP echo, ping; each from a client's namespace."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from duet_p4.checksum import checksum
from duet_p4.flow_hash import Flow
from duet_p4.model import Protocol
from mininet_topos.testbed import namespaces

Key = TypeVar("Key")
Result = TypeVar("Result")

UDP_ECHO_PORT = 7
ICMP = 1
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; Python has no name for it.
_MAX_REPLY = 65536


@dataclass(frozen=True)
class Exchange:
    """A question to a VIP: the flow it was sent in, and the DIP that answered, or what went wrong."""

    flow: Flow
    dip: IPv4Address | None
    error: str | None
    seconds: float


def run_in(jobs: Mapping[Key, tuple[Path, Callable[[], Coroutine[Any, Any, Result]]]]) -> dict[Key, Result]:
    """Run each job in its namespace, all at once; raises the first exception of any."""
    results: dict[Key, Result] = {}
    failures: list[BaseException] = []

    def work(key: Key, path: Path, job: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        try:
            namespaces.enter(path)  # This thread's only; it ends here.
            results[key] = asyncio.run(job())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(key, *job)) for key, job in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


async def http(
    source: IPv4Address, vip: IPv4Address, port: int, timeout_s: float, source_port: int = 0
) -> Exchange:
    """Ask the HTTP server behind a VIP who it is, over a connection of its own.

    Source port 0 lets connect() choose, as it does for any client: ports that rise in steps of two.
    """
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((str(source), source_port))

        def flow() -> Flow:
            return Flow(source, vip, Protocol.TCP.number, client.getsockname()[1], port)

        started = time.monotonic()
        asked: Flow | None = None
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(client, (str(vip), port))
                asked = flow()
                reader, writer = await asyncio.open_connection(sock=client)
                writer.write(f"GET / HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read(_MAX_REPLY)).partition(b"\r\n\r\n")
                body += await reader.read()
                writer.close()
        except (OSError, TimeoutError) as error:
            # Once connected, the connection's end closes the socket, too.
            return Exchange(asked or flow(), None, _reason(error, timeout_s), time.monotonic() - started)
    seconds = time.monotonic() - started
    status = head.split(b"\r\n", 1)[0].decode(errors="replace")
    if " 200 " not in f"{status} ":
        return Exchange(asked, None, f"HTTP status {status!r}", seconds)
    return Exchange(asked, *_dip(body), seconds)


async def udp(
    source: IPv4Address, vip: IPv4Address, port: int, timeout_s: float, source_port: int = 0
) -> Exchange:
    """Have the UDP echo behind a VIP return a datagram; the reply must come from the VIP's port."""
    payload = os.urandom(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.bind((str(source), source_port))
        flow = Flow(source, vip, Protocol.UDP.number, client.getsockname()[1], port)
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            client.connect((str(vip), port))
            async with asyncio.timeout(timeout_s):
                await loop.sock_sendall(client, payload)
                while not (reply := await loop.sock_recv(client, _MAX_REPLY)).endswith(payload):
                    continue
        except (OSError, TimeoutError) as error:
            return Exchange(flow, None, _reason(error, timeout_s), time.monotonic() - started)
    return Exchange(flow, *_dip(reply.removesuffix(payload)), time.monotonic() - started)


async def ping(
    source: IPv4Address, vip: IPv4Address, timeout_s: float, size: int = 56, identifier: int = 0
) -> Exchange:
    """Ping a VIP once, with `size` bytes of payload and fragmentation forbidden; identifier 0 is any."""
    identifier = identifier or int.from_bytes(os.urandom(2), "big") or 1
    body = struct.pack("!HH", identifier, 1) + bytes(size)
    request = struct.pack("!BBH", _ECHO_REQUEST, 0, checksum(struct.pack("!BBH", 8, 0, 0) + body)) + body
    flow = Flow(source, vip, ICMP, identifier, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        raw.bind((str(source), 0))
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        try:
            raw.connect((str(vip), 0))
            async with asyncio.timeout(timeout_s):
                await loop.sock_sendall(raw, request)
                while True:
                    packet = await loop.sock_recv(raw, _MAX_REPLY)
                    kind, _, _, its, _ = struct.unpack_from("!BBHHH", packet, (packet[0] & 15) * 4)
                    if kind == _ECHO_REPLY and its == identifier:
                        break
        except (OSError, TimeoutError) as error:
            return Exchange(flow, None, _reason(error, timeout_s), time.monotonic() - started)
    return Exchange(flow, None, None, time.monotonic() - started)


_IP_MTU_DISCOVER, _IP_PMTUDISC_DO = 10, 2  # Linux; Python's socket module does not name them.


def _dip(body: bytes) -> tuple[IPv4Address | None, str | None]:
    """Find the DIP's address in what its HTTP server says."""
    for word in body.decode(errors="replace").replace('"', " ").split():
        try:
            return IPv4Address(word.strip(",;")), None
        except ValueError:
            continue
    return None, f"the answer names no DIP: {body[:80]!r}"


def _reason(error: OSError | TimeoutError, timeout_s: float) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"no answer in {timeout_s:g} s"
    return errno.errorcode.get(error.errno or 0, "") + f" {error.strerror or error}"
