"""The engine at work in a running network: from inventory, VIPs and measured traffic to placements."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

import numpy as np

from controller.engine.assignment import Assignment, align, assign
from controller.engine.demand import INTERNET, Demand, Demands
from controller.engine.strategies import (
    SMUX,
    AllSMux,
    Balanced,
    Candidates,
    Greedy,
    OneTime,
    Random,
    Rule,
    Sticky,
    Strategy,
)
from controller.engine.topology import Ints, TableSizes, Topology
from controller.inventory import Inventory, Role
from controller.store import TrafficSample, VipRecord


class StrategyName(StrEnum):
    """The strategies that can be asked for by name."""

    GREEDY = "greedy"
    STICKY = "sticky"
    ONE_TIME = "one-time"
    RANDOM = "random"
    ALL_SMUX = "all-smux"
    BALANCED = "balanced"


def strategy(name: StrategyName, *, delta: float = 0.05, seed: int = 0) -> Strategy:
    """Return the strategy of that name; `delta` is sticky's, `seed` random's."""
    made: dict[StrategyName, Strategy] = {
        StrategyName.GREEDY: Greedy(),
        StrategyName.STICKY: Sticky(delta=delta),
        StrategyName.ONE_TIME: OneTime(),
        StrategyName.RANDOM: Random(seed=seed),
        StrategyName.ALL_SMUX: AllSMux(),
        StrategyName.BALANCED: Balanced(),
    }
    return made[name]


@dataclass(frozen=True)
class Holding:
    """Another strategy, but for some rows that stay wherever they are: VIPs placed by hand."""

    inner: Strategy
    rows: frozenset[int]

    @property
    def name(self) -> str:
        """The other strategy's name."""
        return self.inner.name

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        """Return the rule."""
        rule = self.inner.begin(topology, demands, previous)

        def held(candidates: Candidates) -> int:
            if candidates.row not in self.rows:
                return rule(candidates)
            return candidates.current if candidates.stays() else SMUX

        return held


def topology_of(inventory: Inventory) -> Topology:
    """Return the engine's view of an inventory. The Internet's traffic enters at the Cores."""
    tables = {
        switch.name: TableSizes(
            switch.tables.host, switch.tables.ecmp, switch.tables.tunneling, switch.tables.acl
        )
        for switch in inventory.switches
    }
    cores = [switch.name for switch in inventory.switches if switch.role is Role.CORE]
    return Topology.from_graph(inventory.graph(), entries=cores, tables=tables)


def demands_of(
    records: Iterable[VipRecord], traffic: Iterable[TrafficSample], inventory: Inventory
) -> list[Demand]:
    """Return each VIP's demand. A VIP that was not measured has no traffic, but needs its table entries."""

    def locate(address: IPv4Address) -> str:
        server = inventory.server_at(address)
        return server.switch if server else inventory.switches[0].name

    by_vip: dict[IPv4Address, dict[str, float]] = {}
    known = {switch.name for switch in inventory.switches}
    for sample in traffic:
        source = sample.source if sample.source in known else INTERNET
        sources = by_vip.setdefault(sample.vip, {})
        sources[source] = sources.get(source, 0.0) + sample.bps
    demands = []
    for record in records:
        sources = by_vip.get(record.address, {})
        total = sum(sources.values())
        demands.append(
            Demand.of(
                record.layout,
                [placed.tip for placed in record.tips],
                total,
                {source: bps / total for source, bps in sources.items()} if total else {},
                locate,
            )
        )
    return demands


def compute(
    inventory: Inventory,
    records: Collection[VipRecord],
    traffic: Iterable[TrafficSample],
    chosen: Strategy,
    out_of_service: Collection[str] = (),
) -> Assignment:
    """Assign every VIP; those held by hand stay, and `out_of_service` switches get nothing."""
    topology = topology_of(inventory)
    demands = Demands.of(demands_of(records, traffic, inventory), topology)
    now: dict[str, str | None] = {}
    for record in records:
        now.update({str(address): carried.home for address, carried in record.carried().items()})
    held = frozenset(demands.index[str(record.address)] for record in records if record.held)
    excluded = np.array([topology.index[name] for name in out_of_service], np.int32)
    return assign(
        topology,
        demands,
        Holding(chosen, held) if held else chosen,
        align(now, topology, demands),
        excluded=excluded if excluded.size else None,
    )
