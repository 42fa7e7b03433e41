"""Table entries: INSERT, MODIFY, DELETE and Read, with the codes that the specification asks for."""

from __future__ import annotations

import grpc
import pytest
from finsy.proto import p4r, p4r_grpc, rpc_code

from tests.unit.p4runtime.client import (
    DELETE,
    INSERT,
    MODIFY,
    Client,
    codes,
    direct,
    exact,
    lpm,
    optional,
    ternary,
)

ADDRESS = 0x0A000001


def host(client: Client, address: int = ADDRESS, port: int = 1, **fields) -> p4r.TableEntry:
    action = client.names.action("forward", port, 0x0200_0000_0001)
    return client.names.entry("host", exact(1, address), action=direct(action), **fields)


def acl(client: Client, priority: int, *match: p4r.FieldMatch) -> p4r.TableEntry:
    action = direct(client.names.action("drop"))
    return client.names.entry("acl", *match, exact(3, 1), priority=priority, action=action)


def refused(client: Client, kind: int, message, code: int) -> None:
    """Assert that an update gets this code, and that nothing whatever has changed."""
    before = client.everything()
    with pytest.raises(grpc.RpcError) as caught:
        client.write((kind, message))
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert codes(caught.value) == [code], caught.value.details()
    assert client.everything() == before


def test_an_inserted_entry_reads_back_as_written(client: Client) -> None:
    entries = [
        host(client, metadata=b"cookie", controller_metadata=7),
        client.names.entry(
            "route", lpm(1, 0x0A000000, 8), action=direct(client.names.action("forward", 3, 4))
        ),
        client.names.entry("route", action=direct(client.names.action("drop"))),
        acl(client, 10, ternary(1, 0x0A000000, 0xFF000000), optional(2, 17)),
        acl(client, 11),
    ]
    client.write(*((INSERT, entry) for entry in entries))
    found = client.read(client.names.entry("host"), client.names.entry("route"), client.names.entry("acl"))
    assert found == entries


def test_a_wildcard_read_selects_the_entries_of_all_tables(client: Client) -> None:
    client.write((INSERT, host(client)), (INSERT, acl(client, 10)))
    found = {entry.table_id for entry in client.read(p4r.TableEntry())}
    assert found == {client.names["host"], client.names["acl"], client.names["protocol"]}


def test_reads_filter_by_key_priority_action_and_metadata(client: Client) -> None:
    client.write(
        (INSERT, host(client, 1, metadata=b"a")),
        (INSERT, host(client, 2, metadata=b"b")),
        (INSERT, acl(client, 10)),
        (INSERT, acl(client, 11)),
    )
    names = client.names
    by_key = client.read(names.entry("host", exact(1, 2)))
    assert [entry.metadata for entry in by_key] == [b"b"]
    assert client.read(names.entry("host", exact(1, 3))) == []
    assert [e.match[0].exact.value for e in client.read(names.entry("host", metadata=b"a"))] == [b"\1"]
    assert [entry.priority for entry in client.read(names.entry("acl", priority=11))] == [11]
    drops = names.entry("acl", action=direct(p4r.Action(action_id=names["drop"])))
    assert len(client.read(drops)) == 2
    forwards = names.entry("acl", action=direct(p4r.Action(action_id=names["forward"])))
    assert client.read(forwards) == []


def test_bytestrings_may_be_padded_and_come_back_canonical(client: Client) -> None:
    entry = host(client)
    entry.match[0].exact.value = b"\0\0\0" + entry.match[0].exact.value.rjust(4, b"\0")
    entry.action.action.params[0].value = b"\0\0\1"
    client.write((INSERT, entry))
    assert client.read(client.names.entry("host")) == [host(client)]
    client.write((DELETE, host(client)))


def test_each_update_of_a_batch_has_its_own_status_in_order(client: Client) -> None:
    good, again, other = host(client, 1), host(client, 1), host(client, 2)
    missing = host(client, 99)
    with pytest.raises(grpc.RpcError) as caught:
        client.write((INSERT, good), (INSERT, again), (DELETE, missing), (INSERT, other))
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert codes(caught.value) == [rpc_code.OK, rpc_code.ALREADY_EXISTS, rpc_code.NOT_FOUND, rpc_code.OK]
    assert client.read(client.names.entry("host")) == [good, other]


