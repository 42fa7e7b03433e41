"""Arbitration, pipelines and packets: what a controller does before and beside its writes."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import U128, p4r, rpc_code

from tests.unit.p4runtime.client import INSERT, Client, Stream, direct, exact
from tests.unit.p4runtime.memory import MemoryDevice

Push = p4r.SetForwardingPipelineConfigRequest
Get = p4r.GetForwardingPipelineConfigRequest


def configured(name: str) -> p4r.Role:
    """A role with a configuration, of which no scheme was agreed upon."""
    role = p4r.Role(name=name)
    role.config.SetInParent()
    return role


def host(client: Client) -> p4r.TableEntry:
    return client.names.entry("host", exact(1, 1), action=direct(client.names.action("drop")))


def write_code(client: Client, election_id: int | None) -> grpc.StatusCode:
    client.election_id = election_id
    try:
        client.write()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def outcome(call) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_the_highest_election_id_is_primary_and_everyone_is_told(client: Client) -> None:
    with Stream(client.stub) as first, Stream(client.stub) as second:
        answer = first.claim(5)
        assert (answer.status.code, U128.decode(answer.election_id)) == (rpc_code.OK, 5)
        assert second.claim(3).status.code == rpc_code.ALREADY_EXISTS
        answer = second.claim((1 << 100) + 1)
        assert (answer.status.code, U128.decode(answer.election_id)) == (rpc_code.OK, (1 << 100) + 1)
        told = first.receive().arbitration
        assert told.status.code == rpc_code.ALREADY_EXISTS
        assert U128.decode(told.election_id) == (1 << 100) + 1


def test_only_the_primary_writes_and_pushes(client: Client) -> None:
    with Stream(client.stub) as first, Stream(client.stub) as second:
        first.claim(5)
        second.claim(3)
        assert write_code(client, 5) is grpc.StatusCode.OK
        for other in (3, 4, 6, None):
            assert write_code(client, other) is grpc.StatusCode.PERMISSION_DENIED
            assert outcome(client.push) is grpc.StatusCode.PERMISSION_DENIED


def test_when_the_primary_leaves_nobody_may_write_until_a_higher_id_comes(client: Client) -> None:
    with Stream(client.stub) as backup:
        with Stream(client.stub) as primary:
            primary.claim(5)
            backup.claim(3)
            primary.close()
        told = backup.receive().arbitration
        assert (told.status.code, U128.decode(told.election_id)) == (rpc_code.NOT_FOUND, 5)
        assert write_code(client, 3) is grpc.StatusCode.PERMISSION_DENIED
        assert backup.claim(4).status.code == rpc_code.NOT_FOUND
        assert backup.claim(5).status.code == rpc_code.OK
        assert write_code(client, 5) is grpc.StatusCode.OK


def test_a_primary_may_step_down(client: Client) -> None:
    with Stream(client.stub) as first, Stream(client.stub) as second:
        first.claim(5)
        second.claim(3)
        first.arbitrate(election_id=2)
        assert {first.receive().arbitration.status.code, second.receive().arbitration.status.code} == {
            rpc_code.NOT_FOUND
        }


def test_without_an_election_id_one_is_a_backup(client: Client) -> None:
    with Stream(client.stub) as stream:
        stream.arbitrate(election_id=None)
        answer = stream.receive().arbitration
        assert answer.status.code == rpc_code.NOT_FOUND
        assert not answer.HasField("election_id")
        assert stream.claim(0).status.code == rpc_code.OK


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ({"device_id": 2}, grpc.StatusCode.NOT_FOUND),
        ({"election_id": 5}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"election_id": 6, "role": configured("other")}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"election_id": 6, "role": p4r.Role(id=3)}, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_a_bad_claim_ends_the_stream(client: Client, claim, code: grpc.StatusCode) -> None:
    with Stream(client.stub) as primary, Stream(client.stub) as stream:
        primary.claim(5)
        stream.arbitrate(**claim)
        assert outcome(stream.receive) is code
        assert primary.claim(5).status.code == rpc_code.OK


def test_a_stream_cannot_change_its_device(client: Client) -> None:
    with Stream(client.stub) as stream:
        stream.claim(5)
        stream.arbitrate(device_id=2)
        assert outcome(stream.receive) is grpc.StatusCode.FAILED_PRECONDITION


def test_nothing_works_before_a_pipeline(bare: Client) -> None:
    assert write_code(bare, None) is grpc.StatusCode.FAILED_PRECONDITION
    assert outcome(lambda: bare.read(p4r.TableEntry())) is grpc.StatusCode.FAILED_PRECONDITION
    assert not bare.stub.GetForwardingPipelineConfig(Get(device_id=1)).HasField("config")


def test_other_devices_roles_and_atomicities_are_refused(client: Client) -> None:
    assert outcome(lambda: client.write(device_id=2)) is grpc.StatusCode.NOT_FOUND
    assert outcome(lambda: client.write(role="other")) is grpc.StatusCode.NOT_FOUND
    assert outcome(lambda: client.read(p4r.TableEntry(), device_id=2)) is grpc.StatusCode.NOT_FOUND
    no_such = outcome(lambda: client.write((INSERT, host(client)), atomicity=99))
    assert no_such is grpc.StatusCode.INVALID_ARGUMENT
    assert client.read(client.names.entry("host")) == []
    missing = lambda: client.stub.GetForwardingPipelineConfig(Get(device_id=2))  # noqa: E731
    assert outcome(missing) is grpc.StatusCode.NOT_FOUND
    unknown = lambda: client.stub.Capabilities(p4r.CapabilitiesRequest(device_id=2))  # noqa: E731
    assert outcome(unknown) is grpc.StatusCode.NOT_FOUND


def test_capabilities_name_the_api_version(client: Client) -> None:
    version = client.stub.Capabilities(p4r.CapabilitiesRequest()).p4runtime_api_version
    assert version.split(".")[0] == "1"


def test_a_pipeline_reads_back_as_pushed(client: Client) -> None:
    config = p4r.ForwardingPipelineConfig()
    config.CopyFrom(client.config)
    config.cookie.cookie = 42
    client.push(config=config)

    def get(kind: int) -> p4r.ForwardingPipelineConfig:
        request = Get(device_id=1, response_type=kind)
        return client.stub.GetForwardingPipelineConfig(request).config

    assert get(Get.ALL) == config
    assert get(Get.COOKIE_ONLY) == p4r.ForwardingPipelineConfig(cookie=config.cookie)
    assert get(Get.P4INFO_AND_COOKIE).p4info == config.p4info
    assert not get(Get.P4INFO_AND_COOKIE).p4_device_config
    assert get(Get.DEVICE_CONFIG_AND_COOKIE).p4_device_config == config.p4_device_config
    assert not get(Get.DEVICE_CONFIG_AND_COOKIE).HasField("p4info")


def test_verify_and_commit_clears_the_entries(client: Client) -> None:
    client.write((INSERT, host(client)))
    client.push()
    assert client.read(client.names.entry("host")) == []


def test_verify_changes_nothing(client: Client) -> None:
    client.write((INSERT, host(client)))
    client.push(Push.VERIFY)
    assert client.read(client.names.entry("host")) == [host(client)]


def test_a_saved_pipeline_waits_for_commit(client: Client) -> None:
    client.write((INSERT, host(client)))
    client.push(Push.VERIFY_AND_SAVE)
    assert client.read(client.names.entry("host")) == [], "Reads are of the saved configuration"
    other = client.names.entry("host", exact(1, 2), action=direct(client.names.action("punt")))
    client.write((INSERT, other))
    client.push(Push.COMMIT)
    assert client.read(client.names.entry("host")) == [other], "Writes since it was saved are in it"
    assert outcome(lambda: client.push(Push.COMMIT)) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("action", "config", "code"),
    [
        (Push.UNSPECIFIED, None, grpc.StatusCode.INVALID_ARGUMENT),
        (Push.VERIFY, b"broken", grpc.StatusCode.INVALID_ARGUMENT),
        (Push.VERIFY_AND_COMMIT, b"broken", grpc.StatusCode.INVALID_ARGUMENT),
        (Push.VERIFY_AND_COMMIT, b"unsupported", grpc.StatusCode.UNIMPLEMENTED),
        (Push.RECONCILE_AND_COMMIT, b"broken", grpc.StatusCode.INVALID_ARGUMENT),
        (Push.VERIFY, b"stops", grpc.StatusCode.INTERNAL),
        (Push.VERIFY_AND_COMMIT, b"bug", grpc.StatusCode.INTERNAL),
        (Push.VERIFY_AND_COMMIT, b"full", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Push.VERIFY_AND_COMMIT, b"kernel", grpc.StatusCode.INTERNAL),
    ],
)
def test_a_refused_pipeline_leaves_the_old_one(client: Client, action: int, config, code) -> None:
    client.write((INSERT, host(client)))
    pushed = p4r.ForwardingPipelineConfig(p4info=client.config.p4info, p4_device_config=config or b"")
    assert outcome(lambda: client.push(action, pushed)) is code
    assert client.read(client.names.entry("host")) == [host(client)]


def test_reconcile_keeps_the_entries(client: Client, device: MemoryDevice) -> None:
    names = client.names
    default = names.entry("host", is_default_action=True, action=direct(names.action("punt")))
    client.write((INSERT, host(client)), (p4r.Update.MODIFY, default))
    before = client.everything()
    running = device.pipeline
    client.push(Push.RECONCILE_AND_COMMIT)
    assert device.pipeline is running, "the same program goes on"
    other = p4r.ForwardingPipelineConfig(p4info=client.config.p4info, p4_device_config=b"another")
    client.push(Push.RECONCILE_AND_COMMIT, other)
    assert device.pipeline is not running
    assert client.everything() == before
    changed = p4r.ForwardingPipelineConfig()
    changed.CopyFrom(other)
    changed.p4info.tables[0].match_fields[0].name = "hdr.ipv4.src"
    assert (
        outcome(lambda: client.push(Push.RECONCILE_AND_COMMIT, changed)) is grpc.StatusCode.INVALID_ARGUMENT
    )
    assert client.everything() == before


def test_packets_go_out_with_their_header_and_come_in_with_metadata(
    client: Client, device: MemoryDevice
) -> None:
    with Stream(client.stub) as stream:
        stream.claim(1)
        packet = p4r.PacketOut(payload=b"frame")
        packet.metadata.add(metadata_id=1, value=b"\x01\x05")
        packet.metadata.add(metadata_id=2, value=b"\0")
        stream.send(packet=packet)
        device.arrive((0x0083 << 7).to_bytes(2, "big") + b"reply")
        message = stream.receive().packet
        assert message.payload == b"reply"
        assert [(m.metadata_id, m.value) for m in message.metadata] == [(1, b"\x83"), (2, b"\0")]
        stream.claim(1)
        assert device.sent == [(0x105 << 7).to_bytes(2, "big") + b"frame"]


def test_packets_go_to_the_primary_only(client: Client, device: MemoryDevice) -> None:
    with Stream(client.stub) as backup, Stream(client.stub) as primary:
        backup.claim(1)
        primary.claim(2)
        assert backup.receive().arbitration.status.code == rpc_code.ALREADY_EXISTS
        device.arrive(b"\0\0frame")
        assert primary.receive().packet.payload == b"frame"
        backup.send(packet=p4r.PacketOut(payload=b"x"))
        assert backup.receive().error.canonical_code == rpc_code.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("metadata", "payload", "code"),
    [
        ([], b"x", rpc_code.INVALID_ARGUMENT),
        ([(1, b"\1"), (7, b"\1")], b"x", rpc_code.INVALID_ARGUMENT),
        ([(1, b"\1"), (1, b"\1")], b"x", rpc_code.INVALID_ARGUMENT),
        ([(1, b"\2\0")], b"x", rpc_code.OUT_OF_RANGE),
        ([(1, b"")], b"x", rpc_code.OUT_OF_RANGE),
        ([(1, b"\1")], b"", rpc_code.INVALID_ARGUMENT),
    ],
)
def test_a_bad_packet_out_is_dropped_and_said(client: Client, device, metadata, payload, code) -> None:
    packet = p4r.PacketOut(payload=payload)
    for number, value in metadata:
        packet.metadata.add(metadata_id=number, value=value)
    with Stream(client.stub) as stream:
        stream.claim(1)
        stream.send(packet=packet)
        error = stream.receive().error
        assert error.canonical_code == code, error.message
        assert error.packet_out.packet_out == packet
        assert device.sent == []


def test_other_stream_messages_are_refused(client: Client) -> None:
    with Stream(client.stub) as stream:
        stream.claim(1)
        stream.send(digest_ack=p4r.DigestListAck(digest_id=1))
        assert stream.receive().error.canonical_code == rpc_code.INVALID_ARGUMENT
        stream.send()
        assert stream.receive().error.canonical_code == rpc_code.UNIMPLEMENTED
