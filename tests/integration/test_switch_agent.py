"""Switch agents with BIRD and a P4 switch each, in namespaces: two ToRs, two Aggs, a host per ToR.

`DUET_TARGET=bmv2` runs them over simple_switch_grpc.
"""

import asyncio
import contextlib
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

import pytest

from duet_p4.api.mux import SessionStatus
from duet_p4.hmux.rows import (
    HostRow,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    RouteRow,
    Row,
    TunnelRow,
)
from duet_p4.model import Dip, Group, MuxTip, MuxVip
from duet_p4.rest.client import RefusedError
from mininet_topos.experiments.damage import deaf
from mininet_topos.testbed.capture import End
from tests.integration import switches
from tests.integration.netns import ip
from tests.integration.switches import Fabric, Node, fabric, host_block, running

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(switches.missing() is not None, reason=str(switches.missing())),
]
VIP = IPv4Address("10.0.0.1")
PING_S = 0.005
PINGS_ANSWERED_S = 10.0
A_SECOND = 200
"""Pings."""
Result = TypeVar("Result")


class Net:
    """A running fabric, and the loop that its clients live in."""

    def __init__(self, fabric: Fabric, loop: asyncio.AbstractEventLoop) -> None:
        self.fabric = fabric
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(work)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    links = [("t1", "a3"), ("t1", "a4"), ("t2", "a3"), ("t2", "a4"), ("t1", "h1"), ("t2", "h2")]
    asns = {"t1": 65001, "t2": 65002, "a3": 65000, "a4": 65000}
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    with fabric(tmp_path_factory.mktemp("net"), asns, ("h1", "h2"), links) as one:
        started = time.monotonic()
        try:
            loop.run_until_complete(stack.enter_async_context(running(one)))
            loop.run_until_complete(one.until(lambda: both_ways(one), "routes by both Aggs", timeout_s=30.0))
            loop.run_until_complete(one.until(quiet_for(one, 0.5), "no more writes to switches", 30.0))
            print(f"4 switches up and converged in {time.monotonic() - started:.1f} s")
            yield Net(one, loop)
        finally:
            loop.run_until_complete(stack.aclose())
            loop.close()


@pytest.fixture(autouse=True)
def clean(net: Net) -> Iterator[None]:
    """Leave the fabric as each test wants to find it: whole, and without VIPs."""
    yield

    async def restore() -> None:
        for name, agent in net.fabric.agents.items():
            for state in await agent.get_vips():
                await agent.delete_vip(state.vip.address)
            for tip in await agent.get_tips():
                await agent.delete_tip(tip.tip.address)
            await net.fabric.ready(name)
        await net.fabric.established(*net.fabric.agents)
        await net.fabric.until(lambda: both_ways(net.fabric), "routes by both Aggs")
        await net.fabric.until(quiet_for(net.fabric, 0.2), "no more writes to switches", 30.0)

    net.run(restore())


def began(sessions: Iterable[SessionStatus]) -> dict[str, float]:
    """Return when BGP sessions came up; BIRD tells it anew each time, give or take a millisecond."""
    midnight = datetime(1900, 1, 1)
    return {s.name: (datetime.strptime(s.since, "%H:%M:%S.%f") - midnight).total_seconds() for s in sessions}


def group(*last: int) -> Group:
    return Group.of(tuple(Dip(address=IPv4Address(f"100.1.1.{n}")) for n in last))


def ports_towards(rows: list[Row], address: str) -> list[int]:
    """Return the ports, slot by slot, that packets to an address leave by; by the longest prefix."""
    routes = [row for row in rows if isinstance(row, RouteRow) and IPv4Address(address) in row.prefix]
    if not routes:
        return []
    best = max(routes, key=lambda row: row.prefix.prefixlen)
    if best.group < 0:
        return [best.group]
    groups = {row.group: row for row in rows if isinstance(row, NextHopGroupRow)}
    slots = {row.slot: row.nexthop for row in rows if isinstance(row, NextHopSlotRow)}
    hops = {row.nexthop: row.port for row in rows if isinstance(row, NextHopRow)}
    chosen = groups[best.group]
    return [hops[slots[chosen.first + n]] for n in range(chosen.count)]


