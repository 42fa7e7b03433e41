"""From an inventory, and what is down now, to the network that carries traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from controller.engine import NO_TABLES, MuxTables, Topology, recognise
from controller.engine.topology import ROUTES
from controller.inventory import Inventory, Role


@dataclass(frozen=True)
class Outages:
    """What is not as the inventory says, by names.

    `lost` switches carry no traffic, nor do links that are `links_down`, either way. `closed` switches go
    on forwarding and keep what they have, but get nothing new. `tables` has how many entries the tables of
    the switches hold that told, by the short name in their P4Info; `routes` how many of its route table
    each one's underlay takes.
    """

    lost: Collection[str] = ()
    links_down: Collection[tuple[str, str]] = ()
    closed: Collection[str] = ()
    tables: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    routes: Mapping[str, int] = field(default_factory=dict)


def topology_of(inventory: Inventory, outages: Outages | None = None) -> Topology:
    """Return what of an inventory's network lives. The Internet's traffic enters at the Cores.

    Outages that name a switch or a link that the inventory does not have (any more) say nothing of it.
    """
    now = outages or Outages()
    graph = inventory.graph()
    tables = {switch.name: _mux_tables(inventory, switch.name, now) for switch in inventory.switches}
    cores = [switch.name for switch in inventory.switches if switch.role is Role.CORE]
    whole = recognise(Topology.from_graph(graph, entries=cores, tables=tables))
    return whole.without(
        [name for name in now.lost if name in whole.index],
        [ends for ends in now.links_down if graph.has_edge(*ends)],
    )


def route_budget(outages: Outages) -> int:
    """Return how many /32 routes of VIPs and TIPs the network holds.

    Every switch has one for each VIP and TIP on an HMux, beside the routes of the underlay: so it is the
    smallest route table less the underlay's routes in it. Where no switch tells, the paper's 16k.
    """
    budgets = [
        tables["route"] - outages.routes[name]
        for name, tables in outages.tables.items()
        if name not in outages.lost and name in outages.routes and "route" in tables
    ]
    return max(0, min(budgets, default=ROUTES))


def _mux_tables(inventory: Inventory, name: str, outages: Outages) -> MuxTables:
    stated, told = inventory.switch(name).tables, outages.tables.get(name, {})
    if not stated.tunneling:
        return NO_TABLES  # A plain router, or one that shall be empty: whatever its tables hold.
    return MuxTables(
        host=told.get("host", stated.host),
        ecmp=told.get("ecmp", stated.ecmp),
        tunneling=told.get("tunneling", stated.tunneling),
        acl=told.get("acl", stated.acl),
    )


__all__ = ["Outages", "route_budget", "topology_of"]
