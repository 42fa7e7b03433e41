"""`duet experiment`: run the paper's testbed experiments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from duet_p4 import results
from mininet_topos.addresses import CONTROLLERS
from mininet_topos.experiments import (
    attacks,
    breakdown,
    capacity,
    chaos,
    consistency,
    failover,
    failures,
    migration,
)
from mininet_topos.experiments.profile import profiled
from mininet_topos.testbed.folder import TestbedError

Run = Callable[[str, Path, int, int, Callable[[str], None]], dict[str, Any]]
_RUNS: dict[str, Run] = {
    "failover": failover.run,
    "failures": failures.run,
    "migration": migration.run,
    "breakdown": breakdown.run,
    # One run in each bring-up: its sample is its pings.
    "capacity": lambda name, out, _, bringups, say: capacity.run(name, out, bringups, say),
    # One run in all: its sample is its connections.
    "consistency": lambda name, out, _, __, say: consistency.run(name, out, say),
}

_KINDS = ("json", "csv", "png", "svg", "profile.svg")
"""The files that an experiment may write."""

notes = Console(stderr=True)


@click.group(short_help="The paper's testbed experiments, measured and plotted.")
def experiment() -> None:
    """The paper's testbed experiments, measured and plotted."""


def _profiling(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    context.obj = wanted


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--profile",
            is_flag=True,
            callback=_profiling,
            expose_value=False,
            help="Also write a flame graph of where the CPUs' time went (.profile.svg).",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line."),
        click.option("--name", default="experiment", show_default=True, help="Name of the testbed."),
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("results/experiments"),
            show_default=True,
        ),
    ):
        command = option(command)
    return command


_repetitions = click.option(
    "--runs", type=click.IntRange(1), default=10, show_default=True, help="Repetitions in each bring-up."
)
_bringups = click.option(
    "--bringups",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Testbeds, one after the other: intervals are over them.",
)


def _run(what: str, out: Path, runs: int, bringups: int, name: str) -> dict[str, Any]:
    return _guarded(what, out, lambda say: _RUNS[what](name, out, runs, bringups, say))


def _guarded(what: str, out: Path, job: Callable[[Callable[[str], None]], dict[str, Any]]) -> dict[str, Any]:
    notes.print(f"[bold]{what}[/]")
    graph = out / f"{what}.profile.svg"
    wanted = bool(click.get_current_context().obj)
    try:
        with profiled(graph, f"duet experiment {what}") if wanted else nullcontext():
            summary = job(lambda line: notes.print(f"  {line}"))
    except (TestbedError, RuntimeError, TimeoutError) as error:
        raise click.ClickException(f"{what}: {error}") from error
    written = [f".{kind}" for kind in _KINDS if (out / f"{what}.{kind}").exists()]
    notes.print(f"  {out / what}{', '.join(written)}")
    return summary


def _command(what: str, help_text: str) -> None:
    @experiment.command(what, help=help_text)
    @_options
    @_repetitions
    @_bringups
    def command(out: Path, runs: int, bringups: int, name: str, as_json: bool) -> None:
        summary = _run(what, out, runs, bringups, name)
        if as_json:
            click.echo(results.to_json(summary))


@experiment.command("failover")
@_options
@_repetitions
@_bringups
@click.option(
    "--vips",
    type=click.IntRange(1, failover.MOST_VIPS),
    default=1,
    show_default=True,
    help="On the switch that dies; several are pinged in turn.",
)
@click.option("--load", is_flag=True, help="With every core of this machine kept busy.")
def failover_command(
    out: Path, runs: int, bringups: int, name: str, as_json: bool, vips: int, load: bool
) -> None:
    """A switch dies; how long its VIPs are away, and whether others lose anything (figure 12)."""
    variant = failover.Variant(vips, load)
    summary = _guarded("failover", out, lambda say: failover.run(name, out, runs, bringups, say, variant))
    if as_json:
        click.echo(results.to_json(summary))


_command(
    "failures", "Eleven kinds of failure; how long any flow is unserved, and what breaks (beyond the paper)."
)
_command("migration", "Three VIPs move in two waves; how long each takes, and what is lost (figure 13).")
_command("breakdown", "What each step of adding and deleting a VIP takes (figure 14).")


@experiment.command("capacity")
@_options
@_bringups
def capacity_command(out: Path, bringups: int, name: str, as_json: bool) -> None:
    """An SMux below and above its capacity, then an HMux: what an idle VIP's pings see (figure 11)."""
    summary = _run("capacity", out, 1, bringups, name)
    if as_json:
        click.echo(results.to_json(summary))


@experiment.command("consistency")
@_options
@click.option(
    "--connections", type=click.IntRange(10, 20_000), default=consistency.CONNECTIONS, show_default=True
)
def consistency_command(out: Path, connections: int, name: str, as_json: bool) -> None:
    """Live connections through changes, failures, kills and a flood: how many break (beyond the paper)."""
    summary = _guarded("consistency", out, lambda say: consistency.run(name, out, say, connections))
    if as_json:
        click.echo(results.to_json(summary))


@experiment.command("chaos")
@_options
@click.option("--seconds", type=click.FloatRange(1), default=chaos.SECONDS, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of what is killed and changed, and when.")
@click.option(
    "--controllers",
    type=click.IntRange(1, len(CONTROLLERS)),
    default=1,
    show_default=True,
    help="Several: the leader also freezes, and the network between them, etcd and agents parts.",
)
def chaos_command(out: Path, seconds: float, seed: int, controllers: int, name: str, as_json: bool) -> None:
    """Random kills -9 and changes, then quiet: whether all that was acknowledged is there (beyond the paper).

    The exit code is 1 if a change was lost, a device differs for good, or two switches announced one address.
    """
    summary = _guarded(
        "chaos", out, lambda say: chaos.run(name, out, say, seconds, seed, controllers=controllers)
    )
    if as_json:
        click.echo(results.to_json(summary))
    if summary["lost"] or summary["differences"] or summary["announced_twice"]:
        raise SystemExit(1)


@experiment.command("attacks")
@_options
@click.option("--testbed", help="Attack this running testbed instead of bringing one up.")
@click.option("--small", is_flag=True, help="Short floods, and no attack that takes long.")
@click.option("--only", multiple=True, metavar="ATTACK", help="Only this one; repeatable.")
def attacks_command(
    out: Path, name: str, as_json: bool, testbed: str | None, small: bool, only: tuple[str, ...]
) -> None:
    """Dozens of attacks, from stolen certificates to floods: what was tried, and what stopped it.

    The exit code is 1 if one succeeds, or could not be tried.
    """
    summary = _guarded("attacks", out, lambda say: attacks.run(testbed, name, out, say, small, only))
    if as_json:
        click.echo(results.to_json(summary))
    if any(attack["succeeded"] or attack["failed"] for attack in summary["attacks"]):
        raise SystemExit(1)


@experiment.command("all")
@_options
@_repetitions
@_bringups
def every(out: Path, runs: int, bringups: int, name: str, as_json: bool) -> None:
    """Run every experiment but chaos, one after the other."""
    summaries = {what: _run(what, out, runs, bringups, name) for what in _RUNS}
    if as_json:
        click.echo(results.to_json(summaries))
