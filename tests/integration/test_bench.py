"""A short benchmark on real veths: it measures, agrees with itself, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from duet_p4.bench.dataplane import MAX_LOSS, Bench, Plan

pytestmark = pytest.mark.root


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and XDP need root")
@pytest.mark.skipif(
    not (shutil.which("trafgen") and shutil.which("tcpreplay")), reason="trafgen or tcpreplay is missing"
)
def test_a_short_benchmark_measures_and_leaves_nothing_behind() -> None:
    bench = Bench(Plan(sizes=(64,), runs=1, seconds=0.2, steps=1, vip_runs=5), lambda text: None)
    bench.run_xdp()
    summary = bench.summary()
    assert summary["floor_pps"] > 50_000
    assert 0.2 < summary["xdp_over_floor"] < 1.2, "hmux.p4 does more than the floor"
    assert summary["loss"] < MAX_LOSS
    assert summary["writes_per_s"] > 500
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"dtb{os.getpid()}n" not in left
