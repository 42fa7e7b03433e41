"""Exact fields: a BPF hash map.

`table_T` maps a `struct key_T`, its fields in host byte order, the widest first and zeros behind, to the
entry: a word where it fits one (`entries.Packing`), or else a `struct entry_T`. The kernel may hand the
memory of an entry that is gone to the next one while a packet still looks at it. So `changes_T` goes up
before and after each change; a packet copies what it finds, and is dropped where that number has gone up by
two since.
"""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4 import bpf
from duet_p4.xdp_switch.compiler.entries import TableLayout
from duet_p4.xdp_switch.compiler.layout import indent
from duet_p4.xdp_switch.compiler.lookup.base import Changes, Lookup, Store, exact
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

    def insert(self, key: EntryKey, data: bytes) -> None:
        """Add an entry."""
        with self._changes:
            self._map.update(self._pack(key), data, bpf.NOEXIST)

    def modify(self, key: EntryKey, data: bytes) -> None:
        """Replace an entry's bytes."""
        with self._changes:
            self._map.update(self._pack(key), data, bpf.EXIST)

    def delete(self, key: EntryKey) -> None:
        """Remove an entry."""
        with self._changes:
            self._map.delete(self._pack(key))

    def _pack(self, key: EntryKey) -> bytes:
        return self._key.pack([exact(value) for value in key[0]])
