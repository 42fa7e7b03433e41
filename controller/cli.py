"""The operator's commands: `duet vip`, `duet assignment`, `duet events`, `duet status`.

Exit codes: 0 done, 1 the controller refused or could not be reached, 2 the command line is wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from controller.client import ControllerClient
from controller.engine import strategy_names
from controller.engine.live.api import AssignmentRequest
from controller.records import ON_SMUXES, Carried, Event, VipRecord
from controller.updater.outcome import Report
from controller.updater.plan import Plan
from controller.updater.service import Placement
from duet_p4.model import Dip, HealthCheckKind, Vip
from duet_p4.rest.client import RefusedError, RestError
from duet_p4.rest.credentials import read_token

RUN = Path("/run/duet/paper")
"""Where the default testbed's controller listens and keeps its token."""

_Answer = TypeVar("_Answer")
_SHOWN = 5
_FILE_HELP = "The whole VIP as JSON, as `duet vip show --spec` prints it."


class Address(click.ParamType[IPv4Address]):
    """An IPv4 address on the command line."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Address:
        """Parse it, or say what is wrong with it."""
        try:
            return IPv4Address(value)
        except ValueError:
            self.fail(f"{value!r} is no IPv4 address", param, ctx)


ADDRESS = Address()


@dataclass(frozen=True)
class Session:
    """How to reach the controller, and how to show what it says."""

    socket: Path
    token_file: Path
    as_json: bool

    def ask(self, question: Callable[[ControllerClient], Awaitable[_Answer]]) -> _Answer:
        """Ask the controller something; a refusal ends the command with exit code 1."""

        async def run() -> _Answer:
            token = read_token(self.token_file)
            self.socket.stat()
            async with ControllerClient("http://controller", token=token, local=self.socket) as client:
                return await question(client)

        try:
            return asyncio.run(run())
        except FileNotFoundError as error:
            raise click.ClickException(
                f"no controller here: {error.filename} does not exist. Bring up a testbed (duet testbed up), "
                "or name its socket and token (--socket, --token-file)"
            ) from error
        except RefusedError as error:
            raise click.ClickException(error.problem.detail) from error
        except (RestError, OSError, ValueError) as error:
            raise click.ClickException(str(error)) from error

    def show(self, answer: Any, people: Callable[[], Iterable[Table | str]]) -> None:
        """Print an answer as one line of JSON, or for people."""
        if self.as_json:
            plain = TypeAdapter(type(answer)).dump_python(answer, mode="json") if answer is not None else None
            click.echo(json.dumps(_plain(answer) if isinstance(answer, (list, tuple)) else plain))
            return
        console = Console()
        for part in people():
            console.print(part)


def _plain(answers: Sequence[BaseModel]) -> list[Any]:
    return [answer.model_dump(mode="json") for answer in answers]


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has, and hand the command a `Session`."""

    def run(socket: Path | None, token_file: Path | None, testbed: str, as_json: bool, **rest: Any) -> Any:
        run_dir = RUN.parent / testbed
        session = Session(
            socket or run_dir / "controller.sock", token_file or run_dir / "credentials" / "token", as_json
        )
        return command(session, **rest)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    path = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON value as the last line."),
        click.option(
            "--testbed",
            default=RUN.name,
            envvar="DUET_TESTBED",
            show_default=True,
            help="Name of the running testbed.",
        ),
        click.option("--token-file", type=path, envvar="DUET_TOKEN_FILE", help="The bearer token."),
        click.option("--socket", type=path, envvar="DUET_SOCKET", help="The controller's Unix socket."),
    ):
        run = option(run)
    return run


@click.group(short_help="VIPs: what the operator wants.")
def vip() -> None:
    """VIPs: what the operator wants."""


@vip.command("list")
@_options
def list_vips(session: Session) -> None:
    """List VIPs, where they live, and their DIPs."""
    records = session.ask(lambda c: c.vips())

    def people() -> Iterable[Table]:
        table = Table("VIP", "name", "on", "DIPs", "ports", "TIPs", "pinned")
        for record in records:
            spec = record.spec
            ports = ", ".join(f"{port.protocol}/{port.port}" for port in spec.ports)
            table.add_row(
                str(record.address),
                spec.name or "",
                _where(record),
                str(len({dip.address for dip in spec.all_dips()})),
                ports,
                str(len(record.tips) or ""),
                str(len(record.layout.pinned) or ""),
            )
        yield table

    session.show(records, people)


