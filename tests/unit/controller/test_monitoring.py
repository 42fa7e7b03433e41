"""What monitoring makes of readings, answers and silence."""

import asyncio
import time
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.inventory import Inventory, Link, Role, Server, SMux, Switch
from controller.monitoring.agents import AgentState, AgentWatch
from controller.monitoring.evidence import is_lost, neighbours_of, suspicion
from controller.monitoring.fabric import Fabric
from controller.monitoring.network import NetworkView
from controller.monitoring.ports import HostPorts
from controller.monitoring.service import Monitoring
from controller.monitoring.traffic import (
    ELSEWHERE,
    PERIODS_KEPT,
    Count,
    Ingress,
    MeterKey,
    TrafficHistory,
    TrafficMeter,
)
from controller.reach import Reach, ReachMap
from duet_p4.api.mux import MuxStatus, SessionStatus, TableUse
from duet_p4.api.ports import HostPort, NeighbourPort
from duet_p4.api.service import Health, State
from duet_p4.rest.client import UnreachableError

VIP, DIP = IPv4Address("10.0.0.1"), IPv4Address("100.1.1.1")
CLIENT = IPv4Address("100.2.1.5")
KEY = MeterKey(VIP, DIP, CLIENT)
WHERE = (VIP, "tor2", DIP)
PREFIXES = {IPv4Network("100.2.1.0/24"): "tor2", IPv4Network("100.2.0.0/16"): "agg2"}


def test_the_mean_counts_silence_as_zero() -> None:
    history = TrafficHistory(0.0, 10_000.0)
    history.add(10.0, {WHERE: Count(1000, 125_000_000)})  # 100 Mbit/s for 10 s
    for second in range(20, 601, 10):
        history.add(float(second), {})
    (sample,) = history.matrix(600.0)
    assert sample.bps == pytest.approx(1e9 / 600)
    assert sample.pps == pytest.approx(1000 / 600)
    assert history.matrix(590.0) == []


def test_the_mean_of_more_than_is_known_is_that_of_what_is_known() -> None:
    history = TrafficHistory(100.0, 50_000.0)
    history.add(110.0, {WHERE: Count(10, 1000)})
    (sample,) = history.matrix(14_400.0)
    assert sample.bps == pytest.approx(800.0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=2000))
def test_an_old_history_gets_coarser_and_loses_nothing(sent: list[int]) -> None:
    history = TrafficHistory(0.0, 1e9)
    for number, packets in enumerate(sent):
        history.add(number + 1.0, {WHERE: Count(packets, packets * 100)} if packets else {})
    assert len(history._periods) <= PERIODS_KEPT
    samples = history.matrix(1e9)
    assert sum(s.pps for s in samples) * len(sent) == pytest.approx(sum(sent))


def test_what_is_too_old_is_forgotten() -> None:
    history = TrafficHistory(0.0, 100.0)
    for second in range(10, 2001, 10):
        history.add(float(second), {WHERE: Count(1, 1)})
    assert len(history._periods) <= 11


def test_a_meter_gives_differences_by_ingress_switch_and_forgets_what_is_not_counted() -> None:
    meter = TrafficMeter(PREFIXES)
    outside = MeterKey(VIP, DIP, IPv4Address("192.0.2.0"))
    assert meter.read("server1", [(KEY, Count(5, 500))]) == {}
    found = meter.read("server1", [(KEY, Count(7, 700)), (outside, Count(1, 1))])
    assert found == {WHERE: Count(2, 200)}
    found = meter.read("server1", [(outside, Count(3, 3))])
    assert found == {(VIP, ELSEWHERE, DIP): Count(2, 2)}
    assert meter.read("server1", [(KEY, Count(9, 900))]) == {}, "it was away: its count starts anew"
    assert meter.read("server1", [(KEY, Count(1, 100))]) == {}, "the host restarted"


