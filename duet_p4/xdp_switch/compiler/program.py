"""The whole program: from p4c's JSON to the C of an XDP program, and what Python must know about it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.actions import Actions
from duet_p4.xdp_switch.compiler.calculations import Calculations
from duet_p4.xdp_switch.compiler.check import check
from duet_p4.xdp_switch.compiler.digests import Digests
from duet_p4.xdp_switch.compiler.entries import ActionSet, TableLayout
from duet_p4.xdp_switch.compiler.expressions import Expressions
from duet_p4.xdp_switch.compiler.layout import Layout, indent
from duet_p4.xdp_switch.compiler.lifetimes import Lifetimes, written_by_parser
from duet_p4.xdp_switch.compiler.names import Names
from duet_p4.xdp_switch.compiler.optimize import DROP_PORT, optimize
from duet_p4.xdp_switch.compiler.parser import Parser
from duet_p4.xdp_switch.compiler.reader import read
from duet_p4.xdp_switch.compiler.replication import Replication
from duet_p4.xdp_switch.compiler.shapes import Shape, Shapes, common_shapes, extracted_in_order, parsed_shapes
from duet_p4.xdp_switch.compiler.tables import GotoMaker, PathGotoMaker, Tables
from duet_p4.xdp_switch.compiler.tracing import checks, offsets
from duet_p4.xdp_switch.compiler.uses import fields_read
from duet_p4.xdp_switch.dataplane import UnsupportedError

REPLAYED = 0x10000
"""What a test run returns for a packet that would leave, and its port."""
SPREAD = 0x20000
"""What it returns for one of which more packets come: 1 more where there are two kinds of them."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled program: the C source, and the layout of its tables and profiles by P4 name."""

    program: ir.Program
    source: str
    tables: dict[str, TableLayout]
    profiles: dict[str, ActionSet]
    names: Names
    copies: bool
    """Whether it has programs `again` and `next` for inner ports."""
    multicasts: bool
    clones: bool
    queues: bool
    """Whether packets may wait: it has programs `leave_queue` and `hold`."""
    digests: bool
    value_sets: frozenset[str]
    """The value sets that parser states select on."""
    layout: Layout
    """Where headers and metadata lie while a packet is processed."""


def compile_program(
    config: bytes,
    cpus: int,
    padding: int = 0,
    sizes: Mapping[str, int] | None = None,
    default_only: Mapping[str, Collection[str]] | None = None,
    traced: bool = False,
    queues: bool = False,
) -> Compiled:
    """Compile a BMv2 JSON to C, for a machine of so many CPUs.

    With `padding`, for test runs only, so many bytes behind each packet are none of it. `sizes` are those of
    the P4Info: of a table that the program gives entries, p4c's JSON counts just these. `default_only` are by
    table the actions that no entry may run, which only the P4Info tells, too. `traced` makes the instrumented
    variant, which runs on the very tables of the program. With `queues`, ports may have rates.

    Raises ValueError where `config` is no BMv2 JSON, UnsupportedError where the program uses what this
    switch does not support.
    """
    program = read(config)
    check(program)
    return _compile(_with_sizes(program, sizes or {}), cpus, padding, default_only or {}, traced, queues)


def _with_sizes(program: ir.Program, sizes: Mapping[str, int]) -> ir.Program:
    def widened(pipeline: ir.Pipeline) -> ir.Pipeline:
        tables = {
            name: replace(table, size=max(table.size, sizes.get(name, 0))) if table.entries else table
            for name, table in pipeline.tables.items()
        }
        return replace(pipeline, tables=tables)

    return replace(program, ingress=widened(program.ingress), egress=widened(program.egress))


