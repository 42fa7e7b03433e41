"""What may happen to a testbed while connections live: changes, failures, kills, failed checks."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from ipaddress import IPv4Address

from controller.client import ControllerClient
from controller.updater.outcome import Report
from controller.updater.reads import Placement
from duet_p4.model import Vip
from duet_p4.rest.client import RestError
from mininet_topos.experiments import convergence
from mininet_topos.experiments.setting import Running
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import namespaces
from mininet_topos.testbed.protocol import Request, ask

_FAILED_FOR_S = 2.0
_DOWN_S = 1.0
_WHOLE_S = 90.0
_POLL_S = 0.2


def with_controller(testbed: Running, job: Callable[[ControllerClient], Awaitable[object]]) -> None:
    """Run a coroutine with a client of the controller."""

    async def work() -> None:
        async with agents_module.controller(testbed.folder) as controller:
            await job(controller)

    asyncio.run(work())


def migrate(testbed: Running, waves: Iterable[dict[IPv4Address, str | None]]) -> None:
    """Move VIPs as an engine would, two waves for each entry. Raises RuntimeError where one fails."""

    async def assign(controller: ControllerClient) -> None:
        for wave in waves:
            for vip in wave:
                await controller.release(vip)
            update: Report = await controller.assign(
                Placement(address=vip, switch=switch) for vip, switch in wave.items()
            )
            if update.failed:
                raise RuntimeError(f"a migration failed: {'; '.join(update.failed)}")

    with_controller(testbed, assign)


def change(testbed: Running, vips: Iterable[Vip]) -> None:
    """State VIPs anew."""

    async def state(controller: ControllerClient) -> None:
        for vip in vips:
            await controller.change_vip(vip)

    with_controller(testbed, state)


def fail(testbed: Running, what: str) -> None:
    """Let a node or link fail, for a while."""
    testbed.fail(what)
    time.sleep(_FAILED_FOR_S)


def restore(testbed: Running, what: str) -> None:
    """Bring a node back, and wait until the VIPs are where the controller wants them."""
    testbed.restore(what)
    wanted: dict[IPv4Address, str] = {}

    async def look(controller: ControllerClient) -> None:
        assignment = await controller.assignment()
        wanted.update({p.address: p.switch for p in assignment.placements if p.switch is not None})

    with_controller(testbed, look)
    testbed.await_settled(wanted)


def end(testbed: Running, name: str, nodes: Collection[str], how: signal.Signals) -> None:
    """End the processes of a name on nodes (all: none named), which start again; wait until all is well."""
    ended = 0
    for process in ask(testbed.folder, Request(do="status")).processes:
        if process.name == name and process.pid is not None and (not nodes or process.node in nodes):
            with suppress(ProcessLookupError):
                os.kill(process.pid, how)
                ended += 1
    if not ended:
        raise RuntimeError(f"no {name} runs on {', '.join(nodes) or 'any node'}")
    time.sleep(_DOWN_S)
    await_whole(testbed)


def fail_check(testbed: Running, vip: IPv4Address, dip: IPv4Address, *, failing: bool) -> None:
    """Have a DIP fail its checks, or pass them again; wait until its VIP has it out, or back in."""
    server = next(
        name
        for name, node in testbed.graph.nodes(data="node")
        if node.prefix is not None and node.is_dip and dip in node.prefix
    )
    with namespaces.entered(testbed.folder.namespace(server)):
        asking = http.client.HTTPConnection(str(dip), 80, timeout=10, source_address=(str(dip), 0))
        asking.request("POST", "/fail" if failing else "/recover")
        asking.getresponse()
        asking.close()

    async def wait(controller: ControllerClient) -> None:
        async with asyncio.timeout(_WHOLE_S):
            while (dip in (await controller.vip(vip)).left_out()) is not failing:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)

    with_controller(testbed, wait)


def await_whole(testbed: Running) -> None:
    """Wait until the controller misses nothing, and every device holds what it wants. Raises TimeoutError."""

    async def wait(controller: ControllerClient) -> None:
        deadline = time.monotonic() + _WHOLE_S
        while amiss := await _amiss(testbed, controller):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the testbed does not become whole: {'; '.join(amiss[:5])}")
            await asyncio.sleep(_POLL_S)

    with_controller(testbed, wait)


async def _amiss(testbed: Running, controller: ControllerClient) -> list[str]:
    try:
        records = await controller.vips()
    except RestError as error:
        return [str(error)]
    return await convergence.amiss(testbed.folder, testbed.graph, records)
