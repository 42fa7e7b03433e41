"""Meters, copies, value sets, digests and translated types of entities.p4, and tables it fills itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4d, p4i, p4r, rpc_code
from google.protobuf import text_format

from tests.unit.p4runtime.client import (
    DELETE,
    INSERT,
    MODIFY,
    Client,
    Names,
    Stream,
    canonical,
    codes,
    direct,
    exact,
    ternary,
)
from tests.unit.p4runtime.test_tables import refused

HERE = Path(__file__).parent
INFO = text_format.Parse((HERE / "entities.p4info.txtpb").read_text(), p4i.P4Info())
CONFIG = p4r.ForwardingPipelineConfig(p4info=INFO, p4_device_config=(HERE / "entities.json").read_bytes())
NAMES = Names(INFO)


@pytest.fixture
def entities(client: Client) -> Client:
    """A client of a switch that runs entities.p4."""
    client.push(config=CONFIG)
    client.names = NAMES
    return client


def config(cir: int, cburst: int, pir: int, pburst: int, eburst: int = 0) -> p4r.MeterConfig:
    return p4r.MeterConfig(cir=cir, cburst=cburst, pir=pir, pburst=pburst, eburst=eburst)


RATES = config(1000, 100, 2000, 200)


def meter(index: int | None, rates: p4r.MeterConfig | None = None) -> p4r.MeterEntry:
    entry = p4r.MeterEntry(meter_id=NAMES["ports"], config=rates)
    if index is not None:
        entry.index.index = index
    return entry


def named(action: str, value: bytes) -> p4r.TableAction:
    """An action with one argument, by its name."""
    message = p4r.Action(action_id=NAMES[action])
    message.params.add(param_id=1, value=value)
    return direct(message)


def port(number: int, priority: int = 1, out: bytes = b"1", **fields) -> p4r.TableEntry:
    """An entry of the metered, counted table."""
    return NAMES.entry(
        "switch_ports",
        ternary(1, number, 0xFFFF),
        priority=priority,
        action=named("metered_forward", out),
        **fields,
    )


def group(number: int, *replicas: p4r.Replica, metadata: bytes = b"") -> p4r.PacketReplicationEngineEntry:
    entry = p4r.MulticastGroupEntry(multicast_group_id=number, replicas=replicas, metadata=metadata)
    return p4r.PacketReplicationEngineEntry(multicast_group_entry=entry)


def session(number: int, *replicas: p4r.Replica, **fields) -> p4r.PacketReplicationEngineEntry:
    entry = p4r.CloneSessionEntry(session_id=number, replicas=replicas, **fields)
    return p4r.PacketReplicationEngineEntry(clone_session_entry=entry)


def replica(name: bytes, instance: int = 0, *backups: tuple[bytes, int]) -> p4r.Replica:
    message = p4r.Replica(port=name, instance=instance)
    for backup, number in backups:
        message.backup_replicas.add(port=backup, instance=number)
    return message


def value_set(*members: int) -> p4r.ValueSetEntry:
    entry = p4r.ValueSetEntry(value_set_id=NAMES["routed_types"])
    for member in members:
        entry.members.add(match=[exact(1, member)])
    return entry


def digest(**fields) -> p4r.DigestEntry:
    entry = p4r.DigestEntry(digest_id=NAMES["learned_t"])
    if fields:
        entry.config.MergeFrom(p4r.DigestEntry.Config(**fields))
    return entry


def unread(client: Client, query) -> Sequence[int]:
    """Return the codes of a Read that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        client.read(query)
    return codes(caught.value)


