"""The DUET engine: which switch carries which VIP (the paper's section 4).

    topology = Topology.from_graph(graph, entries=["core1", "core2"], tables={...})
    demands = Demands.of([Demand.of(layout, tips, traffic, sources, locate), ...], topology)
    result = assign(topology, demands, Sticky(delta=0.05), previous=align(placement, topology, demands))
    result.placement()          # {"10.0.0.1": "tor1.2", "20.0.0.1": "agg1.1", "10.0.0.2": None (SMuxes)}
    result.explain("10.0.0.1")  # bottleneck, its utilization, runner-up

The same `assign` serves the testbed and the simulation; only the ledger behind it differs (`ledger`).
Importing this package loads numpy and networkx, not numba.
"""

from controller.engine.assignment import Assignment, Explanation, align, assign
from controller.engine.choices import KeepOrChoose
from controller.engine.demand import INTERNET, Demand, Demands, Flow, TableUse, TipDemand
from controller.engine.recognise import recognise
from controller.engine.registry import make_strategy, strategy_names
from controller.engine.strategies import AllSMux, Balanced, Greedy, OneTime, Random, Sticky
from controller.engine.strategy import FEASIBLE, SMUX, STOP, TIE, Candidates, Rule, Strategy
from controller.engine.topology import NO_TABLES, FatTreeShape, MuxTables, Topology

__all__ = [
    "FEASIBLE",
    "INTERNET",
    "NO_TABLES",
    "SMUX",
    "STOP",
    "TIE",
    "AllSMux",
    "Assignment",
    "Balanced",
    "Candidates",
    "Demand",
    "Demands",
    "Explanation",
    "FatTreeShape",
    "Flow",
    "Greedy",
    "KeepOrChoose",
    "MuxTables",
    "OneTime",
    "Random",
    "Rule",
    "Sticky",
    "Strategy",
    "TableUse",
    "TipDemand",
    "Topology",
    "align",
    "assign",
    "make_strategy",
    "recognise",
    "strategy_names",
]
