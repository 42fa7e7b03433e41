"""What is acknowledged survives the death of any process: a short run of `duet experiment chaos`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mininet_topos.experiments import chaos
from mininet_topos.fattree import FatTree

pytestmark = [
    pytest.mark.root,
    pytest.mark.testbed,
    pytest.mark.skipif(os.geteuid() != 0, reason="a testbed needs root"),
]

SMALL = FatTree(containers=1, tors=2, aggs=2, cores=2, servers=3, dip_servers=6, smux_tors=(1, 2))


def test_kills_freezes_and_partitions_lose_nothing_and_leave_nothing_wrong(
    tmp_path: Path,
) -> None:
    summary = chaos.run(f"dch{os.getpid()}", tmp_path, print, seconds=60, seed=1, size=SMALL, controllers=3)
    assert summary["lost"] == []
    assert summary["announced_twice"] == []
    assert summary["differences"] == ()
    # Repairs follow failures within seconds; what waits for the next resync has been missed.
    assert summary["converged_s"] < 30, f"{summary['awaited']} took {summary['converged_s']} s to be repaired"
    # A connection that only one SMux knows, as all are told of another layout, may break if that moment is
    # also its path's last; no more than such.
    assert summary["broken"] <= summary["connections"] // 200, summary["how_they_broke"]
    kills, changes = sum(summary["kills"].values()), summary["changes"]["acknowledged"]
    assert kills >= 10, f"only {kills} kills in 60 s: this proves little"
    assert changes >= 10, f"only {changes} acknowledged changes in 60 s: this proves little"
    assert summary["announcements"] >= 10, f"only {summary['announcements']} changes of announcements"
    assert sum(summary["discord"].values()) >= 2, f"{summary['discord']}: this proves little"
