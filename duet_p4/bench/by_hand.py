"""hmux.p4 by hand, on the tables of the compiled program: the floor of a full pipeline (`bpf/by_hand.h`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from duet_p4.bench.line import PROGRAMS
from duet_p4.bpf import Object, Program
from duet_p4.tracing.variant import shared_maps
from duet_p4.xdp_switch.compiler import Compiled
from duet_p4.xdp_switch.pipeline import XdpPipeline, build

PROGRAM = PROGRAMS / "by_hand.h"
_OWN_MAPS = ("compiled", "scratches", ".rodata")
_PREFIX = "HmuxIngress."


@contextmanager
def by_hand(pipeline: XdpPipeline, *, replays: bool = False) -> Iterator[tuple[Object, Program]]:
    """Offer the program, which looks up the tables of a loaded hmux.p4, and leaves the rest to that.

    One that `replays` sends nothing, as that of the pipeline.
    """
    text = "\n".join((pipeline.compiled.source, *_entries(pipeline.compiled), PROGRAM.read_text()))
    with Object(build(replace(pipeline.compiled, source=text))) as loaded:
        shared = shared_maps(pipeline.loaded, loaded, _OWN_MAPS)
        loaded.load({"replays": b"\1"} if replays else {}, share=shared, programs=["by_hand"])
        loaded.map("compiled").update(bytes(4), pipeline.program.fd.to_bytes(4, "little"))
        yield loaded, loaded.program("by_hand")


def _entries(compiled: Compiled) -> Iterator[str]:
    """Yield macros for what a table's entry says: its action, its handle, the action's arguments."""
    yield "#define CONFIGURED(name) \\"
    yield f"    configuration->of_{_symbol(compiled, 'admission.configure')}.p_##name"
    yield f"#define NEXTHOP(next, name) (next)->of_{_symbol(compiled, 'routing.forward')}.p_##name"
    yield "#define NEXTHOP_ENTRY entry_HmuxIngress_routing_nexthop_table"
    for name, table in compiled.tables.items():
        short = name.removeprefix(_PREFIX).replace(".", "_")
        if not table.table.keys and table.table.default_const:
            continue
        packing = table.packing
        shown = packing.actions if packing is not None else tuple(table.entry.actions)
        for number, action in enumerate(shown):
            if action.name.startswith(_PREFIX):
                known = action.name.removeprefix(_PREFIX).replace(".", "_")
                yield f"#define ACTION_{known} {number}"
        if packing is None:
            continue
        yield f"#define ENTRY_{short}_ACTION(word) ({packing.number('(word)')})"
        yield f"#define ENTRY_{short}_HANDLE(word) ({packing.handle('(word)')})"
        for action in packing.actions:
            known = action.name.removeprefix(_PREFIX).replace(".", "_")
            for parameter, code in packing.arguments(action, "(word)"):
                yield f"#define ENTRY_{known}_{parameter}(word) ({code})"


def _symbol(compiled: Compiled, name: str) -> str:
    action = next(a for a in compiled.program.actions.values() if a.name == _PREFIX + name)
    return f"{compiled.names('action', action.name)}_{action.id}"
