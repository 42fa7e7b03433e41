"""Match-action tables in C: what they declare, and how control runs through them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.entries import (
    DEFAULTS,
    ActionSet,
    Strategy,
    TableLayout,
    layout_of,
)
from duet_p4.xdp_switch.compiler.expressions import Value, cut
from duet_p4.xdp_switch.compiler.layout import Layout, indent
from duet_p4.xdp_switch.compiler.lookup import lookup_function
from duet_p4.xdp_switch.compiler.names import Names
from duet_p4.xdp_switch.compiler.profiles import find_function
from duet_p4.xdp_switch.compiler.shapes import Shape

MAX_COPIES = 400
"""Copies of nodes for the shapes of packets; those behind are for any shape."""

Copy = tuple[str | None, Shape | None]
"""A node, or the end, for packets of a shape."""

Following = Callable[[int, Shape], Shape | None]
"""What tells the shape of a packet once an action has run, None where that is not always the same."""


class Tables:
    """Compiles the tables and action profiles of a program."""

    def __init__(
        self,
        layout: Layout,
        actions: Actions,
        calculations: Calculations,
        default_only: Mapping[str, Collection[str]],
    ) -> None:
        self._program = layout.program
        self._layout = layout
        self._actions = actions
        self._calculations = calculations
        self.layouts = {
            name: layout_of(self._program, layout.names, t, default_only.get(name, ()))
            for name, t in self._program.tables().items()
        }
        layout.copied_bytes = max((t.entry.size for t in self.layouts.values() if t.copied), default=0)
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
            profile = self._program.profiles()[name]
            symbol = self._layout.names("profile", name)
            yield from find_function(profile, symbol, actions, self._calculations)
        for table in self.layouts.values():
            if table.strategy is not Strategy.NONE or not table.table.default_const:
                yield from self._table(table)

    def _table(self, t: TableLayout) -> Iterator[str]:
        symbol, table = t.symbol, t.table
        yield f"/* table {table.name}, {table.source}: {t.strategy} */"
        if table.profile is not None:
            yield f"struct entry_{symbol} {{"
            yield "    __u32 reference; /* to a member or a group */"
            yield "    __u32 handle;"
            yield "};"
        elif t.packing is None:
            yield from t.entry.declaration(f"entry_{symbol}")
        if t.guarded:
            yield f"__u32 changes_{symbol}; /* goes up before and after every change */"
        if not table.default_const:
            yield f"struct entry_{symbol} default_{symbol}[{DEFAULTS}];"
            yield f"__u32 at_default_{symbol}; /* which of them; {DEFAULTS} for no default */"
        if t.strategy is Strategy.NONE:
            yield ""
            return
        if t.counter:
            yield f"COUNTERS({t.counter}, {t.capacity});"
        if table.meter is not None:
            yield f"METERS({t.meter}, {t.capacity});"
        if table.ages:
            yield f"__u64 hits_{symbol}[{t.capacity}]; /* handle -> ns of the last hit */"
        yield from lookup_function(self._layout, t)
        yield ""

    def apply(self, name: str, label: str, goto: GotoMaker, before: Sequence[str] = ()) -> Iterator[str]:
        """Yield the C that applies a table and goes on to the next node; `before` is C to begin with."""
        t = self.layouts[name]
        table = t.table
        yield f"{label}: /* table {table.name}, {table.source} */"
        yield "{"
        yield from before
        if t.strategy is Strategy.NONE and table.default_const:
            yield from indent(self._layout.tracing.table(table.name))
            yield from indent(self._fixed_default(t, goto))
        else:
            yield from indent(self._run(t, goto))
        yield "}"

    def _fixed_default(self, t: TableLayout, goto: GotoMaker) -> Iterator[str]:
        number = t.table.default_action
        if number is None:
            yield from self._after_miss(t, None, goto)
            return
        action = self._program.actions[number]
        arguments = "".join(
            f", (__u128){v >> 64:#x}ull << 64 | {v & (1 << 64) - 1:#x}ull" if v >> 64 else f", {v:#x}ull"
            for v in t.table.default_arguments
        )
        call = f"{self._actions.name(action)}(s{arguments})"
        yield from self._called(action, call, goto, self._after_miss(t, number, goto))

    def _called(
        self, action: ir.Action, call: str, goto: GotoMaker, following: Iterable[str]
    ) -> Iterator[str]:
        """Yield C that calls an action, and leaves the pipeline or does what follows."""
        end = goto.after(action.id)(None) if self._actions.exits(action) else ""
        if self._actions.always_exits(action):
            yield f"{call};"
            yield end
            return
        if end:
            yield f"if ({call})"
            yield f"    {end}"
        else:
            yield f"{call};"
        yield from following

    def _after_miss(self, t: TableLayout, action: int | None, goto: GotoMaker) -> Iterator[str]:
        table = t.table
        if action is not None:
            goto = goto.after(action)
        if table.next_miss is not None:
            yield goto(table.next_miss[0])
        elif action is not None and action in table.next_by_action and table.next_hit is None:
            yield goto(table.next_by_action[action])
        else:
            yield goto(table.default_next)

    def _after_hit(self, t: TableLayout, action: int, goto: GotoMaker) -> str:
        goto = goto.after(action)
        if t.table.next_hit is not None:
            return goto(t.table.next_hit[0])
        return goto(t.table.next_by_action[action])

    def _run(self, t: TableLayout, goto: GotoMaker) -> Iterator[str]:
        table, symbol = t.table, t.symbol
        handle = t.packing.handle("entry") if t.packing else "entry->handle"
        if t.guarded:
            yield f"__u32 changes = CHANGES({symbol});"
        if t.packing is not None:
            yield f"__u64 entry = lookup_{symbol}(s);"
            yield "bool hit = entry != 0;"
        elif t.strategy is Strategy.NONE:
            yield f"struct entry_{symbol} *entry = 0;"
            yield "bool hit = false;"
        elif t.copied:
            yield f"struct entry_{symbol} *entry = (struct entry_{symbol} *){self._layout.memory}found;"
            yield f"bool hit = lookup_{symbol}(s, entry);"
        else:
            yield f"struct entry_{symbol} *entry = lookup_{symbol}(s);"
            yield "bool hit = entry != 0;"
        yield from self._layout.tracing.table(table.name, handle)
        yield from self._guard(t, goto)
        at_hit = list(self._at_hit(t, handle))
        if table.default_const:
            yield "if (!hit) {"
            yield from indent(self._fixed_default(t, goto))
            yield "}"
            yield from at_hit
        else:
            yield "if (!hit) {"
            yield f"    INDEX(at, at_default_{symbol});"
            yield f"    if (at >= {DEFAULTS}) {{"
            yield from indent(self._after_miss(t, None, goto), 2)
            yield "    }"
            yield f"    entry = &default_{symbol}[at];"
            yield "}"
            if at_hit:
                yield "if (hit) {"
                yield from indent(at_hit)
                yield "}"
        if table.profile is not None:
            yield from self._run_member(t, table.profile, goto)
        elif table.default_const and len(t.inserted) == 1:
            yield from self._act(t, t.inserted[0], self._call(t, t.inserted[0]), goto)
        else:
            shown = t.inserted if table.default_const else tuple(t.entry.actions)
            yield f"switch ({t.packing.number('entry') if t.packing else 'entry->action'}) {{"
            for number, action in enumerate(shown):
                yield f"case {number if t.packing else t.entry.numbers[action.id]}: /* {action.name} */"
                yield from indent(self._act(t, action, self._call(t, action), goto))
            yield "default:"
            yield f"    {goto(None)}"
            yield "}"

    def _guard(self, t: TableLayout, goto: GotoMaker) -> Iterator[str]:
        """Yield C that drops a packet which was held up while what it found went out of use."""
        if t.guarded:
            yield f"if (CHANGES({t.symbol}) - changes > 1) {{"
            yield "    s->m.failed = DROP_CHANGED;"
            yield f"    {goto(None)}"
            yield "}"

    def _at_hit(self, t: TableLayout, handle: str) -> Iterator[str]:
        """Yield C of what a hit does beside its action."""
        table = t.table
        if t.counter:
            yield f"count_at(s, {t.counter}, {t.capacity}, {handle});"
        if table.ages:
            yield "{"
            yield f"    INDEX(seen, {handle});"
            yield f"    if (seen < {t.capacity})"
            yield f"        hits_{t.symbol}[seen] = bpf_ktime_get_coarse_ns();"
            yield "}"
        if table.meter is not None:
            meter = self._program.meters[table.meter]
            yield "{"
            yield f"    __u32 colour = {self._actions.colour(meter, c.place(handle, 64)).text};"
            if meter.target is not None:
                width = self._program.field(meter.target).width
                yield from indent(
                    self._layout.store(meter.target, cut(Value(c.place("colour", 32), 0, 2), width))
                )
            yield "    (void)colour;"
            yield "}"

    def _run_member(self, t: TableLayout, name: str, goto: GotoMaker) -> Iterator[str]:
        profile = self._layout.names("profile", name)
        yield f"struct member_{profile} *member = find_{profile}(s, entry->reference);"
        yield "if (!member) {"
        yield from indent(self._after_miss(t, None, goto))
        yield "}"
        yield "switch (member->action) {"
        own = {self._program.actions[n].name: self._program.actions[n] for n in t.table.actions}
        for number, action in enumerate(self.profiles[name].actions):
            if action.name in own:
                yield f"case {number}: /* {action.name} */"
                call = self.profiles[name].call(self._actions, number, "member")
                yield from indent(self._act(t, own[action.name], call, goto))
        yield "default:"
        yield f"    {goto(None)}"
        yield "}"

    def _call(self, t: TableLayout, action: ir.Action) -> str:
        if t.packing is not None:
            return t.packing.call(self._actions, action, "entry")
        return t.entry.call(self._actions, t.entry.numbers[action.id], "entry")

    def _act(self, t: TableLayout, action: ir.Action, call: str, goto: GotoMaker) -> Iterator[str]:
        """Yield C that runs an action and goes on."""
        yield from self._called(action, call, goto, self._next(t, action.id, goto))

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

    def after(self, action: int) -> GotoMaker:
        """Return what makes a `goto` once an action has run."""
        return self


class PathGotoMaker(GotoMaker):
    """The same where nodes have a copy for each shape that packets come to them with; None is any shape.

    `wanted` are the copies that were asked for, each with its label, in that order.
    """

    def __init__(
        self, prefix: str, names: Names, following: Following, shape: Shape | None, wanted: dict[Copy, str]
    ) -> None:
        super().__init__(prefix, names)
        self._following = following
        self.shape = shape
        self.wanted = wanted

    def label(self, node: str | None) -> str:
        """Return the C label of a node's copy, or that of the end."""
        shape = self.shape if len(self.wanted) < MAX_COPIES else None
        if (node, shape) not in self.wanted:
            name = f"{node or 'finished'} {' '.join(sorted(shape)) if shape is not None else 'any'}"
            self.wanted[node, shape] = f"{self._prefix}_{self._names(f'copies of {self._prefix}', name)}"
        return self.wanted[node, shape]

    def __call__(self, node: str | None) -> str:
        """Return the statement that goes to a node; None is the end."""
        return f"goto {self.label(node)};"

    def of(self, shape: Shape | None) -> PathGotoMaker:
        """Return what makes a `goto` for packets of another shape."""
        return PathGotoMaker(self._prefix, self._names, self._following, shape, self.wanted)

    def after(self, action: int) -> PathGotoMaker:
        """Return what makes a `goto` once an action has run."""
        return self.of(self._following(action, self.shape) if self.shape is not None else None)