def test_inserting_twice_already_exists(client: Client) -> None:
    client.write((INSERT, host(client)))
    refused(client, INSERT, host(client, port=2), rpc_code.ALREADY_EXISTS)


def test_modify_replaces_action_and_metadata(client: Client) -> None:
    client.write((INSERT, host(client, metadata=b"old")))
    changed = host(client, port=2, metadata=b"new")
    client.write((MODIFY, changed))
    assert client.read(client.names.entry("host")) == [changed]


def test_modify_and_delete_of_what_is_not_there_are_not_found(client: Client) -> None:
    refused(client, MODIFY, host(client), rpc_code.NOT_FOUND)
    refused(client, DELETE, host(client), rpc_code.NOT_FOUND)


def test_delete_looks_at_the_key_only(client: Client) -> None:
    client.write((INSERT, host(client)))
    key = client.names.entry("host", exact(1, ADDRESS), action=direct(p4r.Action(action_id=12345)))
    client.write((DELETE, key))
    assert client.read(client.names.entry("host")) == []


def test_a_full_table_is_resource_exhausted_until_an_entry_leaves(client: Client) -> None:
    def route(number: int) -> p4r.TableEntry:
        action = direct(client.names.action("drop"))
        return client.names.entry("route", lpm(1, number << 24, 8), action=action)

    client.write(*((INSERT, route(number)) for number in range(1, 9)))
    refused(client, INSERT, route(9), rpc_code.RESOURCE_EXHAUSTED)
    client.write((DELETE, route(4)))
    client.write((INSERT, route(9)))
    assert len(client.read(client.names.entry("route"))) == 8


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda e: setattr(e, "table_id", 99), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e, "priority", 5), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e, "is_const", True), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e, "idle_timeout_ns", 1), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.time_since_last_hit.SetInParent(), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.meter_config.SetInParent(), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.counter_data, "packet_count", -1), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.ClearField("match"), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.match.append(e.match[0]), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.match[0], "field_id", 2), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.match[0].CopyFrom(lpm(1, ADDRESS, 32)), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.match[0].ClearField("exact"), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.match[0].exact, "value", b"\1\0\0\0\0"), rpc_code.OUT_OF_RANGE),
        (lambda e: setattr(e.match[0].exact, "value", b""), rpc_code.OUT_OF_RANGE),
        (lambda e: e.ClearField("action"), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.action, "action_profile_member_id", 1), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.action.action, "action_id", 99), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.action.action.params.pop(), rpc_code.INVALID_ARGUMENT),
        (lambda e: e.action.action.params.add(param_id=3, value=b"\1"), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.action.action.params[1], "param_id", 1), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.action.action.params[1], "param_id", 9), rpc_code.INVALID_ARGUMENT),
        (lambda e: setattr(e.action.action.params[0], "value", b"\2\0"), rpc_code.OUT_OF_RANGE),
        (lambda e: setattr(e.action.action.params[0], "value", b""), rpc_code.OUT_OF_RANGE),
    ],
)
def test_a_malformed_entry_is_refused(client: Client, change, code: int) -> None:
    entry = host(client)
    change(entry)
    refused(client, INSERT, entry, code)


@pytest.mark.parametrize(
    ("match", "priority"),
    [
        ([ternary(1, 0x0A000001, 0xFF000000)], 1),
        ([ternary(1, 0, 0)], 1),
        ([], 0),
        ([], -1),
    ],
)
def test_a_malformed_ternary_key_is_refused(client: Client, match, priority: int) -> None:
    refused(client, INSERT, acl(client, priority, *match), rpc_code.INVALID_ARGUMENT)


@pytest.mark.parametrize(("value", "length"), [(0x0A000001, 8), (0, 0), (0, 33), (0, -1)])
def test_a_malformed_prefix_is_refused(client: Client, value: int, length: int) -> None:
    action = direct(client.names.action("drop"))
    refused(
        client,
        INSERT,
        client.names.entry("route", lpm(1, value, length), action=action),
        rpc_code.INVALID_ARGUMENT,
    )


