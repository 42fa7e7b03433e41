"""A peer that answers P4Runtime as a Tofino's server is documented to, over real gRPC on loopback.

It forwards nothing. It takes a pipeline in the packing of `bf_switchd`, and every write only as the P4Info
that came with it has it: tables, actions, each match field and parameter, as wide and as short as need be.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from finsy.proto import p4i, p4r, p4r_grpc, rpc_code
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from duet_p4.hmux import tofino

_BYTES, _STRING, _NUMBER, _MESSAGE = (
    getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name}")
    for name in ("BYTES", "STRING", "UINT32", "MESSAGE")
)


def message_class(name: str, fields: dict[str, tuple[int, Any]], *, inner: str = "") -> type[message.Message]:
    """Return the class of a protobuf message, given the number and type of each field.

    A list of one type says that the field is repeated; a dict, that it is a repeated message called `inner`.
    """
    proto = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="tests", syntax="proto3")
    _describe(proto.message_type.add(name=name), fields, inner)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}"))


def _describe(proto: Any, fields: dict[str, tuple[int, Any]], inner: str) -> None:
    for name, (number, kind) in fields.items():
        repeated = isinstance(kind, list | dict)
        field = proto.field.add(name=name, number=number, label=3 if repeated else 1)
        if isinstance(kind, dict):
            _describe(proto.nested_type.add(name=inner), kind, "")
            field.type, field.type_name = _MESSAGE, inner
        else:
            field.type = kind[0] if repeated else kind


BINARY, CONTEXT = b"\x00\x01tofino.bin\xff" * 40, b'{"context": 1}'


def compiled(folder: Path, chip: str = "tofino2") -> Path:
    """Write what the compiler leaves for bf_switchd, bytes in place of the assembler's; return its .conf."""
    shutil.copy(tofino.outputs(chip) / tofino.SCHEMA, folder / "bf-rt.json")
    (folder / "pipe").mkdir()
    (folder / "pipe" / "context.json").write_bytes(CONTEXT)
    (folder / "pipe" / "tofino.bin").write_bytes(BINARY)
    pipe = {
        "p4_pipeline_name": "pipe",
        "context": "pipe/context.json",
        "config": "pipe/tofino.bin",
        "pipe_scope": [0, 1, 2, 3],
    }
    program = {"program-name": "hmux_tna", "bfrt-config": "bf-rt.json", "p4_pipelines": [pipe]}
    path = folder / "hmux_tna.conf"
    path.write_text(json.dumps({"p4_devices": [{"device-id": 0, "p4_programs": [program]}]}))
    return path


DEVICE_CONFIG = message_class("P4DeviceConfig", {"reassign": (1, _NUMBER), "device_data": (3, _BYTES)})
"""p4.tmp.P4DeviceConfig."""

STRATUM_CONFIG = message_class(
    "BfPipelineConfig",
    {
        "p4_name": (1, _STRING),
        "bfruntime_info": (2, _BYTES),
        "profiles": (
            3,
            {
                "profile_name": (1, _STRING),
                "context": (2, _BYTES),
                "binary": (3, _BYTES),
                "pipe_scope": (4, [_NUMBER]),
            },
        ),
    },
    inner="Profile",
)


def unpacked(config: bytes) -> list[bytes]:
    """Return the parts of a device config: program name, binary, context."""
    data = DEVICE_CONFIG.FromString(config).device_data
    parts = []
    while data:
        (length,) = struct.unpack_from("<i", data)
        assert 0 <= length <= len(data) - 4, f"{length} bytes are announced, {len(data) - 4} are left"
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


