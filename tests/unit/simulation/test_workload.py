"""The synthetic trace, and the file format of a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.engine import FatTreeShape, Topology
from controller.simulation import churn
from controller.simulation.profile import TALK_BYTE_CDF, TBPS, Profile, parameters
from controller.simulation.tracefile import TraceError, read, write
from controller.simulation.workload import Trace, generate, traffic_shares

TREE = Topology.fat_tree(FatTreeShape(4, 5, 2, 2))
PROFILE = Profile(vips=400, intervals=6, reference_bps=0.1 * TBPS, largest_share=0.05)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate(TREE, PROFILE, 7)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another(trace: Trace) -> None:
    again, other = generate(TREE, PROFILE, 7), generate(TREE, PROFILE, 8)
    assert np.array_equal(again.rates, trace.rates)
    assert np.array_equal(again.demands.source_switch, trace.demands.source_switch)
    assert np.array_equal(again.typical, trace.typical)
    assert other.rates.shape != trace.rates.shape or not np.array_equal(other.rates, trace.rates)


@pytest.mark.parametrize("largest", [0.007, 0.01, 0.02, 0.04, 0.08])
def test_the_bytes_follow_the_talk_point_by_point_whatever_the_largest_vip(largest: float) -> None:
    shares = traffic_shares(Profile(largest_share=largest))
    cumulative = np.cumsum(shares)
    found = {share: cumulative[round(share * 30_000) - 1] for share, _ in TALK_BYTE_CDF}
    assert found == pytest.approx(dict(TALK_BYTE_CDF), abs=1e-6)
    assert shares.max() == pytest.approx(largest, rel=1e-3)
    assert shares.sum() == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(
    vips=st.integers(1, 3000),
    largest=st.floats(0.001, 1.0),
)
def test_shares_are_positive_and_sum_to_one_for_any_number_of_vips(vips: int, largest: float) -> None:
    shares = traffic_shares(Profile(vips=vips, largest_share=largest))
    assert len(shares) == vips
    assert (shares > 0).all()
    assert shares.sum() == pytest.approx(1)


def test_every_parameter_says_where_it_comes_from() -> None:
    assert {source for _, _, source, _ in parameters()} == {
        "stated",
        "digitized",
        "assumed",
        "assumed, swept",
    }
    assert all(meaning for _, _, _, meaning in parameters())


def test_traffic_swings_around_the_stated_total_and_no_vip_exceeds_the_largest_share(trace: Trace) -> None:
    totals = trace.rates.sum(axis=1)
    assert totals.mean() == pytest.approx(PROFILE.reference_bps)
    assert totals.max() / totals.min() > 1.15
    assert (trace.rates.max(axis=1) <= 0.05 * totals * (1 + 1e-6)).all()
    assert trace.at(0, 5e9).total == pytest.approx(5e9, rel=0.2)
    assert trace.steady(5e9).total == pytest.approx(5e9)


def test_vips_are_on_and_off_and_those_who_die_are_replaced_by_their_like() -> None:
    profile = replace(PROFILE, vips=4000, on_hours=1.0, on_share=0.6, life_hours=2.0, intervals=18)
    who = churn.lives(np.random.default_rng(1), profile)
    for interval in range(profile.intervals):
        alive = (who.born <= interval) & (interval < who.dead)
        assert sorted(who.rank[alive].tolist()) == list(range(4000)), interval
    found = generate(TREE, profile, 1)
    active = (found.rates > 0).sum(axis=1)
    assert active == pytest.approx(np.full(18, 0.6 * 4000), rel=0.1)
    first, last = set(np.flatnonzero(found.rates[0])), set(np.flatnonzero(found.rates[-1]))
    assert 0.3 < len(first - last) / len(first) < 0.9


def test_without_churn_everybody_is_there_all_the_time() -> None:
    found = generate(TREE, replace(PROFILE, on_hours=0.0, life_hours=0.0), 1)
    assert found.rates.shape == (6, 400)
    assert (found.rates > 0).all()


def test_heavy_tailed_times_have_the_stated_mean_and_longer_remainders() -> None:
    rng = np.random.default_rng(1)
    fresh = churn.lomax(rng, 3.0, 10.0, 200_000)
    rest = churn.lomax(rng, 3.0, 10.0, 200_000, residual=True)
    assert fresh.mean() == pytest.approx(10.0, rel=0.03)
    # What is left of the one that runs at a random moment is E[X^2] / 2 E[X] on average: twice the mean here.
    assert rest.mean() == pytest.approx(20.0, rel=0.1)


def test_every_vip_has_distinct_sources_and_enough_dips(trace: Trace) -> None:
    demands = trace.demands
    for vip in range(demands.vip_count):
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        racks = demands.source_switch[at]
        assert len(set(racks.tolist())) == len(racks)
        assert demands.source_share[at].sum() + demands.internet[vip] == pytest.approx(1)
    assert (trace.dips >= np.minimum(demands.traffic / PROFILE.dip_bps, PROFILE.dips_most)).all()


def homes(trace: Trace, racks: str) -> list[set[int]]:
    """The containers of every VIP's DIPs or sources; four containers of five ToRs."""
    demands = trace.demands
    if racks == "sources":
        starts, switches = demands.source_start, demands.source_switch
    else:
        starts, switches = demands.dip_start, demands.dip_switch
    return [set((switches[starts[v] : starts[v + 1]] // 5).tolist()) for v in range(demands.vip_count)]


def test_a_service_lives_in_as_few_containers_as_its_racks_need() -> None:
    profile = replace(PROFILE, home_racks=5, dips_most=5, dip_bps=1e12)
    assert max(len(found) for found in homes(generate(TREE, profile, 1), "dips")) == 1
    spread = generate(TREE, replace(profile, home_racks=1), 1)
    assert np.mean([len(found) for found in homes(spread, "dips")]) > 1.3


def test_near_sources_are_in_the_homes_and_popular_containers_are_homes_more_often() -> None:
    profile = replace(PROFILE, home_racks=5, dips_most=5, dip_bps=1e12, source_bps=1e12)
    near = generate(TREE, replace(profile, sources_near=1.0, internet_share=0.0), 1)
    pairs = zip(homes(near, "sources"), homes(near, "dips"), strict=True)
    assert all(sources <= dips for sources, dips in pairs)
    zipf = generate(TREE, replace(profile, home_zipf=2.0), 1)
    counts = np.bincount([next(iter(found)) for found in homes(zipf, "dips")], minlength=4)
    assert counts.max() > 0.5 * counts.sum()


def test_vips_above_the_tunneling_table_go_over_tips() -> None:
    profile = replace(PROFILE, dips_median=300.0)
    found = generate(TREE, profile, 1)
    large = np.flatnonzero(found.dips > 512)
    assert large.size
    for vip in large.tolist():
        tips = found.demands.tips(vip)
        assert len(tips) == -(-int(found.dips[vip]) // 512)
        assert found.demands.tables[tips.start : tips.stop, 2].sum() == found.dips[vip]
        assert found.demands.tables[tips.start : tips.stop, 2].max() <= 512
        assert found.demands.tables[vip, 2] == len(tips)
        assert found.demands.row_share()[tips.start : tips.stop].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vips", 0),
        ("largest_share", 1.5),
        ("dip_bps", -1.0),
        ("on_share", 0.0),
        ("tail", 1.0),
        ("life_hours", -1.0),
        ("byte_cdf", ((0.2, 0.5), (0.1, 0.9))),
    ],
)
def test_a_bad_profile_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PROFILE, **{field: value})  # type: ignore[arg-type]


def test_a_trace_survives_the_file_format(tmp_path: Path) -> None:
    found = generate(TREE, replace(PROFILE, vips=60, dips_median=100.0), 3)
    write(tmp_path / "trace.txt", found, TREE)
    back = read(tmp_path / "trace.txt", TREE)
    assert np.allclose(back.rates, found.rates)
    alive = found.rates.sum(axis=0) > 0
    assert np.allclose(back.packet_bits[alive], found.packet_bits[alive])
    assert np.array_equal(back.dips, found.dips)
    assert np.array_equal(back.demands.tables, found.demands.tables)
    assert np.allclose(back.demands.source_share, found.demands.source_share)


GOOD = [
    "duet-trace 1",
    "intervals 2 600",
    "vip 10.0.0.1 sources tor1.1:0.5,internet:0.5 dips tor2.1:2",
    "rate 0 10.0.0.1 1e9 1000",
]


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (1, "duet-trace 2", "the first line must be 'duet-trace 1'"),
        (2, "intervals two 600", "'two' is not a whole number"),
        (2, "rates 2", "unknown record 'rates'"),
        (3, "vip 10.0.0.1 sources tor1.1:1 dips", "VIP 10.0.0.1 has no DIPs"),
        (3, "vip 10.0.0.1 sources tor1.1:1 dips tor2.1:0", "VIP 10.0.0.1 has no DIPs"),
        (3, "vip 10.0.0.1 sources tor1.1:0.7 dips tor2.1:2", "sum to 0.7, not 1"),
        (3, "vip 10.0.0.1 sources tor9.1:1 dips tor2.1:2", "'tor9.1' is no ToR"),
        (3, "vip 10.0.0.1 sources core1:1 dips tor2.1:2", "'core1' is no ToR"),
        (3, "vip 10.0.0.1 sources tor1.1 dips tor2.1:2", "'tor1.1' is not of the form NAME:VALUE"),
        (3, "vip 10.0.0.1 sources tor1.1:1", "VIP 10.0.0.1 has no DIPs"),
        (4, "rate 0 10.0.0.1 -5 0", "the traffic of VIP 10.0.0.1 is -5, which is negative"),
        (4, "rate 0 10.0.0.1 nan 0", "is nan, which is negative or not finite"),
        (4, "rate 0 10.0.0.1 fast 0", "'fast', not a number"),
        (4, "rate 2 10.0.0.1 5 0", "interval 2 of 2"),
        (4, "rate 0 10.0.0.2 5 0", "no VIP '10.0.0.2'"),
        (4, "rate 0 10.0.0.1 5", "expected 'rate INTERVAL NAME BITS_PER_S PACKETS_PER_S'"),
    ],
)
def test_a_malformed_trace_line_is_named(tmp_path: Path, line: int, text: str, said: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("\n".join([*GOOD[: line - 1], text, *GOOD[line:]]))
    with pytest.raises(TraceError) as error:
        read(path, TREE)
    assert f"bad.txt:{line}: " in str(error.value)
    assert said in str(error.value)


def test_duplicates_and_an_empty_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    for lines, said in (
        ([*GOOD, GOOD[3]], "bad.txt:5: VIP 10.0.0.1 has two rates in interval 0"),
        ([*GOOD[:3], GOOD[2]], "bad.txt:4: VIP 10.0.0.1 is stated twice"),
        ([], "bad.txt: the file is empty"),
        (GOOD[:2], "no 'vip' record"),
        (GOOD[:1], "no 'intervals' record"),
    ):
        path.write_text("\n".join(lines))
        with pytest.raises(TraceError, match=said.replace(".", r"\.")):
            read(path, TREE)
    with pytest.raises(TraceError, match=r"missing\.txt"):
        read(tmp_path / "missing.txt", TREE)
