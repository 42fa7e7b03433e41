"""The operator's part of a launch: wait for the agents, give them the VIPs, wait until they answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import networkx as nx

from controller.client import ControllerClient
from controller.reach import Reach
from duet_p4.api.service import State
from duet_p4.rest.client import RestError
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import checks, holdings, lifecycle, placement, probe
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan
from mininet_topos.testbed.protocol import Progress
from mininet_topos.testbed.vipfile import StatedVip

READY_TIMEOUT_S = 60.0
CONVERGED_TIMEOUT_S = 30.0
_PATIENCE_S = 0.5
"""How much longer a testbed may take for each of its agents."""
_POLL_S = 0.1
_PROBE_TIMEOUT_S = 0.5

Tell = Callable[[Progress], None]


@contextmanager
def running(
    folder: Folder, plan: Plan, stated: Sequence[StatedVip], tell: Tell = lambda _: None
) -> Iterator[nx.Graph]:
    """Have a testbed that serves `stated`, for experiments and tests; afterwards it is down."""
    lifecycle.launch(folder, plan, tell)
    try:
        asyncio.run(operate(folder, plan, stated, tell))
        yield fattree.fattree(plan.size)
    finally:
        lifecycle.down(folder)


async def operate(folder: Folder, plan: Plan, stated: Sequence[StatedVip], tell: Tell) -> None:
    """Make a launched testbed serve `stated`. Raises `TestbedError` saying what does not come up."""
    graph = fattree.fattree(plan.size)
    async with agents_module.connect(folder, graph) as agents:
        patience_s = _PATIENCE_S * len(agents.all)
        await agents_module.await_ready(
            agents,
            time.monotonic() + READY_TIMEOUT_S + patience_s,
            lambda done, total: tell(Progress(step="agents", done=done, total=total)),
        )
        await _await_sessions(agents, time.monotonic() + CONVERGED_TIMEOUT_S + patience_s, tell)
        tell(Progress(step="VIPs", total=len(stated)))
        if plan.controller:
            async with agents_module.controller(folder) as controller:
                await _await_controller(controller, time.monotonic() + READY_TIMEOUT_S + patience_s)
                await _hand_over(controller, stated)
        else:
            records = placement.place(stated, graph)
            holdings.keep(folder, records)
            await placement.give(agents, records)
        tell(Progress(step="convergence"))
        await _await_held(folder, graph, agents, time.monotonic() + CONVERGED_TIMEOUT_S + patience_s)
    await asyncio.to_thread(_await_answers, folder, graph, stated)


async def _hand_over(controller: ControllerClient, stated: Sequence[StatedVip]) -> None:
    """Give the controller the operator's VIPs; those without a switch go where its engine says."""
    for entry in stated:
        await controller.add_vip(entry.vip, entry.switch)


async def _await_controller(controller: ControllerClient, deadline: float) -> None:
    """Wait until the controller reaches every agent: it leaves out the DIPs of a server that it does not."""
    while True:
        try:
            if (await controller.health()).state is State.READY:
                unseen = [agent.name for agent in await controller.agents() if agent.reach is not Reach.READY]
                if not unseen:
                    return
                problem = f"it does not reach {', '.join(unseen)}"
            else:
                problem = "it is not ready"
        except RestError as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise TestbedError(f"the controller does not come up: {problem}; `duet testbed logs root`")
        await asyncio.sleep(_POLL_S)


async def _await_sessions(agents: Agents, deadline: float, tell: Tell) -> None:
    while True:
        try:
            check = await checks.sessions(agents)
        except RestError as error:
            # So many may be busy converging that one does not answer in time.
            check = checks.Check(name="bgp", ok=False, detail=str(error))
        tell(Progress(step=f"BGP: {check.detail.split(';')[0]}"))
        if check.ok:
            return
        if time.monotonic() > deadline:
            raise TestbedError(f"BGP does not converge: {check.detail}; `duet testbed logs NODE` says more")
        await asyncio.sleep(_POLL_S)


async def _await_held(folder: Folder, graph: nx.Graph, agents: Agents, deadline: float) -> None:
    """Wait until every device holds what is wanted: one that was slow to answer gets its VIPs later."""
    while True:
        try:
            undone = holdings.undone(graph, await holdings.records(folder), await holdings.observe(agents))
        except RestError as error:
            undone = [str(error)]
        if not undone:
            return
        if time.monotonic() > deadline:
            listed = "\n".join(f"  - {line}" for line in undone[:20])
            raise TestbedError(f"the agents do not hold their VIPs:\n{listed}\n`duet testbed logs NODE`")
        await asyncio.sleep(_POLL_S)


def _await_answers(folder: Folder, graph: nx.Graph, stated: Sequence[StatedVip]) -> None:
    """Wait until every client gets an answer from every VIP: the routes are everywhere."""
    deadline = time.monotonic() + CONVERGED_TIMEOUT_S

    async def until_answered(client: fattree.Node) -> list[str]:
        waiting = {entry.vip.address: "" for entry in stated}
        while waiting and time.monotonic() < deadline:
            for exchange in await asyncio.gather(
                *(probe.ping(client.address, vip, _PROBE_TIMEOUT_S) for vip in waiting)
            ):
                waiting[exchange.flow.destination] = exchange.error or ""
            waiting = {vip: error for vip, error in waiting.items() if error}
            if waiting:
                await asyncio.sleep(_POLL_S)
        return [f"{client.name} to {vip}: {error}" for vip, error in waiting.items()]

    clients = fattree.nodes(graph, Kind.CLIENT)
    jobs = {c.name: (folder.namespace(c.name), partial(until_answered, c)) for c in clients}
    silent = [line for lines in probe.run_in(jobs).values() for line in lines]
    if silent:
        listed = "\n".join(f"  - {line}" for line in silent[:20])
        raise TestbedError(f"VIPs do not answer in {CONVERGED_TIMEOUT_S:g} s:\n{listed}")
