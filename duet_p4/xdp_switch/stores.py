"""Tables in the memory of a running program: one store per lookup strategy.

A store holds entries of a table as (key, priority) -> bytes of the C entry, and makes every change with a
single write that packets see: a new entry is written to a free place before anything points to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import MAX_MASKS, Strategy, TableLayout
from duet_p4.xdp_switch.dataplane import FieldValue, MatchValues, TableFullError

Key = tuple[MatchValues, int]
"""Match values and priority."""


class Pool:
    """Free numbers 1 to `count` - 1, the one that rested longest first."""

    def __init__(self, count: int) -> None:
        self._free = deque(range(1, count))

    def take(self) -> int:
        """Return a free number; IndexError where there is none."""
        return self._free.popleft()

    def give_back(self, number: int) -> None:
        """Make a number free again."""
        self._free.append(number)


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
    """Entries of one table."""

    @abstractmethod
    def insert(self, key: Key, data: bytes) -> None:
        """Add an entry; TableFullError where the strategy has a limit of its own."""

    @abstractmethod
    def modify(self, key: Key, data: bytes) -> None:
        """Replace an entry's bytes."""

    @abstractmethod
    def delete(self, key: Key) -> None:
        """Remove an entry."""

    def words(self, changes: Mapping[Key, bytes | None]) -> dict[int, int]:
        """Return what words of the program's memory become when these entries change, without changing them.

        None takes an entry away. By offset; raises ValueError where a change takes more than to write words.
        """
        raise ValueError("entries of this table are more than words")


class Places:
    """The array of entries that `index` and `trie` tables refer to by position."""

    def __init__(self, memory: memoryview, capacity: int) -> None:
        self._memory = memory
        self._size = len(memory) // capacity
        self._free = Pool(capacity)

    def add(self, data: bytes) -> int:
        """Write an entry to a free position and return the position."""
        position = self._free.take()
        self._memory[position * self._size : (position + 1) * self._size] = data
        return position

    def remove(self, position: int) -> None:
        """Make a position free again."""
        self._free.give_back(position)


class Words:
    """Entries that slots hold themselves, each packed into a word, in place of `Places`."""

    def add(self, data: bytes) -> int:
        """Return the word."""
        return int.from_bytes(data, "little")

    def remove(self, position: int) -> None:
        """Do nothing: it is gone once no slot holds it."""


def _places(layout: TableLayout, loaded: bpf.Object) -> Places | Words:
    if layout.packing is not None:
        return Words()
    return Places(loaded.memory(f"entries_{layout.symbol}"), layout.capacity)


class IndexStore(Store):
    """One exact field, an array by its value."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._packed = layout.packing is not None
        self._start = loaded.place(f"index_{layout.symbol}")[0]
        self._index = loaded.memory(f"index_{layout.symbol}").cast("Q" if layout.packing else "I")
        self._places = _places(layout, loaded)

    def insert(self, key: Key, data: bytes) -> None:
        """Add an entry."""
        self._index[_exact(key[0][0])] = self._places.add(data)

    def modify(self, key: Key, data: bytes) -> None:
        """Replace an entry's bytes."""
        at = _exact(key[0][0])
        old = self._index[at]
        self._index[at] = self._places.add(data)
        self._places.remove(old)

    def delete(self, key: Key) -> None:
        """Remove an entry."""
        at = _exact(key[0][0])
        old = self._index[at]
        self._index[at] = 0
        self._places.remove(old)

    def words(self, changes: Mapping[Key, bytes | None]) -> dict[int, int]:
        """Return what words change."""
        if not self._packed:
            return super().words(changes)
        return {
            self._start + 8 * _exact(key[0][0]): int.from_bytes(data or b"", "little")
            for key, data in changes.items()
        }


class HashStore(Store):
    """Exact fields, a BPF hash map."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._map = loaded.map(f"table_{layout.symbol}")
        self._key = layout.key
        self._changes = Changes(layout.symbol, loaded)

    def insert(self, key: Key, data: bytes) -> None:
        """Add an entry."""
        with self._changes:
            self._map.update(self._pack(key), data, bpf.NOEXIST)

    def modify(self, key: Key, data: bytes) -> None:
        """Replace an entry's bytes."""
        with self._changes:
            self._map.update(self._pack(key), data, bpf.EXIST)

    def delete(self, key: Key) -> None:
        """Remove an entry."""
        with self._changes:
            self._map.delete(self._pack(key))

    def _pack(self, key: Key) -> bytes:
        return self._key.pack([_exact(value) for value in key[0]])


