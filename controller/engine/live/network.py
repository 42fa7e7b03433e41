"""From an inventory, and what is down now, to the network that carries traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from controller.engine import MuxTables, Topology, recognise
from controller.engine.topology import ROUTES
from controller.inventory import Inventory, Role


class InUse(Protocol):
    """One table of a device."""

    @property
    def used(self) -> int:
        """Entries in use."""

    @property
    def size(self) -> int:
        """Entries there can be."""


@dataclass(frozen=True)
class Outages:
    """What is not as the inventory says, by names.

    `lost` switches carry no traffic, nor do links that are `links_down`, either way. `closed` switches go
    on forwarding and keep what they have, but get nothing new. `tables` are those of the switches that
    told, by the short name in their P4Info.
    """

    lost: Collection[str] = ()
    links_down: Collection[tuple[str, str]] = ()
    closed: Collection[str] = ()
    tables: Mapping[str, Mapping[str, InUse]] = field(default_factory=dict)


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


def route_budget(outages: Outages, announced: int) -> int:
    """Return how many /32 routes of VIPs and TIPs the network holds, when `announced` are there now.

    Every switch has one for each VIP and TIP on an HMux, beside the routes of the underlay: so it is the
    smallest route table less the underlay's routes in it. Where no switch tells, the paper's 16k.
    """
    budgets = [
        route.size - max(0, route.used - announced)
        for name, tables in outages.tables.items()
        if name not in outages.lost and (route := tables.get("route")) is not None
    ]
    return max(0, min(budgets, default=ROUTES))


def _mux_tables(inventory: Inventory, name: str, outages: Outages) -> MuxTables:
    stated, told = inventory.switch(name).tables, outages.tables.get(name, {})

    def size(table: str, otherwise: int) -> int:
        return told[table].size if table in told else otherwise

    return MuxTables(
        host=size("host", stated.host),
        ecmp=size("ecmp", stated.ecmp),
        tunneling=size("tunneling", stated.tunneling),
        acl=size("acl", stated.acl),
    )


__all__ = ["InUse", "Outages", "route_budget", "topology_of"]
