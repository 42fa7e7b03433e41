"""`duet bench dataplane` and `duet bench middleblock`."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from duet_p4 import results
from duet_p4.bench import middleblock as pins
from duet_p4.bench.dataplane import Bench, Plan
from duet_p4.bench.line import BenchError
from duet_p4.bench.plot import draw
from duet_p4.bpf import BpfError

NAME = "bench-dataplane"
QUIET = 0.9
"""Share of a CPU below which a machine is too busy to measure BMv2."""


@click.command()
@click.option("--quick", is_flag=True, help="64 bytes and a few short runs only.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON and figure to this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--runs", type=click.IntRange(1, 100), help="Runs per frame size and subject.")
@click.option("--writes", is_flag=True, help="Only how fast tables are written, in some seconds.")
def dataplane(quick: bool, out: Path | None, as_json: bool, runs: int | None, writes: bool) -> None:
    """Measure what a packet costs: hmux.p4 on xdp, the SMux, and the least an XDP program can do.

    Also packets per second, and how fast tables are written, on bmv2 too. Uses network namespaces
    of its own; needs root, trafgen and tcpreplay, and takes a few minutes. BMv2 is measured where
    simple_switch_grpc is on PATH.
    """
    if os.geteuid() != 0:
        raise click.ClickException("network namespaces and XDP need root: run it with sudo")
    plan = Plan.quick() if quick else Plan()
    if runs is not None:
        plan = dataclasses.replace(plan, runs=runs)
    console = Console(stderr=True)
    try:
        with console.status("") as status:
            bench = Bench(
                plan, lambda text: status.update(text) if console.is_terminal else _print_line(text)
            )
            summary = bench.run_writes() if writes else bench.run()
    except (BenchError, BpfError) as error:
        raise click.ClickException(str(error)) from error
    share = bench.machine_share()
    if share is not None and share < QUIET:
        console.print(
            f"other processes took {1 - share:.0%} of the CPU: BMv2's rates are too low, "
            "those of floor and xdp are per second of CPU and hold",
            style="yellow",
        )
    if out is not None:
        whole = {"command": "duet bench dataplane", "plan": plan, "machine": results.machine(), **summary}
        paths = [
            results.write_json(out / f"{NAME}.json", whole),
            *(draw(bench.rates, out / NAME) if bench.rates else []),
        ]
        console.print("written: " + ", ".join(map(str, paths)))
    if as_json:
        click.echo(results.to_json(summary))
    else:
        _print(bench, summary)


@click.command()
@click.option(
    "--p4",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="DUET_MIDDLEBLOCK",
    help="p4c's testdata/p4_16_samples/pins/pins_middleblock.p4; also by $DUET_MIDDLEBLOCK.",
)
@click.option("--quick", is_flag=True, help="A tenth of the entries, and a few short runs.")
@click.option("--out", type=click.Path(path_type=Path), help="Write JSON to this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def middleblock(source: Path | None, quick: bool, out: Path | None, as_json: bool) -> None:
    """Measure PINS' middleblock with 10,000 routes, 100 next hops and 500 ACL entries, on xdp and on BMv2.

    The program is not part of this project: p4c's source has it, and p4c on PATH compiles it. Without it
    nothing is measured. Needs root, trafgen and tcpreplay.
    """
    if source is None:
        print("middleblock: not measured, as nothing says where its P4 is (--p4)", file=sys.stderr)
        return
    if os.geteuid() != 0:
        raise click.ClickException("network namespaces and XDP need root: run it with sudo")
    scale = pins.Scale(1000, 10, 50, runs=1, seconds=0.3, steps=2) if quick else pins.Scale()
    try:
        found = pins.summary(pins.measure(source, scale, _print_line))
    except (BenchError, BpfError) as error:
        raise click.ClickException(str(error)) from error
    if out is not None:
        whole = {"command": "duet bench middleblock", "scale": scale, "machine": results.machine(), **found}
        print(f"written: {results.write_json(out / 'bench-middleblock.json', whole)}", file=sys.stderr)
    if as_json:
        click.echo(results.to_json(found))
    else:
        for name, value in found.items():
            click.echo(f"{name}: {'not measured' if value is None else f'{value:.2f}'}")


def _print_line(text: str) -> None:
    """Report progress where no terminal redraws a line."""
    print(text, file=sys.stderr, flush=True)


def _print(bench: Bench, summary: dict[str, object]) -> None:
    rates = Table("subject", "tables", "bytes", "kpps", "loss", title="Forwarding, one CPU")
    for rate in bench.rates:
        rates.add_row(
            rate.subject,
            "-" if rate.subject == "floor" else rate.fill,
            str(rate.size),
            f"{rate.pps / 1000:.1f}",
            f"{rate.loss:.3%}",
        )
    packets = Table(
        "subject", "tables", "packets", "ns", "instructions", title="One packet, net of the harness"
    )
    for one in bench.packets:
        shown = "-" if one.instructions is None else str(one.instructions)
        packets.add_row(one.subject, one.tables, one.packets, f"{one.ns:.0f}", shown)
    live = Table("subject", "kpps", title="Frames that the kernel makes and sends")
    for subject, pps in bench.live.items():
        live.add_row(subject, f"{pps / 1000:.0f}")
    tables = list(bench.programming[0].per_s) if bench.programming else []
    control = Table(
        "target", *tables, "one VIP, ms", "routes swapped, ms", title="Entries written per second"
    )
    for entry in bench.programming:
        rates_shown = [f"{rate:.0f}" for rate in entry.per_s.values()]
        control.add_row(entry.target, *rates_shown, f"{entry.vip_ms_median:.2f}", f"{entry.swap_ms:.0f}")
    console = Console()
    console.print(*(table for table in (packets, live, rates, control) if table.rows))
    for key in (
        "xdp_over_floor",
        "xdp_over_bmv2",
        "full_over_one",
    ):
        value = summary[key]
        if bench.rates:
            console.print(f"{key}: {value:.2f}" if isinstance(value, float) else f"{key}: not measured")