@vip.command("show")
@click.argument("address", type=ADDRESS)
@click.option("--spec", is_flag=True, help="Print what was stated of it, as JSON for --file, and no more.")
@_options
def show_vip(session: Session, address: IPv4Address, spec: bool) -> None:
    """Show one VIP: its groups, and how many slots each DIP owns."""
    record = session.ask(lambda c: c.vip(address))
    if spec:
        click.echo(record.spec.model_dump_json(exclude_defaults=True))
        return
    session.show(record, lambda: _details(record))


@vip.command("add")
@click.argument("address", type=ADDRESS, required=False)
@click.option("--dip", "dips", multiple=True, metavar="ADDRESS[*WEIGHT]", help="A DIP; may be repeated.")
@click.option("--file", "file", type=click.File(), help=_FILE_HELP)
@click.option("--name", help="A name for people.")
@click.option("--switch", help="Carry it on this switch (`smux`: the SMuxes), not where the engine says.")
@_options
def add_vip(
    session: Session,
    address: IPv4Address | None,
    dips: tuple[str, ...],
    file: Any,
    name: str | None,
    switch: str | None,
) -> None:
    """Add a VIP, such as: duet vip add 10.0.0.9 --dip 100.1.1.1 --dip 100.1.2.1*3."""
    spec = _spec(address, dips, file, name)
    record = session.ask(lambda c: c.add_vip(spec, switch))
    session.show(record, lambda: _details(record))


@vip.command("change")
@click.argument("address", type=ADDRESS, required=False)
@click.option("--dip", "dips", multiple=True, metavar="ADDRESS[*WEIGHT]", help="A DIP, in place of all now.")
@click.option("--add", "added", multiple=True, metavar="ADDRESS[*WEIGHT]", help="A DIP, beside those now.")
@click.option("--drop", "dropped", multiple=True, type=ADDRESS, help="A DIP to take away.")
@click.option("--file", "file", type=click.File(), help=_FILE_HELP)
@click.option("--name", help="A name for people.")
@_options
def change_vip(
    session: Session,
    address: IPv4Address | None,
    dips: tuple[str, ...],
    added: tuple[str, ...],
    dropped: tuple[IPv4Address, ...],
    file: Any,
    name: str | None,
) -> None:
    """Change a VIP's DIPs; live connections to DIPs that stay are kept.

    What is not named stays as it is: ports, SNAT, health check. DIPs are those of the default group. A file
    replaces the whole VIP.
    """
    if file is not None:
        spec = _spec(address, (*dips, *added), file, name)
    elif address is None:
        raise click.UsageError("give either an address, or --file")
    else:
        spec = _changed(session.ask(lambda c: c.vip(address)).spec, dips, added, dropped, name)
    record = session.ask(lambda c: c.change_vip(spec))
    session.show(record, lambda: _details(record))


@vip.command("remove")
@click.argument("address", type=ADDRESS)
@_options
def remove_vip(session: Session, address: IPv4Address) -> None:
    """Remove a VIP."""
    session.ask(lambda c: c.remove_vip(address))
    session.show(None, lambda: [f"VIP {address} is removed"])


@vip.command("migrate")
@click.argument("address", type=ADDRESS)
@click.argument("switch")
@_options
def migrate_vip(session: Session, address: IPv4Address, switch: str) -> None:
    """Move a VIP to SWITCH, or with `smux` to the SMuxes; the engine then leaves it there."""
    target = None if switch == ON_SMUXES else switch
    report = session.ask(lambda c: c.migrate(address, target))
    record = session.ask(lambda c: c.vip(address))
    session.show(report, lambda: [*_report(report), f"VIP {address} is on {_where(record)}"])
    if report.failed or record.switch != target:
        sys.exit(1)


