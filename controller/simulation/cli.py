"""`duet simulate`: the paper's large-scale evaluation as commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import click

from duet_p4 import results

FIGURES = ("trace", "smuxes", "latency", "random", "failures", "migration")
Command = TypeVar("Command", bound=Callable[..., Any])

_NUMBERS = {"trace": 15, "smuxes": 16, "latency": 17, "random": 18, "failures": 19, "migration": 20}


@click.group()
def simulate() -> None:
    """Reproduce the paper's large-scale simulations (figures 15 to 20)."""


def _options(command: Command) -> Command:
    for option in (
        click.option("--scale", type=click.Choice(["small", "paper"]), default="paper", show_default=True,
                     help="The paper's data centre, or 104 switches for a look."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path),
                     default=Path("results/simulations"), show_default=True,
                     help="Where results go; finished parts found there are kept."),
        click.option("--seeds", type=click.IntRange(1, 1000), help="How many seeds (default: 5, small: 3)."),
        click.option("--jobs", type=click.IntRange(1), help="Parallel processes (default: one per core)."),
        click.option("--trace", "trace_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="A trace file in place of the synthetic trace (docs/simulation.md)."),
        click.option("--containers", type=int, help="Containers, in place of the scale's."),
        click.option("--tors", type=int, help="ToRs per container."),
        click.option("--aggs", type=int, help="Aggs per container."),
        click.option("--cores-per-agg", type=int, help="Cores per Agg."),
        click.option("--vips", type=click.IntRange(1), help="VIPs."),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as one line of JSON."),
    ):  # fmt: skip
        command = option(command)
    return command


def _add(figure: str) -> None:
    @simulate.command(figure, help=_HELP[figure])
    @_options
    def command(**options: Any) -> None:
        _run([figure], **options)


_HELP = {
    "trace": "Figure 15: the trace, its skew and its drift.",
    "smuxes": "Figure 16: SMuxes for DUET and Ananta against traffic.",
    "latency": "Figure 17: latency against the number of SMuxes.",
    "random": "Figure 18: DUET's assignment against Random.",
    "failures": "Figure 19: link utilization under failures.",
    "migration": "Figure 20: sticky, non-sticky and one-time over the trace.",
}
for _figure in FIGURES:
    _add(_figure)


@simulate.command("all")
@_options
def everything(**options: Any) -> None:
    """All figures."""
    _run(list(FIGURES), **options)


def _run(
    figures: list[str],
    scale: str,
    out: Path,
    seeds: int | None,
    jobs: int | None,
    trace_file: Path | None,
    as_json: bool,
    containers: int | None,
    tors: int | None,
    aggs: int | None,
    cores_per_agg: int | None,
    vips: int | None,
) -> None:
    # Loads numba and scipy, which other commands can do without.
    from controller.simulation import runner, tasks
    from controller.simulation import scale as scales
    from controller.simulation.figures import FIGURES as DRAWN
    from controller.simulation.summary import PAPER, SUMMARIES

    chosen = scales.small() if scale == "small" else scales.paper()
    try:
        sizes = {"containers": containers, "tors": tors, "aggs": aggs, "cores_per_agg": cores_per_agg}
        changed = {name: value for name, value in sizes.items() if value is not None}
        if changed or vips:
            shape = replace(chosen.shape, **changed)
            share = shape.tor_count / chosen.shape.tor_count
            count = vips or max(10, round(chosen.profile.vips * share))
            chosen = replace(scales.sized(chosen, shape, count), name="custom")
        if seeds:
            chosen = replace(chosen, seeds=tuple(range(1, seeds + 1)))
        if trace_file:
            chosen = replace(chosen, trace_file=trace_file)
            chosen.trace(chosen.topology(), 0)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    started = perf_counter()
    wanted = list(dict.fromkeys(task for figure in figures for task in tasks.tasks_for(figure, chosen)))
    workers = min(jobs or len(os.sched_getaffinity(0)), len(wanted))
    with _progress(len(wanted), quiet=as_json) as advance:
        found = runner.run(chosen, wanted, out, workers, advance)
    summaries = {}
    for figure in figures:
        mine = {task: found[task] for task in tasks.tasks_for(figure, chosen)}
        summary = SUMMARIES[figure](chosen, mine)
        record = {
            "figure": _NUMBERS[figure],
            "name": figure,
            "scale": chosen,
            **summary,
            "paper": PAPER[figure],
            "machine": results.machine(),
        }
        results.write_json(out / f"{figure}.json", record)
        if "rows" in summary:
            results.write_csv(out / f"{figure}.csv", [_flat(row) for row in summary["rows"]])
        elif figure == "migration":
            results.write_csv(out / f"{figure}.csv", _migration_rows(mine))
        elif figure == "latency":
            results.write_csv(out / f"{figure}.csv", summary["ananta"])
        else:
            keys = ("vips", "bytes", "packets", "dips")
            results.write_csv(
                out / f"{figure}.csv",
                [
                    dict(zip(keys, row, strict=True))
                    for row in zip(*(summary[key] for key in keys), strict=True)
                ],
            )
        results.save_figure(DRAWN[figure](summary), out / f"fig{_NUMBERS[figure]}_{figure}.png")
        summaries[figure] = {**summary, "paper": PAPER[figure]}
    if as_json:
        click.echo(results.to_json(summaries[figures[0]] if len(figures) == 1 else summaries))
        return
    for figure in figures:
        click.echo(f"{figure}: {_headline(figure, summaries[figure])}")
    click.echo(f"figures and numbers in {out}, {perf_counter() - started:.0f} s")