async def both_ways(one: Fabric) -> bool:
    """Whether each ToR reaches the other's hosts by both Aggs, and the Aggs know the way on.

    BIRD passes a route on before the P4 switch has it, so an Agg may be the last to forward by it.
    """
    for tor, address in (("t1", "100.1.2.1"), ("t2", "100.1.1.1")):
        if set(ports_towards(await one[tor].rows(), address)) != {1, 2}:
            return False
        if not all([ports_towards(await one[agg].rows(), address) for agg in ("a3", "a4")]):
            return False
    return True


def quiet_for(one: Fabric, seconds: float) -> Callable[[], Coroutine[Any, Any, bool]]:
    """Return a check whether no switch has been written to for so long: routing has nothing more to say."""
    seen: list[int] = []
    since = time.monotonic()

    async def quiet() -> bool:
        nonlocal seen, since
        writes = [(await agent.status()).writes for agent in one.agents.values()]
        if writes != seen:
            seen, since = writes, time.monotonic()
        return time.monotonic() - since > seconds

    return quiet


def bird_of(switch: Node) -> int:
    """Return the process id of a switch's BIRD; 0 where none runs."""
    for pid in ip(f"netns pids {switch.namespace}").split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "bird":
                return int(pid)
    return 0


def address_of(host: Node) -> IPv4Address:
    return host_block(host)[1]


