"""A P4Runtime session with a switch: channel, arbitration, and requests as they are. It knows no program.

Like finsy's P4Client, but one that comes back within milliseconds once a switch does, gives a push a minute,
and says when the session is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from finsy import P4ClientError
from finsy.proto import U128, p4r, p4r_grpc, rpc_code

from duet_p4 import telemetry
from duet_p4.identity import Credentials

_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The details of a write that is refused come as metadata, some 35 bytes for each update of a batch.
    ("grpc.max_metadata_size", 1 << 16),
    ("grpc.absolute_max_metadata_size", 1 << 18),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]
_WRITE = "/p4.v1.P4Runtime/Write"
_RPC_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 3.0
_PUSH_TIMEOUT_S = 60.0


class SwitchError(Exception):
    """The switch is gone, or does not do what P4Runtime says; the session is over."""


class Session:
    """One session with a switch.

    With credentials over mutual TLS; None is for a Unix socket, or for tests.
    """

    def __init__(self, address: str, device_id: int, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials
        self._device_id = device_id
        # Later sessions outbid earlier ones, so a restarted agent never waits for its predecessor's.
        self._election_id = U128.encode(time.time_ns())
        self._primary = asyncio.Event()

    @contextlib.asynccontextmanager
    async def channel(self) -> AsyncIterator[None]:
        """Connect without a session: good for reading only."""
        async with self.open() as channel:
            self._stub = p4r_grpc.P4RuntimeStub(channel)
            self._write = channel.unary_unary(_WRITE, response_deserializer=p4r.WriteResponse.FromString)
            yield

    def open(self) -> grpc.aio.Channel:
        """Return a channel to the switch."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._address, options=_OPTIONS)
        trust, key, certificate = self._credentials.parts()
        shown = grpc.ssl_channel_credentials(trust, key, certificate)
        return grpc.aio.secure_channel(self._address, shown, options=_OPTIONS)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[asyncio.Task[None]]:
        """Connect and become primary. Yields a task that ends, with `SwitchError`, when the session does."""
        async with self.channel():
            stream = self._stub.StreamChannel(wait_for_ready=True)
            lost = asyncio.create_task(self._run_stream(stream), name="P4Runtime stream")
            primary = asyncio.create_task(self._primary.wait())
            try:
                await asyncio.wait(
                    {lost, primary}, timeout=_CONNECT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
                )
                if lost.done():
                    await lost
                if not primary.done():
                    raise SwitchError(
                        f"the switch at {self._address} opens no session in {_CONNECT_TIMEOUT_S:g} s"
                    )
                yield lost
            finally:
                self._primary.clear()
                for task in (lost, primary):
                    task.cancel()
                await asyncio.gather(lost, primary, return_exceptions=True)
                stream.cancel()

    async def cookie(self) -> int | None:
        """Return the cookie of the pipeline that the switch runs, None where it runs none."""
        request = p4r.GetForwardingPipelineConfigRequest(
            device_id=self._device_id,
            response_type=p4r.GetForwardingPipelineConfigRequest.COOKIE_ONLY,
        )
        try:
            reply = await self._stub.GetForwardingPipelineConfig(request, timeout=_RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return None
            raise _lost(error) from error
        return int(reply.config.cookie.cookie) if reply.HasField("config") else None

    async def push(self, config: p4r.ForwardingPipelineConfig) -> None:
        """Have the switch run a pipeline, with empty tables."""
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=self._device_id,
            election_id=self._election_id,
            action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
            config=config,
        )
        try:
            await self._stub.SetForwardingPipelineConfig(request, timeout=_PUSH_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise SwitchError(f"the switch refuses the pipeline: {error.details()}") from error

    async def send(self, updates: Sequence[p4r.Update]) -> None:
        """Write updates with one request. Raises P4ClientError, with its details, for those refused."""
        await self.send_serialized(
            [p4r.WriteRequest(updates=[update]).SerializeToString() for update in updates]
        )

    async def send_serialized(self, updates: Sequence[bytes], *, whole: bool = False) -> None:
        """Do the same with updates that each are a serialized WriteRequest of nothing else.

        With `whole`, the switch carries out all or none of them (ROLLBACK_ON_ERROR).
        """
        sender = p4r.WriteRequest(
            device_id=self._device_id,
            election_id=self._election_id,
            atomicity=p4r.WriteRequest.ROLLBACK_ON_ERROR if whole else p4r.WriteRequest.CONTINUE_ON_ERROR,
        )
        request = b"".join((sender.SerializeToString(), *updates))
        try:
            with telemetry.span("P4Runtime Write", telemetry.Kind.CLIENT, p4runtime__updates=len(updates)):
                await self._write(request, timeout=_RPC_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNKNOWN:
                raise P4ClientError(error, "Write", msg=p4r.WriteRequest.FromString(request)) from None
            raise _lost(error) from error

    async def read(self, queries: Sequence[p4r.Entity]) -> list[p4r.Entity]:
        """Return the entities that queries select, by one request."""
        request = p4r.ReadRequest(device_id=self._device_id, entities=queries)
        try:
            return [
                entity
                async for reply in self._stub.Read(request, timeout=_RPC_TIMEOUT_S)
                for entity in reply.entities
            ]
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error

    async def _run_stream(self, stream: Any) -> None:
        arbitration = p4r.MasterArbitrationUpdate(device_id=self._device_id, election_id=self._election_id)
        try:
            await stream.write(p4r.StreamMessageRequest(arbitration=arbitration))
            while (message := await stream.read()) is not grpc.aio.EOF:
                if message.HasField("arbitration"):
                    self._arbitrate(message.arbitration)
        except grpc.aio.AioRpcError as error:
            raise _lost(error) from error
        raise SwitchError(f"the switch at {self._address} closed the session")

    def _arbitrate(self, update: p4r.MasterArbitrationUpdate) -> None:
        if update.status.code == rpc_code.OK:
            self._primary.set()
        else:
            raise SwitchError(f"another P4Runtime client controls the switch at {self._address}")


def _lost(error: grpc.aio.AioRpcError) -> SwitchError:
    return SwitchError(f"P4Runtime: {error.code().name} {error.details()}")
