"""What falls back in failures, and how SMuxes are counted."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.engine import SMUX, Assignment, FatTreeShape, Greedy, Topology, assign
from controller.simulation import muxcount
from controller.simulation.muxcount import CountRule, Load
from controller.simulation.profile import TBPS, Profile
from controller.simulation.provisioning import Failures
from controller.simulation.workload import generate

SHAPE = FatTreeShape(3, 3, 2, 2)
TREE = Topology.fat_tree(SHAPE)


@pytest.fixture(scope="module")
def placed() -> Assignment:
    profile = Profile(vips=120, intervals=2, reference_bps=0.015 * TBPS, largest_share=0.05, dips_median=30.0)
    trace = generate(TREE, profile, 4)
    assert trace.demands.row_count > trace.demands.vip_count
    return assign(TREE, trace.steady(), Greedy())


def fallen_back(placed: Assignment, dead: set[int], *, sources_die: bool = False) -> float:
    """What is on the SMuxes once these switches are dead, VIP by VIP."""
    demands = placed.demands
    shares = demands.row_share()
    total = 0.0
    for vip in range(demands.vip_count):
        alive = float(demands.internet[vip])
        for i in range(demands.source_start[vip], demands.source_start[vip + 1]):
            if not sources_die or int(demands.source_switch[i]) not in dead:
                alive += float(demands.source_share[i])
        if placed.switch[vip] == SMUX or int(placed.switch[vip]) in dead:
            lost = 1.0
        else:
            lost = sum(float(shares[t]) for t in demands.tips(vip) if int(placed.switch[t]) in dead)
        total += float(demands.traffic[vip]) * alive * lost
    return total


def test_fallback_counts_dead_muxes_and_dead_tips(placed: Assignment) -> None:
    failures = Failures(placed)
    for dead in ([], [0], [3, 10], list(range(9)), [TREE.index["core1"], TREE.index["agg2.1"], 5]):
        switches = np.array(dead, np.int32)
        expected = fallen_back(placed, set(dead))
        assert failures.fallback(switches) == pytest.approx(expected), dead
        assert (failures.lost(switches) * placed.demands.traffic).sum() == pytest.approx(expected), dead


def test_what_the_tors_of_a_dead_container_would_have_sent_is_not_among_the_living(
    placed: Assignment,
) -> None:
    boxes = [np.flatnonzero(TREE.container == k).astype(np.int32) for k in range(3)]
    expected = [fallen_back(placed, set(box.tolist()), sources_die=True) for box in boxes]
    assert Failures(placed).living(boxes) == pytest.approx(expected)


def test_the_worst_triple_is_the_worst_of_all(placed: Assignment) -> None:
    failures = Failures(placed)
    value, triple = failures.worst_triple()
    brute = max(
        failures.fallback(np.array(dead, np.int32)) for dead in combinations(range(TREE.switch_count), 3)
    )
    assert value == pytest.approx(brute)
    assert failures.fallback(np.array(triple, np.int32)) == pytest.approx(value)


def test_the_text_rule_takes_containers_and_random_triples_and_the_exact_one_is_no_less(
    placed: Assignment,
) -> None:
    result = Failures(placed).analyse(20, 1)
    assert len(result.containers) == 3
    assert len(result.triples) == 20
    assert result.text == max(result.unplaced, *result.containers, *result.triples)
    assert result.worst == max(result.unplaced, result.exact, *result.containers) >= result.text
    assert all(a <= b for a, b in zip(result.living_containers, result.containers, strict=True))


def test_without_a_failure_the_links_carry_what_the_ledger_says(placed: Assignment) -> None:
    # What is on the SMuxes falls silent, so that only HMux traffic is on the links.
    demands = placed.demands.with_traffic(np.where(placed.on_hmux, placed.demands.traffic, 0.0))
    utilization = Failures(replace(placed, demands=demands)).link_utilization(np.zeros(0, np.int32), 5)
    assert utilization.max() > 0.1
    assert utilization == pytest.approx(placed.ledger.links * (1 - TREE.headroom))


def test_dead_links_carry_nothing_and_the_rest_still_arrives(placed: Assignment) -> None:
    dead = np.flatnonzero(TREE.container == 1).astype(np.int32)
    utilization = Failures(placed).link_utilization(dead, 5)
    touching = np.isin(TREE.source, dead) | np.isin(TREE.target, dead)
    assert not utilization[touching].any()
    assert utilization[~touching].max() > 0


def test_evenly_divided_smuxes_are_counted_whole() -> None:
    assert [muxcount.evenly(bps, 3.6e9) for bps in (0, 1, 3.6e9, 3.7e9, 36e9)] == [0, 1, 1, 2, 10]


def test_a_packet_finds_the_smux_of_its_tor_then_of_its_container_then_any() -> None:
    load = Load(np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]), 9.0)
    at = np.zeros(9, np.int64)
    at[0], at[4], at[5] = 2, 1, 1
    # Container 1: ToR 0 has two SMuxes; 2 and 4 come from its other ToRs. Container 3 has none: its 448 and
    # the Internet's 9 split over the two containers that have, and there over their ToRs.
    outside = (448 + 9) / 2
    expected = np.zeros(9)
    expected[0] = (1 + 2 + 4 + outside) / 2
    expected[4], expected[5] = 16 + 8 / 2 + outside / 2, 32 + 8 / 2 + outside / 2
    assert muxcount.shares(load, at, SHAPE) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(
    sent=st.lists(st.floats(0, 100), min_size=9, max_size=9),
    internet=st.floats(0, 100),
    count=st.integers(1, 40),
    by_load=st.booleans(),
)
def test_anycast_loses_nothing_wherever_smuxes_stand(
    sent: list[float], internet: float, count: int, by_load: bool
) -> None:
    load = Load(np.array(sent), internet)
    at = muxcount.standing(load, count, by_load=by_load)
    assert at.sum() == count
    assert (muxcount.shares(load, at, SHAPE) * at).sum() == pytest.approx(load.total, abs=1e-6)
    assert muxcount.most_loaded(load, count, SHAPE, by_load=by_load) * count >= load.total * (1 - 1e-9)


@settings(max_examples=50, deadline=None)
@given(sent=st.lists(st.floats(0.1, 100), min_size=9, max_size=9), by_load=st.booleans())
def test_no_smux_of_those_needed_gets_more_than_its_capacity(sent: list[float], by_load: bool) -> None:
    load = Load(np.array(sent), 5.0)
    count = muxcount.needed(load, 7.0, SHAPE, by_load=by_load)
    assert muxcount.most_loaded(load, count, SHAPE, by_load=by_load) <= 7.0 * (1 + 1e-9)
    assert count >= muxcount.evenly(load.total, 7.0)


def test_small_packets_need_more_smuxes_and_no_traffic_none(placed: Assignment) -> None:
    demands = placed.demands
    full, small = np.full(demands.vip_count, 12_000.0), np.full(demands.vip_count, 3_000.0)

    def count(packet_bits: np.ndarray) -> int:
        found = muxcount.counts(demands, demands.traffic, packet_bits, [3.6e9], SHAPE)
        return found[3.6e9, CountRule.PACKETS]

    assert count(full) == muxcount.evenly(demands.total, 3.6e9)
    assert count(small) == muxcount.evenly(4 * demands.total, 3.6e9)
    nothing = muxcount.counts(demands, 0 * demands.traffic, full, [3.6e9, 1e10], SHAPE)
    assert list(nothing.values()) == [0] * 2 * len(CountRule)


@settings(max_examples=50, deadline=None)
@given(sent=st.lists(st.floats(0.1, 100), min_size=9, max_size=9), internet=st.floats(0, 50))
def test_well_chosen_tors_need_no_more_smuxes_than_one_each_and_no_fewer_than_the_load(
    sent: list[float], internet: float
) -> None:
    load = Load(np.array(sent), internet)
    (count,) = muxcount.fewest(load, [7.0], SHAPE)
    everywhere = sum(muxcount.evenly(x + internet / 9, 7.0) for x in sent)
    assert muxcount.evenly(load.total, 7.0) <= count <= everywhere
