"""Live connections: opened once, then asked again and again who is at the other end.

Run it inside a network namespace: `python -m mininet_topos.experiments.connections ADDRESS...`. It holds TCP
connections to an HTTP server, and with `--datagrams` UDP flows to the echo beside it. It prints a line once
every one has been answered. For each line on its standard input it lets every one make one more request,
prints what became of each since the last such line, and replaces those that broke, unless the line says
`last`. It ends with its standard input.

With `--source` it is a DIP that connects out: then it is not the server that must stay the same, but what the
server sees of this end, whose address must be that of `--seen-as`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Protocol, cast

from duet_p4.model import Model

HTTP_PORT, ECHO_PORT = 80, 7
REQUESTS_PER_S = 500
"""Of all connections together: enough to have several under way in any event, and little work."""

_LONGEST_S = 10.0
_AGAIN_S = 1.0
"""After so long without an answer a datagram is sent again, as applications do."""
_SHORTEST_INTERVAL_S, _LONGEST_UDP_INTERVAL_S = 1.0, 5.0
_OPENING = 64
_TOKEN_BYTES = 8
_HEAD_END = b"\r\n\r\n"


class Kind(StrEnum):
    """What sort of flow it is: to a VIP over TCP or UDP, or from a DIP through SNAT."""

    TCP = "tcp"
    UDP = "udp"
    SNAT = "snat"


class Fate(StrEnum):
    """What became of a connection: kept, or how it broke."""

    KEPT = "kept"
    RESET = "reset"
    MOVED = "moved"
    SILENT = "silent"


class Outcome(Model):
    """One connection since the last report; `slowest_ms` is the slowest answer.

    `dip` answered first, or is the DIP that connects out; `vip` is what was connected to.
    """

    kind: Kind = Kind.TCP
    vip: IPv4Address
    port: int
    dip: IPv4Address
    fate: Fate
    requests: int
    slowest_ms: float


class Report(Model):
    """What became of every connection since the last report."""

    outcomes: tuple[Outcome, ...]


class _MovedError(Exception):
    """Another one has answered."""


class _Line(Protocol):
    """An open connection, or a UDP flow."""

    port: int

    async def ask(self) -> str:
        """Return who is at the other end. Raises OSError, IncompleteReadError."""

    def close(self) -> None:
        """Close it."""


class Http:
    """A connection that stays open; `field` of the answer says who is at the other end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: IPv4Address, field: str
    ) -> None:
        self._reader, self._writer = reader, writer
        self._request = f"GET / HTTP/1.1\r\nHost: {server}\r\n\r\n".encode()
        self._field = field
        self.port = int(writer.get_extra_info("sockname")[1])

    @classmethod
    async def open(cls, server: IPv4Address, port: int, source: IPv4Address | None, field: str) -> Http:
        """Connect to a server from a source address (None: the system's choice). Raises OSError."""
        local = (str(source), 0) if source is not None else None
        streams = await asyncio.open_connection(str(server), port, local_addr=local)
        return cls(*streams, server, field)

    async def ask(self) -> str:
        """See `_Line`."""
        self._writer.write(self._request)
        head = (await self._reader.readuntil(_HEAD_END)).lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        return str(json.loads(await self._reader.readexactly(length))[self._field])

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    """A UDP flow to an echo that says who it is."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0

    @classmethod
    async def open(cls, server: IPv4Address, port: int) -> _Datagrams:
        loop = asyncio.get_running_loop()
        _, flow = await loop.create_datagram_endpoint(cls, remote_addr=(str(server), port))
        return flow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        self.port = int(transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._answers.put_nowait(data)

    async def ask(self) -> str:
        token = os.urandom(_TOKEN_BYTES)
        while True:
            self._transport.sendto(token)
            try:
                async with asyncio.timeout(_AGAIN_S):
                    while not (answer := await self._answers.get()).endswith(token):
                        continue
            except TimeoutError:
                continue
            return answer[: -len(token)].decode().strip()

    def close(self) -> None:
        self._transport.close()


class _Connection:
    def __init__(self, kind: Kind, holder: _Holder, server: IPv4Address) -> None:
        self.kind = kind
        self.server = server
        self._holder = holder
        self.answered = asyncio.Event()
        self._port = 0
        self._who = ""
        self._fate = Fate.KEPT
        self._requests = 0
        self._slowest = 0.0
        self._holding: asyncio.Task[None] | None = None

    @property
    def broken(self) -> bool:
        return self._fate is not Fate.KEPT

    async def open(self, delay_s: float) -> None:
        """Connect, be answered once, and go on asking from `delay_s` on; raises OSError."""
        async with asyncio.timeout(_LONGEST_S):
            line = await self._holder.dial(self.kind, self.server)
            self._port = line.port
            await self._ask(line)
        self._holding = asyncio.create_task(self._hold(line, delay_s))

    def expect(self) -> asyncio.Event:
        """Return an event that comes with the answer to a request not sent yet, or when it breaks."""
        if not self.broken:
            self.answered = asyncio.Event()
        return self.answered

    def take(self) -> Outcome:
        """Return what became of it since the last time."""
        outcome = Outcome(
            kind=self.kind,
            vip=self.server,
            port=self._port,
            dip=self._holder.source or IPv4Address(self._who),
            fate=self._fate,
            requests=self._requests,
            slowest_ms=round(self._slowest * 1e3, 3),
        )
        self._requests, self._slowest = 0, 0.0
        return outcome

    def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    async def _hold(self, line: _Line, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            while True:
                expected = self.answered
                async with asyncio.timeout(_LONGEST_S):
                    await self._ask(line)
                expected.set()
                await asyncio.sleep(self._holder.interval_s(self.kind))
        except TimeoutError:
            self._fate = Fate.SILENT
        except _MovedError:
            self._fate = Fate.MOVED
        except (OSError, asyncio.IncompleteReadError):
            self._fate = Fate.RESET
        finally:
            self.answered.set()
            line.close()

    async def _ask(self, line: _Line) -> None:
        began = time.monotonic()
        who = await line.ask()
        self._requests += 1
        self._slowest = max(self._slowest, time.monotonic() - began)
        if not self._who:
            self._holder.check(who)
            self._who = who
        if who != self._who:
            raise _MovedError


class _Holder:
    """All connections: `tcp` and `udp` of them, spread over the servers."""

    def __init__(
        self,
        servers: Sequence[IPv4Address],
        tcp: int,
        udp: int,
        http_port: int = HTTP_PORT,
        echo_port: int = ECHO_PORT,
        source: IPv4Address | None = None,
        seen_as: IPv4Address | None = None,
    ) -> None:
        kind = Kind.TCP if source is None else Kind.SNAT
        self.source = source
        self._seen_as = seen_as
        self._ports = (http_port, echo_port)
        self._wanted = [
            (of, servers[n % len(servers)])
            for of, count in ((kind, tcp), (Kind.UDP, udp))
            for n in range(count)
        ]
        self._interval_s = max(_SHORTEST_INTERVAL_S, len(self._wanted) / REQUESTS_PER_S)
        self._connections: list[_Connection | None] = [None] * len(self._wanted)

    def interval_s(self, kind: Kind) -> float:
        """Return how long a connection waits after an answer; a UDP flow is not live if it is idle."""
        return min(self._interval_s, _LONGEST_UDP_INTERVAL_S) if kind is Kind.UDP else self._interval_s

    async def dial(self, kind: Kind, server: IPv4Address) -> _Line:
        """Open one. Raises OSError."""
        http, echo = self._ports
        if kind is Kind.UDP:
            return await _Datagrams.open(server, echo)
        return await Http.open(server, http, self.source, "client" if self.source else "dip")

    def check(self, who: str) -> None:
        """Raise OSError where the far end does not see this one as it should."""
        if self._seen_as is not None and who.partition(":")[0] != str(self._seen_as):
            raise OSError(f"the server sees {who}, not {self._seen_as}")

    async def fill(self) -> None:
        """Open the connections that are missing."""
        slots = asyncio.Semaphore(_OPENING)

        async def open_one(index: int) -> None:
            async with slots:
                kind, server = self._wanted[index]
                connection = _Connection(kind, self, server)
                await connection.open(index / len(self._wanted) * self.interval_s(kind))
                self._connections[index] = connection

        missing = [index for index, connection in enumerate(self._connections) if connection is None]
        await asyncio.gather(*map(open_one, missing))

    async def report(self) -> Report:
        """Let every connection make one more request, and say what became of each."""
        live = [connection for connection in self._connections if connection is not None]
        await asyncio.gather(*(event.wait() for event in [connection.expect() for connection in live]))
        self._connections = [None if connection.broken else connection for connection in live]
        return Report(outcomes=tuple(connection.take() for connection in live))

    def close(self) -> None:
        for connection in self._connections:
            if connection is not None:
                connection.close()


async def _serve(make: Callable[[], _Holder]) -> None:
    holder = make()
    await holder.fill()
    print("ready", flush=True)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    while order := await orders.readline():
        report = await holder.report()
        if order.strip() != b"last":
            await holder.fill()
        print(report.model_dump_json(), flush=True)
    holder.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Hold connections until standard input ends; returns the exit status."""
    parser = argparse.ArgumentParser(prog="connections", description="Hold connections to VIPs, or of a DIP.")
    parser.add_argument("servers", nargs="+", type=IPv4Address, metavar="ADDRESS")
    parser.add_argument("--connections", type=int, default=1000, help="over TCP, spread over the addresses")
    parser.add_argument("--datagrams", type=int, default=0, help="UDP flows, spread over the addresses")
    parser.add_argument("--http", type=int, default=HTTP_PORT, help="the port of HTTP")
    parser.add_argument("--echo", type=int, default=ECHO_PORT, help="the port of UDP echo")
    parser.add_argument("--source", type=IPv4Address, help="the DIP that connects out")
    parser.add_argument("--seen-as", type=IPv4Address, help="what servers must see as its address")
    options = parser.parse_args(argv)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def make() -> _Holder:
        counts = options.connections, options.datagrams
        ends = options.http, options.echo, options.source, options.seen_as
        return _Holder(options.servers, *counts, *ends)

    try:
        asyncio.run(_serve(make))
    except (OSError, asyncio.IncompleteReadError) as error:
        print(f"connections: a new connection was not answered: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
