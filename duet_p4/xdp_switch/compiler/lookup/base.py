"""What lookups have in common: C that finds an entry, and a store in Python that writes where it looks.

Each module here is one strategy, and begins with the memory that its C and its store share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import c
from duet_p4.xdp_switch.compiler.c import C
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.expressions import Expressions, cut
from duet_p4.xdp_switch.compiler.layout import Layout
from duet_p4.xdp_switch.dataplane import EntryKey, FieldValue

Positions: TypeAlias = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]
"""What slots hold of entries: their places in an array, or the entries themselves as words."""


class Lookup(ABC):
    """Compiles the lookup of one table."""

    def __init__(self, layout: Layout, table: TableLayout) -> None:
        self._layout = layout
        self._table = table
        self._symbol = table.symbol

    @abstractmethod
    def function(self) -> Iterator[str]:
        """Yield the maps and arrays of the table, and the C function that finds its entry, or none."""

    def signature(self) -> Iterator[str]:
        """Yield the head of the C function."""
        if self._table.copied:
            yield "static __always_inline bool"
            yield f"lookup_{self._symbol}(struct scratch *s, struct entry_{self._symbol} *entry)"
        else:
            kind = "__u64 " if self._table.packing else f"struct entry_{self._symbol} *"
            yield f"static __always_inline {kind}lookup_{self._symbol}(struct scratch *s)"
        yield "{"

    def entries(self) -> Iterator[str]:
        """Yield the array of entries that slots refer to, where they do not hold them."""
        if self._table.packing is None:
            yield f"struct entry_{self._symbol} entries_{self._symbol}[{self._table.capacity}];"

    def found(self, slot: str) -> Iterator[str]:
        """Yield C that returns the entry that a slot holds, or the place of."""
        if self._table.packing is not None:
            yield f"    return {slot};"
            yield "}"
            return
        yield f"    INDEX(at, {slot});"
        yield f"    if (at == 0 || at >= {self._table.capacity})"
        yield "        return 0;"
        yield f"    return &entries_{self._symbol}[at];"
        yield "}"

    def key_value(self, number: int) -> C:
        """Return C for a field of the key, as the packet has it."""
        key = self._table.table.keys[number]
        code = cut(Expressions(self._layout, self._table.table.source).value(key.field), key.width)
        return code if key.mask is None else c.binary("&", code, c.number(key.mask))

    def fill_key(self, target: str) -> Iterator[str]:
        """Yield C that sets the members of a `struct key_T`."""
        for number in range(len(self._table.table.keys)):
            code = self.key_value(number)
            for member in self._table.key.members:
                if member.source == number:
                    part = c.binary(">>", c.cast(code, 128), c.number(member.shift)) if member.shift else code
                    yield f"    {target}.{member.name} = {part.text};"


class Numbers:
    """Free numbers 1 to `count` - 1, the one that rested longest first."""

    def __init__(self, count: int) -> None:
        self._free = deque(range(1, count))

    def take(self, count: int) -> list[int]:
        """Return so many free numbers; IndexError, and takes none, where there are fewer."""
        if count > len(self._free):
            raise IndexError(f"{count} numbers wanted, {len(self._free)} are free")
        return [self._free.popleft() for _ in range(count)]

    def give_back(self, numbers: Iterable[int]) -> None:
        """Make numbers free again."""
        self._free.extend(numbers)


class Changes:
    """The number of changes of a table, by which a packet knows that it was held up for too long.

    `with` it, a change is made.
    """

    def __init__(self, symbol: str, loaded: bpf.Object) -> None:
        self._number = loaded.memory(f"changes_{symbol}").cast("I")

    def __enter__(self) -> None:
        self._number[0] = self._number[0] + 1 & 0xFFFFFFFF

    def __exit__(self, *_: object) -> None:
        self._number[0] = self._number[0] + 1 & 0xFFFFFFFF


class Store(ABC):
    """Entries of one table. Each method takes some keys, all different; `data` are as many entries' bytes."""

    @abstractmethod
    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add entries; NoRoomError, and adds none, where the strategy has a limit of its own."""

    @abstractmethod
    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace entries' bytes."""

    @abstractmethod
    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""

    def words(self, changes: Mapping[EntryKey, bytes | None]) -> dict[int, int]:
        """Return what words of the program's memory become when these entries change, without changing them.

        None takes an entry away. By offset; raises ValueError where a change takes more than to write words.
        """
        raise ValueError("entries of this table are more than words")


class Places:
    """The array of entries that `index` and `trie` tables refer to by position."""

    def __init__(self, memory: memoryview, capacity: int) -> None:
        self._memory = np.frombuffer(memory, dtype=np.uint8).reshape(capacity, -1)
        self._free = Numbers(capacity)

    def add(self, data: bytes) -> Positions:
        """Write entries to free positions and return those; IndexError where there are too few."""
        entries = np.frombuffer(data, dtype=np.uint8).reshape(-1, self._memory.shape[1])
        positions = self._free.take(len(entries))
        self._memory[positions] = entries
        return np.array(positions, dtype=np.uint64)

    def remove(self, positions: Positions) -> None:
        """Make positions free again."""
        self._free.give_back(positions.tolist())


class Words:
    """Entries that slots hold themselves, each packed into a word, in place of `Places`."""

    def add(self, data: bytes) -> Positions:
        """Return the words."""
        return np.frombuffer(data, dtype=np.uint64)

    def remove(self, positions: Positions) -> None:
        """Do nothing: a word is gone once no slot holds it."""


def places_of(layout: TableLayout, loaded: bpf.Object) -> Places | Words:
    """Return where a table of positions holds its entries: in an array, or in the slots."""
    if layout.packing is not None:
        return Words()
    return Places(loaded.memory(f"entries_{layout.symbol}"), layout.capacity)


def exact(value: FieldValue) -> int:
    """Return the number that an exact field is; raises ValueError where it is none."""
    if not isinstance(value, int):
        raise ValueError(f"an exact field is a number, not {value!r}")
    return value
