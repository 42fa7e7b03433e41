"""Match-action tables in C, and how their keys and entries are laid out in BPF maps.

How a table is looked up depends on its key:

| strategy | for | what it is |
| --- | --- | --- |
| none | no key | the default action |
| index | one exact field of at most 16 bits | an array by key value |
| hash | exact fields | a BPF hash map |
| trie | one LPM field of at most 32 bits | a 16-bit root, then nibbles |
| masked | anything else | a hash map per mask, in one BPF hash map |

Entries found by `index` and `trie` lie in an array by handle. An entry holds the number of its action
within the table, its handle (which is also the index of its direct counter), and the action's arguments;
in a table with an action profile, the member or group it refers to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.expressions import Expressions, Value, cut
from duet_p4.xdp_switch.compiler.layout import MAX_ARITHMETIC, Layout, indent
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

_HEADER = (("action", 32), ("handle", 32))


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

    def _parameter(self, action: ir.Action, parameter: ir.Parameter) -> str:
        if parameter.width > MAX_ARITHMETIC:
            what = f"parameter {parameter.name} of {parameter.width} bits, more than {MAX_ARITHMETIC},"
            raise ir.unsupported(what, action.source)
        return f"p_{self._names(f'parameter of {action.id}', parameter.name)}"

    def _member(self, action: ir.Action) -> str:
        return f"of_{self._names('action', action.name)}_{action.id}"

    def pack(self, number: int, handle: int, arguments: Sequence[int]) -> bytes:
        """Return the bytes of an entry that runs action `number`."""
        data = number.to_bytes(4, "little") + handle.to_bytes(4, "little")
        if arguments:
            data += self.arguments[number].pack(arguments)
        return data.ljust(self.size, b"\0")

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


@dataclass(slots=True)
class TableLayout:
    """A table as the data plane's Python and C share it."""

    table: ir.Table
    strategy: Strategy
    entry: ActionSet
    key: Struct
    symbol: str
    counter: str | None
    meter: str | None

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


def layout_of(program: ir.Program, names: Names, table: ir.Table) -> TableLayout:
    """Return how a table is laid out."""
    strategy = choose(table)
    fields = [(f"k{n}_{names(f'key {n}', k.name)}", k.width) for n, k in enumerate(table.keys)]
    if strategy is Strategy.MASKED:
        fields.append(("mask", 32))
    return TableLayout(
        table,
        strategy,
        ActionSet(program, names, table.actions, profile=table.profile is not None),
        Struct(fields, 4),
        names("table", table.name),
        f"direct_{names('table', table.name)}" if table.with_counter else None,
        f"meter_{names('meter', table.meter)}" if table.meter is not None else None,
    )


