"""The testbed's part of the page: nodes and links, fail and restore, logs, captures, shells."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import networkx as nx
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from controller.web.gateway import require_operator
from duet_p4.api.problems import ConflictError, ProblemError, UnknownError
from duet_p4.model import Model
from mininet_topos import fattree
from mininet_topos.testbed.audit import note
from mininet_topos.testbed.folder import ROOT_NODE, Folder, TestbedError
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Answer, Request, ask
from mininet_topos.testbed.supervisor import Crash, ProcessStatus, tail
from mininet_topos.testbed.web import commands
from mininet_topos.testbed.web.shells import ShellError, Shells

MAX_CAPTURE_S = 300.0
_QUIET_S = 10.0
_MAX_LINES = 2000

Result = TypeVar("Result")
Node = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,32}$")]


class TestbedNode(Model):
    """A node: what it is, its address, and by port what is at the other end."""

    __test__ = False

    name: str
    kind: str
    container: int | None
    address: str
    ports: dict[str, str]


class Layout(Model):
    """The testbed as it was built."""

    name: str
    target: str
    nodes: tuple[TestbedNode, ...]


class Life(Model):
    """What runs, what was made to fail, and which processes ended by themselves, the newest last."""

    failed: tuple[str, ...]
    processes: tuple[ProcessStatus, ...]
    crashes: tuple[Crash, ...]


class What(Model):
    """A node, or a link as `tor1-agg1`."""

    what: str = Field(pattern=r"^[a-z0-9-]{1,65}$")


class Log(Model):
    """The last lines of a log."""

    name: str
    lines: tuple[str, ...]


class Input(Model):
    """What is typed in a shell."""

    data: str = Field(max_length=65_536)


class Size(Model):
    """How large a terminal is, in characters."""

    columns: int = Field(ge=2, le=1000)
    rows: int = Field(ge=1, le=500)


class Opened(Model):
    """The number of a shell that was opened."""

    shell: int


def router(folder: Folder, graph: nx.Graph, plan: Plan) -> APIRouter:
    """Return the paths."""
    api = APIRouter(prefix="/testbed/v1")
    shells = Shells()
    layout = _layout(folder, graph, plan)
    names = {ROOT_NODE, *graph}

    def known(node: str) -> str:
        if node not in names:
            raise UnknownError(f"testbed {folder.name!r} has no node {node!r}")
        return node

    @api.get("/layout")
    async def get_layout() -> Layout:
        """Return all nodes, clients too, and what is connected to what."""
        return layout

    @api.get("/status")
    async def get_status() -> Life:
        """Return what runs, what has failed, what ended."""
        answer = await _ask(folder, Request(do="status"))
        return Life(failed=answer.failed, processes=answer.processes, crashes=answer.crashes)

    @api.post("/fail", status_code=204)
    async def fail(body: What) -> None:
        """Let a node or link fail, as if by power or cable."""
        await _ask(folder, Request(do="fail", what=body.what))
        await note(folder, body.what, {"failed": False}, {"failed": True})

    @api.post("/restore", status_code=204)
    async def restore(body: What) -> None:
        """Bring back a node or link that was made to fail."""
        await _ask(folder, Request(do="restore", what=body.what))
        await note(folder, body.what, {"failed": True}, {"failed": False})

    @api.get("/nodes/{node}/logs")
    async def get_logs(node: Node, lines: Annotated[int, Query(ge=1, le=_MAX_LINES)] = 200) -> list[Log]:
        """Return the end of each log of a node."""
        files = sorted(folder.logs.glob(f"{known(node)}.*.log")) + sorted(folder.state(node).glob("*.log"))
        return [Log(name=file.name, lines=tail(file, lines)) for file in files]

    @api.get("/nodes/{node}/capture", dependencies=[Depends(require_operator)])
    async def capture(
        node: Node,
        port: Annotated[str, Query(pattern=r"^[a-z0-9-]{1,32}$")],
        seconds: Annotated[float, Query(gt=0, le=MAX_CAPTURE_S)] = 10.0,
        count: Annotated[int | None, Query(ge=1, le=100_000)] = None,
        decoded: bool = False,
    ) -> Response:
        """Capture the packets on a port, both ways: as a pcap, or decoded, a line each, as they come."""
        if port not in _ports(graph, known(node)):
            raise UnknownError(f"{node} has no port {port!r}; it has {', '.join(_ports(graph, node))}")
        words = ["testbed", "capture", node, port, "--name", folder.name, "--seconds", str(seconds)]
        words += ["--count", str(count)] if count else []
        words += [] if decoded else ["--output", "-"]
        content = commands.output_of(*words, errors=decoded)
        if decoded:
            return StreamingResponse(content, media_type="text/plain; charset=utf-8")
        name = f"{node}-{port}.pcap"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(content, media_type="application/vnd.tcpdump.pcap", headers=headers)

    @api.post("/nodes/{node}/shells", status_code=201)
    async def open_shell(node: Node) -> Opened:
        """Open a shell in a node; `root` is the testbed's own namespace."""
        known(node)
        environment = os.environ | {
            "TERM": "xterm-256color",
            "PS1": rf"{node}:\w# ",
            "DUET_TESTBED": folder.name,
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', os.defpath)}",  # noqa: PTH120
        }
        command = ["nsenter", f"--net={folder.namespace(node)}", "--", "bash", "--noprofile", "--norc"]
        return Opened(shell=await _or_refuse(lambda: shells.open(node, command, environment)))

    @api.get(
        "/shells/{number}/output",
        response_class=StreamingResponse,
        dependencies=[Depends(require_operator)],
    )
    async def follow_shell(number: int) -> StreamingResponse:
        """Follow what a shell prints, as server-sent events: base64 of the terminal's bytes."""
        shell = await _or_refuse(lambda: shells.get(number))

        async def lines() -> AsyncIterator[str]:
            async for part in shell.follow(_QUIET_S):
                yield f"data: {base64.b64encode(part).decode()}\n\n" if part else ": quiet\n\n"
            yield "event: end\ndata: \n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @api.post("/shells/{number}/input", status_code=204)
    async def type_in_shell(number: int, body: Input) -> None:
        """Type something in a shell."""
        await _or_refuse(lambda: shells.get(number).write(body.data.encode()))

    @api.post("/shells/{number}/size", status_code=204)
    async def size_shell(number: int, body: Size) -> None:
        """Say how large a shell's terminal is."""
        await _or_refuse(lambda: shells.get(number).resize(body.columns, body.rows))

    @api.delete("/shells/{number}", status_code=204)
    async def close_shell(number: int) -> None:
        """End a shell."""
        await _or_refuse(lambda: shells.close(number))

    return api


async def _or_refuse(job: Callable[[], Result]) -> Result:
    try:
        return job()
    except ShellError as error:
        raise ConflictError(str(error), "no-shell") from error
    except OSError as error:
        raise ProblemError(503, f"a shell cannot be opened: {error}") from error


async def _ask(folder: Folder, request: Request) -> Answer:
    try:
        return await asyncio.to_thread(ask, folder, request)
    except TestbedError as error:
        raise ConflictError(str(error), "refused-by-testbed") from error


def _ports(graph: nx.Graph, node: str) -> dict[str, str]:
    if node not in graph:
        return {}
    return {link.port(node).name: link.peer(node).node for link in fattree.links(graph, node)}


def _layout(folder: Folder, graph: nx.Graph, plan: Plan) -> Layout:
    nodes = [
        TestbedNode(
            name=node.name,
            kind=node.kind.value,
            container=node.container,
            address=str(node.address),
            ports=_ports(graph, node.name),
        )
        for node in fattree.nodes(graph)
    ]
    return Layout(name=folder.name, target=plan.target.value, nodes=tuple(nodes))
