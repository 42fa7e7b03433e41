"""Table entries: what clients wrote, kept in step with the data plane.

An update is checked in full before the data plane is touched, and remembered only after the data
plane took it: a refused update changes nothing. Entries are never changed in place, so a Read that took
note of them may go on after they were replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, NamedTuple, TypeVar

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Call, Count, EntryKey, MeterRates, Pipeline, TargetAction
from duet_p4.xdp_switch.p4runtime.action_profiles import ActionCall, ActionProfileState, Indirect
from duet_p4.xdp_switch.p4runtime.arrays import decode_count, fill_count
from duet_p4.xdp_switch.p4runtime.errors import (
    already_exists,
    invalid_argument,
    not_found,
    permission_denied,
)
from duet_p4.xdp_switch.p4runtime.meters import MeterKind, fill_config, refuse_color_counters
from duet_p4.xdp_switch.p4runtime.p4info import Action, Schema, Table
from duet_p4.xdp_switch.p4runtime.translation import NamesExhaustedError

"""Match values and priority: what identifies an entry."""

NO_COUNT: Count = (0, 0)

TupleT = TypeVar("TupleT", bound=tuple[object, ...])


class Entry(NamedTuple):
    """What an entry holds besides its key."""

    action: ActionCall | Indirect
    metadata: bytes = b""
    controller_metadata: int = 0
    is_const: bool = False
    idle_timeout_ns: int = 0


@dataclass(frozen=True, slots=True)
class Default:
    """The default entry: an action that a client has set, None for the program's own.

    Direct counters and meters are of hits, so those of the default entry hold what was written.
    """

    action: ActionCall | None = None
    metadata: bytes = b""
    controller_metadata: int = 0
    count: Count = NO_COUNT
    rates: MeterRates | None = None


class TableState:
    """The entries of one table."""

    def __init__(
        self, table: Table, pipeline: Pipeline, profile: ActionProfileState | None, schema: Schema
    ) -> None:
        self.table = table
        self.entries: dict[EntryKey, Entry] = {}
        self.default = Default()
        self._pipeline = pipeline
        self._profile = profile
        self._actions_by_name = {action.name: action for action in schema.actions.values()}
        for initial in self._pipeline.initial_entries(table.name):
            action = self._call(initial.action)
            is_const = initial.is_const or table.is_const
            self.entries[initial.key, initial.priority] = Entry(action, is_const=is_const)

    def write(self, kind: int, message: p4r.TableEntry) -> None:
        """Insert, modify or delete an entry, or modify the default entry."""
        if kind == p4r.Update.INSERT:
            self.insert(message)
        elif kind == p4r.Update.MODIFY:
            self.modify(message)
        else:
            self.delete(message)

    def insert(self, message: p4r.TableEntry) -> None:
        """Add an entry."""
        table = self.table
        if message.is_default_action:
            raise invalid_argument(f"the default entry of {table.name} is always there: MODIFY it")
        self._check_entry(message)
        if table.is_const:
            raise permission_denied(f"the entries of table {table.name} are const")
        if not table.fields:
            raise invalid_argument(f"table {table.name} has no key, so no entries but the default one")
        if not message.HasField("action"):
            raise invalid_argument(f"an entry of {table.name} needs an action")
        key = table.decode_key(message)
        count, rates = self._decode_count(message), self._decode_rates(message)
        if key in self.entries:
            # An action that would be refused is said first: it can never be right.
            self._release(self._decode_action(message.action, default=False))
            raise already_exists(f"table {table.name} holds this entry already: MODIFY it")
        action = self._decode_action(message.action, default=False)
        try:
            self._pipeline.insert(table.name, *key, self._target(action))
        except BaseException:
            self._release(action)
            raise
        self.entries[key] = _entry(action, message)
        if count is not None:
            self._pipeline.write_direct(table.name, *key, count)
        if rates is not None:
            self._pipeline.write_direct_meter(table.name, *key, rates)

    def takes_many(self, kind: int, message: p4r.TableEntry) -> bool:
        """Whether only numbers, those that there are and those given, decide what becomes of such an update.

        Then the numbers of many can be given to `insert_all`, `modify_all` or `delete_all`. Raises
        P4RuntimeError where it is refused whatever they are.
        """
        table = self.table
        if table.is_const or not table.fields or self._profile is not None or message.is_default_action:
            return False
        if kind == p4r.Update.DELETE:
            return not message.is_const
        self._check_entry(message)
        if message.HasField("counter_data") or message.HasField("meter_config"):
            return False
        if kind == p4r.Update.MODIFY and table.direct_meter is not None:
            return False
        return kind in (p4r.Update.INSERT, p4r.Update.MODIFY) and message.action.HasField("action")

    def insert_all(
        self, keys: Sequence[EntryKey], action: Action, arguments: Sequence[tuple[int, ...]], *kept: Any
    ) -> bool:
        """Do what `insert` does for many entries of an action, or nothing; returns whether all can be taken.

        `kept` are metadata, controller metadata and idle timeout. Raises what the pipeline does.
        """
        if len(set(keys)) < len(keys) or not self.entries.keys().isdisjoint(keys):
            return False
        self._pipeline.insert_all(self.table.name, keys, _calls(action, arguments))
        self.entries.update(zip(keys, _entries(action, arguments, *kept), strict=True))
        return True

    def modify_all(
        self, keys: Sequence[EntryKey], action: Action, arguments: Sequence[tuple[int, ...]], *kept: Any
    ) -> bool:
        """Do what `modify` does for many entries; see `insert_all`."""
        if not self._changeable(keys):
            return False
        self._pipeline.modify_all(self.table.name, keys, _calls(action, arguments))
        self.entries.update(zip(keys, _entries(action, arguments, *kept), strict=True))
        return True

    def delete_all(self, keys: Sequence[EntryKey]) -> bool:
        """Do what `delete` does for many entries; see `insert_all`."""
        if not self._changeable(keys):
            return False
        self._pipeline.delete_all(self.table.name, keys)
        for key in keys:
            del self.entries[key]
        return True

    def _changeable(self, keys: Sequence[EntryKey]) -> bool:
        """Whether all of these, which are different, are entries that may be changed."""
        entries, different = self.entries, set(keys)
        if len(different) < len(keys) or not entries.keys() >= different:
            return False
        return not any(entries[key].is_const for key in keys)

    def change(self, kind: int, message: p4r.TableEntry) -> tuple[EntryKey, TargetAction | None]:
        """Return the entry that a MODIFY or DELETE is about, and its new action; change nothing."""
        table = self.table
        if kind not in (p4r.Update.MODIFY, p4r.Update.DELETE) or message.is_default_action:
            raise invalid_argument("a detour modifies and deletes entries, and does nothing else")
        if self._profile is not None:
            raise invalid_argument(f"entries of {table.name} have an action profile: its groups watch ports")
        key = self._held_key(message)
        if key not in self.entries:
            raise not_found(f"table {table.name} holds no such entry")
        if kind == p4r.Update.DELETE:
            return key, None
        return key, self._target(self._decode_action(message.action, default=False))

    def modify(self, message: p4r.TableEntry) -> None:
        """Replace an entry's action and metadata, or the default entry's; set its counter if given."""
        if message.is_default_action:
            self._modify_default(message)
            return
        table = self.table
        self._check_entry(message)
        key = self._held_key(message)
        count, rates = self._decode_count(message), self._decode_rates(message)
        entry = self.entries.get(key)
        if entry is None:
            raise not_found(f"table {table.name} holds no such entry")
        action = entry.action
        if message.HasField("action"):
            if entry.is_const:
                raise permission_denied(f"this entry of table {table.name} is const")
            action = self._decode_action(message.action, default=False)
            try:
                self._pipeline.modify(table.name, *key, self._target(action))
            except BaseException:
                self._release(action)
                raise
            self._release(entry.action)
        if not entry.is_const:
            self.entries[key] = _entry(action, message)
        if count is not None:
            self._pipeline.write_direct(table.name, *key, count)
        if table.direct_meter is not None:
            self._pipeline.write_direct_meter(table.name, *key, rates)

    def delete(self, message: p4r.TableEntry) -> None:
        """Remove an entry; only its key counts."""
        table = self.table
        if message.is_const:
            raise invalid_argument("is_const cannot be written")
        if message.is_default_action:
            raise invalid_argument(f"the default entry of {table.name} cannot be deleted: MODIFY it")
        if table.is_const:
            raise permission_denied(f"the entries of table {table.name} are const")
        key = self._held_key(message)
        entry = self.entries.get(key)
        if entry is None:
            raise not_found(f"table {table.name} holds no such entry")
        if entry.is_const:
            raise permission_denied(f"this entry of table {table.name} is const")
        self._pipeline.delete(table.name, *key)
        del self.entries[key]
        self._release(entry.action)

    def read(self, query: p4r.TableEntry) -> Iterator[p4r.TableEntry]:
        """Return the entries that a query selects, as they are now, with counter data if it asks for them."""
        if query.HasField("meter_counter_data") and self.table.direct_meter is not None:
            refuse_color_counters(f"table {self.table.name}")
        with_counts = query.HasField("counter_data") and self.table.direct_counter != 0
        with_rates = query.HasField("meter_config") and self.table.direct_meter is not None
        with_hits = query.HasField("time_since_last_hit")
        if with_hits and not self.table.idle_timeout:
            raise invalid_argument(f"table {self.table.name} has no idle timeout")
        if query.is_default_action:
            self._check_default(query)
            return iter([self._encode_default(with_counts=with_counts, with_rates=with_rates)])
        selected = self._selected(query)
        keys = [key for key, _ in selected]
        name, pipeline = self.table.name, self._pipeline
        return self._encode(
            selected,
            pipeline.read_direct(name, keys) if with_counts else [],
            [pipeline.read_direct_meter(name, *key) for key in keys] if with_rates else [],
            pipeline.idle_seconds(name, keys) if with_hits else [],
        )

    def write_counter(self, message: p4r.DirectCounterEntry) -> None:
        """Set the direct counter of an entry; without data, nothing."""
        entry = message.table_entry
        self._check_counted()
        count = decode_count(message.data) if message.HasField("data") else None
        if entry.is_default_action:
            self._check_default(entry)
            if count is not None:
                self.default = replace(self.default, count=count)
            return
        key = self._held_key(entry)
        if key not in self.entries:
            raise not_found(f"table {self.table.name} holds no such entry")
        if count is not None:
            self._pipeline.write_direct(self.table.name, *key, count)

    def read_counters(self, query: p4r.TableEntry) -> Iterator[p4r.DirectCounterEntry]:
        """Return the direct counter of one entry, or of every entry."""
        self._check_counted()
        if query.is_default_action:
            self._check_default(query)
            message = p4r.DirectCounterEntry()
            message.table_entry.table_id, message.table_entry.is_default_action = self.table.id, True
            fill_count(self.default.count, message.data)
            return iter([message])
        keys = [key for key, _ in self._selected(query)]
        if query.match and not keys:
            raise not_found(f"table {self.table.name} holds no such entry")
        return self._encode_counts(keys, self._pipeline.read_direct(self.table.name, keys))

    def write_meter(self, message: p4r.DirectMeterEntry) -> None:
        """Configure the direct meter of an entry; without a configuration, always green."""
        entry = message.table_entry
        kind = self._check_metered()
        what = f"the direct meter of {self.table.name}"
        if message.HasField("counter_data"):
            refuse_color_counters(what)
        rates = kind.decode(message.config, what) if message.HasField("config") else None
        if entry.is_default_action:
            self._check_default(entry)
            self.default = replace(self.default, rates=rates)
            return
        key = self._held_key(entry)
        if key not in self.entries:
            raise not_found(f"table {self.table.name} holds no such entry")
        self._pipeline.write_direct_meter(self.table.name, *key, rates)

    def read_meters(self, query: p4r.DirectMeterEntry) -> Iterator[p4r.DirectMeterEntry]:
        """Return the direct meter of one entry, or of every entry."""
        self._check_metered()
        if query.HasField("counter_data"):
            refuse_color_counters(f"the direct meter of {self.table.name}")
        entry = query.table_entry
        if entry.is_default_action:
            self._check_default(entry)
            message = p4r.DirectMeterEntry()
            message.table_entry.table_id, message.table_entry.is_default_action = self.table.id, True
            if self.default.rates is not None:
                fill_config(self.default.rates, message.config)
            return iter([message])
        keys = [key for key, _ in self._selected(entry)]
        if entry.match and not keys:
            raise not_found(f"table {self.table.name} holds no such entry")
        return self._encode_rates(
            keys, [self._pipeline.read_direct_meter(self.table.name, *key) for key in keys]
        )

    def encode_key(self, key: EntryKey) -> p4r.TableEntry:
        """Return what identifies an entry, with its metadata and timeout."""
        message = p4r.TableEntry()
        self.table.encode_key(*key, message)
        _fill_metadata(self.entries[key], message)
        message.idle_timeout_ns = self.entries[key].idle_timeout_ns
        return message

    def program_default(self) -> ActionCall | None:
        """Return the default action that the P4 program states."""
        call = self._pipeline.default_action(self.table.name)
        return self._call(call) if call is not None else None

    def _modify_default(self, message: p4r.TableEntry) -> None:
        table = self.table
        self._check_entry(message)
        self._check_default(message)
        if table.implementation:
            raise invalid_argument(f"the default entry of {table.name}, an indirect table, is fixed")
        if table.const_default:
            raise permission_denied(f"the default action of table {table.name} is const")
        count, rates = self._decode_count(message), self._decode_rates(message)
        if message.HasField("action"):
            action = self._decode_action(message.action, default=True)
            assert isinstance(action, ActionCall)
            self._pipeline.set_default(table.name, action.target)
            kept = count if count is not None else self.default.count
            self.default = Default(action, message.metadata, message.controller_metadata, kept, rates)
        else:
            self._pipeline.set_default(table.name, None)
            self.default = Default()

    def _check_default(self, message: p4r.TableEntry) -> None:
        if message.match or message.priority:
            raise invalid_argument(f"the default entry of {self.table.name} has neither match nor priority")

    def _check_entry(self, message: p4r.TableEntry) -> None:
        """Raise where an INSERT or MODIFY sets a field that this table does not have."""
        name = self.table.name
        if message.is_const:
            raise invalid_argument("is_const cannot be written")
        if message.HasField("time_since_last_hit"):
            raise invalid_argument("time_since_last_hit cannot be written")
        if message.idle_timeout_ns and (message.is_default_action or not self.table.idle_timeout):
            raise invalid_argument(f"table {name} has no idle timeout, or its default entry has none")
        if message.idle_timeout_ns < 0:
            raise invalid_argument(f"an idle timeout of {message.idle_timeout_ns} ns is negative")
        if message.HasField("meter_config") or message.HasField("meter_counter_data"):
            self._check_metered()
        if message.HasField("meter_counter_data"):
            refuse_color_counters(f"table {name}")

    def _decode_action(self, message: p4r.TableAction, *, default: bool) -> ActionCall | Indirect:
        """Return an entry's action, which the caller must `_release` once no entry holds it."""
        if self._profile is not None:
            return self._profile.resolve(message)
        if not message.HasField("action"):
            given = message.WhichOneof("type") or "nothing"
            raise invalid_argument(f"table {self.table.name} takes a plain action, {given} was given")
        action = self.table.action(message.action.action_id, default=default)
        return ActionCall(action, action.decode(message.action))

    def _decode_count(self, message: p4r.TableEntry) -> Count | None:
        if not message.HasField("counter_data"):
            return None
        self._check_counted()
        return decode_count(message.counter_data)

    def _decode_rates(self, message: p4r.TableEntry) -> MeterRates | None:
        if not message.HasField("meter_config"):
            return None
        return self._check_metered().decode(message.meter_config, f"the direct meter of {self.table.name}")

    def _check_metered(self) -> MeterKind:
        if self.table.direct_meter is None:
            raise invalid_argument(f"table {self.table.name} has no direct meter")
        return self.table.direct_meter

    def _check_counted(self) -> None:
        if not self.table.direct_counter:
            raise invalid_argument(f"table {self.table.name} has no direct counter")

    def _held_key(self, message: p4r.TableEntry) -> EntryKey:
        """Return the key of an entry that should be there; NOT_FOUND where it has names that nothing has."""
        try:
            return self.table.decode_key(message)
        except NamesExhaustedError as error:
            raise not_found(f"table {self.table.name} holds no such entry: {error.message}") from error

    def _selected(self, query: p4r.TableEntry) -> list[tuple[EntryKey, Entry]]:
        """Return the non-default entries that a query is about."""
        try:
            return self._matching(query)
        except NamesExhaustedError:
            return []

    def _matching(self, query: p4r.TableEntry) -> list[tuple[EntryKey, Entry]]:
        found: list[tuple[EntryKey, Entry]]
        if query.match and (query.priority or not self.table.needs_priority):
            key = self.table.decode_key(query)
            found = [(key, self.entries[key])] if key in self.entries else []
        else:
            found = list(self.entries.items())
            if query.match:
                match = self.table.decode_match(query)
                found = [item for item in found if item[0][0] == match]
        action_id = query.action.action.action_id if query.action.HasField("action") else 0
        if not (query.priority or query.metadata or query.controller_metadata or action_id):
            return found
        return [
            (key, entry)
            for key, entry in found
            if (not query.priority or key[1] == query.priority)
            and (not query.metadata or entry.metadata == query.metadata)
            and (not query.controller_metadata or entry.controller_metadata == query.controller_metadata)
            and (
                not action_id
                or (isinstance(entry.action, ActionCall) and entry.action.action.id == action_id)
            )
        ]

    def _encode(
        self,
        selected: Sequence[tuple[EntryKey, Entry]],
        counts: Sequence[Count],
        rates: Sequence[MeterRates | None],
        idle: Sequence[float],
    ) -> Iterator[p4r.TableEntry]:
        for position, (key, entry) in enumerate(selected):
            message = p4r.TableEntry()
            self.table.encode_key(*key, message)
            entry.action.fill(message.action)
            _fill_metadata(entry, message)
            if entry.is_const:
                message.is_const = True
            if entry.idle_timeout_ns:
                message.idle_timeout_ns = entry.idle_timeout_ns
            if counts:
                fill_count(counts[position], message.counter_data)
            if rates and (known := rates[position]) is not None:
                fill_config(known, message.meter_config)
            if idle:
                message.time_since_last_hit.elapsed_ns = int(1e9 * idle[position])
            yield message

    def _encode_counts(
        self, keys: Sequence[EntryKey], counts: Sequence[Count]
    ) -> Iterator[p4r.DirectCounterEntry]:
        for key, count in zip(keys, counts, strict=True):
            message = p4r.DirectCounterEntry()
            self.table.encode_key(*key, message.table_entry)
            fill_count(count, message.data)
            yield message

    def _encode_rates(
        self, keys: Sequence[EntryKey], rates: Sequence[MeterRates | None]
    ) -> Iterator[p4r.DirectMeterEntry]:
        for key, known in zip(keys, rates, strict=True):
            message = p4r.DirectMeterEntry()
            self.table.encode_key(*key, message.table_entry)
            if known is not None:
                fill_config(known, message.config)
            yield message

    def _encode_default(self, *, with_counts: bool, with_rates: bool) -> p4r.TableEntry:
        message = p4r.TableEntry(table_id=self.table.id, is_default_action=True)
        action = self.default.action or self.program_default()
        if action is not None:
            action.fill(message.action)
        _fill_metadata(self.default, message)
        if self.table.const_default:
            message.is_const = True
        if with_counts:
            fill_count(self.default.count, message.counter_data)
        if with_rates and self.default.rates is not None:
            fill_config(self.default.rates, message.meter_config)
        return message

    def _call(self, call: Call) -> ActionCall:
        return ActionCall(self._actions_by_name[call.action], call.arguments)

    def _target(self, action: ActionCall | Indirect) -> TargetAction:
        if isinstance(action, ActionCall):
            return action.target
        assert self._profile is not None
        return self._profile.target(action)

    def _release(self, action: ActionCall | Indirect) -> None:
        if self._profile is not None and not isinstance(action, ActionCall):
            self._profile.release(action)


