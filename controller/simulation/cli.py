"""`duet simulate`: the paper's large-scale evaluation as commands, one per module of `figures`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import click

from controller.simulation import executors, runner, sweep
from controller.simulation import scale as scales
from controller.simulation.figures import Figure, figures
from controller.simulation.runner import Done, Results
from controller.simulation.scale import Scale
from controller.simulation.settings import with_settings
from controller.simulation.tasks import Task
from duet_p4 import results

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def simulate() -> None:
    """Reproduce the paper's large-scale simulations (figures 15 to 20), and more on the same traces."""


def _options(command: Command) -> Command:
    for option in (
        click.option("--scale", type=click.Choice(["small", "paper"]), default="paper", show_default=True,
                     help="The paper's data centre, or 104 switches for a look."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path),
                     default=Path("results/simulations"), show_default=True,
                     help="Where results go, a folder per set-up; finished parts found there are kept."),
        click.option("--seeds", type=click.IntRange(1, 10_000),
                     help="How many seeds (default: 5; small: 3)."),
        click.option("--jobs", type=click.IntRange(1), help="Parallel processes (default: one per core)."),
        click.option("--dask", "scheduler", metavar="ADDRESS",
                     help="Compute on the Dask cluster whose scheduler is there, such as tcp://host:8786."),
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


_set = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change one setting, such as profile.largest_share=0.04 (docs/simulation.md); may be repeated.",
)


def _add(figure: Figure[Any]) -> None:
    @simulate.command(figure.name, help=figure.help)
    @_set
    @_options
    def command(settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
        _run([figure], settings, as_json, **options)


for _figure in figures().values():
    _add(_figure)


@simulate.command("all")
@_set
@_options
def everything(settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """All figures."""
    _run(list(figures().values()), settings, as_json, **options)


@simulate.command("sweep")
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    metavar="PATH=V1,V2",
    help="Values of a setting: profile.largest_share=0.01,0.08, strategy=duet,balanced, tbps=1.25,10.",
)
@click.option("--migrations", is_flag=True, help="Follow the trace over time as well, which takes longer.")
@_options
def sweeping(settings: tuple[str, ...], migrations: bool, as_json: bool, **options: Any) -> None:
    """All combinations of settings: one tidy table (CSV and Parquet), and a plot per setting and measure."""
    scale, out, workers, scheduler = _chosen(**options)
    try:
        chosen = sweep.Sweep.of(settings, scale, migrations=migrations)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    started = perf_counter()
    folder = out / f"sweep-{runner.digest(scale)[:12]}"
    found = _computed(scale, chosen.tasks(scale), folder, workers, scheduler, quiet=as_json)
    table = chosen.table(scale, found)
    name = runner.named(chosen)
    written = sweep.write(table, folder / name, "sweep")
    for label, drawing in chosen.draw(table).items():
        results.save_figure(drawing, folder / name / f"{label}.png")
    if as_json:
        click.echo(results.to_json({"rows": table, "files": written}))
        return
    parquet = "" if len(written) > 1 else " (no Parquet: pyarrow is not installed)"
    click.echo(f"{len(table)} rows in {folder / name}{parquet}, {perf_counter() - started:.0f} s")


def _chosen(
    scale: str,
    out: Path,
    seeds: int | None,
    jobs: int | None,
    scheduler: str | None,
    trace_file: Path | None,
    containers: int | None,
    tors: int | None,
    aggs: int | None,
    cores_per_agg: int | None,
    vips: int | None,
    settings: Sequence[str] = (),
) -> tuple[Scale, Path, int, str | None]:
    """Return the set-up that the options ask for; refuse what makes none."""
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
        if settings:
            pairs = [text.partition("=") for text in settings]
            wrong = next(
                (text for text, (_, equals, _) in zip(settings, pairs, strict=True) if not equals), None
            )
            if wrong is not None:
                raise ValueError(f"{wrong!r} is not of the form PATH=VALUE")
            changed_too = with_settings(chosen, tuple((path, value) for path, _, value in pairs))
            same = runner.digest(changed_too) == runner.digest(chosen)
            chosen = replace(changed_too, name=chosen.name if same else "custom")
        topology = chosen.topology()
        if trace_file:
            chosen = replace(chosen, trace_file=trace_file)
            chosen.trace(topology, 0)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    return chosen, out, jobs or len(os.sched_getaffinity(0)), scheduler


def _run(chosen: list[Figure[Any]], settings: tuple[str, ...], as_json: bool, **options: Any) -> None:
    scale, out, workers, scheduler = _chosen(**options, settings=settings)
    started = perf_counter()
    wanted = list(dict.fromkeys(task for figure in chosen for task in figure.tasks(scale)))
    folder = out / f"{scale.name}-{runner.digest(scale)[:12]}"
    found = _computed(scale, wanted, folder, workers, scheduler, quiet=as_json)
    # What figures draw is no part of it: that takes a second each, on whatever computes.
    took = Took(perf_counter() - started, "Dask" if scheduler else f"{workers} processes", found.computed)
    summaries = {}
    for figure in chosen:
        summary = figure.summarize(scale, found)
        record = {
            "figure": figure.number,
            "name": figure.name,
            "headline": figure.headline(summary),
            "scale": scale,
            **asdict(summary),
            "paper": figure.paper,
            "cpu_s": found.cpu_s(figure.tasks(scale)),
            "command": {"figures": [one.name for one in chosen], **asdict(took)},
            "machine": results.machine(),
        }
        results.write_json(folder / f"{figure.name}.json", record)
        results.write_csv(folder / f"{figure.name}.csv", figure.rows(summary))
        results.save_figure(figure.draw(summary), folder / f"{figure.file}.png")
        summaries[figure.name] = {**asdict(summary), "paper": figure.paper}
        if not as_json:
            click.echo(f"{figure.name}: {figure.headline(summary)}")
    if as_json:
        click.echo(results.to_json(summaries[chosen[0].name] if len(chosen) == 1 else summaries))
        return
    click.echo(
        f"figures and numbers in {folder}, {perf_counter() - started:.0f} s, of which {took.seconds:.0f} s "
        f"and {found.cpu_s(wanted):.0f} CPU seconds computing"
    )


@dataclass(frozen=True)
class Took:
    """How long a command computed, on what, and how many of its results were not there before."""

    seconds: float
    workers: str
    computed: int


def _computed(
    scale: Scale,
    wanted: Sequence[Task[Any]],
    folder: Path,
    workers: int,
    scheduler: str | None,
    *,
    quiet: bool,
) -> Results:
    try:
        with (
            _executor(min(workers, len(wanted)), scheduler) as executor,
            _progress(len(wanted), quiet) as done,
        ):
            return runner.run(scale, wanted, folder, executor, done)
    except (executors.ClusterError, runner.VersionSkewError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor | None]:
    if scheduler:
        with executors.dask(scheduler) as pool:
            yield pool
    elif workers > 1:
        with executors.processes(workers) as pool:
            yield pool
    else:
        yield None


def _progress(total: int, quiet: bool) -> AbstractContextManager[Done]:
    if quiet:
        return nullcontext(lambda task, kept: None)
    return _Bar(total)


class _Bar(AbstractContextManager[Done]):
    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<40}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._bar = self._progress.add_task("simulating", total=total)

    def __enter__(self) -> Done:
        self._progress.start()

        def advance(task: Task[Any], kept: bool) -> None:
            what = f"{task.slug} (kept)" if kept else task.slug
            self._progress.update(self._bar, advance=1, description=what[:40])

        return advance

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()


__all__ = ["simulate"]
