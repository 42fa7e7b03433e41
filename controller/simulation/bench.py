"""`duet bench assignment`: how fast the engine is, and how close to the best possible."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import click

from duet_p4 import results

PARTS = (0.25, 0.5, 1.0)
"""Shares of the VIPs for which the time is measured, to see how it grows."""


@click.command()
@click.option("--vips", type=click.IntRange(8), default=30_000, show_default=True, help="VIPs.")
@click.option("--tbps", type=float, default=10.0, show_default=True, help="Total traffic.")
@click.option(
    "--repeat", type=click.IntRange(1, 20), default=3, show_default=True, help="Best of how many runs."
)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Also write JSON and a figure.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def assignment(vips: int, tbps: float, repeat: int, seed: int, out: Path | None, as_json: bool) -> None:
    """Assign VIPs to all switches of the paper's data centre on one core.

    Seconds are CPU time of one core, after the compiled kernels are loaded.
    """
    record = measure(vips, tbps, repeat, seed)
    if out:
        results.write_json(out / "assignment.json", {**record, "machine": results.machine()})
        results.save_figure(_figure(record), out / "assignment.png")
    if as_json:
        click.echo(results.to_json(record))
        return
    click.echo(
        f"{record['vips']:,} VIPs onto {record['switches']:,} switches: {record['seconds']:.2f} s, "
        f"{record['peak_mb']:.0f} MB; sticky update {record['sticky_seconds']:.2f} s\n"
        f"HMuxes carry {record['hmux_traffic_share']:.3%} of the traffic (no assignment more than "
        f"{record['bound_share']:.3%}), {record['routes']:,} /32 routes"
    )


def measure(vips: int, tbps: float, repeat: int, seed: int) -> dict[str, Any]:
    """Run the benchmark and return its record."""
    from controller.engine import Assignment, Demands, Greedy, Sticky, Strategy, Topology, assign
    from controller.engine.bound import bound
    from controller.simulation.workload import TBPS, Profile, generate

    topology = Topology.fat_tree()

    def timed(demands: Demands, strategy: Strategy, previous: Any = None) -> tuple[float, float, Assignment]:
        wall, started = perf_counter(), process_time()
        found = assign(topology, demands, strategy, previous)
        return process_time() - started, perf_counter() - wall, found

    profile = replace(Profile(), reference_bps=tbps * TBPS, intervals=2)
    assign(topology, generate(topology, replace(profile, vips=8), seed).at(0), Greedy())
    series = []
    for part in PARTS:
        count = max(8, round(vips * part))
        demands = generate(topology, replace(profile, vips=count), seed).at(0)
        # Without the limit on /32 routes every VIP is evaluated, so that the time shows what one costs.
        unlimited = replace(topology, routes=2 * count)
        started = process_time()
        every = assign(unlimited, demands, Greedy())
        series.append({"vips": count, "seconds": process_time() - started, "placed": every.routes})
    trace = generate(topology, replace(profile, vips=vips), seed)
    runs = [timed(trace.at(0), Greedy()) for _ in range(repeat)]
    seconds = min(cpu for cpu, _, _ in runs)
    greedy = runs[0][2]
    updates = [timed(trace.at(1), Sticky(), greedy.switch)[0] for _ in range(repeat)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "vips": vips,
        "switches": topology.switch_count,
        "seconds": seconds,
        "wall_seconds": min(wall for _, wall, _ in runs),
        "sticky_seconds": min(updates),
        "peak_mb": peak,
        "hmux_traffic_share": greedy.hmux_share,
        "bound_share": bound(topology, trace.at(0)).hmux_share,
        "routes": greedy.routes,
        "traffic_tbps": tbps,
        "seed": seed,
        "without_route_limit": series,
    }


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


__all__ = ["assignment", "measure"]
