"""`duet bench assignment`: how fast the controller's engine is, and how close to the best possible."""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from duet_p4 import results

if TYPE_CHECKING:
    from controller.engine import FatTreeShape, Topology
    from controller.engine.live.planner import Planner
    from controller.engine.live.rows import Traffic
    from controller.inventory import Inventory
    from controller.records import VipRecord
    from controller.simulation.workload import Trace

PARTS = (0.25, 0.5, 1.0)
"""Shares of the VIPs for which the time is measured, to see how it grows."""

PLACED_ONE_BY_ONE = 200
"""VIPs that are placed one by one among all others."""

SERVERS_PER_TOR = 32
"""The paper's 50k servers on 1,600 ToRs."""

TUNNELS = 512


@click.command()
@click.option("--vips", type=click.IntRange(8), default=30_000, show_default=True, help="VIPs.")
@click.option("--tbps", type=float, default=10.0, show_default=True, help="Total traffic.")
@click.option("--containers", type=click.IntRange(1), default=40, show_default=True)
@click.option("--tors", type=click.IntRange(1), default=40, show_default=True, help="ToRs per container.")
@click.option("--aggs", type=click.IntRange(1), default=4, show_default=True, help="Aggs per container.")
@click.option("--cores-per-agg", type=click.IntRange(1), default=10, show_default=True)
@click.option(
    "--repeat", type=click.IntRange(1, 20), default=3, show_default=True, help="Best of how many runs."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Also write JSON and a figure.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def assignment(
    vips: int,
    tbps: float,
    containers: int,
    tors: int,
    aggs: int,
    cores_per_agg: int,
    repeat: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Assign VIPs to all switches of a data centre, the paper's by default, on one core.

    The controller's own engine does it, told as a running controller tells it: an inventory, a record per
    VIP, measured traffic. Seconds are CPU time from new traffic to the assignment, after the compiled
    kernels are loaded; then VIPs are placed one by one among the others, and with links and switches down.
    """
    from controller.engine import FatTreeShape

    record = measure(vips, tbps, FatTreeShape(containers, tors, aggs, cores_per_agg), repeat, seed)
    if out:
        results.write_json(out / "assignment.json", {**record, "machine": results.machine()})
        results.save_figure(_figure(record), out / "assignment.png")
    if as_json:
        click.echo(results.to_json(record))
        return
    failed = record["with_outages"]
    click.echo(
        f"{record['vips']:,} VIPs onto {record['switches']:,} switches: {record['seconds']:.2f} s, "
        f"{record['peak_mb']:.0f} MB; sticky update {record['sticky_seconds']:.2f} s; "
        f"one more VIP {record['place_one_ms']:.2f} ms\n"
        f"with {len(failed['lost'])} switches and {len(failed['links_down'])} links down: "
        f"{failed['seconds']:.2f} s; one more VIP {failed['place_one_ms']:.2f} ms\n"
        f"HMuxes carry {record['hmux_traffic_share']:.3%} of the traffic (no assignment more than "
        f"{record['bound_share']:.3%}), {record['routes']:,} /32 routes"
    )


def measure(vips: int, tbps: float, shape: FatTreeShape, repeat: int, seed: int) -> dict[str, Any]:
    """Run the benchmark and return its record."""
    from controller.engine import Greedy, Sticky, Topology
    from controller.engine.bound import bound
    from controller.engine.live.network import Outages
    from controller.engine.live.planner import Planner
    from controller.simulation.profile import TBPS, Profile
    from controller.simulation.workload import generate

    drawn = Topology.fat_tree(shape)
    everybody = replace(Profile(), vips=vips, intervals=2, on_hours=0.0, life_hours=0.0)
    trace = generate(drawn, replace(everybody, reference_bps=tbps * TBPS), seed)
    inventory, records = network_of(drawn, trace)
    traffic = [traffic_of(drawn, trace, interval) for interval in range(2)]
    _load_kernels(inventory, records, traffic[0])

    planner = Planner(inventory)
    _, load_seconds = _timed(lambda: planner.follow(records, whole=True))

    def assign(traffic: Traffic, *, sticky: bool = False) -> tuple[Any, float]:
        def run() -> Any:
            planner.set_traffic(traffic)
            return planner.compute(Sticky() if sticky else Greedy())

        return _timed(run)

    wall = perf_counter()
    runs = [assign(traffic[0]) for _ in range(repeat)]
    wall = (perf_counter() - wall) / repeat
    greedy = runs[0][0]
    homes = dict(planner.placement())
    planner.follow([_at_home(record, homes) for record in records])
    updates = [assign(traffic[1], sticky=True)[1] for _ in range(repeat)]
    place_one_ms, stand_seconds = _place_one(planner, records)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    outages = Outages(**_outages(inventory, seed))
    _, network_seconds = _timed(lambda: planner.set_network(inventory, outages))
    _, failed_seconds = assign(traffic[1], sticky=True)
    failed_ms, _ = _place_one(planner, records)
    demands = greedy.demands
    return {
        "vips": vips,
        "switches": drawn.switch_count,
        "seconds": min(seconds for _, seconds in runs),
        "wall_seconds": wall,
        "sticky_seconds": min(updates),
        "place_one_ms": place_one_ms,
        "live_ledger": True,
        "ledger": type(greedy.ledger).__name__,
        "load_seconds": load_seconds,
        "stand_seconds": stand_seconds,
        "peak_mb": peak,
        "hmux_traffic_share": greedy.hmux_share,
        "bound_share": bound(greedy.topology, demands).hmux_share,
        "routes": greedy.routes,
        "traffic_tbps": tbps,
        "seed": seed,
        "with_outages": {
            "lost": outages.lost,
            "links_down": outages.links_down,
            "network_seconds": network_seconds,
            "seconds": failed_seconds,
            "place_one_ms": failed_ms,
        },
        "without_route_limit": _growth(greedy.topology, trace),
    }


def network_of(drawn: Topology, trace: Trace) -> tuple[Inventory, list[VipRecord]]:
    """Return the inventory of a drawn data centre, and the records of its VIPs, none of them placed yet."""
    from controller.inventory import Inventory, Link, Role, Server, Switch
    from controller.updater.layout import lay_out
    from duet_p4.model import Dip, Vip

    shape = drawn.shape
    assert shape is not None
    roles = [Role.TOR] * shape.tor_count + [Role.AGG] * shape.agg_count + [Role.CORE] * shape.core_count
    switches = tuple(
        Switch(
            name=name, role=role, agent="http://127.0.0.1", loopback=IPv4Address("172.30.0.1"),
            container=None if box < 0 else int(box),
        )
        for name, role, box in zip(drawn.names, roles, drawn.container, strict=True)
    )  # fmt: skip
    links = tuple(
        Link(ends=(drawn.names[u], drawn.names[v]), capacity_bps=bps)
        for u, v, bps in zip(
            drawn.source.tolist(), drawn.target.tolist(), drawn.capacity.tolist(), strict=True
        )
        if u < v
    )
    free = IPv4Address("100.0.0.0")
    tip = IPv4Address("20.0.0.0")

    def next_tip() -> IPv4Address:
        nonlocal tip
        tip += 1
        return tip

    at: dict[tuple[int, int], list[IPv4Address]] = {}
    records = []
    for vip, racks in enumerate(_dip_racks(trace)):
        dips = []
        for number, rack in enumerate(racks):
            free += 1
            at.setdefault((rack, (vip + number) % SERVERS_PER_TOR), []).append(free)
            dips.append(Dip.model_construct(address=free))
        spec = Vip.model_construct(address=IPv4Address(trace.demands.names[vip]), dips=tuple(dips))
        records.append(lay_out(spec, TUNNELS, next_tip))
    servers = tuple(
        Server(name=f"server{rack}.{n}", agent="http://127.0.0.1", switch=drawn.names[rack], dips=tuple(dips))
        for (rack, n), dips in at.items()
    )
    inventory = Inventory(
        switches=switches, servers=servers, links=links,
        vip_prefix=IPv4Network("10.0.0.0/8"), tip_prefix=IPv4Network("20.0.0.0/8"),
    )  # fmt: skip
    return inventory, records


def traffic_of(drawn: Topology, trace: Trace, interval: int) -> Traffic:
    """Return what monitoring would have measured in an interval: bit/s per VIP and source."""
    from controller.engine import INTERNET

    demands, found = trace.at(interval), {}
    for vip in range(demands.vip_count):
        part = slice(int(demands.source_start[vip]), int(demands.source_start[vip + 1]))
        bps = (demands.source_share[part] * demands.traffic[vip]).tolist()
        sources = dict(zip((drawn.names[s] for s in demands.source_switch[part].tolist()), bps, strict=True))
        sources[INTERNET] = float(demands.internet[vip] * demands.traffic[vip])
        found[IPv4Address(demands.names[vip])] = sources
    return found


def _dip_racks(trace: Trace) -> list[list[int]]:
    """Return the ToR of every DIP of every VIP."""
    demands, racks = trace.demands, []
    for vip in range(demands.vip_count):
        own: list[int] = []
        for row in [vip, *demands.tips(vip)]:
            part = slice(int(demands.dip_start[row]), int(demands.dip_start[row + 1]))
            counts = np.rint(demands.dip_share[part] * int(trace.dips[vip])).astype(np.int64)
            own += np.repeat(demands.dip_switch[part], counts).tolist()
        racks.append(own)
    return racks


def _at_home(record: VipRecord, homes: Mapping[IPv4Address, str | None]) -> VipRecord:
    tips = tuple(tip.model_copy(update={"switch": homes[tip.tip.address]}) for tip in record.tips)
    return record.model_copy(update={"switch": homes[record.address], "tips": tips})


def _place_one(planner: Planner, records: Sequence[VipRecord]) -> tuple[float, float]:
    """Return the median time to place one more VIP (ms), and the time to put the ledger up first (s).

    VIPs that are there already are placed anew, under other addresses, among all others.
    """
    first = IPv4Address("11.0.0.0")
    chosen = records[:: max(1, len(records) // PLACED_ONE_BY_ONE)]
    specs = [record.spec.model_copy(update={"address": first + n}) for n, record in enumerate(chosen)]
    new = [record.model_copy(update={"spec": spec}) for record, spec in zip(chosen, specs, strict=True)]
    _, stand_seconds = _timed(planner.stand)
    taken = []
    for record in new:
        started = perf_counter()
        planner.place(record)
        taken.append(1000 * (perf_counter() - started))
        planner.follow([], [record.address])
    return median(taken), stand_seconds


def _outages(inventory: Inventory, seed: int) -> dict[str, Any]:
    """Draw what is down: one switch in 600, one link in 600, but at least one of each."""
    rng = np.random.default_rng(seed)
    switches, links = inventory.switches, inventory.links
    lost = rng.choice(len(switches), max(1, len(switches) // 600), replace=False)
    down = rng.choice(len(links), max(1, len(links) // 600), replace=False)
    return {
        "lost": tuple(switches[i].name for i in lost),
        "links_down": tuple(links[i].ends for i in down),
    }


def _load_kernels(inventory: Inventory, records: Sequence[VipRecord], traffic: Traffic) -> None:
    """Have all compiled code loaded before anything is timed: a few VIPs, one of them with TIPs."""
    from controller.engine import Greedy
    from controller.engine.live.network import Outages
    from controller.engine.live.planner import Planner

    few = [*records[:8], *[record for record in records if record.tips][:4]]
    for outages in (Outages(), Outages(lost=(inventory.switches[0].name,))):
        planner = Planner(inventory, outages)
        planner.follow(few, whole=True)
        planner.set_traffic(traffic)
        planner.compute(Greedy())
        planner.place(records[-1])
        planner.follow([], [records[-1].address])


def _growth(topology: Topology, trace: Trace) -> list[dict[str, Any]]:
    """Return how the time grows with the VIPs when every one is evaluated: no limit on /32 routes."""
    from controller.engine import Greedy, assign

    series = []
    whole = trace.at(0)
    for part in PARTS:
        count = max(8, round(whole.vip_count * part))
        quiet = np.where(np.arange(whole.vip_count) < count, whole.traffic, 0.0)
        demands = whole.with_traffic(quiet)
        unlimited = replace(topology, routes=count + int(whole.tip_start[count]))
        every, seconds = _timed(lambda d=demands, t=unlimited: assign(t, d, Greedy()))  # type: ignore[misc]
        series.append({"vips": count, "seconds": seconds, "placed": every.routes})
    return series


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = process_time()
    found = run()
    return found, process_time() - started


def _figure(record: dict[str, Any]) -> Any:
    fig, axes = results.figure()
    series = record["without_route_limit"]
    x, y = [p["vips"] for p in series], [p["seconds"] for p in series]
    axes.plot(x, y, color=results.OURS, marker="o", label="every VIP evaluated")
    axes.plot([0, x[-1]], [0, y[-1]], color=results.GREY, linestyle=":", label="linear")
    axes.plot(
        [record["vips"]], [record["seconds"]], color=results.SERIES[1], marker="D", linestyle="none",
        label=f"with {record['routes']:,} /32 routes",
    )  # fmt: skip
    axes.set(xlabel="VIPs", ylabel="seconds of one core", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"One assignment onto {record['switches']:,} switches")
    axes.legend()
    return fig


__all__ = ["assignment", "measure", "network_of", "traffic_of"]
