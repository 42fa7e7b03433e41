"""Indexed counters and registers."""

from __future__ import annotations

import pytest
from finsy.proto import p4d, p4r, rpc_code

from tests.unit.p4runtime.client import DELETE, INSERT, MODIFY, Client, canonical
from tests.unit.p4runtime.test_tables import refused


def counter(client: Client, index: int | None, packets: int | None = None) -> p4r.CounterEntry:
    entry = p4r.CounterEntry(counter_id=client.names["drops"])
    if index is not None:
        entry.index.index = index
    if packets is not None:
        entry.data.packet_count, entry.data.byte_count = packets, 64 * packets
    return entry


def register(client: Client, index: int | None, value: int | None = None) -> p4r.RegisterEntry:
    entry = p4r.RegisterEntry(register_id=client.names["seen"])
    if index is not None:
        entry.index.index = index
    if value is not None:
        entry.data.bitstring = canonical(value)
    return entry


def test_a_counter_cell_is_set_and_read(client: Client) -> None:
    client.write((MODIFY, counter(client, 3, 7)))
    assert client.read(counter(client, 3)) == [counter(client, 3, 7)]
    everything = client.read(counter(client, None))
    assert [found.data.packet_count for found in everything] == [0, 0, 0, 7, 0, 0, 0, 0]
    assert client.read(p4r.CounterEntry()) == everything


def test_without_an_index_all_cells_are_set_and_without_data_none(client: Client) -> None:
    client.write((MODIFY, counter(client, None, 2)))
    client.write((MODIFY, counter(client, None)))
    assert {found.data.packet_count for found in client.read(counter(client, None))} == {2}


@pytest.mark.parametrize("make", [counter, register])
def test_a_cell_that_is_not_there_is_refused(client: Client, make) -> None:
    refused(client, MODIFY, make(client, -1, 1), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, make(client, 16, 1), rpc_code.OUT_OF_RANGE)
    refused(client, INSERT, make(client, 0, 1), rpc_code.INVALID_ARGUMENT)
    refused(client, DELETE, make(client, 0, 1), rpc_code.INVALID_ARGUMENT)


def test_a_register_cell_is_set_and_read(client: Client) -> None:
    client.write((MODIFY, register(client, 15, 0xFFFF_FFFF)))
    assert client.read(register(client, 15)) == [register(client, 15, 0xFFFF_FFFF)]
    client.write((MODIFY, register(client, None, 5)))
    everything = client.read(p4r.RegisterEntry())
    assert [found.data.bitstring for found in everything] == [b"\5"] * 16


def test_a_register_takes_only_its_own_type(client: Client) -> None:
    refused(client, MODIFY, register(client, 0, 1 << 32), rpc_code.OUT_OF_RANGE)
    refused(client, MODIFY, register(client, 0), rpc_code.INVALID_ARGUMENT)
    other = register(client, 0)
    other.data.CopyFrom(p4d.P4Data(bool=True))
    refused(client, MODIFY, other, rpc_code.INVALID_ARGUMENT)


def test_unknown_arrays_and_kinds_are_refused(client: Client) -> None:
    refused(client, MODIFY, p4r.CounterEntry(counter_id=99), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, p4r.RegisterEntry(register_id=99), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, p4r.MeterEntry(meter_id=1), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, p4r.Entity(), rpc_code.INVALID_ARGUMENT)
    refused(client, p4r.Update.UNSPECIFIED, counter(client, 0, 1), rpc_code.INVALID_ARGUMENT)