def test_action_scopes_are_kept(client: Client) -> None:
    names = client.names
    default_only = names.entry("host", exact(1, 1), action=direct(names.action("count_drop", 2)))
    refused(client, INSERT, default_only, rpc_code.PERMISSION_DENIED)
    table_only = names.entry("host", is_default_action=True, action=direct(names.action("NoAction")))
    refused(client, MODIFY, table_only, rpc_code.PERMISSION_DENIED)


def test_a_default_entry_can_be_set_and_reset(client: Client) -> None:
    names = client.names
    query = names.entry("host", is_default_action=True)
    original = names.entry("host", is_default_action=True, action=direct(names.action("count_drop", 1)))
    assert client.read(query) == [original]
    changed = names.entry("host", is_default_action=True, action=direct(names.action("punt")), metadata=b"m")
    client.write((MODIFY, changed))
    assert client.read(query) == [changed]
    client.write((MODIFY, query))
    assert client.read(query) == [original]


def test_a_default_entry_is_neither_inserted_nor_deleted(client: Client) -> None:
    names = client.names
    entry = names.entry("host", is_default_action=True, action=direct(names.action("drop")))
    refused(client, INSERT, entry, rpc_code.INVALID_ARGUMENT)
    refused(client, DELETE, entry, rpc_code.INVALID_ARGUMENT)
    entry.priority = 1
    refused(client, MODIFY, entry, rpc_code.INVALID_ARGUMENT)
    const = names.entry("route", is_default_action=True, action=direct(names.action("drop")))
    refused(client, MODIFY, const, rpc_code.PERMISSION_DENIED)


def test_a_table_without_a_key_has_a_default_entry_only(client: Client) -> None:
    names = client.names
    action = direct(names.action("drop"))
    refused(client, INSERT, names.entry("keyless", action=action), rpc_code.INVALID_ARGUMENT)
    client.write((MODIFY, names.entry("keyless", is_default_action=True, action=action)))


def test_const_entries_can_be_read_but_not_changed(client: Client) -> None:
    names = client.names
    found = client.read(names.entry("protocol"))
    assert sorted(entry.match[0].exact.value for entry in found) == [b"\x06", b"\xfd"]
    assert all(entry.is_const for entry in found)
    action = direct(names.action("drop"))
    entry = names.entry("protocol", exact(1, 6), action=action)
    refused(client, INSERT, entry, rpc_code.PERMISSION_DENIED)
    refused(client, MODIFY, entry, rpc_code.PERMISSION_DENIED)
    refused(client, DELETE, entry, rpc_code.PERMISSION_DENIED)


def test_direct_counters_follow_their_entry(client: Client) -> None:
    names = client.names
    count = p4r.CounterData(packet_count=5, byte_count=500)
    client.write((INSERT, host(client, 1, counter_data=count)), (INSERT, host(client, 2)))
    query = names.entry("host", counter_data=p4r.CounterData())
    assert [entry.counter_data.packet_count for entry in client.read(query)] == [5, 0]
    assert not any(entry.HasField("counter_data") for entry in client.read(names.entry("host")))

    key = names.entry("host", exact(1, 2))
    client.write((MODIFY, p4r.DirectCounterEntry(table_entry=key, data=p4r.CounterData(byte_count=9))))
    assert [found.data.byte_count for found in client.read(p4r.DirectCounterEntry(table_entry=key))] == [9]
    everything = client.read(p4r.DirectCounterEntry(table_entry=names.entry("host")))
    assert [found.data.byte_count for found in everything] == [500, 9]
    assert client.read(p4r.DirectCounterEntry(table_entry=p4r.TableEntry())) == everything

    client.write((MODIFY, host(client, 1, port=3)))
    assert [entry.counter_data.packet_count for entry in client.read(query)] == [5, 0]
    client.write((DELETE, host(client, 1)), (INSERT, host(client, 1)))
    assert sorted(entry.counter_data.packet_count for entry in client.read(query)) == [0, 0]


def test_direct_counters_of_nothing_are_refused(client: Client) -> None:
    names = client.names
    missing = p4r.DirectCounterEntry(table_entry=names.entry("host", exact(1, 1)))
    refused(client, MODIFY, missing, rpc_code.NOT_FOUND)
    refused(client, INSERT, missing, rpc_code.INVALID_ARGUMENT)
    uncounted = p4r.DirectCounterEntry(table_entry=names.entry("route", lpm(1, 0, 1)))
    refused(client, MODIFY, uncounted, rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, p4r.DirectCounterEntry(), rpc_code.INVALID_ARGUMENT)
    with pytest.raises(grpc.RpcError) as caught:
        client.read(missing)
    assert codes(caught.value) == [rpc_code.NOT_FOUND]