@vip.command("release")
@click.argument("address", type=ADDRESS)
@_options
def release_vip(session: Session, address: IPv4Address) -> None:
    """Let the engine place a VIP again that was placed by hand."""
    record = session.ask(lambda c: c.release(address))
    session.show(record, lambda: [f"VIP {address} is the engine's to place; it is on {_where(record)}"])


@vip.command("drain")
@click.argument("address", type=ADDRESS)
@click.argument("dip", type=ADDRESS)
@_options
def drain_dip(session: Session, address: IPv4Address, dip: IPv4Address) -> None:
    """Give a DIP no new flows; those it has go on."""
    record = session.ask(lambda c: c.drain(address, dip))
    session.show(record, lambda: _details(record))


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
@_options
def show_assignment(session: Session) -> None:
    """Show where every VIP and TIP shall live, and what waits for a switch on the SMuxes."""
    records = session.ask(lambda c: c.vips())
    standing = _standing(records)
    rows = [
        {"address": str(address), "switch": carried.switch, "returning": carried.returning}
        for address, carried in standing.items()
    ]

    def people() -> Iterable[Table]:
        table = Table("VIP or TIP", "on")
        for address, carried in standing.items():
            table.add_row(str(address), _on(carried))
        yield table

    session.show({"placements": rows}, people)


@assignment.command("plan")
@_strategy_options
@_options
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
@_options
def run_assignment(session: Session, strategy: str, options: tuple[str, ...]) -> None:
    """Compute an assignment and carry it out, in waves through the SMuxes."""

    async def question(client: ControllerClient) -> Report:
        return await client.assign(await _compute(client, strategy, options))

    _carry_out(session, question)


@assignment.command("explain")
@click.argument("address", type=ADDRESS)
@_options
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


@click.command(short_help="What happened.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--after", type=click.IntRange(0), default=0, help="Only events after this number.")
@_options
def events(session: Session, limit: int, after: int) -> None:
    """What happened: failures, changes, repairs; the newest last."""
    found = session.ask(lambda c: c.events(after, limit))

    def people() -> Iterable[Table]:
        table = Table("#", "time", "event", "subject", "detail")
        for event in found:
            table.add_row(str(event.id), _clock(event), event.kind, event.subject, _detail(event))
        yield table

    session.show(found, people)


@click.command(short_help="The controller at a glance.")
@_options
def status(session: Session) -> None:
    """The controller at a glance: agents, VIPs, and what is out of order."""

    async def question(client: ControllerClient) -> dict[str, Any]:
        agents, vips = await asyncio.gather(client.agents(), client.vips())
        standing = _standing(vips)
        reach: dict[str, int] = {}
        for agent in agents:
            reach[agent.reach.value] = reach.get(agent.reach.value, 0) + 1
        return {
            "agents": reach,
            "out_of_order": [a.model_dump(mode="json") for a in agents if a.reach.value != "ready"],
            "waiting": {str(address): c.returning for address, c in standing.items() if c.returning},
            "dips_down": sorted({str(dip) for record in vips for dip in record.left_out()}),
            "vips": len(vips),
            "on_hmuxes": sum(c.switch is not None for c in standing.values()),
            "on_smuxes": sum(c.switch is None for c in standing.values()),
        }

    found = session.ask(question)

    def people() -> Iterable[str]:
        yield "agents: " + ", ".join(f"{count} {reach}" for reach, count in found["agents"].items())
        for agent in found["out_of_order"]:
            yield f"  {agent['name']} is {agent['reach']}: {agent['detail']}"
        for address, switch in found["waiting"].items():
            yield f"  {address} waits for {switch} on the SMuxes"
        if down := found["dips_down"]:
            more = f" and {len(down) - _SHOWN} more" if len(down) > _SHOWN else ""
            yield f"  DIPs out of service: {', '.join(down[:_SHOWN])}{more}"
        hmuxes, smuxes = found["on_hmuxes"], found["on_smuxes"]
        yield f"{found['vips']} VIPs; {hmuxes} VIPs and TIPs on HMuxes, {smuxes} on SMuxes"

    session.show(found, people)