@contextmanager
def pinging(source: Node, target: IPv4Address) -> Iterator[list[int]]:
    """Ping while the context lasts; afterwards the list holds how many were sent and how many lost.

    It goes on until one is answered that was sent after the context's end, however busy the machine is: all
    before are answered by then, or lost. Where none is for long, all that were sent count.
    """
    command = ["ip", "netns", "exec", source.namespace, "ping", "-n", "-i", str(PING_S), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    answered: set[int] = set()
    told: list[str] = []
    later = threading.Event()
    enough = float("inf")

    def read(lines: Iterable[str]) -> None:
        for line in lines:
            told.append(line)
            if answer := re.search(r"icmp_seq=(\d+) ttl", line):
                answered.add(int(answer[1]))
                if int(answer[1]) > enough:
                    later.set()

    reading = threading.Thread(target=read, args=(process.stdout,))
    reading.start()
    began = time.monotonic()
    result: list[int] = []
    try:
        yield result
    finally:
        enough = (time.monotonic() - began) / PING_S + 1
        ended = later.wait(PINGS_ANSWERED_S)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
        reading.join()
        counted = re.search(r"(\d+) packets transmitted", "".join(told))
        assert counted, told
        sent = max(answered) if ended else int(counted[1])
        missed = sorted(set(range(1, sent + 1)) - answered)
        print(f"of {sent} pings were lost: {missed or 'none'}")
        result += [sent, len(missed)]


@asynccontextmanager
async def arrivals(host: Node) -> AsyncIterator[list[bytes]]:
    """Collect the IP-in-IP packets that arrive at a host, from the outer IP header on."""
    command = [
        "ip",
        "netns",
        "exec",
        host.namespace,
        "tcpdump",
        "-U",
        "-n",
        "-i",
        "eth1",
        "-w",
        "-",
        "proto 4",
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    while b"listening" not in await process.stderr.readline():
        pass
    found: list[bytes] = []

    async def collect(stream: asyncio.StreamReader) -> None:
        await stream.readexactly(24)
        while True:
            header = await stream.readexactly(16)
            frame = await stream.readexactly(int.from_bytes(header[8:12], "little"))
            found.append(frame[14:])

    reading = asyncio.create_task(collect(process.stdout))
    try:
        yield found
    finally:
        reading.cancel()
        process.terminate()
        await process.wait()


def test_hosts_behind_different_tors_reach_each_other(net: Net) -> None:
    for source, target in (("h1", "h2"), ("h2", "h1")):
        with pinging(net.fabric[source], address_of(net.fabric[target])) as pings:
            net.run(asyncio.sleep(0.3))
        assert pings[0] > 20
        assert pings[1] == 0, f"lost {pings[1]} of {pings[0]} pings from {source} to {target}"


def test_a_vip_is_forwarded_to_its_dip_once_announced_and_not_after_its_deletion(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        change = await agent.put_vip(MuxVip(address=VIP, group=group(17)), announce=False)
        written = {"add_dips", "add_vip"} if switches.TARGET == "bmv2" else {"add_dips+add_vip"}
        assert (change.announced, set(change.timings_ms)) == (False, written)
        assert ports_towards(await one["t2"].rows(), str(VIP)) == []
        async with arrivals(one["h1"]) as found:
            await agent.announce_vip(VIP)

            async def routed() -> bool:
                return set(ports_towards(await one["t2"].rows(), str(VIP))) == {1, 2}

            await one.until(routed, "the VIP in the other ToR's routes")

            async def arrives() -> bool:
                command = ["ip", "netns", "exec", one["h2"].namespace, "ping", "-c1", "-W0.05", str(VIP)]
                await (await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)).wait()
                return bool(found)

            await one.until(arrives, "a tunneled ping")
        outer, inner = found[0][:20], found[0][20:40]
        assert IPv4Address(outer[12:16]) == one["t1"].loopback
        assert IPv4Address(outer[16:20]) == IPv4Address("100.1.1.17")
        assert (IPv4Address(inner[12:16]), IPv4Address(inner[16:20])) == (address_of(one["h2"]), VIP)

        counters = await agent.counters()
        assert [(vip.address, vip.packets >= 1) for vip in counters.vips] == [(VIP, True)]
        assert [tunnel.address for tunnel in counters.tunnels] == [IPv4Address("100.1.1.17")]

        change = await agent.delete_vip(VIP)
        assert set(change.timings_ms) == {"withdraw", "drain", "delete_vip", "delete_dips"}

        async def gone() -> bool:
            return ports_towards(await one["t2"].rows(), str(VIP)) == []

        await one.until(gone, "the VIP out of the other ToR's routes")
        assert not [row for row in await one["t1"].rows() if isinstance(row, HostRow | TunnelRow)]

    net.run(run())


def test_an_announcement_reaches_the_whole_fabric_within_milliseconds(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        seconds = []
        for n in range(10):
            vip = IPv4Address(f"10.0.1.{n}")
            started = time.perf_counter()
            await one.agents["t1"].put_vip(MuxVip(address=vip, group=group(17, 18)))

            async def everywhere(vip: IPv4Address = vip) -> bool:
                return all([ports_towards(await one[name].rows(), str(vip)) for name in ("a3", "a4", "t2")])

            await one.until(everywhere, f"{vip} everywhere")
            seconds.append(time.perf_counter() - started)
        median = 1000 * statistics.median(seconds)
        print(f"REST call to last switch: median {median:.1f} ms, worst {1000 * max(seconds):.1f} ms")
        assert median < 200  # The aim is 50 ms on an idle machine; reading the tables back is in it too.

    net.run(run())


def test_a_dead_link_is_routed_around(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        with pinging(one["h2"], address_of(one["h1"])) as pings:
            await asyncio.sleep(0.2)
            started = time.perf_counter()
            ip("link set eth1 down", one["a3"].namespace)

            async def by_a4() -> bool:
                rows = await one["t1"].rows()
                return ports_towards(rows, "100.1.2.1") != [] and set(ports_towards(rows, "100.1.2.1")) == {2}

            await one.until(by_a4, "the route past the dead link")
            print(f"rerouted {1000 * (time.perf_counter() - started):.1f} ms after the link went down")
        print(f"lost {pings[1]} of {pings[0]} pings, 5 ms apart")
        assert pings[1] < A_SECOND

    try:
        net.run(run())
    finally:
        ip("link set eth1 up", one["a3"].namespace)


@pytest.mark.skipif(switches.TARGET == "bmv2", reason="BMv2 has no XDP program to take packets from")
def test_a_neighbour_that_hangs_with_its_ports_up_is_led_around_and_used_again(net: Net) -> None:
    one = net.fabric

    async def sessions_with_a3() -> list[bool]:
        return [
            session.established
            for name in ("t1", "t2")
            for session in (await one.agents[name].status()).sessions
            if session.name == "a3"
        ]

    async def by_a4() -> bool:
        return set(ports_towards(await one["t2"].rows(), "100.1.1.1")) == {2}

    async def ended() -> bool:
        return not any(await sessions_with_a3())

    hung = [End(Path("/run/netns", one["a3"].namespace), port.interface) for port in one["a3"].ports]
    with pinging(one["h2"], address_of(one["h1"])) as pings, deaf(hung):
        took = net.run(one.until(by_a4, "the route past the switch that hangs", timeout_s=6.0))
        net.run(one.until(ended, "the end of BGP with it", timeout_s=6.0))  # BFD would take 10 s.
    print(f"led around after {1000 * took:.0f} ms; lost {pings[1]} of {pings[0]} pings, 5 ms apart")
    net.run(one.until(lambda: both_ways(one), "both routes again", timeout_s=20.0))


def test_a_link_that_flaps_ends_up_used_again(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        for _ in range(5):
            for state in ("down", "up"):
                ip(f"link set eth1 {state}", one["a3"].namespace)
                await asyncio.sleep(0.02)
        await one.established(*one.agents)
        await one.until(lambda: both_ways(one), "routes by both Aggs", timeout_s=20.0)

    net.run(run())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_was_killed_finds_all_right_and_writes_nothing(net: Net, how: signal.Signals) -> None:
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        await agent.put_vip(MuxVip(address=VIP, group=group(17, 18)))
        await agent.put_tip(MuxTip(address=IPv4Address("20.0.0.1"), group=group(18, 19)), announce=False)
        held = (await agent.get_vips(), await agent.get_tips())
        sessions = began((await agent.status()).sessions)

        async def settled() -> bool:
            return bool(ports_towards(await one["t2"].rows(), str(VIP)))

        await one.until(settled, "the VIP in the other ToR")
        before = await one["t1"].rows()
        with pinging(one["h2"], address_of(one["h1"])) as pings:
            await asyncio.sleep(0.1)
            one["t1"].kill("agent", how)
            await asyncio.sleep(0.2)
            one["t1"].start_agent()
            await one.ready("t1")
            await asyncio.sleep(0.2)
        assert pings[1] == 0, f"lost {pings[1]} of {pings[0]} pings"
        status = await agent.status()
        assert status.writes == 0, f"{status.writes} rows were written"
        assert set(await one["t1"].rows()) == set(before)
        assert (await agent.get_vips(), await agent.get_tips()) == held
        assert began(status.sessions) == pytest.approx(sessions, abs=0.01), "BGP sessions were reset"

    net.run(run())


def test_an_agent_repairs_what_went_wrong_while_it_was_dead(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        await agent.put_vip(MuxVip(address=VIP, group=group(17)))
        before = set(await one["t1"].rows())
        one["t1"].kill("agent")
        stray = IPv4Address("10.0.0.99")
        await one["t1"].tamper(delete=[row for row in before if isinstance(row, HostRow)], stray=stray)
        ip(f"route add blackhole {stray}/32 table 100", one["t1"].namespace)
        one["t1"].start_agent()
        await one.ready("t1")

        async def repaired() -> bool:
            return set(await one["t1"].rows()) == before

        await one.until(repaired, "the rows as they were")
        assert (await agent.status()).announced == 1

    net.run(run())


@pytest.mark.parametrize("name", ["t1", "a3"])
def test_a_killed_bird_costs_its_switch_neither_routes_nor_packets(net: Net, name: str) -> None:
    one = net.fabric

    async def run() -> None:
        killed = bird_of(one[name])
        before = set(await one["t2"].rows()), set(await one[name].rows())
        writes = {other: (await agent.status()).writes for other, agent in one.agents.items()}
        with pinging(one["h2"], address_of(one["h1"])) as pings:
            await asyncio.sleep(0.1)
            os.kill(killed, signal.SIGKILL)

            async def another() -> bool:
                return bird_of(one[name]) not in (0, killed)

            await one.until(another, "another BIRD", timeout_s=5.0)
            await one.established(*one.agents, timeout_s=20.0)
            await one.until(quiet_for(one, 0.5), "no more writes to switches", 20.0)
        assert pings[1] == 0, f"lost {pings[1]} of {pings[0]} pings"
        assert (set(await one["t2"].rows()), set(await one[name].rows())) == before
        after = {other: (await agent.status()).writes for other, agent in one.agents.items()}
        assert after == writes, f"a switch was written to\n{one.logs()}"

    net.run(run())


def test_a_switch_that_dies_is_routed_around_and_programmed_again(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        await one.agents["a3"].put_vip(MuxVip(address=VIP, group=group(17)))

        async def there() -> bool:
            return set(ports_towards(await one["t2"].rows(), str(VIP))) == {1}

        await one.until(there, "the VIP at a3")
        with pinging(one["h2"], address_of(one["h1"])) as pings:
            await asyncio.sleep(0.1)
            one["a3"].kill("switch")
            started = time.perf_counter()

            async def gone() -> bool:
                rows = await one["t2"].rows()
                return not ports_towards(rows, str(VIP)) and set(ports_towards(rows, "100.1.1.1")) == {2}

            await one.until(gone, "the dead switch out of the routes")
            print(f"dead switch out of the routes after {1000 * (time.perf_counter() - started):.1f} ms")
        print(f"lost {pings[1]} of {pings[0]} pings, 5 ms apart")
        assert pings[1] < A_SECOND
        with pytest.raises(RefusedError, match="does not answer"):
            await one.agents["a3"].put_vip(MuxVip(address=VIP + 1, group=group(17)))
        one["a3"].start_switch()
        await one.ready("a3")
        await one.established("a3", timeout_s=20.0)
        agent = one.agents["a3"]
        status = await agent.status()
        assert (status.vips, status.announced, status.synced) == (1, 0, False), "others may have the VIP now"
        await agent.confirm((await agent.digest()).digest)
        await one.until(there, "the VIP at a3 again")

    net.run(run())


def test_a_session_that_another_client_takes_costs_neither_bgp_nor_announcements(net: Net) -> None:
    """And what that client wrote, rows that no agent understands too, is gone once the agent is back."""
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        await agent.put_vip(MuxVip(address=VIP, group=group(17)))

        async def settled() -> bool:
            return bool(ports_towards(await one["t2"].rows(), str(VIP)))

        await one.until(settled, "the VIP in the other ToR")
        before = set(await one["t1"].rows())
        sessions = began((await agent.status()).sessions)
        with pinging(one["h2"], address_of(one["h1"])) as pings:
            await one["t1"].usurp(IPv4Address("10.0.0.98"), seconds=1.0)
            await one.ready("t1")

            async def repaired() -> bool:
                return set(await one["t1"].rows()) == before and not await one["t1"].foreign()

            await one.until(repaired, "the rows as they were")
        assert pings[1] == 0, f"lost {pings[1]} of {pings[0]} pings"
        status = await agent.status()
        assert began(status.sessions) == pytest.approx(sessions, abs=0.01), "BGP sessions were reset"
        assert (status.announced, status.health) == (1, "ready")

    net.run(run())


def test_what_cannot_be_done_is_refused_and_changes_nothing(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        await agent.put_vip(MuxVip(address=VIP, group=group(17)))
        before, held = set(await one["t1"].rows()), await agent.get_vips()
        writes = (await agent.status()).writes
        many = tuple(Dip(address=IPv4Address(0x64_02_00_00 + n)) for n in range(513))
        for vip, reason in (
            (MuxVip(address=VIP + 1, group=Group.of(many[:2], 4097)), "ecmp table is full"),
            (MuxVip(address=VIP + 1, group=Group.of(many, 513)), "tunneling table is full"),
        ):
            with pytest.raises(RefusedError, match=reason) as refused:
                await agent.put_vip(vip)
            assert refused.value.problem.status == 409
        with pytest.raises(RefusedError, match=r"404 .*10\.0\.0\.9"):
            await agent.delete_vip(IPv4Address("10.0.0.9"))
        with pytest.raises(RefusedError, match="as a VIP"):
            await agent.put_tip(MuxTip(address=VIP, group=group(17)))
        assert (await agent.put_vip(MuxVip(address=VIP, group=group(17)))).updates == 0
        assert set(await one["t1"].rows()) == before
        assert await agent.get_vips() == held
        assert (await agent.status()).writes == writes

    net.run(run())


def test_a_vip_of_512_dips_fills_the_tables_and_leaves_no_trace(net: Net) -> None:
    one = net.fabric

    async def run() -> None:
        agent = one.agents["t1"]
        many = tuple(Dip(address=IPv4Address(0x64_02_00_00 + n)) for n in range(512))
        before = set(await one["t1"].rows())
        group = Group.of(many)
        change = await agent.put_vip(MuxVip(address=VIP, group=group))
        print("512 DIPs:", {label: round(ms, 1) for label, ms in change.timings_ms.items()})
        tables = (await agent.status()).tables
        assert (tables["ecmp"].used, tables["ecmp"].size) == (4096, 4096)
        assert (tables["tunneling"].used, tables["tunneling"].size) == (512, 512)
        change = await agent.put_vip(MuxVip(address=VIP, group=group.updated(many[1:])))
        assert change.updates == 8 + 1
        await agent.delete_vip(VIP)
        assert set(await one["t1"].rows()) == before

    net.run(run())
