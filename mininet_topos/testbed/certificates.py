"""`duet certificates`: who has one, and new ones for everybody without an outage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table

from duet_p4.api.service import Whoami
from duet_p4.identity import Credentials, CredentialsError
from duet_p4.identity.rotation import RotationError, holders, rotate
from duet_p4.rest.client import RestClient, RestError
from mininet_topos import fattree
from mininet_topos.testbed import agents
from mininet_topos.testbed.audit import note
from mininet_topos.testbed.folder import DEFAULT_NAME, OPERATOR, Folder, TestbedError, in_the_way
from mininet_topos.testbed.nodes import controller_names
from mininet_topos.testbed.plan import Plan

_ANSWER_S = 3.0

_testbed = click.option(
    "--testbed", "name", default=DEFAULT_NAME, envvar="DUET_TESTBED", show_default=True, help="Whose."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value as the last line.")


@click.group("certificates", short_help="Who has a certificate; new ones for everybody.")
def certificates() -> None:
    """Certificates of a testbed's nodes, its controller, its operator and its reader."""


@certificates.command("list", short_help="Who has a certificate.")
@_testbed
@_json
def show(name: str, as_json: bool) -> None:
    """List whose certificates there are, and how long they are good for."""
    try:
        held = holders(_folder(name).credentials).values()
    except OSError as error:
        raise click.ClickException(in_the_way(error)) from error
    except (CredentialsError, TestbedError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        rows = [
            {
                "name": one.identity.name,
                "role": one.identity.role,
                "serial": one.serial,
                "expires": one.expires.isoformat(),
                "addresses": [str(address) for address in one.addresses],
            }
            for one in held
        ]
        click.echo(json.dumps(rows))
        return
    table = Table("who", "role", "answers at", "good until")
    for one in held:
        where = ", ".join(map(str, one.addresses))
        table.add_row(one.identity.name, one.identity.role, where, f"{one.expires:%Y-%m-%d %H:%M}")
    Console().print(table)


@certificates.command("rotate", short_help="New certificates for everybody, without an outage.")
@_testbed
@_json
def rotate_all(name: str, as_json: bool) -> None:
    """Have a new authority sign new certificates for everybody, and nobody believe the old one.

    The authority's key is in this process only, and gone when it ends.
    """
    say: Callable[[str], None] = (lambda _: None) if as_json else lambda step: click.echo(f"everybody {step}")
    try:
        silent = asyncio.run(renew(_folder(name), say))
    except OSError as error:
        raise click.ClickException(in_the_way(error)) from error
    except (CredentialsError, RotationError, RestError, TestbedError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"ok": True, "silent": silent}))
    elif silent:
        click.echo(f"{', '.join(silent)} did not answer: new certificates hold when they start")


async def renew(folder: Folder, tell: Callable[[str], None]) -> list[str]:
    """Rotate a testbed's certificates; returns who did not answer (`duet_p4.identity.rotation`)."""
    plan = Plan.model_validate_json(folder.plan.read_text())
    before = _authorities(folder)
    async with agents.connect(folder, fattree.fattree(plan.size)) as connected:
        clients: dict[str, RestClient] = dict(connected.all)
        controllers = controller_names(plan.controllers)

        async def ask(name: str) -> Whoami | None:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    if name not in controllers:
                        return await clients[name].whoami()
                    local = folder.controller_socket(name)
                    async with RestClient("http://controller", local=local) as controller:
                        return await controller.whoami()
            except (RestError, TimeoutError):
                return None

        services = [*clients, *controllers]
        silent = await rotate(folder.credentials, services, ask, tell)
    await note(folder, "certificates", {"trusted": before}, {"trusted": _authorities(folder)})
    return silent


def _authorities(folder: Folder) -> str:
    """Return the fingerprints of the authorities that an operator believes."""
    return ", ".join(Credentials(folder.identity(OPERATOR)).trusted)


def _folder(name: str) -> Folder:
    folder = Folder(name)
    if not folder.plan.exists():
        raise folder.not_up()
    return folder
