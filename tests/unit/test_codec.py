"""Rows as P4Runtime messages, against finsy's encoding of the same entries."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from finsy import P4TableEntry
from finsy.proto import p4r
from hypothesis import given
from hypothesis import strategies as st

from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.codec import Codec
from duet_p4.hmux.plan import Op, Update
from duet_p4.hmux.rows import (
    AclRow,
    BackstopRow,
    HostRow,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    PinnedRow,
    RouteRow,
    Row,
    SlotRow,
    TunnelRow,
)
from duet_p4.model import Protocol

CODEC = Codec(pipeline.schema())
ACTIONS = [action.id for action in pipeline.schema().actions]
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
prefixes = st.tuples(addresses, st.integers(0, 32)).map(lambda t: IPv4Network(t, strict=False))
words = st.integers(0, 65535)
slots = st.integers(0, 4095)
rows: st.SearchStrategy[Row] = st.one_of(
    st.builds(HostRow, addresses, slots, slots, st.just(False), st.booleans(), st.booleans()),
    st.builds(HostRow, addresses, slots, slots, st.just(True)),
    st.builds(AclRow, addresses, st.sampled_from(Protocol), words, slots, slots, st.booleans()),
    st.builds(SlotRow, slots, st.integers(0, 511)),
    st.builds(TunnelRow, st.integers(0, 511), addresses),
    st.builds(PinnedRow, addresses, addresses, st.integers(0, 255), words, words, st.integers(0, 511)),
    st.builds(RouteRow, prefixes, st.sampled_from([RouteRow.PUNT, RouteRow.DROP])),
    st.builds(RouteRow, prefixes, st.integers(0, 1023), st.booleans()),
    st.builds(BackstopRow, st.integers(0, 511), st.integers(0, 1023)),
    st.builds(NextHopGroupRow, st.integers(0, 1023), slots, slots),
    st.builds(NextHopSlotRow, slots, st.integers(0, 1023)),
    st.builds(NextHopRow, st.integers(0, 1023), st.integers(0, 511), *[st.integers(0, 2**48 - 1)] * 2, words),
)


@given(rows, st.sampled_from(Op))
def test_a_row_survives_the_way_to_the_switch_and_back(row: Row, op: Op) -> None:
    message = CODEC.update(Update(op, row, row))
    assert CODEC.row(message.entity.table_entry) == row
    assert message.type == op.value


@given(rows, st.sampled_from(Op))
def test_a_serialized_update_is_protobufs_bytes(row: Row, op: Op) -> None:
    update = Update(op, row, row)
    expected = p4r.WriteRequest(updates=[CODEC.update(update)]).SerializeToString()
    assert CODEC.serialized(update) == expected


VIP, NET = IPv4Address("10.0.0.1"), IPv4Network("10.1.0.0/16")
MAC = 0x0200_0000_0001


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        (HostRow(VIP, 0, 8), entries.vip(VIP, 0, 8)),
        (HostRow(VIP, 300, 8, has_ports=True), entries.vip(VIP, 300, 8, has_ports=True)),
        (HostRow(VIP, 1, 8, has_pinned=True), entries.vip(VIP, 1, 8, has_pinned_flows=True)),
        (HostRow(VIP, 1, 8, tip=True), entries.tip(VIP, 1, 8)),
        (
            AclRow(VIP, Protocol.UDP, 53, 4, 2, True),
            entries.port_group(VIP, Protocol.UDP, 53, 4, 2, has_pinned_flows=True),
        ),
        (SlotRow(4095, 0), entries.slot(4095, 0)),
        (TunnelRow(511, VIP), entries.tunnel(511, VIP)),
        (PinnedRow(VIP, VIP + 1, 6, 1, 2, 3), entries.pinned_flow(VIP, VIP + 1, 6, 1, 2, 3)),
        (RouteRow(NET, 7), entries.route(NET, 7)),
        (RouteRow(IPv4Network("0.0.0.0/0"), 7), entries.route(IPv4Network("0.0.0.0/0"), 7)),
        (RouteRow(NET, 7, up=True), entries.route_up_to_mux(NET, 7)),
        (BackstopRow(3, 7), entries.backstop(3, 7)),
        (RouteRow(NET, RouteRow.PUNT), entries.route_to_cpu(NET)),
        (RouteRow(NET, RouteRow.DROP), entries.route_to_nowhere(NET)),
        (NextHopGroupRow(1, 2, 3), entries.nexthop_group(1, 2, 3)),
        (NextHopSlotRow(1, 2), entries.nexthop_slot(1, 2)),
        (NextHopRow(1, 2, MAC, MAC + 1, 1500), entries.nexthop(1, 2, MAC, MAC + 1, 1500)),
    ],
)
def test_a_row_is_encoded_as_finsy_encodes_its_entry(row: Row, entry: P4TableEntry) -> None:
    expected = (+entry).encode_update(pipeline.schema())
    assert CODEC.update(Update(Op.INSERT, row)) == expected


def test_an_entry_of_a_table_without_rows_is_none() -> None:
    others = {
        "punt_table": entries.punt(),
        "port_table": entries.port(1, MAC),
        "source_table": entries.source(1, IPv4Network("100.1.1.0/28")),
    }
    for entry in others.values():
        assert CODEC.row(entry.encode(pipeline.schema()).table_entry) is None
    assert len(CODEC.table_ids) == len(set(pipeline.sizes()) - set(others))


@pytest.mark.parametrize("protocol", [1, 132])
def test_an_acl_entry_of_a_protocol_that_no_vip_has_is_none(protocol: int) -> None:
    entry = entries.port_group(VIP, Protocol.TCP, 80, 0, 1).encode(pipeline.schema()).table_entry
    field = next(field for field in entry.match if field.exact.value == bytes([Protocol.TCP.number]))
    field.exact.value = bytes([protocol])
    assert CODEC.row(entry) is None


def numbers(entry: p4r.TableEntry) -> tuple[object, ...]:
    """All of an entry, without the zeros that a value may begin with."""
    match = [
        (
            field.field_id,
            int.from_bytes(field.exact.value),
            int.from_bytes(field.lpm.value),
            field.lpm.prefix_len,
        )
        for field in entry.match
    ]
    action = entry.action.action
    params = [(param.param_id, int.from_bytes(param.value)) for param in action.params]
    return entry.table_id, match, action.action_id, params


@given(rows, st.data())
def test_whatever_others_have_written_is_a_row_or_none(row: Row, data: st.DataObject) -> None:
    """Values, kinds, fields and parameters as no agent writes them: what is read as a row is that entry."""
    entry = CODEC.update(Update(Op.INSERT, row)).entity.table_entry
    values = st.binary(max_size=7)
    for field in data.draw(st.lists(st.sampled_from(entry.match)) if entry.match else st.just([])):
        field.exact.value = data.draw(values)
    for param in entry.action.action.params:
        if data.draw(st.booleans()):
            param.value = data.draw(values)
    if data.draw(st.booleans()) and entry.match:
        del entry.match[data.draw(st.integers(0, len(entry.match) - 1))]
    if data.draw(st.booleans()):
        entry.action.action.action_id = data.draw(st.sampled_from([0, 1, *ACTIONS]))
    if data.draw(st.booleans()):
        entry.table_id = data.draw(st.sampled_from(CODEC.table_ids))
    found = CODEC.row(entry)
    if found is not None:
        assert numbers(CODEC.update(Update(Op.INSERT, found)).entity.table_entry) == numbers(entry)
