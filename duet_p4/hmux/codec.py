"""Rows to P4Runtime updates, and P4Runtime entities to rows.

A VIP of 512 DIPs is over 4,000 updates. finsy encodes one in about 50 us. Here the entry of each action is
laid out once; and of updates whose numbers are as long, protobuf encodes the first, and the others are its
bytes with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from operator import attrgetter
from typing import Any, Final, get_type_hints

from finsy import P4Schema
from finsy.proto import p4r

from duet_p4.hmux.plan import Op, Update
from duet_p4.hmux.rows import UNDERLAY_ROWS, VIP_ROWS, Action, Row
from duet_p4.model import Protocol

_OPS = {
    Op.INSERT: p4r.Update.INSERT,
    Op.MODIFY: p4r.Update.MODIFY,
    Op.DELETE: p4r.Update.DELETE,
}
_PROTOCOLS = {protocol.number: protocol for protocol in Protocol}

_NUMBER: Final[dict[type, Callable[[Any], int]]] = {
    bool: int,
    int: int,
    IPv4Address: int,
    IPv4Network: lambda network: int(network.network_address),
    Protocol: attrgetter("number"),
}
"""How a value of a row is a number of an entry; a prefix has its length as well."""

_VALUE: Final[dict[type, Callable[[int], object]]] = {
    bool: lambda number: (False, True)[number],
    int: int,
    IPv4Address: IPv4Address,
    Protocol: _PROTOCOLS.__getitem__,
}
"""How a number is a value; raises KeyError, IndexError or ValueError where it is none."""


class _Kind:
    """The entries of one action of a class of rows: their layout, and the attributes that fill it."""

    def __init__(self, schema: P4Schema, row: type[Row], action: Action) -> None:
        self.row = row
        self.where = dict(action.where)
        types = get_type_hints(row)
        table = schema.tables[row.P4.table]
        self.template = p4r.Update()
        entry = self.template.entity.table_entry
        entry.table_id = table.id
        self.key: list[tuple[int, str, type]] = []
        for field in table.match_fields:
            name = row.P4.key[field.alias]
            self.key.append((field.id, name, types[name]))
            entry.match.add(field_id=field.id)
        made = table.actions[action.name]
        entry.action.action.action_id = made.id
        self.parameters: list[tuple[int, str, type]] = []
        for parameter in made.params:
            name = action.parameters[parameter.name]
            self.parameters.append((parameter.id, name, types[name]))
            entry.action.action.params.add(param_id=parameter.id)
        values = [(name, type_) for _, name, type_ in (*self.key, *self.parameters)]
        self._numbers = [(attrgetter(name), _NUMBER[type_]) for name, type_ in values]
        self._prefix = next((name for name, type_ in values if type_ is IPv4Network), None)

    def numbers(self, row: Row) -> tuple[list[bytes], int]:
        """Return the numbers of a row, its key's first, and how long its prefix is (-1: it has none)."""
        found = [_bytes(number(value(row))) for value, number in self._numbers]
        return found, getattr(row, self._prefix).prefixlen if self._prefix else -1

    def message(self, op: Op, numbers: Iterable[bytes], length: int) -> p4r.Update:
        """Return the update with these numbers, and this length of the prefix."""
        left = iter(numbers)
        message = p4r.Update()
        message.CopyFrom(self.template)
        message.type = _OPS[op]
        entry = message.entity.table_entry
        for at, (_, _, type_) in enumerate(self.key):
            number = next(left)
            if type_ is not IPv4Network:
                entry.match[at].exact.value = number
            elif length:
                entry.match[at].lpm.value = number
                entry.match[at].lpm.prefix_len = length
            else:
                del entry.match[at]  # P4Runtime leaves a prefix of length 0 out.
        for param, number in zip(entry.action.action.params, left, strict=True):
            param.value = number
        return message


