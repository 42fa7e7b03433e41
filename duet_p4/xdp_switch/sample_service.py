"""Samples of the frames that a switch sends, over its gRPC server: `duet.v1.Samples/Follow`.

The answer is a stream for as long as the call lasts; a message has the `struct frame_sample` of
include/frame_samples.h of one frame after the other. It is UNIMPLEMENTED where the switch samples none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from duet_p4.xdp_switch.device import XdpDevice

SERVICE = "duet.v1.Samples"
_POLL_S = 0.25


def add_to(server: grpc.aio.Server, device: XdpDevice) -> None:
    """Have a server answer for a device."""

    async def follow(_: bytes, context: Any) -> AsyncIterator[bytes]:
        if not device.sampling:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this switch samples no frames")
        while True:
            running = device.running
            samples = running.samples() if running is not None else []
            if samples:
                yield b"".join(samples)
            await asyncio.sleep(_POLL_S)

    handler = grpc.unary_stream_rpc_method_handler(follow, None, None)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Follow": handler})])
