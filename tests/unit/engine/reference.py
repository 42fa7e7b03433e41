"""The assignment as one would write it on a board: networkx paths, explicit splits, no shortcuts."""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from functools import cache

import networkx as nx

from controller.engine import INTERNET, Demand, TipDemand, Topology

Load = dict[tuple[str, str], float]


class Reference:
    """Greedy MRU over a directed graph; every load is found by walking all shortest paths."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.graph = nx.DiGraph()
        self.alive = [name for name, living in zip(topology.names, topology.living, strict=True) if living]
        self.graph.add_nodes_from(self.alive)
        for u, v, capacity in zip(topology.source, topology.target, topology.capacity, strict=True):
            self.graph.add_edge(
                topology.names[u], topology.names[v], usable=capacity * (1 - topology.headroom)
            )
        self.link: Load = defaultdict(float)
        self.table: dict[tuple[str, int], float] = defaultdict(float)

    @cache  # noqa: B019
    def split(self, u: str, v: str) -> Load:
        """Share of a flow u -> v on each link, evenly over the next hops at every switch."""
        if u not in self.graph or v not in self.graph:
            return {}
        paths = list(nx.all_shortest_paths(self.graph, u, v))
        onward: dict[str, set[str]] = defaultdict(set)
        for path in paths:
            for a, b in itertools.pairwise(path):
                onward[a].add(b)
        share: Load = defaultdict(float)
        for path in paths:
            part = 1.0
            for a in path[:-1]:
                part /= len(onward[a])
            for a, b in itertools.pairwise(path):
                share[a, b] += part
        return share

    def loads(self, sources: dict[str, float], dips: dict[str, float], switch: str) -> Load:
        total: Load = defaultdict(float)
        legs = [(u, switch, bps) for u, bps in sources.items()] + [
            (switch, v, bps) for v, bps in dips.items()
        ]
        for u, v, bps in legs:
            for link, share in self.split(u, v).items():
                total[link] += share * bps
        return {link: bps for link, bps in total.items() if bps > 0}

    def sources(self, demand: Demand) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for name, share in demand.sources.items():
            if name == INTERNET:
                for entry in self.topology.entries:
                    found[self.topology.names[entry]] += demand.traffic * share / len(self.topology.entries)
            else:
                found[name] += demand.traffic * share
        return found

    def cost(self, what: Demand | TipDemand, sources: dict[str, float], traffic: float, switch: str) -> float:
        dips = {name: share * traffic for name, share in what.dips.items()}
        worst = 0.0
        for link, bps in self.loads(sources, dips, switch).items():
            worst = max(worst, self.link[link] + bps / self.graph.edges[link]["usable"])
        for table, need in enumerate(entries(what)):
            if need:
                size = self.topology.tables[self.topology.index[switch], table]
                worst = max(worst, (self.table[switch, table] + need) / size if size else float("inf"))
        return worst

    def add(
        self, what: Demand | TipDemand, sources: dict[str, float], traffic: float, switch: str, sign: int = 1
    ) -> None:
        dips = {name: share * traffic for name, share in what.dips.items()}
        for link, bps in self.loads(sources, dips, switch).items():
            self.link[link] += sign * bps / self.graph.edges[link]["usable"]
        for table, need in enumerate(entries(what)):
            self.table[switch, table] += sign * need

    def best(
        self,
        what: Demand | TipDemand,
        sources: dict[str, float],
        traffic: float,
        avoid: str | None = None,
    ) -> tuple[str | None, float]:
        costs = [
            float("inf")
            if name == avoid or name not in self.graph
            else self.cost(what, sources, traffic, name)
            for name in self.topology.names
        ]
        least = min(costs)
        if least > 1 + 1e-9:
            return None, least
        n = len(costs)
        turn = zlib.crc32(what.name.encode()) % n
        return next(
            self.topology.names[i % n] for i in range(turn, turn + n) if costs[i % n] <= least + 1e-9
        ), least

    def greedy(self, demands: list[Demand]) -> dict[str, str | None]:
        placed: dict[str, str | None] = {d.name: None for d in demands}
        placed |= {tip.name: None for d in demands for tip in d.tips}
        left = self.topology.routes
        for demand in sorted(demands, key=lambda d: -d.traffic):
            if 1 + len(demand.tips) > left:
                continue
            sources = self.sources(demand)
            switch, _ = self.best(demand, sources, demand.traffic)
            if switch is None:
                continue
            self.add(demand, sources, demand.traffic, switch)
            done: list[tuple[TipDemand, str]] = []
            for tip in demand.tips:
                origin = {switch: tip.share * demand.traffic}
                at, _ = self.best(tip, origin, demand.traffic, avoid=switch)
                if at is None:
                    for other, where in done:
                        self.add(other, {switch: other.share * demand.traffic}, demand.traffic, where, -1)
                    self.add(demand, sources, demand.traffic, switch, -1)
                    break
                self.add(tip, origin, demand.traffic, at)
                done.append((tip, at))
            else:
                placed[demand.name] = switch
                placed |= {tip.name: where for tip, where in done}
                left -= 1 + len(demand.tips)
        return placed


def entries(what: Demand | TipDemand) -> tuple[int, int, int, int]:
    tables = what.tables
    return (tables.host, tables.ecmp, tables.tunneling, tables.acl)
