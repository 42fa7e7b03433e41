"""What becomes of a packet between ingress and egress, and behind egress, in C.

A program that neither clones nor multicasts, resubmits or recirculates has none of this: a packet runs
through ingress, egress and deparser in one go. Others have a second program, `again`, behind the end of an
inner veth pair, which makes the copies: see include/replicate.h. The order, and what a copy keeps, are
simple_switch's: clones of ingress first, then resubmit before multicast before unicast; behind egress the
packet itself, then its clones. A clone of ingress is the packet as it came in, parsed once more. All but the
replicas of a multicast group lose their metadata, but for the field list that is preserved.
"""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.layout import Layout, copy_bytes, indent
from duet_p4.xdp_switch.compiler.uses import multicasts

MAX_GROUP = 0xFFFF
MAX_SESSION = 0x7FFF
REPLICAS = 16384
"""Replicas that all multicast groups and clone sessions of a program have room for."""

_SESSION_VALID = 0x8000


class Replication:
    """Compiles what a program does beside sending a packet to one port; `active` where it does any."""

    def __init__(self, layout: Layout, queues: bool = False) -> None:
        """With `queues`, packets to ports with a rate wait in front of egress."""
        self._layout = layout
        self.queues = queues
        program = self._program = layout.program
        ops = {step.op for step in program.primitives()}
        self.clones_ingress = "clone_ingress_pkt_to_egress" in ops
        self.clones_egress = "clone_egress_pkt_to_egress" in ops
        self.resubmits = "resubmit" in ops
        self.recirculates = "recirculate" in ops
        self.multicasts = multicasts(program)
        self.active = self.clones or self.resubmits or self.recirculates or self.multicasts or queues
        if self.active:
            for name in ("clone", "clone_fields", "resubmit", "recirculate", "passes"):
                layout.more.append(f"__u32 {name};")

    @property
    def clones(self) -> bool:
        """Whether the program clones at all."""
        return self.clones_ingress or self.clones_egress

    def declarations(self) -> Iterator[str]:
        """Yield the C declarations that `replicate.h` stands on, and what it lacks."""
        if not self.active:
            return
        yield f"#define REPLICAS {REPLICAS}"
        yield '#include "replicate.h"'
        if self.queues:
            yield '#include "queue.h"'
        yield ""
        if self.multicasts:
            yield "/* multicast group -> first replica << 32 | number of replicas */"
            yield f"__u64 multicast_groups[{MAX_GROUP + 1}];"
        if self.clones:
            yield "/* clone session -> first replica << 32 | number of replicas; bytes kept, 0 for all */"
            yield f"__u64 clone_sessions[{MAX_SESSION + 1}];"
            yield f"__u32 clone_truncations[{MAX_SESSION + 1}];"
        yield ""
        yield from self._preserve()

    def _preserve(self) -> Iterator[str]:
        yield "/* Copy the metadata of a field list. */"
        yield "static __always_inline void preserve(struct scratch *s, struct scratch *from, __u32 list)"
        yield "{"
        yield "    switch (list) {"
        for number, fields in self._program.field_lists.items():
            lines = [line for field in fields for line in self._preserved(field)]
            if lines:
                yield f"    case {number}:"
                yield from indent(lines, 2)
                yield "        break;"
        yield "    }"
        yield "}"
        yield ""

    def _preserved(self, field: ir.FieldRef) -> list[str]:
        if not self._program.headers[field.header].metadata:
            raise ir.unsupported(
                f"preserving {field.header}.{field.field}, which is no metadata,", ir.Source()
            )
        if not self._layout.stored(field):
            return []
        slot = self._layout.slot(field)
        if slot is not None:
            return [f"{slot.lvalue} = {_of('from', slot.lvalue)};"]
        held = self._layout.bytes_of(field)
        return [
            *copy_bytes(held.place, _of("from", held.place), held.room),
            f"{held.length} = {_of('from', held.length)};",
        ]

    def primitive(self, op: str, arguments: list[str]) -> list[str]:
        """Return the C statements of a primitive that asks for a copy or another pass."""
        if op in ("clone_ingress_pkt_to_egress", "clone_egress_pkt_to_egress"):
            session, fields = arguments
            return [
                f"s->m.clone = ({session} & {MAX_SESSION:#x}) | {_SESSION_VALID:#x};",
                f"s->m.clone_fields = {fields};",
            ]
        # BMv2 takes the number of the list for the flag: list 0 asks for nothing.
        return [f"s->m.{op} = {arguments[0]};"]

    def after_ingress(self, drop_port: int) -> Iterator[str]:
        """Yield C that spreads a packet which is to become more, or other, than one unicast packet."""
        group = ir.FieldRef(ir.STANDARD_METADATA, "mcast_grp")
        asked = [
            *(["s->m.clone"] if self.clones_ingress else []),
            *(["s->m.resubmit"] if self.resubmits else []),
            *([self._layout.load(group).text] if self.multicasts else []),
        ]
        if not asked:
            return
        spec = self._layout.load(ir.FieldRef(ir.STANDARD_METADATA, "egress_spec"))
        yield f"if ({' || '.join(asked)}) {{"
        yield "    struct state what = { .stage = EGRESS, .kind = NORMAL };"
        yield f"    what.others = {spec} != {drop_port};"
        if self.multicasts:
            yield f"    __u32 group = {self._layout.load(group).text};"
            yield "    if (group) {"
            yield f"        INDEX(at, group & {MAX_GROUP:#x});"
            yield "        struct range members = range_of(multicast_groups[at]);"
            yield "        what.kind = REPLICA;"
            yield "        what.others = members.count;"
            yield "        what.first_replica = members.first;"
            yield "    }"
        if self.resubmits:
            yield "    if (s->m.resubmit) {"
            yield "        what.kind = RESUBMITTED;"
            yield "        what.stage = INGRESS;"
            yield "        what.others = 1;"
            yield "    }"
        if self.clones_ingress:
            yield from indent(self._clones())
        yield "    return spread(ctx, s, &what);"
        yield "}"

    def after_egress(self, drop_port: int) -> Iterator[str]:
        """Yield C that spreads a packet of which egress asked for clones."""
        if not self.clones_egress:
            return
        spec = self._layout.load(ir.FieldRef(ir.STANDARD_METADATA, "egress_spec"))
        yield "if (s->m.clone) {"
        yield "    struct state what = { .stage = FINISH, .kind = NORMAL };"
        yield f"    what.others = {spec} != {drop_port};"
        yield from indent(self._clones())
        yield "    return spread(ctx, s, &what);"
        yield "}"

    @staticmethod
    def _clones() -> Iterator[str]:
        yield "if (s->m.clone) {"
        yield f"    INDEX(session, s->m.clone & {MAX_SESSION:#x});"
        yield "    what.clones = range_of(clone_sessions[session]);"
        yield "    what.truncate_clones = clone_truncations[session];"
        yield "}"

    def before_egress(self) -> Iterator[str]:
        """Yield C that has a packet wait for a port with a rate."""
        if self.queues:
            yield "if (stage != EGRESS_NOW && waits(s->egress_port))"
            yield "    return enqueue(ctx, s);"

    def leave_queue(self, waited: list[str]) -> Iterator[str]:
        """Yield the program of packets that have waited; `waited` sets metadata from C's `ticket`."""
        if not self.queues:
            return
        yield 'SEC("xdp")'
        yield "int leave_queue(struct xdp_md *ctx)"
        yield "{"
        yield "    __u32 zero = 0;"
        yield "    struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);"
        yield "    struct ticket ticket;"
        yield "    struct state *from = called(ctx, &ticket);"
        yield "    if (!s || !from)"
        yield "        return drop(DROP_PASSES);"
        yield "    copy_scratch(s, &from->s);"
        yield "    BARRIER();"
        yield from indent(waited)
        yield "    return run(ctx, s, EGRESS_NOW, true);"
        yield "}"
        yield ""

    def after_deparser(self) -> Iterator[str]:
        """Yield C that sends a recirculated packet round, as it would have left."""
        if not self.recirculates:
            return
        yield "if (s->m.recirculate) {"
        yield "    struct state what = { .stage = INGRESS, .kind = RECIRCULATED, .others = 1 };"
        yield "    return spread(ctx, s, &what);"
        yield "}"

    def again(self, start: list[str], parsed: list[str], kind: list[str], rid: list[str]) -> Iterator[str]:
        """Yield the program behind the inner port.

        `start` starts a packet, `parsed` is what is done behind the parser; `kind` and `rid` set the
        metadata of these names from C variables of these names.
        """
        yield 'SEC("xdp")'
        yield "int again(struct xdp_md *ctx)"
        yield "{"
        yield "    __u32 zero = 0;"
        yield "    struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);"
        yield "    struct tag tag;"
        yield "    struct state *from = tagged(ctx, &tag);"
        yield "    if (!s || !from || bpf_xdp_adjust_head(ctx, sizeof(struct tag)))"
        yield "        return drop(DROP_PASSES);"
        yield "    struct replica *to = 0;"
        yield "    __u32 kind = from->kind, stage = from->stage;"
        yield "    /* Behind egress the packet itself goes first: simple_switch queues the clones anew. */"
        yield "    __u32 cloned = tag.item - (stage == FINISH ? from->others : 0);"
        yield "    bool clone = cloned < from->clones.count;"
        yield "    if (clone) {"
        yield "        kind = stage == FINISH ? EGRESS_CLONE : INGRESS_CLONE;"
        yield "        stage = EGRESS;"
        yield "        to = replica_at(from->clones.first + cloned);"
        yield "    } else if (kind == REPLICA) {"
        yield "        to = replica_at(from->first_replica + tag.item - from->clones.count);"
        yield "    }"
        yield "    if (kind == INGRESS_CLONE || kind == RESUBMITTED || kind == RECIRCULATED) {"
        yield from indent(start, 2)
        yield "        if (kind != INGRESS_CLONE) {"
        yield "            __u32 list = kind == RESUBMITTED ? from->s.m.resubmit : from->s.m.recirculate;"
        yield "            preserve(s, &from->s, list);"
        yield from indent(kind, 3)
        yield "        }"
        yield "        parse(ctx, s);"
        yield "        BARRIER();"
        yield "        if (kind == INGRESS_CLONE) {"
        yield "            forget_metadata(s);"
        yield "            preserve(s, &from->s, from->s.m.clone_fields);"
        yield "        } else {"
        yield from indent(parsed, 3)
        yield "        }"
        yield "    } else {"
        yield "        copy_scratch(s, &from->s);"
        yield "        if (kind == EGRESS_CLONE) {"
        yield "            forget_metadata(s);"
        yield "            preserve(s, &from->s, from->s.m.clone_fields);"
        yield "        }"
        yield "    }"
        yield "    BARRIER();"
        yield "    s->m.passes = tag.passes;"
        yield "    s->m.clone = 0;"
        yield "    s->m.resubmit = 0;"
        yield "    if (clone && from->truncate_clones)"
        yield "        s->truncated = from->truncate_clones;"
        yield from indent(kind)
        yield "    if (to) {"
        yield "        __u32 rid = to->rid;"
        yield from indent(rid, 2)
        yield "        s->egress_port = to->port;"
        yield "    }"
        yield "    return run(ctx, s, stage, to != 0);"
        yield "}"


def _of(scratch: str, lvalue: str) -> str:
    return scratch + lvalue.removeprefix("s")
