"""The instrumented variant of a running program, and what its records say.

It shares every map with the program that it stands in for, tables, counters and registers among them. It is
loaded only when somebody wants to see packets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from duet_p4 import bpf
from duet_p4.api.installed import Installed
from duet_p4.api.trace import (
    Changed,
    Line,
    Matched,
    PacketTrace,
    Step,
    Value,
)
from duet_p4.tracing.variant import OWN_MAPS, Variant, shared_maps
from duet_p4.xdp_switch.compiler import Compiled, ir
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, Layout
from duet_p4.xdp_switch.compiler.tracing import BYTES_KEPT, Kind, offsets
from duet_p4.xdp_switch.dataplane import FieldValue, MatchValues

DROPS = {
    "by_program": "the program marked it to drop",
    "port_unknown": "it came by an interface that is no port",
    "no_room": "there was no room for the headers added, or fewer than 14 bytes were left",
    "no_egress": "its egress port does not exist",
    "passes": "it passed too many times",
    "assertion": "an assert or assume of the program was false",
    "changed": "it was held up in a lookup while the table was changed twice",
}
"""Why a packet does not leave, by the switch's counter of it (`enum drop_reason`)."""

Snapshot = dict[str, tuple[int, int]]
"""Value and width of every field that there is at a moment."""


class Tracer(Variant):
    """The instrumented variant, loaded; `program` is to run in place of the one it was made of."""

    def __init__(
        self,
        compiled: Compiled,
        path: Path,
        running: bpf.Object,
        rodata: Mapping[str, bytes] | None,
        entry_of: Callable[[str, int], tuple[MatchValues, int] | None],
        written_at: Callable[[str, int], float | None],
    ) -> None:
        loaded = bpf.Object(path)
        self._pending: dict[int, list[bytes]] = {}
        try:
            loaded.load(rodata=rodata, share=shared_maps(running, loaded, (*OWN_MAPS, "scratches")))
            self.program = loaded.program("pipeline")
            self._reader = _Reader(compiled, entry_of, written_at)
            super().__init__(loaded)
        except BaseException:
            loaded.close()
            raise

    @property
    def fd(self) -> int:
        """Readable when there are records."""
        return self._ring.fd

    def poll(self, *, detail: bool = True) -> list[PacketTrace]:
        """Return the packets that have been through since the last call, as they came in.

        Without `detail`, steps are there, but neither their keys, nor what they changed.
        """
        for record in self._ring.poll():
            self._pending.setdefault(self._reader.packet(record), []).append(record)
        ended = {
            packet: records
            for packet, records in self._pending.items()
            if self._reader.kind(records[-1]) in (Kind.DROP, Kind.SENT)
        }
        for packet in ended:
            del self._pending[packet]
        return sorted(
            (self._reader.trace(r, detail) for r in ended.values()), key=lambda trace: trace.began_ns
        )


