"""VIPs put on muxes and servers once, where no controller does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from itertools import cycle

import networkx as nx

from controller.records import ON_SMUXES, PlacedTip, VipRecord
from controller.updater.layout import lay_out, tip_allocator
from controller.updater.plan import Entry
from controller.updater.wanted import mux_entries
from duet_p4.api.changes import Changed
from duet_p4.api.host import HostState, HostVip
from duet_p4.api.mux import TipState, VipState, WantedState
from duet_p4.hmux import pipeline
from duet_p4.model import Dip, MuxTip, MuxVip
from mininet_topos import addresses, fattree
from mininet_topos.addresses import SWITCHES, Kind
from mininet_topos.testbed import agents as agents_module
from mininet_topos.testbed.agents import Agents
from mininet_topos.testbed.folder import TestbedError
from mininet_topos.testbed.vipfile import StatedVip

Placed = tuple[Entry, str | None]
"""What a mux holds, and the switch that carries it."""


def place(stated: Iterable[StatedVip], graph: nx.Graph) -> list[VipRecord]:
    """Lay VIPs out and put each on the switch that is stated, or else on one switch after the other."""
    switches = [node.name for node in fattree.nodes(graph, *SWITCHES)]
    turn = cycle(switches)
    allocate = tip_allocator(addresses.TIPS, frozenset)
    records = []
    for entry in stated:
        record = lay_out(entry.vip, pipeline.sizes()["tunneling_table"], allocate)
        switch = None if entry.switch == ON_SMUXES else entry.switch or next(turn)
        where = {} if switch is None else _tips(record, switch, graph)
        placed = tuple(PlacedTip(tip=tip.tip, switch=where.get(tip.tip.address)) for tip in record.tips)
        records.append(record.model_copy(update={"switch": switch, "tips": placed}))
    return records


def _tips(record: VipRecord, switch: str, graph: nx.Graph) -> dict[IPv4Address, str]:
    """Put a VIP's TIPs on other switches than its own: they have the table space."""
    others = cycle(node.name for node in fattree.nodes(graph, *SWITCHES) if node.name != switch)
    return {placed.tip.address: next(others) for placed in record.tips}


async def give(agents: Agents, records: Sequence[VipRecord]) -> None:
    """Servers first, then SMuxes, then HMuxes: no mux sends to a DIP that does not know its VIP yet."""
    servers = _by_server(agents, records)
    await agents_module.gather([_give_server(agents, name, held) for name, held in servers.items()])
    held = [placed for record in records for placed in mux_entries(record).values()]
    await agents_module.gather([_give_smux(agents, name, held) for name in agents.smuxes])
    await agents_module.gather([_give_switch(agents, name, held) for name in agents.switches])


async def _give_server(agents: Agents, name: str, held: Sequence[HostVip]) -> None:
    _check(name, await agents.servers[name].become(HostState(vips=tuple(held))))


async def _give_smux(agents: Agents, name: str, held: Iterable[Placed]) -> None:
    _check(name, await agents.smuxes[name].become(_state(entry for entry, _ in held)))


async def _give_switch(agents: Agents, name: str, held: Iterable[Placed]) -> None:
    _check(name, await agents.switches[name].become(_state(entry for entry, home in held if home == name)))


def _state(entries: Iterable[Entry]) -> WantedState:
    held = list(entries)
    return WantedState(
        vips=tuple(VipState(vip=entry, announced=True) for entry in held if isinstance(entry, MuxVip)),
        tips=tuple(TipState(tip=entry, announced=True) for entry in held if isinstance(entry, MuxTip)),
    )


def _check(name: str, changed: Changed) -> None:
    """Raise TestbedError where a device could not hold all that it was given."""
    for result in changed.problems():
        assert result.problem is not None
        raise TestbedError(f"{name} refuses {result.address}: {result.problem.detail}")


def _by_server(agents: Agents, records: Sequence[VipRecord]) -> dict[str, list[HostVip]]:
    """Return the VIPs that each server's DIPs serve."""
    prefixes = {node.name: node.prefix for node in fattree.nodes(agents.graph, Kind.SERVER) if node.is_dip}

    def server_of(dip: Dip) -> str | None:
        return next((name for name, prefix in prefixes.items() if prefix and dip.encap in prefix), None)

    found: dict[str, list[HostVip]] = {}
    for record in records:
        tips = [placed.tip for placed in record.tips]
        for name, vip in HostVip.spread(record.spec, record.layout, tips, server_of).items():
            found.setdefault(name, []).append(vip)
    return found
