"""How a switch agent follows packets: by the P4 switch's own gRPC service, beside P4Runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import grpc

from duet_p4.api.problems import ConflictError, ProblemError, UnavailableError
from duet_p4.api.trace import PacketTrace, Traced, TraceRequest
from duet_p4.tracing.traces import BEGIN_S, END_S, Follow, Following, Lost, News

METHOD = "/duet.v1.Trace/Follow"
"""Of the xdp switch; BMv2 has none (`bmv2_tracing`)."""


def follower(device: str, connect: Callable[[], grpc.aio.Channel]) -> Follow:
    """Return what follows packets of a switch; `connect` opens a channel to it."""

    async def follow(request: TraceRequest, ending: asyncio.Event) -> AsyncGenerator[News]:
        async def requests() -> AsyncIterator[bytes]:
            yield request.model_dump_json().encode()
            await ending.wait()

        try:
            async with connect() as channel:
                call = channel.stream_stream(METHOD, None, None)(
                    requests(), timeout=BEGIN_S + request.seconds + END_S
                )
                async for message in call:
                    if not message:
                        yield Following()
                    elif message.startswith(b'{"packets"'):
                        yield Lost(Traced.model_validate_json(message).lost)
                    else:
                        yield PacketTrace.model_validate_json(message)
        except grpc.aio.AioRpcError as error:
            raise _problem(device, error) from error

    return follow


def _problem(device: str, error: grpc.aio.AioRpcError) -> ProblemError:
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ConflictError(f"{device}: {error.details()}", "trace-busy")
    if error.code() is grpc.StatusCode.UNIMPLEMENTED and not error.details():
        return UnavailableError(f"{device} runs a BMv2 that keeps no log of packets, so it does not trace")
    return UnavailableError(f"{device} does not trace: {error.details() or error.code().name}")
