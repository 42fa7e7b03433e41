"""ROLLBACK_ON_ERROR: a batch that is carried out whole, or taken back.

Packets may see its updates one by one; when one is refused, those before it are undone, the last first
(P4Runtime specification, "Batch Atomicity").
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.batch import Batch, Results
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


def apply_or_roll_back(batch: Batch, role: str) -> Results:
    """Carry out all updates and return a None for each, or none of them and say which was refused.

    Only inserts are carried out in runs: what the others change has to be looked at one by one.
    """
    state, updates = batch.state, batch.updates
    inserts = {run.first: run for run in batch.runs if run.form.kind == p4r.Update.INSERT}
    undo: list[tuple[p4r.Update, Sequence[p4r.Update]]] = []
    at = 0
    while at < len(updates):
        run = inserts.get(at)
        if run is not None and state.write_run(run, role):
            undo += [(update, ()) for update in updates[at : run.stop]]
            at = run.stop
            continue
        try:
            before = _before(state, updates[at])
            state.write(updates[at], role)
        except P4RuntimeError as error:
            _take_back(state, undo)
            return _refusal(len(updates), at, error.with_traceback(None))
        undo.append((updates[at], before))
        at += 1
    return [None] * len(updates)


def _refusal(number: int, refused: int, error: P4RuntimeError) -> Results:
    """Return what became of so many updates, of which one was refused."""
    results: Results = [aborted("taken back") for _ in range(refused)]
    results.append(error)
    while len(results) < number:
        results.append(aborted("not tried"))
    return results


def _take_back(state: ForwardingState, undo: Sequence[tuple[p4r.Update, Sequence[p4r.Update]]]) -> None:
    """Undo updates, each given with what restores what was there before, the last first."""
    for update, before in reversed(undo):
        steps = before
        if update.type == p4r.Update.INSERT:
            steps = [p4r.Update(type=p4r.Update.DELETE, entity=update.entity)]
        for step in steps:
            try:
                state.write(step)
            except P4RuntimeError:
                _log.exception("an update cannot be taken back: %s", step)


def _before(state: ForwardingState, update: p4r.Update) -> Sequence[p4r.Update]:
    """Return what leads back from a MODIFY or DELETE to the state now; nothing for an INSERT."""
    if update.type == p4r.Update.INSERT:
        return ()
    name = update.entity.WhichOneof("entity")
    if name == "table_entry":
        return _table_before(state, update)
    if name == "extern_entry":
        # A detour cannot be read back, and does without.
        return [p4r.Update(type=p4r.Update.DELETE, entity=update.entity)]
    kind = p4r.Update.INSERT if update.type == p4r.Update.DELETE else p4r.Update.MODIFY
    query = p4r.Entity()
    if name is not None:
        _copy_key(getattr(update.entity, name), getattr(query, name), _KEYS.get(name, ()))
    return [p4r.Update(type=kind, entity=entity) for entity in _found(state, query)]


def _table_before(state: ForwardingState, update: p4r.Update) -> list[p4r.Update]:
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
