"""RECONCILE_AND_COMMIT: the state of the pipeline that runs, written into one that is staged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, invalid_argument
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.staging import Staged
from duet_p4.xdp_switch.p4runtime.tables import TableState

TURN = 64
"""Entities written between two looks at the packets."""

_ENTITIES = ("action_profile_member", "action_profile_group", "table_entry")
"""What a client writes, in an order in which nothing refers to what comes later."""


class Reconciliation:
    """Copies what clients wrote, and what packets counted, from one pipeline to another."""

    def __init__(self, before: Staged, after: Staged) -> None:
        self._before, self._after = before.forwarding, after.forwarding
        self._infos = before.config.p4info, after.config.p4info

    async def copy(self) -> None:
        """Write every entity into the new pipeline.

        Raises INVALID_ARGUMENT where one does not fit; the new pipeline is then of no use.
        """
        # Entries of its own that the new program lets clients delete may have been deleted.
        for entity in _entities(self._after, ["table_entry"]):
            self._write(p4r.Update.DELETE, entity)
        for number, entity in enumerate(self._kept(), 1):
            kind = p4r.Update.MODIFY if entity.table_entry.is_default_action else p4r.Update.INSERT
            self._check_meaning(entity)
            self._write(kind, entity)
            if number % TURN == 0:
                await asyncio.sleep(0)

    def copy_state(self) -> None:
        """Copy counters and registers; packets that come between this and the change go uncounted."""
        before, after = self._before, self._after
        for table_id, table in before.tables.items():
            if table.table.direct_counter and table_id in after.tables:
                _copy_direct_counters(table, before, after)
        for counter in before.schema.counters.values():
            if counter == after.schema.counters.get(counter.id):
                counts = before.pipeline.read_counter(counter.name, 0, counter.size)
                after.pipeline.write_counter(counter.name, 0, counts)
        for register in before.schema.registers.values():
            if register == after.schema.registers.get(register.id) and register.width is not None:
                values = before.pipeline.read_register(register.name, 0, register.size)
                after.pipeline.write_register(register.name, 0, values)

    def _kept(self) -> Iterator[p4r.Entity]:
        yield from _entities(self._before, _ENTITIES)
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
        number = message.table_id if name == "table_entry" else message.action_profile_id
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
    return (f"id {number}",)


def _entities(state: ForwardingState, names: Iterable[str]) -> Iterator[p4r.Entity]:
    """Yield the entities of these kinds that a client could have written."""
    for name in names:
        query = p4r.Entity()
        getattr(query, name).SetInParent()
        for entity in state.read(query):
            if not entity.table_entry.is_const:
                yield entity


def _copy_direct_counters(table: TableState, before: ForwardingState, after: ForwardingState) -> None:
    target = after.tables[table.table.id]
    if not target.table.direct_counter:
        return
    keys = [key for key in table.entries if key in target.entries]
    counts = before.pipeline.read_direct(table.table.name, keys)
    for key, count in zip(keys, counts, strict=True):
        if any(count):
            after.pipeline.write_direct(table.table.name, *key, count)
    target.default = table.default
