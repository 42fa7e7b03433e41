"""What the launcher is asked over its socket, and what it answers: one JSON object a line each way."""

from __future__ import annotations

import json
import socket
from typing import Literal

from pydantic import ValidationError

from duet_p4.model import Model
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.supervisor import Crash, ProcessStatus

_TIMEOUT_S = 30.0


class Request(Model):
    """A question or an order. `what` is a node, or a link as `tor1-agg1`; None is all that failed."""

    do: Literal["status", "fail", "restore"]
    what: str | None = None


class Answer(Model):
    """What became of it; `error` is None if it was carried out."""

    error: str | None = None
    ready: bool = False
    processes: tuple[ProcessStatus, ...] = ()
    crashes: tuple[Crash, ...] = ()
    failed: tuple[str, ...] = ()


class Progress(Model):
    """A step of the launch: `done` of `total`. The last one is `ready` or has an `error`."""

    step: str
    done: int = 0
    total: int = 0
    ready: bool = False
    error: str | None = None


def ask(folder: Folder, request: Request) -> Answer:
    """Ask the launcher; raises `TestbedError` if it does not answer, or refuses."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_TIMEOUT_S)
        try:
            client.connect(str(folder.socket))
            client.sendall(request.model_dump_json().encode() + b"\n")
            with client.makefile() as reply:
                answer = Answer.model_validate_json(reply.readline())
        except FileNotFoundError:
            raise folder.not_up() from None
        except PermissionError:
            raise TestbedError(f"testbed {folder.name!r} is root's: use sudo") from None
        except (OSError, ValidationError, json.JSONDecodeError) as error:
            raise TestbedError(
                f"the launcher of testbed {folder.name!r} does not answer ({error}): it has probably been "
                f"killed; `duet testbed down --name {folder.name}` cleans up, {folder.logs} has the logs"
            ) from None
    if answer.error is not None:
        raise TestbedError(answer.error)
    return answer
