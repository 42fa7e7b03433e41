"""Names that clients have for values of the data plane."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import p4i, p4r, rpc_code
from hypothesis import given
from hypothesis import strategies as st

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.names import names_in
from duet_p4.xdp_switch.p4runtime.p4info import Schema
from duet_p4.xdp_switch.p4runtime.translation import NamesExhaustedError, Translation
from tests.unit.p4runtime.client import INSERT, Client, Stream, codes, direct, exact
from tests.unit.p4runtime.memory import MemoryDevice
from tests.unit.p4runtime.test_entities import CONFIG, NAMES, entities, named, named_exact

__all__ = ["entities"]


def test_a_field_of_type_error_has_the_data_planes_width(client: Client) -> None:
    """p4c writes no width into the P4Info for it."""
    pushed = p4r.ForwardingPipelineConfig()
    pushed.CopyFrom(client.config)
    host = next(table for table in pushed.p4info.tables if table.preamble.alias == "host")
    host.match_fields[0].bitwidth = 0
    client.push(config=pushed)
    action = direct(client.names.action("drop"))
    entry = client.names.entry("host", exact(1, (1 << 32) - 1), action=action)
    client.write((INSERT, entry))
    assert client.read(client.names.entry("host")) == [entry]
    with pytest.raises(grpc.RpcError) as refused:
        client.write((INSERT, client.names.entry("host", exact(1, 1 << 32), action=action)))
    assert codes(refused.value) == [rpc_code.OUT_OF_RANGE]


def test_the_cpu_port_has_the_specifications_name(client: Client, device: MemoryDevice) -> None:
    pushed = p4r.ForwardingPipelineConfig()
    pushed.CopyFrom(CONFIG)
    port = pushed.p4info.type_info.new_types["port_id_t"].translated_type
    port.ClearField("sdn_type")
    port.sdn_bitwidth = 32
    client.push(config=pushed)
    client.names = NAMES
    packet = p4r.PacketOut(payload=b"frame")
    packet.metadata.add(metadata_id=1, value=b"\xff\xff\xff\xfd")
    with Stream(client.stub) as stream:
        stream.claim(1)
        client.election_id = 1
        stream.send(packet=packet)
        device.arrive((510 << 7).to_bytes(2, "big") + b"reply")
        assert stream.receive().packet.metadata[0].value == b"\xff\xff\xff\xfd"
        stream.claim(1)
        assert device.sent == [(510 << 7).to_bytes(2, "big") + b"frame"]


def test_a_string_has_no_prefix() -> None:
    info = p4i.P4Info()
    info.CopyFrom(CONFIG.p4info)
    table = next(t for t in info.tables if t.preamble.alias == "vrf")
    table.match_fields[0].match_type = p4i.MatchField.LPM
    with pytest.raises(P4RuntimeError) as caught:
        Schema.of(info)
    assert caught.value.code == rpc_code.UNIMPLEMENTED


def test_stated_mappings_hold(entities: Client, device: MemoryDevice) -> None:
    entry = NAMES.entry("vrf", named_exact(1, b"5"), action=named("set_vrf", b""))
    entities.write((INSERT, entry))
    assert device.pipeline is not None
    ((key, action),) = device.pipeline.tables["IngressImpl.vrf"].items()
    assert (key, action.arguments) == (((5,), 0), (0,))


@given(
    names=st.lists(st.binary(max_size=3) | st.integers(0, 300).map(lambda n: str(n).encode()), unique=True)
)
def test_no_two_names_have_one_number_and_every_number_leads_back(names: list[bytes]) -> None:
    kind = Translation("t", None)
    kind.narrow(8)
    numbers: dict[int, bytes] = {}
    for name in names:
        try:
            number = kind.decode(name, "x")
        except P4RuntimeError as error:
            assert error.code == rpc_code.RESOURCE_EXHAUSTED
            assert len(numbers) == 256
            continue
        assert 0 <= number < 256
        assert number not in numbers
        assert kind.encode(number) == name
        assert kind.decode(name, "x") == number
        numbers[number] = name


def test_all_names_in_use_is_resource_exhausted() -> None:
    translation = Translation("id_t", None, {b"stated": 0})
    translation.narrow(4)
    names = [f"name {number}".encode() for number in range(15)]
    numbers = {translation.decode(name, "id") for name in names}
    assert len(numbers | {0}) == 16
    with pytest.raises(NamesExhaustedError, match="all 16 values of id_t are in use"):
        translation.decode(b"another", "id")
    assert not translation.keep(names)
    assert translation.keep(names[1:])
    assert translation.decode(b"another", "id") not in {translation.decode(name, "id") for name in names[1:]}
    assert translation.decode(b"stated", "id") == 0


def test_a_name_is_found_wherever_it_stands() -> None:
    group = p4r.MulticastGroupEntry(multicast_group_id=1)
    replica = group.replicas.add(port=b"Ethernet0")
    replica.backup_replicas.add(port=b"Ethernet1")
    entry = p4r.TableEntry()
    entry.match.add(field_id=1).optional.value = b"vrf"
    action = entry.action.action_profile_action_set.action_profile_actions.add(watch_port=b"Ethernet2")
    action.action.params.add(value=b"hop")
    assert names_in([group, entry]) == {b"Ethernet0", b"Ethernet1", b"Ethernet2", b"vrf", b"hop"}
