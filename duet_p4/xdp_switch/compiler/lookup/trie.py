"""One LPM field of at most 32 bits: a root indexed by 16 bits, behind it nodes indexed by 4.

Both `root_T` and `nodes_T` consist of 64-bit slots: in the upper half the node behind, by its offset in bytes
(0 is none; node n has the slots 16 n to 16 n + 15), in the lower one the longest prefix that covers the slot
among those that end in its node: the entry itself where it fits 32 bits (`entries.Packing`), or else its
place in `entries_T`; 0 is none. A packet keeps the last that it met on its way down.

A slot is written at once, both halves together. A new node is filled before a slot leads to it; a node or a
place that is left rests at the end of the queue of free ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler import c
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.lookup.base import Lookup, Numbers, Positions, Store, places_of
from duet_p4.xdp_switch.dataplane import EntryKey

Array: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]
Matrix: TypeAlias = np.ndarray[Any, np.dtype[np.unsignedinteger]]
Chosen: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

_LEADS = 0xFFFFFFFF00000000
_SHOWS = 0xFFFFFFFF
"""The halves of a slot."""

_NODE_BYTES = 16 * 8
_NODE = 32 + 7
"""From where on the upper half of a slot is the number of a node."""


class TrieLookup(Lookup):
    """The lookup in C."""

    def function(self) -> Iterator[str]:
        """Yield the C of the table's memory and of its lookup."""
        levels, root = self._table.trie_levels, self._table.trie_root_bits
        fill = root + 4 * levels - self._table.width
        yield from self.entries()
        yield "/* slots: offset of the node behind << 32 | entry of the longest prefix here, or its place */"
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
            yield f"    if (node == 0 || node > {_NODE_BYTES * (self._table.trie_nodes - 1)})"
            yield "        goto found;"
            nibble = f"key >> {4 * level - 3}" if level else "key << 3"
            yield f"    slot = *(any64 *)((__u8 *)nodes_{self._symbol} + node + ({nibble} & 0x78));"
            yield "    found = (__u32)slot ? (__u32)slot : found;"
        if levels:
            yield "found:;"
        yield from self.found("found")


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of 2**`bits` slots each, and which prefixes end in them.

    `lengths` is the length of the prefix that a slot shows, plus 1; 0 is none. `ends` says of the prefix that
    decides the first r bits of its node as v, at 2**r + v, what slots that show it hold; 0 is none. So what
    covers a prefix there is found by halving. `held` is how many there are, `children` how many nodes behind.
    """

    bits: int
    slots: Matrix
    lengths: Matrix
    ends: Matrix
    held: Array
    children: Array

    @classmethod
    def of(cls, memory: memoryview, bits: int) -> _Nodes:
        """Return the nodes that lie in a variable of the program."""
        slots = np.frombuffer(memory, dtype=np.uint64).reshape(-1, 1 << bits)
        number = len(slots)
        return cls(
            bits,
            slots,
            np.zeros(slots.shape, dtype=np.uint8),
            np.zeros((number, 2 << bits), dtype=np.uint32),
            np.zeros(number, dtype=np.int64),
            np.zeros(number, dtype=np.int64),
        )


@dataclass(frozen=True, slots=True)
class _Hop:
    """Where the ways to some prefixes are at one level: nodes, and (but at its end) slots that lead on."""

    nodes: _Nodes
    start: int
    """How many bits of the key were decided before."""
    at: Array
    slots: Array


@dataclass(frozen=True, slots=True)
class _Group:
    """Prefixes of one length: which of those given they are, and their bits as numbers."""

    length: int
    rows: Array
    prefixes: Array

    @property
    def lengths(self) -> Array:
        """The length of each."""
        return np.full(len(self.rows), self.length, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Covered:
    """Slots that prefixes cover: of which one of a group, and what `lengths` of their nodes says of them."""

    rows: Array
    slots: Array
    lengths: Matrix

    def where(self, chosen: Chosen) -> _Covered:
        """Return some of them."""
        return _Covered(self.rows[chosen], self.slots[chosen], self.lengths[chosen])


class TrieStore(Store):
    """Prefixes: those of one length at a time, whose slots are apart from each other's."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._places = places_of(layout, loaded)
        self._packed = layout.packing is not None
        root, nodes = f"root_{layout.symbol}", f"nodes_{layout.symbol}"
        self._width = layout.width
        self._root = _Nodes.of(loaded.memory(root), layout.trie_root_bits)
        self._starts = {0: loaded.place(root)[0]}
        self._nodes = self._root
        if layout.trie_levels:
            self._nodes = _Nodes.of(loaded.memory(nodes), 4)
            self._starts[1] = loaded.place(nodes)[0]
        self._free = Numbers(layout.trie_nodes)

    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add prefixes."""
        positions = self._places.add(data)
        for group in self._groups(keys):
            end, own = self._way(group, make=True)[-1], positions[group.rows]
            end.nodes.ends[end.at, _place(end, group)] = own
            np.add.at(end.nodes.held, end.at, 1)
            covered = self._covered(end, group)
            self._show(end, covered.where(covered.lengths <= group.length + 1), own, group.lengths)

    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace prefixes' bytes."""
        positions, old = self._places.add(data), np.zeros(len(keys), dtype=np.uint64)
        for group in self._groups(keys):
            end, own = self._way(group)[-1], positions[group.rows]
            place = _place(end, group)
            old[group.rows] = end.nodes.ends[end.at, place]
            end.nodes.ends[end.at, place] = own
            self._show(end, self._shown(end, group), own, group.lengths)
        self._places.remove(old)

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove prefixes, and nodes that no prefix needs any more."""
        old = np.zeros(len(keys), dtype=np.uint64)
        for group in self._groups(keys):
            way = self._way(group)
            end = way[-1]
            place = _place(end, group)
            old[group.rows] = end.nodes.ends[end.at, place]
            end.nodes.ends[end.at, place] = 0
            np.subtract.at(end.nodes.held, end.at, 1)
            self._show(end, self._shown(end, group), *self._shorter(end, place, group.length))
            self._prune(way)
        self._places.remove(old)

    def words(self, changes: Mapping[EntryKey, bytes | None]) -> dict[int, int]:
        """Return what words change."""
        if not self._packed:
            return super().words(changes)
        wanted = {
            prefix: None if data is None else int.from_bytes(data, "little")
            for prefix, data in zip(self._prefixes(list(changes)), changes.values(), strict=True)
        }
        found: dict[int, int] = {}
        for group in self._groups(list(changes)):
            end = self._way(group)[-1]
            if not end.nodes.ends[end.at, _place(end, group)].all():
                raise ValueError("a prefix of a detour is not in the table")
            shown = self._shown(end, group)
            words = [
                _word(end, row, prefix, group.length, wanted)
                for row, prefix in enumerate(group.prefixes.tolist())
            ]
            base, size = (self._starts[0], 0) if end.start == 0 else (self._starts[1], 128)
            for row, slot in zip(shown.rows.tolist(), shown.slots.tolist(), strict=True):
                node = int(end.at[row])
                leads = int(end.nodes.slots[node, slot]) & _LEADS
                found[base + size * node + 8 * slot] = leads | words[row]
        return found

    def _prefixes(self, keys: Sequence[EntryKey]) -> list[tuple[int, int]]:
        """Return prefixes as their bits, a number, and how many those are."""
        fields = cast("list[tuple[int, int]]", [key[0][0] for key in keys])
        return [(value >> self._width - length, length) for value, length in fields]

    def _groups(self, keys: Sequence[EntryKey]) -> Iterator[_Group]:
        """Yield the prefixes of each length."""
        prefixes = np.array(self._prefixes(keys), dtype=np.int64).reshape(-1, 2)
        lengths = prefixes[:, 1]
        for length in sorted(set(lengths.tolist())):
            rows = np.flatnonzero(lengths == length)
            yield _Group(length, rows, prefixes[rows, 0])

    def _way(self, group: _Group, *, make: bool = False) -> list[_Hop]:
        """Return the hops from the root to where prefixes end: to node 0 where none is, nor is to be made."""
        nodes, start, at = self._root, 0, np.zeros(len(group.rows), dtype=np.int64)
        way = []
        while group.length > start + nodes.bits:
            end = start + nodes.bits
            slots = group.prefixes >> group.length - end & (1 << nodes.bits) - 1
            way.append(_Hop(nodes, start, at, slots))
            behind = nodes.slots[at, slots] >> _NODE
            if make and not behind.all():
                self._grow(nodes, at[behind == 0], slots[behind == 0])
                behind = nodes.slots[at, slots] >> _NODE
            nodes, start, at = self._nodes, end, behind.astype(np.int64)
        way.append(_Hop(nodes, start, at, at))
        return way

    def _grow(self, nodes: _Nodes, at: Array, slots: Array) -> None:
        """Make nodes behind slots; several may be the same."""
        places, _ = _different(at << nodes.bits | slots)
        at, slots = places >> nodes.bits, places & (1 << nodes.bits) - 1
        made = np.array(self._free.take(len(places)), dtype=np.uint64)
        self._nodes.slots[made] = 0
        nodes.slots[at, slots] |= made << _NODE
        np.add.at(nodes.children, at, 1)

    def _prune(self, way: Sequence[_Hop]) -> None:
        """Leave the nodes on a way that nothing needs any more."""
        for before, hop in zip(reversed(way[:-1]), reversed(way[1:]), strict=True):
            empty = (hop.nodes.held[hop.at] == 0) & (hop.nodes.children[hop.at] == 0)
            left, first = _different(hop.at[empty])
            at, slots = before.at[empty][first], before.slots[empty][first]
            before.nodes.slots[at, slots] &= _SHOWS
            np.subtract.at(before.nodes.children, at, 1)
            self._free.give_back(left.tolist())

    @staticmethod
    def _covered(end: _Hop, group: _Group) -> _Covered:
        """Return the slots that prefixes cover in the nodes where they end."""
        rest = end.nodes.bits - (group.length - end.start)
        first = (group.prefixes << rest) & (1 << end.nodes.bits) - 1
        rows = np.repeat(np.arange(len(first)), 1 << rest)
        slots = (first[:, None] + np.arange(1 << rest)).ravel()
        return _Covered(rows, slots, end.nodes.lengths[end.at[rows], slots])

    def _shown(self, end: _Hop, group: _Group) -> _Covered:
        """Return the slots that show the prefixes."""
        covered = self._covered(end, group)
        return covered.where(covered.lengths == group.length + 1)

    @staticmethod
    def _show(end: _Hop, covered: _Covered, positions: Positions, lengths: Array) -> None:
        """Let slots show what lies at `positions`, of these lengths; one of each for each prefix."""
        at = end.at[covered.rows]
        leads = end.nodes.slots[at, covered.slots] & _LEADS
        end.nodes.slots[at, covered.slots] = leads | positions[covered.rows]
        end.nodes.lengths[at, covered.slots] = lengths[covered.rows] + 1

    @staticmethod
    def _shorter(end: _Hop, place: Array, length: int) -> tuple[Positions, Array]:
        """Return the longest of the prefixes that cover others in their nodes, and its length; -1 is none."""
        positions = np.zeros(len(place), dtype=np.uint64)
        lengths = np.full(len(place), -1, dtype=np.int64)
        for covering in range(length - 1, end.start - (end.start == 0), -1):
            place = place >> 1
            held = end.nodes.ends[end.at, place]
            found = (lengths < 0) & (held != 0)
            positions[found], lengths[found] = held[found], covering
        return positions, lengths


def _different(values: Array) -> tuple[Array, Array]:
    """Return the different ones of some values, and where in them each is first.

    As `np.unique`, which has the first Write wait for a tenth of a second: it imports `numpy.ma`.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    new = np.ones(len(values), dtype=np.bool_)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new], order[new]


def _place(end: _Hop, group: _Group) -> Array:
    """Return where in `ends` prefixes are."""
    decided = 1 << group.length - end.start
    return group.prefixes & decided - 1 | decided


def _word(end: _Hop, row: int, prefix: int, length: int, wanted: Mapping[tuple[int, int], int | None]) -> int:
    """Return the word that slots show which show a prefix now, once it and others have changed."""
    decided = 1 << length - end.start
    place = prefix & decided - 1 | decided
    for covering in range(length, end.start - (end.start == 0), -1):
        shorter = (prefix >> length - covering, covering)
        held = int(end.nodes.ends[end.at[row], place >> length - covering]) or None
        word = wanted.get(shorter, held)
        if word is not None:
            return word
    return 0
