"""Indexed counters and registers: arrays that live in the data plane only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Count, Pipeline
from duet_p4.xdp_switch.p4runtime.cells import cell_indexes
from duet_p4.xdp_switch.p4runtime.errors import invalid_argument
from duet_p4.xdp_switch.p4runtime.p4info import Counter, Register, Schema


def decode_count(data: p4r.CounterData) -> Count:
    """Return (packets, bytes); raises INVALID_ARGUMENT for a negative one."""
    if data.packet_count < 0 or data.byte_count < 0:
        raise invalid_argument(f"a count of {data.packet_count} packets, {data.byte_count} bytes is negative")
    return data.packet_count, data.byte_count


def fill_count(count: Count, data: p4r.CounterData) -> None:
    """Write (packets, bytes) into a message."""
    data.packet_count, data.byte_count = count


class Arrays:
    """Write and read the counters and registers of one pipeline."""

    def __init__(self, schema: Schema, pipeline: Pipeline) -> None:
        self._schema = schema
        self._pipeline = pipeline

    def write_counter(self, kind: int, message: p4r.CounterEntry) -> None:
        """Set one cell, or without an index all of them; without data, nothing."""
        counter = self._counter(message.counter_id)
        _only_modify(kind, f"counter {counter.name}")
        indexes = cell_indexes(message, counter.name, counter.size)
        if message.HasField("data"):
            count = decode_count(message.data)
            self._pipeline.write_counter(counter.name, indexes.start, [count] * len(indexes))

    def read_counters(self, message: p4r.CounterEntry) -> Iterator[p4r.CounterEntry]:
        """Return one cell, all cells of a counter, or for id 0 of all counters, as they are now."""
        if message.counter_id:
            counters = [self._counter(message.counter_id)]
        else:
            counters = list(self._schema.counters.values())
        found: list[tuple[int, int, Sequence[Count]]] = []
        for counter in counters:
            cells = cell_indexes(message, counter.name, counter.size)
            counts = self._pipeline.read_counter(counter.name, cells.start, len(cells))
            found.append((counter.id, cells.start, counts))
        return _encode_counters(found)

    def write_register(self, kind: int, message: p4r.RegisterEntry) -> None:
        """Set one cell, or without an index all of them."""
        register = self._register(message.register_id)
        _only_modify(kind, f"register {register.name}")
        indexes = cell_indexes(message, register.name, register.size)
        value = register.type.decode(message.data, f"register {register.name}")
        self._pipeline.write_register(register.name, indexes.start, [value] * len(indexes))

    def read_registers(self, message: p4r.RegisterEntry) -> Iterator[p4r.RegisterEntry]:
        """Return one cell, all cells of a register, or for id 0 of all registers, as they are now."""
        ids = [message.register_id] if message.register_id else list(self._schema.registers)
        found: list[tuple[Register, int, Sequence[int]]] = []
        for register_id in ids:
            register = self._register(register_id)
            cells = cell_indexes(message, register.name, register.size)
            data = self._pipeline.read_register(register.name, cells.start, len(cells))
            found.append((register, cells.start, data))
        return _encode_registers(found)

    def _counter(self, counter_id: int) -> Counter:
        counter = self._schema.counters.get(counter_id)
        if counter is None:
            raise invalid_argument(f"{counter_id} is no indexed counter of this P4 program")
        return counter

    def _register(self, register_id: int) -> Register:
        register = self._schema.registers.get(register_id)
        if register is None:
            raise invalid_argument(f"{register_id} is no register of this P4 program")
        return register


def _encode_counters(
    arrays: Sequence[tuple[int, int, Sequence[Count]]],
) -> Iterator[p4r.CounterEntry]:
    for counter_id, first, counts in arrays:
        for index, count in enumerate(counts, first):
            entry = p4r.CounterEntry(counter_id=counter_id, index=p4r.Index(index=index))
            fill_count(count, entry.data)
            yield entry


def _encode_registers(
    arrays: Sequence[tuple[Register, int, Sequence[int]]],
) -> Iterator[p4r.RegisterEntry]:
    for register, first, data in arrays:
        for index, value in enumerate(data, first):
            entry = p4r.RegisterEntry(register_id=register.id, index=p4r.Index(index=index))
            entry.data.CopyFrom(register.type.encode(iter([value])))
            yield entry


def _only_modify(kind: int, what: str) -> None:
    if kind != p4r.Update.MODIFY:
        raise invalid_argument(f"{what} is always there: only MODIFY is possible")
