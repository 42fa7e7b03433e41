"""Tables and their actions as a P4Info states them: they check and decode keys and arguments, fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import FieldValue, MatchValues
from duet_p4.xdp_switch.p4runtime.errors import invalid_argument, permission_denied
from duet_p4.xdp_switch.p4runtime.fields import (
    ORDERED_KINDS,
    Field,
    MatchField,
    MatchKind,
    encode_match,
    match_decoder,
)
from duet_p4.xdp_switch.p4runtime.meters import MeterKind


@dataclass(frozen=True, slots=True)
class Action:
    """An action and its parameters."""

    id: int
    name: str
    params: tuple[Field, ...]

    def decode(self, message: p4r.Action) -> tuple[int, ...]:
        """Return the arguments in parameter order; raises INVALID_ARGUMENT or OUT_OF_RANGE."""
        params = message.params
        if len(params) != len(self.params):
            raise invalid_argument(
                f"action {self.name} takes {len(self.params)} parameters, {len(params)} were given"
            )
        arguments = []
        for given, param in zip(params, self.params, strict=True):
            if given.param_id != param.id:
                return self._decode_unordered(message)
            data = given.value
            value = int.from_bytes(data, "big")
            if not data or value >> param.width or param.translation is not None:
                value = param.decode(data, f"parameter {param.name} of {self.name}")
            arguments.append(value)
        return tuple(arguments)

    def _decode_unordered(self, message: p4r.Action) -> tuple[int, ...]:
        given = {param.param_id: param.value for param in message.params}
        for param_id in given:
            if all(param.id != param_id for param in self.params):
                raise invalid_argument(f"action {self.name} has no parameter with id {param_id}")
        if len(given) != len(self.params):
            raise invalid_argument(f"action {self.name} was given a parameter twice")
        return tuple(
            param.decode(given[param.id], f"parameter {param.name} of {self.name}") for param in self.params
        )

    def encode(self, arguments: Iterable[int], message: p4r.Action) -> None:
        """Fill `message` with the action and its arguments."""
        message.action_id = self.id
        add = message.params.add
        for param, value in zip(self.params, arguments, strict=True):
            add(param_id=param.id, value=param.encode(value))


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its key, the actions it may hold, its resources."""

    id: int
    name: str
    size: int
    fields: tuple[MatchField, ...]
    actions: dict[int, Action]
    scopes: dict[int, int]
    const_default: bool
    is_const: bool
    implementation: int
    direct_counter: int
    direct_meter: MeterKind | None
    idle_timeout: bool
    needs_priority: bool
    _decoders: dict[int, tuple[int, Callable[[p4r.FieldMatch], FieldValue]]] = field(repr=False)
    _defaults: tuple[FieldValue, ...] = field(repr=False)
    _required: int = field(repr=False)

    @classmethod
    def of(cls, *, fields: tuple[MatchField, ...], name: str, **facts: Any) -> Table:
        """Return a table with what is derived from its fields."""
        return cls(
            name=name,
            fields=fields,
            needs_priority=any(f.kind in ORDERED_KINDS for f in fields),
            _decoders={f.id: (position, match_decoder(name, f)) for position, f in enumerate(fields)},
            _defaults=tuple(f.wildcard for f in fields),
            _required=sum(1 << n for n, f in enumerate(fields) if f.kind is MatchKind.EXACT),
            **facts,
        )

    def decode_key(self, entry: p4r.TableEntry) -> tuple[MatchValues, int]:
        """Return (match values, priority) of a non-default entry.

        Raises INVALID_ARGUMENT or OUT_OF_RANGE where the key does not fit the table.
        """
        key = self.decode_match(entry)
        priority = entry.priority
        if self.needs_priority:
            if priority <= 0:
                raise invalid_argument(
                    f"an entry of {self.name} needs a priority above 0, {priority} was given"
                )
        elif priority:
            raise invalid_argument(f"table {self.name} takes no priority, {priority} was given")
        return key, priority

    def decode_match(self, entry: p4r.TableEntry | p4r.ValueSetMember) -> MatchValues:
        """Return the match values of a non-default entry; raises as `decode_key` does."""
        key = list(self._defaults)
        decoders = self._decoders
        seen = 0
        for item in entry.match:
            known = decoders.get(item.field_id)
            if known is None:
                raise invalid_argument(f"table {self.name} has no match field with id {item.field_id}")
            position, decode = known
            if seen >> position & 1:
                raise invalid_argument(f"match field {self.fields[position].name} is given twice")
            seen |= 1 << position
            key[position] = decode(item)
        if seen & self._required != self._required:
            missing = next(f.name for n, f in enumerate(self.fields) if self._required & ~seen & 1 << n)
            raise invalid_argument(f"table {self.name} needs a value for exact field {missing}")
        return tuple(key)

    def encode_key(self, key: MatchValues, priority: int, entry: p4r.TableEntry) -> None:
        """Fill `entry` with the table's id and a key: canonical, don't-care fields left out."""
        entry.table_id = self.id
        if priority:
            entry.priority = priority
        for spec, value in zip(self.fields, key, strict=True):
            if spec.kind is not MatchKind.EXACT and value == spec.wildcard:
                continue
            encode_match(spec, value, entry.match.add(field_id=spec.id))

    def action(self, action_id: int, *, default: bool) -> Action:
        """Return an action that an entry, or the default entry, of this table may hold.

        Raises INVALID_ARGUMENT for an action of another table, PERMISSION_DENIED for a wrong scope.
        """
        action = self.actions.get(action_id)
        if action is None:
            raise invalid_argument(f"table {self.name} has no action with id {action_id}")
        scope = self.scopes[action_id]
        if scope != p4i.ActionRef.TABLE_AND_DEFAULT:
            if default and scope == p4i.ActionRef.TABLE_ONLY:
                raise permission_denied(f"action {action.name} cannot be the default of {self.name}")
            if not default and scope == p4i.ActionRef.DEFAULT_ONLY:
                raise permission_denied(f"action {action.name} can only be the default of {self.name}")
        return action