class _Reader:
    """Reads records by the layout that the compiler gave the scratch."""

    def __init__(
        self,
        compiled: Compiled,
        entry_of: Callable[[str, int], tuple[MatchValues, int] | None],
        written_at: Callable[[str, int], float | None],
    ) -> None:
        self._written_at = written_at
        self._program = compiled.program
        self._layout: Layout = compiled.layout
        self._tracing = compiled.layout.tracing
        self._entry_of = entry_of
        self._places, self.size = offsets(compiled.layout.declarations())
        self._errors = {number: name for name, number in self._program.errors.items()}
        self._fields = list(self._find_fields())

    def packet(self, record: bytes) -> int:
        """Return the number of the packet that a record is about."""
        return self._number(record, "trace_packet", 8)

    def kind(self, record: bytes) -> Kind:
        """Return what a record is about."""
        return Kind(self._number(record, "trace_kind", 4))

    def trace(self, records: Sequence[bytes], detail: bool) -> PacketTrace:
        """Return what the records of a packet say."""
        first, last = records[0], records[-1]
        steps: list[Step] = []
        verdict, egress, frame_out, reason = "lost", None, None, None
        shots = [self.snapshot(record) if detail else {} for record in records]
        for (record, now), (_, following) in pairwise([*zip(records, shots, strict=True), (last, shots[-1])]):
            kind = self.kind(record)
            if kind is Kind.START:
                continue
            step = self._step(kind, record, now, _changes(now, following))
            if kind is Kind.ACTION and steps:
                steps[-1] = steps[-1].model_copy(
                    update={
                        "action": step.name,
                        "action_line": step.line,
                        "arguments": step.arguments,
                        "counters": step.counters,
                        "changes": (*steps[-1].changes, *step.changes),
                    }
                )
            else:
                steps.append(step)
            if kind is Kind.SENT:
                verdict, egress = "sent", str(self._number(record, "trace_number", 4))
                frame_out = self._frame(record)
            elif kind is Kind.DROP:
                verdict, egress, frame_out = "dropped", None, None
                reason = f"{DROPS[step.name]} (counter drops.{step.name})"
        if verdict == "dropped":
            counted = [name for step in steps for name in step.counters if "drop" in name.lower()]
            reason = "; ".join([str(reason), *(f"counted as {name}" for name in counted)])
        parsed = next((r for r in records if self.kind(r) is Kind.PARSED), first)
        return PacketTrace(
            began_ns=self._number(first, "trace_ns", 8),
            ended_ns=self._number(last, "trace_ns", 8),
            ingress=str(self._number(first, "trace_number", 4)),
            frame=self._frame(first),
            length=self._number(first, "trace_a", 8),
            headers_in=self._headers(parsed) if detail else (),
            headers_out=self._headers(last) if detail and verdict == "sent" else (),
            steps=tuple(steps),
            verdict=verdict,
            egress=egress,
            frame_out=frame_out,
            reason=reason,
        )

    def _step(self, kind: Kind, record: bytes, now: Snapshot, changes: tuple[Changed, ...]) -> Step:
        number = self._number(record, "trace_number", 4)
        if kind is Kind.STATE:
            state = self._program.parser[self._tracing.states[number]]
            return Step(kind="state", name=state.name, line=_line(state.source), changes=changes)
        if kind is Kind.PARSED:
            return Step(kind="parsed", name=self._errors.get(number, str(number)), changes=changes)
        if kind is Kind.BRANCH:
            pipeline, name = self._tracing.branches[number]
            at = self._program.ingress if pipeline == self._program.ingress.name else self._program.egress
            source, taken = at.conditionals[name].source, bool(self._number(record, "trace_a", 8))
            return Step(
                kind="branch", name=source.fragment or name, line=_line(source), taken=taken, changes=changes
            )
        if kind is Kind.TABLE:
            return self._table(self._program.tables()[self._tracing.tables[number]], record, now, changes)
        if kind is Kind.ACTION:
            action = self._program.actions[number]
            arguments = self._arguments(action, record)
            return Step(
                kind="table",
                name=action.name,
                line=_line(action.source),
                arguments=arguments,
                counters=tuple(_counters(action, arguments)),
                changes=changes,
            )
        if kind is Kind.DONE:
            return Step(kind="done", name="egress" if number else "ingress", changes=changes)
        if kind is Kind.SENT:
            return Step(kind="sent", name=str(number))
        return Step(kind="drop", name=list(DROPS)[number])

    def _table(self, table: ir.Table, record: bytes, now: Snapshot, changes: tuple[Changed, ...]) -> Step:
        hit = bool(self._number(record, "trace_a", 8))
        handle = self._number(record, "trace_b", 8)
        entry = self._entry_of(table.name, handle) if hit else None
        written = self._written_at(table.name, handle) if hit else None
        key = []
        for place, one in enumerate(table.keys):
            value = self._key_value(one, now)
            wanted = _wanted(entry[0][place], one) if entry is not None else None
            key.append(Matched(field=one.name, kind=one.kind, value=_hex(value, one.width), wanted=wanted))
        return Step(
            kind="table",
            name=table.name,
            line=_line(table.source),
            key=tuple(key),
            hit=hit if table.keys else None,
            priority=entry[1] if entry is not None and entry[1] else None,
            installed=Installed(at=written) if written is not None else None,
            changes=changes,
        )

    def _key_value(self, key: ir.KeyField, now: Snapshot) -> int:
        name = key.field.header if key.field.field == ir.VALID else f"{key.field.header}.{key.field.field}"
        value = now.get(name, (0, 0))[0]
        return value & key.mask if key.mask is not None else value

    def _arguments(self, action: ir.Action, record: bytes) -> tuple[Value, ...]:
        start = self._places["m.trace_arguments"]
        found = []
        for number, parameter in enumerate(action.parameters):
            at = start + 16 * number
            value = int.from_bytes(record[at : at + 16], "little")
            found.append(
                Value(name=parameter.name, value=_hex(value, parameter.width), width=parameter.width)
            )
        return tuple(found)

    def _number(self, record: bytes, member: str, size: int) -> int:
        at = self._places[f"m.{member}"]
        return int.from_bytes(record[at : at + size], "little")

    def _frame(self, record: bytes) -> str:
        at = self._places["m.trace_bytes"]
        kept = min(self._number(record, "trace_a", 8), BYTES_KEPT)
        return record[at : at + kept].hex()

    def _find_fields(self) -> list[tuple[str, int, Callable[[bytes], int]]]:
        """Return name, width and reader of the fields of metadata."""
        found: list[tuple[str, int, Callable[[bytes], int]]] = []
        for header in self._program.headers.values():
            for member in header.type.fields.values() if header.metadata else ():
                reference = ir.FieldRef(header.name, member.name)
                if member.varbit or not self._layout.stored(reference):
                    continue
                slot = self._layout.slot(reference)
                if slot is not None:
                    at, size, order = self._places[slot.lvalue[3:]], slot.storage // 8, "little"
                else:
                    wide = self._layout.bytes_of(reference)
                    at, size, order = self._places[wide.place[3:]], wide.room, "big"
                found.append((f"{header.name}.{member.name}", member.width, _integer(at, size, order)))
        return found

    def snapshot(self, record: bytes) -> Snapshot:
        """Return all fields at the moment of a record: those of valid headers, and metadata."""
        now: Snapshot = {}
        for name, width, read in self._fields:
            now[name] = (read(record), width)
        for header in self._program.headers.values():
            if header.metadata:
                continue
            word = self._places[f"valid{header.index // 64 or ''}"]
            valid = int.from_bytes(record[word : word + 8], "little") >> header.index % 64 & 1
            now[header.name] = (valid, 1)
            if valid:
                at = self._places[self._layout.header(header.name)[3:]]
                whole = int.from_bytes(record[at : at + header.type.bytes], "big")
                for member in header.type.fields.values():
                    shift = 8 * header.type.bytes - member.offset - member.width
                    value = whole >> shift & (1 << member.width) - 1
                    now[f"{header.name}.{member.name}"] = (value, member.width)
        return now

    def _headers(self, record: bytes) -> tuple[Value, ...]:
        """Return the fields of the valid headers, in the order of the packet."""
        now = self.snapshot(record)
        order = self._program.deparser
        return tuple(
            Value(name=f"{header}.{field}", value=_hex(*now[f"{header}.{field}"]), width=member.width)
            for header in order
            if now[header][0]
            for field, member in self._program.headers[header].type.fields.items()
        )


