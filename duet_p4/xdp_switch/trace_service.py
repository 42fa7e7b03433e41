"""Traces over the switch's gRPC server, beside P4Runtime: `duet.v1.Trace/Follow`.

A call is one trace: JSON of a `TraceRequest` comes in; an empty message says that packets are followed from now on,
each one that follows is the JSON of a `PacketTrace`, and the last one that of the `Traced` without packets. The
instrumented variant is on the ports for as long as the call lasts, however it ends. A switch does one at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from pydantic import ValidationError

from duet_p4.api.trace import Traced, TraceRequest
from duet_p4.xdp_switch.dataplane import UnsupportedError
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.pipeline import XdpPipeline
from duet_p4.xdp_switch.tracer import Tracer

SERVICE = "duet.v1.Trace"
_POLL_S = 0.05


async def _instrument(pipeline: XdpPipeline) -> Tracer:
    """Compile and load the instrumented variant, and let go of it where nobody waits for it any more."""
    making = asyncio.ensure_future(asyncio.to_thread(pipeline.instrument))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(lambda made: None if made.exception() else made.result().close())
        raise


def add_to(server: grpc.aio.Server, device: XdpDevice) -> None:
    """Have a server answer traces of a device."""
    turn = asyncio.Lock()

    async def follow(body: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            request = TraceRequest.model_validate_json(body)
        except ValidationError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
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
            try:
                tracer.follow(request.flow, request.packets)
                device.begin_trace(pipeline, tracer)
            except BaseException:
                if device.tracer is not tracer:
                    tracer.close()
                raise
            try:
                yield b""
                left, deadline = request.packets, time.monotonic() + request.seconds
                while left > 0 and time.monotonic() < deadline and device.tracer is tracer:
                    await asyncio.sleep(_POLL_S)
                    for packet in tracer.poll() if device.tracer is tracer else ():
                        left -= 1
                        yield packet.model_dump_json().encode()
                lost = tracer.lost if device.tracer is tracer else 0
                yield Traced(packets=(), lost=lost, ended=True).model_dump_json().encode()
            finally:
                if device.tracer is tracer:
                    device.end_trace()

    handler = grpc.unary_stream_rpc_method_handler(follow, None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Follow": handler})])
