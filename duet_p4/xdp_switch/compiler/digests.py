"""Digests in C: samples in a ring buffer, taken at the end of ingress as in simple_switch."""

from __future__ import annotations

from collections.abc import Iterator

from duet_p4.xdp_switch.compiler import c, ir
from duet_p4.xdp_switch.compiler.expressions import Expressions
from duet_p4.xdp_switch.compiler.layout import Layout, indent

RING_BYTES = 1 << 18


class Digests:
    """Compiles a program's digests. A sample is its number, then each value in 128 bits, low half first."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._digests = layout.program.digests
        used = any(step.op == "generate_digest" for step in layout.program.primitives())
        self.active = used and bool(self._digests)
        if self.active:
            layout.more.append("__u32 digest; /* the number of the one to send */")

    def declarations(self) -> Iterator[str]:
        """Yield the C declarations."""
        if not self.active:
            return
        yield "struct {"
        yield "    __uint(type, BPF_MAP_TYPE_RINGBUF);"
        yield f"    __uint(max_entries, {RING_BYTES});"
        yield '} digests SEC(".maps");'
        yield "__u64 digests_lost;"
        yield ""
        yield "static __always_inline void send_digest(struct scratch *s)"
        yield "{"
        yield "    switch (s->m.digest) {"
        for number, digest in self._digests.items():
            yield f"    case {number}: {{ /* {digest.name} */"
            yield from indent(self._sample(digest), 2)
            yield "        break;"
            yield "    }"
        yield "    }"
        yield "}"
        yield ""

    def _sample(self, digest: ir.Digest) -> Iterator[str]:
        count = 1 + 2 * len(digest.values)
        yield f"__u64 *sample = bpf_ringbuf_reserve(&digests, {8 * count}, 0);"
        yield "if (!sample) {"
        yield "    __sync_fetch_and_add(&digests_lost, 1);"
        yield "    break;"
        yield "}"
        yield f"sample[0] = {digest.id};"
        expressions = Expressions(self._layout, ir.Source())
        for number, piece in enumerate(digest.values):
            if piece.width > 128 or isinstance(piece.value, ir.Named):
                raise ir.unsupported(f"a value of {piece.width} bits of digest {digest.name}", ir.Source())
            code = expressions.assignable(piece.value, piece.width)
            yield f"sample[{1 + 2 * number}] = {code.text};"
            high = c.binary(">>", code, c.number(64), 128) if piece.width > 64 else c.number(0)
            yield f"sample[{2 + 2 * number}] = {high.text};"
        yield "bpf_ringbuf_submit(sample, 0);"

    def after_ingress(self) -> Iterator[str]:
        """Yield C that sends the digest that ingress asked for."""
        if self.active:
            yield "if (s->m.digest) {"
            yield "    send_digest(s);"
            yield "    s->m.digest = 0;"
            yield "}"
