"""`duet drain`: an SMux is left alone before somebody works on it."""

from __future__ import annotations

import click

from controller.cli import complete
from controller.cli.session import Session, with_session


@click.command("drain", short_help="Have other SMuxes preferred to one, for maintenance.")
@click.argument("smux", shell_complete=complete.smuxes)
@click.option("--end", is_flag=True, help="It may be preferred again.")
@with_session
def drain(session: Session, smux: str, end: bool) -> None:
    """Have every neighbour prefer other SMuxes to one (RFC 8326), which serves on what still comes."""
    session.ask(lambda client: client.drain_smux(smux, draining=not end))
    said = "as good as others again" if end else "drained: others are preferred to it"
    session.show({"smux": smux, "draining": not end}, lambda: [f"{smux} is {said}"])