def test_the_longest_prefix_says_where_traffic_enters() -> None:
    ingress = Ingress(PREFIXES)
    assert ingress.of(CLIENT) == "tor2"
    assert ingress.of(IPv4Address("100.2.9.1")) == "agg2"
    assert ingress.of(IPv4Address("192.0.2.1")) == ELSEWHERE


def test_a_switch_is_lost_only_if_a_neighbour_answers_and_none_has_a_session() -> None:
    assert not is_lost("tor1", {})
    assert not is_lost("tor1", {"agg1": None, "agg2": None}), "nobody answers: that is no evidence"
    assert not is_lost("tor1", {"agg1": {"tor1"}, "agg2": set()})
    assert is_lost("tor1", {"agg1": {"tor2"}, "agg2": None})


def test_monitoring_suspects_itself_when_too_many_are_silent() -> None:
    reach = {f"d{n}": Reach.READY for n in range(10)}
    few = reach | {f"d{n}": Reach.UNREACHABLE for n in range(3)}
    many = reach | {f"d{n}": Reach.UNREACHABLE for n in range(4)}
    unborn = dict.fromkeys(reach, Reach.UNKNOWN)
    assert suspicion(reach, 0.3) == suspicion(few, 0.3) == suspicion(unborn, 0.3) == ""
    assert suspicion(many, 0.3) == "4 of 10 devices cannot be reached at once, more than 30%"


INVENTORY = Inventory(
    switches=tuple(
        Switch(name=name, role=Role.TOR, agent="http://x", loopback=IPv4Address("172.30.0.1"))
        for name in ("tor1", "agg1", "agg2")
    ),
    smuxes=(SMux(name="m1", agent="http://x", switch="tor1", address=IPv4Address("100.9.0.9")),),
    links=(
        Link(ends=("tor1", "agg1"), capacity_bps=1e9),
        Link(ends=("tor1", "agg2"), capacity_bps=1e9),
    ),
    vip_prefix=IPv4Network("10.0.0.0/16"),
    tip_prefix=IPv4Network("20.0.0.0/24"),
)


def status(name: str, *peers: str, routes: int = 0, announced: int = 0) -> MuxStatus:
    sessions = tuple(
        SessionStatus(name=p, neighbor=CLIENT, asn=1, established=True, state="Established") for p in peers
    )
    return MuxStatus(
        name=name,
        kind="hmux",
        target="memory",
        uptime_s=0,
        vips=0,
        tips=0,
        announced=announced,
        tables={"route": TableUse(used=routes, size=16384)},
        ports=(),
        sessions=sessions,
        writes=0,
    )


def test_the_neighbours_of_a_switch_are_its_links_and_its_smuxes() -> None:
    assert neighbours_of(INVENTORY) == {"tor1": {"agg1", "agg2", "m1"}, "agg1": {"tor1"}, "agg2": {"tor1"}}


def test_the_network_tells_links_without_a_session_and_the_routes_of_the_underlay() -> None:
    view = NetworkView(INVENTORY)
    ready = dict.fromkeys(("tor1", "agg1", "agg2"), Reach.READY)
    statuses = {
        "tor1": status("tor1", "agg1", routes=200, announced=30),
        "agg1": status("agg1", "tor1", routes=230),
    }
    view.update(statuses, ready | {"agg2": Reach.UNREACHABLE})
    first = view.state
    assert first.links_down == (("tor1", "agg2"),)
    assert (first.closed, first.lost) == (("agg2",), ())
    assert first.routes == {"tor1": 200, "agg1": 200}
    assert first.tables["tor1"] == {"route": 16384}
    view.update(statuses | {"tor1": status("tor1", "agg1", routes=201, announced=31)}, view._reach)
    assert view.state == first, "a VIP more is no news of the network"
    view.update(statuses, ready | {"agg2": Reach.LOST})
    assert (view.state.version, view.state.lost) == (first.version + 1, ("agg2",))


class Says:
    """A mux that answers with its status."""

    def __init__(self, said: MuxStatus) -> None:
        self.said = said

    async def status(self) -> MuxStatus:
        return self.said


