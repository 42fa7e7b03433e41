"""The process of a testbed that serves the page; its launcher runs it, and hands it the bound socket."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

from controller.web import gateway
from controller.web.sessions import Sessions
from duet_p4 import log
from duet_p4.signals import told_to_end
from mininet_topos import fattree
from mininet_topos.testbed.folder import Folder
from mininet_topos.testbed.nodes import controller_names
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.web import experiments, service, traces
from mininet_topos.testbed.web.experiments import Bench


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page of the testbed named first on the socket whose descriptor comes second."""
    name, descriptor = argv or sys.argv[1:]
    log.setup("web")
    asyncio.run(_serve(Folder(name), socket.socket(fileno=int(descriptor))))
    return 0


async def _serve(folder: Folder, listener: socket.socket) -> None:
    stop = told_to_end()
    plan = Plan.load(folder)
    state = folder.state("web")
    state.mkdir(parents=True, exist_ok=True)
    async with (
        Bench(folder) as bench,
        gateway.running(
            listener,
            Sessions.kept(state / "key"),
            [folder.controller_socket(name) for name in controller_names(plan.controllers)],
            folder.web_socket,
            testbed=folder.name,
            routers=[
                service.router(folder, fattree.fattree(plan.size), plan),
                traces.router(folder),
                experiments.router(bench),
            ],
        ),
    ):
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
