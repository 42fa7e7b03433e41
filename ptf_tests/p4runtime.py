"""A blocking P4Runtime client: tests read top to bottom, without an event loop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import finsy
import grpc
from finsy.proto import p4r, p4r_grpc, rpc_status

from ptf_tests.numbering import Numbering

BATCH = 2000
"""Updates per Write: a full table in one message would exceed gRPC's limit."""

ANSWER_SECONDS = 30.0
_MAX_MESSAGE = 64 << 20


class WriteError(Exception):
    """A Write was refused; `codes` has the canonical code of each update (0 where it was taken)."""

    def __init__(self, message: str, codes: Sequence[int]) -> None:
        super().__init__(message)
        self.codes = list(codes)


class P4Runtime:
    """The primary controller of one switch. A context manager."""

    def __init__(
        self, address: str, schema: finsy.P4Schema, device_id: int, ports: Numbering | None = None
    ) -> None:
        self.schema = schema
        self._ports = ports or Numbering()
        self._device_id = device_id
        limits = [("grpc.max_receive_message_length", _MAX_MESSAGE)]
        self._channel = grpc.insecure_channel(address, options=limits)
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        # The latest controller is the primary one.
        self._election_id = p4r.Uint128(low=time.time_ns())
        self._requests: queue.SimpleQueue[p4r.StreamMessageRequest | None] = queue.SimpleQueue()
        self._primary: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.packets_in: queue.SimpleQueue[finsy.P4PacketIn] = queue.SimpleQueue()
        self._stream = self._stub.StreamChannel(self._outgoing())
        self._reader = threading.Thread(target=self._read_stream, name="p4runtime-stream", daemon=True)

    def __enter__(self) -> P4Runtime:
        self._reader.start()
        request = p4r.StreamMessageRequest()
        request.arbitration.device_id = self._device_id
        request.arbitration.election_id.CopyFrom(self._election_id)
        self._requests.put(request)
        code = self._primary.get(timeout=ANSWER_SECONDS)
        if code:
            raise RuntimeError(f"not the primary controller of the switch: code {code}")
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._stream.cancel()
        self._channel.close()

    def push_pipeline(self) -> None:
        """Have the switch run the schema's program, with empty tables."""
        self._stub.SetForwardingPipelineConfig(
            p4r.SetForwardingPipelineConfigRequest(
                device_id=self._device_id,
                election_id=self._election_id,
                action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
                config=self.schema.get_pipeline_config(),
            ),
            timeout=120,
        )

    def write(self, updates: Iterable[Any]) -> None:
        """Write updates (`+entity`, `~entity`, `-entity`); raise WriteError where one is refused."""
        encoded = [self._update(update) for update in updates]
        for start in range(0, len(encoded), BATCH):
            request = p4r.WriteRequest(
                device_id=self._device_id,
                election_id=self._election_id,
                updates=encoded[start : start + BATCH],
            )
            try:
                self._stub.Write(request, timeout=ANSWER_SECONDS)
            except grpc.RpcError as error:
                raise WriteError(str(error.details()), _codes(error)) from None

    def _update(self, update: Any) -> p4r.Update:
        message = p4r.Update()
        message.CopyFrom(update if isinstance(update, p4r.Update) else update.encode_update(self.schema))
        self._ports.to_switch(message.entity)
        return message

    def read(self, *entities: Any) -> list[Any]:
        """Return what the switch holds of these (wildcard) entities."""
        request = p4r.ReadRequest(
            device_id=self._device_id, entities=[entity.encode(self.schema) for entity in entities]
        )
        for entity in request.entities:
            self._ports.to_switch(entity)
        found: list[Any] = []
        for response in self._stub.Read(request, timeout=ANSWER_SECONDS):
            for entity in response.entities:
                self._ports.to_test(entity)
                found.append(finsy.p4entity.decode_entity(entity, self.schema))
        return found

    def clear(self) -> None:
        """Delete every table entry."""
        entries = [entry for entry in self.read(finsy.P4TableEntry()) if not entry.is_const]
        self.write(-entry for entry in entries if not entry.is_default_action)

    def send(self, packet: finsy.P4PacketOut) -> None:
        """Send a packet-out."""
        message = packet.encode_update(self.schema)
        self._ports.to_switch(message.packet)
        self._requests.put(message)

    def _outgoing(self) -> Iterator[p4r.StreamMessageRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def _read_stream(self) -> None:
        try:
            for response in self._stream:
                if response.HasField("arbitration"):
                    self._primary.put(response.arbitration.status.code)
                elif response.HasField("packet"):
                    self._ports.to_test(response.packet)
                    self.packets_in.put(finsy.P4PacketIn.decode(response, self.schema))
        except grpc.RpcError as error:
            self._primary.put(error.code().value[0])


def _codes(error: grpc.RpcError) -> list[int]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = rpc_status.Status.FromString(value)
            codes = []
            for detail in status.details:
                p4_error = p4r.Error()
                detail.Unpack(p4_error)
                codes.append(p4_error.canonical_code)
            return codes
    return [error.code().value[0]]
