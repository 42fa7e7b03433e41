"""`duet bench assignment`, small: the controller's own engine does what is timed, and its record adds up."""

from __future__ import annotations

from controller.engine import FatTreeShape
from controller.simulation import bench


def test_a_small_benchmark_times_the_controllers_engine_and_stays_within_the_bound() -> None:
    shape = FatTreeShape(containers=3, tors=3, aggs=2, cores_per_agg=2)
    record = bench.measure(vips=60, tbps=0.02, shape=shape, repeat=1, seed=1)
    assert (record["vips"], record["switches"], record["live_ledger"]) == (60, 19, True)
    assert 0 < record["hmux_traffic_share"] <= record["bound_share"] + 1e-9
    assert record["seconds"] > 0
    assert record["place_one_ms"] > 0
    assert record["with_outages"]["lost"]
    bench._figure(record)