class Codec:
    """Translates rows for one pipeline."""

    def __init__(self, schema: P4Schema) -> None:
        self._by_row: dict[tuple[type, str], _Kind] = {}
        self._by_id: dict[tuple[int, int], _Kind] = {}
        self._forms: dict[tuple[_Kind, Op, int, tuple[int, ...]], bytes] = {}
        """Serialized updates by the lengths of their numbers and prefix, with a %b for each number."""
        for row in (*VIP_ROWS, *UNDERLAY_ROWS):
            for action in row.P4.actions:
                kind = _Kind(schema, row, action)
                entry = kind.template.entity.table_entry
                self._by_row[row, action.name] = kind
                self._by_id[entry.table_id, entry.action.action.action_id] = kind

    @property
    def table_ids(self) -> list[int]:
        """The P4 tables that rows live in."""
        return sorted({table_id for table_id, _ in self._by_id})

    def update(self, update: Update[Any]) -> p4r.Update:
        """Return the P4Runtime update that writes a row."""
        kind = self._kind(update.row)
        return kind.message(update.op, *kind.numbers(update.row))

    def serialized(self, update: Update[Any]) -> bytes:
        """Return the same as a serialized WriteRequest; several of those, joined, are one of all updates."""
        kind, op = self._kind(update.row), update.op
        numbers, length = kind.numbers(update.row)
        if length == 0:
            return _serialized(kind.message(op, numbers, length))
        lengths = tuple(map(len, numbers))
        form = self._forms.get((kind, op, length, lengths))
        if form is None:
            form = self._forms[kind, op, length, lengths] = _form(kind, op, length, lengths)
        return form % tuple(numbers)

    def _kind(self, row: Row) -> _Kind:
        return self._by_row[type(row), row.action.name]

    def row(self, entry: p4r.TableEntry) -> Row | None:
        """Return the row that an entry of the switch is; None for what no row says, as others may write."""
        kind = self._by_id.get((entry.table_id, entry.action.action.action_id))
        if kind is None:
            return None
        try:
            return _row(kind, entry)
        except (KeyError, IndexError, ValueError):
            return None


def _serialized(message: p4r.Update) -> bytes:
    return p4r.WriteRequest(updates=[message]).SerializeToString()


def _form(kind: _Kind, op: Op, length: int, lengths: Iterable[int]) -> bytes:
    """Return a serialized update with a %b for each number, which stand where two of other numbers differ."""
    one, other = (
        _serialized(kind.message(op, [byte * n for n in lengths], length)) for byte in (b"\0", b"\xff")
    )
    parts, at = [], 0
    for n in lengths:
        first = next(i for i in range(at, len(one)) if one[i] != other[i])
        parts.append(one[at:first].replace(b"%", b"%%"))
        at = first + n
    return b"%b".join((*parts, one[at:].replace(b"%", b"%%")))


def _row(kind: _Kind, entry: p4r.TableEntry) -> Row:
    """Return the row that an entry is; raises KeyError, IndexError or ValueError where it is none."""
    values: dict[str, Any] = dict(kind.where)
    fields = {field.field_id: field for field in entry.match}
    for number, name, type_ in kind.key:
        if type_ is not IPv4Network:
            field = fields.pop(number)
            if not field.HasField("exact"):
                raise ValueError(f"field {number} is not matched exactly")
            values[name] = _VALUE[type_](int.from_bytes(field.exact.value))
        elif number in fields:
            field = fields.pop(number)
            if not field.HasField("lpm"):
                raise ValueError(f"field {number} has no prefix")
            values[name] = IPv4Network((int.from_bytes(field.lpm.value), field.lpm.prefix_len))
        else:
            values[name] = IPv4Network((0, 0))
    params = {param.param_id: param.value for param in entry.action.action.params}
    for number, name, type_ in kind.parameters:
        values[name] = _VALUE[type_](int.from_bytes(params.pop(number)))
    if fields or params:
        raise ValueError("the entry has fields or parameters that its table or action has not")
    return kind.row(**values)


def _bytes(number: int) -> bytes:
    """Return a number as P4Runtime has it: big-endian, as short as can be."""
    return number.to_bytes((number.bit_length() + 7) // 8 or 1)