class TrieStore(Store):
    """One LPM field: a root indexed by 16 bits, behind it nodes indexed by 4.

    A slot holds the position (or the word, where entries are packed) of the longest prefix that covers it
    among those that end in its node, and the node behind. `_ends` knows the prefixes that end in each node,
    `_lengths` which one a slot shows.
    """

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._places = _places(layout, loaded)
        self._packed = layout.packing is not None
        self._starts = {0: loaded.place(f"root_{layout.symbol}")[0]}
        if layout.trie_levels:
            self._starts[1] = loaded.place(f"nodes_{layout.symbol}")[0]
        self._root_bits = layout.trie_root_bits
        self._bits = self._root_bits + 4 * layout.trie_levels
        self._fill = self._bits - layout.width
        root = np.frombuffer(loaded.memory(f"root_{layout.symbol}"), dtype=np.uint64)
        self._slots = {0: root}
        self._lengths: dict[int, np.ndarray[tuple[int], np.dtype[np.uint8]]] = {
            0: np.zeros(len(root), dtype=np.uint8)
        }
        self._ends: dict[int, dict[tuple[int, int], int]] = {0: {}}
        self._children: Counter[int] = Counter()
        self._nodes = None
        if layout.trie_levels:
            memory = loaded.memory(f"nodes_{layout.symbol}")
            self._nodes = np.frombuffer(memory, dtype=np.uint64).reshape(-1, 16)
        self._free = Pool(layout.trie_nodes)

    def insert(self, key: Key, data: bytes) -> None:
        """Add a prefix."""
        value, length = self._prefix(key)
        node, start = self._descend(value, length)[-1]
        position = self._places.add(data)
        self._ends[node][value, length] = position
        self._show(node, start, value, length, position, lambda shown: shown <= length + 1)

    def modify(self, key: Key, data: bytes) -> None:
        """Replace a prefix's bytes."""
        value, length = self._prefix(key)
        node, start = self._descend(value, length)[-1]
        old = self._ends[node][value, length]
        position = self._places.add(data)
        self._ends[node][value, length] = position
        self._show(node, start, value, length, position, lambda shown: shown == length + 1)
        self._places.remove(old)

    def delete(self, key: Key) -> None:
        """Remove a prefix, and nodes that no prefix needs any more."""
        value, length = self._prefix(key)
        path = self._descend(value, length)
        node, start = path[-1]
        ends = self._ends[node]
        old = ends.pop((value, length))
        shorter, below = next(
            (
                (position, covering)
                for covering in range(length - 1, start - (start == 0), -1)
                if (position := ends.get((value >> self._bits - covering << self._bits - covering, covering)))
            ),
            (0, -1),
        )
        self._show(node, start, value, length, shorter, lambda shown: shown == length + 1, below)
        self._places.remove(old)
        self._prune(path, value)

    def words(self, changes: Mapping[Key, bytes | None]) -> dict[int, int]:
        """Return what words change."""
        if not self._packed:
            return super().words(changes)
        wanted = {
            self._prefix(key): None if data is None else int.from_bytes(data, "little")
            for key, data in changes.items()
        }
        found: dict[int, int] = {}
        for value, length in wanted:
            path = self._path(value, length)
            if path is None or (value, length) not in self._ends[path[0]]:
                raise ValueError("a prefix of a detour is not in the table")
            node, start = path
            span = self._span(node, start, value, length)
            slots, lengths = self._slots[node][span], self._lengths[node][span]
            word = self._shown(node, start, value, length, wanted)
            base = self._starts[0] if node == 0 else self._starts[1] + 128 * node
            for at in np.flatnonzero(lengths == length + 1):
                place = base + 8 * (span.start + int(at))
                found[place] = int(slots[at]) & 0xFFFFFFFF00000000 | word
        return found

    def _shown(
        self, node: int, start: int, value: int, length: int, wanted: Mapping[tuple[int, int], int | None]
    ) -> int:
        """Return the word that slots show which show a prefix now, once it and others have changed."""
        for covering in range(length, start - (start == 0), -1):
            prefix = (value >> self._bits - covering << self._bits - covering, covering)
            word = wanted[prefix] if prefix in wanted else self._ends[node].get(prefix)
            if word is not None:
                return word
        return 0

    def _path(self, value: int, length: int) -> tuple[int, int] | None:
        """Return (node, first bit it decides) where a prefix ends, None where there is no such node."""
        node, start, end = 0, 0, self._root_bits
        while length > end:
            slot = value >> self._bits - end & (1 << end - start) - 1
            node = int(self._slots[node][slot]) >> 32
            if not node:
                return None
            start, end = end, end + 4
        return node, start

    def _prefix(self, key: Key) -> tuple[int, int]:
        field = key[0][0]
        if not isinstance(field, tuple):
            raise ValueError(f"an LPM key is (value, prefix length), not {field!r}")
        return field[0] << self._fill, field[1]

    def _span(self, node: int, start: int, value: int, length: int) -> slice:
        """Return the slots of a node that a prefix covers."""
        end = self._root_bits if node == 0 else start + 4
        size = end - start
        first = value >> self._bits - end & (1 << size) - 1
        return slice(first, first + (1 << end - length))

    def _show(
        self,
        node: int,
        start: int,
        value: int,
        length: int,
        position: int,
        takes_over: Callable[[np.ndarray], np.ndarray],
        shown_length: int | None = None,
    ) -> None:
        """Let the covered slots that qualify show a prefix at `position`."""
        span = self._span(node, start, value, length)
        slots, lengths = self._slots[node][span], self._lengths[node][span]
        chosen = takes_over(lengths)
        slots[chosen] = slots[chosen] & np.uint64(0xFFFFFFFF00000000) | np.uint64(position)
        lengths[chosen] = (length if shown_length is None else shown_length) + 1

    def _descend(self, value: int, length: int) -> list[tuple[int, int]]:
        """Return (node, first bit it decides) from the root to where a prefix ends, making nodes."""
        path = [(0, 0)]
        node, end = 0, self._root_bits
        while length > end:
            start = 0 if node == 0 else end - 4
            slot = value >> self._bits - end & (1 << end - start) - 1
            child = int(self._slots[node][slot]) >> 32
            if not child:
                child = self._new_node()
                self._slots[node][slot] |= np.uint64(child << 32)
                self._children[node] += 1
            path.append((child, end))
            node, end = child, end + 4
        return path

    def _new_node(self) -> int:
        assert self._nodes is not None
        node = self._free.take()
        self._nodes[node] = 0
        self._slots[node] = self._nodes[node]
        self._lengths[node] = np.zeros(16, dtype=np.uint8)
        self._ends[node] = {}
        return node

    def _prune(self, path: Sequence[tuple[int, int]], value: int) -> None:
        for (parent, start), (node, end) in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            if self._ends[node] or self._children[node]:
                return
            slot = value >> self._bits - end & (1 << end - start) - 1
            self._slots[parent][slot] &= np.uint64(0xFFFFFFFF)
            self._children[parent] -= 1
            for known in (self._slots, self._lengths, self._ends):
                del known[node]
            self._free.give_back(node)


