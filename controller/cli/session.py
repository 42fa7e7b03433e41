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

from controller.client import ControllerClient, local_socket
from duet_p4.identity import Credentials
from duet_p4.rest.client import RefusedError, RestError, UnansweredError

RUN = Path("/run/duet/paper")
"""Where the default testbed's controller listens."""

_GOES_ON = (
    ". What was asked may be carried out all the same: `duet why ADDRESS --wait SECONDS` waits for it, and "
    "`duet events` tells"
)

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
    """How to reach the controller, and how to show what it says: over its socket, or else at `url`."""

    socket: Path
    as_json: bool
    url: str | None = None
    credentials: Path | None = None

    def client(self) -> ControllerClient:
        """Return a client. Raises ValueError where there are no credentials, OSError where no socket."""
        if self.url is None:
            self.socket.stat()
            return ControllerClient("http://controller", local=self.socket)
        if self.credentials is None:
            raise ValueError(f"{self.url} asks who you are: name your credentials (--credentials)")
        return ControllerClient(self.url, credentials=Credentials(self.credentials))

    def ask(self, question: Callable[[ControllerClient], Awaitable[_Answer]]) -> _Answer:
        """Ask the controller something; a refusal ends the command with exit code 1."""

        async def run() -> _Answer:
            async with self.client() as client:
                return await question(client)

        try:
            return asyncio.run(run())
        except FileNotFoundError as error:
            raise click.ClickException(
                f"no controller here: {error.filename} does not exist. Bring up a testbed (duet testbed up), "
                "or name its socket (--socket), or its address and your credentials (--url, --credentials)"
            ) from error
        except PermissionError as error:
            raise click.ClickException(
                f"{error.filename} is the operator's alone: use sudo, or name the controller's address and "
                "your credentials (--url, --credentials)"
            ) from error
        except UnansweredError as error:
            after = "" if error.method == "GET" else _GOES_ON
            raise click.ClickException(f"{error}{after}") from error
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

    def run(
        socket: Path | None,
        url: str | None,
        credentials: Path | None,
        testbed: str,
        as_json: bool,
        **rest: Any,
    ) -> Any:
        path = socket or local_socket(RUN.parent / testbed)
        return command(Session(path, as_json, url, credentials), **rest)

    update_wrapper(run, command)  # with the options that click has noted on it so far
    path = click.Path(path_type=Path, dir_okay=False)
    folder = click.Path(path_type=Path, file_okay=False)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON value as the last line."),
        click.option(
            "--testbed",
            default=RUN.name,
            envvar="DUET_TESTBED",
            show_default=True,
            help="Name of the running testbed.",
        ),
        click.option(
            "--credentials",
            type=folder,
            envvar="DUET_CREDENTIALS",
            help="Folder with an operator's certificate.",
        ),
        click.option("--url", envvar="DUET_URL", help="The controller's address, in place of a socket."),
        click.option("--socket", type=path, envvar="DUET_SOCKET", help="The controller's Unix socket."),
    ):
        run = option(run)
    return run