def _changes(before: Snapshot, after: Snapshot) -> tuple[Changed, ...]:
    """Return the fields that are others afterwards."""
    found = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        found.append(
            Changed(
                field=name,
                before=_hex(*old) if old is not None else None,
                after=_hex(*new) if new is not None else None,
                width=(old or new or (0, 0))[1],
            )
        )
    return tuple(found)


def _integer(at: int, size: int, order: str) -> Callable[[bytes], int]:
    if order == "little":
        return lambda record: int.from_bytes(record[at : at + size], "little")
    return lambda record: int.from_bytes(record[at : at + size], "big")


def _hex(value: int, width: int) -> str:
    return f"0x{value:0{(min(width, 8 * MAX_ARITHMETIC) + 3) // 4}x}"


def _line(source: ir.Source) -> Line | None:
    return Line(file=source.file, line=source.line, text=source.fragment) if source.line else None


def _wanted(value: FieldValue, key: ir.KeyField) -> str:
    """Return what an entry wants of a field, as text."""
    if value is None:
        return "any"
    if isinstance(value, int):
        return _hex(value, key.width)
    first, second = value
    if key.kind == "lpm":
        return f"{_hex(first, key.width)}/{second}"
    between = " .. " if key.kind == "range" else " &&& "
    return _hex(first, key.width) + between + _hex(second, key.width)


def _counters(action: ir.Action, arguments: Sequence[Value]) -> list[str]:
    """Return the cells of counters that an action counts in, where it says which."""
    found = []
    for step in action.primitives:
        if step.op != "count":
            continue
        array, index = step.arguments
        if isinstance(array, ir.Named) and isinstance(index, ir.Const):
            found.append(f"{array.name}[{index.value}]")
        elif isinstance(array, ir.Named) and isinstance(index, ir.Param):
            found.append(f"{array.name}[{int(arguments[index.index].value, 16)}]")
    return found