class MaskedStore(Store):
    """Any key: masked copies of it are looked up in one hash map, under the number of the mask."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._layout = layout
        self._map = loaded.map(f"table_{layout.symbol}")
        self._changes = Changes(layout.symbol, loaded)
        self._masks = loaded.memory(f"masks_{layout.symbol}")
        self._active = loaded.memory(f"at_masks_{layout.symbol}").cast("I")
        self._numbers: dict[tuple[int, ...], int] = {}
        self._last_number = 0
        self._priorities: dict[tuple[int, ...], Counter[int]] = {}
        self._held: dict[bytes, dict[Key, tuple[int, bytes]]] = {}
        self._room = layout.map_entries

    def insert(self, key: Key, data: bytes) -> None:
        """Add an entry. Raises TableFullError for too many masks, or ranges that take too many places."""
        parts = list(self._expand(key[0]))
        masks = {mask for _, mask in parts}
        name = self._layout.table.name
        if len(self._priorities.keys() | masks) > MAX_MASKS:
            raise TableFullError(
                f"table {name} holds entries of {MAX_MASKS} different masks, no other mask fits"
            )
        numbers = {mask: self._number(mask) for mask in masks}
        packed = [(self._pack(value, numbers[mask]), mask) for value, mask in parts]
        if sum(1 for place, _ in packed if place not in self._held) > self._room:
            raise TableFullError(f"table {name} has no room for the {len(parts)} parts of the ranges")
        rank = self._rank(key)
        for place, mask in packed:
            holders = self._held.setdefault(place, {})
            self._room -= not holders
            holders[key] = (rank, data)
            self._publish(place)
            self._priorities.setdefault(mask, Counter())[rank] += 1
        self._publish_masks()

    def modify(self, key: Key, data: bytes) -> None:
        """Replace an entry's bytes."""
        for value, mask in self._expand(key[0]):
            place = self._pack(value, self._numbers[mask])
            self._held[place][key] = (self._rank(key), data)
            self._publish(place)

    def delete(self, key: Key) -> None:
        """Remove an entry."""
        rank = self._rank(key)
        for value, mask in self._expand(key[0]):
            place = self._pack(value, self._numbers[mask])
            holders = self._held[place]
            del holders[key]
            if holders:
                self._publish(place)
            else:
                with self._changes:
                    self._map.delete(place)
                del self._held[place]
                self._room += 1
            counts = self._priorities[mask]
            counts[rank] -= 1
            if not counts[rank]:
                del counts[rank]
            if not counts:
                del self._priorities[mask], self._numbers[mask]
        self._publish_masks()

    def _rank(self, key: Key) -> int:
        """Return what decides among matches: the prefix length in an LPM table, else the priority."""
        if self._layout.table.kind == "lpm":
            return next((v[1] for v in key[0] if isinstance(v, tuple)), 0) + 1
        return key[1]

    def _number(self, mask: tuple[int, ...]) -> int:
        if mask not in self._numbers:
            self._last_number += 1
            self._numbers[mask] = self._last_number
        return self._numbers[mask]

    def _pack(self, value: Sequence[int], number: int) -> bytes:
        return self._layout.key.pack([*value, number])

    def _expand(self, values: MatchValues) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield (value, mask) tuples that together match what the key matches."""
        choices = [
            list(_value_masks(value, key.kind, key.width))
            for value, key in zip(values, self._layout.table.keys, strict=True)
        ]
        for parts in product(*choices):
            yield tuple(v for v, _ in parts), tuple(m for _, m in parts)

    def _publish(self, place: bytes) -> None:
        rank, data = max(self._held[place].values(), key=lambda held: held[0])
        with self._changes:
            self._map.update(place, data + rank.to_bytes(8, "little"))

    def _publish_masks(self) -> None:
        ranked = sorted(((max(counts), mask) for mask, counts in self._priorities.items()), reverse=True)
        blank = bytes(self._layout.key.size)
        best = b"".join(rank.to_bytes(8, "little") for rank, _ in ranked)
        masks = b"".join(self._pack(mask, self._numbers[mask]) for _, mask in ranked)
        data = best.ljust(8 * MAX_MASKS, b"\0") + masks.ljust(MAX_MASKS * len(blank), b"\0")
        data += len(ranked).to_bytes(4, "little")
        size = len(self._masks) // 2
        other = 1 - self._active[0]
        with self._changes:
            self._masks[other * size : other * size + len(data)] = data
            self._active[0] = other


def make_store(layout: TableLayout, loaded: bpf.Object) -> Store | None:
    """Return the store of a table, None for a table without a key."""
    kinds: dict[Strategy, Callable[[TableLayout, bpf.Object], Store]] = {
        Strategy.INDEX: IndexStore,
        Strategy.HASH: HashStore,
        Strategy.TRIE: TrieStore,
        Strategy.MASKED: MaskedStore,
    }
    kind = kinds.get(layout.strategy)
    return kind(layout, loaded) if kind is not None else None


def range_masks(low: int, high: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (value, mask) pairs that together match low to high, both included."""
    full = (1 << width) - 1
    while low <= high:
        size = low & -low or 1 << width
        while size > high - low + 1:
            size >>= 1
        yield low, full & ~(size - 1)
        low += size


def _value_masks(value: FieldValue, kind: str, width: int) -> Iterator[tuple[int, int]]:
    full = (1 << width) - 1
    if value is None:
        yield 0, 0
    elif isinstance(value, int):
        yield value, full
    elif kind == "range":
        yield from range_masks(value[0], value[1], width)
    elif kind == "lpm":
        yield value[0], full ^ full >> value[1]
    else:
        yield value


def _exact(value: FieldValue) -> int:
    if not isinstance(value, int):
        raise ValueError(f"an exact field is a number, not {value!r}")
    return value
