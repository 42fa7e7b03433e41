"""Drive a switch with p4runtime-shell: `shell.py ADDRESS P4INFO JSON`, run by the shell's own Python."""

from __future__ import annotations

import sys

import p4runtime_sh.shell as sh
from p4runtime_sh.p4runtime import P4RuntimeWriteException


def refused(write, said: str) -> None:
    """Carry out what is to be refused, and check what is said."""
    try:
        write()
    except P4RuntimeWriteException as error:
        assert said in str(error), str(error)
    else:
        raise AssertionError(f"{said} was expected")


def entries() -> None:
    host = sh.TableEntry("host")(action="forward")
    host.match["hdr.ipv4.dst"] = "10.0.0.7"
    host.action["port"], host.action["mac"] = "1", "02:00:00:00:00:01"
    host.insert()
    refused(host.insert, "ALREADY_EXISTS")
    host.action["port"] = "2"
    host.modify()
    found = list(sh.TableEntry("host").read())
    assert [entry.msg().action.action.params[0].value for entry in found] == [b"\2"], found
    counter = sh.DirectCounterEntry("host_counter")
    counter.table_entry.match["hdr.ipv4.dst"] = "10.0.0.7"
    counter.packet_count = 5
    counter.modify()
    assert [item.packet_count for item in counter.read()] == [5]
    route = sh.TableEntry("route")(action="drop")
    route.match["hdr.ipv4.dst"] = "10.1.0.0/16"
    route.insert()
    acl = sh.TableEntry("acl")(action="drop")
    acl.match["hdr.ipv4.src"] = "10.0.0.0&&&255.0.0.0"
    acl.match["standard.ingress_port"] = "1"
    acl.priority = 7
    acl.insert()
    assert len(list(sh.TableEntry("acl").read())) == 1
    default = sh.TableEntry("keyless")(action="drop", is_default=True)
    default.modify()
    const = sh.TableEntry("protocol")(action="drop")
    const.match["hdr.ipv4.protocol"] = "17"
    refused(const.insert, "PERMISSION_DENIED")
    for entry in (host, route, acl):
        entry.delete()
    refused(host.delete, "NOT_FOUND")


def selectors() -> None:
    member = sh.ActionProfileMember("next_hops")(member_id=1, action="forward")
    member.action["port"], member.action["mac"] = "1", "02:00:00:00:00:01"
    member.insert()
    group = sh.ActionProfileGroup("next_hops")(group_id=1)
    group.max_size = 16
    group.add(1, 2)
    group.insert()
    wcmp = sh.TableEntry("wcmp")(group_id=1)
    wcmp.match["hdr.ipv4.dst"] = "10.0.0.9"
    wcmp.insert()
    assert [entry.group_id for entry in sh.TableEntry("wcmp").read()] == [1]
    refused(group.delete, "FAILED_PRECONDITION")
    for entity in (wcmp, group, member):
        entity.delete()
    oneshot = sh.TableEntry("wcmp")
    oneshot.match["hdr.ipv4.dst"] = "10.0.0.9"
    action = sh.Action("drop")
    oneshot.oneshot.add(action, 3)
    oneshot.insert()
    (found,) = sh.TableEntry("wcmp").read()
    assert [item.weight for item in found.msg().action.action_profile_action_set.action_profile_actions] == [
        3
    ]
    oneshot.delete()


def others() -> None:
    counter = sh.CounterEntry("drops")
    counter.index, counter.packet_count, counter.byte_count = 3, 11, 12
    counter.modify()
    assert [item.packet_count for item in counter.read()] == [11]
    group = sh.MulticastGroupEntry(5)
    group.add(1, 1).add(2, 2)
    group.insert()
    assert len(list(sh.MulticastGroupEntry(0).read())) == 1
    group.delete()
    session = sh.CloneSessionEntry(9)
    session.add(1, 1)
    session.packet_length_bytes = 64
    session.insert()
    session.delete()
    packet = sh.PacketOut()
    packet.payload, packet.metadata["egress_port"] = b"\0" * 60, "1"
    packet.send()


def main(address: str, info: str, program: str) -> None:
    sh.setup(
        device_id=1,
        grpc_addr=address,
        election_id=(0, 1),
        config=sh.FwdPipeConfig(info, program),
        verbose=False,
    )
    try:
        assert sh.APIVersion() == "1.5.0"
        entries()
        selectors()
        others()
    finally:
        sh.teardown()
    print("driven")


if __name__ == "__main__":
    main(*sys.argv[1:])
