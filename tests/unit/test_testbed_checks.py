"""The arithmetic of the testbed's self-check."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path

from controller.records import VipRecord
from controller.updater.layout import Down, change, lay_out
from controller.updater.wanted import wanted_states
from duet_p4.bird.config import Timers
from duet_p4.confinement import Rights
from duet_p4.flow_hash import Flow
from duet_p4.model import Checked, Dip, Group, MuxPortGroup, MuxTip, MuxVip, Protocol, Vip
from mininet_topos.fattree import PAPER, FatTree, fattree, nodes
from mininet_topos.testbed.checks import chi_square_z, expected_dip, processes, tcp_ports
from mininet_topos.testbed.holdings import undone, unsettled
from mininet_topos.testbed.nodes import echo_of, inventory_of
from mininet_topos.testbed.protocol import Answer
from mininet_topos.testbed.routing import bird_of, passwords, timers_of
from mininet_topos.testbed.supervisor import ProcessStatus, State

VIP = IPv4Address("10.0.0.1")


def dips(first: int, count: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.1.1.0") + first + n) for n in range(count))


def flow(port: int = 80, source_port: int = 4321) -> Flow:
    return Flow(IPv4Address("192.0.2.1"), VIP, 6, source_port, port)


def test_an_even_spread_passes_and_a_skewed_one_does_not() -> None:
    chance = random.Random(1)
    even = Counter(chance.randrange(8) for _ in range(4000))
    assert abs(chi_square_z([even[n] for n in range(8)], [500.0] * 8)) < 4
    assert chi_square_z([700, 500, 500, 500, 500, 500, 500, 300], [500.0] * 8) > 4


def test_a_dip_that_is_never_chosen_shows() -> None:
    assert chi_square_z([1000, 1000, 0], [666.7, 666.7, 666.7]) > 10


def test_rare_dips_are_counted_together() -> None:
    assert chi_square_z([1] * 50, [1.0] * 50) < 4
    assert chi_square_z([50] + [0] * 49, [1.0] * 50) > 4


def test_few_flows_say_nothing() -> None:
    assert chi_square_z([1, 0], [0.5, 0.5]) == 0


def test_a_port_of_its_own_has_dips_of_its_own() -> None:
    vip = MuxVip(
        address=VIP,
        group=Group.of(dips(0, 4)),
        ports=(MuxPortGroup(protocol=Protocol.TCP, port=21, group=Group.of(dips(100, 4))),),
    )
    assert tcp_ports(vip) == [21, 80]
    assert {expected_dip(flow(80, n), vip, {}, 0) for n in range(99)} == {dip.address for dip in dips(0, 4)}
    assert {expected_dip(flow(21, n), vip, {}, 0) for n in range(99)} == {dip.address for dip in dips(100, 4)}


def test_a_vip_of_ports_only_expects_nothing_elsewhere() -> None:
    vip = MuxVip(
        address=VIP, ports=(MuxPortGroup(protocol=Protocol.TCP, port=21, group=Group.of(dips(0, 1))),)
    )
    assert tcp_ports(vip) == [21]
    assert expected_dip(flow(80), vip, {}, 0) is None


def test_tips_lead_to_every_dip_behind_them() -> None:
    tips = {IPv4Address("20.0.0.1") + n: Group.of(dips(8 * n, 8)) for n in range(2)}
    vip = MuxVip(address=VIP, group=Group.of(tuple(Dip(address=tip) for tip in tips)))
    held = {address: MuxTip(address=address, group=group) for address, group in tips.items()}
    reached = Counter(expected_dip(flow(80, n), vip, held, 0) for n in range(3200))
    assert set(reached) == {dip.address for dip in dips(0, 16)}
    assert chi_square_z([reached[dip.address] for dip in dips(0, 16)], [200.0] * 16) < 4


def record() -> VipRecord:
    return lay_out(Vip(address=VIP, dips=dips(17, 3)), 512, lambda: IPv4Address("20.0.0.1"))


def test_what_waits_and_what_is_left_out_is_not_settled() -> None:
    whole = record()
    assert unsettled([whole]) == []
    lacking = change(
        whole,
        whole.spec,
        Down(failed=frozenset({Checked(IPv4Address("100.1.1.18"))})),
        512,
        lambda: IPv4Address("20.0.0.1"),
    )
    assert unsettled([lacking]) == [f"VIP {VIP} leaves its DIP 100.1.1.18 out"]
    waiting = whole.model_copy(update={"returning": "tor1"})
    assert unsettled([waiting]) == [f"{VIP} waits for tor1"]


def test_what_devices_lack_or_hold_too_much_is_undone() -> None:
    graph = fattree(FatTree())
    placed = record().model_copy(update={"switch": "tor1"})
    states = wanted_states([placed], inventory_of(graph))
    assert undone(graph, [placed], states) == []
    states["tor2"].entries[VIP] = states["tor1"].entries.pop(VIP)
    del states["smux1"].entries[VIP]
    assert undone(graph, [placed], states) == [
        f"smux1: put {VIP} (missing)",
        f"tor2: delete {VIP} (not wanted here)",
        f"tor1: put {VIP} (missing)",
    ]


def process(state: State, restarts: int = 0, end: str | None = None) -> ProcessStatus:
    return ProcessStatus(
        node="tor1",
        name="agent",
        state=state,
        pid=None,
        restarts=restarts,
        exit=end,
        log=Path("log"),
        rights=Rights(),
    )


def test_a_process_that_runs_again_is_told_of_and_well() -> None:
    check = processes(Answer(processes=(process(State.RUNNING, 2, "killed by SIGKILL"),)))
    assert check.ok
    assert check.detail == (
        "1 of 1 processes run; tor1/agent was started again 2 times, the last end: killed by SIGKILL"
    )


def test_a_process_that_does_not_run_is_told_of_with_the_reason() -> None:
    crashed = processes(Answer(processes=(process(State.CRASHED, 1, "exit code 3"),)))
    assert (crashed.ok, crashed.detail) == (
        False,
        "tor1/agent is crashed (exit code 3); 0 of 1 processes run",
    )
    failed = processes(Answer(processes=(process(State.STOPPED),), failed=("tor1",)))
    assert (failed.ok, failed.detail) == (
        False,
        "tor1/agent is stopped (tor1 was made to fail); 0 of 1 processes run",
    )


def test_the_more_switches_share_a_machine_the_more_seldom_they_ask_each_other() -> None:
    large = echo_of(fattree(FatTree(containers=8, tors=4, aggs=4, cores=16, servers=2, dip_servers=2)))
    usual = echo_of(fattree(PAPER))
    assert (usual.interval_ms, usual.hurry_ms) == (50, 20)
    ends = 2 * (8 * 4 * 4 + 8 * 4 * 16)
    assert ends * 1000 / large.interval_ms <= 2000 < 1.1 * ends * 1000 / large.interval_ms
    assert large.hurry_ms < large.interval_ms


def test_bgp_is_more_patient_where_many_routers_share_a_machine() -> None:
    assert timers_of(fattree(PAPER)) == Timers()
    large = timers_of(fattree(FatTree(containers=8, tors=4, aggs=4, cores=16, servers=2, dip_servers=2)))
    assert large.keepalive * 3 <= large.hold and 45 <= large.hold <= 90
    assert large.model_copy(update={"hold": 9, "keepalive": 3}) == Timers(), "what it takes to begin stays"


def test_of_two_neighbours_the_lower_one_connects() -> None:
    graph = fattree(PAPER)
    speakers = [node for node in nodes(graph) if node.asn is not None]
    passwords_of = passwords(graph)
    waits = {
        (node.name, neighbor.name): neighbor.passive
        for node in speakers
        for neighbor in bird_of(graph, node, passwords_of).neighbors
    }
    assert all(passive != waits[other, one] for (one, other), passive in waits.items())
    assert (
        waits["tor1", "smux1"]
        and waits["agg1", "tor1"]
        and waits["core1", "agg1"]
        and waits["outside", "core1"]
    )
