"""Exact fields: a BPF hash map.

`table_T` maps a `struct key_T`, its fields in host byte order, the widest first and zeros behind, to the
entry: a word where it fits one (`entries.Packing`), or else a `struct entry_T`. The kernel may hand the
memory of an entry that is gone to the next one while a packet still looks at it. So `changes_T` goes up
before and after each change; a packet copies what it finds, and is dropped where that number has gone up by
two since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.layout import indent
from duet_p4.xdp_switch.compiler.lookup.base import Changes, Lookup, Store
from duet_p4.xdp_switch.dataplane import EntryKey


class HashLookup(Lookup):
    """The lookup in C."""

    def function(self) -> Iterator[str]:
        """Yield the C of the table's memory and of its lookup."""
        yield f"struct key_{self._symbol} {{"
        yield from indent(self._table.key.declarations())
        yield "};"
        value = "__u64" if self._table.packing else f"struct entry_{self._symbol}"
        symbol, room = self._symbol, self._table.map_entries
        yield f"HASH_MAP(table_{symbol}, struct key_{symbol}, {value}, {room});"
        yield from self.signature()
        yield f"    struct key_{self._symbol} key;"
        yield "    __builtin_memset(&key, 0, sizeof(key));"
        yield from self.fill_key("key")
        kind = "__u64" if self._table.packing else f"struct entry_{self._symbol}"
        yield f"    {kind} *found = bpf_map_lookup_elem(&table_{self._symbol}, &key);"
        if self._table.packing:
            yield "    return found ? *(volatile __u64 *)found : 0;"
        else:
            yield "    if (!found)"
            yield "        return false;"
            yield f"    *entry = *(volatile {kind} *)found;"
            yield "    return true;"
        yield "}"


class HashStore(Store):
    """Exact fields, a BPF hash map."""

    def __init__(self, layout: TableLayout, loaded: bpf.Object) -> None:
        self._map = loaded.map(f"table_{layout.symbol}")
        self._key = layout.key
        self._changes = Changes(layout.symbol, loaded)

    def insert(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Add entries; where the kernel refuses one, none."""
        packed = self._pack(keys)
        try:
            # One change: it takes memory that was free before, and gives none back.
            with self._changes:
                self._map.update_joined(packed, data)
        except OSError:
            self._delete(packed)
            raise

    def modify(self, keys: Sequence[EntryKey], data: bytes) -> None:
        """Replace entries' bytes."""
        packed, size = self._pack(keys), len(data) // len(keys)
        for at in range(len(keys)):
            # Each a change: the next one may use the memory that this one gives back.
            with self._changes:
                key = packed[at * self._key.size : (at + 1) * self._key.size]
                self._map.update(key, data[at * size : (at + 1) * size], bpf.EXIST)

    def delete(self, keys: Sequence[EntryKey]) -> None:
        """Remove entries."""
        self._delete(self._pack(keys))

    def _delete(self, packed: bytes) -> None:
        size = self._key.size
        # One change: it gives memory back, and takes none.
        with self._changes:
            self._map.delete_batch(packed[at : at + size] for at in range(0, len(packed), size))

    def _pack(self, keys: Sequence[EntryKey]) -> bytes:
        values = cast("list[tuple[int, ...]]", [key[0] for key in keys])
        return self._key.pack_all(list(zip(*values, strict=True)))