def test_a_meter_is_configured_read_and_reset(entities: Client) -> None:
    entities.write((MODIFY, meter(2, RATES)))
    assert entities.read(meter(2)) == [meter(2, RATES)]
    assert entities.read(meter(None)) == [meter(0), meter(1), meter(2, RATES), meter(3)]
    assert entities.read(p4r.MeterEntry()) == entities.read(meter(None))
    entities.write((MODIFY, meter(None, RATES)))
    assert entities.read(meter(None)) == [meter(index, RATES) for index in range(4)]
    entities.write((MODIFY, meter(1)))
    assert entities.read(meter(1)) == [meter(1)]
    entities.write((MODIFY, meter(None)))
    assert entities.read(meter(None)) == [meter(index) for index in range(4)]


def test_malformed_meters_are_refused(entities: Client) -> None:
    refused(entities, INSERT, meter(0, RATES), rpc_code.INVALID_ARGUMENT)
    refused(entities, DELETE, meter(0), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(-1, RATES), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(4, RATES), rpc_code.OUT_OF_RANGE)
    refused(entities, MODIFY, p4r.MeterEntry(meter_id=7), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(0, config(-1, 1, 1, 1)), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(0, config(2, 1, 1, 1)), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(0, config(1, 1, 1, 1, eburst=1)), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, meter(0, config(1, 1 << 40, 1, 1 << 40)), rpc_code.INVALID_ARGUMENT)
    counted = meter(0, RATES)
    counted.counter_data.SetInParent()
    refused(entities, MODIFY, counted, rpc_code.UNIMPLEMENTED)
    assert unread(entities, counted) == [rpc_code.UNIMPLEMENTED]


def test_a_direct_meter_comes_and_goes_with_its_entry(entities: Client) -> None:
    query = NAMES.entry("switch_ports", meter_config=p4r.MeterConfig())
    entities.write((INSERT, port(1, meter_config=RATES)), (INSERT, port(2)))
    assert entities.read(query) == [port(1, meter_config=RATES), port(2)]
    assert entities.read(NAMES.entry("switch_ports")) == [port(1), port(2)]
    key = NAMES.entry("switch_ports", ternary(1, 2, 0xFFFF), priority=1)
    entities.write((MODIFY, p4r.DirectMeterEntry(table_entry=key, config=RATES)))
    found = entities.read(p4r.DirectMeterEntry(table_entry=key))
    assert found == [p4r.DirectMeterEntry(table_entry=key, config=RATES)]
    everything = entities.read(p4r.DirectMeterEntry(table_entry=p4r.TableEntry()))
    assert [message.config for message in everything] == [RATES, RATES]
    entities.write((MODIFY, port(2, out=b"2")))
    assert entities.read(query) == [port(1, meter_config=RATES), port(2, out=b"2")], (
        "MODIFY without resets it"
    )
    entities.write((MODIFY, p4r.DirectMeterEntry(table_entry=key, config=RATES)))
    entities.write((MODIFY, p4r.DirectMeterEntry(table_entry=key)))
    assert entities.read(p4r.DirectMeterEntry(table_entry=key)) == [p4r.DirectMeterEntry(table_entry=key)]
    entities.write((DELETE, port(1)), (INSERT, port(1)))
    assert not any(entry.HasField("meter_config") for entry in entities.read(query))


def test_the_default_entry_has_a_direct_meter(entities: Client) -> None:
    default = NAMES.entry("switch_ports", is_default_action=True)
    entities.write((MODIFY, p4r.DirectMeterEntry(table_entry=default, config=RATES)))
    assert entities.read(p4r.DirectMeterEntry(table_entry=default))[0].config == RATES
    default.meter_config.SetInParent()
    assert entities.read(default)[0].meter_config == RATES


