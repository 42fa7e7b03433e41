"""RECONCILE_AND_COMMIT: the state of the pipeline that runs, written into one that is staged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import Count, EntryKey
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, invalid_argument
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.staging import Staged
from duet_p4.xdp_switch.p4runtime.tables import TableState

TURN = 64
"""Entities written between two looks at the packets."""

_QUERIES = (
    p4r.Entity(action_profile_member=p4r.ActionProfileMember()),
    p4r.Entity(action_profile_group=p4r.ActionProfileGroup()),
    p4r.Entity(table_entry=p4r.TableEntry(meter_config=p4r.MeterConfig())),
    p4r.Entity(
        packet_replication_engine_entry=p4r.PacketReplicationEngineEntry(
            multicast_group_entry=p4r.MulticastGroupEntry()
        )
    ),
    p4r.Entity(
        packet_replication_engine_entry=p4r.PacketReplicationEngineEntry(
            clone_session_entry=p4r.CloneSessionEntry()
        )
    ),
    p4r.Entity(digest_entry=p4r.DigestEntry()),
    p4r.Entity(value_set_entry=p4r.ValueSetEntry()),
    p4r.Entity(meter_entry=p4r.MeterEntry()),
)
"""What a client writes, in an order in which nothing refers to what comes later."""

_IDS = {
    "action_profile_member": "action_profile_id",
    "action_profile_group": "action_profile_id",
    "table_entry": "table_id",
    "digest_entry": "digest_id",
    "value_set_entry": "value_set_id",
    "meter_entry": "meter_id",
}
"""Where entities have the id of what they are part of."""

_MODIFIED = ("value_set_entry", "meter_entry")
"""Entities that are always there."""


class Reconciliation:
    """Copies what clients wrote, and what packets counted, from one pipeline to another."""

    def __init__(self, before: Staged, after: Staged) -> None:
        self._before, self._after = before.forwarding, after.forwarding
        self._infos = before.config.p4info, after.config.p4info
        self._counts: dict[str, list[Count]] = {}
        self._direct: dict[int, dict[EntryKey, Count]] = {}
        self._values: dict[str, list[int]] = {}

    async def copy(self) -> None:
        """Write every entity into the new pipeline.

        Raises INVALID_ARGUMENT where one does not fit; the new pipeline is then of no use.
        """
        # Entries of its own that the new program lets clients delete may have been deleted.
        for entity in _written(self._after, p4r.Entity(table_entry=p4r.TableEntry())):
            self._write(p4r.Update.DELETE, entity)
        for number, entity in enumerate(self._kept(), 1):
            modified = entity.WhichOneof("entity") in _MODIFIED or entity.table_entry.is_default_action
            kind = p4r.Update.MODIFY if modified else p4r.Update.INSERT
            self._check_meaning(entity)
            self._write(kind, entity)
            if number % TURN == 0:
                await asyncio.sleep(0)

    def copy_state(self) -> None:
        """Copy counters and registers."""
        before, after = self._before, self._after
        for table_id, table in before.tables.items():
            if table.table.direct_counter and table_id in after.tables:
                self._copy_direct_counters(table)
        for counter in before.schema.counters.values():
            if counter == after.schema.counters.get(counter.id):
                counts = self._counts[counter.name] = before.pipeline.read_counter(
                    counter.name, 0, counter.size
                )
                after.pipeline.write_counter(counter.name, 0, counts)
        for register in before.schema.registers.values():
            if register == after.schema.registers.get(register.id):
                values = before.pipeline.read_register(register.name, 0, register.size)
                self._values[register.name] = values
                after.pipeline.write_register(register.name, 0, values)

    def settle(self) -> None:
        """Add what packets counted and wrote between `copy_state` and the change; call it just after that.

        A cell of a register that packets wrote before and after keeps what they wrote after.
        """
        before, after = self._before.pipeline, self._after.pipeline
        for name, counts in self._counts.items():
            more = [
                _more(now, then)
                for now, then in zip(before.read_counter(name, 0, len(counts)), counts, strict=True)
            ]
            if any(map(any, more)):
                after.add_counter(name, 0, more)
        for table_id, direct in self._direct.items():
            table = self._after.tables[table_id]
            counted = before.read_direct(table.table.name, direct)
            grown = {
                key: _more(count, then)
                for (key, then), count in zip(direct.items(), counted, strict=True)
                if count != then and key in table.entries
            }
            if grown:
                after.add_direct(table.table.name, grown)
        for name, values in self._values.items():
            for cell, (now, then) in enumerate(
                zip(before.read_register(name, 0, len(values)), values, strict=True)
            ):
                if now != then and after.read_register(name, cell, 1) == [then]:
                    after.write_register(name, cell, [now])

    def _copy_direct_counters(self, table: TableState) -> None:
        target = self._after.tables[table.table.id]
        if not target.table.direct_counter:
            return
        keys = [key for key in table.entries if key in target.entries]
        counts = self._before.pipeline.read_direct(table.table.name, keys)
        self._direct[table.table.id] = dict(zip(keys, counts, strict=True))
        for key, count in zip(keys, counts, strict=True):
            if any(count):
                self._after.pipeline.write_direct(table.table.name, *key, count)
        target.default = table.default

    def _kept(self) -> Iterator[p4r.Entity]:
        for query in _QUERIES:
            yield from _written(self._before, query)
        for table in self._before.tables.values():
            if table.default.action is not None:
                for message in table.read(p4r.TableEntry(is_default_action=True)):
                    yield p4r.Entity(table_entry=message)

    def _write(self, kind: int, entity: p4r.Entity) -> None:
        update = p4r.Update(entity=entity)
        update.type = kind  # type: ignore[assignment]
        try:
            self._after.write(update)
        except P4RuntimeError as error:
            raise invalid_argument(f"an entry cannot be kept: {error.message}") from error

    def _check_meaning(self, entity: p4r.Entity) -> None:
        """Raise where the ids of an entity mean something else in the new P4Info."""
        if self._infos[0] == self._infos[1]:
            return
        name = entity.WhichOneof("entity")
        assert name is not None
        message = getattr(entity, name)
        if name not in _IDS:
            return
        number = getattr(message, _IDS[name])
        before, after = (_description(info, number) for info in self._infos)
        if before != after:
            raise invalid_argument(
                f"an entry of {before[0]} cannot be kept: the new P4Info has another key or actions"
            )


def _description(info: p4i.P4Info, number: int) -> tuple[Any, ...]:
    """Return what gives the entries of a table or profile their meaning."""
    actions = {action.preamble.id: action for action in info.actions}
    for table in info.tables:
        if table.preamble.id == number:
            fields = [(f.id, f.name, f.match_type, f.bitwidth, f.type_name.name) for f in table.match_fields]
            calls = [
                (a.preamble.id, a.preamble.name, [(p.id, p.name, p.bitwidth) for p in a.params])
                for a in (actions[reference.id] for reference in table.action_refs)
            ]
            return (table.preamble.name, fields, sorted(calls), table.implementation_id)
    for profile in info.action_profiles:
        if profile.preamble.id == number:
            return (profile.preamble.name, sorted(profile.table_ids), profile.with_selector)
    for digest in info.digests:
        if digest.preamble.id == number:
            return (digest.preamble.name, digest.type_spec.SerializeToString(deterministic=True))
    for value_set in info.value_sets:
        if value_set.preamble.id == number:
            return (value_set.preamble.name, [(f.id, f.name, f.bitwidth) for f in value_set.match])
    for meter in info.meters:
        if meter.preamble.id == number:
            return (meter.preamble.name, meter.spec.unit, meter.spec.type)
    return (f"id {number}",)


def _written(state: ForwardingState, query: p4r.Entity) -> Iterator[p4r.Entity]:
    """Yield the entities of one kind that a client has written, or could have."""
    for entity in state.read(query):
        name = entity.WhichOneof("entity")
        if entity.table_entry.is_const:
            continue
        if name == "value_set_entry" and not entity.value_set_entry.members:
            continue
        if name == "meter_entry" and not entity.meter_entry.HasField("config"):
            continue
        yield entity


def _more(now: Count, then: Count) -> Count:
    return now[0] - then[0], now[1] - then[1]