def _calls(action: Action, arguments: Sequence[tuple[int, ...]]) -> list[Call]:
    return list(_each(Call, zip(repeat(action.name), arguments)))


def _entries(
    action: Action,
    arguments: Sequence[tuple[int, ...]],
    metadata: bytes,
    controller_metadata: int,
    idle_timeout_ns: int,
) -> Iterator[Entry]:
    calls = _each(ActionCall, zip(repeat(action), arguments))
    same = map(repeat, (metadata, controller_metadata, False, idle_timeout_ns))
    return _each(Entry, zip(calls, *same, strict=False))


def _each(kind: type[TupleT], values: Iterable[tuple[object, ...]]) -> Iterator[TupleT]:
    """Return a named tuple for each of some tuples, as its `_make` does, in a third of the time."""
    return map(tuple.__new__, repeat(kind), values)


def _entry(action: ActionCall | Indirect, message: p4r.TableEntry) -> Entry:
    return Entry(
        action,
        message.metadata,
        message.controller_metadata,
        idle_timeout_ns=message.idle_timeout_ns,
    )


def _fill_metadata(entry: Entry | Default, message: p4r.TableEntry) -> None:
    if entry.metadata:
        message.metadata = entry.metadata
    if entry.controller_metadata:
        message.controller_metadata = entry.controller_metadata
