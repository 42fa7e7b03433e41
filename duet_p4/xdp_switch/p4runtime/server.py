"""The P4Runtime service: one device on one asyncio loop, beside its packet I/O.

Writes, reads and changes of the pipeline take turns (one lock), but a large Write lets packets
through every `TURN` updates: BGP runs over packet-in and packet-out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn

import grpc
from finsy.proto import U128, p4r, rpc_code
from google.protobuf.message import DecodeError, Message

from duet_p4.xdp_switch.dataplane import Device
from duet_p4.xdp_switch.p4runtime.arbitration import Arbitration, Notification
from duet_p4.xdp_switch.p4runtime.errors import (
    DETAILS_KEY,
    ERROR_SPACE,
    P4RuntimeError,
    batch_status,
    failed_precondition,
    invalid_argument,
    not_found,
    permission_denied,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.packet_io import HeaderCodec, stream_error
from duet_p4.xdp_switch.p4runtime.pipeline_config import PipelineConfig

API_VERSION = "1.4.0"
MAX_MESSAGE = 256 << 20
TURN = 128
"""Entities of a Write or Read between two looks at the packets."""
READ_BATCH = 1024
"""Entities in one ReadResponse."""
PACKETS_AT_ONCE = 64
QUEUE_LIMIT = 4096
"""Messages that a slow controller may be behind; further packets and errors are dropped."""

_MALFORMED = invalid_argument("the bytes of the request are no message of its type")
_log = logging.getLogger(__name__)

_Unary = Callable[[Any, Any], Awaitable[Message]]


class _Stream:
    """One controller's StreamChannel: what it is owed, in order."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[p4r.StreamMessageResponse] = asyncio.Queue()
        self.dropped = 0

    def send(self, message: p4r.StreamMessageResponse) -> None:
        """Send a message that the controller must get."""
        self.outgoing.put_nowait(message)

    def offer(self, message: p4r.StreamMessageResponse) -> None:
        """Send a packet or an error, unless the controller is far behind."""
        if self.outgoing.qsize() < QUEUE_LIMIT:
            self.send(message)
            return
        if not self.dropped:
            _log.warning("a controller is %d messages behind: drops its packets and errors", QUEUE_LIMIT)
        self.dropped += 1


