"""What the records of an instrumented SMux or server say: the steps that its `steps.h` lists.

A record has four words (bpf/include/trace.h); `steps.h` says what their bits mean, and the sources where
each step is taken.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from duet_p4.api.trace import Line, Matched, PacketTrace, Step, Value
from duet_p4.tracing.frames import headers_of

_HEAD = struct.Struct("=QQIHH4Q")
_FRAME = struct.Struct("=QQIHH4QII")
_STEP = re.compile(r'X\((STEP_\w+),\s*"(\w+)",\s*"([^"]*)",\s*"([^"]*)"\)')
_TAKEN = re.compile(r"\bTRACE\((STEP_\w+)")
_VERDICTS = {1: "dropped", 2: "passed", 3: "sent", 4: "sent"}
_TC_VERDICTS = {0xFFFF: "sent", 2: "dropped", 7: "sent"}


class Kind(IntEnum):
    """What a record is about; `enum trace_kind` of bpf/include/trace.h."""

    FRAME_IN = 0
    STEP = 1
    FRAME_OUT = 2


@dataclass(frozen=True)
class _Bits:
    role: str
    name: str
    word: int
    shift: int
    width: int

    def of(self, words: Sequence[int]) -> int:
        return words[self.word] >> self.shift & (1 << self.width) - 1


@dataclass(frozen=True)
class _Described:
    kind: str
    title: str
    bits: tuple[_Bits, ...]


class Steps:
    """The steps of a data path by its sources; `exits` are its counters and their sentences."""

    def __init__(self, folder: Path, exits: Mapping[str, str]) -> None:
        """Read what the sources say."""
        self._exits = tuple(exits.items())
        text = (folder / "steps.h").read_text(encoding="utf-8")
        found = {
            name: _Described(kind, title, _bits(bits)) for name, kind, title, bits in _STEP.findall(text)
        }
        self.names = tuple(found)
        self._described = tuple(found.values())
        self._lines: dict[tuple[str, int], Line] = {}
        for source in sorted(folder.glob("*.[ch]")):
            self._read(source)

    def trace(self, records: Sequence[bytes], interface: Callable[[int], str]) -> PacketTrace:
        """Return what the records of one packet say, the first to the last."""
        first, last = _FRAME.unpack_from(records[0]), _FRAME.unpack_from(records[-1])
        frame, left = _frame(records[0]), _frame(records[-1])
        port = interface(first[9])
        steps = [self._step(_HEAD.unpack(record)) for record in records[1:-1]]
        verdict = (_TC_VERDICTS if first[3] else _VERDICTS).get(last[3], "dropped")
        counters = [name for step in steps for name in step.counters]
        dropped = verdict == "dropped"
        return PacketTrace(
            began_ns=first[1],
            ended_ns=last[1],
            ingress=port,
            frame=frame.hex(),
            length=first[10],
            headers_in=headers_of(frame),
            headers_out=() if dropped else headers_of(left),
            steps=tuple(steps),
            verdict=verdict,
            egress=port if verdict == "sent" else None,
            frame_out=None if dropped else left.hex(),
            reason=(
                f"{steps[-1].name} (counter {', '.join(counters)})"
                if dropped and counters
                else "no step says why"
                if dropped
                else None
            ),
        )

    def _step(self, record: tuple[int, ...]) -> Step:
        number, line, words = record[3], record[4], record[5:9]
        described = self._described[number]
        at = self._lines.get((self.names[number], line))
        values = {bits: bits.of(words) for bits in described.bits}
        if described.kind == "leave":
            (counter,) = values.values()
            name, sentence = self._exits[counter]
            return Step(kind="work", name=sentence, line=at, counters=(name.lower(),))
        arguments = tuple(_value(bits, value) for bits, value in values.items() if bits.role == "arg")
        if described.kind == "work":
            return Step(kind="work", name=described.title, line=at, arguments=arguments)
        hit = any(value for bits, value in values.items() if bits.role == "hit")
        key = tuple(
            Matched(
                field=bits.name,
                kind="exact",
                value=_hex(value, bits.width),
                wanted=_hex(value, bits.width) if hit else None,
            )
            for bits, value in values.items()
            if bits.role == "key"
        )
        return Step(
            kind="table", name=described.title, line=at, key=key, hit=hit, arguments=arguments if hit else ()
        )

    def _read(self, source: Path) -> None:
        """Note the line of each step, with the text of the statement before it."""
        lines = source.read_text(encoding="utf-8").splitlines()
        for at, text in enumerate(lines):
            taken = _TAKEN.search(text)
            if taken is None:
                continue
            told = next((one.strip() for one in reversed(lines[:at]) if one.strip(" {}")), text.strip())
            line = Line(file=source.name, line=at + 1, text=told)
            # Compilers differ in which line of a call of several lines is its own.
            end = next(number for number, one in enumerate(lines[at:], at) if one.rstrip().endswith(";"))
            self._lines |= {(taken[1], number + 1): line for number in range(at, end + 1)}


def packet_of(record: bytes) -> int:
    """Return the number of the packet that a record is about."""
    return int(struct.unpack_from("=Q", record)[0])


def kind_of(record: bytes) -> Kind:
    """Return what a record is about."""
    return Kind(struct.unpack_from("=I", record, 16)[0])


def _bits(text: str) -> tuple[_Bits, ...]:
    found = []
    for word, fields in enumerate(text.split("|")):
        shift = 0
        for field in fields.split():
            what, _, width = field.partition("/")
            role, _, name = what.partition(":")
            found.append(_Bits(role, name, word, shift, int(width)))
            shift += int(width)
        if shift > 64:
            raise ValueError(f"a word of a step has 64 bits, not {shift}: {fields!r}")
    return tuple(found)


def _frame(record: bytes) -> bytes:
    length: int = _FRAME.unpack_from(record)[10]
    return record[_FRAME.size : _FRAME.size + length]


def _value(bits: _Bits, value: int) -> Value:
    return Value(name=bits.name, value=_hex(value, bits.width), width=bits.width)


def _hex(value: int, width: int) -> str:
    return f"0x{value:0{(width + 3) // 4}x}"
