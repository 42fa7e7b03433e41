"""Tables of a loaded program: their entries, defaults, direct counters and meters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import DEFAULTS, GROUP_FLAG, TableLayout
from duet_p4.xdp_switch.compiler.lookup import make_store
from duet_p4.xdp_switch.compiler.lookup.base import Numbers, Store
from duet_p4.xdp_switch.counters import Counters
from duet_p4.xdp_switch.dataplane import (
    Call,
    Count,
    EntryKey,
    GroupHandle,
    MeterRates,
    NoRoomError,
    TargetAction,
)
from duet_p4.xdp_switch.matching import Hit, hit_of
from duet_p4.xdp_switch.meters import MeterArray


class Table:
    """One table: its store, its default, its counters, and which handle each entry has.

    Keys that are given together are all different.
    """

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._layout = layout
        self._table = layout.table
        self._store: Store | None = make_store(layout, loaded)
        self._handles: dict[EntryKey, int] = {}
        self._written = np.zeros(layout.table.size + 1)
        self._free = Numbers(layout.table.size + 1)
        self._counter = Counters(loaded.memory(layout.counter)) if layout.counter and self._store else None
        self._meter: MeterArray | None = None
        if layout.meter and self._store:
            self._meter = MeterArray(loaded.map(layout.meter), layout.table.meter or "", layout.capacity)
        self._hits: np.ndarray[tuple[int], np.dtype[np.uint64]] | None = None
        if layout.table.ages:
            self._hits = np.frombuffer(loaded.memory(f"hits_{layout.symbol}"), dtype=np.uint64)
        self._default: memoryview | None = None
        if not layout.table.default_const:
            self._default = loaded.memory(f"default_{layout.symbol}")
            self._next_default = 0
            self._default_at = loaded.memory(f"at_default_{layout.symbol}").cast("I")
            self._default_at[0] = DEFAULTS
            if layout.table.default_action is not None:
                number = layout.entry.numbers[layout.table.default_action]
                self._write_default(layout.entry.pack(number, 0, layout.table.default_arguments))

    def insert(self, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Add entries; NoRoomError, and adds none, where there is no room for all."""
        if len(self._handles) + len(keys) > self._table.size or self._store is None:
            raise NoRoomError(f"table {self._table.name} is full: it holds {self._table.size} entries")
        handles = self._free.take(len(keys))
        cells = np.array(handles)
        try:
            if self._counter is not None:
                self._counter.reset(cells)
            if self._meter is not None:
                self._meter.forget(handles)
            if self._hits is not None:
                self._hits[cells] = time.monotonic_ns()
            self._store.insert(keys, self._pack(actions, handles))
        except BaseException:
            self._free.give_back(handles)
            raise
        self._handles.update(zip(keys, handles, strict=True))
        self._written[cells] = time.time()

    def modify(self, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Give entries other actions."""
        assert self._store is not None
        handles = [self._handles[key] for key in keys]
        self._store.modify(keys, self._pack(actions, handles))
        self._written[handles] = time.time()

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        assert self._store is not None
        self._store.delete(keys)
        self._free.give_back([self._handles.pop(key) for key in keys])

    def words(self, changes: Mapping[EntryKey, TargetAction | None]) -> dict[int, int]:
        """Return what words of memory become others when entries change; see `Store.words`."""
        if self._store is None:
            raise ValueError(f"table {self._table.name} has no entries but the default one")
        packed = {
            key: None if action is None else self._pack([action], [self._handles[key]])
            for key, action in changes.items()
        }
        try:
            return self._store.words(packed)
        except ValueError as error:
            raise ValueError(f"table {self._table.name}: {error}") from error

    def set_default(self, action: TargetAction | None) -> None:
        """Set the default action."""
        if self._default is None:
            raise ValueError(f"the default action of table {self._table.name} is const")
        if action is None:
            self._default_at[0] = DEFAULTS
        else:
            self._write_default(self._pack_default(action))

    def read_counters(self, keys: Sequence[EntryKey]) -> list[Count]:
        """Return the direct counters of entries."""
        if self._counter is None:
            raise ValueError(f"table {self._table.name} has no direct counter")
        every = self._counter.read(0, self._table.size + 1) if len(keys) > 8 else None
        if every is not None:
            return [every[self._handles[key]] for key in keys]
        return [self._counter.read(self._handles[key], 1)[0] for key in keys]

    def write_counter(self, key: EntryKey, count: Count) -> None:
        """Set the direct counter of an entry."""
        if self._counter is None:
            raise ValueError(f"table {self._table.name} has no direct counter")
        self._counter.write(self._handles[key], [count])

    def add_counters(self, counts: Mapping[EntryKey, Count]) -> None:
        """Have direct counters count so much more."""
        assert self._counter is not None
        for key, count in counts.items():
            self._counter.add(self._handles[key], [count])

    def write_meter(self, key: EntryKey, rates: MeterRates | None) -> None:
        """Set the rates of an entry's direct meter."""
        if self._meter is None:
            raise ValueError(f"table {self._table.name} has no direct meter")
        self._meter.configure(self._handles[key], rates)

    def read_meter(self, key: EntryKey) -> MeterRates | None:
        """Return the rates of an entry's direct meter."""
        if self._meter is None:
            raise ValueError(f"table {self._table.name} has no direct meter")
        return self._meter.read(self._handles[key])

    def idle_seconds(self, keys: Sequence[EntryKey]) -> list[float]:
        """Return how long ago entries were last hit."""
        if self._hits is None:
            raise ValueError(f"table {self._table.name} has no idle timeout")
        now = time.monotonic_ns()
        return [max(now - int(self._hits[self._handles[key]]), 0) / 1e9 for key in keys]

    def hit(self, handle: int, values: Sequence[int]) -> Hit | None:
        """Return the entry that has a handle now, or, where entries have none (0), what the values hit."""
        if handle:
            key = next((key for key, known in self._handles.items() if known == handle), None)
        else:
            key = hit_of(self._handles, values, self._table.keys)
        return Hit(*key, float(self._written[self._handles[key]]) or None) if key is not None else None

    def _pack(self, actions: Sequence[TargetAction], handles: Sequence[int]) -> bytes:
        """Return the bytes of entries, one after another."""
        if set(map(type, actions)) == {Call}:
            names, arguments = zip(*cast("Sequence[Call]", actions), strict=True)
            if len(set(names)) == 1:
                action = self._layout.entry.actions[self._layout.entry.by_name[names[0]]]
                return self._layout.pack(action, handles, list(zip(*arguments, strict=True)))
        if len(actions) > 1:
            each = zip(actions, handles, strict=True)
            return b"".join(self._pack([action], [handle]) for action, handle in each)
        return _reference(actions[0], handles[0])

    def _pack_default(self, action: TargetAction) -> bytes:
        if not isinstance(action, Call):
            return _reference(action, 0)
        return self._layout.entry.pack(self._layout.entry.by_name[action.action], 0, action.arguments)

    def _write_default(self, data: bytes) -> None:
        assert self._default is not None
        size = len(self._default) // DEFAULTS
        self._next_default = (self._next_default + 1) % DEFAULTS
        at = size * self._next_default
        self._default[at : at + len(data)] = data
        self._default_at[0] = self._next_default


def _reference(action: TargetAction, handle: int) -> bytes:
    """Return the bytes of an entry that refers to a member or a group."""
    assert not isinstance(action, Call)
    reference = action.handle | (GROUP_FLAG if isinstance(action, GroupHandle) else 0)
    return reference.to_bytes(4, "little") + handle.to_bytes(4, "little")


class UnreachedTable:
    """A table of the P4Info that p4c took out of the program: it holds entries that no packet meets."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._counts: dict[EntryKey, Count] = {}
        self._rates: dict[EntryKey, MeterRates | None] = {}
        self._since: dict[EntryKey, int] = {}

    def insert(self, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Add entries; NoRoomError, and adds none, where there is no room for all."""
        if len(self._counts) + len(keys) > self._size:
            raise NoRoomError(f"table {self._name} is full: it holds {self._size} entries")
        for key in keys:
            self._counts[key] = (0, 0)
            self._since[key] = time.monotonic_ns()

    def modify(self, keys: Sequence[EntryKey], actions: Sequence[TargetAction]) -> None:
        """Give entries other actions."""

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        for key in keys:
            del self._counts[key], self._since[key]
            self._rates.pop(key, None)

    def set_default(self, action: TargetAction | None) -> None:
        """Set the default action."""

    def read_counters(self, keys: Sequence[EntryKey]) -> list[Count]:
        """Return the direct counters of entries."""
        return [self._counts[key] for key in keys]

    def write_counter(self, key: EntryKey, count: Count) -> None:
        """Set the direct counter of an entry."""
        self._counts[key] = count

    def add_counters(self, counts: Mapping[EntryKey, Count]) -> None:
        """Do nothing: no packet was counted."""

    def write_meter(self, key: EntryKey, rates: MeterRates | None) -> None:
        """Set the rates of an entry's direct meter."""
        self._rates[key] = rates

    def read_meter(self, key: EntryKey) -> MeterRates | None:
        """Return the rates of an entry's direct meter."""
        return self._rates.get(key)

    def words(self, changes: Mapping[EntryKey, TargetAction | None]) -> dict[int, int]:
        """Return what words become others: no packet reads any."""
        return {}

    def hit(self, handle: int, values: Sequence[int]) -> Hit | None:
        """Return None: no packet hits an entry."""
        return None

    def idle_seconds(self, keys: Sequence[EntryKey]) -> list[float]:
        """Return how long ago entries were inserted: no packet hits them."""
        now = time.monotonic_ns()
        return [(now - self._since[key]) / 1e9 for key in keys]
