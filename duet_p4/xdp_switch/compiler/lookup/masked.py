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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import product
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import MAX_MASKS, TableLayout
from duet_p4.xdp_switch.compiler.layout import indent
from duet_p4.xdp_switch.compiler.lookup.base import Changes, Lookup, Store
from duet_p4.xdp_switch.dataplane import EntryKey, FieldValue, NoRoomError

Mask: TypeAlias = tuple[int, ...]
"""Which bits of each field count."""


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
        self._numbers: dict[Mask, int] = {}
        self._last_number = 0
        self._ranks: dict[Mask, _Ranks] = {}
        self._published: dict[Mask, int] = {}
        """The masks that packets know of, each with the best rank of its entries."""
        self._held: dict[bytes, dict[EntryKey, tuple[int, bytes]]] = {}
        self._room = layout.map_entries

    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add entries. Raises NoRoomError for too many masks, or ranges that take too many places."""
        parts = self._expand(keys)
        numbers = self._numbered({part.mask for part in parts})
        places = self._pack(parts, numbers)
        shared = self._held.keys() & places
        fresh = dict.fromkeys(place for place in places if place not in shared)
        if len(fresh) > self._room:
            raise NoRoomError(
                f"table {self._layout.table.name} has no room for the {len(parts)} parts of the ranges"
            )
        self._numbers.update(numbers)
        self._last_number = max(self._last_number, *numbers.values())
        self._room -= len(fresh)
        ranks = {mask: self._ranks.setdefault(mask, _Ranks()) for mask in numbers}
        entries = list(zip(self._ranks_of(keys), _each(keys, data), strict=True))
        for part, place in zip(parts, places, strict=True):
            self._held.setdefault(place, {})[keys[part.of]] = entries[part.of]
            ranks[part.mask].add(entries[part.of][0])
        try:
            # One change: it takes memory that was free before, and gives none back.
            with self._changes:
                self._map.update_joined(b"".join(fresh), b"".join(map(self._best, fresh)))
            self._publish(shared)
        except BaseException:
            self.delete(keys)
            raise
        self._publish_masks()

    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace entries' bytes."""
        entries = list(zip(self._ranks_of(keys), _each(keys, data), strict=True))
        parts = self._expand(keys)
        for part, place in zip(parts, self._pack(parts, self._numbers), strict=True):
            self._held[place][keys[part.of]] = entries[part.of]
            self._publish([place])

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        parts = self._expand(keys)
        places = self._pack(parts, self._numbers)
        ranks = self._ranks_of(keys)
        for part, place in zip(parts, places, strict=True):
            del self._held[place][keys[part.of]]
            if not self._ranks[part.mask].remove(ranks[part.of]):
                del self._ranks[part.mask], self._numbers[part.mask]
        left = dict.fromkeys(places)
        gone = [place for place in left if not self._held[place]]
        for place in gone:
            del self._held[place], left[place]
        self._room += len(gone)
        self._publish(left)
        # One change: it gives memory back, and takes none.
        with self._changes:
            self._map.delete_batch(gone)
        self._publish_masks()

    def _numbered(self, masks: set[Mask]) -> dict[Mask, int]:
        """Return the numbers of masks, those of new ones too. Raises NoRoomError for too many masks."""
        new = masks - self._numbers.keys()
        if len(self._numbers) + len(new) > MAX_MASKS:
            raise NoRoomError(
                f"table {self._layout.table.name} holds entries of {MAX_MASKS} different masks, "
                "no other mask fits"
            )
        known = {mask: self._numbers[mask] for mask in masks - new}
        return known | {mask: self._last_number + at for at, mask in enumerate(new, 1)}

    def _ranks_of(self, keys: Sequence[EntryKey]) -> list[int]:
        """Return what decides among matches: the prefix length in an LPM table, else the priority."""
        if self._layout.table.kind == "lpm":
            return [next((v[1] for v in values if isinstance(v, tuple)), 0) + 1 for values, _ in keys]
        return [priority for _, priority in keys]

    def _pack(self, parts: Sequence[_Part], numbers: Mapping[Mask, int]) -> list[bytes]:
        """Return where in the map each part is."""
        columns = [*zip(*(part.value for part in parts), strict=True)]
        packed = self._layout.key.pack_all([*columns, [numbers[part.mask] for part in parts]])
        size = self._layout.key.size
        return [packed[at : at + size] for at in range(0, len(packed), size)]

    def _expand(self, keys: Sequence[EntryKey]) -> list[_Part]:
        """Return the values under masks that together match what the keys match."""
        fields = [(key.kind, key.width) for key in self._layout.table.keys]
        columns = zip(*(values for values, _ in keys), strict=True)
        choices = [
            [_value_masks(value, kind, width) for value in column]
            for column, (kind, width) in zip(columns, fields, strict=True)
        ]
        return [
            _Part(at, *zip(*parts, strict=True))
            for at, row in enumerate(zip(*choices, strict=True))
            for parts in product(*row)
        ]

    def _best(self, place: bytes) -> bytes:
        """Return what the map holds at a place: the entry with the highest rank, and that."""
        rank, data = max(self._held[place].values(), key=itemgetter(0))
        return data + rank.to_bytes(8, "little")

    def _publish(self, places: Iterable[bytes]) -> None:
        for place in places:
            # Each a change: the next one may use the memory that this one gives back.
            with self._changes:
                self._map.update(place, self._best(place))

    def _publish_masks(self) -> None:
        best_ranks = {mask: ranks.best() for mask, ranks in self._ranks.items()}
        if best_ranks == self._published:
            return
        self._published = best_ranks
        ranked = sorted(((rank, mask) for mask, rank in best_ranks.items()), reverse=True)
        best = b"".join(rank.to_bytes(8, "little") for rank, _ in ranked)
        masks = b"".join(self._layout.key.pack([*mask, self._numbers[mask]]) for _, mask in ranked)
        data = best.ljust(8 * MAX_MASKS, b"\0") + masks.ljust(MAX_MASKS * self._layout.key.size, b"\0")
        data += len(ranked).to_bytes(4, "little")
        size = len(self._masks) // 2
        other = 1 - self._active[0]
        with self._changes:
            self._masks[other * size : other * size + len(data)] = data
            self._active[0] = other