def test_direct_meters_of_nothing_are_refused(entities: Client) -> None:
    key = NAMES.entry("switch_ports", ternary(1, 9, 0xFFFF), priority=1)
    refused(entities, MODIFY, p4r.DirectMeterEntry(table_entry=key), rpc_code.NOT_FOUND)
    refused(entities, INSERT, p4r.DirectMeterEntry(table_entry=key), rpc_code.INVALID_ARGUMENT)
    refused(entities, DELETE, p4r.DirectMeterEntry(table_entry=key), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, p4r.DirectMeterEntry(), rpc_code.INVALID_ARGUMENT)
    assert unread(entities, p4r.DirectMeterEntry(table_entry=key)) == [rpc_code.NOT_FOUND]
    entities.write((INSERT, port(9)))
    colored = p4r.DirectMeterEntry(table_entry=key)
    colored.counter_data.SetInParent()
    refused(entities, MODIFY, colored, rpc_code.UNIMPLEMENTED)
    assert unread(entities, colored) == [rpc_code.UNIMPLEMENTED]
    refused(entities, MODIFY, port(9, meter_config=config(1, 1, 0, 0)), rpc_code.INVALID_ARGUMENT)
    unmetered = NAMES.entry("source", exact(1, 1), action=direct(NAMES.action("NoAction")))
    unmetered.meter_config.SetInParent()
    refused(entities, INSERT, unmetered, rpc_code.INVALID_ARGUMENT)


@pytest.mark.parametrize(("kind", "code"), [(1, rpc_code.UNIMPLEMENTED), (2, rpc_code.INVALID_ARGUMENT)])
def test_a_meter_of_one_rate_has_one_rate(client: Client, kind: int, code: int) -> None:
    pushed = p4r.ForwardingPipelineConfig()
    pushed.CopyFrom(CONFIG)
    pushed.p4info.meters[0].spec.type = kind
    client.push(config=pushed)
    client.names = NAMES
    single = config(5, 6, 5, 6)
    client.write((MODIFY, meter(0, single)))
    assert client.read(meter(0)) == [meter(0, single)]
    refused(client, MODIFY, meter(0, RATES), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, meter(0, config(5, 6, 5, 6, eburst=1)), code)


def test_a_multicast_group_is_kept_as_written(entities: Client) -> None:
    first = group(7, replica(b"1", 3), replica(b"2", 4), metadata=b"cookie")
    entities.write((INSERT, first), (INSERT, group(8)))
    assert entities.read(group(7)) == [first]
    assert entities.read(group(0)) == [first, group(8)]
    changed = group(7, replica(b"2", 9))
    entities.write((MODIFY, changed))
    assert entities.read(group(7)) == [changed]
    entities.write((DELETE, group(7)))
    assert entities.read(group(0)) == [group(8)]
    assert entities.read(group(7)) == []


def test_malformed_multicast_groups_are_refused(entities: Client) -> None:
    entities.write((INSERT, group(7, replica(b"1"))))
    refused(entities, INSERT, group(7), rpc_code.ALREADY_EXISTS)
    refused(entities, MODIFY, group(8), rpc_code.NOT_FOUND)
    refused(entities, DELETE, group(8), rpc_code.NOT_FOUND)
    refused(entities, INSERT, group(0), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, group(1 << 16), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, group(8, replica(b"1", 1 << 16)), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, group(8, replica(b"1", 5), replica(b"1", 5)), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, group(8, replica(b"1", 5, (b"1", 6))), rpc_code.INVALID_ARGUMENT)
    refused(
        entities, INSERT, group(8, replica(b"1", 5, (b"2", 6)), replica(b"2", 6)), rpc_code.INVALID_ARGUMENT
    )
    refused(entities, INSERT, p4r.PacketReplicationEngineEntry(), rpc_code.INVALID_ARGUMENT)
    assert unread(entities, p4r.PacketReplicationEngineEntry()) == [rpc_code.INVALID_ARGUMENT]


def test_one_port_may_have_two_instances(entities: Client) -> None:
    entities.write((INSERT, group(8, replica(b"1", 5), replica(b"1", 6))))


def test_a_clone_session_is_kept_as_written(entities: Client) -> None:
    first = session(7, replica(b"1", 3), packet_length_bytes=64)
    entities.write((INSERT, first))
    assert entities.read(session(7)) == entities.read(session(0)) == [first]
    changed = session(7, replica(b"2"))
    entities.write((MODIFY, changed))
    assert entities.read(session(0)) == [changed]
    entities.write((DELETE, session(7)))
    assert entities.read(session(0)) == []


