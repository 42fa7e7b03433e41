"""Rubik: DIPs near their sources, local instances, and the rest where the busiest link stays least."""

from __future__ import annotations

import numpy as np
import pytest

from controller.engine import SMUX, Demands, FatTreeShape, Greedy, Topology, assign
from controller.simulation import rubik
from controller.simulation.profile import TBPS, Profile
from controller.simulation.workload import Trace, generate

SHAPE = FatTreeShape(3, 3, 2, 2)
TREE = Topology.fat_tree(SHAPE)
TORS = SHAPE.tor_count


@pytest.fixture(scope="module")
def trace() -> Trace:
    profile = Profile(vips=80, intervals=2, reference_bps=0.03 * TBPS, largest_share=0.1, dips_median=20.0)
    return generate(TREE, profile, 4)


def per_rack(demands: Demands, trace: Trace) -> np.ndarray:
    """Return the DIPs of every VIP (row) in every rack (column)."""
    row = np.repeat(np.arange(demands.row_count), np.diff(demands.dip_start))
    counts = np.zeros((demands.vip_count, TORS))
    np.add.at(counts, (demands.owners()[row], demands.dip_switch), demands.dip_share)
    return np.rint(counts * trace.dips[: demands.vip_count, None]).astype(int)


def test_every_dip_keeps_its_vip_and_no_rack_holds_more_than_the_fullest_did(trace: Trace) -> None:
    before = trace.steady()
    after = rubik.rehoused(TREE, trace, before)
    old, new = per_rack(before, trace), per_rack(after, trace)
    assert np.array_equal(old.sum(axis=1), new.sum(axis=1))
    assert new.sum(axis=0).max() <= old.sum(axis=0).max()
    several = new.sum(axis=1) > 3
    assert (new[several].max(axis=1) < new[several].sum(axis=1)).all(), "a rack is no service's only one"


def test_what_stays_in_tors_and_what_is_left_are_the_whole_of_it(trace: Trace) -> None:
    demands = trace.steady()
    for housed in (demands, rubik.rehoused(TREE, trace, demands)):
        found = rubik.localize(TREE, housed)
        assert found.demands.traffic + found.local * housed.traffic == pytest.approx(housed.traffic)
        taken = TREE.tables[:, 2] - found.topology.tables[:, 2]
        assert (taken >= 0).all()
        assert (taken <= rubik.LOCAL_TABLES * TREE.tables[:, 2]).all()


def test_flexible_dips_keep_more_traffic_in_their_tors(trace: Trace) -> None:
    demands = trace.steady()
    local = [
        float((rubik.localize(TREE, housed).local * demands.traffic).sum())
        for housed in (demands, rubik.rehoused(TREE, trace, demands))
    ]
    assert local[1] > 1.5 * local[0]


def test_the_rest_is_placed_by_its_busiest_link_within_the_tables(trace: Trace) -> None:
    demands = trace.steady()
    by_links, by_all = rubik.place(TREE, demands), assign(TREE, demands, Greedy())
    assert by_links.ledger.links.max() < by_all.ledger.links.max()
    placed = by_links.switch != SMUX
    used = np.zeros_like(TREE.tables)
    np.add.at(used, by_links.switch[placed], demands.tables[placed])
    assert (used <= TREE.tables).all()
    scarce = Topology.fat_tree(SHAPE, routes=TREE.routes, headroom=TREE.headroom)
    scarce.tables[:, 2] = 8
    left_over = rubik.place(scarce, demands)
    used = np.zeros_like(scarce.tables)
    np.add.at(used, left_over.switch[left_over.switch != SMUX], demands.tables[left_over.switch != SMUX])
    assert (used <= scarce.tables).all()
    assert (left_over.switch == SMUX).any()