class P4RuntimeService:
    """The P4Runtime RPCs for one device."""

    def __init__(self, device: Device, device_id: int) -> None:
        self._device = device
        self._device_id = device_id
        self._lock = asyncio.Lock()
        self._arbitration: Arbitration[_Stream] = Arbitration(device_id)
        self.config = PipelineConfig(device)
        self._packet_in = HeaderCodec(None)
        self._packet_out = HeaderCodec(None)
        self._loading = False

    def start(self) -> None:
        """Begin to pass packets on; call it on the loop that serves the RPCs."""
        if self._device.packet_in_fd is not None:
            asyncio.get_running_loop().add_reader(self._device.packet_in_fd, self._receive)

    def stop(self) -> None:
        """Pass no more packets on."""
        if self._device.packet_in_fd is not None:
            asyncio.get_running_loop().remove_reader(self._device.packet_in_fd)

    async def set_pipeline(self, action: int, config: p4r.ForwardingPipelineConfig | None) -> None:
        """Carry out a SetForwardingPipelineConfig that is permitted; no packets pass meanwhile."""
        async with self._lock:
            self.stop()
            self._loading = True
            try:
                await self.config.set(action, config)
            finally:
                running = self.config.running
                if running is not None:
                    self._packet_in = HeaderCodec(running.schema.packet_in)
                    self._packet_out = HeaderCodec(running.schema.packet_out)
                self._loading = False
                self.start()

    async def Write(  # noqa: N802
        self, request: p4r.WriteRequest, context: Any
    ) -> p4r.WriteResponse:
        """Apply a batch of updates; each one succeeds or is refused for itself."""
        async with self._lock:
            try:
                self._check_primary(request)
                state = self.config.forwarding()
                if request.atomicity != p4r.WriteRequest.CONTINUE_ON_ERROR:
                    name = p4r.WriteRequest.Atomicity.Name(request.atomicity)
                    raise unimplemented(f"atomicity {name} is not supported, only CONTINUE_ON_ERROR")
            except P4RuntimeError as error:
                await _abort(context, error)
            results: list[P4RuntimeError | None] = []
            failed = False
            for number, update in enumerate(request.updates, 1):
                try:
                    state.write(update)
                    results.append(None)
                except P4RuntimeError as error:
                    results.append(error)
                    failed = True
                if number % TURN == 0:
                    await asyncio.sleep(0)
        if failed:
            await _abort_batch(context, results, "Write")
        return p4r.WriteResponse()

    async def Read(  # noqa: N802
        self, request: p4r.ReadRequest, context: Any
    ) -> AsyncIterator[p4r.ReadResponse]:
        """Stream the entities that the requests of a batch select."""
        responses = [p4r.ReadResponse()]
        results: list[P4RuntimeError | None] = []
        async with self._lock:
            try:
                self._check_device(request.device_id)
                if request.role:
                    raise not_found(f"role {request.role!r} is unknown: there is only the default role")
                state = self.config.forwarding()
            except P4RuntimeError as error:
                await _abort(context, error)
            for query in request.entities:
                try:
                    for number, entity in enumerate(state.read(query), 1):
                        if len(responses[-1].entities) == READ_BATCH:
                            responses.append(p4r.ReadResponse())
                        responses[-1].entities.append(entity)
                        if number % TURN == 0:
                            await asyncio.sleep(0)
                    results.append(None)
                except P4RuntimeError as error:
                    results.append(error)
        for response in responses:
            if response.entities:
                yield response
        if any(results):
            await _abort_batch(context, results, "Read")

    async def SetForwardingPipelineConfig(  # noqa: N802
        self, request: p4r.SetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.SetForwardingPipelineConfigResponse:
        """Verify, save or commit a P4 program."""
        try:
            self._check_primary(request)
            config = request.config if request.HasField("config") else None
            await self.set_pipeline(request.action, config)
        except P4RuntimeError as error:
            await _abort(context, error)
        return p4r.SetForwardingPipelineConfigResponse()

    async def GetForwardingPipelineConfig(  # noqa: N802
        self, request: p4r.GetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.GetForwardingPipelineConfigResponse:
        """Return the committed P4 program, or the parts of it that were asked for."""
        try:
            self._check_device(request.device_id)
            return self.config.get(request.response_type)
        except P4RuntimeError as error:
            await _abort(context, error)

    async def Capabilities(  # noqa: N802
        self, request: p4r.CapabilitiesRequest, context: Any
    ) -> p4r.CapabilitiesResponse:
        """Return the version of the P4Runtime API."""
        try:
            if request.device_id:
                self._check_device(request.device_id)
        except P4RuntimeError as error:
            await _abort(context, error)
        return p4r.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    async def StreamChannel(  # noqa: N802
        self, requests: AsyncIterator[p4r.StreamMessageRequest | None], context: Any
    ) -> None:
        """Arbitrate, and pass packets in and out, until the controller goes away."""
        stream = _Stream()
        sender = asyncio.create_task(_send(stream, context))
        try:
            async for request in requests:
                if request is None:
                    raise _MALFORMED
                kind = request.WhichOneof("update")
                if kind == "packet":
                    self._send_packet(stream, request.packet)
                elif kind == "arbitration":
                    async with self._lock:
                        self._notify(self._arbitration.update(stream, request.arbitration))
                else:
                    stream.offer(_stream_refusal(request))
        except P4RuntimeError as error:
            await _abort(context, error)
        finally:
            sender.cancel()
            self._notify(self._arbitration.remove(stream))

    def _send_packet(self, stream: _Stream, message: p4r.PacketOut) -> None:
        try:
            if stream is not self._arbitration.primary:
                raise permission_denied("only the primary controller sends packets")
            running = self.config.running
            if running is None or self._loading:
                raise failed_precondition("no pipeline is running")
            frame = self._packet_out.packet_out(message)
            try:
                running.pipeline.packet_out(frame)
            except (OSError, ValueError) as error:
                raise invalid_argument(f"the packet cannot be sent: {error}") from error
        except P4RuntimeError as error:
            stream.offer(stream_error(error, message, ERROR_SPACE))

    def _receive(self) -> None:
        """Pass waiting packets to the primary controller; without one they are lost, as on BMv2."""
        for _ in range(PACKETS_AT_ONCE):
            frame = self._device.receive()
            if frame is None:
                return
            primary = self._arbitration.primary
            if primary is None:
                continue
            try:
                primary.offer(p4r.StreamMessageResponse(packet=self._packet_in.packet_in(frame)))
            except P4RuntimeError as error:
                _log.error("drops a packet-in: %s", error)

    def _check_device(self, device_id: int) -> None:
        if device_id != self._device_id:
            raise not_found(f"device id {device_id} is not {self._device_id}")

    def _check_primary(self, request: p4r.WriteRequest | p4r.SetForwardingPipelineConfigRequest) -> None:
        election_id = U128.decode(request.election_id) if request.HasField("election_id") else None
        self._arbitration.check_write(request.device_id, request.role, request.role_id, election_id)

    def _notify(self, notifications: list[Notification[_Stream]]) -> None:
        for notification in notifications:
            notification.stream.send(p4r.StreamMessageResponse(arbitration=notification.message))


def create_server(service: P4RuntimeService) -> grpc.aio.Server:
    """Return a gRPC server that takes large pipelines and batches, and shares its port with nobody.

    Unlike the generated registration, bytes that are no message get INVALID_ARGUMENT and no traceback.
    """
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.so_reuseport", 0)]
    )
    unary: list[tuple[str, _Unary, type[Message]]] = [
        ("Write", service.Write, p4r.WriteRequest),
        (
            "SetForwardingPipelineConfig",
            service.SetForwardingPipelineConfig,
            p4r.SetForwardingPipelineConfigRequest,
        ),
        (
            "GetForwardingPipelineConfig",
            service.GetForwardingPipelineConfig,
            p4r.GetForwardingPipelineConfigRequest,
        ),
        ("Capabilities", service.Capabilities, p4r.CapabilitiesRequest),
    ]
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(_refuse_malformed(method), _decoder(request), _encode)
        for name, method, request in unary
    }
    handlers["Read"] = grpc.unary_stream_rpc_method_handler(
        _refuse_malformed_stream(service.Read), _decoder(p4r.ReadRequest), _encode
    )
    handlers["StreamChannel"] = grpc.stream_stream_rpc_method_handler(
        service.StreamChannel, _decoder(p4r.StreamMessageRequest), _encode
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


def _refuse_malformed(method: _Unary) -> Callable[[Any, Any], Any]:
    async def call(request: Message | None, context: Any) -> Message:
        if request is None:
            await _abort(context, _MALFORMED)
        return await method(request, context)

    return call


def _refuse_malformed_stream(
    method: Callable[[Any, Any], AsyncIterator[Message]],
) -> Callable[[Any, Any], Any]:
    async def call(request: Message | None, context: Any) -> AsyncIterator[Message]:
        if request is None:
            await _abort(context, _MALFORMED)
        async for response in method(request, context):
            yield response

    return call


async def _send(stream: _Stream, context: Any) -> None:
    with suppress(grpc.aio.BaseError, grpc.aio.UsageError):
        while True:
            await context.write(await stream.outgoing.get())


def _stream_refusal(request: p4r.StreamMessageRequest) -> p4r.StreamMessageResponse:
    """Return the error for a stream message that this switch has no use for."""
    response = p4r.StreamMessageResponse()
    response.error.space = ERROR_SPACE
    if request.HasField("digest_ack"):
        response.error.canonical_code = rpc_code.INVALID_ARGUMENT
        response.error.message = f"digest {request.digest_ack.digest_id} is not in the P4Info"
        response.error.digest_list_ack.digest_list_ack.CopyFrom(request.digest_ack)
    else:
        response.error.canonical_code = rpc_code.UNIMPLEMENTED
        response.error.message = "this kind of stream message is not supported"
        response.error.other.SetInParent()
    return response


async def _abort(context: Any, error: P4RuntimeError) -> NoReturn:
    await context.abort(error.grpc_code, error.message)
    raise AssertionError("abort returned")


async def _abort_batch(context: Any, results: list[P4RuntimeError | None], what: str) -> NoReturn:
    """Report the result of every item of a batch in which some failed."""
    failures = [error for error in results if error is not None]
    message = f"{what}: {len(failures)} of {len(results)} failed, the first: {failures[0].message}"
    status = batch_status(results, message)
    await context.abort(
        grpc.StatusCode.UNKNOWN, message, trailing_metadata=((DETAILS_KEY, status.SerializeToString()),)
    )
    raise AssertionError("abort returned")
