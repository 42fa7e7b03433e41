"""`duet assignment`: which switch carries which VIP, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any

import click
from rich.table import Table

from controller.cli import complete, render
from controller.cli.progress import bar
from controller.cli.session import ADDRESS, Session, with_session
from controller.client import ControllerClient
from controller.engine import strategy_names
from controller.engine.live.api import AssignmentRequest
from controller.updater.outcome import Report
from controller.updater.plan import Plan
from controller.updater.reads import Placement


@click.group(short_help="Which switch carries which VIP, and why.")
def assignment() -> None:
    """Which switch carries which VIP, and why."""


def _strategy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option(
            "--option",
            "options",
            multiple=True,
            metavar="NAME=VALUE",
            help="An option of the strategy, such as delta=0.05 of sticky or seed=1 of random; repeatable.",
        ),
        click.option("--strategy", type=click.Choice(strategy_names()), default="sticky", show_default=True),
    )
    for option in options:
        command = option(command)
    return command


def _option(text: str) -> tuple[str, Any]:
    name, is_there, value = text.partition("=")
    if not (name and is_there):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


async def _compute(client: ControllerClient, strategy: str, options: Sequence[str]) -> list[Placement]:
    """Have the engine say where every VIP and TIP should live."""
    request = AssignmentRequest(strategy=strategy, options=dict(map(_option, options)))
    result = await client.compute(request)
    return [Placement(address=p.address, switch=p.switch) for p in result.placements]


@assignment.command("show")
@with_session
def show_assignment(session: Session) -> None:
    """Show where every VIP and TIP shall live, and what waits for a switch on the SMuxes."""
    records = session.ask(lambda c: c.vips())
    standing = render.standing(records)
    rows = [
        {"address": str(address), "switch": carried.switch, "returning": carried.returning}
        for address, carried in standing.items()
    ]

    def people() -> Iterable[Table]:
        table = Table("VIP or TIP", "on")
        for address, carried in standing.items():
            table.add_row(str(address), render.on(carried))
        yield table

    session.show({"placements": rows}, people)


@assignment.command("plan")
@_strategy_options
@with_session
def plan_assignment(session: Session, strategy: str, options: tuple[str, ...]) -> None:
    """Compute an assignment and print the steps it would take; nothing is changed."""

    async def question(client: ControllerClient) -> Plan:
        return await client.plan(await _compute(client, strategy, options))

    plan = session.ask(question)

    def people() -> Iterable[Table | str]:
        if not plan.steps:
            yield "nothing to do"
            return
        table = Table("wave", "device", "step", "VIP or TIP", "why")
        for step in plan.steps:
            table.add_row(step.wave.value, step.device, step.action.value, str(step.address), step.why)
        yield table

    session.show(plan, people)


@assignment.command("run")
@_strategy_options
@with_session
def run_assignment(session: Session, strategy: str, options: tuple[str, ...]) -> None:
    """Compute an assignment and carry it out, in waves through the SMuxes."""

    async def question(client: ControllerClient) -> Report:
        placements = await _compute(client, strategy, options)
        with bar(session, "moves") as tell:
            return await client.assign(placements, lambda stands: tell(stands.done, stands.total))

    _carry_out(session, question)


@assignment.command("explain")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@with_session
def explain(session: Session, address: IPv4Address) -> None:
    """Say why the last computed assignment put a VIP or TIP where it did."""
    placed = session.ask(lambda c: c.explain(address))

    def people() -> Iterable[str]:
        yield f"{placed.name} on {placed.switch or 'the SMuxes'}: {placed.reason}"
        if placed.bottleneck and placed.utilization is not None:
            yield f"bottleneck: {placed.bottleneck} at {placed.utilization:.1%}"
        if placed.runner_up and placed.runner_up_utilization is not None:
            yield f"runner-up: {placed.runner_up} at {placed.runner_up_utilization:.1%}"

    session.show(placed, people)


def _carry_out(session: Session, update: Callable[[ControllerClient], Awaitable[Report]]) -> None:
    """Do an update and show what was done; exit code 1 where some of it failed."""
    report = session.ask(update)
    session.show(report, lambda: render.done(report))
    if report.failed:
        sys.exit(1)
