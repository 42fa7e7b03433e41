"""`duet web`: the page."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from pathlib import Path

import click

from controller.cli.session import Session, with_session
from controller.web import DEFAULT_PORT, gateway
from controller.web.addresses import new_address
from controller.web.sessions import Rights, Sessions
from duet_p4.rest.client import RestError
from duet_p4.signals import told_to_end


@click.command(short_help="The web page: print its address.")
@click.option("--read-only", is_flag=True, help="An address whose browser may look, and change nothing.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    help=f"Where to serve it on 127.0.0.1; by default {DEFAULT_PORT}, or any that is free.",
)
@with_session
def web(session: Session, read_only: bool, port: int | None) -> None:
    """Print an address of the web page, which works once, in one browser.

    A testbed serves the page itself. For any other controller this command does, until Ctrl-C.
    """
    rights = Rights.READER if read_only else Rights.OPERATOR
    there = session.socket.with_name("web.sock")
    try:
        by_testbed = there.exists() and os.access(there, os.W_OK)
    except PermissionError as error:
        raise click.ClickException(f"{error.filename} is the operator's alone: use sudo") from error
    if by_testbed:
        try:
            click.echo(asyncio.run(new_address(there, rights)))
        except RestError as error:
            raise click.ClickException(f"the page of this testbed does not answer: {error}") from error
        return
    if not session.socket.exists():
        raise click.ClickException(
            f"no controller here: {session.socket} does not exist. Bring up a testbed (duet testbed up), or "
            "name a controller's socket (--socket)"
        )
    try:
        asyncio.run(_serve(session, rights, port))
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


async def _serve(session: Session, rights: Rights, port: int | None) -> None:
    stop = told_to_end()
    sessions = Sessions(secrets.token_bytes(32))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "web.sock"
        listener = gateway.bind(port)
        async with gateway.running(listener, sessions, [session.socket], local):
            click.echo(await new_address(local, rights))
            click.echo("serving the page until Ctrl-C", err=True)
            sys.stdout.flush()
            await stop.wait()
