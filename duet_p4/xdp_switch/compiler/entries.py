"""How tables and action profiles lie in memory: what the C of a program and the stores in Python share.

The package `lookup` has how a table is looked up: one module per strategy.

An entry holds the number of its action within the table, its handle (which is also the index of its direct
counter), and the action's arguments; in a table with an action profile, the member or group it refers to.
Where that fits the slot that `index`, `hash` and `trie` find, the slot holds the entry itself, packed into a
word (`Packing`): packets see it written at once. Other entries of `index` and `trie` lie in an array, and
slots hold their places, each of which rests a while before it is used again.

Entries of BPF hash maps do not rest: the kernel uses the memory of one that is gone for the next one. So a
table with such a map has a number, `changes_`, which goes up before and after each change. A packet copies
what it finds, and is dropped where the number has gone up by two since it began to look: it was held up so
long that this may be something else by now.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from operator import lshift, or_

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, indent
from duet_p4.xdp_switch.compiler.names import Names
from duet_p4.xdp_switch.compiler.structs import Struct

MAX_MASKS = 64
"""Distinct masks (combinations of prefix lengths, wildcards) that a `masked` table can hold at a time."""

MAX_PREFIXES = (1 << 20) - 1
"""Entries of a `trie` table: the verifier takes offsets below 2^29, and an entry may need four nodes."""

GROUP_FLAG = 1 << 31
"""Set in the reference of an entry that points to a group rather than to a member."""

SPARE_HANDLES = 64
"""Handles beyond a table's size: a changed entry moves to a free one, the old one rests a while."""


DEFAULTS = 64
"""Copies of a default action that can be changed: each change takes the next one."""


class Strategy(StrEnum):
    """How a table is looked up."""

    NONE = "none"
    INDEX = "index"
    HASH = "hash"
    TRIE = "trie"
    MASKED = "masked"


class ActionSet:
    """The actions a table or a profile may run, and the layout of an entry that runs one of them."""

    def __init__(
        self, program: ir.Program, names: Names, actions: Sequence[int], *, profile: bool = False
    ) -> None:
        self._names = names
        self.actions = [program.actions[number] for number in actions]
        self.numbers = {action.id: n for n, action in enumerate(self.actions)}
        self.by_name = {action.name: n for n, action in enumerate(self.actions)}
        self.arguments = [
            Struct([(self._parameter(a, p), p.width) for p in a.parameters], 8) for a in self.actions
        ]
        self.size = 8 + max(
            (s.size for s, a in zip(self.arguments, self.actions, strict=True) if a.parameters), default=0
        )
        self.profile = profile
        self._pack = [
            self._packer(action, layout) for action, layout in zip(self.actions, self.arguments, strict=True)
        ]

    def _packer(self, action: ir.Action, layout: Struct) -> Callable[..., bytes]:
        used = 8 + layout.size if action.parameters else 8
        return struct.Struct(f"=II{layout.format if action.parameters else ''}{self.size - used}x").pack

    def _parameter(self, action: ir.Action, parameter: ir.Parameter) -> str:
        if parameter.width > MAX_ARITHMETIC:
            what = f"parameter {parameter.name} of {parameter.width} bits, more than {MAX_ARITHMETIC},"
            raise ir.unsupported(what, action.source)
        return f"p_{self._names(f'parameter of {action.id}', parameter.name)}"

    def _member(self, action: ir.Action) -> str:
        return f"of_{self._names('action', action.name)}_{action.id}"

    def pack(self, number: int, handle: int, arguments: Sequence[int]) -> bytes:
        """Return the bytes of an entry that runs action `number`."""
        return self.pack_all(number, (handle,), [(argument,) for argument in arguments])

    def pack_all(self, number: int, handles: Sequence[int], arguments: Sequence[Sequence[int]]) -> bytes:
        """Return the bytes of entries that run action `number`, one after another; a column per parameter."""
        parts = self.arguments[number].parts(arguments) if arguments else ()
        return b"".join(map(self._pack[number], repeat(number), handles, *parts))

    def declaration(self, name: str) -> Iterator[str]:
        """Yield the C declaration of the entry."""
        yield f"struct {name} {{"
        yield "    __u32 action;"
        yield "    __u32 handle;"
        if any(a.parameters for a in self.actions):
            yield "    union {"
            for action, layout in zip(self.actions, self.arguments, strict=True):
                if action.parameters:
                    yield "        struct {"
                    yield from indent(layout.declarations(), 3)
                    yield f"        }} {self._member(action)};"
            yield "    };"
        yield "};"

    def call(self, actions: Actions, number: int, entry: str) -> str:
        """Return the C call of an action with the arguments of an entry."""
        action, layout = self.actions[number], self.arguments[number]
        prefix = f"{entry}->{self._member(action)}."
        arguments = "".join(f", {layout.value(n, prefix)}" for n in range(len(action.parameters)))
        return f"{actions.name(action)}(s{arguments})"


