"""P4Info, compiled for speed: every id resolves to an object that checks and decodes messages.

Match keys and action arguments become the tuples that `duet_p4.xdp_switch.dataplane` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from finsy.proto import p4i, p4r

from duet_p4.xdp_switch.dataplane import FieldValue, MatchValues
from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import (
    P4RuntimeError,
    invalid_argument,
    permission_denied,
    unimplemented,
)


class MatchKind(IntEnum):
    """How a table matches a field; the numbers are P4Info's."""

    EXACT = p4i.MatchField.EXACT
    LPM = p4i.MatchField.LPM
    TERNARY = p4i.MatchField.TERNARY
    RANGE = p4i.MatchField.RANGE
    OPTIONAL = p4i.MatchField.OPTIONAL


ORDERED_KINDS = (MatchKind.TERNARY, MatchKind.RANGE, MatchKind.OPTIONAL)
"""Kinds that let two entries match one packet, so that entries need a priority."""


@dataclass(frozen=True, slots=True)
class Field:
    """A match field, an action parameter, or a field of a packet-in or packet-out header."""

    id: int
    name: str
    width: int


@dataclass(frozen=True, slots=True)
class MatchField(Field):
    """One element of a table's key."""

    kind: MatchKind

    @property
    def wildcard(self) -> FieldValue:
        """The value that matches everything; meaningless for an exact field."""
        if self.kind is MatchKind.RANGE:
            return (0, (1 << self.width) - 1)
        return None if self.kind in (MatchKind.EXACT, MatchKind.OPTIONAL) else (0, 0)


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
            if not data or value >> param.width:
                raise values.range_error(data, param.width, f"parameter {param.name} of {self.name}")
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
            values.decode(given[param.id], param.width, f"parameter {param.name} of {self.name}")
            for param in self.params
        )

    def encode(self, arguments: Iterable[int], message: p4r.Action) -> None:
        """Fill `message` with the action and its arguments."""
        message.action_id = self.id
        add = message.params.add
        for param, value in zip(self.params, arguments, strict=True):
            add(param_id=param.id, value=values.encode(value))


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
    idle_timeout: bool
    needs_priority: bool
    _decoders: dict[int, tuple[int, Callable[[p4r.FieldMatch], FieldValue]]] = field(repr=False)
    _defaults: tuple[FieldValue, ...] = field(repr=False)
    _required: int = field(repr=False)

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

    def decode_match(self, entry: p4r.TableEntry) -> MatchValues:
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
            item = entry.match.add(field_id=spec.id)
            if isinstance(value, tuple):
                if spec.kind is MatchKind.LPM:
                    item.lpm.value, item.lpm.prefix_len = values.encode(value[0]), value[1]
                elif spec.kind is MatchKind.TERNARY:
                    item.ternary.value, item.ternary.mask = values.encode(value[0]), values.encode(value[1])
                else:
                    item.range.low, item.range.high = values.encode(value[0]), values.encode(value[1])
            elif value is not None:
                if spec.kind is MatchKind.EXACT:
                    item.exact.value = values.encode(value)
                else:
                    item.optional.value = values.encode(value)

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


@dataclass(frozen=True, slots=True)
class Counter:
    """An indexed counter array."""

    id: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Register:
    """A register array of bit<width>; `width` is None where the element is of another type."""

    id: int
    name: str
    size: int
    width: int | None


@dataclass(frozen=True, slots=True)
class ActionProfile:
    """An action profile or selector shared by tables."""

    id: int
    name: str
    size: int
    max_group_size: int
    with_selector: bool
    sum_of_members: bool
    max_member_weight: int
    weights_disallowed: bool
    actions: dict[int, Action]


