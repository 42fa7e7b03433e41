"""Live TCP connections to VIPs: opened once, then asked again and again which DIP is at the other end.

Run it inside a client's network namespace: `python -m mininet_topos.experiments.connections VIP...`. It
prints a line once every connection has been answered. For each line on its standard input it lets every
connection make one more request, prints what became of each since the last such line, and
replaces those that broke, unless the line says `last`. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import IPv4Address

from duet_p4.model import Model

HTTP_PORT = 80
REQUESTS_PER_S = 500
"""Of all connections together: enough to have several under way in any event, and little work."""

_LONGEST_S = 10.0
_SHORTEST_INTERVAL_S = 1.0
_OPENING = 64
_HEAD_END = b"\r\n\r\n"


class Fate(StrEnum):
    """What became of a connection: kept, or how it broke."""

    KEPT = "kept"
    RESET = "reset"
    MOVED = "moved"
    SILENT = "silent"


class Outcome(Model):
    """One connection since the last report: `dip` answered first, `slowest_ms` is the slowest answer."""

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
    """Another DIP has answered."""


class _Connection:
    def __init__(self, vip: IPv4Address, interval_s: float) -> None:
        self.vip = vip
        self._interval_s = interval_s
        self.answered = asyncio.Event()
        self._port = 0
        self._dip: IPv4Address | None = None
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
            reader, writer = await asyncio.open_connection(str(self.vip), HTTP_PORT)
            self._port = writer.get_extra_info("sockname")[1]
            await self._ask(reader, writer)
        self._holding = asyncio.create_task(self._hold(reader, writer, delay_s))

    def expect(self) -> asyncio.Event:
        """Return an event that comes with the answer to a request not sent yet, or when it breaks."""
        if not self.broken:
            self.answered = asyncio.Event()
        return self.answered

    def take(self) -> Outcome:
        """Return what became of it since the last time."""
        assert self._dip is not None
        outcome = Outcome(
            vip=self.vip,
            port=self._port,
            dip=self._dip,
            fate=self._fate,
            requests=self._requests,
            slowest_ms=round(self._slowest * 1e3, 3),
        )
        self._requests, self._slowest = 0, 0.0
        return outcome

    def close(self) -> None:
        if self._holding is not None:
            self._holding.cancel()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            while True:
                expected = self.answered
                async with asyncio.timeout(_LONGEST_S):
                    await self._ask(reader, writer)
                expected.set()
                await asyncio.sleep(self._interval_s)
        except TimeoutError:
            self._fate = Fate.SILENT
        except _MovedError:
            self._fate = Fate.MOVED
        except (OSError, asyncio.IncompleteReadError):
            self._fate = Fate.RESET
        finally:
            self.answered.set()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        writer.write(f"GET / HTTP/1.1\r\nHost: {self.vip}\r\n\r\n".encode())
        head = (await reader.readuntil(_HEAD_END)).lower()
        length = int(head.partition(b"content-length:")[2].split()[0])
        dip = IPv4Address(json.loads(await reader.readexactly(length))["dip"])
        self._requests += 1
        self._slowest = max(self._slowest, time.monotonic() - began)
        self._dip = self._dip or dip
        if dip != self._dip:
            raise _MovedError


class _Holder:
    def __init__(self, vips: Sequence[IPv4Address], count: int) -> None:
        self._vips = vips
        self._interval_s = max(_SHORTEST_INTERVAL_S, count / REQUESTS_PER_S)
        self._connections: list[_Connection | None] = [None] * count

    async def fill(self) -> None:
        """Open the connections that are missing."""
        slots = asyncio.Semaphore(_OPENING)

        async def open_one(index: int) -> None:
            async with slots:
                connection = _Connection(self._vips[index % len(self._vips)], self._interval_s)
                await connection.open(index / len(self._connections) * self._interval_s)
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


async def _serve(vips: Sequence[IPv4Address], count: int) -> None:
    holder = _Holder(vips, count)
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
    parser = argparse.ArgumentParser(prog="connections", description="Hold TCP connections to VIPs.")
    parser.add_argument("vips", nargs="+", type=IPv4Address, metavar="VIP")
    parser.add_argument("--connections", type=int, default=1000, help="in all, spread over the VIPs")
    options = parser.parse_args(argv)
    try:
        asyncio.run(_serve(options.vips, options.connections))
    except (OSError, asyncio.IncompleteReadError) as error:
        print(f"connections: a new connection was not answered: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