def _progress(total: int, quiet: bool) -> AbstractContextManager[Callable[[Any, bool], None]]:
    if quiet:
        return nullcontext(lambda task, kept: None)
    return _Bar(total)


class _Bar(AbstractContextManager[Callable[[Any, bool], None]]):
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<32}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._bar = self._progress.add_task("simulating", total=total)

    def __enter__(self) -> Callable[[Any, bool], None]:
        self._progress.start()

        def advance(task: Any, kept: bool) -> None:
            what = f"{task.slug} (kept)" if kept else task.slug
            self._progress.update(self._bar, advance=1, description=what)

        return advance

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat[key], flat[f"{key}_ci95"] = value["mean"], value["ci95"]
        else:
            flat[key] = value
    return flat


def _migration_rows(found: dict[Any, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"strategy": task.strategy, "seed": task.seed, "interval": i, **point}
        for task, result in found.items()
        for i, point in enumerate(result["intervals"])
    ]


def _headline(figure: str, summary: dict[str, Any]) -> str:
    if figure == "trace":
        return f"10% of the VIPs carry {summary['top_10_percent_bytes']:.1%} of the bytes"
    if figure == "smuxes":
        ratios = "; ".join(
            f"{min(by_rate.values()):.0f}-{max(by_rate.values()):.0f}x fewer at {capacity} Gbps "
            f"(paper: {band[0]}-{band[1]}x)"
            for (capacity, by_rate), band in zip(
                summary["ananta_over_duet"].items(),
                summary["paper"]["ananta_over_duet"].values(),
                strict=True,
            )
        )
        return f"DUET needs {ratios}"
    if figure == "latency":
        return (
            f"DUET has median {summary['duet_us']['0.5']['mean']:.0f} us with "
            f"{summary['duet_smuxes']['mean']:.0f} SMuxes (paper: 474 us with 230)"
        )
    if figure == "random":
        extra = [row["random_extra_percent"]["mean"] for row in summary["rows"]]
        ours = [row["balanced_extra_percent"]["mean"] for row in summary["rows"]]
        return (
            f"Random needs {min(extra):.0f}-{max(extra):.0f}% more SMuxes (paper: 120-307%), "
            f"our balanced strategy {-max(ours):.0f}-{-min(ours):.0f}% fewer"
        )
    if figure == "failures":
        worst = max(summary["rows"], key=lambda row: row["container_worst"]["mean"] - row["normal"]["mean"])
        return (
            f"at {worst['traffic_tbps']:g} Tbps the busiest link goes from {worst['normal']['mean']:.0%} to "
            f"{worst['container_worst']['mean']:.0%} in the worst container failure"
        )
    strategies = summary["strategies"]
    return ", ".join(
        f"{name} keeps {series['mean_hmux_share']['mean']:.1%} on HMuxes and shuffles "
        f"{series['mean_shuffled_share']['mean']:.1%}"
        for name, series in strategies.items()
    )


__all__ = ["simulate"]
