"""Updates of one form: what differs among them are numbers, which are taken out of all of them at once.

Most updates of a large Write have the same type, table, fields, action and parameters. Serialized, those
whose numbers are as long have the same bytes everywhere else. So one of them is decoded as any update is,
which also says where its numbers are (a `_Shape`), and the others are compared with it, and their numbers
read, column by column. Whether a number is one that the table takes is `fields.fits`. What has no form,
because more than numbers decide what becomes of it, or a number that does not fit, is left to be written by
itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import EntryKey, FieldValue
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.fields import PARTS, WORD, Column, Mask, MatchKind, fits, within
from duet_p4.xdp_switch.p4runtime.table_info import Action
from duet_p4.xdp_switch.p4runtime.tables import TableState
from duet_p4.xdp_switch.p4runtime.wire import UPDATE, Path, Span, pieces, spans

FEW = 4
"""So many updates of a shape are worth looking at together."""
RUN = 512
"""Updates that are carried out without a look at the packets."""
MAX_LENGTH = 1024
"""Bytes of an update; longer ones are decoded by themselves."""
MAX_SHAPES = 16
"""Shapes that are remembered of one length."""
MAX_NEW = 8
"""Shapes of one length that are learned from one Write."""

_ENTRY: Path = ("entity", 0, "table_entry", 0)
_MAX_PRIORITY = (1 << 31) - 1

Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
Rows: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Form:
    """All of an update but its numbers: those of the fields that are `given`, the priority, the arguments."""

    kind: int
    table: TableState
    given: tuple[int, ...]
    action: Action | None
    """None for a DELETE, of which only the key counts."""
    metadata: bytes
    controller_metadata: int
    idle_timeout_ns: int

    @classmethod
    def of(cls, update: p4r.Update, tables: Mapping[int, TableState]) -> Form | None:
        """Return the form of an update, None for one that has none; raises P4RuntimeError."""
        entry = update.entity.table_entry
        state = tables.get(entry.table_id) if update.entity.HasField("table_entry") else None
        if state is None or not state.takes_many(update.type, entry):
            return None
        table = state.table
        table.decode_key(entry)
        numbers = {spec.id: position for position, spec in enumerate(table.fields)}
        given = tuple(numbers[item.field_id] for item in entry.match)
        specs = [table.fields[position] for position in given]
        if update.type == p4r.Update.DELETE:
            return cls(update.type, state, given, None, b"", 0, 0) if _plain(specs) else None
        action = table.action(entry.action.action.action_id, default=False)
        action.decode(entry.action.action)
        if not _plain([*specs, *action.params]):
            return None
        return cls(
            update.type,
            state,
            given,
            action,
            entry.metadata,
            entry.controller_metadata,
            entry.idle_timeout_ns,
        )

    def paths(self, entry: p4r.TableEntry) -> Iterator[Path]:
        """Yield where the numbers of an entry of this form are, in the order of the columns."""
        table = self.table.table
        for at, item in enumerate(entry.match):
            kind = item.WhichOneof("field_match_type")
            assert kind is not None
            for part in PARTS[kind]:
                yield (*_ENTRY, "match", at, kind, 0, part)
        if table.needs_priority:
            yield (*_ENTRY, "priority")
        if self.action is not None:
            at_param = {item.param_id: at for at, item in enumerate(entry.action.action.params)}
            for param in self.action.params:
                yield (*_ENTRY, "action", 0, "action", 0, "params", at_param[param.id], "value")

    def wide(self) -> Iterator[bool]:
        """Yield of each column whether its numbers may have more than 64 bits."""
        table = self.table.table
        for position in self.given:
            spec = table.fields[position]
            yield spec.width > WORD
            if spec.numbers == 2:  # The second one of a prefix is its length.
                yield spec.width > WORD and spec.kind is not MatchKind.LPM
        if table.needs_priority:
            yield False
        for param in self.action.params if self.action is not None else ():
            yield param.width > WORD

    def fit(self, columns: Sequence[Column]) -> Mask:
        """Return which updates the table takes as far as their numbers decide, given column by column."""
        table, left = self.table.table, iter(columns)
        good = np.ones(len(columns[0]), dtype=np.bool_)
        for position in self.given:
            spec = table.fields[position]
            good &= fits(spec, [next(left) for _ in range(spec.numbers)])
        if table.needs_priority:
            priority = next(left)
            good &= (priority > 0) & (priority <= _MAX_PRIORITY)
        for param in self.action.params if self.action is not None else ():
            good &= within(next(left), param.width)
        return good

    def run(self, first: int, stop: int, columns: Sequence[Column]) -> Run:
        """Return some updates, given column by column."""
        table, left = self.table.table, iter([column[first:stop].tolist() for column in columns])
        number = stop - first
        values: list[Iterable[FieldValue]] = [repeat(spec.wildcard, number) for spec in table.fields]
        for position in self.given:
            parts = [next(left) for _ in range(table.fields[position].numbers)]
            values[position] = parts[0] if len(parts) == 1 else zip(*parts, strict=True)
        priorities = next(left) if table.needs_priority else repeat(0, number)
        keys = list(zip(zip(*values, strict=True), priorities, strict=True))
        arguments = list(zip(*left, strict=True)) or [()] * number
        return Run(self, first, keys, arguments)


@dataclass(frozen=True, slots=True)
class Run:
    """Updates of one form one after another, from the `first` one of a Write on."""

    form: Form
    first: int
    keys: Sequence[EntryKey]
    arguments: Sequence[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def stop(self) -> int:
        """Where the Write goes on."""
        return self.first + len(self.keys)

    @property
    def table_id(self) -> int:
        """The table's id."""
        return self.form.table.table.id

    def write(self) -> bool:
        """Carry the updates out, if each of them will be taken; returns whether it did."""
        form = self.form
        if form.kind == p4r.Update.DELETE:
            return form.table.delete_all(self.keys)
        assert form.action is not None
        kept = (form.metadata, form.controller_metadata, form.idle_timeout_ns)
        write = form.table.insert_all if form.kind == p4r.Update.INSERT else form.table.modify_all
        return write(self.keys, form.action, self.arguments, *kept)


