"""Small runs of experiments on a small testbed: what they measure is there, and adds up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.experiments import breakdown, capacity, control, failover
from mininet_topos.experiments.agent_logs import AgentLogs
from mininet_topos.experiments.load import Load, Meter
from mininet_topos.experiments.setting import Running, running
from mininet_topos.fattree import FatTree
from mininet_topos.testbed.plan import SmuxPath

pytestmark = [
    pytest.mark.root,
    pytest.mark.testbed,
    pytest.mark.skipif(os.geteuid() != 0, reason="a testbed needs root"),
]

SMALL = FatTree(containers=1, tors=2, aggs=2, cores=2, servers=2, dip_servers=4, smux_tors=(1,))


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def testbed() -> Iterator[Running]:
    with running(
        f"dte{os.getpid()}",
        ["tor2", "tor1", None, None],
        size=SMALL,
        controller=False,
        log_level="DEBUG",
        say=quiet,
    ) as found:
        yield found


def test_the_steps_of_adding_and_deleting_a_vip_are_all_timed_the_drain_among_them(testbed: Running) -> None:
    samples = breakdown.measure(testbed, "tor1", 2)
    parts = [part for step in samples for part in breakdown.parts(step)]
    assert parts == list(breakdown.STEPS), "each of the paper's steps has a time, alone or with others"
    assert all(len(values) == 2 and min(values) > 0 for values in samples.values())
    assert min(samples["drain"]) >= 30, "BGP has that long to tell everybody"


def test_load_is_made_at_a_pace_or_flat_out_and_an_smux_takes_it_from_a_queue(
    testbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacity._queue(testbed)
    servers = [node.name for node in fattree.nodes(testbed.graph, Kind.SERVER) if node.is_dip]
    load, meter = Load(testbed, "client1", testbed.vips), Meter(testbed, ("client1",), servers)
    for pps, least in ((2000.0, 500.0), (None, 10_000.0)):
        with load.offered(pps):
            deadline = time.monotonic() + 20
            while (rates := meter.rates()) and min(rates) < least:
                assert time.monotonic() < deadline, f"{rates} packets/s offered and delivered at {pps}"
                time.sleep(0.3)
            if pps is not None:
                assert rates[0] < 1.5 * pps, "a pace is no burst"
    # The first load of the ramp counts as the capacity: where that is, a busy machine cannot find out.
    short = {"PHASE_S": 0.4, "_SETTLE_S": 0.5, "_RAMP_S": 0.2, "_SHORT": 2.0, "_queue": quiet}
    for name, value in short.items():
        monkeypatch.setattr(capacity, name, value)
    monkeypatch.setitem(capacity._FIRST_PPS, SmuxPath.XDP, 100_000.0)
    on_smuxes = replace(testbed, stated=testbed.stated[-2:])
    found = capacity.measure(on_smuxes, SmuxPath.XDP, quiet)
    assert found.capacity > 0 and set(found.phases) == set(capacity.PHASES)
    assert all(phase["delivered_pps"] > 0 for phase in found.phases.values())


def test_announcing_and_writing_vips_are_timed_as_in_the_benchmark(
    testbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HOME", "tor1")
    monkeypatch.setattr(control, "EMPTY", "tor2")
    vip, dips = testbed.vips[1], control._dips(testbed)
    with closing(AgentLogs(testbed.folder, control._switches(testbed))) as logs:
        (announced,) = testbed.with_agents(lambda agents: control._announce(agents, logs, vip, 1))
    assert announced > 0
    assert testbed.with_agents(lambda agents: control._write(agents, dips, 8)) > 0


def test_a_vip_is_away_when_its_hmux_dies_until_its_neighbours_lead_around_it(
    testbed: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long, a busy machine cannot find out.
    monkeypatch.setattr(failover, "_LATEST_S", 0.1)
    found = failover.measure(testbed, "tor2", 1, quiet)
    (outage,), (parts,) = found.outages, found.breakdowns
    assert 0 <= outage < 1000, "none, where neighbours lead around it between two probes"
    assert parts.detection > 0
    assert parts.bgp > 0
    assert {row["vip"] for row in found.rows} == {str(vip) for vip in testbed.vips}
