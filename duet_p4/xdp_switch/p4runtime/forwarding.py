"""The forwarding state of one committed pipeline: every entity that P4Runtime writes and reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from finsy.proto import p4r

from duet_p4.bpf.errors import BpfError
from duet_p4.xdp_switch.dataplane import Pipeline, TableFullError
from duet_p4.xdp_switch.p4runtime.action_profiles import ActionProfileState
from duet_p4.xdp_switch.p4runtime.arrays import Arrays
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    internal,
    invalid_argument,
    resource_exhausted,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.p4info import Schema
from duet_p4.xdp_switch.p4runtime.tables import TableState

_UNSUPPORTED = {
    "extern_entry": "externs are",
    "meter_entry": "meters are",
    "direct_meter_entry": "direct meters are",
    "packet_replication_engine_entry": "multicast groups and clone sessions are",
    "value_set_entry": "parser value sets are",
    "digest_entry": "digests are",
}


class ForwardingState:
    """What clients may write to and read from a pipeline, checked against its P4Info."""

    def __init__(self, schema: Schema, pipeline: Pipeline) -> None:
        self.schema = schema
        self.pipeline = pipeline
        self._profiles = {
            profile.id: ActionProfileState(profile, pipeline) for profile in schema.action_profiles.values()
        }
        self._tables = {
            table.id: TableState(table, pipeline, self._profiles.get(table.implementation), schema)
            for table in schema.tables.values()
        }
        self._arrays = Arrays(schema, pipeline)
        self._writers: dict[str, Callable[[int, Any], None]] = {
            "table_entry": self._write_table,
            "action_profile_member": self._write_member,
            "action_profile_group": self._write_group,
            "counter_entry": self._arrays.write_counter,
            "direct_counter_entry": self._write_direct_counter,
            "register_entry": self._arrays.write_register,
        }
        self._readers: dict[str, Callable[[Any], Iterable[Any]]] = {
            "table_entry": self._read_tables,
            "action_profile_member": self._read_members,
            "action_profile_group": self._read_groups,
            "counter_entry": self._arrays.read_counters,
            "direct_counter_entry": self._read_direct_counters,
            "register_entry": self._arrays.read_registers,
        }

    def write(self, update: p4r.Update) -> None:
        """Apply one update; a P4RuntimeError says why it was refused, and nothing has changed then."""
        kind = update.type
        if kind not in (p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE):
            raise invalid_argument(f"update type {kind} is none of INSERT, MODIFY and DELETE")
        entity = update.entity
        name = entity.WhichOneof("entity")
        if name is None or name not in self._writers:
            raise _unknown_entity(name)
        try:
            self._writers[name](kind, getattr(entity, name))
        except TableFullError as error:
            raise resource_exhausted(str(error)) from error
        except (OSError, BpfError) as error:
            raise internal(f"the data plane failed: {error}") from error

    def read(self, entity: p4r.Entity) -> Iterator[p4r.Entity]:
        """Yield the entities that one request of a Read selects."""
        name = entity.WhichOneof("entity")
        if name is None or name not in self._readers:
            raise _unknown_entity(name)
        try:
            for message in self._readers[name](getattr(entity, name)):
                yield p4r.Entity(**{name: message})
        except (OSError, BpfError) as error:
            raise internal(f"the data plane failed: {error}") from error

    def changed_defaults(self) -> Iterator[p4r.TableEntry]:
        """Yield the default entries that are not the P4 program's own."""
        for table in self._tables.values():
            if table.default_changed:
                yield from table.read(p4r.TableEntry(is_default_action=True))

    def _table(self, table_id: int) -> TableState:
        try:
            return self._tables[table_id]
        except KeyError:
            raise invalid_argument(f"{table_id} is no table of this P4 program") from None

    def _profile(self, profile_id: int) -> ActionProfileState:
        try:
            return self._profiles[profile_id]
        except KeyError:
            raise invalid_argument(f"{profile_id} is no action profile of this P4 program") from None

    def _write_table(self, kind: int, message: p4r.TableEntry) -> None:
        table = self._table(message.table_id)
        if kind == p4r.Update.INSERT:
            table.insert(message)
        elif kind == p4r.Update.MODIFY:
            table.modify(message)
        else:
            table.delete(message)

    def _read_tables(self, query: p4r.TableEntry) -> Iterator[p4r.TableEntry]:
        if query.table_id:
            yield from self._table(query.table_id).read(query)
            return
        if query.match:
            raise invalid_argument("a match without a table id selects nothing")
        for table in self._tables.values():
            yield from table.read(query)

    def _write_member(self, kind: int, message: p4r.ActionProfileMember) -> None:
        self._profile(message.action_profile_id).write_member(kind, message)

    def _read_members(self, query: p4r.ActionProfileMember) -> Iterator[p4r.ActionProfileMember]:
        for profile in self._selected_profiles(query.action_profile_id):
            yield from profile.read_members(query.member_id)

    def _write_group(self, kind: int, message: p4r.ActionProfileGroup) -> None:
        self._profile(message.action_profile_id).write_group(kind, message)

    def _read_groups(self, query: p4r.ActionProfileGroup) -> Iterator[p4r.ActionProfileGroup]:
        for profile in self._selected_profiles(query.action_profile_id):
            yield from profile.read_groups(query.group_id)

    def _selected_profiles(self, profile_id: int) -> list[ActionProfileState]:
        return [self._profile(profile_id)] if profile_id else list(self._profiles.values())

    def _write_direct_counter(self, kind: int, message: p4r.DirectCounterEntry) -> None:
        table = self._table(_counted_table(message))
        if kind != p4r.Update.MODIFY:
            raise invalid_argument("a direct counter comes and goes with its entry: only MODIFY is possible")
        table.write_counter(message)

    def _read_direct_counters(self, query: p4r.DirectCounterEntry) -> Iterator[p4r.DirectCounterEntry]:
        table_id = _counted_table(query)
        if table_id:
            yield from self._table(table_id).read_counters(query.table_entry)
            return
        for table in self._tables.values():
            if table.table.direct_counter:
                yield from table.read_counters(query.table_entry)


def _counted_table(message: p4r.DirectCounterEntry) -> int:
    if not message.HasField("table_entry"):
        raise invalid_argument("a direct counter entry needs a table entry")
    return message.table_entry.table_id


def _unknown_entity(name: str | None) -> P4RuntimeError:
    if name is None:
        return invalid_argument("the entity is not set")
    return unimplemented(f"{_UNSUPPORTED[name]} not supported by this switch")
