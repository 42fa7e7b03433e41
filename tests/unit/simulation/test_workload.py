"""The synthetic trace, and the file format of a real one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from controller.engine import FatTreeShape, Topology
from controller.simulation.tracefile import TraceError, read, write
from controller.simulation.workload import TBPS, Profile, Trace, generate, traffic_shares

TREE = Topology.fat_tree(FatTreeShape(4, 5, 2, 2))
PROFILE = Profile(vips=400, intervals=6, reference_bps=0.1 * TBPS, largest_share=0.05)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate(TREE, PROFILE, 7)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another(trace: Trace) -> None:
    again, other = generate(TREE, PROFILE, 7), generate(TREE, PROFILE, 8)
    assert np.array_equal(again.rates, trace.rates)
    assert np.array_equal(again.demands.source_switch, trace.demands.source_switch)
    assert not np.array_equal(other.rates, trace.rates)


def test_a_tenth_of_the_vips_carries_99_percent_of_the_bytes() -> None:
    shares = traffic_shares(Profile())
    assert shares[:3000].sum() == pytest.approx(0.99, abs=0.001)
    assert shares.sum() == pytest.approx(1)
    assert shares.max() <= Profile().largest_share * (1 + 1e-9)
    assert (np.diff(shares) <= 1e-9).all()


def test_traffic_drifts_bursts_and_swings_around_the_stated_total(trace: Trace) -> None:
    totals = trace.rates.sum(axis=1)
    assert totals.mean() == pytest.approx(PROFILE.reference_bps)
    assert totals.max() / totals.min() > 1.15
    assert (trace.rates.max(axis=1) <= PROFILE.largest_share * totals * (1 + 1e-6)).all()
    relative = trace.rates / trace.rates.mean(axis=0)
    assert np.median(relative.std(axis=0)) > 0.1
    assert trace.at(0, 5e9).total == pytest.approx(5e9, rel=0.2)


def test_every_vip_has_distinct_sources_and_enough_dips(trace: Trace) -> None:
    demands = trace.demands
    for vip in range(demands.vip_count):
        at = slice(demands.source_start[vip], demands.source_start[vip + 1])
        racks = demands.source_switch[at]
        assert len(set(racks.tolist())) == len(racks)
        assert demands.source_share[at].sum() + demands.internet[vip] == pytest.approx(1)
    assert (trace.dips >= np.minimum(trace_mean(trace) / PROFILE.dip_bps, PROFILE.dips_most)).all()


def trace_mean(trace: Trace) -> np.ndarray:
    return traffic_shares(PROFILE) * PROFILE.reference_bps


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


@pytest.mark.parametrize(("field", "value"), [("vips", 0), ("top_bytes", 1.5), ("dip_bps", -1.0)])
def test_a_bad_profile_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(PROFILE, **{field: value})  # type: ignore[arg-type]


def test_a_trace_survives_the_file_format(tmp_path: Path) -> None:
    found = generate(TREE, replace(PROFILE, vips=60, dips_median=100.0), 3)
    write(tmp_path / "trace.txt", found, TREE)
    back = read(tmp_path / "trace.txt", TREE)
    assert np.allclose(back.rates, found.rates)
    assert np.allclose(back.packets, found.packets)
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
