"""One LPM field of at most 32 bits: a root indexed by 16 bits, behind it nodes indexed by 4.

Both `root_T` and `nodes_T` consist of 64-bit slots: in the upper half the number of the node behind (0 is
none; node n has the slots 16 n to 16 n + 15), in the lower one the longest prefix that covers the slot among
those that end in its node: the entry itself where it fits 32 bits (`entries.Packing`), or else its place in
`entries_T`; 0 is none. A packet keeps the last that it met on its way down.

A slot is written at once, both halves together. A new node is filled before a slot leads to it; a node or a
place that is left rests at the end of the queue of free ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import c
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.lookup.base import Lookup, Numbers, Store, places_of
from duet_p4.xdp_switch.dataplane import EntryKey


class TrieLookup(Lookup):
    """The lookup in C."""

    def function(self) -> Iterator[str]:
        """Yield the C of the table's memory and of its lookup."""
        levels, root = self._table.trie_levels, self._table.trie_root_bits
        fill = root + 4 * levels - self._table.width
        yield from self.entries()
        yield "/* slots: node behind << 32 | entry of the longest prefix that ends here, or its place */"
        yield f"__u64 root_{self._symbol}[{1 << root}];"
        if levels:
            yield f"__u64 nodes_{self._symbol}[{16 * self._table.trie_nodes}];"
        yield from self.signature()
        yield f"    __u64 key = {c.binary('<<', self.key_value(0), c.number(fill), 64).text};"
        yield f"    __u64 slot = root_{self._symbol}[key >> {4 * levels} & {(1 << root) - 1:#x}];"
        yield "    __u32 found = (__u32)slot;"
        if levels:
            yield "    __u64 node;"
        for level in reversed(range(levels)):
            yield "    node = slot >> 32;"
            yield "    HIDE(node);"
            yield f"    if (node == 0 || node >= {self._table.trie_nodes})"
            yield "        goto found;"
            yield "    node <<= 4;"
            yield "    HIDE(node);"
            yield f"    slot = nodes_{self._symbol}[node + (key >> {4 * level} & 15)];"
            yield "    found = (__u32)slot ? (__u32)slot : found;"
        if levels:
            yield "found:;"
        yield from self.found("found")


class TrieStore(Store):
    """Prefixes: `_ends` knows those that end in each node, `_lengths` which one a slot shows."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._places = places_of(layout, loaded)
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
        self._free = Numbers(layout.trie_nodes)

    def insert(self, key: EntryKey, data: bytes) -> None:
        """Add a prefix."""
        value, length = self._prefix(key)
        node, start = self._descend(value, length)[-1]
        position = self._places.add(data)
        self._ends[node][value, length] = position
        self._show(node, start, value, length, position, lambda shown: shown <= length + 1)

    def modify(self, key: EntryKey, data: bytes) -> None:
        """Replace a prefix's bytes."""
        value, length = self._prefix(key)
        node, start = self._descend(value, length)[-1]
        old = self._ends[node][value, length]
        position = self._places.add(data)
        self._ends[node][value, length] = position
        self._show(node, start, value, length, position, lambda shown: shown == length + 1)
        self._places.remove(old)

    def delete(self, key: EntryKey) -> None:
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

    def words(self, changes: Mapping[EntryKey, bytes | None]) -> dict[int, int]:
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

    def _prefix(self, key: EntryKey) -> tuple[int, int]:
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
