"""Drive a switch with the library of p4lang's tutorials: `p4runtime_lib.py CLONE ADDRESS P4INFO JSON`.

CLONE is a clone of the tutorials. Their `p4.tmp.p4config_pb2` is in no package: it is made here.
"""

from __future__ import annotations

import sys
from types import ModuleType

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def p4config() -> None:
    """Provide the message that wraps a device config, as p4lang's PI states it."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="p4/tmp/p4config.proto", package="p4.tmp", syntax="proto3")
    message = file.message_type.add(name="P4DeviceConfig")
    for name, number, kind in (("reassign", 1, kinds.TYPE_BOOL), ("device_data", 3, kinds.TYPE_BYTES)):
        message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.Default()
    pool.Add(file)
    module = ModuleType("p4.tmp.p4config_pb2")
    found = pool.FindMessageTypeByName("p4.tmp.P4DeviceConfig")
    module.P4DeviceConfig = message_factory.MessageFactory(pool).GetPrototype(found)
    package = ModuleType("p4.tmp")
    package.p4config_pb2 = module
    sys.modules |= {"p4.tmp": package, "p4.tmp.p4config_pb2": module}


def main(clone: str, address: str, info: str, program: str) -> None:
    """Do what the exercises' controllers do."""
    p4config()
    sys.path.insert(0, f"{clone}/utils")
    import grpc
    from p4runtime_lib import bmv2, helper
    from p4runtime_lib.switch import ShutdownAllSwitchConnections

    names = helper.P4InfoHelper(info)
    switch = bmv2.Bmv2SwitchConnection(name="s1", address=address, device_id=1)
    try:
        switch.MasterArbitrationUpdate()
        switch.SetForwardingPipelineConfig(p4info=names.p4info, bmv2_json_file_path=program)
        entry = names.buildTableEntry(
            table_name="IngressImpl.host",
            match_fields={"hdr.ipv4.dst": "10.0.0.7"},
            action_name="IngressImpl.forward",
            action_params={"port": 1, "mac": "02:00:00:00:00:01"},
        )
        switch.WriteTableEntry(entry)
        try:
            switch.WriteTableEntry(entry)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNKNOWN, error
        else:
            raise AssertionError("an entry was taken twice")
        default = names.buildTableEntry(
            table_name="IngressImpl.keyless",
            default_action=True,
            action_name="IngressImpl.drop",
            action_params={},
        )
        switch.WriteTableEntry(default)
        table = names.get_tables_id("IngressImpl.host")
        found = [item for answer in switch.ReadTableEntries(table) for item in answer.entities]
        assert len(found) == 1, found
        counter = names.get_counters_id("IngressImpl.drops")
        cells = [item for answer in switch.ReadCounters(counter, 3) for item in answer.entities]
        assert [item.counter_entry.data.packet_count for item in cells] == [0], cells
        group = names.buildMulticastGroupEntry(
            5, [{"egress_port": 1, "instance": 1}, {"egress_port": 2, "instance": 1}]
        )
        switch.WritePREEntry(group)
        switch.DeleteTableEntry(entry)
    finally:
        ShutdownAllSwitchConnections()
    print("driven")


if __name__ == "__main__":
    main(*sys.argv[1:])
