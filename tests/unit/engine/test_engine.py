"""What the engine decides, says and refuses."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address

import networkx as nx
import numpy as np
import pytest

from controller.engine import (
    INTERNET,
    NO_TABLES,
    SMUX,
    AllSMux,
    Assignment,
    Balanced,
    Demand,
    Demands,
    FatTreeShape,
    Greedy,
    MuxTables,
    OneTime,
    Random,
    Sticky,
    Strategy,
    TableUse,
    TipDemand,
    Topology,
    align,
    assign,
)
from controller.engine.bound import bound
from controller.engine.dense import ecmp_shares
from controller.engine.ledgers import ledger_for
from controller.engine.paths import Paths
from duet_p4.model import Dip, Group, MuxTip, MuxVip, PortGroup, Protocol, Vip

GBPS = 1e9
SMALL = FatTreeShape(
    containers=2, tors=2, aggs=2, cores_per_agg=1, tor_agg_bps=10 * GBPS, agg_core_bps=10 * GBPS
)


def demand(name: str, gbps: float, source: str = "tor1.1", dip: str = "tor2.1", **more: object) -> Demand:
    fields: dict[str, object] = {"tables": TableUse(1, 16, 2), **more}
    return Demand(name, gbps * GBPS, {source: 1.0}, {dip: 1.0}, **fields)  # type: ignore[arg-type]


def solve(
    demands: list[Demand],
    strategy: Strategy | None = None,
    topology: Topology | None = None,
    **options: object,
) -> Assignment:
    topology = topology or Topology.fat_tree(SMALL)
    return assign(topology, Demands.of(demands, topology), strategy or Greedy(), **options)  # type: ignore[arg-type]


def test_a_vip_goes_where_its_mru_is_smallest_and_says_why() -> None:
    result = solve([demand("10.0.0.1", 4)])
    why = result.explain("10.0.0.1")
    # On a ToR the 4 Gbps split over two Aggs: 2 of 8 usable Gbps on each link.
    assert why.switch is not None and why.switch.startswith("tor")
    assert why.utilization == pytest.approx(0.25)
    assert why.bottleneck is not None and why.bottleneck.startswith("link tor1.1->agg1.")
    assert why.runner_up is not None and why.runner_up_utilization is not None
    assert why.runner_up_utilization >= why.utilization
    assert "25.0%" in why.reason


def test_a_vip_that_fits_nowhere_stays_on_the_smuxes_with_the_reason() -> None:
    result = solve([demand("10.0.0.1", 40)])
    why = result.explain("10.0.0.1")
    assert (why.switch, result.hmux_share) == (None, 0.0)
    assert "even the best switch would reach" in why.reason
    with pytest.raises(KeyError, match=r"10\.9\.9\.9"):
        result.explain("10.9.9.9")


def test_the_route_limit_bounds_the_whole_data_centre_and_the_largest_vips_win() -> None:
    topology = Topology.fat_tree(SMALL, routes=3)
    result = solve([demand(f"v{i}", 0.1 * (i + 1)) for i in range(6)], topology=topology)
    assert [name for name, at in result.placement().items() if at] == ["v3", "v4", "v5"]
    assert "all 3 /32 routes are taken" in result.explain("v0").reason


def test_tables_bound_a_switch_and_a_switch_without_tables_carries_nothing() -> None:
    graph = nx.Graph()
    graph.add_edge("a", "b", capacity_bps=100 * GBPS)
    topology = Topology.from_graph(graph, tables={"a": MuxTables(tunneling=5), "b": NO_TABLES})
    result = solve([demand(f"v{i}", 1, "b", "a") for i in range(4)], topology=topology)
    assert list(result.placement().values()) == ["a", "a", None, None]
    assert result.explain("v1").bottleneck == "tunneling table of a"


def test_a_large_vip_is_placed_with_its_tips_or_not_at_all() -> None:
    tips = tuple(TipDemand(f"20.0.0.{i}", {"tor2.1": 0.5}, TableUse(1, 512, 512)) for i in (1, 2))
    big = Demand("10.0.0.1", GBPS, {"tor1.1": 1.0}, {}, TableUse(1, 16, 2), tips)
    placed = solve([big]).placement()
    # A TIP fills a tunneling table, so no two of the three share a switch.
    assert len(set(placed.values()) - {None}) == 3
    scarce = Topology.fat_tree(SMALL, routes=2)
    assert set(solve([big], topology=scarce).placement().values()) == {None}
    assert set(solve([big], excluded=np.arange(8, dtype=np.int32)).placement().values()) == {None}


def test_a_failed_tip_leaves_no_load_behind() -> None:
    tips = (
        TipDemand("20.0.0.1", {"tor2.1": 0.5}, TableUse(1, 512, 512)),
        TipDemand("20.0.0.2", {"tor2.1": 0.5}, TableUse(1, 5000, 600)),
    )
    result = solve([Demand("10.0.0.1", GBPS, {"tor1.1": 1.0}, {}, TableUse(1, 16, 2), tips)])
    assert set(result.placement().values()) == {None}
    assert not result.ledger.tables.entries.any()
    assert result.ledger.links == pytest.approx(0)
    assert "even the best switch would reach" in result.explain("10.0.0.1").reason


def test_sticky_moves_only_for_a_gain_above_delta() -> None:
    topology = Topology.fat_tree(SMALL)
    demands = Demands.of([demand("v", 4)], topology)
    core = topology.index["core1"]
    # On a Core all 4 Gbps take one link: 0.5; the best is 0.25.
    before = np.array([core], np.int32)
    assert assign(topology, demands, Sticky(delta=0.26), before).switch[0] == core
    assert assign(topology, demands, Sticky(delta=0.24), before).switch[0] != core
    assert assign(topology, demands, Sticky(), before, excluded=before).switch[0] not in (core, SMUX)


def test_one_time_never_moves_but_gives_up_what_no_longer_fits() -> None:
    topology = Topology.fat_tree(SMALL)
    demands = Demands.of([demand("v", 4), demand("w", 1)], topology)
    core = topology.index["core1"]
    before = np.array([core, SMUX], np.int32)
    assert assign(topology, demands, OneTime(), before).switch.tolist() == [core, SMUX]
    grown = demands.with_traffic(np.array([9, 1]) * GBPS)
    assert assign(topology, grown, OneTime(), before).switch.tolist() == [SMUX, SMUX]


def test_random_takes_the_first_feasible_switch_of_its_order() -> None:
    topology = Topology.fat_tree(SMALL)
    result = solve([demand(f"v{i}", 0.1) for i in range(5)], Random(seed=3))
    first = topology.names[np.random.default_rng(3).permutation(topology.switch_count)[0]]
    assert set(result.placement().values()) == {first}


def test_all_smux_places_nothing() -> None:
    assert set(solve([demand("v", 1)], AllSMux()).placement().values()) == {None}


def test_balanced_leaves_the_smuxes_less_in_the_worst_failure_than_greedy() -> None:
    from controller.simulation.provisioning import Failures

    topology = Topology.fat_tree(FatTreeShape(4, 4, 2, 2))
    demands = [
        demand(f"v{i}", 0.1 + 0.2 * (i % 3), f"tor{i % 4 + 1}.{i % 3 + 1}", f"tor{(i + 1) % 4 + 1}.4")
        for i in range(40)
    ]
    greedy, balanced = solve(demands, topology=topology), solve(demands, Balanced(), topology=topology)
    assert balanced.hmux_share == greedy.hmux_share == 1.0
    worst = [Failures(result).analyse(0, 1).worst for result in (balanced, greedy)]
    assert worst[0] < 0.9 * worst[1], f"balanced {worst[0]:g}, greedy {worst[1]:g}"


def test_placements_survive_by_name_when_the_topology_changes() -> None:
    topology = Topology.fat_tree(SMALL)
    demands = Demands.of([demand("v", 1), demand("w", 1)], topology)
    placement: dict[str, str | None] = {"v": "agg1.2", "w": "gone", "x": "tor1.1"}
    assert align(placement, topology, demands).tolist() == [topology.index["agg1.2"], SMUX]
    with pytest.raises(ValueError, match="previous has 1 rows, the demands have 2"):
        assign(topology, demands, Sticky(), np.array([0], np.int32))


def test_a_vip_costs_its_true_table_entries() -> None:
    dips = tuple(Dip(address=IPv4Address(f"100.1.1.{i}"), weight=i) for i in range(4))
    vip = Vip(
        address=IPv4Address("10.0.0.1"),
        dips=dips,
        ports=(PortGroup(protocol=Protocol.TCP, port=80, dips=dips[1:3]),),
    )
    layout = MuxVip.of(vip)
    located = {"100.1.1.1": "tor1.1", "100.1.1.2": "tor1.2", "100.1.1.3": "tor2.1"}
    found = Demand.of(layout, [], GBPS, {INTERNET: 1.0}, lambda dip: located[str(dip)])
    # Three DIPs have a weight, and two of them serve port 80 with weights 1 and 2.
    assert found.tables == TableUse(1, sum(len(g.slots) for g in layout.groups()), 5, 1)
    assert found.dips == pytest.approx(
        {"tor1.1": (1 / 6 + 1 / 3) / 2, "tor1.2": (2 / 6 + 2 / 3) / 2, "tor2.1": (3 / 6) / 2}
    )


def test_the_dips_behind_tips_are_the_tips_demand() -> None:
    tips = [
        MuxTip(
            address=IPv4Address(f"20.0.0.{i}"), group=Group.of((Dip(address=IPv4Address(f"100.1.{i}.1")),))
        )
        for i in (1, 2)
    ]
    layout = MuxVip(
        address=IPv4Address("10.0.0.1"),
        group=Group.of(
            tuple(Dip(address=tip.address, weight=w) for tip, w in zip(tips, (1, 3), strict=True))
        ),
    )
    found = Demand.of(layout, tips, GBPS, {INTERNET: 1.0}, lambda dip: f"tor{str(dip).split('.')[2]}")
    assert found.dips == {}
    assert [tip.share for tip in found.tips] == pytest.approx([0.25, 0.75])
    assert [dict(tip.dips) for tip in found.tips] == [{"tor1": 0.25}, {"tor2": 0.75}]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"traffic": -1.0}, r"VIP v has traffic -1 bit/s"),
        ({"traffic": float("nan")}, r"VIP v has traffic nan"),
        ({"dips": {}}, r"VIP v has no DIPs"),
        ({"sources": {"tor1.1": 0.5}}, r"sources sum to 0\.5"),
        ({"dips": {"tor1.1": 1.5, "tor1.2": -0.5}}, r"share of its DIPs is negative"),
    ],
)
def test_a_bad_demand_is_refused_by_name(fields: dict[str, object], said: str) -> None:
    good: dict[str, object] = {"traffic": 1.0, "sources": {"tor1.1": 1.0}, "dips": {"tor1.1": 1.0}}
    with pytest.raises(ValueError, match=said):
        Demand(name="v", tables=TableUse(), **{**good, **fields})  # type: ignore[arg-type]


def test_a_demand_at_an_unknown_switch_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"VIP v names switch 'tor9\.9'"):
        solve([demand("v", 1, "tor9.9")])


def test_negative_traffic_in_columns_is_refused_by_name() -> None:
    columns = Demands.of([demand("v", 1), demand("w", 1)], Topology.fat_tree(SMALL))
    with pytest.raises(ValueError, match="VIP w has traffic -5 bit/s"):
        columns.with_traffic(np.array([1.0, -5.0]))


def test_bad_topologies_are_refused_by_name() -> None:
    graph = nx.Graph()
    graph.add_edge("a", "b", capacity_bps=GBPS)
    graph.add_edge("c", "d", capacity_bps=GBPS)
    with pytest.raises(ValueError, match="switches c, d cannot be reached from a"):
        Topology.from_graph(graph)
    one_way = nx.DiGraph()
    one_way.add_edge("a", "b", capacity_bps=GBPS)
    with pytest.raises(ValueError, match="switch b cannot reach a"):
        Topology.from_graph(one_way)
    graph = nx.Graph()
    graph.add_edge("a", "b", capacity_bps=0)
    with pytest.raises(ValueError, match="link a->b has capacity 0 bit/s"):
        Topology.from_graph(graph)
    graph = nx.Graph()
    graph.add_edge("a", "b")
    with pytest.raises(ValueError, match="link a-b states no capacity_bps"):
        Topology.from_graph(graph)
    with pytest.raises(ValueError, match="'z'"):
        Topology.from_graph(nx.path_graph(1), entries=["z"])
    with pytest.raises(ValueError, match="at least one of aggs, not 0"):
        FatTreeShape(aggs=0)
    with pytest.raises(ValueError, match="tor_agg_bps: a capacity must be positive, not -1"):
        FatTreeShape(tor_agg_bps=-1)


def test_the_paper_sized_network_has_the_paper_sizes() -> None:
    topology = Topology.fat_tree()
    assert (topology.switch_count, topology.link_count) == (1800, 2 * 1600 * 4 + 2 * 160 * 10)
    assert topology.routes == 16384


def test_paths_of_any_size_equal_the_dense_table() -> None:
    topology = Topology.fat_tree(FatTreeShape(2, 3, 2, 2))
    rng = np.random.default_rng(5)
    matrix = rng.random((topology.switch_count, topology.switch_count))
    np.fill_diagonal(matrix, 0)
    expected = np.einsum("uv,uvl->l", matrix, ecmp_shares(topology))
    assert Paths(topology).loads(matrix) == pytest.approx(expected)


def test_paths_go_around_dead_switches_and_drop_what_cannot_arrive() -> None:
    topology = Topology.fat_tree(FatTreeShape(1, 2, 2, 1))
    matrix = np.zeros((topology.switch_count, topology.switch_count))
    matrix[0, 1] = 8.0
    agg = topology.index["agg1.1"]
    loads = Paths(topology, np.array([agg], np.int32)).loads(matrix)
    used = {topology.link_name(i): load for i, load in enumerate(loads) if load}
    assert used == {"tor1.1->agg1.2": 8.0, "agg1.2->tor1.2": 8.0}
    both = np.array([agg, topology.index["agg1.2"]], np.int32)
    assert not Paths(topology, both).loads(matrix).any()


def test_the_bound_is_above_every_strategy_and_its_fallback_below() -> None:
    from controller.simulation.provisioning import Failures

    topology = Topology.fat_tree(FatTreeShape(4, 4, 2, 2), routes=40)
    rng = np.random.default_rng(2)
    tors = topology.names[:16]
    demands = Demands.of(
        [
            Demand(
                f"v{i}",
                float(rng.pareto(1.1) + 0.1) * GBPS,
                {str(rng.choice(tors)): 0.7, INTERNET: 0.3},
                {str(rng.choice(tors)): 1.0},
                TableUse(1, 80, 10),
            )
            for i in range(60)
        ],
        topology,
    )
    best = bound(topology, demands)
    for strategy in (Greedy(), Random(1), Balanced()):
        result = assign(topology, demands, strategy)
        assert result.hmux_share <= best.hmux_share + 1e-9
        assert Failures(result).analyse(5, 1).worst >= best.fallback_bps * (1 - 1e-9)
    assert 0 < best.hmux_share < 1


def test_a_small_network_needs_no_numba() -> None:
    code = (
        "import sys; from controller.engine import *; t = Topology.fat_tree(FatTreeShape(2, 2, 2, 1));"
        "d = Demand('v', 1e9, {'tor1.1': 1.0}, {'tor2.1': 1.0}, TableUse(1, 8, 1));"
        "assert assign(t, Demands.of([d], t), Greedy()).placement()['v'];"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_fast_ledger_is_chosen_by_size() -> None:
    small, large = Topology.fat_tree(SMALL), Topology.fat_tree(FatTreeShape(8, 10, 4, 4))
    for topology, expected in ((small, "DenseLedger"), (large, "FatTreeLedger")):
        columns = Demands.of([demand("v", 1)], topology)
        assert type(ledger_for(topology, columns)).__name__ == expected
