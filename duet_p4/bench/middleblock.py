"""PINS' middleblock, somebody else's program, with 10,000 routes, 100 next hops and 500 ACL entries.

4ward publishes BMv2's rate with these. The source is p4c's pins_middleblock.p4, which p4c on PATH compiles.
Every packet is routed and rewritten, and no ACL entry matches it. xdp forwards in the context of the sender,
so its rate is one flat out; BMv2's is the highest paced one with a loss below `MAX_LOSS`, as in `dataplane`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from finsy import P4Schema, P4TableAction, P4TableEntry, P4TableMatch

from duet_p4 import p4c
from duet_p4.bench.dataplane import FLAT_OUT_PPS, LOWEST_PPS, Pacer, Progress
from duet_p4.bench.line import BenchError, Line
from duet_p4.bench.switches import OUT_PORT, Switch, available, inserts
from duet_p4.bench.traffic import SWITCH_MAC, Generator

SIZE = 64
"""Frame length in bytes, without FCS."""
ROUTES, NEXTHOPS, ACL_ENTRIES = 10_000, 100, 500
_FIRST_ROUTE = int(IPv4Address("10.0.0.0"))
_FIRST_DENIED = int(IPv4Address("203.0.113.0"))
_MAC = 0x02_00_00_00_01_00
_VRF = 1


@dataclass(frozen=True, slots=True)
class Scale:
    """How many entries, and for how long each is measured."""

    routes: int = ROUTES
    nexthops: int = NEXTHOPS
    acl_entries: int = ACL_ENTRIES
    runs: int = 5
    seconds: float = 1.0
    steps: int = 6


@dataclass(frozen=True, slots=True)
class Result:
    """What one target does: packets per second by the clock, their loss, and entries written per second."""

    target: str
    pps: float
    loss: float
    writes_per_s: float


def compiled(source: Path, folder: Path) -> P4Schema:
    """Compile the program. Raises BenchError where p4c is missing, or does not like it."""
    config, info = folder / "middleblock.json", folder / "middleblock.p4info.txtpb"
    try:
        p4c.compile_p4(source, config, info)
    except FileNotFoundError as error:
        raise BenchError(str(error)) from error
    except p4c.CompileError as error:
        raise BenchError(f"{p4c.COMPILER} does not compile {source}: {str(error)[-500:]}") from error
    return P4Schema(info, config)


def entries(scale: Scale) -> Iterator[P4TableEntry]:
    """Yield what is in the tables, one after the other: what is routed leaves by `OUT_PORT`, rewritten."""
    yield _entry(
        "l3_admit_table", {"dst_mac": int.from_bytes(SWITCH_MAC, "big")}, "admit_to_l3", {}, priority=1
    )
    yield _entry("vrf_table", {"vrf_id": _VRF}, "no_action", {})
    yield _entry("acl_pre_ingress_table", {"is_ipv4": 1}, "set_vrf", {"vrf_id": _VRF}, priority=1)
    interfaces = [{"router_interface_id": number} for number in range(1, scale.nexthops + 1)]
    neighbors = [interface | {"neighbor_id": number} for number, interface in enumerate(interfaces, 1)]
    for number, interface in enumerate(interfaces, 1):
        port = {"port": OUT_PORT, "src_mac": _MAC + number}
        yield _entry("router_interface_table", interface, "set_port_and_src_mac", port)
    for number, neighbor in enumerate(neighbors, 1):
        yield _entry("neighbor_table", neighbor, "set_dst_mac", {"dst_mac": _MAC + 0x10000 + number})
    for number, neighbor in enumerate(neighbors, 1):
        yield _entry("nexthop_table", {"nexthop_id": number}, "set_ip_nexthop", neighbor)
    for number, prefix in enumerate(_prefixes(scale)):
        match = {"vrf_id": _VRF, "ipv4_dst": f"{IPv4Address(prefix)}/24"}
        nexthop = {"nexthop_id": number % scale.nexthops + 1}
        yield _entry("ipv4_table", match, "set_nexthop_id", nexthop)
    for first, table in enumerate(("acl_ingress_table", "acl_ingress_security_table")):
        for number in range(first, scale.acl_entries, 2):
            match = {"is_ipv4": 1, "dst_ip": str(IPv4Address(_FIRST_DENIED + number))}
            yield _entry(table, match, "acl_drop", {}, priority=number + 1)


def _prefixes(scale: Scale) -> list[int]:
    return [_FIRST_ROUTE + 256 * number for number in range(scale.routes)]


def _entry(
    table: str, match: Mapping[str, object], action: str, arguments: Mapping[str, object], priority: int = 0
) -> P4TableEntry:
    return P4TableEntry(
        table, match=P4TableMatch(match), action=P4TableAction(action, **arguments), priority=priority
    )


def measure(source: Path, scale: Scale, progress: Progress) -> list[Result]:
    """Measure xdp, and BMv2 where it is on PATH. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="duet-bench-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        schema = compiled(source, folder)
        return [
            _measure(target, schema, scale, stack, folder, progress)
            for target in ("xdp", "bmv2")
            if available(target)
        ]


def _measure(
    target: str, schema: P4Schema, scale: Scale, stack: ExitStack, folder: Path, progress: Progress
) -> Result:
    line = stack.enter_context(Line())
    progress(f"{target}: starts, and takes the program")
    switch = stack.enter_context(Switch(target, line, folder, schema))
    requests = inserts(entries(scale), schema=schema)
    began = time.perf_counter()
    switch.write(requests)
    written = sum(len(request.updates) for request in requests) / (time.perf_counter() - began)
    generator = Generator(line, folder, [prefix + 1 for prefix in _prefixes(scale)], SIZE)
    if target == "xdp":
        runs = []
        for number in range(scale.runs):
            progress(f"xdp: run {number + 1} of {scale.runs}")
            runs.append(generator.flat_out(round(FLAT_OUT_PPS * scale.seconds)))
        pps, loss = statistics.median(r.pps for r in runs), statistics.median(r.loss for r in runs)
        return Result(target, pps, loss, written)
    progress("bmv2: looks for the highest pace without loss")
    # BMv2 changes to a new pipeline when packets come, and loses some then.
    generator.paced(LOWEST_PPS / 4, scale.seconds)
    found = Pacer(scale.seconds, scale.steps).highest(generator, LOWEST_PPS / 4)
    return Result(target, found.pps, found.loss, written)


def summary(results: Sequence[Result]) -> dict[str, float | None]:
    """Return the figures by the names that `duet bench middleblock --json` has for them."""
    by_target = {result.target: result for result in results}
    figures: dict[str, float | None] = {}
    for target in ("xdp", "bmv2"):
        found = by_target.get(target)
        for name in ("pps", "loss", "writes_per_s"):
            figures[f"{target}_{name}"] = None if found is None else getattr(found, name)
    xdp, bmv2 = by_target.get("xdp"), by_target.get("bmv2")
    return {**figures, "xdp_over_bmv2": xdp.pps / bmv2.pps if xdp and bmv2 else None}