class Heard:
    """An updater that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[ReachMap] = []

    async def set_reach(self, told: ReachMap) -> None:
        self.told.append(told)


@pytest.mark.parametrize(("peers", "reach"), [(("agg1", "agg2"), Reach.UNWELL), ((), Reach.LOST)])
def test_an_unwell_switch_is_lost_where_no_neighbour_has_a_session_with_it(
    peers: tuple[str, ...], reach: Reach
) -> None:
    async def run() -> None:
        said: Any = {
            name: Says(status(name, *(("tor1",) if name in peers else ()), routes=200))
            for name in ("tor1", "agg1", "agg2", "m1")
        }
        heard: Any = Heard()
        monitoring = Monitoring(
            INVENTORY, heard, said, {}, {}, health_s=1, traffic_s=10, misses=3, switch_hold_s=0.0
        )
        states = monitoring._watch.states
        for name in states:
            now = Reach.UNWELL if name == "tor1" else Reach.READY
            states[name] = AgentState(name=name, reach=now)
            monitoring._changed(states[name])
        await monitoring._judge()
        assert heard.told[-1].devices["tor1"] is reach
        assert monitoring.network().closed == (() if reach is Reach.LOST else ("tor1",))

    asyncio.run(run())


def test_what_monitoring_knows_is_told_again_until_the_updater_has_heard_it() -> None:
    async def run() -> None:
        heard: Any = Heard()
        said: Any = {name: Says(status(name, routes=200)) for name in ("tor1", "agg1", "agg2", "m1")}
        monitoring = Monitoring(
            INVENTORY, heard, said, {}, {}, health_s=1, traffic_s=10, misses=3, switch_hold_s=0.0
        )
        hear = heard.set_reach

        async def away(told: ReachMap) -> None:
            raise UnreachableError("the updater is away")

        heard.set_reach = away
        with pytest.raises(UnreachableError):
            await monitoring._judge()
        heard.set_reach = hear
        await monitoring._judge()
        await monitoring._judge()
        assert len(heard.told) == 1, "what is known already is not told again at once"

    asyncio.run(run())


def test_what_an_agent_says_is_wrong_is_told_in_its_words_of_now() -> None:
    health = Health(state=State.STARTING, detail="not yet")

    class Asked:
        url = "http://server1"

        async def health(self) -> Health:
            return health

    async def run() -> None:
        nonlocal health
        agents: Any = {"server1": Asked()}
        watch = AgentWatch(agents, lambda state: None, interval_s=0.001, misses=3)
        watching = asyncio.create_task(watch.run())
        found = []
        for state, detail in (
            (State.STARTING, "not yet"),
            (State.DEGRADED, "no port"),
            (State.DEGRADED, "no room"),
            (State.READY, ""),
        ):
            health = Health(state=state, detail=detail)
            async with asyncio.timeout(10):
                while (known := watch.states["server1"]).detail != detail or (  # noqa: ASYNC110
                    known.reach is not (Reach.READY if state is State.READY else Reach.UNWELL)
                ):
                    await asyncio.sleep(0)
            found.append(known.trouble)
        watching.cancel()
        assert found == ["", "no port", "no room", ""]

    asyncio.run(run())


def test_a_process_that_was_there_again_before_anybody_missed_it_is_told_of() -> None:
    pids = {"agent": 10, "bird": 11}

    class Asked:
        url = "http://tor1"

        async def health(self) -> Health:
            return Health(state=State.READY, processes=pids)

    async def run() -> None:
        agents: Any = {"tor1": Asked()}
        watch = AgentWatch(agents, lambda state: None, interval_s=0.001, misses=3)
        watching = asyncio.create_task(watch.run())
        async with asyncio.timeout(10):
            while watch.states["tor1"].reach is not Reach.READY:  # noqa: ASYNC110 - another task asks
                await asyncio.sleep(0)
            assert watch.states["tor1"].restarted == {}
            pids["bird"] = 12
            while not (restarted := watch.states["tor1"].restarted):  # noqa: ASYNC110
                await asyncio.sleep(0)
        watching.cancel()
        assert restarted.keys() == {"bird"}
        assert watch.states["tor1"].reach is Reach.READY

    asyncio.run(run())


def port(number: int, *, adjacency: bool, since: float = 0.0) -> HostPort:
    prefix = IPv4Network(f"100.1.1.{16 * number}/28")
    return HostPort(
        port=number, name=f"eth{number}", prefixes=(prefix,), carrier=True, adjacency=adjacency, since=since
    )


SERVED = INVENTORY.model_copy(
    update={
        "servers": tuple(
            Server(
                name=f"server{n}",
                agent="http://x",
                switch="tor1",
                dips=(IPv4Address(f"100.1.1.{16 * n + 1}"),),
            )
            for n in (1, 2)
        )
    }
)


def test_servers_behind_a_port_without_a_neighbour_or_a_dead_switch_are_cut_off() -> None:
    ports = HostPorts(SERVED)
    assert ports.cut_off(()) == set(), "silence says nothing"
    assert ports.unheard(()) == {"server1", "server2"}
    assert ports.unheard({"tor1"}) == set(), "where the switch is dead, so much is known"
    ports.note("tor1", [port(1, adjacency=True), port(2, adjacency=True)])
    ports.note("tor1", [port(1, adjacency=False, since=time.time()), port(2, adjacency=True)])
    assert ports.cut_off(()) == {"server1"}
    assert ports.unheard(()) == set()
    ports.note("tor1", [port(1, adjacency=True), port(2, adjacency=True)])
    assert ports.cut_off(()) == set()
    assert ports.cut_off({"tor1"}) == {"server1", "server2"}
    ports.note("agg1", [])
    assert ports.cut_off(()) == set(), "a switch without servers cuts nobody off"


def test_a_server_that_has_not_come_up_yet_is_given_some_time() -> None:
    ports = HostPorts(SERVED)
    ports.note("tor1", [port(1, adjacency=False, since=time.time())])
    assert ports.cut_off(()) == set()
    ports.note("tor1", [port(1, adjacency=False, since=time.time() - 60)])
    assert ports.cut_off(()) == {"server1"}


def test_an_smux_is_dead_once_its_switch_has_no_carrier_to_it() -> None:
    fabric = Fabric(INVENTORY)
    assert fabric.dead(lambda _: True) == set()
    fabric.note("tor1", [NeighbourPort(neighbour="m1", alive=False)])
    assert fabric.dead(lambda _: True) == {"m1"}
    assert fabric.dead(lambda _: False) == set()


def test_a_node_is_dead_once_no_switch_that_answers_has_carrier_to_it() -> None:
    link = {"capacity_bps": 1e9}
    fabric = Fabric(
        SERVED.model_copy(
            update={
                "switches": tuple(
                    SERVED.switches[0].model_copy(update={"name": n}) for n in ("t1", "a1", "a2")
                ),
                "links": (Link(ends=("t1", "a1"), **link), Link(ends=("t1", "a2"), **link)),
                "smuxes": (),
            }
        )
    )

    def note(switch: str, **alive: bool) -> None:
        fabric.note(switch, [NeighbourPort(neighbour=name, alive=up) for name, up in alive.items()])

    silent: set[str] = set()

    def answers(name: str) -> bool:
        return name not in silent

    assert fabric.dead(answers) == set(), "nobody has told anything"
    note("t1", a1=True, a2=True)
    note("a1", t1=False)
    assert fabric.dead(answers) == set(), "a2 has not told yet: it may be a1 that is dead"
    note("a2", t1=True)
    assert (fabric.dead(answers), fabric.links_down(answers)) == (set(), {("t1", "a1")})
    note("a2", t1=False)
    assert fabric.dead(answers) == {"t1"}
    silent.add("a1")
    note("a2", t1=True)
    assert fabric.dead(answers) == set(), "one that does not answer said so before"
    note("a2", t1=False, nobody=False)
    assert fabric.dead(answers) == {"t1"}, "what is not in the inventory means nothing"
