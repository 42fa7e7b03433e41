"""Any key: masked copies of it are looked up in one hash map, under the number of the mask.

`table_T` maps a `struct key_T` (the key's fields under a mask, and that mask's number) to a `struct
ranked_T`: the entry, and behind it the priority, or in a table with one LPM field the length of the prefix,
plus 1. Of the entries with the same fields under the same mask, it holds the one with the highest. `masks_T`
has two copies of the masks in use, that with the highest priority of all its entries first, so that a packet
stops where no other can win; `at_masks_T` says which copy holds: a change fills the other one, and turns. A
range is as many masks as prefixes make it up.

`changes_T` goes up before and after each change, as for a hash map (`hash.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import MAX_MASKS, TableLayout
from duet_p4.xdp_switch.compiler.layout import indent
from duet_p4.xdp_switch.compiler.lookup.base import Changes, Lookup, Store
from duet_p4.xdp_switch.dataplane import EntryKey, FieldValue, MatchValues, NoRoomError


class MaskedLookup(Lookup):
    """The lookup in C."""

    def function(self) -> Iterator[str]:
        """Yield the C of the table's memory and of its lookup."""
        symbol = self._symbol
        yield f"struct key_{symbol} {{"
        yield from indent(self._table.key.declarations())
        yield "};"
        yield f"struct ranked_{symbol} {{"
        yield f"    struct entry_{symbol} entry;"
        yield "    __u64 priority;"
        yield "};"
        yield "/* Masks in use, the one with the highest priority first; its `mask` member is its number. */"
        yield f"struct masks_{symbol} {{"
        yield f"    __u64 best[{MAX_MASKS}]; /* highest priority under each mask */"
        yield f"    struct key_{symbol} mask[{MAX_MASKS}];"
        yield "    __u32 count;"
        yield f"}} __attribute__((aligned(8))) masks_{symbol}[2];"
        yield f"__u32 at_masks_{symbol};"
        room = self._table.map_entries
        yield f"HASH_MAP(table_{symbol}, struct key_{symbol}, struct ranked_{symbol}, {room});"
        yield from self.signature()
        yield f"    struct key_{symbol} key, masked;"
        yield "    __builtin_memset(&key, 0, sizeof(key));"
        yield "    __builtin_memset(&masked, 0, sizeof(masked));"
        yield from self.fill_key("key")
        yield f"    struct masks_{symbol} *masks = &masks_{symbol}[at_masks_{symbol} & 1];"
        yield f"    struct ranked_{symbol} *found = 0;"
        yield f"    for (__u32 i = 0; i < {MAX_MASKS}; i++) {{"
        yield "        if (i >= masks->count || (found && found->priority >= masks->best[i]))"
        yield "            break;"
        for member in self._table.key.members:
            if member.name == "mask":
                yield "        masked.mask = masks->mask[i].mask;"
            else:
                yield f"        masked.{member.name} = key.{member.name} & masks->mask[i].{member.name};"
        yield f"        struct ranked_{symbol} *candidate = bpf_map_lookup_elem(&table_{symbol}, &masked);"
        yield "        if (candidate && (!found || candidate->priority > found->priority))"
        yield "            found = candidate;"
        yield "    }"
        yield "    if (!found)"
        yield "        return false;"
        yield f"    *entry = *(volatile struct entry_{symbol} *)&found->entry;"
        yield "    return true;"
        yield "}"


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
        self._published: dict[tuple[int, ...], int] = {}
        """The masks that packets know of, each with the best rank of its entries."""
        self._held: dict[bytes, dict[EntryKey, tuple[int, bytes]]] = {}
        self._room = layout.map_entries

    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add entries. Raises NoRoomError for too many masks, or ranges that take too many places."""
        added = []
        try:
            for key, entry in _each(keys, data):
                self._insert(key, entry)
                added.append(key)
        except BaseException:
            for key in added:
                self._delete(key)
            raise
        finally:
            self._publish_masks()

    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace entries' bytes."""
        for key, entry in _each(keys, data):
            for value, mask in self._expand(key[0]):
                place = self._pack(value, self._numbers[mask])
                self._held[place][key] = (self._rank(key), entry)
                self._publish(place)

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        for key in keys:
            self._delete(key)
        self._publish_masks()

    def _insert(self, key: EntryKey, data: bytes) -> None:
        parts = list(self._expand(key[0]))
        masks = {mask for _, mask in parts}
        name = self._layout.table.name
        if len(self._priorities.keys() | masks) > MAX_MASKS:
            raise NoRoomError(
                f"table {name} holds entries of {MAX_MASKS} different masks, no other mask fits"
            )
        numbers = {mask: self._number(mask) for mask in masks}
        packed = [(self._pack(value, numbers[mask]), mask) for value, mask in parts]
        if sum(1 for place, _ in packed if place not in self._held) > self._room:
            raise NoRoomError(f"table {name} has no room for the {len(parts)} parts of the ranges")
        rank = self._rank(key)
        for place, mask in packed:
            holders = self._held.setdefault(place, {})
            self._room -= not holders
            holders[key] = (rank, data)
            self._publish(place)
            self._priorities.setdefault(mask, Counter())[rank] += 1

    def _delete(self, key: EntryKey) -> None:
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

    def _rank(self, key: EntryKey) -> int:
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
        best_ranks = {mask: max(counts) for mask, counts in self._priorities.items()}
        if best_ranks == self._published:
            return
        self._published = best_ranks
        ranked = sorted(((rank, mask) for mask, rank in best_ranks.items()), reverse=True)
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


def _each(keys: Sequence[EntryKey], data: bytes) -> Iterator[tuple[EntryKey, bytes]]:
    size = len(data) // len(keys)
    return ((key, data[at * size : (at + 1) * size]) for at, key in enumerate(keys))


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
