"""The logic of `duet bench dataplane`: frames, the search for a pace, and what the result says."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from duet_p4.bench import traffic
from duet_p4.bench.dataplane import MAX_LOSS, Bench, Pacer, Plan, Rate
from duet_p4.bench.line import BenchError
from duet_p4.bench.packets import everything
from duet_p4.bench.plot import draw
from duet_p4.bench.tables import Fill
from duet_p4.bench.traffic import Sample, Sent, frame, pace
from duet_p4.bench.writes import Programming
from duet_p4.hmux import pipeline


@pytest.mark.parametrize("size", [64, 512, 1500])
def test_a_frame_is_well_formed_and_of_its_size(size: int) -> None:
    data = frame(size, 0x0AFF0001, 0x0A000001, 4000)
    assert len(data) == size
    packet = Ether(data)
    assert (packet[IP].src, packet[IP].dst, packet[UDP].sport) == ("10.255.0.1", "10.0.0.1", 4000)
    assert packet[IP].len == size - 14
    checksum = packet[IP].chksum
    del packet[IP].chksum
    assert Ether(bytes(packet))[IP].chksum == checksum


def test_a_frame_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="not 41"):
        frame(41, 1, 2, 3)


def test_a_pace_counts_the_time_of_a_generator_until_its_last_child_has_ended() -> None:
    samples = [
        Sample(1.0, 100, 0.5),
        Sample(2.0, 1100, 1.0),
        Sample(2.1, 1200, 0.01),
        Sample(2.2, 1300, 0.01),
    ]
    assert pace(1300, 1300, samples) == Sent(1300, 1300, 1000.0, 2000.0)


@pytest.mark.parametrize("cpu", [0.5, 0.2])
def test_a_pace_without_time_of_its_generator_is_none(cpu: float) -> None:
    with pytest.raises(BenchError, match="too few"):
        pace(10, 10, [Sample(1.0, 1, 0.5), Sample(2.0, 10, cpu)])


def test_a_pace_of_which_hardly_anything_was_seen_is_none() -> None:
    """Of a run that nobody looked at until its last moment, packets per second of CPU may be anything."""
    with pytest.raises(BenchError, match="12 packets came while anybody looked, of 80000"):
        pace(80_000, 80_000, [Sample(1.0, 79_980, 0.1990), Sample(1.1, 79_992, 0.19901)])


def test_the_time_of_a_process_grows_as_it_runs_and_is_none_once_it_has_ended() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline, used = time.monotonic() + 20, 0.0
        while used < 0.05:
            assert time.monotonic() < deadline
            found = traffic._cpu_seconds(busy.pid, traffic._packet_threads())
            assert found is not None
            used = found - sum(time.clock_gettime(~one << 3 | 2) for one in traffic._packet_threads())
    finally:
        busy.kill()
        busy.wait()
    assert traffic._cpu_seconds(busy.pid, ()) is None


class Device:
    """A generator in front of a device that loses what is above its capacity."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity

    def paced(self, rate: float, seconds: float) -> Sent:
        offered = round(rate * seconds)
        received = round(min(rate, self.capacity) * seconds)
        return Sent(offered, received, received / seconds, 1.0)


@pytest.mark.parametrize("capacity", [1500, 40_000, 123_456])
def test_the_highest_pace_without_loss_is_found(capacity: float) -> None:
    found = Pacer(seconds=1.0, steps=10).highest(Device(capacity), 500, 400_000)  # type: ignore[arg-type]
    assert found.loss < MAX_LOSS
    assert 0.98 * capacity < found.pps <= 1.002 * capacity


def test_a_device_that_loses_at_any_pace_is_an_error() -> None:
    with pytest.raises(BenchError, match="not forwarded without loss"):
        Pacer(seconds=1.0, steps=7).highest(Device(10), 500, 400_000)  # type: ignore[arg-type]


def measured() -> Bench:
    bench = Bench(Plan(), lambda text: None)
    for subject, fill, pps in [
        ("floor", "one", 500_000.0),
        ("xdp", "one", 400_000.0),
        ("xdp", "full", 360_000.0),
    ]:
        runs = [Sent(1000, 1000, pps / 2, pps)] * 3
        bench.rates.append(Rate(subject, fill, 64, pps, 0.0, runs))
    bench.programming.append(Programming("xdp", [1.0, 2.0, 3.0], {"host": 20_000.0}, {}, [90.0]))
    return bench


def test_what_was_not_measured_is_null_and_ratios_are_of_runs_side_by_side() -> None:
    summary = measured().summary()
    assert summary["xdp_over_floor"] == pytest.approx(0.8)
    assert summary["full_over_one"] == pytest.approx(0.9)
    assert summary["machine_share"] == pytest.approx(0.5)
    assert (summary["write_ms_median"], summary["writes_per_s"]) == (2.0, 20_000.0)
    for key in ("bmv2_pps", "xdp_over_bmv2", "bmv2_writes_per_s", "xdp_ns_per_packet"):
        assert summary[key] is None


def test_the_figure_is_drawn_of_what_there_is(tmp_path: Path) -> None:
    bench = measured()
    bench.rates.append(Rate("bmv2", "one", 1500, 20_000.0, 0.0, [Sent(1000, 1000, 20_000.0, 1.0)]))
    paths = draw(bench.rates, tmp_path / "figure")
    assert {path.suffix for path in paths} == {".png", ".svg"}
    assert all(path.stat().st_size > 1000 for path in paths)


def test_full_tables_are_as_full_as_p4info_says() -> None:
    fill, sizes = Fill.full(), pipeline.sizes()
    assert len(list(fill.hosts())) == sizes["host_table"]
    by_table: dict[str, int] = {}
    for entry in fill.all_but_hosts():
        by_table[entry.table_id] = by_table.get(entry.table_id, 0) + 1
    for table in ("route_table", "ecmp_table", "tunneling_table"):
        assert by_table[table] == sizes[table]


def test_no_entry_of_full_tables_is_written_twice() -> None:
    fill = Fill.full()
    keys = [entry.encode(pipeline.schema()) for entry in [*fill.all_but_hosts(), *everything(fill)]]
    seen: set[bytes] = set()
    for key in keys:
        key.table_entry.ClearField("action")
        seen.add(key.SerializeToString(deterministic=True))
    assert len(seen) == len(keys)
