"""Traces over the switch's gRPC server, beside P4Runtime: `duet.v1.Trace/Follow`.

A call is one trace. The JSON of a `TraceRequest` comes in; an empty message back says that packets are
followed from now on, then comes the JSON of a `PacketTrace` for each, and last that of a `Traced` without
packets. It ends after so many packets or seconds, or once the client sends no more. The instrumented variant
is on the ports for as long as the call lasts, however it ends. A switch does one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from pydantic import ValidationError

from duet_p4.api.trace import PacketTrace, Traced, TraceRequest
from duet_p4.bpf import BpfError
from duet_p4.xdp_switch.dataplane import UnsupportedError
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.tracer import Tracer

SERVICE = "duet.v1.Trace"
_POLL_S = 0.05
_IN_FLIGHT_S = 0.01
"""How long a packet may still be in a program that is on no port any more."""


def add_to(server: grpc.aio.Server, device: XdpDevice) -> None:
    """Have a server answer traces of a device."""
    turn = asyncio.Lock()

    async def follow(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        try:
            request = TraceRequest.model_validate_json(await anext(requests, b""))
        except ValidationError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        if turn.locked():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "another trace is going on here")
        async with turn:
            pipeline = device.running
            if pipeline is None:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the switch has no program yet")
                return
            try:
                tracer = await _instrument(pipeline)
            except UnsupportedError as error:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
                return
            except (BpfError, OSError) as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
                return
            try:
                tracer.follow(request.flow, request.packets)
                device.begin_trace(pipeline, tracer)
                yield b""
                async for packet in _packets(device, tracer, request, requests):
                    yield packet.model_dump_json().encode()
                yield Traced(packets=(), lost=tracer.lost, ended=True).model_dump_json().encode()
            finally:
                device.end_trace(tracer)
                tracer.close()

    handler = grpc.stream_stream_rpc_method_handler(follow, None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Follow": handler})])


async def _packets(
    device: XdpDevice, tracer: Tracer, request: TraceRequest, requests: AsyncIterator[bytes]
) -> AsyncIterator[PacketTrace]:
    """Yield packets until there were enough, or the client or the program wants no more."""

    async def until_closed() -> None:
        async for _ in requests:
            pass

    closed = asyncio.ensure_future(until_closed())
    left, deadline = request.packets, time.monotonic() + request.seconds
    try:
        while left > 0 and time.monotonic() < deadline and device.tracer is tracer and not closed.done():
            await asyncio.wait({closed}, timeout=_POLL_S)
            for packet in tracer.poll():
                left -= 1
                yield packet
        device.end_trace(tracer)
        await asyncio.sleep(_IN_FLIGHT_S)
        for packet in tracer.poll():
            yield packet
    finally:
        closed.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await closed


async def _instrument(pipeline: XdpPipeline) -> Tracer:
    """Compile and load the instrumented variant, and let go of it where nobody waits for it any more."""
    making = asyncio.ensure_future(asyncio.to_thread(pipeline.instrument))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: None if made.exception() else made.result().close())
        raise
