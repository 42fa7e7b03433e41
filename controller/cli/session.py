"""How every command reaches the controller, and shows what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import update_wrapper
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.table import Table

from controller.client import ControllerClient
from duet_p4.rest.client import RefusedError, RestError
from duet_p4.rest.credentials import read_token

RUN = Path("/run/duet/paper")
"""Where the default testbed's controller listens and keeps its token."""

_Answer = TypeVar("_Answer")


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


def with_session(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has, and hand the command a `Session`."""

    def run(socket: Path | None, token_file: Path | None, testbed: str, as_json: bool, **rest: Any) -> Any:
        run_dir = RUN.parent / testbed
        session = Session(
            socket or run_dir / "controller.sock", token_file or run_dir / "credentials" / "token", as_json
        )
        return command(session, **rest)

    update_wrapper(run, command)  # with the options that click has noted on it so far
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
