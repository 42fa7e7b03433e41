"""How a switch agent tells a P4 switch that is dead from one that only ended a session."""

from __future__ import annotations

import asyncio
import socket

import pytest

from duet_p4.switch_agent.agent import listens


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    await silent(reader, writer)


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    ("handler", "alive"), [(silent, True), (greeting, True), (closing, False), (resetting, False)]
)
def test_a_switch_lives_that_keeps_a_connection(handler: object, alive: bool) -> None:
    async def run() -> bool:
        async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:  # type: ignore[arg-type]
            port = server.sockets[0].getsockname()[1]
            return await listens(f"127.0.0.1:{port}")

    assert asyncio.run(run()) is alive


def test_a_switch_that_takes_no_connection_is_dead() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not asyncio.run(listens(f"127.0.0.1:{free.getsockname()[1]}"))