@dataclass(frozen=True, slots=True)
class Packing:
    """An entry in one word: from its lowest bit on a 1, its action's number, its handle, the arguments."""

    actions: tuple[ir.Action, ...]
    number_bits: int
    handle_bits: int

    @property
    def bits(self) -> int:
        """The length of the longest entry."""
        longest = max(sum(p.width for p in action.parameters) for action in self.actions)
        return self._first + longest

    @property
    def _first(self) -> int:
        return 1 + self.number_bits + self.handle_bits

    def pack(
        self, action: ir.Action, handles: Sequence[int], arguments: Sequence[Sequence[int]]
    ) -> Iterable[int]:
        """Return the words of entries that run an action; a column of arguments per parameter."""
        number = next(n for n, known in enumerate(self.actions) if known.id == action.id)
        words: Iterable[int] = repeat(1 | number << 1, len(handles))
        if self.handle_bits:
            words = map(or_, words, map(lshift, handles, repeat(1 + self.number_bits)))
        at = self._first
        for parameter, column in zip(action.parameters, arguments, strict=True):
            words = map(or_, words, map(lshift, column, repeat(at)))
            at += parameter.width
        return words

    def number(self, word: str) -> str:
        """Return C for the number of the action, among `actions`."""
        return _bits_of(word, 1, self.number_bits)

    def handle(self, word: str) -> str:
        """Return C for the handle."""
        return _bits_of(word, 1 + self.number_bits, self.handle_bits)

    def arguments(self, action: ir.Action, word: str) -> Iterator[tuple[str, str]]:
        """Yield the name of each parameter of an action, and C for its argument."""
        at = self._first
        for parameter in action.parameters:
            yield parameter.name, _bits_of(word, at, parameter.width)
            at += parameter.width

    def call(self, actions: Actions, action: ir.Action, word: str) -> str:
        """Return the C call of an action with the arguments of an entry."""
        arguments = "".join(f", {code}" for _, code in self.arguments(action, word))
        return f"{actions.name(action)}(s{arguments})"


def _bits_of(word: str, first: int, width: int) -> str:
    shifted = c.binary(">>", c.place(word, 64), c.number(first))
    return c.masked(shifted, width).text if width else "0"