def _compile(
    program: ir.Program,
    cpus: int,
    padding: int,
    default_only: Mapping[str, Collection[str]],
    traced: bool,
    queues: bool,
) -> Compiled:
    program = optimize(program)
    layout = _traced_layout(program, queues) if traced else _layout(program, queues)
    calculations = Calculations(layout)
    replication = Replication(layout, queues)
    actions = Actions(layout, calculations, replication)
    tables = Tables(layout, actions, calculations, default_only)
    generator = _Generator(program, layout, calculations, replication, actions, tables, cpus, padding)
    return Compiled(
        program=program,
        source="\n".join(generator.lines()) + "\n",
        tables=tables.layouts,
        profiles=tables.profiles,
        names=layout.names,
        copies=replication.active,
        multicasts=replication.multicasts,
        clones=replication.clones,
        queues=queues,
        digests=generator.digests.active,
        value_sets=frozenset(
            t.value_set for state in program.parser.values() for t in state.transitions if t.value_set
        ),
        layout=layout,
    )


def _traced_layout(program: ir.Program, queues: bool) -> Layout:
    """Return a layout in which all metadata lies in memory, to be looked at."""
    every = {
        ir.FieldRef(header.name, name)
        for header in program.headers.values()
        if header.metadata
        for name in header.type.fields
    }
    layout = Layout(program, every, traced=True)
    if Replication(layout).active:
        raise UnsupportedError("a program that clones, multicasts, resubmits or recirculates is not traced")
    if queues:
        raise UnsupportedError("a switch of whose ports some have rates is not traced")
    return layout


_SET_FIRST = ("ingress_port", "packet_length", "parser_error", "ingress_global_timestamp")
"""The standard metadata that is set when a packet starts, or when it is parsed."""


def _layout(program: ir.Program, queues: bool) -> Layout:
    """Return where headers and metadata are, the latter by how long it lives."""
    lifetimes = Lifetimes(program)
    read = fields_read(program)
    local = {reference for reference in read if lifetimes.local(reference)}
    # A copy, or another pass, starts with what of the metadata is kept.
    if Replication(Layout(program, read), queues).active or program.digests:
        return Layout(program, read, local=local)
    tracks = program.egress.start is not None
    cleared = lifetimes.cleared() - {ir.FieldRef(ir.STANDARD_METADATA, name) for name in _SET_FIRST}
    parsed = written_by_parser(program) if lifetimes.fits_stack(read) else None
    return Layout(program, read, cleared, local, tracks_length=tracks, parsed=parsed)


