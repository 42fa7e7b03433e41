"""A small synchronous P4Runtime client that speaks in names and shows every status code."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any, Self

import grpc
from finsy.proto import U128, p4i, p4r, p4r_grpc, rpc_status

from duet_p4.xdp_switch.p4runtime.errors import DETAILS_KEY

DEADLINE = 20.0
INSERT, MODIFY, DELETE = p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE


class Names:
    """Ids by name of one P4Info."""

    def __init__(self, info: p4i.P4Info) -> None:
        self.info = info
        self._ids = {
            item.preamble.alias: item.preamble.id
            for items in (
                info.tables,
                info.actions,
                info.counters,
                info.registers,
                info.action_profiles,
                info.direct_counters,
                info.meters,
                info.direct_meters,
                info.digests,
                info.value_sets,
            )
            for item in items
        }

    def __getitem__(self, alias: str) -> int:
        return self._ids[alias]

    def action(self, alias: str, *arguments: int) -> p4r.Action:
        action = p4r.Action(action_id=self[alias])
        for number, value in enumerate(arguments, 1):
            action.params.add(param_id=number, value=canonical(value))
        return action

    def entry(self, table: str, *match: p4r.FieldMatch, **fields: Any) -> p4r.TableEntry:
        return p4r.TableEntry(table_id=self[table], match=match, **fields)


def canonical(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")


def exact(field: int, value: int) -> p4r.FieldMatch:
    return p4r.FieldMatch(field_id=field, exact=p4r.FieldMatch.Exact(value=canonical(value)))


def lpm(field: int, value: int, length: int) -> p4r.FieldMatch:
    return p4r.FieldMatch(field_id=field, lpm=p4r.FieldMatch.LPM(value=canonical(value), prefix_len=length))


def ternary(field: int, value: int, mask: int) -> p4r.FieldMatch:
    return p4r.FieldMatch(
        field_id=field, ternary=p4r.FieldMatch.Ternary(value=canonical(value), mask=canonical(mask))
    )


def optional(field: int, value: int) -> p4r.FieldMatch:
    return p4r.FieldMatch(field_id=field, optional=p4r.FieldMatch.Optional(value=canonical(value)))


def direct(action: p4r.Action) -> p4r.TableAction:
    return p4r.TableAction(action=action)


class Stream:
    """A StreamChannel."""

    def __init__(self, stub: p4r_grpc.P4RuntimeStub) -> None:
        self._outgoing: queue.Queue[p4r.StreamMessageRequest | None] = queue.Queue()
        self._call = stub.StreamChannel(iter(self._outgoing.get, None), timeout=DEADLINE)

    def send(self, **update: Any) -> None:
        self._outgoing.put(p4r.StreamMessageRequest(**update))

    def receive(self) -> p4r.StreamMessageResponse:
        """Return the next message; an RpcError ends the stream."""
        return next(self._call)

    def arbitrate(self, device_id: int = 1, election_id: int | None = 1, **fields: Any) -> None:
        message = p4r.MasterArbitrationUpdate(device_id=device_id, **fields)
        if election_id is not None:
            message.election_id.CopyFrom(U128.encode(election_id))
        self.send(arbitration=message)

    def claim(self, election_id: int) -> p4r.MasterArbitrationUpdate:
        """Arbitrate and return the answer."""
        self.arbitrate(election_id=election_id)
        return self.receive().arbitration

    def close(self) -> None:
        """Hang up and wait until the server has noticed."""
        self._outgoing.put(None)
        for _ in self._call:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()


class Client:
    """One controller of device 1."""

    def __init__(self, address: str, info: p4i.P4Info, config: bytes) -> None:
        options = [("grpc.max_metadata_size", 1 << 22), ("grpc.max_receive_message_length", 1 << 28)]
        self.address = address
        self.channel = grpc.insecure_channel(address, options)
        self.stub = p4r_grpc.P4RuntimeStub(self.channel)
        self.names = Names(info)
        self.config = p4r.ForwardingPipelineConfig(p4info=info, p4_device_config=config)
        self.election_id: int | None = None

    def push(
        self,
        action: int = p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
        config: p4r.ForwardingPipelineConfig | None = None,
        **fields: Any,
    ) -> None:
        request = p4r.SetForwardingPipelineConfigRequest(device_id=1, action=action, **fields)
        if action != p4r.SetForwardingPipelineConfigRequest.COMMIT:
            request.config.CopyFrom(config or self.config)
        if self.election_id is not None:
            request.election_id.CopyFrom(U128.encode(self.election_id))
        self.stub.SetForwardingPipelineConfig(request, timeout=DEADLINE)

    def write(self, *updates: tuple[int, Any], timeout: float = DEADLINE, **fields: Any) -> None:
        """Write (type, entity message) pairs; RpcError where one fails."""
        request = p4r.WriteRequest(**{"device_id": 1, **fields})
        if self.election_id is not None:
            request.election_id.CopyFrom(U128.encode(self.election_id))
        for kind, message in updates:
            request.updates.add(type=kind, entity=entity(message))
        self.stub.Write(request, timeout=timeout)

    def read(self, *messages: Any, **fields: Any) -> list[Any]:
        """Return the entities that the given messages select, unwrapped."""
        request = p4r.ReadRequest(**{"device_id": 1, **fields})
        request.entities.extend(entity(message) for message in messages)
        return list(self._unwrap(request))

    def everything(self) -> list[bytes]:
        """Return all that can be read, as bytes in order: to compare before and after."""
        queries = [
            p4r.TableEntry(counter_data=p4r.CounterData(), meter_config=p4r.MeterConfig()),
            p4r.TableEntry(is_default_action=True),
            p4r.ActionProfileMember(),
            p4r.ActionProfileGroup(),
            p4r.CounterEntry(),
            p4r.RegisterEntry(),
            p4r.MeterEntry(),
            p4r.DirectMeterEntry(table_entry=p4r.TableEntry()),
            p4r.PacketReplicationEngineEntry(multicast_group_entry=p4r.MulticastGroupEntry()),
            p4r.PacketReplicationEngineEntry(clone_session_entry=p4r.CloneSessionEntry()),
            p4r.ValueSetEntry(),
            p4r.DigestEntry(),
        ]
        return sorted(message.SerializeToString() for message in self.read(*queries))

    def _unwrap(self, request: p4r.ReadRequest) -> Iterator[Any]:
        for response in self.stub.Read(request, timeout=DEADLINE):
            for found in response.entities:
                yield getattr(found, found.WhichOneof("entity"))


FIELDS = {
    p4r.TableEntry: "table_entry",
    p4r.ActionProfileMember: "action_profile_member",
    p4r.ActionProfileGroup: "action_profile_group",
    p4r.CounterEntry: "counter_entry",
    p4r.DirectCounterEntry: "direct_counter_entry",
    p4r.RegisterEntry: "register_entry",
    p4r.MeterEntry: "meter_entry",
    p4r.DirectMeterEntry: "direct_meter_entry",
    p4r.PacketReplicationEngineEntry: "packet_replication_engine_entry",
    p4r.ValueSetEntry: "value_set_entry",
    p4r.DigestEntry: "digest_entry",
    p4r.ExternEntry: "extern_entry",
}


def entity(message: Any) -> p4r.Entity:
    return message if isinstance(message, p4r.Entity) else p4r.Entity(**{FIELDS[type(message)]: message})


def codes(error: grpc.RpcError) -> list[int]:
    """Return the canonical code of each item of a batch, from the status details."""
    return [item.canonical_code for item in errors(error)]


def errors(error: grpc.RpcError) -> list[p4r.Error]:
    """Return what became of each item of a batch, from the status details."""
    details = dict(error.trailing_metadata())[DETAILS_KEY]
    status = rpc_status.Status.FromString(details)
    assert status.code == grpc.StatusCode.UNKNOWN.value[0]
    found = []
    for item in status.details:
        message = p4r.Error()
        assert item.Unpack(message)
        found.append(message)
    return found