class Tables:
    """Compiles the tables and action profiles of a program."""

    def __init__(self, layout: Layout, actions: Actions, calculations: Calculations) -> None:
        self._program = layout.program
        self._layout = layout
        self._actions = actions
        self._calculations = calculations
        self.layouts = {
            name: layout_of(self._program, layout.names, t) for name, t in self._program.tables().items()
        }
        self.profiles = {name: self._profile_actions(p) for name, p in self._program.profiles().items()}

    def _profile_actions(self, profile: ir.Profile) -> ActionSet:
        """Return the action set of a profile: all actions of the tables that use it, by name."""
        ids: dict[str, int] = {}
        for table in self._program.tables().values():
            if table.profile == profile.name:
                for number in table.actions:
                    ids.setdefault(self._program.actions[number].name, number)
        return ActionSet(self._program, self._layout.names, list(ids.values()))

    def declarations(self) -> Iterator[str]:
        """Yield the C declarations of maps, arrays and lookup functions."""
        for name, actions in self.profiles.items():
            yield from self._profile(self._program.profiles()[name], actions)
        for table in self.layouts.values():
            if table.strategy is not Strategy.NONE or not table.table.default_const:
                yield from self._table(table)

    def _profile(self, profile: ir.Profile, actions: ActionSet) -> Iterator[str]:
        symbol = self._layout.names("profile", profile.name)
        yield f"/* action profile {profile.name}, {profile.source} */"
        yield from actions.declaration(f"member_{symbol}")
        yield f"struct member_{symbol} members_{symbol}[{member_capacity(profile)}];"
        yield f"__u32 at_member_{symbol}[{profile.size + SPARE_HANDLES}]; /* handle -> where the member is */"
        if profile.algorithm is not None:
            yield "/* handle of a group -> first slot << 32 | number of slots */"
            yield f"__u64 groups_{symbol}[{group_capacity(profile)}];"
            yield f"__u32 slots_{symbol}[{slot_capacity(profile)}]; /* slot -> handle of a member */"
        yield ""
        yield f"static __always_inline struct member_{symbol} *"
        yield f"find_{symbol}(struct scratch *s, __u32 reference)"
        yield "{"
        if profile.algorithm is not None:
            yield f"    if (reference & {GROUP_FLAG:#x}u) {{"
            yield f"        INDEX(group, reference & {GROUP_FLAG - 1:#x});"
            yield f"        if (group >= {group_capacity(profile)})"
            yield "            return 0;"
            yield f"        __u64 range = groups_{symbol}[group];"
            yield "        __u32 count = (__u32)range;"
            yield "        if (count == 0)"
            yield "            return 0;"
            call = self._calculations.call(Calculations.selector(profile))
            yield f"        INDEX(slot, (range >> 32) + {call} % count);"
            yield f"        if (slot >= {slot_capacity(profile)})"
            yield "            return 0;"
            yield f"        reference = slots_{symbol}[slot];"
            yield "    }"
        yield "    INDEX(handle, reference);"
        yield f"    if (handle >= {profile.size + SPARE_HANDLES})"
        yield "        return 0;"
        yield f"    INDEX(at, at_member_{symbol}[handle]);"
        yield f"    if (at == 0 || at >= {member_capacity(profile)})"
        yield "        return 0;"
        yield f"    return &members_{symbol}[at];"
        yield "}"
        yield ""

    def _table(self, t: TableLayout) -> Iterator[str]:
        symbol, table = t.symbol, t.table
        yield f"/* table {table.name}, {table.source}: {t.strategy} */"
        if table.profile is not None:
            yield f"struct entry_{symbol} {{"
            yield "    __u32 reference; /* to a member or a group */"
            yield "    __u32 handle;"
            yield "};"
        else:
            yield from t.entry.declaration(f"entry_{symbol}")
        if not table.default_const:
            yield f"struct entry_{symbol} default_{symbol}[2];"
            yield f"__u32 at_default_{symbol}; /* 0 or 1; 2 for no default */"
        if t.strategy is Strategy.NONE:
            yield ""
            return
        if t.counter:
            yield f"COUNTERS({t.counter}, {t.capacity});"
        if table.meter is not None:
            yield f"METERS({t.meter}, {t.capacity});"
        if table.ages:
            yield f"__u64 hits_{symbol}[{t.capacity}]; /* handle -> ns of the last hit */"
        yield from {
            Strategy.INDEX: self._index,
            Strategy.HASH: self._hash,
            Strategy.TRIE: self._trie,
            Strategy.MASKED: self._masked,
        }[t.strategy](t)
        yield ""

    def _signature(self, t: TableLayout) -> Iterator[str]:
        yield f"static __always_inline struct entry_{t.symbol} *lookup_{t.symbol}(struct scratch *s)"
        yield "{"

    def _entry_by_handle(self, t: TableLayout, handle: str) -> Iterator[str]:
        yield f"    INDEX(at, {handle});"
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
        yield f"struct entry_{t.symbol} entries_{t.symbol}[{t.capacity}];"
        yield f"__u32 index_{t.symbol}[{1 << t.width}];"
        yield from self._signature(t)
        yield f"    __u32 handle = index_{t.symbol}[({self._key_value(t, 0)}) & {(1 << t.width) - 1:#x}];"
        yield from self._entry_by_handle(t, "handle")

    def _trie(self, t: TableLayout) -> Iterator[str]:
        levels, root = t.trie_levels, t.trie_root_bits
        fill = root + 4 * levels - t.width
        yield f"struct entry_{t.symbol} entries_{t.symbol}[{t.capacity}];"
        yield "/* slots: node behind << 32 | handle of the longest prefix that ends here */"
        yield f"__u64 root_{t.symbol}[{1 << root}];"
        if levels:
            yield f"__u64 nodes_{t.symbol}[{16 * t.trie_nodes}];"
        yield from self._signature(t)
        shifted = f"(__u64){self._key_value(t, 0)} << {fill}" if fill else self._key_value(t, 0)
        yield f"    __u64 key = {shifted};"
        yield f"    __u64 slot = root_{t.symbol}[key >> {4 * levels} & {(1 << root) - 1:#x}];"
        yield "    __u32 handle = (__u32)slot;"
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
            yield "    handle = (__u32)slot ? (__u32)slot : handle;"
        if levels:
            yield "found:;"
        yield from self._entry_by_handle(t, "handle")

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
        yield f"HASH_MAP(table_{t.symbol}, struct key_{t.symbol}, struct entry_{t.symbol}, {t.map_entries});"
        yield from self._signature(t)
        yield f"    struct key_{t.symbol} key;"
        yield "    __builtin_memset(&key, 0, sizeof(key));"
        yield from self._fill_key(t, "key")
        yield f"    return bpf_map_lookup_elem(&table_{t.symbol}, &key);"
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
        yield "    return found ? &found->entry : 0;"
        yield "}"

    def apply(self, name: str, label: str, goto: GotoMaker) -> Iterator[str]:
        """Yield the C that applies a table and goes on to the next node."""
        t = self.layouts[name]
        table = t.table
        yield f"{label}: /* table {table.name}, {table.source} */"
        yield "{"
        if t.strategy is Strategy.NONE and table.default_const:
            yield from indent(self._fixed_default(t, goto))
        else:
            yield from indent(self._run(t, goto))
        yield "}"

    def _fixed_default(self, t: TableLayout, goto: GotoMaker) -> Iterator[str]:
        yield from self._default_call(t)
        yield from self._after_miss(t, t.table.default_action, goto)

    def _default_call(self, t: TableLayout) -> Iterator[str]:
        if t.table.default_action is None:
            return
        action = self._program.actions[t.table.default_action]
        arguments = "".join(
            f", (__u128){v >> 64:#x}ull << 64 | {v & (1 << 64) - 1:#x}ull" if v >> 64 else f", {v:#x}ull"
            for v in t.table.default_arguments
        )
        call = f"{self._actions.name(action)}(s{arguments})"
        if self._actions.exits(action):
            yield f"if ({call})"
            yield "    goto finished;"
        else:
            yield f"{call};"

    def _after_miss(self, t: TableLayout, action: int | None, goto: GotoMaker) -> Iterator[str]:
        table = t.table
        if table.next_miss is not None:
            yield goto(table.next_miss[0])
        elif action is not None and action in table.next_by_action and table.next_hit is None:
            yield goto(table.next_by_action[action])
        else:
            yield goto(table.default_next)

    def _after_hit(self, t: TableLayout, action: int, goto: GotoMaker) -> str:
        if t.table.next_hit is not None:
            return goto(t.table.next_hit[0])
        return goto(t.table.next_by_action[action])

    def _run(self, t: TableLayout, goto: GotoMaker) -> Iterator[str]:
        table, symbol = t.table, t.symbol
        if t.strategy is Strategy.NONE:
            yield f"struct entry_{symbol} *entry = 0;"
        else:
            yield f"struct entry_{symbol} *entry = lookup_{symbol}(s);"
        yield "bool hit = entry != 0;"
        if t.counter:
            yield "if (hit)"
            yield f"    count_packet(s, {t.counter}, {t.capacity}, entry->handle);"
        if table.ages:
            yield "if (hit) {"
            yield "    INDEX(seen, entry->handle);"
            yield f"    if (seen < {t.capacity})"
            yield f"        hits_{symbol}[seen] = bpf_ktime_get_coarse_ns();"
            yield "}"
        if table.meter is not None:
            meter = self._program.meters[table.meter]
            yield "if (hit) {"
            yield f"    __u32 colour = {self._actions.colour(meter, 'entry->handle')};"
            if meter.target is not None:
                width = self._program.field(meter.target).width
                yield from indent(self._layout.store(meter.target, cut(Value("colour", 0, 2), width)))
            yield "    (void)colour;"
            yield "}"
        if table.default_const:
            yield "if (!hit) {"
            yield from indent(self._fixed_default(t, goto))
            yield "}"
        else:
            yield "if (!hit) {"
            yield f"    INDEX(at, at_default_{symbol});"
            yield "    if (at > 1) {"
            yield from indent(self._after_miss(t, None, goto), 2)
            yield "    }"
            yield f"    entry = &default_{symbol}[at];"
            yield "}"
        actions = t.entry
        number_of = "entry->action"
        carrier = "entry"
        if table.profile is not None:
            profile = self._layout.names("profile", table.profile)
            actions = self.profiles[table.profile]
            yield f"struct member_{profile} *member = find_{profile}(s, entry->reference);"
            yield "if (!member) {"
            yield from indent(self._after_miss(t, None, goto))
            yield "}"
            number_of, carrier = "member->action", "member"
        yield f"switch ({number_of}) {{"
        own = {self._program.actions[n].name: n for n in table.actions}
        for number, action in enumerate(actions.actions):
            if action.name not in own:
                continue
            yield f"case {number}: /* {action.name} */"
            call = actions.call(self._actions, number, carrier)
            if self._actions.exits(action):
                yield f"    if ({call})"
                yield "        goto finished;"
            else:
                yield f"    {call};"
            yield from indent(self._next(t, own[action.name], goto))
        yield "default:"
        yield f"    {goto(None)}"
        yield "}"

    def _next(self, t: TableLayout, action: int, goto: GotoMaker) -> Iterator[str]:
        hit, miss = self._after_hit(t, action, goto), next(self._after_miss(t, action, goto))
        if hit == miss or t.table.default_const:
            yield hit
        else:
            yield "if (hit)"
            yield f"    {hit}"
            yield miss


class GotoMaker:
    """Makes the C `goto` to a node of a pipeline, or to its end."""

    def __init__(self, prefix: str, names: Names) -> None:
        self._prefix = prefix
        self._names = names

    def label(self, node: str) -> str:
        """Return a node's C label."""
        return f"{self._prefix}_{self._names(f'node of {self._prefix}', node)}"

    def __call__(self, node: str | None) -> str:
        """Return the statement that goes to a node; None is the end."""
        return f"goto {self.label(node)};" if node is not None else "goto finished;"


def member_capacity(profile: ir.Profile) -> int:
    """Return how many places for members there are; place 0 is unused."""
    return profile.size + 1 + SPARE_HANDLES


def group_capacity(profile: ir.Profile) -> int:
    """Return how many groups a selector can hold."""
    return profile.size + 1


def slot_capacity(profile: ir.Profile) -> int:
    """Return how many slots the groups of a selector share."""
    return 4 * profile.size + 256
