"""BMv2's ports as a gRPC stream, p4.bm.DataplaneInterface: frames in and out without interfaces."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKET_STREAM = "/p4.bm.DataplaneInterface/PacketStream"
"""The method: a stream of `Packet` each way. It ends when the switch holds nothing more of what came in."""


def _packet_class() -> Any:
    """Return the message of the stream; requests and responses have the same fields."""
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = [("id", kinds.TYPE_UINT64), ("device_id", kinds.TYPE_UINT64), ("port", kinds.TYPE_UINT32)]
    file = descriptor_pb2.FileDescriptorProto(name="duet/bmv2_ports.proto", package="duet", syntax="proto3")
    message = file.message_type.add(name="PortPacket")
    for number, (name, kind) in enumerate([*fields, ("packet", kinds.TYPE_BYTES)], 1):
        message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("duet.PortPacket"))


Packet = _packet_class()