class _Shape:
    """How serialized updates look that have the form, and are as long, as one of them."""

    def __init__(
        self, data: bytes, form: Form | None, numbers: Sequence[Span], ignored: Sequence[Span] = ()
    ) -> None:
        self.form = form
        self._numbers = numbers
        self._bytes = np.frombuffer(data, dtype=np.uint8)
        self._same = np.full(len(data), 0xFF, dtype=np.uint8)
        for span in (*numbers, *ignored):
            # All but the last byte of a varint have their highest bit set.
            self._same[span.start : span.stop] = 0x80 if span.is_varint else 0

    def has(self, updates: Matrix) -> Mask:
        """Return which updates, one in each row, have this shape."""
        others: Mask = np.any((updates ^ self._bytes) & self._same, axis=1)
        return ~others

    def read(self, updates: Matrix) -> list[Column]:
        """Return the numbers of updates of this shape."""
        return [_varints(updates, s) if s.is_varint else _bytestrings(updates, s) for s in self._numbers]


class Shapes:
    """The shapes of updates that a client has sent, for one pipeline."""

    def __init__(self, tables: Mapping[int, TableState]) -> None:
        self._tables = tables
        self._known: dict[int, list[_Shape]] = {}

    def runs(self, request: p4r.WriteRequest) -> list[Run]:
        """Return the runs of updates of one form in a Write, in order; see `Run`."""
        updates = request.updates
        if len(updates) < FEW:
            return []
        data = request.SerializeToString()
        starts, stops = pieces(data)
        first, size = np.array(starts), np.array(stops) - np.array(starts)
        found = _Found(len(updates))
        for length in sorted(set(size.tolist())):  # `np.unique` would import `numpy.ma`, for 0.1 s.
            rows = np.flatnonzero(size == length)
            if len(rows) >= FEW and length <= MAX_LENGTH:
                every: Matrix = np.ndarray((len(data) - length + 1, length), np.uint8, data, 0, (1, 1))
                self._sort(length, rows, every[first[rows]], updates, found)
        return list(found.runs())

    def _sort(
        self, length: int, rows: Rows, matrix: Matrix, updates: Sequence[p4r.Update], found: _Found
    ) -> None:
        """Note the form and numbers of updates of one length, one in each row of a matrix."""
        known = self._known.setdefault(length, [])
        for number in range(len(known) + MAX_NEW):
            if not len(rows):
                break
            if number < len(known):
                shape = known[number]
            elif len(rows) >= FEW:
                learned = self._learn(matrix[0].tobytes(), updates[int(rows[0])])
                if learned is None:
                    rows, matrix = rows[1:], matrix[1:]
                    continue
                shape = learned
                known.append(shape)
            else:
                break
            has = shape.has(matrix)
            if has.any():
                if shape.form is not None:
                    found.add(shape.form, rows[has], shape.read(matrix[has]))
                rows, matrix = rows[~has], matrix[~has]
        del known[:-MAX_SHAPES]

    def _learn(self, data: bytes, update: p4r.Update) -> _Shape | None:
        """Return the shape of an update; None for one that is refused, which others like it may not be."""
        try:
            form = Form.of(update, self._tables)
        except P4RuntimeError:
            return None
        places = spans(data, UPDATE)
        if form is not None:
            numbers = [places.get(path) for path in form.paths(update.entity.table_entry)]
            room = (MAX_LENGTH if wide else WORD // 8 for wide in form.wide())
            whole = [
                span
                for span, most in zip(numbers, room, strict=True)
                if span is not None and span.stop - span.start <= most
            ]
            if whole and len(whole) == len(numbers):
                unread = [] if form.action is not None else _bytestrings_of(places, (*_ENTRY, "action"))
                return _Shape(data, form, whole, unread)
        # It has no form, whatever its bytestrings are.
        return _Shape(data, None, [], _bytestrings_of(places, ()))


class _Found:
    """The forms of the updates of a Write, and their numbers."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._forms: dict[Form, int] = {}
        self._of = np.full(number, -1, dtype=np.int64)
        self._columns: list[list[Column]] = []

    def add(self, form: Form, rows: Rows, columns: Sequence[Column]) -> None:
        """Note updates of one form."""
        good = form.fit(columns)
        if not good.all():
            rows, columns = rows[good], [column[good] for column in columns]
        at = self._forms.get(form)
        if at is None:
            at = self._forms[form] = len(self._forms)
            kinds = [np.object_ if wide else np.uint64 for wide in form.wide()]
            self._columns.append([np.zeros(self._number, dtype=kind) for kind in kinds])
        self._of[rows] = at
        for held, column in zip(self._columns[at], columns, strict=True):
            held[rows] = column

    def runs(self) -> Iterator[Run]:
        """Yield the runs, none of them longer than `RUN`, and those that are worth it."""
        forms = list(self._forms)
        ends = [*(np.flatnonzero(np.diff(self._of)) + 1).tolist(), self._number]
        first = 0
        for end in ends:
            at = int(self._of[first])
            while at >= 0 and end - first >= FEW:
                stop = min(first + RUN, end)
                yield forms[at].run(first, stop, self._columns[at])
                first = stop
            first = end


def _plain(specs: Sequence[Any]) -> bool:
    """Whether fields or parameters are numbers by which clients know them too."""
    return all(spec.translation is None for spec in specs)


def _bytestrings_of(places: Mapping[Path, Span], outer: Path) -> list[Span]:
    return [span for path, span in places.items() if path[: len(outer)] == outer and not span.is_varint]


def _bytestrings(updates: Matrix, span: Span) -> Column:
    length = span.stop - span.start
    if length > WORD // 8:
        numbers = [int.from_bytes(row, "big") for row in updates[:, span.start : span.stop].tolist()]
        return np.array(numbers, dtype=np.object_)
    padded = np.zeros((len(updates), 8), dtype=np.uint8)
    padded[:, 8 - length :] = updates[:, span.start : span.stop]
    return padded.view(">u8").ravel().astype(np.uint64)


def _varints(updates: Matrix, span: Span) -> Column:
    value = np.zeros(len(updates), dtype=np.uint64)
    for number, at in enumerate(range(span.start, span.stop)):
        value |= (updates[:, at] & 0x7F).astype(np.uint64) << 7 * number
    return value