def test_malformed_clone_sessions_are_refused(entities: Client) -> None:
    entities.write((INSERT, session(7)))
    refused(entities, INSERT, session(7), rpc_code.ALREADY_EXISTS)
    refused(entities, MODIFY, session(8), rpc_code.NOT_FOUND)
    refused(entities, DELETE, session(8), rpc_code.NOT_FOUND)
    refused(entities, INSERT, session(0), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, session(1 << 15), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, session(8, packet_length_bytes=-1), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, session(8, class_of_service=1), rpc_code.UNIMPLEMENTED)


def test_a_value_set_holds_what_was_written_last(entities: Client) -> None:
    assert entities.read(value_set()) == [value_set()]
    entities.write((MODIFY, value_set(0x0800, 0x86DD)))
    assert entities.read(p4r.ValueSetEntry()) == [value_set(0x0800, 0x86DD)]
    entities.write((MODIFY, value_set(0x0806)))
    assert entities.read(value_set()) == [value_set(0x0806)]
    entities.write((MODIFY, value_set()))
    assert entities.read(value_set()) == [value_set()]


def test_malformed_value_sets_are_refused(entities: Client) -> None:
    entities.write((MODIFY, value_set(1)))
    refused(entities, INSERT, value_set(2), rpc_code.INVALID_ARGUMENT)
    refused(entities, DELETE, value_set(1), rpc_code.INVALID_ARGUMENT)
    refused(entities, MODIFY, value_set(2, 2), rpc_code.ALREADY_EXISTS)
    refused(entities, MODIFY, value_set(1, 2, 3, 4, 5), rpc_code.RESOURCE_EXHAUSTED)
    refused(entities, MODIFY, value_set(1 << 16), rpc_code.OUT_OF_RANGE)
    refused(entities, MODIFY, p4r.ValueSetEntry(value_set_id=1), rpc_code.INVALID_ARGUMENT)
    empty = value_set()
    empty.members.add()
    refused(entities, MODIFY, empty, rpc_code.INVALID_ARGUMENT)
    ranged = value_set()
    ranged.members.add(match=[ternary(1, 1, 1)])
    refused(entities, MODIFY, ranged, rpc_code.INVALID_ARGUMENT)
    assert unread(entities, p4r.ValueSetEntry(value_set_id=1)) == [rpc_code.INVALID_ARGUMENT]


def test_a_digest_is_enabled_configured_and_disabled(entities: Client) -> None:
    assert entities.read(digest()) == []
    first = digest(max_list_size=2, max_timeout_ns=1000, ack_timeout_ns=5)
    entities.write((INSERT, first))
    assert entities.read(digest()) == entities.read(p4r.DigestEntry()) == [first]
    entities.write((MODIFY, digest(max_list_size=1)))
    assert entities.read(digest()) == [digest(max_list_size=1)]
    entities.write((DELETE, digest()))
    assert entities.read(p4r.DigestEntry()) == []


def test_malformed_digests_are_refused(entities: Client) -> None:
    refused(entities, MODIFY, digest(), rpc_code.NOT_FOUND)
    refused(entities, DELETE, digest(), rpc_code.NOT_FOUND)
    refused(entities, INSERT, digest(max_list_size=-1), rpc_code.INVALID_ARGUMENT)
    refused(entities, INSERT, p4r.DigestEntry(digest_id=1), rpc_code.INVALID_ARGUMENT)
    entities.write((INSERT, digest()))
    refused(entities, INSERT, digest(), rpc_code.ALREADY_EXISTS)
    assert unread(entities, p4r.DigestEntry(digest_id=1)) == [rpc_code.INVALID_ARGUMENT]


