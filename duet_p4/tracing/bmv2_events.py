"""BMv2's event log: which number it has given to which frame.

The log is a nanomsg PUB socket (`--nanolog ipc://PATH`), spoken here as far as it takes to subscribe: SP's
mapping for IPC, https://nanomsg.org/. An event has the packet's number and its signature, the XXH64 of the
frame as it came in.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import xxhash

_HELLO = b"\0SP\0\0\x21\0\0"  # a subscriber
_PUBLISHER = b"\0SP\0\0\x20\0\0"
_LENGTH = struct.Struct("!BQ")
_EVENT = struct.Struct("=iQIQQQ")
_PACKET_IN = 0
_GREET_S = 5.0
_KEPT = 65_536


def signature(frame: bytes) -> int:
    """Return what BMv2's events say of a frame."""
    return int(xxhash.xxh64_intdigest(frame))


class Numbers:
    """The numbers of the packets of the last moments, by signature."""

    def __init__(self) -> None:
        self._signatures: dict[int, int] = {}

    def take(self, event: bytes) -> None:
        """Take an event."""
        if len(event) < _EVENT.size:
            return
        kind, _, _, told, packet, copy = _EVENT.unpack_from(event)
        if kind == _PACKET_IN and not copy:
            self._signatures[packet] = told
            if len(self._signatures) > _KEPT:
                del self._signatures[next(iter(self._signatures))]

    def signature_of(self, packet: int) -> int | None:
        """Return the signature of the frame of a packet, None where there was no event yet."""
        return self._signatures.get(packet)


@asynccontextmanager
async def subscribed(path: Path) -> AsyncIterator[Numbers]:
    """Take events while it lasts. Raises OSError where nobody publishes there."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_HELLO)
        async with asyncio.timeout(_GREET_S):
            hello = await reader.readexactly(len(_PUBLISHER))
        if hello != _PUBLISHER:
            raise OSError(f"{path} is no event log")
        numbers = Numbers()
        task = asyncio.create_task(_take(reader, numbers), name="events of BMv2")
        try:
            yield numbers
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    except asyncio.IncompleteReadError as error:
        raise OSError(f"{path} is no event log") from error
    finally:
        writer.close()


async def _take(reader: asyncio.StreamReader, numbers: Numbers) -> None:
    while True:
        _, length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        numbers.take(await reader.readexactly(length))
