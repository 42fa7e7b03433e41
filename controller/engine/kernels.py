"""Compile all kernels of the engine: `python -m controller.engine.kernels`.

Numba compiles a function when it is first called, and keeps the result beside the source. This calls
every one on a network of a few switches, so that no assignment, and no test, waits for the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controller.engine import (
    INTERNET,
    SMUX,
    Demand,
    Demands,
    FatTreeShape,
    Greedy,
    Rule,
    TableUse,
    TipDemand,
    Topology,
    assign,
)
from controller.engine.fattree import FatTreeLedger
from controller.engine.graph import GraphLedger
from controller.engine.paths import Paths
from controller.engine.topology import Ints


@dataclass(frozen=True)
class _OneByOne:
    """The first switch that fits, asked for VIP by VIP."""

    name: str = "one-by-one"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        return lambda candidates: candidates.first_within(1.0) if candidates.least() <= 1 else SMUX


def warm() -> None:
    """Call every kernel once."""
    topology = Topology.fat_tree(FatTreeShape(containers=2, tors=2, aggs=2, cores_per_agg=1))
    use = TableUse(ecmp=8, tunneling=1)
    dips = {"tor1.1": 0.5, "tor2.2": 0.5}
    whole = Demand("10.0.0.1", 1e9, {"tor1.2": 0.5, INTERNET: 0.5}, dips, use)
    tips = tuple(TipDemand(f"20.0.0.{n}", {tor: 0.5}, use) for n, tor in enumerate(dips))
    split = Demand("10.0.0.2", 1e9, {"tor1.2": 1.0}, {}, use, tips)
    demands = Demands.of([whole, split], topology)
    for kind in (FatTreeLedger, GraphLedger):
        for strategy in (Greedy(), _OneByOne()):
            assign(topology, demands, strategy, ledger=kind(topology))
        ledger = kind(topology)
        for origin in (topology.index["agg1.1"], topology.index["core1"]):
            flow = demands.flow(2, origin)
            ledger.costs(flow).least()
            ledger.place(flow, 0)
            ledger.remove(flow, 0)
    Paths(topology, np.zeros(0, np.int32)).loads(np.ones((topology.switch_count, topology.switch_count)))


if __name__ == "__main__":
    warm()
