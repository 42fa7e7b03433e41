"""A client takes answers in whatever pieces they come, and says what is wrong with others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from duet_p4.rest.http import HttpError, Reply, Wire, target_of

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


def answered(
    path: Path, *answers: bytes, step: int = 4096, requests: int = 1, drop: bool = False
) -> list[Reply]:
    """Ask a server that gives the answers in pieces of `step` bytes; return what is made of them."""
    connections = 0
    replies: list[Reply] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(answer), step):
                writer.write(answer[at : at + step])
                await writer.drain()
                await asyncio.sleep(0)
        if drop:
            writer.close()
        else:
            await reader.read()

    async def run() -> None:
        server = await asyncio.start_unix_server(serve, path)
        wire = Wire("http://here", local=path)
        try:
            async with asyncio.timeout(20):
                for _ in range(requests):
                    replies.append(await wire.request("GET", "/", {}, None))
        finally:
            await wire.close()
            server.close()
        assert connections == 1

    asyncio.run(run())
    return replies


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize(
    "answer",
    [
        PLAIN,
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    ],
)
def test_an_answer_comes_in_any_pieces(tmp_path: Path, answer: bytes, step: int) -> None:
    found = answered(tmp_path / "s", answer, answer, step=step, requests=2)
    assert found == [Reply(200, "OK", "text/plain", b"hello")] * 2


def test_an_answer_without_a_length_ends_with_the_connection(tmp_path: Path) -> None:
    (found,) = answered(tmp_path / "s", b"HTTP/1.0 404 Not Found\r\n\r\nnowhere", drop=True)
    assert (found.status, found.reason, found.text) == (404, "Not Found", "nowhere")


def test_an_answer_without_content_has_none(tmp_path: Path) -> None:
    (found,) = answered(tmp_path / "s", b"HTTP/1.1 204 No Content\r\n\r\n")
    assert (found.status, found.content) == (204, b"")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "SSH-2.0"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: much\r\n\r\n", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "not completed"),
        (b"", "disconnected"),
    ],
)
def test_what_is_no_answer_is_said(tmp_path: Path, answer: bytes, why: str) -> None:
    with pytest.raises(HttpError, match=why):
        answered(tmp_path / "s", answer, drop=True)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_what_was_not_answered_is_not_sent_again(tmp_path: Path, method: str) -> None:
    """Also not what is idempotent: the second answer would be told as that to the first."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while await reader.readuntil(b"\r\n\r\n"):
            asked += 1
            if asked > 1:
                writer.close()
                return
            writer.write(PLAIN)

    async def run() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "s")
        wire = Wire("http://here", local=tmp_path / "s")
        async with asyncio.timeout(20):
            await wire.request("GET", "/", {}, None)
            with pytest.raises(HttpError):
                await wire.request(method, "/", {}, None)
        await wire.close()
        server.close()

    asyncio.run(run())
    assert asked == 2


def test_nobody_there_is_said(tmp_path: Path) -> None:
    async def ask(ask: Callable[[], Awaitable[Reply]]) -> None:
        with pytest.raises(HttpError, match="No such file"):
            await ask()

    wire = Wire("http://here", local=tmp_path / "nobody")
    asyncio.run(ask(lambda: wire.request("GET", "/", {}, None)))


def test_targets_are_encoded() -> None:
    assert target_of("/v1/vips/10.0.0.1", {}) == "/v1/vips/10.0.0.1"
    assert target_of("/v1/x y/\r\n", {"switch": "a&b", "n": "1"}) == "/v1/x%20y/%0D%0A?switch=a%26b&n=1"
