"""The engine against the reference, on networks of every shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.engine import (
    INTERNET,
    TIE,
    Balanced,
    Demand,
    Demands,
    FatTreeShape,
    Flow,
    Greedy,
    MuxTables,
    OneTime,
    Random,
    Rule,
    Sticky,
    Strategy,
    TableUse,
    TipDemand,
    Topology,
    assign,
)
from controller.engine.dense import DenseLedger
from controller.engine.fattree import FatTreeLedger
from controller.engine.graph import GraphLedger
from controller.engine.ledger import Ledger
from controller.engine.strategies.paper import Mru, NearTies, RandomOrders, Terminating
from controller.engine.topology import Ints
from tests.unit.engine.reference import Reference

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GBPS = 1e9


@st.composite
def graphs(draw: st.DrawFn) -> Topology:
    """A connected graph that is no FatTree: a random tree with more links, of unequal capacities."""
    n = draw(st.integers(1, 7))
    graph = nx.Graph()
    graph.add_nodes_from(f"s{i}" for i in range(n))
    capacity = st.integers(5, 40).map(lambda c: c * GBPS)
    for i in range(1, n):
        graph.add_edge(f"s{i}", f"s{draw(st.integers(0, i - 1))}", capacity_bps=draw(capacity))
    for _ in range(draw(st.integers(0, 6)) if n > 2 else 0):
        u, v = draw(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True))
        graph.add_edge(f"s{u}", f"s{v}", capacity_bps=draw(capacity))
    entries = draw(st.sets(st.sampled_from(list(graph.nodes)), min_size=1, max_size=3))
    sizes = st.builds(
        MuxTables, st.integers(0, 9), st.integers(8, 120), st.integers(1, 15), st.integers(0, 4)
    )
    tables = {name: draw(sizes) for name in graph.nodes}
    return Topology.from_graph(graph, entries=sorted(entries), tables=tables, routes=draw(st.integers(1, 12)))


@st.composite
def fat_trees(draw: st.DrawFn) -> Topology:
    shape = FatTreeShape(
        containers=draw(st.integers(1, 3)),
        tors=draw(st.integers(1, 3)),
        aggs=draw(st.integers(1, 3)),
        cores_per_agg=draw(st.integers(1, 2)),
        tor_agg_bps=10 * GBPS,
        agg_core_bps=draw(st.sampled_from([10 * GBPS, 40 * GBPS])),
    )
    return Topology.fat_tree(shape, tables=MuxTables(20, 160, draw(st.integers(5, 20)), 4))


@st.composite
def vips(draw: st.DrawFn, topology: Topology, max_count: int = 8) -> list[Demand]:
    """VIPs with integer shares, some from the Internet, some with port groups, some over TIPs."""
    tors = list(topology.names)
    if topology.shape:
        tors = tors[: topology.shape.tor_count]
    places = st.dictionaries(st.sampled_from(tors), st.integers(1, 5), min_size=1, max_size=4)
    found = []
    for number in range(draw(st.integers(1, max_count))):
        inside = draw(places)
        outside = draw(st.integers(0, 5))
        weights: dict[str, int] = {**inside, **({INTERNET: outside} if outside else {})}
        if draw(st.integers(0, 5)) == 0:
            weights = {INTERNET: 1}
        sources = {name: w / sum(weights.values()) for name, w in weights.items()}
        groups = [draw(places) for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3])))]
        total = sum(sum(group.values()) for group in groups)
        shares = [{name: w / total for name, w in group.items()} for group in groups]
        uses = [TableUse(1, 2 * len(group), len(group), 0) for group in groups]
        direct = draw(st.booleans()) or len(groups) == 1
        tips = tuple(
            TipDemand(f"tip{number}.{i}", share, use)
            for i, (share, use) in enumerate(zip(shares, uses, strict=True))
            if i or not direct
        )
        found.append(
            Demand(
                name=f"vip{number}",
                traffic=draw(st.integers(0, 120)) / 8 * GBPS,
                sources=sources,
                dips=shares[0] if direct else {},
                tables=TableUse(1, 4 * len(groups), len(groups), draw(st.sampled_from([0, 0, 0, 1, 2]))),
                tips=tips,
            )
        )
    return found


@st.composite
def with_outages(draw: st.DrawFn, whole: Topology) -> Topology:
    """The same network with some switches and links down."""
    down = draw(st.sets(st.sampled_from(whole.names), max_size=2))
    pairs = [(whole.names[u], whole.names[v]) for u, v in zip(whole.source, whole.target, strict=True)]
    links = draw(st.sets(st.sampled_from(pairs), max_size=4)) if pairs else set()
    return whole.without(sorted(down), sorted(links))


def compare(topology: Topology, demands: list[Demand], ledger_type: type[Ledger]) -> None:
    columns = Demands.of(demands, topology)
    result = assign(topology, columns, Greedy(), ledger=ledger_type(topology))
    reference = Reference(topology)
    assert result.placement() == reference.greedy(demands)
    links = {
        (topology.names[u], topology.names[v]): load
        for u, v, load in zip(topology.source, topology.target, result.ledger.links, strict=True)
    }
    assert links == pytest.approx({link: reference.link[link] for link in links}, abs=1e-9)
    used = {
        (name, table): result.ledger.tables.entries[i, table]
        for i, name in enumerate(topology.names)
        for table in range(4)
    }
    assert used == {key: reference.table[key] for key in used}


@BOUNDED
@given(data=st.data())
def test_greedy_equals_the_brute_force_reference_on_any_graph(data: st.DataObject) -> None:
    topology = data.draw(graphs())
    compare(topology, data.draw(vips(topology)), DenseLedger)


@BOUNDED
@given(data=st.data())
def test_the_graph_ledger_equals_the_brute_force_reference_with_outages(data: st.DataObject) -> None:
    whole = data.draw(st.one_of(graphs(), fat_trees()))
    topology = data.draw(with_outages(whole))
    compare(topology, data.draw(vips(topology)), GraphLedger)


@BOUNDED
@given(data=st.data())
def test_the_dense_ledger_equals_the_brute_force_reference_with_outages(data: st.DataObject) -> None:
    topology = data.draw(with_outages(data.draw(fat_trees())))
    compare(topology, data.draw(vips(topology)), DenseLedger)


@BOUNDED
@given(data=st.data())
def test_the_fat_tree_ledger_equals_the_brute_force_reference(data: st.DataObject) -> None:
    topology = data.draw(fat_trees())
    compare(topology, data.draw(vips(topology)), FatTreeLedger)


@dataclass(frozen=True)
class Interpreted:
    """A strategy whose rule no ledger carries out by itself."""

    inner: Strategy
    name: str = "interpreted"

    def begin(self, topology: Topology, demands: Demands, previous: Ints | None) -> Rule:
        rule = self.inner.begin(topology, demands, previous)
        return lambda candidates: rule(candidates)


@BOUNDED
@given(data=st.data())
def test_the_compiled_rule_decides_as_the_interpreted_one(data: st.DataObject) -> None:
    topology = data.draw(fat_trees())
    columns = Demands.of(data.draw(vips(topology)), topology)
    anywhere = st.integers(-1, topology.switch_count - 1)
    rows = columns.row_count
    previous = data.draw(st.none() | st.lists(anywhere, min_size=rows, max_size=rows).map(int32))
    staying = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows).map(np.array))
    switches = st.sets(st.integers(0, topology.switch_count - 1), max_size=3).map(sorted).map(int32)
    options = {"excluded": data.draw(switches), "closed": data.draw(switches)}
    delta, seed = data.draw(st.floats(0, 0.5)), data.draw(st.integers(0, 99))
    topology = replace(topology, routes=data.draw(st.integers(1, 12)))
    plain = (
        Greedy(),
        Sticky(delta),
        OneTime(),
        Mru(seed),
        Mru(seed, delta),
        Random(seed),
        RandomOrders(seed),
        NearTies(delta, everywhere=data.draw(st.booleans())),
    )
    strategies: tuple[Strategy, ...] = (*plain, Balanced(data.draw(st.integers(1, 3))))
    strategy = data.draw(st.sampled_from(strategies))
    strategy = Terminating(strategy) if data.draw(st.booleans()) else strategy
    results = [
        assign(
            topology, columns, way, previous, staying=staying if previous is not None else None,
            ledger=FatTreeLedger(topology), **options,
        )
        for way in (strategy, Interpreted(strategy))
    ]  # fmt: skip
    for part in ("switch", "bottleneck", "runner_up"):
        assert getattr(results[0], part).tolist() == getattr(results[1], part).tolist(), part
    for part in ("cost", "runner_up_cost"):
        assert np.array_equal(getattr(results[0], part), getattr(results[1], part), equal_nan=True), part
    assert np.array_equal(results[0].ledger.links, results[1].ledger.links)


def test_a_vip_for_which_no_routes_are_left_makes_nobody_forget_how_busy_the_network_is() -> None:
    topology = replace(Topology.fat_tree(FatTreeShape(1, 2, 1, 1, 10 * GBPS, 10 * GBPS)), routes=2)

    def vip(name: str, gbps: float, tips: int = 0) -> Demand:
        dips = {"tor1.1": 1 / (1 + tips)}
        behind = tuple(TipDemand(f"{name}.{n}", dips, TableUse(1, 2, 1)) for n in range(tips))
        return Demand(name, gbps * GBPS, {INTERNET: 1.0}, dips, TableUse(1, 4, 1), behind)

    # The last, of no traffic, costs less anywhere than the first did.
    columns = Demands.of([vip("elephant", 3.25), vip("large", 0.1, tips=2), vip("last", 0)], topology)
    for seed in range(8):
        plain, interpreted = (
            assign(topology, columns, way, None, ledger=FatTreeLedger(topology)).switch.tolist()
            for way in (Mru(seed), Interpreted(Mru(seed)))
        )
        assert plain == interpreted


@pytest.mark.parametrize(
    "strategy",
    [Mru(3), Mru(3, 0.05), RandomOrders(3), NearTies(0.01), Random(3), Balanced(), Greedy()],
    ids=lambda one: one.name,
)
def test_compiled_and_interpreted_rules_agree_where_many_switches_tie(strategy: Strategy) -> None:
    """VIPs of one container leave the busiest link, another's, far behind: nearly all switches tie."""
    topology = Topology.fat_tree(FatTreeShape(2, 2, 2, 2, 10 * GBPS, 10 * GBPS))

    def vip(name: str, gbps: float, box: int) -> Demand:
        return Demand(name, gbps * GBPS, {f"tor{box}.1": 1.0}, {f"tor{box}.2": 1.0}, TableUse(1, 16, 2))

    many = [vip("elephant", 4, 1), *(vip(f"v{i}", 0.01, 2) for i in range(40)), vip("last", 0.001, 1)]
    columns = Demands.of([*many, vip("too large", 40, 1)], topology)
    staying = np.zeros(columns.row_count, np.bool_)
    staying[[1, columns.row_count - 1]] = True  # One on the SMuxes, which ends nothing.
    previous = np.full(columns.row_count, -1, np.int32)
    previous[1] = 3
    first, second = (
        assign(
            topology, columns, way, previous, staying=staying, ledger=FatTreeLedger(topology)
        ).switch.tolist()
        for way in (Terminating(strategy), Interpreted(Terminating(strategy)))
    )
    assert first == second
    assert first[1] == 3
    assert -1 not in first[:-1]


