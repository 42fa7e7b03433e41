"""Evaluates the hash units and ALUs of Tofino assembly, as far as flow_hash.p4 uses them.

The meaning of each line is that of p4c's `backends/tofino/bf-asm/SYNTAX.yaml`: a hash group's bits are XORs
of slices, or of slices of a CRC whose polynomial the assembly states (in Koopman's notation) beside where
each field has its place in the message; a distribution unit takes 16 of a group's bits. The CRC here is a
shift register, bit by bit: it shares nothing with zlib.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

MASK = 0xFFFF_FFFF
_SLICE = r"([\w.$]+?)(?:\.(\d+)-(\d+))?(?:\((\d+)(?:\.\.(\d+))?\))?"
"""A field, or a part of it that is in a container of its own; or bits of either."""
_CRC = re.compile(
    r"slice\(stripe\(crc_rev\((\w+), (\w+), (\w+), (\d+), \{ (.*?) \}, \{ \}\)\), (\d+)\.\.(\d+)\)$"
)
_FROM_UNITS = re.compile(r"(\w+)\(0\.\.(?:15|31)\), hash_dist\((\d+)(?:, (\d+))?, 0\.\.(?:15|31)\)")
_UNIT_BITS, _UNITS_OF_A_GROUP = 16, 3


def crc_rev(message: int, bits: int, koopman: int) -> int:
    """Return the linear part of a reflected CRC of 32 bits: without a start value and a final XOR.

    `message` is a number of `bits` bits, whole bytes, sent from its highest byte on, each lowest bit first.
    """
    polynomial = int(f"{koopman << 1 & MASK | 1:032b}"[::-1], 2)
    register = 0
    for byte in message.to_bytes(bits // 8):
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (polynomial if register & 1 else 0)
    return register


@dataclass
class Table:
    """What a table without a key does: bits of hash groups, which of them it takes, and its instructions."""

    stage: int
    units: dict[int, int] = field(default_factory=dict)
    """Hash group of each distribution unit."""
    members: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Hash tables of each group."""
    constants: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    """What each group's bits are XORed with."""
    bits: defaultdict[int, list[tuple[int, int, str]]] = field(default_factory=lambda: defaultdict(list))
    """For each hash table, what its bits from the first to the second number are."""
    instructions: list[str] = field(default_factory=list)


class Assembly:
    """An excerpt: lines of `phv ingress`, and the tables of flow_hash and mix under their stages."""

    def __init__(self, text: str) -> None:
        self._places: list[tuple[str, int, int, str]] = []
        self.tables: dict[str, Table] = {}
        stage, table, current = -1, None, -1
        for line in text.splitlines():
            if match := re.match(r"stage (\d+) ingress:", line):
                stage = int(match[1])
            elif stage < 0:
                self._place(line)
            elif match := re.match(r"  \w+ ([\w$.-]+)(?: \d+)?:$", line):
                # The actions of a ternary table are with its second half.
                table = self.tables.setdefault(match[1].removesuffix("$tind"), Table(stage))
            elif table is None:
                continue
            elif match := re.match(r"      (\d+): \{ hash: (\d+), mask: 0xffff, shift: 0 \}", line):
                table.units[int(match[1])] = int(match[2])
            elif match := re.match(r"      hash (group )?(\d+):", line):
                current = int(match[2])
            elif match := re.match(r"        table: \[(.*)\]", line):
                table.members[current].update(map(int, match[1].split(",")))
            elif match := re.match(r"        seed: (\w+)", line):
                table.constants[current] ^= int(match[1], 0)
            elif match := re.match(r"        (\d+)(?:\.\.(\d+))?: (.*)", line):
                table.bits[current].append((int(match[1]), int(match[2] or match[1]), match[3]))
            elif match := re.match(r"      - ((?:set|xor|add) .*)", line):
                table.instructions.append(match[1])

    def _place(self, line: str) -> None:
        match = re.match(r"  ([\w.-]+): (.*)", line)
        assert match, line
        for first, last, container in re.findall(r"stage (\d+)(?:\.\.(\d+))?: (\w+)", match[2]):
            self._places.append((match[1], int(first), int(last or first), container))

    def _field(self, operand: str, stage: int) -> str:
        """Return the field that a container holds in a stage."""
        found = [
            name
            for name, first, last, container in self._places
            if operand in (name, container) and first <= stage <= last
        ]
        assert len(found) == 1, f"{operand} holds {found} in stage {stage}"
        return found[0]

    def run(self, given: Mapping[str, int]) -> dict[str, int]:
        """Return every field after all stages, given those that other tables and the parser have set.

        A field whose parts are in containers of their own is whole only then.
        """
        fields = dict(given)
        for stage in sorted({table.stage for table in self.tables.values()}):
            # All tables of a stage read what the stages before it have left.
            written: dict[str, int] = {}
            for table in self.tables.values():
                if table.stage == stage:
                    written |= self._act(table, fields)
            fields |= written
        for name, value in list(fields.items()):
            if part := re.fullmatch(r"(.+)\.(\d+)-\d+", name):
                fields[part[1]] = fields.get(part[1], 0) | value << int(part[2])
        return fields

    def _act(self, table: Table, fields: Mapping[str, int]) -> dict[str, int]:
        written = {}
        for instruction in table.instructions:
            operation, _, operands = instruction.partition(" ")
            if match := _FROM_UNITS.fullmatch(operands):
                target = match[1]
                value = self._unit(table, int(match[2]), fields)
                if match[3]:
                    value |= self._unit(table, int(match[3]), fields) << _UNIT_BITS
            else:
                target, *sources = operands.split(", ")
                values = [fields[self._field(source, table.stage)] for source in sources]
                value = {
                    "set": lambda only: only,
                    "xor": lambda one, other: one ^ other,
                    "add": lambda one, other: one + other & MASK,
                }[operation](*values)
            written[self._field(target, table.stage + 1)] = value
        return written

    def _unit(self, table: Table, unit: int, fields: Mapping[str, int]) -> int:
        """Return what a distribution unit takes of its hash group."""
        group = table.units[unit]
        value = table.constants[group]
        for member in table.members[group]:
            for first, last, expression in table.bits[member]:
                width = (1 << last - first + 1) - 1
                value ^= (_expression(expression, fields) & width) << first
        return value >> _UNIT_BITS * (unit % _UNITS_OF_A_GROUP) & (1 << _UNIT_BITS) - 1


def _expression(expression: str, fields: Mapping[str, int]) -> int:
    if match := _CRC.match(expression):
        koopman, start, final, bits = (int(number, 0) for number in match.groups()[:4])
        assert start == final == MASK, "what they add is in the group's seed"
        message = 0
        for part in match[5].split(", "):
            offset, _, operand = part.partition(": ")
            message |= _slice(operand, fields) << int(offset)
        return crc_rev(message, bits, koopman) >> int(match[6])
    value = 0
    for operand in expression.split(" ^ "):
        value ^= _slice(operand, fields) if operand != "0" else 0
    return value


def _slice(operand: str, fields: Mapping[str, int]) -> int:
    match = re.fullmatch(_SLICE, operand)
    assert match, operand
    value = fields[match[1]]
    if match[2] is not None:
        value = _bits(value, int(match[2]), int(match[3]))
    return value if match[4] is None else _bits(value, int(match[4]), int(match[5] or match[4]))


def _bits(value: int, low: int, high: int) -> int:
    return value >> low & (1 << high - low + 1) - 1
