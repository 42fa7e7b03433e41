"""Lookups in C: one function per table, by the strategy that `entries.choose` took."""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4.xdp_switch.compiler.entries import MAX_MASKS, Strategy, TableLayout
from duet_p4.xdp_switch.compiler.expressions import Expressions, cut
from duet_p4.xdp_switch.compiler.layout import Layout, indent


class Lookups:
    """Compiles the lookup of a table by its strategy; `stores.py` writes what it reads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def function(self, t: TableLayout) -> Iterator[str]:
        """Yield the maps and arrays of a table, and the C function that finds its entry, or none."""
        yield from {
            Strategy.INDEX: self._index,
            Strategy.HASH: self._hash,
            Strategy.TRIE: self._trie,
            Strategy.MASKED: self._masked,
        }[t.strategy](t)

    def _signature(self, t: TableLayout) -> Iterator[str]:
        if t.copied:
            yield "static __always_inline bool"
            yield f"lookup_{t.symbol}(struct scratch *s, struct entry_{t.symbol} *entry)"
        else:
            kind = "__u64 " if t.packing else f"struct entry_{t.symbol} *"
            yield f"static __always_inline {kind}lookup_{t.symbol}(struct scratch *s)"
        yield "{"

    def _entries(self, t: TableLayout) -> Iterator[str]:
        if t.packing is None:
            yield f"struct entry_{t.symbol} entries_{t.symbol}[{t.capacity}];"

    def _found(self, t: TableLayout, slot: str) -> Iterator[str]:
        """Yield C that returns the entry that a slot holds, or the place of."""
        if t.packing is not None:
            yield f"    return {slot};"
            yield "}"
            return
        yield f"    INDEX(at, {slot});"
        yield f"    if (at == 0 || at >= {t.capacity})"
        yield "        return 0;"
        yield f"    return &entries_{t.symbol}[at];"
        yield "}"

    def _key_value(self, t: TableLayout, number: int) -> str:
        key = t.table.keys[number]
        code = cut(Expressions(self._layout, t.table.source).value(key.field), key.width)
        if key.mask is None:
            return code
        if key.mask >> 64:
            return f"({code} & ((__u128){key.mask >> 64:#x}ull << 64 | {key.mask & (1 << 64) - 1:#x}ull))"
        return f"({code} & {key.mask:#x}ull)"

    def _index(self, t: TableLayout) -> Iterator[str]:
        yield from self._entries(t)
        yield f"__u{64 if t.packing else 32} index_{t.symbol}[{1 << t.width}];"
        yield from self._signature(t)
        slot = f"index_{t.symbol}[({self._key_value(t, 0)}) & {(1 << t.width) - 1:#x}]"
        yield from self._found(t, slot)

    def _trie(self, t: TableLayout) -> Iterator[str]:
        levels, root = t.trie_levels, t.trie_root_bits
        fill = root + 4 * levels - t.width
        yield from self._entries(t)
        yield "/* slots: node behind << 32 | entry of the longest prefix that ends here, or its place */"
        yield f"__u64 root_{t.symbol}[{1 << root}];"
        if levels:
            yield f"__u64 nodes_{t.symbol}[{16 * t.trie_nodes}];"
        yield from self._signature(t)
        shifted = f"(__u64){self._key_value(t, 0)} << {fill}" if fill else self._key_value(t, 0)
        yield f"    __u64 key = {shifted};"
        yield f"    __u64 slot = root_{t.symbol}[key >> {4 * levels} & {(1 << root) - 1:#x}];"
        yield "    __u32 found = (__u32)slot;"
        if levels:
            yield "    __u64 node;"
        for level in reversed(range(levels)):
            yield "    node = slot >> 32;"
            yield "    HIDE(node);"
            yield f"    if (node == 0 || node >= {t.trie_nodes})"
            yield "        goto found;"
            yield "    node <<= 4;"
            yield "    HIDE(node);"
            yield f"    slot = nodes_{t.symbol}[node + (key >> {4 * level} & 15)];"
            yield "    found = (__u32)slot ? (__u32)slot : found;"
        if levels:
            yield "found:;"
        yield from self._found(t, "found")

    def _fill_key(self, t: TableLayout, target: str) -> Iterator[str]:
        for number in range(len(t.table.keys)):
            code = self._key_value(t, number)
            for member in t.key.members:
                if member.source == number:
                    part = f"({code}) >> {member.shift}" if member.shift else code
                    yield f"    {target}.{member.name} = {part};"

    def _hash(self, t: TableLayout) -> Iterator[str]:
        yield f"struct key_{t.symbol} {{"
        yield from indent(t.key.declarations())
        yield "};"
        value = "__u64" if t.packing else f"struct entry_{t.symbol}"
        yield f"HASH_MAP(table_{t.symbol}, struct key_{t.symbol}, {value}, {t.map_entries});"
        yield from self._signature(t)
        yield f"    struct key_{t.symbol} key;"
        yield "    __builtin_memset(&key, 0, sizeof(key));"
        yield from self._fill_key(t, "key")
        kind = "__u64" if t.packing else f"struct entry_{t.symbol}"
        yield f"    {kind} *found = bpf_map_lookup_elem(&table_{t.symbol}, &key);"
        if t.packing:
            yield "    return found ? *(volatile __u64 *)found : 0;"
        else:
            yield "    if (!found)"
            yield "        return false;"
            yield f"    *entry = *(volatile {kind} *)found;"
            yield "    return true;"
        yield "}"

    def _masked(self, t: TableLayout) -> Iterator[str]:
        symbol = t.symbol
        yield f"struct key_{symbol} {{"
        yield from indent(t.key.declarations())
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
        yield f"HASH_MAP(table_{symbol}, struct key_{symbol}, struct ranked_{symbol}, {t.map_entries});"
        yield from self._signature(t)
        yield f"    struct key_{symbol} key, masked;"
        yield "    __builtin_memset(&key, 0, sizeof(key));"
        yield "    __builtin_memset(&masked, 0, sizeof(masked));"
        yield from self._fill_key(t, "key")
        yield f"    struct masks_{symbol} *masks = &masks_{symbol}[at_masks_{symbol} & 1];"
        yield f"    struct ranked_{symbol} *found = 0;"
        yield f"    for (__u32 i = 0; i < {MAX_MASKS}; i++) {{"
        yield "        if (i >= masks->count || (found && found->priority >= masks->best[i]))"
        yield "            break;"
        for member in t.key.members:
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