def int32(values: list[int]) -> Ints:
    return np.array(values, np.int32)


@BOUNDED
@given(data=st.data())
def test_every_cost_of_the_graph_ledger_equals_the_dense_one(data: st.DataObject) -> None:
    topology = data.draw(with_outages(data.draw(st.one_of(graphs(), fat_trees()))))
    same_costs(data, topology, GraphLedger(topology))


@BOUNDED
@given(data=st.data())
def test_every_cost_of_the_fat_tree_ledger_equals_the_dense_one(data: st.DataObject) -> None:
    topology = data.draw(fat_trees())
    same_costs(data, topology, FatTreeLedger(topology))


def same_costs(data: st.DataObject, topology: Topology, fast: Ledger) -> None:
    """Place VIPs anywhere, with some taken off again; costs and loads are those of the dense ledger."""
    columns = Demands.of(data.draw(vips(topology, 5)), topology)
    dense = DenseLedger(topology)
    owners = columns.owners()
    placed: list[tuple[Flow, int]] = []
    at: dict[int, int] = {}
    for row in range(columns.row_count):
        flow = columns.flow(row, None if row < columns.vip_count else at[int(owners[row])])
        expected = dense.costs(flow)
        turn = data.draw(st.integers(0, topology.switch_count - 1))
        for limit in (expected.least() + TIE, data.draw(st.floats(0, 2))):
            assert fast.costs(flow).first(limit, turn) == expected.first(limit, turn)
        costs = fast.costs(flow)
        assert (costs.bounds() <= expected.all() + 1e-9).all()
        assert costs.least() == pytest.approx(expected.least(), abs=1e-9)
        second, rival = costs.runner_up(turn), expected.runner_up(turn)
        assert (second < 0) == (rival < 0)
        if rival >= 0:
            assert costs.at(second) == pytest.approx(expected.at(rival), abs=1e-9)
        assert costs.all() == pytest.approx(expected.all(), abs=1e-9)
        at[row] = data.draw(st.integers(0, topology.switch_count - 1))
        assert fast.place(flow, at[row])[1] == pytest.approx(dense.place(flow, at[row])[1], abs=1e-9)
        assert fast.links == pytest.approx(dense.links, abs=1e-9)
        placed.append((flow, at[row]))
        if data.draw(st.integers(0, 3)) == 0:
            for ledger in (dense, fast):
                ledger.remove(*placed[-1])
            placed.pop()
    for flow, switch in placed:
        fast.remove(flow, switch)
    assert fast.links == pytest.approx(np.zeros(topology.link_count), abs=1e-9)
    assert not fast.tables.entries.any()