@dataclass(frozen=True, slots=True)
class PacketHeader:
    """A controller header, packet_in or packet_out."""

    name: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything a P4Info says that the server needs."""

    tables: dict[int, Table]
    actions: dict[int, Action]
    counters: dict[int, Counter]
    registers: dict[int, Register]
    action_profiles: dict[int, ActionProfile]
    packet_in: PacketHeader | None
    packet_out: PacketHeader | None

    @classmethod
    def of(cls, info: p4i.P4Info) -> Schema:
        """Compile a P4Info.

        Raises INVALID_ARGUMENT where it contradicts itself, UNIMPLEMENTED where it holds what this
        switch cannot do.
        """
        _refuse_unsupported(info)
        actions = {
            a.preamble.id: Action(
                a.preamble.id,
                a.preamble.name,
                tuple(Field(p.id, p.name, _width(p, f"{a.preamble.name}.{p.name}")) for p in a.params),
            )
            for a in info.actions
        }
        direct_counters = {c.preamble.id for c in info.direct_counters}
        tables = {t.preamble.id: _table(t, actions, direct_counters) for t in info.tables}
        headers = {
            h.preamble.name: PacketHeader(
                h.preamble.name,
                tuple(Field(m.id, m.name, _width(m, f"{h.preamble.name}.{m.name}")) for m in h.metadata),
            )
            for h in info.controller_packet_metadata
        }
        return cls(
            tables=tables,
            actions=actions,
            counters={c.preamble.id: Counter(c.preamble.id, c.preamble.name, c.size) for c in info.counters},
            registers={
                r.preamble.id: Register(r.preamble.id, r.preamble.name, r.size, _register_width(r))
                for r in info.registers
            },
            action_profiles={p.preamble.id: _action_profile(p, tables) for p in info.action_profiles},
            packet_in=headers.get("packet_in"),
            packet_out=headers.get("packet_out"),
        )


def _table(message: p4i.Table, actions: dict[int, Action], direct_counters: set[int]) -> Table:
    name = message.preamble.name
    fields = []
    for match in message.match_fields:
        try:
            kind = MatchKind(match.match_type)
        except ValueError:
            shown = match.other_match_type or p4i.MatchField.MatchType.Name(match.match_type)
            raise unimplemented(f"match kind {shown} of {name}.{match.name} is not supported") from None
        fields.append(MatchField(match.id, match.name, _width(match, f"{name}.{match.name}"), kind))
    scopes = {ref.id: ref.scope for ref in message.action_refs}
    for action_id in scopes:
        if action_id not in actions:
            raise invalid_argument(f"P4Info: table {name} refers to action {action_id}, which is not there")
    resources = set(message.direct_resource_ids)
    return Table(
        id=message.preamble.id,
        name=name,
        size=message.size,
        fields=tuple(fields),
        actions={action_id: actions[action_id] for action_id in scopes},
        scopes=dict(scopes),
        const_default=bool(message.const_default_action_id),
        is_const=message.is_const_table,
        implementation=message.implementation_id,
        direct_counter=next(iter(resources & direct_counters), 0),
        idle_timeout=message.idle_timeout_behavior == p4i.Table.NOTIFY_CONTROL,
        needs_priority=any(f.kind in ORDERED_KINDS for f in fields),
        _decoders={f.id: (position, _decoder(name, f)) for position, f in enumerate(fields)},
        _defaults=tuple(f.wildcard for f in fields),
        _required=sum(1 << n for n, f in enumerate(fields) if f.kind is MatchKind.EXACT),
    )


def _decoder(table: str, spec: MatchField) -> Callable[[p4r.FieldMatch], FieldValue]:
    """Return the function that checks and decodes this field; one closure per field, for speed."""
    width = spec.width
    full = (1 << width) - 1
    what = f"{table}.{spec.name}"
    from_bytes = int.from_bytes

    def exact(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("exact"):
            raise _wrong_kind(item, what, "exact")
        data = item.exact.value
        value = from_bytes(data, "big")
        if value > full or not data:
            raise values.range_error(data, width, what)
        return value

    def optional(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("optional"):
            raise _wrong_kind(item, what, "optional")
        return values.decode(item.optional.value, width, what)

    def lpm(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("lpm"):
            raise _wrong_kind(item, what, "lpm")
        value, length = values.decode(item.lpm.value, width, what), item.lpm.prefix_len
        if length == 0:
            raise invalid_argument(f"{what}: leave the field out instead of a prefix length of 0")
        if not 0 < length <= width:
            raise invalid_argument(f"{what}: prefix length {length} is not in 1..{width}")
        if value & (full >> length):
            raise invalid_argument(f"{what}: 0x{value:x} has bits set below its /{length}")
        return value, length

    def ternary(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("ternary"):
            raise _wrong_kind(item, what, "ternary")
        value = values.decode(item.ternary.value, width, what)
        mask = values.decode(item.ternary.mask, width, f"mask of {what}")
        if mask == 0:
            raise invalid_argument(f"{what}: leave the field out instead of a mask of 0")
        if value & ~mask:
            raise invalid_argument(f"{what}: 0x{value:x} has bits set outside its mask 0x{mask:x}")
        return value, mask

    def range_(item: p4r.FieldMatch) -> FieldValue:
        if not item.HasField("range"):
            raise _wrong_kind(item, what, "range")
        low = values.decode(item.range.low, width, f"low end of {what}")
        high = values.decode(item.range.high, width, f"high end of {what}")
        if low > high:
            raise invalid_argument(f"{what}: the range 0x{low:x}..0x{high:x} is empty")
        if (low, high) == (0, full):
            raise invalid_argument(f"{what}: leave the field out instead of the full range")
        return low, high

    return {
        MatchKind.EXACT: exact,
        MatchKind.LPM: lpm,
        MatchKind.TERNARY: ternary,
        MatchKind.RANGE: range_,
        MatchKind.OPTIONAL: optional,
    }[spec.kind]


def _wrong_kind(item: p4r.FieldMatch, what: str, expected: str) -> P4RuntimeError:
    given = item.WhichOneof("field_match_type") or "nothing"
    return invalid_argument(f"{what} is matched {expected}, {given} was given")


def _action_profile(message: p4i.ActionProfile, tables: dict[int, Table]) -> ActionProfile:
    name = message.preamble.name
    actions: dict[int, Action] = {}
    for table_id in message.table_ids:
        if table_id not in tables:
            raise invalid_argument(f"P4Info: {name} refers to table {table_id}, which is not there")
        table = tables[table_id]
        actions |= {
            action_id: action
            for action_id, action in table.actions.items()
            if table.scopes[action_id] != p4i.ActionRef.DEFAULT_ONLY
        }
    return ActionProfile(
        id=message.preamble.id,
        name=name,
        size=message.size,
        max_group_size=message.max_group_size,
        with_selector=message.with_selector,
        sum_of_members=message.HasField("sum_of_members"),
        max_member_weight=message.sum_of_members.max_member_weight,
        weights_disallowed=message.weights_disallowed,
        actions=actions,
    )


def _width(message: Any, what: str) -> int:
    """Return the bit width of a field, which translated (SDN string) types do not have."""
    if message.bitwidth <= 0:
        raise unimplemented(f"{what} has no bit width: SDN strings are not supported")
    return int(message.bitwidth)


def _register_width(message: p4i.Register) -> int | None:
    spec = message.type_spec
    if spec.WhichOneof("type_spec") == "bitstring" and spec.bitstring.WhichOneof("type_spec") == "bit":
        return spec.bitstring.bit.bitwidth
    return None


def _refuse_unsupported(info: p4i.P4Info) -> None:
    for kind, name in (
        *(("value set", item.preamble.name) for item in info.value_sets),
        *(("digest", item.preamble.name) for item in info.digests),
        *(("meter", item.preamble.name) for item in info.meters),
        *(("direct meter", item.preamble.name) for item in info.direct_meters),
        *(("extern", item.extern_type_name) for item in info.externs),
    ):
        raise unimplemented(f"{kind} {name} is not supported")
    ids = [
        item.preamble.id
        for items in (info.tables, info.actions, info.action_profiles, info.counters, info.registers)
        for item in items
    ]
    seen: set[int] = set()
    for number in ids:
        if number in seen:
            raise invalid_argument(f"P4Info: id {number} is used twice")
        seen.add(number)


__all__ = [
    "Action",
    "ActionProfile",
    "Counter",
    "Field",
    "MatchField",
    "MatchKind",
    "PacketHeader",
    "Register",
    "Schema",
    "Table",
]
