"""`duet drain`: an SMux is left alone before somebody works on it."""

from __future__ import annotations

import asyncio

import click

from duet_p4.rest.client import RestError
from mininet_topos import fattree
from mininet_topos.testbed import agents
from mininet_topos.testbed.audit import note
from mininet_topos.testbed.folder import DEFAULT_NAME, Folder, TestbedError
from mininet_topos.testbed.plan import Plan


@click.command("drain", short_help="Have other SMuxes preferred to one, for maintenance.")
@click.argument("smux")
@click.option("--end", is_flag=True, help="It may be preferred again.")
@click.option(
    "--testbed", "name", default=DEFAULT_NAME, envvar="DUET_TESTBED", show_default=True, help="Whose."
)
def drain(smux: str, end: bool, name: str) -> None:
    """Have every neighbour prefer other SMuxes to one (RFC 8326), which serves on what still comes."""
    folder = Folder(name)

    async def ask() -> None:
        graph = fattree.fattree(Plan.load(folder).size)
        async with agents.connect(folder, graph) as connected:
            if smux not in connected.smuxes:
                raise TestbedError(f"there is no SMux {smux}: there are {', '.join(connected.smuxes)}")
            client = connected.smuxes[smux]
            before = await client.draining()
            await client.drain(draining=not end)
        await note(folder, smux, {"draining": before}, {"draining": not end})

    try:
        asyncio.run(ask())
    except (OSError, RestError, TestbedError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{smux} is {'as good as others again' if end else 'drained: others are preferred to it'}")