class BfSwitchd(p4r_grpc.P4RuntimeServicer):
    """Holds what it is told. `pushed` are the parts of each pipeline that was."""

    def __init__(self) -> None:
        self.pushed: list[list[bytes]] = []
        self.held: dict[bytes, p4r.TableEntry] = {}
        self.defaults: dict[int, p4r.TableEntry] = {}
        self._config = p4r.ForwardingPipelineConfig()

    async def StreamChannel(self, requests: Any, context: Any) -> AsyncIterator[p4r.StreamMessageResponse]:  # noqa: N802
        async for request in requests:
            reply = p4r.StreamMessageResponse(arbitration=request.arbitration)
            reply.arbitration.status.code = rpc_code.OK
            yield reply

    async def GetForwardingPipelineConfig(  # noqa: N802
        self, request: p4r.GetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.GetForwardingPipelineConfigResponse:
        if not self.pushed:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no pipeline")
        return p4r.GetForwardingPipelineConfigResponse(
            config=p4r.ForwardingPipelineConfig(cookie=self._config.cookie)
        )

    async def SetForwardingPipelineConfig(  # noqa: N802
        self, request: p4r.SetForwardingPipelineConfigRequest, context: Any
    ) -> p4r.SetForwardingPipelineConfigResponse:
        assert request.action == p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT
        self._config = request.config
        self.pushed.append(unpacked(request.config.p4_device_config))
        self.held.clear()
        self.defaults.clear()
        return p4r.SetForwardingPipelineConfigResponse()

    async def Write(self, request: p4r.WriteRequest, context: Any) -> p4r.WriteResponse:  # noqa: N802
        try:
            for update in request.updates:
                self._write(update.type, update.entity)
        except AssertionError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return p4r.WriteResponse()

    async def Read(self, request: p4r.ReadRequest, context: Any) -> AsyncIterator[p4r.ReadResponse]:  # noqa: N802
        reply = p4r.ReadResponse()
        for entity in request.entities:
            if entity.HasField("counter_entry"):
                self._named(self._config.p4info.counters, entity.counter_entry.counter_id)
                reply.entities.append(entity)
                reply.entities[-1].counter_entry.data.SetInParent()
                continue
            asked = entity.table_entry
            found = self.defaults if asked.is_default_action else self.held
            for entry in found.values():
                same = not asked.match or _key(entry) == _key(asked)
                if entry.table_id == asked.table_id and same:
                    reply.entities.add().table_entry.CopyFrom(entry)
        yield reply

    def _write(self, kind: int, entity: p4r.Entity) -> None:
        assert entity.HasField("table_entry"), f"there are no {entity.WhichOneof('entity')}"
        entry = entity.table_entry
        table = self._named(self._config.p4info.tables, entry.table_id)
        name = table.preamble.name
        if entry.is_default_action:
            assert kind == p4r.Update.MODIFY and not table.const_default_action_id, name
            assert not entry.match
            self._check_action(table, entry, p4i.ActionRef.TABLE_ONLY)
            self.defaults[entry.table_id] = entry
            return
        self._check_match(table, entry)
        held = _key(entry) in self.held
        assert held == (kind != p4r.Update.INSERT), f"{name}: {entry.match} is {'' if held else 'not '}there"
        if kind == p4r.Update.DELETE:
            del self.held[_key(entry)]
            return
        self._check_action(table, entry, p4i.ActionRef.DEFAULT_ONLY)
        entries = [one for one in self.held.values() if one.table_id == entry.table_id]
        assert held or len(entries) < table.size, f"{name} is full"
        self.held[_key(entry)] = entry

    def _check_match(self, table: p4i.Table, entry: p4r.TableEntry) -> None:
        fields = {field.id: field for field in table.match_fields}
        for match in entry.match:
            field = fields.pop(match.field_id)
            value = match.exact.value if field.match_type == p4i.MatchField.EXACT else match.lpm.value
            _check_value(f"{table.preamble.name}, {field.name}", value, field.bitwidth)
        left = [field.name for field in fields.values() if field.match_type == p4i.MatchField.EXACT]
        assert not left, f"{table.preamble.name}: no {left}"

    def _check_action(self, table: p4i.Table, entry: p4r.TableEntry, forbidden: int) -> None:
        stated = entry.action.action
        scopes = {ref.id: ref.scope for ref in table.action_refs}
        assert scopes.get(stated.action_id, forbidden) != forbidden, f"{table.preamble.name}: {stated}"
        action = self._named(self._config.p4info.actions, stated.action_id)
        params = {param.id: param for param in action.params}
        for param in stated.params:
            known = params.pop(param.param_id)
            _check_value(f"{action.preamble.name}, {known.name}", param.value, known.bitwidth)
        assert not params, f"{action.preamble.name} lacks {list(params)}"

    def _named(self, items: Any, number: int) -> Any:
        found = [item for item in items if item.preamble.id == number]
        assert found, f"P4Info has no {number}"
        return found[0]


def _check_value(what: str, value: bytes, bits: int) -> None:
    assert value and (len(value) == 1 or value[0]), f"{what}: {value!r} is not canonical"
    assert int.from_bytes(value).bit_length() <= bits, f"{what}: {value!r} is wider than {bits} bits"


def _key(entry: p4r.TableEntry) -> bytes:
    return p4r.TableEntry(table_id=entry.table_id, match=entry.match).SerializeToString(deterministic=True)


@asynccontextmanager
async def serving(peer: BfSwitchd) -> AsyncIterator[str]:
    """Serve on loopback, and yield the address."""
    server = grpc.aio.server()
    p4r_grpc.add_P4RuntimeServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