def _spec(address: IPv4Address | None, dips: Sequence[str], file: Any, name: str | None) -> Vip:
    if (address is None) == (file is None):
        raise click.UsageError("give either an address with --dip, or --file")
    try:
        if file is not None:
            return Vip.model_validate_json(file.read())
        return Vip.model_validate({"address": address, "dips": [_dip(text) for text in dips], "name": name})
    except ValidationError as error:
        raise click.UsageError(_invalid(error)) from error


def _changed(
    spec: Vip,
    dips: Sequence[str],
    added: Sequence[str],
    dropped: Sequence[IPv4Address],
    name: str | None,
) -> Vip:
    for dip in dropped:
        if all(dip != known.address for known in spec.dips):
            raise click.UsageError(f"VIP {spec.address} has no DIP {dip} in its default group")
    try:
        kept = [_dip(text) for text in dips] if dips else [d for d in spec.dips if d.address not in dropped]
        changed = {"dips": [*kept, *map(_dip, added)], "name": name or spec.name}
        return Vip.model_validate({**spec.model_dump(), **changed})
    except ValidationError as error:
        raise click.UsageError(_invalid(error)) from error


def _dip(text: str) -> Dip:
    address, _, weight = text.partition("*")
    return Dip.model_validate({"address": address, **({"weight": weight} if weight else {})})


def _invalid(error: ValidationError) -> str:
    """Return what is wrong first, and where; the value too, unless it is a whole structure."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    value = first["input"]
    got = f" (got {value!r})" if isinstance(value, str | int | float) and where else ""
    return (f"{where}: " if where else "") + first["msg"].removeprefix("Value error, ") + got


def _details(record: VipRecord) -> Iterable[Table | str]:
    yield f"VIP {record.address} on {_where(record)}"
    yield from (f"TIP {placed.tip.address} on {_on(placed)}" for placed in record.tips)
    if record.spec.snat:
        yield "its DIPs connect out with the VIP as source (SNAT)"
    if check := record.spec.health:
        path = check.path if check.kind is HealthCheckKind.HTTP else ""
        yield f"checked by {check.kind} on port {check.port}{path} every {check.interval_ms} ms"
    if left_out := record.left_out():
        yield f"DIPs out of service: {', '.join(map(str, sorted(left_out)))}"
    groups = [("default", record.layout.group)] if record.layout.group else []
    groups += [(f"{port.protocol}/{port.port}", port.group) for port in record.layout.ports]
    groups += [(f"TIP {placed.tip.address}", placed.tip.group) for placed in record.tips]
    table = Table("group", "DIP or TIP", "weight", "slots")
    for name, group in groups:
        for index, member in enumerate(group.members):
            held = sum(1 for owner in group.slots if owner == index)
            table.add_row(name, str(member.address), str(member.weight), f"{held} of {len(group.slots)}")
    yield table


def _standing(records: Iterable[VipRecord]) -> dict[IPv4Address, Carried]:
    """Return every VIP and TIP."""
    return {address: carried for record in records for address, carried in record.carried().items()}


def _where(record: VipRecord) -> str:
    return _on(record) + (" (by hand)" if record.held else "")


def _on(carried: Carried) -> str:
    return f"SMuxes (waiting for {carried.returning})" if carried.returning else carried.switch or "SMuxes"


def _carry_out(session: Session, update: Callable[[ControllerClient], Awaitable[Report]]) -> None:
    """Do an update and show what was done; exit code 1 where some of it failed."""
    report = session.ask(update)
    session.show(report, lambda: _report(report))
    if report.failed:
        sys.exit(1)


def _report(report: Report) -> Iterable[str]:
    yield f"{report.done} steps, {report.writes} table entries written"
    for wave, ms in report.wave_ms.items():
        yield f"  {wave}: {ms:.1f} ms"
    for failure in report.failed:
        yield f"  failed: {failure}"


def _clock(event: Event) -> str:
    return datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")[:-3]


def _detail(event: Event) -> str:
    shown = {key: value for key, value in event.detail.items() if value is not None or key == "switch"}
    return ", ".join(f"{key} {'SMuxes' if value is None else value}" for key, value in shown.items())
