"""The forwarding state of one pipeline: every entity that P4Runtime writes and reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finsy.proto import p4r

from duet_p4.bpf.errors import BpfError
from duet_p4.detour import DETOUR
from duet_p4.xdp_switch.dataplane import EntryKey, NoRoomError, Pipeline, TargetAction, UnsupportedError
from duet_p4.xdp_switch.p4runtime.action_profiles import ActionProfileState
from duet_p4.xdp_switch.p4runtime.arrays import Arrays
from duet_p4.xdp_switch.p4runtime.bulk import Run, Shapes
from duet_p4.xdp_switch.p4runtime.digests import DigestState
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    internal,
    invalid_argument,
    permission_denied,
    resource_exhausted,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.meters import Meters
from duet_p4.xdp_switch.p4runtime.names import EVERYTHING, defaults, names_in
from duet_p4.xdp_switch.p4runtime.p4info import Schema
from duet_p4.xdp_switch.p4runtime.replication import ENGINE_ID, Replication
from duet_p4.xdp_switch.p4runtime.roles import Roles
from duet_p4.xdp_switch.p4runtime.tables import TableState
from duet_p4.xdp_switch.p4runtime.translation import NamesExhaustedError
from duet_p4.xdp_switch.p4runtime.value_sets import ValueSets

_log = logging.getLogger(__name__)

NAMES_PATIENCE = 256
"""How many updates are refused for want of a name, where all were in use, before that is looked at again."""

_UPDATES = (p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE)


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of entity is written, read and locked; `of` returns the id that a role must own."""

    write: Callable[[int, Any], None]
    read: Callable[[Any], Iterator[Any]]
    of: Callable[[Any], int]


