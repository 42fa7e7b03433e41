"""Table entries: what clients wrote, kept in step with the data plane.

An update is checked in full before the data plane is touched, and remembered only after the data
plane took it: a refused update changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Count, MatchValues, Pipeline, TableFullError, TargetAction
from duet_p4.xdp_switch.p4runtime.action_profiles import ActionCall, ActionProfileState, Indirect
from duet_p4.xdp_switch.p4runtime.arrays import decode_count, fill_count
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    already_exists,
    invalid_argument,
    not_found,
    permission_denied,
    resource_exhausted,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.p4info import Schema, Table

Key = tuple[MatchValues, int]
"""Match values and priority: what identifies an entry."""

READ_AT_ONCE = 512
"""Direct counters are fetched for this many entries at a time."""


@dataclass(slots=True)
class Entry:
    """What an entry holds besides its key; the default entry of a table is one as well."""

    action: ActionCall | Indirect
    metadata: bytes = b""
    controller_metadata: int = 0
    is_const: bool = False


class TableState:
    """The entries of one table."""

    def __init__(
        self, table: Table, pipeline: Pipeline, profile: ActionProfileState | None, schema: Schema
    ) -> None:
        self.table = table
        self.entries: dict[Key, Entry] = {}
        self._pipeline = pipeline
        self._profile = profile
        self._actions_by_name = {action.name: action for action in schema.actions.values()}
        for initial in pipeline.initial_entries(table.name):
            action = ActionCall(self._actions_by_name[initial.action.action], initial.action.arguments)
            is_const = initial.is_const or table.is_const
            self.entries[initial.key, initial.priority] = Entry(action, is_const=is_const)
        self._default: Entry | None = None

    @property
    def default_changed(self) -> bool:
        """Whether a client has set the default entry."""
        return self._default is not None

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
        count = self._decode_count(message)
        action = self._decode_action(message.action, default=False)
        try:
            if key in self.entries:
                raise already_exists(f"table {table.name} holds this entry already: MODIFY it")
            self._pipeline.insert(table.name, *key, self._target(action))
        except BaseException as error:
            self._release(action)
            if isinstance(error, TableFullError):
                raise resource_exhausted(str(error)) from None
            raise
        self.entries[key] = Entry(action, message.metadata, message.controller_metadata)
        if count is not None:
            self._pipeline.write_direct(table.name, *key, count)

    def modify(self, message: p4r.TableEntry) -> None:
        """Replace an entry's action and metadata, or the default entry's; set its counter if given."""
        if message.is_default_action:
            self._modify_default(message)
            return
        table = self.table
        self._check_entry(message)
        key = table.decode_key(message)
        count = self._decode_count(message)
        entry = self.entries.get(key)
        if entry is None:
            raise not_found(f"table {table.name} holds no such entry")
        if message.HasField("action"):
            if table.is_const or entry.is_const:
                raise permission_denied(f"the entries of table {table.name} are const")
            action = self._decode_action(message.action, default=False)
            try:
                self._pipeline.modify(table.name, *key, self._target(action))
            except BaseException:
                self._release(action)
                raise
            self._release(entry.action)
            entry.action = action
        if not entry.is_const:
            entry.metadata, entry.controller_metadata = message.metadata, message.controller_metadata
        if count is not None:
            self._pipeline.write_direct(table.name, *key, count)

    def delete(self, message: p4r.TableEntry) -> None:
        """Remove an entry; only its key counts."""
        table = self.table
        if message.is_default_action:
            raise invalid_argument(f"the default entry of {table.name} cannot be deleted: MODIFY it")
        if table.is_const:
            raise permission_denied(f"the entries of table {table.name} are const")
        key = table.decode_key(message)
        entry = self.entries.get(key)
        if entry is None:
            raise not_found(f"table {table.name} holds no such entry")
        if entry.is_const:
            raise permission_denied(f"this entry of table {table.name} is const")
        self._pipeline.delete(table.name, *key)
        del self.entries[key]
        self._release(entry.action)

    def read(self, query: p4r.TableEntry) -> Iterator[p4r.TableEntry]:
        """Yield the entries that a query selects, with counter data if it asks for them."""
        with_counts = query.HasField("counter_data") and self.table.direct_counter != 0
        if query.is_default_action:
            yield self._encode_default()
            return
        for keys in _chunked(self._selected(query)):
            counts = self._pipeline.read_direct(self.table.name, keys) if with_counts else []
            for position, key in enumerate(keys):
                message = self._encode(key)
                if with_counts:
                    fill_count(counts[position], message.counter_data)
                yield message

    def write_counter(self, message: p4r.DirectCounterEntry) -> None:
        """Set the direct counter of an entry; without data, nothing."""
        entry = message.table_entry
        key = self._counted_key(entry)
        if message.HasField("data"):
            self._pipeline.write_direct(self.table.name, *key, decode_count(message.data))

    def read_counters(self, query: p4r.TableEntry) -> Iterator[p4r.DirectCounterEntry]:
        """Yield the direct counter of one entry, or of every entry."""
        self._check_counted()
        single = query.match or query.is_default_action
        keys = [self._counted_key(query)] if single else list(self.entries)
        for chunk in _chunked(keys):
            counts = self._pipeline.read_direct(self.table.name, chunk)
            for key, count in zip(chunk, counts, strict=True):
                message = p4r.DirectCounterEntry()
                self.table.encode_key(*key, message.table_entry)
                fill_count(count, message.data)
                yield message

    def _modify_default(self, message: p4r.TableEntry) -> None:
        table = self.table
        self._check_entry(message)
        if message.match or message.priority:
            raise invalid_argument(f"the default entry of {table.name} has neither match nor priority")
        if table.implementation:
            raise invalid_argument(f"the default entry of {table.name}, an indirect table, is fixed")
        if table.const_default:
            raise permission_denied(f"the default action of table {table.name} is const")
        if message.HasField("counter_data"):
            raise self._no_default_counter()
        if message.HasField("action"):
            action = self._decode_action(message.action, default=True)
            self._pipeline.set_default(table.name, self._target(action))
            self._default = Entry(action, message.metadata, message.controller_metadata)
        else:
            self._pipeline.set_default(table.name, None)
            self._default = None

    def _check_entry(self, message: p4r.TableEntry) -> None:
        """Raise where an INSERT or MODIFY sets a field that this table does not have."""
        name = self.table.name
        if message.is_const:
            raise invalid_argument("is_const cannot be written")
        if message.idle_timeout_ns or message.HasField("time_since_last_hit"):
            if self.table.idle_timeout:
                raise unimplemented(f"table {name}: idle timeouts are not supported")
            raise invalid_argument(f"table {name} has no idle timeout")
        if message.HasField("meter_config") or message.HasField("meter_counter_data"):
            raise invalid_argument(f"table {name} has no direct meter")

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

    def _check_counted(self) -> None:
        if not self.table.direct_counter:
            raise invalid_argument(f"table {self.table.name} has no direct counter")

    def _no_default_counter(self) -> P4RuntimeError:
        return unimplemented(f"table {self.table.name}: the default entry has no direct counter")

    def _counted_key(self, message: p4r.TableEntry) -> Key:
        """Return the key of an entry that must exist and have a counter."""
        self._check_counted()
        if message.is_default_action:
            raise self._no_default_counter()
        key = self.table.decode_key(message)
        if key not in self.entries:
            raise not_found(f"table {self.table.name} holds no such entry")
        return key

    def _selected(self, query: p4r.TableEntry) -> Iterator[Key]:
        if query.match:
            key = self.table.decode_key(query)
            keys = [key] if key in self.entries else []
        else:
            keys = list(self.entries)
        action_id = query.action.action.action_id if query.action.HasField("action") else 0
        plain = not (query.priority or query.metadata or query.controller_metadata or action_id)
        for key in keys:
            entry = self.entries[key]
            if plain or (
                (not query.priority or key[1] == query.priority)
                and (not query.metadata or entry.metadata == query.metadata)
                and (not query.controller_metadata or entry.controller_metadata == query.controller_metadata)
                and (
                    not action_id
                    or (isinstance(entry.action, ActionCall) and entry.action.action.id == action_id)
                )
            ):
                yield key

    def _encode(self, key: Key) -> p4r.TableEntry:
        entry = self.entries[key]
        message = p4r.TableEntry()
        self.table.encode_key(*key, message)
        _fill_entry(entry, message)
        return message

    def _encode_default(self) -> p4r.TableEntry:
        message = p4r.TableEntry(table_id=self.table.id, is_default_action=True)
        if self._default is not None:
            _fill_entry(self._default, message)
            return message
        call = self._pipeline.default_action(self.table.name)
        if call is not None:
            ActionCall(self._actions_by_name[call.action], call.arguments).fill(message.action)
        return message

    def _target(self, action: ActionCall | Indirect) -> TargetAction:
        if isinstance(action, ActionCall):
            return action.target
        assert self._profile is not None
        return self._profile.target(action)

    def _release(self, action: ActionCall | Indirect) -> None:
        if self._profile is not None and not isinstance(action, ActionCall):
            self._profile.release(action)


def _fill_entry(entry: Entry, message: p4r.TableEntry) -> None:
    entry.action.fill(message.action)
    if entry.metadata:
        message.metadata = entry.metadata
    if entry.controller_metadata:
        message.controller_metadata = entry.controller_metadata
    if entry.is_const:
        message.is_const = True


def _chunked(keys: Iterable[Key]) -> Iterator[list[Key]]:
    source = iter(keys)
    while chunk := list(islice(source, READ_AT_ONCE)):
        yield chunk