def test_an_acknowledgement_of_an_unknown_digest_is_an_error_of_the_stream(entities: Client) -> None:
    with Stream(entities.stub) as stream:
        stream.claim(1)
        ack = p4r.DigestListAck(digest_id=1, list_id=1)
        stream.send(digest_ack=ack)
        error = stream.receive().error
        assert error.canonical_code == rpc_code.INVALID_ARGUMENT
        assert error.digest_list_ack.digest_list_ack == ack


def test_names_come_back_as_they_were_given(entities: Client) -> None:
    rows = [
        NAMES.entry("vrf", named_exact(1, name), action=named("set_vrf", vrf))
        for name, vrf in ((b"1", b""), (b"Ethernet4", b"red"), (b"cpu", b"blue"), (b"7", b"red"))
    ]
    entities.write(*((INSERT, row) for row in rows))
    assert entities.read(NAMES.entry("vrf")) == rows
    again = NAMES.entry("vrf", named_exact(1, b"Ethernet4"), action=named("set_vrf", b"green"))
    refused(entities, INSERT, again, rpc_code.ALREADY_EXISTS)
    entities.write((MODIFY, again), (DELETE, rows[0]))
    assert entities.read(NAMES.entry("vrf", named_exact(1, b"Ethernet4"))) == [again]


def named_exact(field: int, name: bytes) -> p4r.FieldMatch:
    return p4r.FieldMatch(field_id=field, exact=p4r.FieldMatch.Exact(value=name))


def test_a_number_of_more_bits_than_the_data_plane_has_is_translated(entities: Client) -> None:
    rows = [
        NAMES.entry(
            "rewrite",
            named_exact(1, b"red"),
            p4r.FieldMatch(field_id=2, optional=p4r.FieldMatch.Optional(value=canonical(number))),
            priority=number % 1000 + 1,
            action=named("set_interface", canonical(number)),
        )
        for number in (3, 0xFFFF_FFFD, 1 << 20)
    ]
    entities.write(*((INSERT, row) for row in rows))
    assert entities.read(NAMES.entry("rewrite")) == rows
    wide = NAMES.entry(
        "rewrite", named_exact(1, b"red"), priority=1, action=named("set_interface", b"\1" * 5)
    )
    refused(entities, INSERT, wide, rpc_code.OUT_OF_RANGE)


def test_names_that_nothing_uses_are_taken_back(entities: Client) -> None:
    kept = NAMES.entry(
        "rewrite", named_exact(1, b"k"), priority=1, action=named("set_interface", canonical(900))
    )
    entities.write((INSERT, kept))
    for number in range(600):
        entry = NAMES.entry(
            "rewrite",
            named_exact(1, b"r"),
            priority=1,
            action=named("set_interface", canonical(number + 1000)),
        )
        entities.write((MODIFY if number else INSERT, entry))
    assert entities.read(NAMES.entry("rewrite")) == [kept, entry]
    absent = NAMES.entry("rewrite", named_exact(1, b"absent"), priority=1)
    refused(entities, DELETE, absent, rpc_code.NOT_FOUND)


def test_a_register_of_signed_numbers(entities: Client) -> None:
    def level(index: int, value: int) -> p4r.RegisterEntry:
        data = p4d.P4Data(bitstring=value.to_bytes(2 if value < -128 else 1, "big", signed=True))
        return p4r.RegisterEntry(register_id=NAMES["levels"], index=p4r.Index(index=index), data=data)

    entities.write((MODIFY, level(1, -739)), (MODIFY, level(2, -1)), (MODIFY, level(3, 99)))
    found = entities.read(p4r.RegisterEntry(register_id=NAMES["levels"]))
    assert found == [level(0, 0), level(1, -739), level(2, -1), level(3, 99)]
    padded = level(1, 0)
    padded.data.bitstring = b"\xff\xff\xf8\x00"
    entities.write((MODIFY, padded))
    padded.data.bitstring = b"\x08\x00"
    refused(entities, MODIFY, padded, rpc_code.OUT_OF_RANGE)


