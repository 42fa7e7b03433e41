"""What the kernel says over rtnetlink, decoded, against what pyroute2 makes of the same kernel."""

import asyncio
import errno
import json
import os
import random
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from duet_p4.bird.config import BirdConfig
from duet_p4.bird.policy import PrefixRange
from duet_p4.hmux.routes import Gateway, Target
from duet_p4.switch_agent import netlink
from duet_p4.switch_agent.config import P4Config, PortConfig, SwitchConfig
from duet_p4.switch_agent.kernel import Kernel
from duet_p4.switch_agent.netlink import Link, Message, Neighbor, Route
from duet_p4.switch_agent.netlink_changes import Changes, RefusedError
from tests.integration.netns import inside, ip, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
ENDS = {"one": IPv4Interface("172.31.0.0/31"), "two": IPv4Interface("172.31.0.2/31")}
PEERS = {name: end.ip + 1 for name, end in ENDS.items()}
UNICAST = 1


@pytest.fixture
def namespace() -> Iterator[str]:
    with namespaces("nl") as (space,), inside(space):
        ip("link add one type veth peer name two", space)
        for end, address in ENDS.items():
            ip(f"link set {end} up", space)
            ip(f"addr add {address} dev {end}", space)
        ip("neigh add 172.31.0.1 lladdr 02:00:00:00:00:07 dev one", space)
        yield space


@pytest.fixture
def routed(namespace: str) -> str:
    ip("route add 10.0.0.0/16 via 172.31.0.1", namespace)
    ip("route add 10.0.0.1/32 metric 32 nexthop via 172.31.0.1 nexthop via 172.31.0.3 weight 3", namespace)
    ip("route add 100.0.0.0/8 via 172.31.0.3 table 1000", namespace)
    ip("route add default via 172.31.0.1 metric 5", namespace)
    ip("route add blackhole 203.0.113.0/24", namespace)
    ip("nexthop add id 7 via 172.31.0.3 dev two", namespace)
    ip("route add 10.7.0.0/16 nhid 7", namespace)
    return namespace


def by_pyroute2(table: int = 254) -> set[Message]:
    """Return what pyroute2 reads, which does not know nexthop objects: see `known_to_it`."""
    found: set[Message] = set()
    with IPRoute() as library:
        for link in library.get_links():
            found.add(Link(link["index"], bool(link["flags"] & 0x10000), bool(link["flags"] & 1)))
        for neighbor in library.get_neighbours(family=socket.AF_INET):
            mac = neighbor.get("NDA_LLADDR")
            number = int(mac.replace(":", ""), 16) if mac else None
            found.add(Neighbor(neighbor["ifindex"], IPv4Address(neighbor.get("NDA_DST")), number))
        for route in library.get_routes(family=socket.AF_INET, table=table):
            prefix = IPv4Network((route.get("RTA_DST") or 0, route["dst_len"]))
            metric = route.get("RTA_PRIORITY") or 0
            found.add(Route(True, route.get("RTA_TABLE"), prefix, metric, tuple(hops(route)), route["type"]))
    return found


def known_to_it(found: list[Message]) -> set[Message]:
    return {replace(one, nexthop=0) if isinstance(one, Route) else one for one in found}


def hops(route: Any) -> Iterator[tuple[int, IPv4Address]]:
    for hop in route.get("RTA_MULTIPATH") or []:
        yield hop["oif"], IPv4Address(hop.get("RTA_GATEWAY"))
    if route.get("RTA_GATEWAY"):
        yield route.get("RTA_OIF"), IPv4Address(route.get("RTA_GATEWAY"))


def dumped(table: int = 254) -> list[Message]:
    dump = netlink.Dump()
    try:
        return [*dump.links_and_neighbors(), *dump.routes(table)]
    finally:
        dump.close()


def test_a_dump_is_what_pyroute2_reads(routed: str) -> None:
    for table in (254, 1000):
        found = dumped(table)
        assert known_to_it(found) == by_pyroute2(table)
        assert len(found) == len(set(found))
    objects = {str(m.prefix): m.nexthop for m in dumped() if isinstance(m, Route) and m.nexthop}
    assert objects == {"10.7.0.0/16": 7}
    multipath = next(m for m in dumped() if isinstance(m, Route) and m.prefix == IPv4Network("10.0.0.1/32"))
    assert (multipath.metric, len(multipath.hops)) == (32, 2)
    assert {str(m.prefix) for m in dumped(1000) if isinstance(m, Route)} == {"100.0.0.0/8"}


