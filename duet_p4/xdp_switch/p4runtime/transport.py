"""The gRPC side of the P4Runtime service: a server that takes large messages and says what is malformed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from finsy.proto import p4r
from google.protobuf.message import DecodeError, Message

from duet_p4.xdp_switch.p4runtime.errors import DETAILS_KEY, BatchError, P4RuntimeError, invalid_argument
from duet_p4.xdp_switch.p4runtime.service import P4RuntimeService
from duet_p4.xdp_switch.p4runtime.stream import Stream

MAX_MESSAGE = 256 << 20
"""Bytes of a request; a pipeline of a large program is tens of megabytes."""

OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),
    # A controller whose machine went away is noticed, and one that asks often is not sent away.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
]

_Unary = Callable[[Any], Awaitable[Message]]
_Streamed = Callable[[Any], AsyncIterator[Message]]


def create_server(service: P4RuntimeService) -> grpc.aio.Server:
    """Return a gRPC server that shares its port with nobody.

    Unlike the generated registration, bytes that are no message get INVALID_ARGUMENT and no traceback.
    """
    server = grpc.aio.server(options=OPTIONS)
    unary: list[tuple[str, _Unary, type[Message]]] = [
        ("Write", service.write, p4r.WriteRequest),
        (
            "SetForwardingPipelineConfig",
            service.set_forwarding_pipeline_config,
            p4r.SetForwardingPipelineConfigRequest,
        ),
        (
            "GetForwardingPipelineConfig",
            service.get_forwarding_pipeline_config,
            p4r.GetForwardingPipelineConfigRequest,
        ),
        ("Capabilities", service.capabilities, p4r.CapabilitiesRequest),
    ]
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_unary(method), _decoder(request), _encode)
        for name, method, request in unary
    }
    handlers["Read"] = grpc.unary_stream_rpc_method_handler(
        _streamed(service.read), _decoder(p4r.ReadRequest), _encode
    )
    handlers["StreamChannel"] = grpc.stream_stream_rpc_method_handler(
        _stream_channel(service), _decoder(p4r.StreamMessageRequest), _encode
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("p4.v1.P4Runtime", handlers)])
    return server


def _decoder(kind: type[Message]) -> Callable[[bytes], Message | None]:
    def decode(data: bytes) -> Message | None:
        try:
            return kind.FromString(data)
        except DecodeError:
            return None

    return decode


def _encode(message: Message) -> bytes:
    return message.SerializeToString()


def _unary(method: _Unary) -> Callable[[Any, Any], Any]:
    async def call(request: Message | None, context: Any) -> Message:
        try:
            return await method(_well_formed(request))
        except P4RuntimeError as error:
            await _abort(context, error)

    return call


def _streamed(method: _Streamed) -> Callable[[Any, Any], Any]:
    async def call(request: Message | None, context: Any) -> AsyncIterator[Message]:
        try:
            async for response in method(_well_formed(request)):
                yield response
        except P4RuntimeError as error:
            await _abort(context, error)

    return call


def _stream_channel(service: P4RuntimeService) -> Callable[[Any, Any], Any]:
    async def call(requests: AsyncIterator[Message | None], context: Any) -> None:
        stream = Stream(context.write)
        task = asyncio.current_task()
        assert task is not None
        service.streams.add(task)
        try:
            async for request in requests:
                await service.receive(stream, _well_formed(request))
        except P4RuntimeError as error:
            await _abort(context, error)
        except asyncio.CancelledError:
            # The controller hung up, or the service stops: gRPC would log what a stream does every day.
            pass
        finally:
            service.streams.discard(task)
            stream.close()
            service.forget(stream)

    return call


def _well_formed(request: Message | None) -> Any:
    if request is None:
        raise invalid_argument("the bytes of the request are no message of its type")
    return request


async def _abort(context: Any, error: P4RuntimeError) -> NoReturn:
    """End a call with an error; one of a batch has a status for each of its items."""
    metadata: tuple[tuple[str, bytes], ...] = ()
    if isinstance(error, BatchError):
        metadata = ((DETAILS_KEY, error.status().SerializeToString()),)
    await context.abort(error.grpc_code, error.message, trailing_metadata=metadata)
    raise AssertionError("abort returned")