def test_a_table_with_entries_of_the_program_takes_others_beside_them(entities: Client) -> None:
    started = entities.read(NAMES.entry("started"))
    assert sorted(entry.match[0].exact.value for entry in started) == [b"\x08\x06", b"\x88\xcc"]
    arp = NAMES.entry("started", exact(1, 0x0806), action=direct(NAMES.action("drop")))
    other = NAMES.entry("started", exact(1, 0x0800), action=direct(NAMES.action("drop")))
    entities.write((MODIFY, arp), (INSERT, other))
    entities.write((DELETE, arp))
    assert len(entities.read(NAMES.entry("started"))) == 2


def test_idle_timeouts_are_only_for_tables_that_have_them(entities: Client) -> None:
    aging = NAMES.entry("source", exact(1, 1), action=direct(NAMES.action("NoAction")), idle_timeout_ns=10**9)
    entities.write((INSERT, aging))
    assert entities.read(NAMES.entry("source")) == [aging]
    query = NAMES.entry("source")
    query.time_since_last_hit.SetInParent()
    (found,) = entities.read(query)
    assert 0 <= found.time_since_last_hit.elapsed_ns < 60 * 10**9
    refused(entities, INSERT, port(3, idle_timeout_ns=1), rpc_code.INVALID_ARGUMENT)
    negative = NAMES.entry("source", exact(1, 2), action=aging.action, idle_timeout_ns=-1)
    refused(entities, INSERT, negative, rpc_code.INVALID_ARGUMENT)
    written = NAMES.entry("source", exact(1, 2), action=aging.action)
    written.time_since_last_hit.SetInParent()
    refused(entities, INSERT, written, rpc_code.INVALID_ARGUMENT)
    default = NAMES.entry("source", is_default_action=True, action=aging.action, idle_timeout_ns=1)
    refused(entities, MODIFY, default, rpc_code.INVALID_ARGUMENT)
    other = NAMES.entry("switch_ports")
    other.time_since_last_hit.SetInParent()
    assert unread(entities, other) == [rpc_code.INVALID_ARGUMENT]
    entities.write((MODIFY, NAMES.entry("source", exact(1, 1), action=aging.action)))
    assert not entities.read(NAMES.entry("source"))[0].idle_timeout_ns


def test_reconcile_keeps_every_kind_of_entity(entities: Client) -> None:
    entities.write(
        (INSERT, port(1, meter_config=RATES)),
        (INSERT, group(1, replica(b"1"))),
        (INSERT, session(1, replica(b"Ethernet9"))),
        (INSERT, digest(max_list_size=3)),
        (MODIFY, value_set(0x0800)),
        (MODIFY, meter(3, RATES)),
        (INSERT, NAMES.entry("vrf", named_exact(1, b"Ethernet4"), action=named("set_vrf", b"red"))),
        (DELETE, NAMES.entry("started", exact(1, 0x0806))),
    )
    before = entities.everything()
    other = p4r.ForwardingPipelineConfig()
    other.CopyFrom(CONFIG)
    other.p4_device_config += b"\n"
    entities.push(p4r.SetForwardingPipelineConfigRequest.RECONCILE_AND_COMMIT, other)
    assert entities.everything() == before


def test_a_const_entrys_counter_can_be_written(entities: Client) -> None:
    key = NAMES.entry("fixed", exact(1, 0x1234))
    count = p4r.CounterData(packet_count=5)
    entities.write((MODIFY, p4r.DirectCounterEntry(table_entry=key, data=count)))
    assert entities.read(p4r.DirectCounterEntry(table_entry=key))[0].data == count
    key.counter_data.packet_count = 6
    entities.write((MODIFY, key))
    (found,) = entities.read(NAMES.entry("fixed", counter_data=p4r.CounterData()))
    assert (found.is_const, found.counter_data.packet_count) == (True, 6)
    key.action.CopyFrom(direct(NAMES.action("NoAction")))
    refused(entities, MODIFY, key, rpc_code.PERMISSION_DENIED)
