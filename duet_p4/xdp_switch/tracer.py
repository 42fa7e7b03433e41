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
from duet_p4.api.trace import Changed, PacketTrace, Step, Value
from duet_p4.tracing.variant import OWN_MAPS, Variant, shared_maps
from duet_p4.xdp_switch.compiler import Compiled, ir
from duet_p4.xdp_switch.compiler.layout import Layout
from duet_p4.xdp_switch.compiler.shown import header_order, hexadecimal, line_of, lookup, wanted
from duet_p4.xdp_switch.compiler.tracing import BYTES_KEPT, Kind, offsets
from duet_p4.xdp_switch.drop_reasons import COUNTED
from duet_p4.xdp_switch.matching import Hit

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
        hit: Callable[[str, int, Sequence[int]], Hit | None],
    ) -> None:
        loaded = bpf.Object(path)
        self._pending: dict[int, list[bytes]] = {}
        try:
            loaded.load(rodata=rodata, share=shared_maps(running, loaded, (*OWN_MAPS, "scratches")))
            self.program = loaded.program("pipeline")
            self._reader = _Reader(compiled, hit)
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
        hit: Callable[[str, int, Sequence[int]], Hit | None],
    ) -> None:
        self._program = compiled.program
        self._layout: Layout = compiled.layout
        self._tracing = compiled.layout.tracing
        self._hit = hit
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
                reason = f"{COUNTED[step.name]} (counter drops.{step.name})"
        if verdict == "dropped":
            counted = [name for step in steps for name in step.counters if "drop" in name.lower()]
            reason = "; ".join([str(reason), *(f"counted as {name}" for name in counted)])
        told = zip(records, shots, strict=True)
        parsed = next((now for record, now in told if self.kind(record) is Kind.PARSED), shots[0])
        left = self._number(last, "trace_a", 8)
        return PacketTrace(
            began_ns=self._number(first, "trace_ns", 8),
            ended_ns=self._number(last, "trace_ns", 8),
            ingress=str(self._number(first, "trace_number", 4)),
            frame=self._frame(first),
            length=self._number(first, "trace_a", 8),
            headers_in=self._headers(parsed, header_order(self._program)) if detail else (),
            headers_out=self._headers_left(shots[-1], left) if detail and verdict == "sent" else (),
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
            return Step(kind="state", name=state.name, line=line_of(state.source), changes=changes)
        if kind is Kind.PARSED:
            return Step(kind="parsed", name=self._errors.get(number, str(number)), changes=changes)
        if kind is Kind.BRANCH:
            pipeline, name = self._tracing.branches[number]
            at = self._program.ingress if pipeline == self._program.ingress.name else self._program.egress
            source, taken = at.conditionals[name].source, bool(self._number(record, "trace_a", 8))
            return Step(
                kind="branch",
                name=source.fragment or name,
                line=line_of(source),
                taken=taken,
                changes=changes,
            )
        if kind is Kind.TABLE:
            return self._table(self._program.tables()[self._tracing.tables[number]], record, now, changes)
        if kind is Kind.ACTION:
            action = self._program.actions[number]
            arguments = self._arguments(action, record)
            return Step(
                kind="table",
                name=action.name,
                line=line_of(action.source),
                arguments=arguments,
                counters=tuple(_counters(action, arguments, now)),
                changes=changes,
            )
        if kind is Kind.DONE:
            return Step(kind="done", name="egress" if number else "ingress", changes=changes)
        if kind is Kind.SENT:
            return Step(kind="sent", name=str(number))
        return Step(kind="drop", name=list(COUNTED)[number])

    def _table(self, table: ir.Table, record: bytes, now: Snapshot, changes: tuple[Changed, ...]) -> Step:
        hit = bool(self._number(record, "trace_a", 8))
        handle = self._number(record, "trace_b", 8)
        values = [self._key_value(one, now) for one in table.keys]
        entry = self._hit(table.name, handle, values) if hit and now else None
        if entry is None:
            return lookup(table, values, hit=hit).model_copy(update={"changes": changes})
        wants = [wanted(match, one) for match, one in zip(entry.match, table.keys, strict=True)]
        return lookup(table, values, hit=hit, wants=wants).model_copy(
            update={
                "priority": entry.priority or None,
                "installed": Installed(at=entry.at) if entry.at is not None else None,
                "changes": changes,
            }
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
                Value(name=parameter.name, value=hexadecimal(value, parameter.width), width=parameter.width)
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

    def _headers(self, now: Snapshot, order: Sequence[str]) -> tuple[Value, ...]:
        """Return the fields of the valid headers, in the order of the packet."""
        return tuple(
            Value(name=f"{header}.{field}", value=hexadecimal(*now[f"{header}.{field}"]), width=member.width)
            for header in order
            if now[header][0]
            for field, member in self._program.headers[header].type.fields.items()
        )

    def _headers_left(self, now: Snapshot, length: int) -> tuple[Value, ...]:
        """Return the fields of the headers that left whole: a program may cut a packet off within them."""
        whole: list[str] = []
        for header in (name for name in self._program.deparser if now[name][0]):
            kind = self._program.headers[header].type
            length -= (kind.bits - (kind.varbit.width if kind.varbit else 0)) // 8
            if length < 0:
                break
            whole.append(header)
        return self._headers(now, whole)


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
                before=hexadecimal(*old) if old is not None else None,
                after=hexadecimal(*new) if new is not None else None,
                width=(old or new or (0, 0))[1],
            )
        )
    return tuple(found)


def _integer(at: int, size: int, order: str) -> Callable[[bytes], int]:
    if order == "little":
        return lambda record: int.from_bytes(record[at : at + size], "little")
    return lambda record: int.from_bytes(record[at : at + size], "big")


def _counters(action: ir.Action, arguments: Sequence[Value], now: Snapshot) -> list[str]:
    """Return the cells of counters that an action counts in, where what was there before it says which."""
    found = []
    for at, step in enumerate(action.primitives):
        if step.op != "count":
            continue
        array, index = step.arguments
        cell = _value_of(index, action.primitives[:at], arguments, now)
        if isinstance(array, ir.Named) and cell is not None:
            found.append(f"{array.name}[{cell}]")
    return found


def _value_of(
    what: object, done: Sequence[ir.Primitive], arguments: Sequence[Value], now: Snapshot
) -> int | None:
    """Return what something came to after steps of an action; None where a look does not tell."""
    if isinstance(what, ir.Const):
        return what.value
    if isinstance(what, ir.Param):
        return int(arguments[what.index].value, 16)
    if isinstance(what, ir.FieldRef):
        for at in reversed(range(len(done))):
            if done[at].op == "assign" and done[at].arguments[0] == what:
                return _value_of(done[at].arguments[1], done[:at], arguments, now)
        return now.get(f"{what.header}.{what.field}", (None, 0))[0]
    if isinstance(what, ir.Op) and what.op == "&":
        left, right = (_value_of(one, done, arguments, now) for one in (what.left, what.right))
        return left & right if left is not None and right is not None else None
    return None