class _Part(NamedTuple):
    """Numbers that the fields have under a mask, where what a key matches is that, and maybe more such."""

    of: int
    """Which of the keys."""
    value: tuple[int, ...]
    mask: Mask


class _Ranks:
    """The ranks of all entries under a mask."""

    def __init__(self) -> None:
        self._count: Counter[int] = Counter()
        self._highest: list[int] = []
        """All ranks, negative, as a heap; as many again may be gone, or twice there."""

    def add(self, rank: int) -> None:
        """Count an entry."""
        if not self._count[rank]:
            heappush(self._highest, -rank)
        self._count[rank] += 1

    def remove(self, rank: int) -> int:
        """Count one less; returns how many ranks are left."""
        self._count[rank] -= 1
        if not self._count[rank]:
            del self._count[rank]
            if len(self._highest) > 2 * len(self._count):
                self._highest = [-left for left in self._count]
                heapify(self._highest)
        return len(self._count)

    def best(self) -> int:
        """Return the highest rank."""
        while -self._highest[0] not in self._count:
            heappop(self._highest)
        return -self._highest[0]


def _each(keys: Sequence[EntryKey], data: bytes) -> Iterator[bytes]:
    size = len(data) // len(keys)
    return (data[at : at + size] for at in range(0, len(data), size))


def range_masks(low: int, high: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (value, mask) pairs that together match low to high, both included."""
    full = (1 << width) - 1
    while low <= high:
        size = low & -low or 1 << width
        while size > high - low + 1:
            size >>= 1
        yield low, full & ~(size - 1)
        low += size


def _value_masks(value: FieldValue, kind: str, width: int) -> Sequence[tuple[int, int]]:
    """Return (value, mask) pairs that together match what a field matches."""
    full = (1 << width) - 1
    if value is None:
        return ((0, 0),)
    if isinstance(value, int):
        return ((value, full),)
    if kind == "range":
        return [*range_masks(value[0], value[1], width)]
    if kind == "lpm":
        return ((value[0], full ^ full >> value[1]),)
    return (value,)
