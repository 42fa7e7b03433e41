"""Digest lists, idle entries, roles, and what follows when ports go up and down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from finsy.proto import p4d, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime.digests import DigestState
from duet_p4.xdp_switch.p4runtime.p4info import Schema
from tests.unit.p4runtime.client import INSERT, MODIFY, Client, Stream, direct, exact
from tests.unit.p4runtime.memory import MemoryDevice, MemoryPipeline
from tests.unit.p4runtime.test_entities import (
    CONFIG,
    INFO,
    NAMES,
    digest,
    entities,
    group,
    meter,
    named,
    named_exact,
    port,
    replica,
    session,
)
from tests.unit.p4runtime.test_sessions import Push, outcome

__all__ = ["entities"]

LEARNED = NAMES["learned_t"]
MILLISECOND = 10**6


@pytest.fixture
def pipeline(entities: Client, device: MemoryDevice) -> MemoryPipeline:
    assert device.pipeline is not None
    return device.pipeline


@pytest.fixture
def primary(entities: Client) -> Iterator[Stream]:
    with Stream(entities.stub) as stream:
        stream.claim(1)
        entities.election_id = 1
        yield stream


def learned(source: int, number: int) -> p4d.P4Data:
    """What the program learns of a source on a port, as a client reads it."""
    members = [
        p4d.P4Data(bitstring=bytes([source])),
        p4d.P4Data(bitstring=str(number).encode()),
        p4d.P4Data(bool=True),
        p4d.P4Data(enum_value=b"\x09"),
    ]
    return p4d.P4Data(struct=p4d.P4StructLike(members=members))


def samples(*sources: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("learned_t", (source, 3, 1, 9)) for source in sources]


def state(**config: int) -> DigestState:
    result = DigestState(Schema.of(INFO))
    result.write(INSERT, digest(**config))
    return result


def told(lists: list[p4r.DigestList]) -> list[list[int]]:
    return [[item.struct.members[0].bitstring[0] for item in message.data] for message in lists]


def test_a_digest_list_reaches_the_primary(
    entities: Client, pipeline: MemoryPipeline, primary: Stream
) -> None:
    entities.write((INSERT, digest(max_list_size=2, max_timeout_ns=10 * 10**9)))
    for source in (1, 1, 2):
        pipeline.digests.say("learned_t", source, 3, 1, 9)
    before = time.time_ns()
    message = primary.receive().digest
    assert (message.digest_id, message.list_id) == (LEARNED, 1)
    assert list(message.data) == [learned(1, 3), learned(2, 3)], "distinct messages only"
    assert abs(message.timestamp - before) < 10 * 10**9


def test_a_list_is_sent_when_its_time_has_come(
    entities: Client, pipeline: MemoryPipeline, primary: Stream
) -> None:
    entities.write((INSERT, digest(max_list_size=100, max_timeout_ns=20 * MILLISECOND)))
    pipeline.digests.say("learned_t", 7, 3, 1, 9)
    assert list(primary.receive().digest.data) == [learned(7, 3)]


def test_what_was_not_acknowledged_is_not_told_again_until_its_timeout() -> None:
    digests = state(max_list_size=1, max_timeout_ns=1, ack_timeout_ns=10**9)
    assert told(digests.add(samples(1, 2), now=0)) == [[1], [2]]
    assert told(digests.add(samples(1, 2), now=0.5)) == []
    digests.acknowledge(p4r.DigestListAck(digest_id=LEARNED, list_id=1))
    assert told(digests.add(samples(1, 2), now=0.6)) == [[1]]
    assert told(digests.add(samples(2), now=1.1)) == [[2]], "1 s after it was sent"


def test_without_an_ack_timeout_nothing_is_remembered() -> None:
    digests = state(max_list_size=1, max_timeout_ns=1)
    assert told(digests.add(samples(1, 1), now=0)) == [[1], [1]]


def test_without_a_timeout_or_with_a_size_of_one_every_message_is_a_list() -> None:
    assert told(state(max_list_size=9).add(samples(1, 2), now=0)) == [[1], [2]]
    assert told(state(max_list_size=1, max_timeout_ns=10**9).add(samples(1, 2), now=0)) == [[1], [2]]


def test_a_buffer_waits_for_its_size_or_its_time() -> None:
    digests = state(max_list_size=3, max_timeout_ns=2 * 10**9)
    assert digests.add(samples(1, 2, 1), now=1) == []
    assert digests.next_due() == 3
    assert digests.due(now=2.9) == []
    assert told(digests.add(samples(3, 4), now=2.9)) == [[1, 2, 3]]
    assert digests.next_due() == 4.9
    assert told(digests.due(now=4.9)) == [[4]]
    assert digests.next_due() is None


def test_without_a_size_lists_are_as_long_as_the_timeout_lets_them() -> None:
    digests = state(max_timeout_ns=10**9)
    assert digests.add(samples(*range(100)), now=0) == []
    assert [len(message.data) for message in digests.due(now=1)] == [100]


def test_a_digest_that_nobody_enabled_is_silent() -> None:
    digests = DigestState(Schema.of(INFO))
    assert digests.add(samples(1), now=0) == []


def test_lists_are_numbered() -> None:
    digests = state(max_list_size=1)
    assert [message.list_id for message in digests.add(samples(1, 2, 3), now=0)] == [1, 2, 3]


def test_an_acknowledgement_of_a_backup_is_refused(entities: Client, primary: Stream) -> None:
    with Stream(entities.stub) as backup:
        backup.claim(0)
        backup.send(digest_ack=p4r.DigestListAck(digest_id=LEARNED, list_id=1))
        assert backup.receive().error.canonical_code == rpc_code.PERMISSION_DENIED


def aging(source: int, milliseconds: int, **fields) -> p4r.TableEntry:
    action = direct(NAMES.action("NoAction"))
    return NAMES.entry(
        "source", exact(1, source), action=action, idle_timeout_ns=milliseconds * MILLISECOND, **fields
    )


def test_an_idle_entry_is_told_and_again_after_another_timeout(
    entities: Client, pipeline: MemoryPipeline, primary: Stream
) -> None:
    entities.write((INSERT, aging(1, 100, metadata=b"m", controller_metadata=5)), (INSERT, aging(2, 0)))
    pipeline.idle["IngressImpl.source", (2,), 0] = 1000.0
    began = time.monotonic()
    pipeline.idle["IngressImpl.source", (1,), 0] = 0.1
    for _ in range(2):
        message = primary.receive().idle_timeout_notification
        expected = aging(1, 100, metadata=b"m", controller_metadata=5)
        expected.ClearField("action")
        assert list(message.table_entry) == [expected], "the entry with no timeout never expires"
        assert abs(message.timestamp - time.time_ns()) < 10 * 10**9
    assert time.monotonic() - began >= 0.1, "the timer begins again"


def test_an_entry_that_is_hit_is_not_told(
    entities: Client, pipeline: MemoryPipeline, primary: Stream
) -> None:
    entities.write((INSERT, aging(1, 50)), (INSERT, aging(2, 50)))
    pipeline.idle["IngressImpl.source", (2,), 0] = 0.05
    for _ in range(3):
        message = primary.receive().idle_timeout_notification
        assert [entry.match[0].exact.value for entry in message.table_entry] == [b"\2"]


def claimed(client: Client, role: str, election_id: int = 1) -> Stream:
    stream = Stream(client.stub)
    stream.arbitrate(election_id=election_id, role=p4r.Role(name=role))
    answer = stream.receive().arbitration
    assert (answer.status.code, answer.role.name) == (rpc_code.OK, role)
    return stream


def test_every_role_has_a_primary_of_its_own(entities: Client) -> None:
    with claimed(entities, "router"), claimed(entities, "learner"), claimed(entities, ""):
        entities.election_id = 1
        vrf = NAMES.entry("vrf", named_exact(1, b"1"), action=named("set_vrf", b"red"))
        entities.write((INSERT, vrf), role="router")
        entities.write((INSERT, aging(1, 0)), role="learner")
        entities.election_id = 2
        assert outcome(lambda: entities.write(role="router")).name == "PERMISSION_DENIED"


def test_a_role_writes_and_reads_what_it_owns(entities: Client) -> None:
    vrf = NAMES.entry("vrf", named_exact(1, b"1"), action=named("set_vrf", b"red"))
    with claimed(entities, "router"), claimed(entities, ""):
        entities.election_id = 1
        for other in (aging(1, 0), port(1), meter(0)):
            kind = MODIFY if isinstance(other, p4r.MeterEntry) else INSERT
            with pytest.raises(Exception, match="may not write"):
                entities.write((kind, other), role="router")
        entities.write((INSERT, vrf), role="router")
        entities.write((INSERT, aging(1, 0)), (INSERT, port(1)))
        assert entities.read(p4r.TableEntry(), role="router") == [vrf]
        assert len(entities.read(p4r.TableEntry())) > 2


def test_a_role_that_nobody_named_is_not_found(entities: Client) -> None:
    assert outcome(lambda: entities.write(role="nobody")).name == "NOT_FOUND"
    assert outcome(lambda: entities.push(Push.VERIFY, role="nobody")).name == "NOT_FOUND"


def test_a_stream_keeps_its_role(entities: Client) -> None:
    with claimed(entities, "router") as stream:
        stream.arbitrate(election_id=2, role=p4r.Role(name="learner"))
        assert outcome(stream.receive).name == "FAILED_PRECONDITION"


def test_notifications_go_to_the_role_that_owns_the_table(entities: Client, pipeline: MemoryPipeline) -> None:
    with claimed(entities, "router") as router, claimed(entities, "learner") as learner:
        entities.election_id = 1
        entities.write((INSERT, aging(1, 20)), role="learner")
        pipeline.idle["IngressImpl.source", (1,), 0] = 1.0
        assert learner.receive().idle_timeout_notification.table_entry
        router.arbitrate(role=p4r.Role(name="router"))
        assert router.receive().HasField("arbitration"), "the first thing that it hears"


def awaited(found: Callable[[], object], expected: object) -> None:
    deadline = time.monotonic() + 5
    while (last := found()) != expected:
        assert time.monotonic() < deadline, f"expected {expected}, got {last}"
        time.sleep(0.005)


def test_a_replica_takes_its_first_port_that_is_up(
    entities: Client, pipeline: MemoryPipeline, device: MemoryDevice
) -> None:
    written = group(7, replica(b"1", 1, (b"2", 2), (b"3", 3)), replica(b"9", 9))
    entities.write((INSERT, written), (INSERT, session(5, replica(b"1", 4, (b"2", 5)))))

    def places() -> tuple[object, object]:
        return pipeline.multicast.held[7][0], pipeline.clones.held[5][0]

    assert places() == ([(1, 1), (9, 9)], [(1, 4)])
    device.flip(1, up=False)
    awaited(places, ([(2, 2), (9, 9)], [(2, 5)]))
    device.flip(2, up=False)
    awaited(places, ([(1, 1), (9, 9)], [(1, 4)]))
    device.flip(1, up=True)
    awaited(places, ([(1, 1), (9, 9)], [(1, 4)]))
    assert entities.read(group(7)) == [written]


def test_packets_carry_the_names_of_their_ports(
    entities: Client, device: MemoryDevice, primary: Stream
) -> None:
    packet = p4r.PacketOut(payload=b"frame")
    packet.metadata.add(metadata_id=1, value=b"Ethernet4")
    vrf = NAMES.entry("vrf", named_exact(1, b"Ethernet4"), action=named("set_vrf", b"red"))
    entities.write((INSERT, vrf))
    primary.send(packet=packet)
    device.arrive((510 << 7).to_bytes(2, "big") + b"reply")
    message = primary.receive().packet
    assert [(m.metadata_id, m.value) for m in message.metadata] == [(1, b"Ethernet4"), (2, b"\0")]
    device.arrive((3 << 7).to_bytes(2, "big") + b"reply")
    assert primary.receive().packet.metadata[0].value == b"3"
    primary.arbitrate(election_id=1)
    assert primary.receive().HasField("arbitration"), "which comes after what was sent before"
    assert device.sent == [(510 << 7).to_bytes(2, "big") + b"frame"]


def test_other_messages_of_the_stream_are_refused_with_themselves(entities: Client, primary: Stream) -> None:
    request = p4r.StreamMessageRequest()
    request.other.type_url = "type.googleapis.com/some.Thing"
    primary.send(other=request.other)
    error = primary.receive().error
    assert error.canonical_code == rpc_code.UNIMPLEMENTED
    assert error.other.other == request.other


def test_digests_go_on_after_another_pipeline_and_back(
    entities: Client, device: MemoryDevice, primary: Stream
) -> None:
    for _ in range(2):
        entities.push(config=CONFIG)
        entities.write((INSERT, digest(max_list_size=1)))
        assert device.pipeline is not None
        device.pipeline.digests.say("learned_t", 1, 3, 1, 9)
        assert list(primary.receive().digest.data) == [learned(1, 3)]