@dataclass(slots=True)
class TableLayout:
    """A table as the data plane's Python and C share it; `inserted` are the actions that entries may run."""

    table: ir.Table
    strategy: Strategy
    entry: ActionSet
    key: Struct
    symbol: str
    counter: str | None
    meter: str | None
    inserted: tuple[ir.Action, ...]
    packing: Packing | None = None

    def pack(self, action: ir.Action, handles: Sequence[int], arguments: Sequence[Sequence[int]]) -> bytes:
        """Return the bytes of entries that run an action as the table holds them, one after another.

        Each column of `arguments` has all values of one parameter.
        """
        if self.packing is not None:
            return array("Q", self.packing.pack(action, handles, arguments)).tobytes()
        return self.entry.pack_all(self.entry.numbers[action.id], handles, arguments)

    @property
    def guarded(self) -> bool:
        """Whether packets look if the table was changed under them: entries lie in a BPF hash map."""
        return self.strategy in (Strategy.HASH, Strategy.MASKED)

    @property
    def copied(self) -> bool:
        """Whether packets copy the entry that they find."""
        return self.guarded and self.packing is None

    @property
    def capacity(self) -> int:
        """Handles, with 0 for none, the table's entries, and the spare ones."""
        return self.table.size + 1 + SPARE_HANDLES

    @property
    def width(self) -> int:
        """The width of the one key field of an `index` or `trie` table."""
        return self.table.keys[0].width

    @property
    def trie_levels(self) -> int:
        """How many nibbles of the key follow the root of a trie."""
        return max(0, (self.width - 16 + 3) // 4)

    @property
    def trie_root_bits(self) -> int:
        """How many bits of the key index the root of a trie."""
        return min(self.width, 16)

    @property
    def trie_nodes(self) -> int:
        """Nodes of 16 slots behind the root, enough for any entries; node 0 is unused."""
        return self.table.size * self.trie_levels + 1

    @property
    def map_entries(self) -> int:
        """Entries of the BPF hash map; ranges may take several."""
        if any(k.kind == "range" for k in self.table.keys):
            return self.table.size * 8 + 64
        return self.table.size


def choose(table: ir.Table) -> Strategy:
    """Return how a table is looked up."""
    kinds = [key.kind for key in table.keys]
    if not kinds:
        return Strategy.NONE
    for key in table.keys:
        if key.kind not in ("exact", "lpm", "ternary", "range", "optional"):
            raise ir.unsupported(
                f"match kind {key.kind} of key {key.name} of table {table.name}", table.source
            )
        if key.width > 128:
            raise ir.unsupported(f"key {key.name} of {key.width} bits, more than 128,", table.source)
    if all(kind == "exact" for kind in kinds):
        return Strategy.INDEX if len(kinds) == 1 and table.keys[0].width <= 16 else Strategy.HASH
    if kinds == ["lpm"] and table.keys[0].width <= 32 and table.kind == "lpm":
        if table.size > MAX_PREFIXES:
            what = f"LPM table {table.name} of {table.size} entries, more than {MAX_PREFIXES},"
            raise ir.unsupported(what, table.source)
        return Strategy.TRIE
    return Strategy.MASKED


def layout_of(
    program: ir.Program, names: Names, table: ir.Table, default_only: Collection[str] = ()
) -> TableLayout:
    """Return how a table is laid out; no entry runs an action whose name is in `default_only`."""
    strategy = choose(table)
    stated = {entry.action_id for entry in table.entries}
    inserted = tuple(
        action
        for number in table.actions
        if (action := program.actions[number]).name not in default_only or number in stated
    )
    fields = [(f"k{n}_{names(f'key {n}', k.name)}", k.width) for n, k in enumerate(table.keys)]
    if strategy is Strategy.MASKED:
        fields.append(("mask", 32))
    layout = TableLayout(
        table,
        strategy,
        ActionSet(program, names, table.actions, profile=table.profile is not None),
        Struct(fields, 4),
        names("table", table.name),
        f"direct_{names('table', table.name)}" if table.with_counter else None,
        f"meter_{names('meter', table.meter)}" if table.meter is not None else None,
        inserted,
    )
    room = {Strategy.INDEX: 64, Strategy.HASH: 64, Strategy.TRIE: 32}.get(strategy, 0)
    if inserted and table.profile is None and table.default_const:
        counted = bool(layout.counter or layout.meter or table.ages)
        packing = Packing(
            inserted, (len(inserted) - 1).bit_length(), layout.capacity.bit_length() if counted else 0
        )
        if packing.bits <= room:
            layout.packing = packing
    return layout
