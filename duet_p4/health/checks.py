"""Asks a DIP once whether it serves a VIP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from duet_p4.model import HealthCheck, HealthCheckKind

MAX_STATUS_LINE = 256
"""Bytes of an answer that are looked at: the limit of a `Dial`'s reader."""

Dial = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Connects to a port of a DIP, in its own way. May raise OSError."""


class CheckError(Exception):
    """A check failed; the message says why."""


async def check(what: HealthCheck, vip: IPv4Address, dip: IPv4Address, dial: Dial) -> None:
    """Ask a DIP once. Raises CheckError."""
    try:
        async with asyncio.timeout(what.timeout_ms / 1000):
            reader, writer = await dial(what.port)
            try:
                if what.kind is HealthCheckKind.HTTP:
                    await _get(reader, writer, what.path, vip)
            finally:
                writer.close()
    except TimeoutError as error:
        raise CheckError(f"{dip}:{what.port} does not answer in {what.timeout_ms} ms") from error
    except OSError as error:
        raise CheckError(f"{dip}:{what.port}: {error.strerror or error}") from error


async def _get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, vip: IPv4Address
) -> None:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {vip}\r\nConnection: close\r\n\r\n".encode())
    try:
        line = (await reader.readline()).decode("latin-1").strip()
    except ValueError as error:
        raise CheckError(f"GET {path}: the answer is not HTTP") from error
    words = line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise CheckError(f"GET {path}: the answer is not HTTP: {line!r}")
    if not 200 <= int(words[1]) < 300:
        raise CheckError(f"GET {path}: {' '.join(words[1:])}")
