"""`duet vip`: what the operator wants.

Every change states the revision of the VIP that it is a change of, so that two operators never overwrite
each other. One that only adds and drops DIPs is made again on what the other left.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from rich.table import Table

from controller.cli import complete, render
from controller.cli.session import ADDRESS, Session, with_session
from controller.client import ControllerClient
from controller.records import ON_SMUXES, VipRecord
from controller.updater.outcome import Report
from duet_p4.model import Vip, explain
from duet_p4.rest.client import RefusedError

_Answer = TypeVar("_Answer")
_TRIES = 30
_FILE_HELP = "The whole VIP as JSON, as `duet vip show --spec` prints it."


def _dips(option: str, name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that takes DIPs."""
    return click.option(
        option,
        name,
        multiple=True,
        metavar="ADDRESS[*WEIGHT]",
        shell_complete=complete.server_dips,
        help=text,
    )


@click.group(short_help="VIPs: what the operator wants.")
def vip() -> None:
    """VIPs: what the operator wants."""


@vip.command("list")
@with_session
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
                render.where(record),
                str(len({dip.address for dip in spec.all_dips()})),
                ports,
                str(len(record.tips) or ""),
                str(len(record.layout.pinned) or ""),
            )
        yield table

    session.show(records, people)


@vip.command("show")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@click.option("--spec", is_flag=True, help="Print what was stated of it, as JSON for --file, and no more.")
@with_session
def show_vip(session: Session, address: IPv4Address, spec: bool) -> None:
    """Show one VIP: its groups, and how many slots each DIP owns."""
    record = session.ask(lambda c: c.vip(address))
    if spec:
        click.echo(record.spec.model_dump_json(exclude_defaults=True))
        return
    session.show(record, lambda: render.details(record))


@vip.command("add")
@click.argument("address", type=ADDRESS, required=False)
@click.option(
    "--dip",
    "dips",
    multiple=True,
    metavar="ADDRESS[*WEIGHT]",
    shell_complete=complete.server_dips,
    help="A DIP; may be repeated.",
)
@click.option("--file", "file", type=click.File(), help=_FILE_HELP)
@click.option("--name", help="A name for people.")
@click.option(
    "--switch",
    shell_complete=complete.switches,
    help="Carry it on this switch (`smux`: the SMuxes), not where the engine says.",
)
@with_session
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
    session.show(record, lambda: render.details(record))


@vip.command("change")
@click.argument("address", type=ADDRESS, required=False, shell_complete=complete.vips)
@click.option(
    "--dip",
    "dips",
    multiple=True,
    metavar="ADDRESS[*WEIGHT]",
    shell_complete=complete.server_dips,
    help="A DIP, in place of all now.",
)
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="ADDRESS[*WEIGHT]",
    shell_complete=complete.server_dips,
    help="A DIP, beside those now.",
)
@click.option(
    "--drop", "dropped", multiple=True, type=ADDRESS, shell_complete=complete.dips, help="A DIP to take away."
)
@click.option("--file", "file", type=click.File(), help=_FILE_HELP)
@click.option("--name", help="A name for people.")
@with_session
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
        _change_dips(session, address, dips, added, dropped, name)
        return

    async def replace(client: ControllerClient) -> VipRecord:
        return await client.change_vip(spec, (await client.vip(spec.address)).revision)

    record = session.ask(replace)
    session.show(record, lambda: render.details(record))


def _change_dips(
    session: Session,
    address: IPv4Address,
    dips: Sequence[str],
    added: Sequence[str],
    dropped: Sequence[IPv4Address],
    name: str | None,
) -> None:
    if not (dips or added or dropped or name):
        raise click.UsageError("nothing is to be changed: give --dip, --add, --drop, --name or --file")

    async def change(client: ControllerClient) -> VipRecord:
        return await _at_revision(
            client,
            address,
            lambda record: client.change_vip(
                _changed(record.spec, dips, added, dropped, name), record.revision
            ),
        )

    record = session.ask(change)
    session.show(record, lambda: render.details(record))


@vip.command("remove")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@with_session
def remove_vip(session: Session, address: IPv4Address) -> None:
    """Remove a VIP."""

    async def remove(client: ControllerClient) -> None:
        await client.remove_vip(address, (await client.vip(address)).revision)

    session.ask(remove)
    session.show(None, lambda: [f"VIP {address} is removed"])


@vip.command("migrate")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@click.argument("switch", shell_complete=complete.switches)
@with_session
def migrate_vip(session: Session, address: IPv4Address, switch: str) -> None:
    """Move a VIP to SWITCH, or with `smux` to the SMuxes; the engine then leaves it there."""
    target = None if switch == ON_SMUXES else switch

    async def migrate(client: ControllerClient) -> tuple[Report, VipRecord]:
        report = await client.migrate(address, target, (await client.vip(address)).revision)
        return report, await client.vip(address)

    report, record = session.ask(migrate)
    session.show(report, lambda: [*render.done(report), f"VIP {address} is on {render.where(record)}"])
    if report.failed or record.switch != target:
        sys.exit(1)


@vip.command("release")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@with_session
def release_vip(session: Session, address: IPv4Address) -> None:
    """Let the engine place a VIP again that was placed by hand."""

    async def release(client: ControllerClient) -> VipRecord:
        return await client.release(address, (await client.vip(address)).revision)

    record = session.ask(release)
    session.show(record, lambda: [f"VIP {address} is the engine's to place; it is on {render.where(record)}"])


@vip.command("drain")
@click.argument("address", type=ADDRESS, shell_complete=complete.vips)
@click.argument("dip", type=ADDRESS, shell_complete=complete.dips)
@with_session
def drain_dip(session: Session, address: IPv4Address, dip: IPv4Address) -> None:
    """Give a DIP no new flows; those it has go on."""

    async def drain(client: ControllerClient) -> VipRecord:
        return await _at_revision(client, address, lambda record: client.drain(address, dip, record.revision))

    record = session.ask(drain)
    session.show(record, lambda: render.details(record))


async def _at_revision(
    client: ControllerClient, vip: IPv4Address, change: Callable[[VipRecord], Awaitable[_Answer]]
) -> _Answer:
    """Make a change of what a VIP is now; again, where somebody else was faster."""
    for _ in range(_TRIES):
        try:
            return await change(await client.vip(vip))
        except RefusedError as error:
            if error.problem.kind != "revision-differs":
                raise
    raise click.ClickException(f"VIP {vip} is changed all the time; nothing was done")


def _spec(address: IPv4Address | None, dips: Sequence[str], file: Any, name: str | None) -> Vip:
    if (address is None) == (file is None):
        raise click.UsageError("give either an address with --dip, or --file")
    try:
        if file is not None:
            return Vip.model_validate_json(file.read())
        return Vip.model_validate({"address": address, "dips": list(dips), "name": name})
    except ValidationError as error:
        raise click.UsageError(explain(error)) from error


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
        kept = list(dips) if dips else [d for d in spec.dips if d.address not in dropped]
        changed = {"dips": [*kept, *added], "name": name or spec.name}
        return Vip.model_validate({**spec.model_dump(), **changed})
    except ValidationError as error:
        raise click.UsageError(explain(error)) from error
