"""Provisioning, latency, and the commands end to end on a data centre of a few switches."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from controller.engine import SMUX, Assignment, FatTreeShape, Greedy, Topology, assign
from controller.simulation import latency
from controller.simulation.cli import FIGURES, simulate
from controller.simulation.provisioning import Failures, smuxes
from controller.simulation.summary import interval
from controller.simulation.workload import TBPS, Profile, generate

TREE = Topology.fat_tree(FatTreeShape(3, 3, 2, 2))


@pytest.fixture(scope="module")
def placed() -> Assignment:
    profile = Profile(vips=120, intervals=2, reference_bps=0.015 * TBPS, largest_share=0.05, dips_median=30.0)
    trace = generate(TREE, profile, 4)
    assert trace.demands.row_count > trace.demands.vip_count
    return assign(TREE, trace.at(0), Greedy())


def fallen_back(placed: Assignment, dead: set[int]) -> float:
    """What is on the SMuxes once these switches are dead, VIP by VIP."""
    demands = placed.demands
    total = 0.0
    for vip in range(demands.vip_count):
        alive = float(demands.internet[vip])
        for i in range(demands.source_start[vip], demands.source_start[vip + 1]):
            if int(demands.source_switch[i]) not in dead:
                alive += float(demands.source_share[i])
        if placed.switch[vip] == SMUX or int(placed.switch[vip]) in dead:
            lost = 1.0
        else:
            shares = demands.row_share()
            lost = sum(float(shares[t]) for t in demands.tips(vip) if int(placed.switch[t]) in dead)
        total += float(demands.traffic[vip]) * alive * lost
    return total


def test_fallback_counts_dead_muxes_dead_tips_and_dead_sources(placed: Assignment) -> None:
    failures = Failures(placed)
    for dead in ([], [0], [3, 10], list(range(9)), [TREE.index["core1"], TREE.index["agg2.1"], 5]):
        expected = fallen_back(placed, set(dead))
        assert failures.fallback(np.array(dead, np.int32)) == pytest.approx(expected), dead


def test_the_worst_triple_is_the_worst_of_all(placed: Assignment) -> None:
    failures = Failures(placed)
    value, triple = failures.worst_triple()
    brute = max(
        failures.fallback(np.array(dead, np.int32)) for dead in combinations(range(TREE.switch_count), 3)
    )
    assert value == pytest.approx(brute)
    assert failures.fallback(np.array(triple, np.int32)) == pytest.approx(value)


def test_every_container_fails_once(placed: Assignment) -> None:
    result = Failures(placed).analyse(20, 1)
    assert len(result.containers) == 3
    assert len(result.sampled_switches) == 20
    assert max(result.sampled_switches) <= result.switches * (1 + 1e-9)
    assert result.worst == max(result.container, result.switches, result.unplaced)


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


def test_smuxes_are_counted_whole() -> None:
    assert [smuxes(bps, 3.6e9) for bps in (0, 1, 3.6e9, 3.7e9, 36e9)] == [0, 1, 1, 2, 10]


def test_the_queue_follows_theory_and_stands_full_when_overloaded() -> None:
    queue = latency.SMuxQueue()
    assert queue.added_us(0) == queue.idle_us
    # M/M/1: rho / (1 - rho) packets ahead.
    assert queue.waiting(0.5) == pytest.approx(1.0)
    assert queue.waiting(0.9) == pytest.approx(9.0)
    loads = [queue.added_us(load) for load in (0, 0.3, 0.9, 0.99, 1.0, 1.01, 2, 50)]
    assert loads == sorted(loads)
    assert queue.added_us(1e6) == pytest.approx(
        queue.idle_us + (queue.buffer - 1) / queue.packets_per_s * 1e6
    )
    with pytest.raises(ValueError, match="-1"):
        queue.added_us(-1)


def test_the_way_by_an_hmux_is_never_shorter_and_direct_ways_are_averages(placed: Assignment) -> None:
    journey = latency.journeys(placed)
    demands = placed.demands
    hops = np.array(
        [
            [0 if u == v else 2 if u // 3 == v // 3 else 4 for v in range(TREE.switch_count)]
            for u in range(TREE.switch_count)
        ]
    )
    owners = demands.owners()
    rows = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    for vip in range(0, demands.vip_count, 7):
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        mine = owners[rows] == vip
        expected = 2.0 * demands.internet[vip]
        for source, share in zip(demands.source_switch[at], demands.source_share[at], strict=True):
            expected += share * (hops[source, demands.dip_switch[mine]] * demands.dip_share[mine]).sum()
        assert journey.direct[vip] == pytest.approx(expected)
    assert (journey.by_mux >= journey.direct - 1e-9).all()


def test_quantiles_follow_the_weights() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 8.0, 1.0])
    assert [latency.weighted_quantile(values, weights, q) for q in (0.5, 0.85, 1.0)] == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="no traffic"):
        latency.weighted_quantile(values, weights * 0, 0.5)


def test_confidence_intervals_are_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx({"mean": 2.0, "ci95": 4.303 / 3**0.5}, rel=1e-3)
    assert interval([5.0]) == {"mean": 5.0, "ci95": 0.0}


TINY = [
    "--containers",
    "3",
    "--tors",
    "3",
    "--aggs",
    "2",
    "--cores-per-agg",
    "2",
    "--vips",
    "60",
    "--seeds",
    "2",
]


def test_all_figures_of_a_tiny_data_centre_and_a_resumed_run(tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["all", "--scale", "small", *TINY, "--jobs", "1", "--json", "--out", str(tmp_path)]
    first = runner.invoke(simulate, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout.splitlines()[-1])
    assert set(summary) == set(FIGURES)
    for number, name in enumerate(FIGURES, 15):
        for suffix in ("png", "svg"):
            assert (tmp_path / f"fig{number}_{name}.{suffix}").stat().st_size > 5000
        assert json.loads((tmp_path / f"{name}.json").read_text())["paper"]
        assert (tmp_path / f"{name}.csv").read_text().count("\n") > 2
    assert set(summary["smuxes"]["ananta_over_duet"]) == {"3.6", "10"}
    raw = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "raw").iterdir()}
    gone = "migration-sticky-10T-seed1.json"
    (tmp_path / "raw" / gone).unlink()
    again = runner.invoke(simulate, ["migration", *arguments[1:]], catch_exceptions=False)
    redone = {path.name for path in (tmp_path / "raw").iterdir() if path.stat().st_mtime_ns != raw[path.name]}
    assert redone == {gone}
    kept = json.loads(again.stdout.splitlines()[-1])["strategies"]
    assert kept["one-time"] == summary["migration"]["strategies"]["one-time"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--containers", "0"], "at least one of containers, not 0"),
        (["--tors", "-2"], "at least one of tors, not -2"),
    ],
)
def test_a_size_that_makes_no_network_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(simulate, ["trace", *arguments, "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "x").exists()


def test_a_bad_trace_file_is_refused_before_anything_runs(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("duet-trace 1\nintervals 1 600\nvip 10.0.0.1 sources tor1.1:1 dips\n")
    result = CliRunner().invoke(simulate, ["smuxes", "--trace", str(bad), "--out", str(tmp_path / "x")])
    assert result.exit_code == 1
    assert "bad.txt:3: VIP 10.0.0.1 has no DIPs" in result.output
    assert not (tmp_path / "x").exists()