def test_a_default_entry_has_a_direct_counter(client: Client) -> None:
    names = client.names
    default = names.entry("host", is_default_action=True)
    count = p4r.CounterData(packet_count=3, byte_count=4)
    client.write((MODIFY, p4r.DirectCounterEntry(table_entry=default, data=count)))
    found = client.read(p4r.DirectCounterEntry(table_entry=default))
    assert found == [p4r.DirectCounterEntry(table_entry=default, data=count)]
    query = names.entry("host", is_default_action=True, counter_data=p4r.CounterData())
    assert client.read(query)[0].counter_data == count
    client.write((MODIFY, default))
    assert client.read(query)[0].counter_data == p4r.CounterData(), "resetting the entry resets it"


def test_a_large_batch_is_applied_whole(client: Client) -> None:
    entries = [host(client, address) for address in range(1, 1001)]
    client.write(*((INSERT, entry) for entry in entries))
    assert client.read(client.names.entry("host")) == entries
    client.write(*((DELETE, entry) for entry in entries))
    assert client.read(client.names.entry("host")) == []


def test_a_failed_read_names_the_request_that_failed(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.read(client.names.entry("host"), p4r.TableEntry(table_id=99))
    assert codes(caught.value) == [rpc_code.OK, rpc_code.INVALID_ARGUMENT]


def test_a_read_of_priority_0_selects_every_priority(client: Client) -> None:
    client.write(*((INSERT, acl(client, priority, ternary(1, 1, 1))) for priority in (1, 2)))
    client.write((INSERT, acl(client, 3, ternary(1, 2, 2))))
    query = client.names.entry("acl", ternary(1, 1, 1), exact(3, 1))
    assert [entry.priority for entry in client.read(query)] == [1, 2]
    query.priority = 2
    assert [entry.priority for entry in client.read(query)] == [2]


def test_a_delete_with_is_const_is_refused(client: Client) -> None:
    client.write((INSERT, host(client)))
    refused(client, DELETE, host(client, is_const=True), rpc_code.INVALID_ARGUMENT)


def test_what_there_is_none_of_reads_as_nothing(client: Client) -> None:
    engine = p4r.PacketReplicationEngineEntry
    group = engine(multicast_group_entry=p4r.MulticastGroupEntry())
    session = engine(clone_session_entry=p4r.CloneSessionEntry())
    kinds = [group, session, p4r.MeterEntry(), p4r.ValueSetEntry(), p4r.DigestEntry(), p4r.ExternEntry()]
    assert client.read(*kinds) == []


def test_a_batch_of_refusals_fits_what_clients_are_told_to_allow_for(client: Client) -> None:
    entries = [host(client, address) for address in range(1, 501)]
    client.write(*((INSERT, entry) for entry in entries))
    options = [("grpc.max_metadata_size", 8192 + 100 * len(entries))]
    with grpc.insecure_channel(client.address, options) as channel:
        request = p4r.WriteRequest(device_id=1)
        for entry in entries:
            request.updates.add(type=INSERT, entity=p4r.Entity(table_entry=entry))
        with pytest.raises(grpc.RpcError) as caught:
            p4r_grpc.P4RuntimeStub(channel).Write(request, timeout=20)
    assert codes(caught.value) == [rpc_code.ALREADY_EXISTS] * len(entries)


def test_a_modify_without_an_action_keeps_it(client: Client) -> None:
    client.write((INSERT, host(client, metadata=b"old")))
    changed = client.names.entry("host", exact(1, ADDRESS), metadata=b"new")
    client.write((MODIFY, changed))
    assert client.read(client.names.entry("host")) == [host(client, metadata=b"new")]


def test_a_match_without_a_table_selects_nothing(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        client.read(p4r.TableEntry(match=[exact(1, 1)]))
    assert codes(caught.value) == [rpc_code.INVALID_ARGUMENT]
