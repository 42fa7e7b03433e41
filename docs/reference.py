"""Write docs/cli.md, docs/rest.md and the attacks of docs/security.md; `--check` only compares."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import click
from fastapi import APIRouter, FastAPI

DOCS = Path(__file__).parent
_METHODS = ("get", "put", "post", "delete")


def cli() -> str:
    """Return every command of `duet` with its help."""
    from mininet_topos.cli import main

    lines = [
        "# The `duet` command",
        "",
        "Written by `docs/reference.py` from the commands themselves. `--json` prints one JSON value as the",
        "last line; exit code 0 is done, 1 is refused or failed, 2 is a wrong command line.",
        "",
        'Completion: `eval "$(_DUET_COMPLETE=bash_source duet)"` (or zsh_source, fish_source).',
    ]

    def walk(command: click.Command, path: list[str], parent: click.Context | None) -> None:
        context = click.Context(command, info_name=path[-1], parent=parent, max_content_width=100)
        if isinstance(command, click.Group):
            if len(path) > 1:
                lines.extend(["", f"## duet {' '.join(path[1:])}", "", command.help or ""])
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None:
                    walk(child, [*path, name], context)
            return
        lines.extend(["", f"### duet {' '.join(path[1:])}", "", "```", command.get_help(context), "```"])

    walk(main, ["duet"], None)
    return "\n".join(lines).rstrip() + "\n"


def rest() -> str:
    """Return every path of every REST service with its one-line meaning."""
    parts = [
        "# REST interfaces",
        "",
        "Written by `docs/reference.py` from the services' own OpenAPI documents, which each serves at",
        "`/openapi.json` (and, for people, at `/docs`). Who may ask what: [security.md](security.md).",
        "Every error is a problem (RFC 9457) that names the offending value.",
    ]
    for title, app in (
        ("Controller", _controller()),
        ("Every agent", _every_agent()),
        ("Switch agents and SMux agents", _mux()),
        ("SMux agents alone", _smux()),
        ("Host agents", _host()),
        ("The page of a testbed", _testbed()),
    ):
        parts += ["", f"## {title}", "", "| request | what it does |", "| --- | --- |"]
        paths: dict[str, Any] = app.openapi()["paths"]
        for path in sorted(paths):
            for method in _METHODS:
                if operation := paths[path].get(method):
                    meaning = operation.get("description", operation["summary"]).splitlines()[0]
                    parts.append(f"| `{method.upper()} {path}` | {meaning} |")
    return "\n".join(parts) + "\n"


def _controller() -> FastAPI:
    from controller.app import Controller, stand_alone
    from controller.config import ControllerConfig
    from controller.inventory import Inventory, Role, Switch

    inventory = Inventory(
        switches=(
            Switch(name="tor1", role=Role.TOR, agent="http://tor1", loopback=IPv4Address("172.30.0.1")),
        ),
        vip_prefix=IPv4Network("10.0.0.0/16"),
        tip_prefix=IPv4Network("20.0.0.0/24"),
    )

    async def build(folder: Path) -> FastAPI:
        (folder / "inventory.json").write_text(inventory.model_dump_json())
        config = ControllerConfig(
            database=folder / "controller.db", inventory=folder / "inventory.json", insecure=True
        )
        async with AsyncExitStack() as stack:
            controller = Controller(config, None, stack)
            foundation = await stand_alone(config, inventory, stack)
            await controller.assemble(inventory, foundation)
            return controller.app

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(build(Path(folder)))


def _every_agent() -> FastAPI:
    from duet_p4.rest.routers import flows, installed, trace

    service: Any = None
    return _app(trace.router(service), flows.router(service), installed.router(service))


def _mux() -> FastAPI:
    from duet_p4.rest.routers.mux import router

    service: Any = None
    return _app(router(service), bare=True)


def _smux() -> FastAPI:
    from duet_p4.rest.routers.draining import router

    service: Any = None
    return _app(router(service, service), bare=True)


def _host() -> FastAPI:
    from duet_p4.rest.routers.host import router

    service: Any = None
    return _app(router(service), bare=True)


def _testbed() -> FastAPI:
    from mininet_topos.fattree import FatTree, fattree
    from mininet_topos.testbed.folder import Folder
    from mininet_topos.testbed.plan import Plan
    from mininet_topos.testbed.web import experiments, service, traces

    folder, size = Folder("example"), FatTree()
    routers = service.router(folder, fattree(size), Plan(size=size)), traces.router(folder)
    return _app(*routers, experiments.router(experiments.Bench(folder)), bare=True)


def _app(*routers: APIRouter, bare: bool = False) -> FastAPI:
    """Return a service of these paths, and of those that every service has unless it is to be `bare`."""
    from duet_p4.rest.app import create_app

    app = FastAPI() if bare else create_app("Agent", access=None)
    for router in routers:
        app.include_router(router)
    return app


def security() -> str:
    """Return the page on security with the attacks that there are."""
    from mininet_topos.attacks.run import ATTACKS

    text = (DOCS / "security.md").read_text()
    head, begin, rest_ = text.partition("<!-- attacks -->\n")
    _, end, tail = rest_.partition("<!-- /attacks -->\n")
    rows = []
    for attack in ATTACKS:
        module = attack.run.__module__.rpartition(".")[2]  # type: ignore[attr-defined]
        rows.append(f"| `{attack.name}` | {attack.tried} | {attack.defence} | `{module}.py` |")
    table = ["| attack | threat | defence | test |", "| --- | --- | --- | --- |", *rows]
    return head + begin + "\n".join(table) + "\n" + end + tail


def main() -> int:
    """Write the pages, or with `--check` say which are out of date."""
    stale = []
    for name, text in (("cli.md", cli()), ("rest.md", rest()), ("security.md", security())):
        page = DOCS / name
        if page.exists() and page.read_text() == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            page.write_text(text)
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run python docs/reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
