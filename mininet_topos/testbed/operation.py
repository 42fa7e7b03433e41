"""The operator's part of a launch: wait for the agents, give them the VIPs, wait until they answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import cycle

import networkx as nx

from controller.store import PlacedTip, VipRecord
from controller.updater.layout import lay_out, tip_allocator
from duet_p4.hmux import pipeline
from duet_p4.host_agent.model import HostVip
from duet_p4.model import Dip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed import checks, probe
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.protocol import Progress
from mininet_topos.testbed.vipfile import ON_SMUXES, StatedVip

READY_TIMEOUT_S = 60.0
CONVERGED_TIMEOUT_S = 30.0
_POLL_S = 0.1
_PROBE_TIMEOUT_S = 0.5

Tell = Callable[[Progress], None]


async def operate(folder: Folder, graph: nx.Graph, stated: Sequence[StatedVip], tell: Tell) -> None:
    """Make a launched testbed serve `stated`. Raises `TestbedError` saying what does not come up."""
    async with agents_module.connect(folder, graph) as agents:
        await agents_module.await_ready(
            agents,
            time.monotonic() + READY_TIMEOUT_S,
            lambda done, total: tell(Progress(step="agents", done=done, total=total)),
        )
        await _await_sessions(agents, time.monotonic() + CONVERGED_TIMEOUT_S, tell)
        tell(Progress(step="VIPs", total=len(stated)))
        await _give(agents, place(stated, graph))
    tell(Progress(step="convergence"))
    await asyncio.to_thread(_await_answers, folder, graph, stated)


def place(stated: Iterable[StatedVip], graph: nx.Graph) -> list[VipRecord]:
    """Lay VIPs out and put each on the switch that is stated, or else on one switch after the other."""
    switches = [node.name for node in fattree.nodes(graph, *SWITCHES)]
    turn = cycle(switches)
    allocate = tip_allocator(addresses.TIPS, ())
    records = []
    for entry in stated:
        record = lay_out(entry.vip, pipeline.sizes()["tunneling_table"], allocate)
        switch = None if entry.switch == ON_SMUXES else entry.switch or next(turn)
        # A TIP is of use on another switch than its VIP's: that is where the table space is.
        others = cycle(name for name in switches if name != switch)
        tips = tuple(PlacedTip(tip=tip.tip, switch=next(others) if switch else None) for tip in record.tips)
        records.append(record.model_copy(update={"switch": switch, "tips": tips}))
    return records


async def _give(agents: Agents, records: Sequence[VipRecord]) -> None:
    """Servers first, then SMuxes, then HMuxes: no mux sends to a DIP that does not know its VIP yet."""
    servers = [node for node in fattree.nodes(agents.graph, Kind.SERVER) if node.is_dip]
    await agents_module.gather([_give_server(agents, node, records) for node in servers])
    await agents_module.gather([_give_smux(agents, name, records) for name in agents.smuxes])
    await agents_module.gather([_give_switch(agents, name, records) for name in agents.switches])


async def _give_server(agents: Agents, node: fattree.Node, records: Sequence[VipRecord]) -> None:
    for record in records:
        wanted = HostVip.of(
            record.spec, record.layout, [tip.tip for tip in record.tips], partial(_is_on, node)
        )
        if wanted is not None:
            await agents.servers[node.name].call("PUT", f"/v1/vips/{record.address}", object, body=wanted)


async def _give_smux(agents: Agents, name: str, records: Sequence[VipRecord]) -> None:
    for record in records:
        for placed in record.tips:
            await agents.smuxes[name].put_tip(placed.tip)
        await agents.smuxes[name].put_vip(record.layout)


async def _give_switch(agents: Agents, name: str, records: Sequence[VipRecord]) -> None:
    for record in records:
        for placed in record.tips:
            if placed.switch == name:
                await agents.switches[name].put_tip(placed.tip)
        if record.switch == name:
            await agents.switches[name].put_vip(record.layout)


def _is_on(node: fattree.Node, dip: Dip) -> bool:
    return node.prefix is not None and dip.encap in node.prefix


async def _await_sessions(agents: Agents, deadline: float, tell: Tell) -> None:
    while True:
        check = await checks.sessions(agents)
        tell(Progress(step=f"BGP: {check.detail.split(';')[0]}"))
        if check.ok:
            return
        if time.monotonic() > deadline:
            raise TestbedError(f"BGP does not converge: {check.detail}; `duet testbed logs NODE` says more")
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