class _Generator:
    def __init__(
        self,
        program: ir.Program,
        layout: Layout,
        calculations: Calculations,
        replication: Replication,
        actions: Actions,
        tables: Tables,
        cpus: int,
        padding: int,
    ) -> None:
        self._cpus = cpus
        self._padding = padding
        self._replication = replication
        self.digests = Digests(layout)
        asserts = any(step.op in ("assert", "assume") for step in program.primitives())
        self._fails = asserts or any(table.guarded for table in tables.layouts.values())
        if self._fails:
            layout.more.append(
                "__u32 failed; /* why the packet is to be dropped at the end of its control */"
            )
        self._program = program
        self._layout = layout
        apart = layout.split and len(layout.valid_words) == 1
        self._paths = parsed_shapes(program) if apart else []
        self._calculations = calculations
        self._actions = actions
        self._tables = tables

    def lines(self) -> Iterator[str]:
        """Yield the lines of the C source."""
        program = self._program
        yield f"/* {program.name}, compiled from p4c's BMv2 JSON. Generated: do not edit. */"
        yield f"#define CPUS {self._cpus}"
        yield f"#define PADDING {self._padding} /* bytes behind a packet that are none of it, in test runs */"
        yield f"#define REPLAYED {REPLAYED:#x} /* what a test run returns: this and the port */"
        yield f"#define SPREAD {SPREAD:#x} /* or: run `again` on it, and `next` if 1 is added */"
        yield '#include "runtime.h"'
        yield ""
        declared = list(self._layout.declarations())
        yield from declared
        if self._layout.tracing.active:
            yield from checks(*offsets(declared))
        yield ""
        yield '#include "packet.h"'
        yield from self._layout.tracing.include()
        if self._calculations.streams:
            yield '#include "stream.h"'
        yield ""
        for counter in program.counters.values():
            if counter.table is None:
                yield f"COUNTERS(counter_{self._layout.names('counter', counter.name)}, {counter.size});"
        for register in program.registers.values():
            width = next(w for w in (8, 16, 32, 64) if register.width <= w)
            name = self._layout.names("register", register.name)
            yield f"__u{width} register_{name}[{max(register.size, 1)}];"
        if any(self._actions.locked(action) for action in program.actions.values()):
            yield '#include "registers.h"'
        if program.meters:
            yield '#include "meters.h"'
            for meter in program.meters.values():
                if meter.table is None:
                    yield f"METERS(meter_{self._layout.names('meter', meter.name)}, {max(meter.size, 1)});"
        yield ""
        yield from self._replication.declarations()
        yield from self.digests.declarations()
        yield from self._calculations.functions()
        for action in program.actions.values():
            yield from self._actions.function(action)
        yield from self._tables.declarations()
        yield from Parser(self._layout, self._actions).function()
        yield from self._verify_checksums()
        yield from self._pipeline(program.ingress)
        yield from self._pipeline(program.egress)
        yield from self._update_checksums()
        yield from self._deparse()
        yield from self._main()

    def _standard(self, field: str) -> ir.FieldRef:
        return ir.FieldRef(ir.STANDARD_METADATA, field)

    def _set(self, field: str, code: str) -> list[str]:
        """Return C that sets a field of the standard metadata, nothing where no one reads it."""
        header = self._program.headers[ir.STANDARD_METADATA]
        if field not in header.type.fields:
            return []
        slot = self._layout.slot(self._standard(field))
        return (
            []
            if slot is not None and slot.lvalue == code
            else self._layout.store(self._standard(field), c.place(code, 64))
        )

    def _verify_checksums(self) -> Iterator[str]:
        yield "static __always_inline void verify_checksums(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        for checksum in self._program.checksums:
            if not checksum.verify:
                continue
            expressions = Expressions(self._layout, checksum.source)
            tests = []
            if not self._program.headers[checksum.target.header].metadata:
                tests.append(self._layout.valid(checksum.target.header))
            if checksum.condition is not None:
                tests.append(expressions.condition(checksum.condition))
            test = c.every(*tests)
            yield f"    /* {checksum.target.header}.{checksum.target.field}, {checksum.source} */"
            yield f"    if ({test.text}) {{"
            computed = self._calculations.call(checksum.calculation)
            differs = c.compare("!=", computed, self._layout.load(checksum.target))
            yield f"        if ({differs.text}) {{"
            yield from indent(self._set("checksum_error", "1"), 3)
            yield "        }"
            yield "    }"
        yield "}"
        yield ""

    def _update_checksums(self) -> Iterator[str]:
        yield "static __always_inline void update_checksums(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        for checksum in self._program.checksums:
            if not checksum.update:
                continue
            expressions = Expressions(self._layout, checksum.source)
            test = c.number(1)
            if checksum.condition is not None:
                test = expressions.condition(checksum.condition)
            width = self._program.field(checksum.target).width
            code = c.masked(self._calculations.call(checksum.calculation), width)
            yield f"    /* {checksum.target.header}.{checksum.target.field}, {checksum.source} */"
            yield f"    if ({test.text}) {{"
            yield from indent(self._layout.store(checksum.target, code), 2)
            yield "    }"
        yield "}"
        yield ""

    def _pipeline(self, pipeline: ir.Pipeline) -> Iterator[str]:
        goto = GotoMaker(pipeline.name, self._layout.names)
        yield f"static __always_inline void {pipeline.name}(struct scratch *s)"
        yield "{"
        reached = self._reachable(pipeline)
        if pipeline.start is not None:
            yield f"    {goto(pipeline.start)}"
        for node in reached:
            yield ""
            if node in pipeline.tables:
                yield from self._tables.apply(node, goto.label(node), goto)
            else:
                conditional = pipeline.conditionals[node]
                expressions = Expressions(self._layout, conditional.source)
                shown = conditional.source.fragment.replace("*/", "* /")
                yield f"{goto.label(node)}: /* if ({shown}), {conditional.source} */"
                condition = expressions.condition(conditional.condition).text
                yield from indent(self._layout.tracing.branch(pipeline.name, node, condition))
                yield f"    if ({condition})"
                yield f"        {goto(conditional.if_true)}"
                yield f"    {goto(conditional.if_false)}"
        yield ""
        yield "finished:;"
        yield "}"
        yield ""

    def _path(self, number: int, entered: Shape) -> Iterator[str]:
        """Yield the C of ingress, and what follows on it, for packets that leave the parser in a shape.

        Each node has a copy for every shape that packets may have there: no test of validity is left.
        """
        pipeline, shapes = self._program.ingress, Shapes(self._program)
        goto = PathGotoMaker(f"path{number}", self._layout.names, shapes.after, entered, {})
        yield f"static __always_inline int path_{number}(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        yield f"    s->valid = s->entered = {self._mask(entered)};"
        yield "    s->parser_error = 0;"
        yield from indent(self._parsed())
        yield f"    {goto(pipeline.start)}"
        done = 0
        while done < len(goto.wanted):
            (node, shape), label = list(goto.wanted.items())[done]
            done += 1
            yield ""
            if node is None:
                yield f"{label}:"
                yield from self._known(shape)
                yield "    return finish(ctx, s);"
            elif node in pipeline.tables:
                yield from self._tables.apply(node, label, goto.of(shape), list(self._known(shape)))
            else:
                yield from self._conditional(pipeline.conditionals[node], label, goto.of(shape), shapes)
        yield "}"
        yield ""

    def _mask(self, shape: Shape) -> str:
        return " | ".join(sorted(self._layout.valid_bit(name) for name in shape)) or "0"

    def _known(self, shape: Shape | None) -> Iterator[str]:
        if shape is not None:
            yield f"    s->valid = {self._mask(shape)};"

    def _conditional(
        self, conditional: ir.Conditional, label: str, goto: PathGotoMaker, shapes: Shapes
    ) -> Iterator[str]:
        expressions = Expressions(self._layout, conditional.source)
        shown = conditional.source.fragment.replace("*/", "* /")
        yield f"{label}: /* if ({shown}), {conditional.source} */"
        yield from self._known(goto.shape)
        decided = shapes.decided(conditional.condition, goto.shape) if goto.shape is not None else None
        if decided is None:
            yield f"    if ({expressions.condition(conditional.condition).text})"
            yield f"        {goto(conditional.if_true)}"
        yield f"    {goto(conditional.if_true if decided else conditional.if_false)}"

    def _reachable(self, pipeline: ir.Pipeline) -> list[str]:
        """Return the nodes of a pipeline that control can reach, in the order met."""
        reached: list[str] = []
        pending = [pipeline.start] if pipeline.start is not None else []
        while pending:
            node = pending.pop()
            if node in reached:
                continue
            reached.append(node)
            following: list[str | None] = []
            if node in pipeline.tables:
                table = pipeline.tables[node]
                following += table.next_by_action.values()
                following += [*(table.next_hit or ()), *(table.next_miss or ()), table.default_next]
            else:
                following += [pipeline.conditionals[node].if_true, pipeline.conditionals[node].if_false]
            pending += [n for n in reversed(following) if n is not None]
        return reached

    def _deparse(self) -> Iterator[str]:
        order = [self._program.headers[name] for name in self._program.deparser]
        shapes = common_shapes(self._program) if len(self._layout.valid_words) == 1 else []
        yield "/* Put the valid headers in front of the payload; false where the frame has no room. */"
        yield "static __always_inline bool deparse(struct xdp_md *ctx, struct scratch *s)"
        yield "{"
        if shapes:
            yield "    switch (s->valid) {"
            for shape in shapes:
                yield from indent(self._deparse_shape([h for h in order if h.name in shape], shape))
            yield "    }"
        if self._layout.split:
            stored = (word.removeprefix("s->") for word in self._layout.valid_words)
            yield from (f"    s->mem->{word} = s->{word};" for word in stored)
        yield "    __u32 total = 0;"
        for header in order:
            yield f"    if {self._layout.valid_in_memory(header.name)}"
            yield f"        total += {self._layout.length(header.name)};"
        yield "    if (total != s->parsed && bpf_xdp_adjust_head(ctx, (int)s->parsed - (int)total))"
        yield "        return false;"
        if order:
            yield "    __u8 *data = (__u8 *)(long)ctx->data;"
            yield "    __u8 *data_end = (__u8 *)(long)ctx->data_end;"
            yield f"    {self._layout.offset} = 0;"
        for header in order:
            yield f"    if {self._layout.valid_in_memory(header.name)} {{ /* {header.name} */"
            if header.type.varbit is not None:
                yield from indent(self._emit_varbit(header), 2)
            else:
                size = header.type.bytes
                yield f"        __u8 *here = data + (*(volatile __u32 *)&{self._layout.offset} & 0x3fff);"
                yield "        HIDE(here);"
                yield f"        if (here + {size} > data_end)"
                yield "            return false;"
                yield from indent(self._layout.emit(header.name, "here"), 2)
                yield f"        {self._layout.offset} += {size};"
            yield "    }"
        yield "    return true;"
        yield "}"
        yield ""

    def _deparse_shape(self, headers: list[ir.Header], shape: Shape) -> Iterator[str]:
        """Yield the case of a packet with just these valid headers: its offsets are known."""
        total = sum(header.type.bytes for header in headers)
        mask = self._mask(shape)
        yield f"case {mask}: {{"
        yield f"    if (s->parsed != {total} && bpf_xdp_adjust_head(ctx, (int)s->parsed - {total}))"
        yield "        return false;"
        yield "    __u8 *data = (__u8 *)(long)ctx->data;"
        yield f"    if (data + {total} > (__u8 *)(long)ctx->data_end)"
        yield "        return false;"
        if shape in self._paths and extracted_in_order(self._program, headers, shape):
            yield f"    if (s->entered == ({mask}) && s->parsed == {total}) {{"
            yield from indent(self._emitted(headers, changed=True), 2)
            yield "        return true;"
            yield "    }"
        yield from indent(self._emitted(headers))
        yield "    return true;"
        yield "}"

    def _emitted(self, headers: Sequence[ir.Header], *, changed: bool = False) -> Iterator[str]:
        """Yield C that writes headers to `data`, where they are `changed` only what the program may have."""
        at = 0
        for header in headers:
            yield from self._layout.emit(header.name, f"data + {at}", changed=changed)
            at += header.type.bytes

    def _emit_varbit(self, header: ir.Header) -> Iterator[str]:
        """Yield C that writes a header with a varbit field, by helper: pointers cannot follow its length."""
        kind = header.type
        member = kind.varbit
        assert member is not None
        place = self._layout.header(header.name)
        first, last = member.offset // 8, (member.offset + member.width) // 8
        yield f"__u32 at = *(volatile __u32 *)&{self._layout.offset} & 0x3fff;"
        yield f"__u32 size = {self._layout.varbit_length(header.name)};"
        yield "HIDE(size);"
        yield f"if (size > {last - first})"
        yield f"    size = {last - first};"
        if first:
            yield f"if (bpf_xdp_store_bytes(ctx, at, {place}, {first}))"
            yield "    return false;"
        yield "if (size) {"
        yield "    __u64 some = size;"
        yield f"    BOUND(some, {last - first});"
        yield f"    if (bpf_xdp_store_bytes(ctx, at + {first}, {place} + {first}, some))"
        yield "        return false;"
        yield "}"
        if kind.bytes - last:
            yield f"if (bpf_xdp_store_bytes(ctx, at + {first} + size, {place} + {last}, {kind.bytes - last}))"
            yield "    return false;"
        yield f"{self._layout.offset} += {kind.bytes - (last - first)} + size;"

    def _main(self) -> Iterator[str]:
        if self._replication.active:
            yield "static __always_inline int"
            yield "run(struct xdp_md *ctx, struct scratch *s, __u32 stage, bool placed)"
            yield "{"
            yield "    if (stage == INGRESS) {"
            yield from indent(self._ingress(), 2)
            yield "    }"
            yield "    if (stage != FINISH) {"
            yield "        if (!placed)"
            yield f"            s->egress_port = {self._layout.load(self._standard('egress_spec')).text};"
            yield from indent(self._replication.before_egress(), 2)
            yield from indent(self._egress("s->egress_port"), 2)
            yield "    }"
            yield from indent(self._finish())
            yield "}"
            yield ""
            yield from self._replication.again(
                start=[*self._start(), *self._set("packet_length", "s->received")],
                parsed=list(self._parsed()),
                kind=self._set("instance_type", "kind"),
                rid=self._set("egress_rid", "rid"),
            )
            yield ""
            yield from self._replication.leave_queue(
                [
                    *self._set("enq_timestamp", "(ticket.enqueued / 1000) & 0xffffffff"),
                    *self._set("enq_qdepth", "ticket.enqueued_depth & 0x7ffff"),
                    *self._set("deq_timedelta", "((ticket.dequeued - ticket.enqueued) / 1000) & 0xffffffff"),
                    *self._set("deq_qdepth", "ticket.dequeued_depth & 0x7ffff"),
                ]
            )
        if self._layout.split:
            yield "/* What comes after ingress. */"
            yield "static __always_inline int finish(struct xdp_md *ctx, struct scratch *s)"
            yield "{"
            yield from self._to_the_end()
            yield "}"
            yield ""
            for number, shape in enumerate(self._paths):
                yield from self._path(number, shape)
        yield 'SEC("xdp")'
        yield "int pipeline(struct xdp_md *ctx)"
        yield "{"
        yield "    __u32 zero = 0;"
        if self._layout.split:
            yield "    struct scratch packet = {}, *s = &packet;"
            yield "    s->mem = bpf_map_lookup_elem(&scratches, &zero);"
            yield "    if (!s->mem)"
        else:
            yield "    struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);"
            yield "    if (!s)"
        yield "        return XDP_ABORTED;"
        yield from indent(self._layout.tracing.entered())
        yield "    __u32 ingress_port;"
        yield "    if (!find_port(ctx, &ingress_port))"
        yield "        return drop(DROP_PORT_UNKNOWN);"
        yield ""
        yield from indent(self._start())
        yield from indent(self._set("ingress_port", "ingress_port"))
        yield from indent(self._set("packet_length", "s->received"))
        yield from indent(self._set("ingress_global_timestamp", "bpf_ktime_get_ns() / 1000"))
        yield from indent(self._layout.tracing.start())
        yield "    parse(ctx, s);"
        if self._layout.split:
            yield from indent(self._by_shape())
            yield from indent(self._parsed())
            yield "    ingress(s);"
            yield "    return finish(ctx, s);"
            yield "}"
            return
        yield "    BARRIER();"
        yield from indent(self._layout.tracing.parsed())
        yield from indent(self._parsed())
        if self._replication.active:
            yield "    return run(ctx, s, INGRESS, false);"
            yield "}"
            return
        yield "    ingress(s);"
        yield from self._to_the_end()
        yield "}"

    def _by_shape(self) -> Iterator[str]:
        """Yield C that hands over from the parser, with a path of their own for packets of common shapes."""
        if self._paths:
            yield "if (s->parser_error == 0) {"
            yield "    switch (s->valid) {"
            for number, shape in enumerate(self._paths):
                yield f"    case {self._mask(shape)}:"
                yield "        BARRIER();"
                yield f"        return path_{number}(ctx, s);"
            yield "    }"
            yield "}"
        known = [word.removeprefix("s->") for word in self._layout.valid_words] + ["parsed", "parser_error"]
        yield from (f"s->mem->{name} = s->{name};" for name in known)
        yield "BARRIER();"
        yield from (f"s->{name} = s->mem->{name};" for name in known)

    def _to_the_end(self) -> Iterator[str]:
        """Yield C for what follows on ingress in a program that makes one packet of one."""
        yield from indent(self._after_ingress())
        yield ""
        yield f"    __u32 egress_port = {self._layout.load(self._standard('egress_spec')).text};"
        yield f"    if (egress_port == {DROP_PORT})"
        yield "        return drop(DROP_BY_PROGRAM);"
        yield "    s->egress_port = egress_port;"
        yield from indent(self._egress("egress_port"))
        yield from indent(self._finish())

    def _start(self) -> list[str]:
        return [*(f"{word} = 0;" for word in self._layout.valid_words[1:]), "start_packet(ctx, s);"]

    def _parsed(self) -> Iterator[str]:
        yield from self._set("parser_error", "s->parser_error")
        yield "verify_checksums(ctx, s);"

    def _failure(self) -> Iterator[str]:
        if self._fails:
            yield "if (s->m.failed)"
            yield "    return drop(s->m.failed);"

    def _ingress(self) -> Iterator[str]:
        """Yield C for ingress and what follows on it, but for unicast."""
        yield "ingress(s);"
        yield from self._after_ingress()

    def _after_ingress(self) -> Iterator[str]:
        yield "BARRIER();"
        yield from self._layout.tracing.done(0)
        yield from self._failure()
        yield from self.digests.after_ingress()
        yield from self._replication.after_ingress(DROP_PORT)
        if self._replication.active:
            yield f"if ({self._layout.load(self._standard('egress_spec')).text} == {DROP_PORT})"
            yield "    return drop(DROP_BY_PROGRAM);"
            yield from self._set("instance_type", "NORMAL")

    def _egress(self, port: str) -> Iterator[str]:
        if self._program.egress.start is None and not self._replication.active:
            return
        yield from self._set("egress_port", port)
        yield from self._set("egress_spec", "0")
        yield from self._set("packet_length", "s->length")
        yield from self._set("egress_global_timestamp", "bpf_ktime_get_ns() / 1000")
        yield "egress(s);"
        yield "BARRIER();"
        yield from self._layout.tracing.done(1)
        yield from self._failure()
        yield from self._replication.after_egress(DROP_PORT)

    def _finish(self) -> Iterator[str]:
        if self._program.egress.start is not None or self._replication.active:
            yield from self._egress_drops()
        if self._replication.active:
            yield "__u32 egress_port = s->egress_port;"
        elif self._program.egress.start is not None:
            yield "egress_port = s->egress_port;"
        yield "update_checksums(ctx, s);"
        yield "BARRIER();"
        yield "if (!deparse(ctx, s) || !truncate(ctx, s))"
        yield "    return drop(DROP_NO_ROOM);"
        yield from self._replication.after_deparser()
        yield "return transmit(ctx, egress_port);"

    def _egress_drops(self) -> Iterator[str]:
        yield f"if ({self._layout.load(self._standard('egress_spec')).text} == {DROP_PORT})"
        yield "    return drop(DROP_BY_PROGRAM);"
        yield ""