class ForwardingState:
    """What clients may write to and read from a pipeline, checked against its P4Info."""

    def __init__(self, schema: Schema, pipeline: Pipeline, roles: Roles, ports: Mapping[int, bool]) -> None:
        """`ports` says which ports there are, and which are up."""
        schema.bind(pipeline)
        self.schema = schema
        self.pipeline = pipeline
        self.roles = roles
        self.profiles = {
            profile.id: ActionProfileState(profile, pipeline, ports, schema.types)
            for profile in schema.action_profiles.values()
        }
        self.tables = {
            table.id: TableState(table, pipeline, self.profiles.get(table.implementation), schema)
            for table in schema.tables.values()
        }
        self.replication = Replication(pipeline, schema.types, ports)
        self.digests = DigestState(schema)
        self._refused_names, self._names_patience = 0, 1
        self._shapes = Shapes(self.tables)
        self._arrays = Arrays(schema, pipeline)
        meters = Meters(schema, pipeline)
        value_sets = ValueSets(schema, pipeline)
        self._kinds = {
            "table_entry": Kind(self._write_table, self._read_tables, lambda m: m.table_id),
            "action_profile_member": Kind(
                self._write_member, self._read_members, lambda m: m.action_profile_id
            ),
            "action_profile_group": Kind(self._write_group, self._read_groups, lambda m: m.action_profile_id),
            "counter_entry": Kind(
                self._arrays.write_counter, self._arrays.read_counters, lambda m: m.counter_id
            ),
            "direct_counter_entry": Kind(
                self._write_direct_counter, self._read_direct_counters, lambda m: m.table_entry.table_id
            ),
            "register_entry": Kind(
                self._arrays.write_register, self._arrays.read_registers, lambda m: m.register_id
            ),
            "meter_entry": Kind(meters.write, meters.read, lambda m: m.meter_id),
            "direct_meter_entry": Kind(
                self._write_direct_meter, self._read_direct_meters, lambda m: m.table_entry.table_id
            ),
            "packet_replication_engine_entry": Kind(
                self.replication.write, self.replication.read, lambda _: ENGINE_ID
            ),
            "value_set_entry": Kind(value_sets.write, value_sets.read, lambda m: m.value_set_id),
            "digest_entry": Kind(self.digests.write, self.digests.read, lambda m: m.digest_id),
            "extern_entry": Kind(self._write_extern, lambda _: iter(()), lambda m: m.extern_id),
        }

    def write(self, update: p4r.Update, role: str = "") -> None:
        """Apply one update; a P4RuntimeError says why it was refused, and nothing has changed then."""
        if update.type not in _UPDATES:
            raise invalid_argument(f"update type {update.type} is none of INSERT, MODIFY and DELETE")
        kind, message = self._kind(update.entity)
        if not self.roles.allows(role, kind.of(message)):
            raise permission_denied(f"role {role!r} may not write id {kind.of(message)}")
        try:
            try:
                kind.write(update.type, message)
            except NamesExhaustedError:
                if not self._forget_names():
                    raise
                kind.write(update.type, message)
        except NoRoomError as error:
            raise resource_exhausted(str(error)) from error
        except (OSError, BpfError) as error:
            raise internal(f"the data plane failed: {error}") from error
        except P4RuntimeError:
            raise
        except Exception as error:
            _log.exception("an update was refused by accident: %s", update)
            raise internal(f"the switch failed: {type(error).__name__}: {error}") from error

    def runs(self, request: p4r.WriteRequest) -> list[Run]:
        """Return the updates of a Write that may be carried out together by `write_run`, in order."""
        return self._shapes.runs(request)

    def write_run(self, run: Run, role: str = "") -> bool:
        """Apply updates as `write` would one by one, where it would refuse none of them.

        Returns whether it did; otherwise nothing has changed.
        """
        if not self.roles.allows(role, run.table_id):
            return False
        try:
            return run.write()
        except (NoRoomError, OSError, BpfError) as error:
            _log.info("%d updates are tried one by one: %s", len(run), error)
            return False

    def read(self, query: p4r.Entity, role: str = "") -> Iterator[p4r.Entity]:
        """Return the entities that one request of a Read selects, as they are now.

        What is returned may be gone through later, while Writes go on.
        """
        kind, message = self._kind(query)
        name = query.WhichOneof("entity")
        assert name is not None
        try:
            found = kind.read(message)
        except (OSError, BpfError) as error:
            raise internal(f"the data plane failed: {error}") from error
        except P4RuntimeError:
            raise
        except Exception as error:
            _log.exception("a request was refused by accident: %s", query)
            raise internal(f"the switch failed: {type(error).__name__}: {error}") from error
        allows, of = self.roles.allows, kind.of
        return (p4r.Entity(**{name: item}) for item in found if allows(role, of(item)))

    def objects(self, entities: Iterable[p4r.Entity]) -> Collection[Hashable] | None:
        """Return what entities to be written or read are parts of; None for everything."""
        found: set[Hashable] = set()
        for entity in entities:
            name = entity.WhichOneof("entity")
            if name is None:
                continue
            message = getattr(entity, name)
            number = self._kinds[name].of(message)
            if not number:
                return None
            found.add(number)
            table = self.schema.tables.get(number)
            if table is not None and table.implementation:
                found.add(table.implementation)
        return found

    def default_changed(self, table_id: int) -> bool:
        """Whether a client has set the default entry of a table."""
        return self._table(table_id).default.action is not None

    def ports_changed(self, ports: Mapping[int, bool]) -> None:
        """Take note of ports that went up or down: members of groups may watch them."""
        for profile in self.profiles.values():
            profile.ports_changed(ports)
        self.replication.ports_changed(ports)
        self.pipeline.ports_up([port for port, is_up in ports.items() if is_up])

    def _forget_names(self) -> bool:
        """Take back names that nothing uses any more; returns whether there were any."""
        self._refused_names += 1
        if self._refused_names < self._names_patience:
            return False
        queries = (*EVERYTHING, *defaults(self.tables))
        used = names_in(entity for query in queries for entity in self.read(query))
        forgotten = [translation.keep(used) for translation in self.schema.types.values()]
        self._refused_names = 0
        self._names_patience = 1 if any(forgotten) else NAMES_PATIENCE
        return any(forgotten)

    def _kind(self, entity: p4r.Entity) -> tuple[Kind, Any]:
        name = entity.WhichOneof("entity")
        if name is None:
            raise invalid_argument("the entity is not set")
        return self._kinds[name], getattr(entity, name)

    def _table(self, table_id: int) -> TableState:
        try:
            return self.tables[table_id]
        except KeyError:
            raise invalid_argument(f"{table_id} is no table of this P4 program") from None

    def _profile(self, profile_id: int) -> ActionProfileState:
        try:
            return self.profiles[profile_id]
        except KeyError:
            raise invalid_argument(f"{profile_id} is no action profile of this P4 program") from None

    def _write_extern(self, kind: int, message: p4r.ExternEntry) -> None:
        if message.extern_type_id != DETOUR:
            raise unimplemented(f"extern {message.extern_type_id:#x} is not supported by this switch")
        request = p4r.WriteRequest()
        if kind != p4r.Update.DELETE and not message.entry.Unpack(request):
            raise invalid_argument(f"a detour is a WriteRequest, not {message.entry.type_url or 'nothing'}")
        changes: dict[str, dict[EntryKey, TargetAction | None]] = {}
        for update in request.updates:
            if update.entity.WhichOneof("entity") != "table_entry":
                raise invalid_argument("a detour consists of updates of table entries")
            table = self._table(update.entity.table_entry.table_id)
            key, action = table.change(update.type, update.entity.table_entry)
            changes.setdefault(table.table.name, {})[key] = action
        try:
            self.pipeline.detour(message.extern_id, changes)
        except ValueError as error:
            raise invalid_argument(str(error)) from error
        except UnsupportedError as error:
            raise unimplemented(str(error)) from error

    def _write_table(self, kind: int, message: p4r.TableEntry) -> None:
        self._table(message.table_id).write(kind, message)

    def _read_tables(self, query: p4r.TableEntry) -> Iterator[p4r.TableEntry]:
        if query.table_id:
            return self._table(query.table_id).read(query)
        if query.match:
            raise invalid_argument("a match without a table id selects nothing")
        return _chained(table.read(query) for table in self.tables.values())

    def _write_member(self, kind: int, message: p4r.ActionProfileMember) -> None:
        self._profile(message.action_profile_id).write_member(kind, message)

    def _read_members(self, query: p4r.ActionProfileMember) -> Iterator[p4r.ActionProfileMember]:
        profiles = self._selected_profiles(query.action_profile_id)
        return _chained(profile.read_members(query.member_id) for profile in profiles)

    def _write_group(self, kind: int, message: p4r.ActionProfileGroup) -> None:
        self._profile(message.action_profile_id).write_group(kind, message)

    def _read_groups(self, query: p4r.ActionProfileGroup) -> Iterator[p4r.ActionProfileGroup]:
        profiles = self._selected_profiles(query.action_profile_id)
        return _chained(profile.read_groups(query.group_id) for profile in profiles)

    def _selected_profiles(self, profile_id: int) -> list[ActionProfileState]:
        return [self._profile(profile_id)] if profile_id else list(self.profiles.values())

    def _write_direct_counter(self, kind: int, message: p4r.DirectCounterEntry) -> None:
        table = self._table(_counted_table(message))
        if kind != p4r.Update.MODIFY:
            raise invalid_argument("a direct counter comes and goes with its entry: only MODIFY is possible")
        table.write_counter(message)

    def _read_direct_counters(self, query: p4r.DirectCounterEntry) -> Iterator[p4r.DirectCounterEntry]:
        table_id = _counted_table(query)
        if table_id:
            return self._table(table_id).read_counters(query.table_entry)
        counted = [table for table in self.tables.values() if table.table.direct_counter]
        return _chained(table.read_counters(query.table_entry) for table in counted)

    def _write_direct_meter(self, kind: int, message: p4r.DirectMeterEntry) -> None:
        table = self._table(_metered_table(message))
        if kind != p4r.Update.MODIFY:
            raise invalid_argument("a direct meter comes and goes with its entry: only MODIFY is possible")
        table.write_meter(message)

    def _read_direct_meters(self, query: p4r.DirectMeterEntry) -> Iterator[p4r.DirectMeterEntry]:
        table_id = _metered_table(query)
        if table_id:
            return self._table(table_id).read_meters(query)
        metered = [table for table in self.tables.values() if table.table.direct_meter is not None]
        return _chained(table.read_meters(query) for table in metered)


def _chained(parts: Iterable[Iterator[Any]]) -> Iterator[Any]:
    """Return the items of all parts; unlike itertools.chain, it makes the parts at once."""
    made = list(parts)
    return (item for part in made for item in part)


def _counted_table(message: p4r.DirectCounterEntry) -> int:
    if not message.HasField("table_entry"):
        raise invalid_argument("a direct counter entry needs a table entry")
    return message.table_entry.table_id


def _metered_table(message: p4r.DirectMeterEntry) -> int:
    if not message.HasField("table_entry"):
        raise invalid_argument("a direct meter entry needs a table entry")
    return message.table_entry.table_id