class Cutting:
    """A netlink socket whose first answer the kernel says is cut into by changes."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.asked = 0

    def send(self, data: bytes) -> int:
        self.asked += 1
        return self._real.send(data)

    def recv(self, size: int) -> bytes:
        data = bytearray(self._real.recv(size))
        if self.asked == 1:
            data[6] |= 0x10  # NLM_F_DUMP_INTR
        return bytes(data)


def test_a_list_that_changes_cut_into_is_asked_for_again(
    routed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = netlink.Dump()
    cutting = Cutting(dump._socket)
    with monkeypatch.context() as patched:
        patched.setattr(dump, "_socket", cutting)
        found = dump.routes(254)
    dump.close()
    assert cutting.asked == 2
    assert len(found) == len(set(found)) and known_to_it(found) <= by_pyroute2()
    assert len([message for message in found if isinstance(message, Route)]) == len(found) > 4


def test_the_kernel_finds_nothing_wrong_with_what_it_is_asked(routed: str) -> None:
    before = kernel_log()
    dumped()
    assert [line for line in kernel_log()[len(before) :] if "leftover" in line or "netlink" in line] == []


def kernel_log() -> list[str]:
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout.splitlines()


def test_changes_are_told_in_their_order(routed: str) -> None:
    events = netlink.Events()
    try:
        assert list(events.receive()) == []
        ip("route add 10.9.0.0/16 via 172.31.0.1", routed)
        ip("route replace blackhole 10.9.0.0/16", routed)
        ip("route del 10.9.0.0/16", routed)
        ip("neigh del 172.31.0.1 dev one", routed)
        ip("link set two down", routed)
        index = socket.if_nametoindex("one")
        found: list[Message] = []
        while Link(index, False, True) not in found:
            assert select.select([events], [], [], 5)[0], f"no loss of carrier among {found}"
            found += events.receive()
        gateway = (index, IPv4Address("172.31.0.1"))
        prefix = IPv4Network("10.9.0.0/16")
        changes = [message for message in found if isinstance(message, Route) and message.prefix == prefix]
        assert [(c.new, c.hops, c.kind, c.replaces) for c in changes] == [
            (True, (gateway,), UNICAST, False),
            (True, (), 6, True),
            (False, (), 6, False),
        ]
        assert Neighbor(index, IPv4Address("172.31.0.1"), None) in found
    finally:
        events.close()


def test_changes_are_as_iproute2_shows_them(namespace: str) -> None:
    vip, far = IPv4Address("10.0.0.1"), IPv4Network("100.1.0.0/16")
    with closing(Changes()) as changes:
        changes.add_blackhole(vip, 100)
        with pytest.raises(RefusedError) as again:
            changes.add_blackhole(vip, 100)
        (route,) = json.loads(ip("-j -N route show table 100", namespace))
        assert (again.value.errno, route) == (
            errno.EEXIST,
            {"type": "6", "dst": str(vip), "protocol": "201", "flags": []},
        )
        changes.delete_blackhole(vip, 100)
        with pytest.raises(RefusedError) as gone:
            changes.delete_blackhole(vip, 100)
        assert (gone.value.errno, ip("route show table 100", namespace)) == (errno.ESRCH, "")
        index = socket.if_nametoindex("two")
        for gateway in (PEERS["two"], IPv4Address("192.0.2.7")):
            changes.replace_route(far, gateway, index, 1000)
            (route,) = json.loads(ip("-j -N route show table 1000", namespace))
            assert route == {
                "dst": str(far),
                "gateway": str(gateway),
                "dev": "two",
                "protocol": "201",
                "flags": ["onlink"],
            }
        changes.replace_neighbor(index, PEERS["two"])
        assert "managed extern_learn" in ip(f"neigh show {PEERS['two']} dev two", namespace)
        changes.delete_neighbor(index, PEERS["two"])
        assert "managed" not in ip(f"neigh show {PEERS['two']} dev two", namespace)


def mirror(receive_buffer: int) -> Kernel:
    ports = tuple(
        PortConfig(
            number=number,
            interface=name,
            mac=f"02:00:00:00:00:0{number}",
            address=ENDS[name],
            peer=PEERS[name],
            mtu=1500,
        )
        for number, name in enumerate(ENDS, 1)
    )
    space = (PrefixRange(network=IPv4Network("10.0.0.0/8"), shortest=8, longest=32),)
    config = SwitchConfig(
        name="sw",
        state_dir=Path("/nonexistent"),
        listen=IPv4Address("127.0.0.1"),
        insecure=True,
        p4=P4Config(address="unix:/nonexistent"),
        address=IPv4Address("172.30.0.1"),
        ports=ports,
        bird=BirdConfig(router_id=IPv4Address("172.30.0.1"), asn=1, neighbors=(), space=space),
        seed=0,
    )
    indices = {socket.if_nametoindex(name): number for number, name in enumerate(ENDS, 1)}
    return Kernel(config, indices, receive_buffer)


def wanted_targets() -> dict[IPv4Network, Target]:
    """Return where the kernel sends each prefix, by pyroute2: its first route of the least metric."""
    ports = {socket.if_nametoindex(name): number for number, name in enumerate(ENDS, 1)}
    found: dict[IPv4Network, Target] = {}
    best: dict[IPv4Network, int] = {}
    with IPRoute() as library:
        for route in library.get_routes(family=socket.AF_INET, table=254):
            prefix = IPv4Network((route.get("RTA_DST") or 0, route["dst_len"]))
            metric = route.get("RTA_PRIORITY") or 0
            if prefix in best and best[prefix] <= metric:
                continue
            best[prefix] = metric
            found.pop(prefix, None)
            gateways = frozenset(Gateway(ports[index], address) for index, address in hops(route))
            if route["type"] == UNICAST and gateways:
                found[prefix] = gateways
    return found


def test_a_route_over_a_link_that_is_down_is_known_before_the_link_comes_up(namespace: str) -> None:
    """The kernel calls its hop dead, and does not tell when it lives again."""

    async def run() -> None:
        with closing(Changes()) as routing:
            kernel = mirror(16 << 20)
            try:
                await kernel.start(routing)
                gateways = frozenset({Gateway(1, IPv4Address("172.31.0.1"))})
                for command in ("link set two down", "route add 10.3.0.0/16 via 172.31.0.1 dev one onlink"):
                    ip(command, namespace)
                async with asyncio.timeout(5):
                    while kernel.carrier[1] or not kernel.target(IPv4Network("10.3.0.0/16")):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                assert kernel.target(IPv4Network("10.3.0.0/16")) == gateways
            finally:
                kernel.stop()

    Path("/proc/sys/net/ipv4/conf/one/ignore_routes_with_linkdown").write_text("1")
    asyncio.run(run())


@pytest.mark.parametrize(
    ("there", "meanwhile", "then"),
    [
        ((), ("replace 10.9.0.0/16 via {one}",), "del 10.9.0.0/16"),
        ((), ("add 10.9.0.0/16 via {one}", "prepend 10.9.0.0/16 via {two}"), "del 10.9.0.0/16 via {two}"),
        (
            ("add 10.9.0.0/16 via {one}", "append 10.9.0.0/16 via {two}"),
            ("replace blackhole 10.9.0.0/16", "del blackhole 10.9.0.0/16"),
            "add 10.8.0.0/16 via {one}",
        ),
    ],
)
def test_what_is_told_while_routes_are_listed_counts_once(
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    meanwhile: tuple[str, ...],
    then: str,
) -> None:
    """A change between the agent's question and the kernel's list is in both."""

    def change(commands: tuple[str, ...]) -> None:
        for command in commands:
            ip(f"route {command.format_map(PEERS)}", namespace)

    async def run() -> None:
        with closing(Changes()) as routing:
            kernel = mirror(16 << 20)
            change(there)
            listed = netlink.Dump.routes
            changes = [meanwhile]

            def routes(dump: netlink.Dump, table: int) -> list[Message]:
                while changes:
                    change(changes.pop())
                return listed(dump, table)

            monkeypatch.setattr(netlink.Dump, "routes", routes)
            await kernel.start(routing)
            following = asyncio.create_task(kernel.follow())
            try:
                change((then,))
                wanted = await asyncio.to_thread(wanted_targets)
                async with asyncio.timeout(5):
                    while held_targets(kernel) != wanted:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            finally:
                following.cancel()
                kernel.stop()

    asyncio.run(run())


OBJECTS = (
    "nexthop add id 1 via {one} dev one",
    "nexthop add id 2 via {two} dev two",
    "nexthop add id 10 group 1/2,3",
    "nexthop add id 11 blackhole",
    "route add 10.1.0.0/16 nhid 1",
    "route add 10.2.0.0/16 nhid 10",
    "route add 10.3.0.0/16 nhid 11 metric 5",
    "route add 10.3.0.0/16 via {one} metric 9",
    "route add 10.4.0.0/16 nhid 2",
    "nexthop replace id 1 via {two} dev two",
    "nexthop del id 11",
    "route replace 10.1.0.0/16 nhid 10",
    "nexthop replace id 1 via {one} dev one",
    "route append 10.1.0.0/16 nhid 2",
    "nexthop replace id 2 via 172.31.0.9 dev two onlink",
    "nexthop del id 2",
    "nexthop del id 1",
    "nexthop add id 3 via {one} dev one",
    "route add 10.5.0.0/16 nhid 3",
    "link set two down",
)
"""Of most of what nexthop objects do to routes, the kernel tells nothing but that the object is another."""


def test_routes_by_nexthop_objects_are_followed(namespace: str) -> None:
    async def run() -> None:
        with closing(Changes()) as routing:
            kernel = mirror(16 << 20)
            await kernel.start(routing)
            following = asyncio.create_task(kernel.follow())
            try:
                for command in OBJECTS:
                    ip(command.format_map(PEERS), namespace)
                    wanted = await asyncio.to_thread(wanted_targets)
                    try:
                        async with asyncio.timeout(5):
                            while held_targets(kernel) != wanted:  # noqa: ASYNC110
                                await asyncio.sleep(0.01)
                    except TimeoutError:
                        pytest.fail(f"after `ip {command}`: {held_targets(kernel)}, but the kernel: {wanted}")
                    numbers[command] = len(wanted)
            finally:
                following.cancel()
                kernel.stop()

    numbers: dict[str, int] = {}
    asyncio.run(run())
    assert list(numbers.values()) == [0, 0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4, 4, 3, 1, 1, 2, 1]


def held_targets(kernel: Kernel) -> dict[IPv4Network, Target]:
    fixed = {prefix for prefix in kernel.prefixes() if str(prefix).startswith("172.")}
    return {p: t for p in kernel.prefixes() - fixed if (t := kernel.target(p)) is not None}


STORM_S = 180.0
"""How long a busy machine may take to tell of a storm."""


def storm(rng: random.Random, count: int, prefixes: int) -> str:
    lines = []
    via = (f"via {PEERS['one']} dev one", f"via {PEERS['two']} dev two")
    both = f"nexthop {via[0]} nexthop {via[1]} weight {rng.randint(1, 9)}"
    for _ in range(count):
        prefix = f"10.{rng.randrange(prefixes) >> 8}.{rng.randrange(256)}.0/24"
        verb = rng.choice(("add", "add", "replace", "replace", "append", "prepend", "del", "del"))
        metric = f"metric {rng.choice((0, 0, 0, 32, 64))}"
        if verb != "del" and rng.random() < 0.1:
            lines.append(f"route {verb} {rng.choice(('blackhole', 'unreachable'))} {prefix} {metric}")
        else:
            where = "" if verb == "del" else rng.choice((*via, both))
            lines.append(f"route {verb} {prefix} {metric} {where}")
    return "\n".join(lines)


@pytest.mark.parametrize(("receive_buffer", "count"), [(16 << 20, 100_000), (16 << 10, 30_000)])
def test_a_storm_of_changes_ends_as_the_kernel_has_it(
    namespace: str, receive_buffer: int, count: int
) -> None:
    """A small buffer with a slow reader overruns again and again; then what was lost is read anew."""
    rng = random.Random(count)

    async def run() -> None:
        with closing(Changes()) as routing:
            kernel = mirror(receive_buffer)
            await kernel.start(routing)
            following = asyncio.create_task(kernel.follow())
            told: set[IPv4Network] = set()
            slow_s = 0.002 if receive_buffer < 1 << 20 else 0.0

            def note(prefixes: set[IPv4Network], gateways: set[Gateway]) -> None:
                told.update(prefixes)
                time.sleep(slow_s)

            kernel.on_change = note
            try:
                for _ in range(2):
                    batch = await asyncio.create_subprocess_exec(
                        *("ip", "-n", namespace, "-force", "-batch", "-"),
                        stdin=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                    )
                    await batch.communicate(storm(rng, count // 2, 2048).encode())
                    await at_rest(kernel)
                    wanted = await asyncio.to_thread(wanted_targets)
                    assert held_targets(kernel) == wanted
                    assert len(wanted) > 100 and set(wanted) <= told
                print(f"{kernel.resyncs} times read anew")
                # A machine that is busy enough loses events of the large buffer, too: no difference.
                assert kernel.resyncs > 1 or receive_buffer > 1 << 20
            finally:
                following.cancel()
                kernel.stop()

    async def at_rest(kernel: Kernel) -> None:
        """Wait until everything that was told is taken: a change of our own has come through."""
        marks = ("10.255.255.0/24", "10.255.254.0/24")
        for mark in marks:
            ip(f"route replace {mark} via {PEERS['one']} dev one", namespace)
        async with asyncio.timeout(STORM_S):
            while any(kernel.target(IPv4Network(mark)) is None for mark in marks):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for mark in marks:
            ip(f"route del {mark}", namespace)
        async with asyncio.timeout(STORM_S):
            while any(kernel.target(IPv4Network(mark)) is not None for mark in marks):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(run())
