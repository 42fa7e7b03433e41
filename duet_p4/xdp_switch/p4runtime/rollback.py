"""ROLLBACK_ON_ERROR: a batch that is carried out whole, or taken back.

Packets may see its updates one by one; when one is refused, those before it are undone, the last first
(P4Runtime specification, "Batch Atomicity").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, aborted
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState

_log = logging.getLogger(__name__)

_KEYS = {
    "action_profile_member": ("action_profile_id", "member_id"),
    "action_profile_group": ("action_profile_id", "group_id"),
    "counter_entry": ("counter_id", "index"),
    "register_entry": ("register_id", "index"),
    "meter_entry": ("meter_id", "index"),
    "packet_replication_engine_entry": ("multicast_group_entry", "clone_session_entry"),
    "value_set_entry": ("value_set_id",),
    "digest_entry": ("digest_id",),
    "direct_counter_entry": ("table_entry",),
    "direct_meter_entry": ("table_entry",),
}
"""The fields that say which entity a message is about; those of a table entry are more."""


def apply_or_roll_back(
    state: ForwardingState, updates: Sequence[p4r.Update], role: str
) -> list[P4RuntimeError | None]:
    """Carry out all updates and return a None for each, or none of them and say which was refused."""
    undo: list[p4r.Update] = []
    for number, update in enumerate(updates):
        try:
            inverse = _inverse(state, update)
            state.write(update, role)
        except P4RuntimeError as error:
            for step in reversed(undo):
                _take_back(state, step)
            results: list[P4RuntimeError | None] = [
                aborted("taken back, as another update of the batch was refused") for _ in range(number)
            ]
            results.append(error.with_traceback(None))
            results += [
                aborted("not tried, as another update of the batch was refused")
                for _ in updates[number + 1 :]
            ]
            return results
        undo += reversed(inverse)
    return [None] * len(updates)


def _take_back(state: ForwardingState, step: p4r.Update) -> None:
    try:
        state.write(step)
    except P4RuntimeError:
        _log.exception("an update cannot be taken back: %s", step)


def _inverse(state: ForwardingState, update: p4r.Update) -> list[p4r.Update]:
    """Return what leads back from an update to the state now."""
    if update.type == p4r.Update.INSERT:
        return [p4r.Update(type=p4r.Update.DELETE, entity=update.entity)]
    name = update.entity.WhichOneof("entity")
    if name == "table_entry":
        return _table_inverse(state, update)
    if name == "extern_entry":
        # A detour cannot be read back, and does without.
        return [p4r.Update(type=p4r.Update.DELETE, entity=update.entity)]
    kind = p4r.Update.INSERT if update.type == p4r.Update.DELETE else p4r.Update.MODIFY
    query = p4r.Entity()
    if name is not None:
        _copy_key(getattr(update.entity, name), getattr(query, name), _KEYS.get(name, ()))
    return [p4r.Update(type=kind, entity=entity) for entity in _found(state, query)]


def _table_inverse(state: ForwardingState, update: p4r.Update) -> list[p4r.Update]:
    entry = update.entity.table_entry
    query = p4r.TableEntry(table_id=entry.table_id, is_default_action=entry.is_default_action)
    query.match.extend(entry.match)
    query.priority = entry.priority
    query.counter_data.SetInParent()
    query.meter_config.SetInParent()
    found = [e.table_entry for e in _found(state, p4r.Entity(table_entry=query))]
    # A match of nothing but wildcards selects every entry.
    found = [e for e in found if len(e.match) == len(entry.match)]
    steps = []
    for before in found:
        deleted = update.type == p4r.Update.DELETE
        if not deleted and not entry.HasField("counter_data"):
            before.ClearField("counter_data")
        if before.is_const or (entry.is_default_action and not state.default_changed(entry.table_id)):
            before.ClearField("action")
            before.ClearField("is_const")
        kind = p4r.Update.INSERT if deleted else p4r.Update.MODIFY
        steps.append(p4r.Update(type=kind, entity=p4r.Entity(table_entry=before)))
    return steps


def _found(state: ForwardingState, query: p4r.Entity) -> list[p4r.Entity]:
    try:
        return list(state.read(query))
    except P4RuntimeError:
        # What cannot be read cannot be changed either: the update itself will be refused.
        return []


def _copy_key(source: Any, target: Any, fields: Sequence[str]) -> None:
    target.SetInParent()
    for field in fields:
        value = getattr(source, field)
        if not hasattr(value, "CopyFrom"):
            setattr(target, field, value)
        elif source.HasField(field):
            getattr(target, field).CopyFrom(value)
