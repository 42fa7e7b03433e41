"""Real clients, real servers, real packets: SMux and host agents between them."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from scipy.stats import chisquare

from duet_p4.api.host import HostVip, Snat
from duet_p4.bpf import libbpf
from duet_p4.flow_hash import Flow, flow_hash
from duet_p4.host_agent.config import HostConfig, SnatTimeouts
from duet_p4.host_agent.connections import live_connections
from duet_p4.host_agent.service import HostService
from duet_p4.model import ANYBODY, Dip, Group, MuxTip, MuxVip, PinnedFlow, Vip
from duet_p4.term import Terms
from tests.integration.balanced import (
    CLIENT,
    DIPS,
    ECHO,
    HTTP,
    MUX,
    REMOTE,
    UPLINK,
    Balanced,
    balanced,
    run,
)
from tests.integration.kernels import before_tcx
from tests.integration.netns import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and eBPF"),
]
ALL = (*DIPS["server1"], *DIPS["server2"])
TIMEOUT_S = 5.0
LARGE = 3000


@pytest.fixture(scope="module")
def network() -> Iterator[Balanced]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with balanced() as made:
        yield made
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def client(network: Balanced) -> Iterator[Balanced]:
    """The network, with the test running at the client."""
    with inside(network.client):
        yield network


class Connection:
    """An HTTP connection that stays open; each request says which DIP answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, vip: str) -> "Connection":
        async with asyncio.timeout(TIMEOUT_S):
            return cls(*await asyncio.open_connection(vip, HTTP))

    async def get(self, path: str = "/") -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            self.writer.write(f"GET {path} HTTP/1.1\r\nHost: vip\r\n\r\n".encode())
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            assert head.startswith("HTTP/1.1 200"), head
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            return await self.reader.readexactly(length)

    async def dip(self) -> IPv4Address:
        return IPv4Address(json.loads(await self.get())["dip"])

    @property
    def port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])


def udp(timeout: float = TIMEOUT_S) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(timeout)
    return made


def test_http_is_answered_by_every_dip_in_its_share(client: Balanced) -> None:
    vip = client.put_vip("10.0.0.1", ALL)
    assert vip.group

    async def ask() -> list[tuple[int, IPv4Address]]:
        connections = [await Connection.open("10.0.0.1") for _ in range(600)]
        found = [(connection.port, await connection.dip()) for connection in connections]
        for connection in connections:
            connection.writer.close()
        return found

    found = asyncio.run(ask())
    for port, dip in found:
        expected = vip.group.member(flow_hash(Flow(CLIENT, vip.address, 6, port, HTTP))).address
        assert dip == expected, f"port {port} expected at {expected}, answered by {dip}"
    shares = Counter(dip for _, dip in found)
    assert set(shares) == set(ALL)
    assert chisquare([shares[dip] for dip in ALL]).pvalue > 1e-4, shares


def test_a_thousand_connections_at_once(client: Balanced) -> None:
    client.put_vip("10.0.0.2", ALL)

    async def ask() -> int:
        connections = await asyncio.gather(*(Connection.open("10.0.0.2") for _ in range(1000)))
        for _ in range(2):
            await asyncio.gather(*(connection.dip() for connection in connections))
        for connection in connections:
            connection.writer.close()
        return len(connections)

    assert asyncio.run(ask()) == 1000


def test_udp_comes_back_from_the_vip(client: Balanced) -> None:
    client.put_vip("10.0.0.3", ALL)
    answered = set()
    for number in range(40):
        with udp() as sock:
            sock.sendto(f"hello {number}".encode(), ("10.0.0.3", ECHO))
            data, sender = sock.recvfrom(2048)
        assert sender == ("10.0.0.3", ECHO)
        dip, _, rest = data.decode().partition(" ")
        assert rest == f"hello {number}"
        answered.add(IPv4Address(dip))
    assert len(answered) > 3


def test_ping_is_answered_by_the_vip(client: Balanced) -> None:
    client.put_vip("10.0.0.4", ALL)
    printed = run(client.client, "ping", "-c", "5", "-i", "0.02", "-W", "2", "10.0.0.4")
    assert "5 received" in printed and "bytes from 10.0.0.4" in printed, printed


def test_several_vips_of_one_dip_are_told_apart(client: Balanced) -> None:
    for vip in ("10.0.0.5", "10.0.0.6"):
        client.put_vip(vip, ALL[:1])
    for vip in ("10.0.0.5", "10.0.0.6", "10.0.0.5"):
        with udp() as sock:
            sock.sendto(b"x", (vip, ECHO))
            assert sock.recvfrom(2048)[1] == (vip, ECHO)


def test_a_client_connects_to_two_vips_of_one_dip_from_one_port(client: Balanced) -> None:
    vips = ("10.0.0.40", "10.0.0.41")
    for vip in vips:
        client.put_vip(vip, ALL[:1])

    def connect(vip: str, port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(CLIENT), port))
        made.settimeout(TIMEOUT_S)
        made.connect((vip, HTTP))
        return made

    def port_at_dip(sock: socket.socket, *fields: str) -> int:
        sock.sendall("\r\n".join(("GET / HTTP/1.1", "Host: vip", *fields, "", "")).encode())
        return int(json.loads(sock.recv(4096).partition(b"\r\n\r\n")[2])["client"].partition(":")[2])

    with connect(vips[0], 23_456) as first, connect(vips[1], 23_456) as second:
        ports = [port_at_dip(sock) for sock in (first, second, first, second)]
    assert ports[:2] == ports[2:] and ports[0] == 23_456 != ports[1]
    for vip in (*vips, *vips):
        # One after the other, each ended by the server: it waits a minute for what may be left of it.
        with connect(vip, 23_457) as again:
            port_at_dip(again, "Connection: close")
            assert not again.recv(100)


def test_a_large_vip_is_spread_over_both_levels(client: Balanced) -> None:
    for number, dips in enumerate((ALL[:3], ALL[3:]), start=1):
        group = Group.of(tuple(Dip(address=dip) for dip in dips))
        client.mux.put_tip(MuxTip(address=f"20.0.0.{number}", group=group))
    tips = tuple(Dip(address=f"20.0.0.{number}") for number in (1, 2))
    client.put_vip("10.0.0.7", ALL, group=Group.of(tips))

    async def ask() -> Counter[IPv4Address]:
        shares: Counter[IPv4Address] = Counter()
        for _ in range(300):
            connection = await Connection.open("10.0.0.7")
            shares[await connection.dip()] += 1
            connection.writer.close()
        return shares

    shares = asyncio.run(ask())
    assert set(shares) == set(ALL)
    assert chisquare([shares[dip] for dip in ALL]).pvalue > 1e-4, shares


def test_full_packets_and_bulk_data_fit(client: Balanced) -> None:
    client.put_vip("10.0.0.8", ALL)
    printed = run(client.client, "ping", "-c", "2", "-i", "0.02", "-M", "do", "-s", "1472", "10.0.0.8")
    assert "2 received" in printed, printed

    async def load() -> int:
        connection = await Connection.open("10.0.0.8")
        body = await connection.get("/bytes/3000000")
        connection.writer.close()
        return len(body)

    assert asyncio.run(load()) == 3_000_000


def test_fragmented_datagrams_go_both_ways(client: Balanced) -> None:
    client.put_vip("10.0.0.9", ALL)
    payload = os.urandom(4000)
    with udp() as sock:
        sock.sendto(payload, ("10.0.0.9", ECHO))
        data, sender = sock.recvfrom(8192)
    assert sender == ("10.0.0.9", ECHO)
    assert data.partition(b" ")[2] == payload


def test_removing_a_dip_leaves_other_connections_alone(client: Balanced) -> None:
    vip = client.put_vip("10.0.0.10", ALL)
    assert vip.group

    async def live() -> None:
        connections = [await Connection.open("10.0.0.10") for _ in range(120)]
        before = [await connection.dip() for connection in connections]
        gone = ALL[2]
        assert gone in before
        assert vip.group
        rest = tuple(dip for dip in vip.group.members if dip.address != gone)
        client.mux.put_vip(MuxVip(address="10.0.0.10", group=vip.group.updated(rest)))
        for connection, dip in zip(connections, before, strict=True):
            if dip == gone:
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await connection.dip()
            else:
                assert await connection.dip() == dip
            connection.writer.close()
        for _ in range(50):
            connection = await Connection.open("10.0.0.10")
            assert await connection.dip() != gone
            connection.writer.close()

    asyncio.run(live())


def test_connections_survive_the_addition_of_a_dip(client: Balanced) -> None:
    vip = client.put_vip("10.0.0.11", ALL[:4])
    assert vip.group

    async def live() -> None:
        connections = [await Connection.open("10.0.0.11") for _ in range(100)]
        before = [await connection.dip() for connection in connections]
        assert vip.group
        grown = vip.group.updated((*vip.group.members, Dip(address=ALL[4]), Dip(address=ALL[5])))
        client.put_vip("10.0.0.11", ALL, group=grown)
        after = [await connection.dip() for connection in connections]
        assert after == before
        new = [await Connection.open("10.0.0.11") for _ in range(100)]
        assert {ALL[4], ALL[5]} <= {await connection.dip() for connection in new}
        for connection in (*connections, *new):
            connection.writer.close()

    asyncio.run(live())


def test_an_error_of_the_server_is_told_by_the_vip(client: Balanced) -> None:
    client.put_vip("10.0.0.12", ALL)
    with udp() as sock:
        sock.connect(("10.0.0.12", 9))
        sock.send(b"to a closed port")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_fragmentation_needed_reaches_the_server_behind_the_vip(client: Balanced) -> None:
    """A link on the way back shrinks: the server must learn of it although it sends as the VIP."""
    client.put_vip("10.0.0.13", ALL[:1])
    run(client.tor, "ip", "link", "set", "tc", "mtu", "1300")
    try:

        async def load() -> int:
            connection = await Connection.open("10.0.0.13")
            return len(await connection.get("/bytes/200000"))

        assert asyncio.run(load()) == 200_000
    finally:
        run(client.tor, "ip", "link", "set", "tc", "mtu", "1500")
    routes = run(client.servers["server1"], "ip", "route", "get", str(CLIENT), "from", str(ALL[0]))
    assert "mtu 1300" in routes, routes
    run(client.servers["server1"], "ip", "route", "flush", "cache")


def test_meters_count_both_directions(client: Balanced) -> None:
    client.put_vip("10.0.0.14", ALL[:1])
    host = client.hosts["server1"]

    def meter() -> tuple[int, int, int, int]:
        found = next(m for m in host.meters() if m.vip == IPv4Address("10.0.0.14"))
        return found.packets_in, found.bytes_in, found.packets_out, found.bytes_out

    before = meter()
    with udp() as sock:
        for _ in range(10):
            sock.sendto(bytes(100), ("10.0.0.14", ECHO))
            answer = sock.recv(2048)
        flow = Flow(CLIENT, ALL[0], 17, sock.getsockname()[1], ECHO)
    assert host.origin(flow) == (IPv4Address("10.0.0.14"), ECHO)
    grown = tuple(after - old for after, old in zip(meter(), before, strict=True))
    headers = 14 + 20 + 8
    assert grown == (10, 10 * (100 + headers), 10, 10 * (len(answer) + headers))
    source = next(s for s in host.sources() if s.vip == IPv4Address("10.0.0.14"))
    assert (source.dip, source.source, source.packets) == (ALL[0], IPv4Address("192.0.2.0"), 10)


def test_a_direct_connection_to_a_dip_is_left_alone(client: Balanced) -> None:
    client.put_vip("10.0.0.15", ALL)
    with udp() as sock:
        sock.sendto(b"direct", (str(ALL[0]), ECHO))
        assert sock.recvfrom(2048)[1] == (str(ALL[0]), ECHO)


def test_a_dip_is_a_client_of_its_own_vip(network: Balanced) -> None:
    """Of itself, of another DIP of its server, and of others: by TCP, and by UDP."""
    network.put_vip("10.0.0.16", ALL)

    async def ask(number: int) -> IPv4Address:
        reader, writer = await asyncio.open_connection(
            "10.0.0.16", HTTP, local_addr=(str(ALL[number % 3]), 0)
        )
        connection = Connection(reader, writer)
        dip = await connection.dip()
        assert len(await connection.get("/bytes/100000")) == 100_000
        writer.close()
        return dip

    async def all_of_them() -> list[IPv4Address]:
        return [await ask(number) for number in range(60)]

    with inside(network.servers["server1"]):
        assert set(asyncio.run(all_of_them())) == set(ALL)
        answered = set()
        for _ in range(60):
            with udp() as sock:
                sock.bind((str(ALL[0]), 0))
                sock.sendto(b"hello", ("10.0.0.16", ECHO))
                data, sender = sock.recvfrom(2048)
            assert sender == ("10.0.0.16", ECHO)
            answered.add(IPv4Address(data.decode().split()[0]))
            with udp() as sock:
                sock.bind((str(ALL[0]), 0))
                sock.sendto(bytes(LARGE), ("10.0.0.16", ECHO))
                data, sender = sock.recvfrom(2 * LARGE)
            assert (sender, len(data)) == (("10.0.0.16", ECHO), len(f"{ALL[0]} ") + LARGE), "fragments"
    assert answered == set(ALL)
    assert network.hosts["server1"].exits()["OUT_HAIRPIN"].packets > 0


def test_live_flows_are_of_tcp_and_udp_and_of_their_vip_only(client: Balanced) -> None:
    vip = client.put_vip("10.0.0.17", ALL[:1])
    host = client.hosts["server1"]

    async def connect() -> Connection:
        connection = await Connection.open("10.0.0.17")
        await connection.dip()
        return connection

    async def live() -> None:
        through, direct = await connect(), await Connection.open(str(ALL[0]))
        await direct.dip()
        with udp() as sock:
            sock.sendto(b"x", ("10.0.0.17", ECHO))
            sock.recv(100)
            with inside(client.servers["server1"]):
                flows = list(host.live_flows(live_connections()))
            assert all(0 <= idle_s < TIMEOUT_S for (_, idle_s), _, _ in flows)
            found = {
                (f.protocol, f.source, f.source_port, f.destination, vip_, port)
                for (f, _), vip_, port in flows
            }
            for protocol, own, port in ((6, through.port, HTTP), (17, sock.getsockname()[1], ECHO)):
                assert (protocol, CLIENT, own, ALL[0], vip.address, port) in found
            assert direct.port not in {f.source_port for (f, _), _, _ in flows}
        for connection in (through, direct):
            connection.writer.close()

    asyncio.run(live())


@contextlib.contextmanager
def listening(kind: socket.SocketKind, port: int) -> Iterator[socket.socket]:
    """A server outside: it sees who connects."""
    with socket.socket(socket.AF_INET, kind) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(REMOTE), port))
        if kind == socket.SOCK_STREAM:
            made.listen(256)
        made.settimeout(TIMEOUT_S)
        yield made


@pytest.fixture
def snat() -> Iterator[tuple[Balanced, MuxVip]]:
    """A network of its own whose DIPs do SNAT, each with a share of the VIP's slots."""
    with balanced(snat_exclude=[IPv4Network("172.31.0.0/16")]) as made:
        group = Group.of(tuple(Dip(address=dip) for dip in ALL))
        vip = made.put_vip("10.0.0.20", ALL, group=group, snat=Snat(first_port=40_000))
        yield made, vip


def test_snat_leaves_as_the_vip_by_a_port_that_hashes_home(snat: tuple[Balanced, MuxVip]) -> None:
    network, vip = snat
    assert vip.group
    mux_before = network.mux.service_traffic()
    with inside(network.client), listening(socket.SOCK_STREAM, 8080) as server:
        for name in ("server1", "server2"):
            for dip in DIPS[name]:
                for _ in range(5):
                    with inside(network.servers[name]):
                        out = socket.socket()
                        out.settimeout(TIMEOUT_S)
                        out.bind((str(dip), 0))
                        out.connect((str(REMOTE), 8080))
                    peer, (address, port) = server.accept()
                    assert IPv4Address(address) == vip.address
                    assert 40_000 <= port <= 65_535
                    home = vip.group.member(flow_hash(Flow(REMOTE, vip.address, 6, 8080, port))).address
                    assert home == dip, f"port {port} of {dip} hashes to {home}"
                    at_dip = Flow(REMOTE, dip, 6, 8080, out.getsockname()[1])
                    with inside(network.servers[name]):
                        assert at_dip in {connection.flow for connection in live_connections()}
                    assert network.hosts[name].origin(at_dip) == (vip.address, port)
                    peer.sendall(b"welcome")
                    assert out.recv(100) == b"welcome"
                    out.sendall(b"thanks")
                    assert peer.recv(100) == b"thanks"
                    out.close()
                    peer.close()
    assert network.mux.service_traffic() != mux_before, "answers come through the mux"


def test_snat_of_udp_and_ping(snat: tuple[Balanced, MuxVip]) -> None:
    network, vip = snat
    with inside(network.client), listening(socket.SOCK_DGRAM, 5353) as server:
        with inside(network.servers["server1"]):
            out = udp()
            out.bind((str(ALL[1]), 5000))
        for number in range(3):
            out.sendto(f"question {number}".encode(), (str(REMOTE), 5353))
            data, peer = server.recvfrom(100)
            assert data == f"question {number}".encode()
            assert IPv4Address(peer[0]) == vip.address
            server.sendto(b"answer", peer)
            assert out.recvfrom(100) == (b"answer", (str(REMOTE), 5353))
        out.close()
    namespace = network.servers["server2"]
    printed = run(namespace, "ping", "-c", "3", "-i", "0.02", "-W", "2", "-I", str(ALL[4]), str(REMOTE))
    assert "3 received" in printed, printed


def test_snat_reports_errors_of_the_way_and_the_far_end(snat: tuple[Balanced, MuxVip]) -> None:
    network, _ = snat
    with inside(network.servers["server1"]), udp() as out:
        out.bind((str(ALL[0]), 0))
        out.connect((str(REMOTE), 9))
        out.send(b"to a closed port")
        with pytest.raises(ConnectionRefusedError):
            out.recv(100)


def test_snat_spares_excluded_destinations_and_replies(snat: tuple[Balanced, MuxVip]) -> None:
    network, _ = snat
    run(network.servers["server1"], "ping", "-c", "1", "-W", "2", "-I", str(ALL[0]), "172.31.0.1")
    assert network.hosts["server1"].snat_connections() == 0
    with inside(network.client), udp() as sock:
        sock.sendto(b"direct", (str(ALL[0]), ECHO))
        assert sock.recvfrom(2048)[1] == (str(ALL[0]), ECHO)
        sock.sendto(b"by the VIP", ("10.0.0.20", ECHO))
        assert sock.recvfrom(2048)[1] == ("10.0.0.20", ECHO)
    assert network.hosts["server1"].snat_connections() == 0


def test_snat_forgets_idle_connections(snat: tuple[Balanced, MuxVip]) -> None:
    network, _ = snat
    host = network.hosts["server1"]
    with inside(network.servers["server1"]), udp() as out:
        out.bind((str(ALL[0]), 0))
        for port in range(1, 6):
            out.sendto(b"x", (str(REMOTE), port))
    assert host.snat_connections() == 5
    assert host.forget(host.idle(SnatTimeouts())) == 0
    assert host.forget(host.idle(SnatTimeouts.model_construct(tcp=0, transitory=0, udp=-1, icmp=-1))) == 5
    assert host.snat_connections() == 0


def test_a_dip_without_slots_connects_out_as_itself(snat: tuple[Balanced, MuxVip]) -> None:
    network, vip = snat
    assert vip.group
    drained = vip.group.updated(
        tuple(dip.model_copy(update={"weight": int(dip.address != ALL[0])}) for dip in vip.group.members)
    )
    network.put_vip("10.0.0.20", ALL, group=drained, snat=Snat(first_port=40_000))
    with inside(network.client), listening(socket.SOCK_STREAM, 8080) as server:
        with inside(network.servers["server1"]):
            out = socket.socket()
            out.settimeout(TIMEOUT_S)
            out.bind((str(ALL[0]), 0))
            out.connect((str(REMOTE), 8080))
        peer, (address, _) = server.accept()
        assert IPv4Address(address) == ALL[0]
        peer.sendall(b"welcome")
        assert out.recv(100) == b"welcome"
        out.close()
        peer.close()
    assert network.hosts["server1"].exits()["OUT_OWN"].packets == 1


def test_snat_without_a_port_left_says_so(snat: tuple[Balanced, MuxVip], tmp_path: Path) -> None:
    network, vip = snat
    host = network.hosts["server1"]
    config = HostConfig(
        name="server1",
        interfaces=(UPLINK,),
        muxes=ANYBODY,
        state_dir=tmp_path,
        listen=IPv4Address("127.0.0.1"),
        insecure=True,
    )
    # One port, and each slot that it may hash to is another's for one peer or the other.
    network.put_vip("10.0.0.20", ALL, group=vip.group, snat=Snat(first_port=65_535))

    async def connect_out() -> tuple[str, str]:
        service = HostService(config, host, Terms(tmp_path / "term"))
        before = service.problem
        with udp() as out:
            out.bind((str(ALL[0]), 0))
            for port in range(1, 61):
                out.sendto(b"x", (str(REMOTE), port))
        await service.expire()
        after = service.problem
        await service.close()
        return before, after

    with inside(network.servers["server1"]):
        before, after = asyncio.run(connect_out())
    assert before == ""
    assert "find no free port" in after and f"DIP {ALL[0]} to {REMOTE}:" in after, after
    full = host.exits()["DROP_SNAT_FULL"].packets
    assert 30 < full < 60, f"{full} of 60 found no port: a sixth or so hashes home"
    told = host.exhausted(within_s=60.0)
    assert len(told) == full and {(one.dip, one.remote) for one in told} == {(ALL[0], REMOTE)}
    assert str(told[0]) == f"DIP {ALL[0]} to {REMOTE}:{told[0].port} (udp)"
    assert host.exhausted(within_s=-60.0) == []


def test_snat_of_fragmented_datagrams_goes_both_ways(snat: tuple[Balanced, MuxVip]) -> None:
    network, vip = snat
    question, answer = os.urandom(4000), os.urandom(4000)
    with inside(network.client), listening(socket.SOCK_DGRAM, 5354) as server:
        with inside(network.servers["server1"]):
            out = udp()
            out.bind((str(ALL[1]), 5000))
        out.sendto(question, (str(REMOTE), 5354))
        data, peer = server.recvfrom(8192)
        assert (data, IPv4Address(peer[0])) == (question, vip.address)
        server.sendto(answer, peer)
        assert out.recv(8192) == answer
        out.close()


def test_virtual_machines_behind_a_host_share_its_tunnel(client: Balanced) -> None:
    """Muxes tunnel to the host, which picks the DIP by the same slots: weights hold, drained is drained."""
    host = ALL[0]
    weights = {ALL[1]: 3, ALL[2]: 1, ALL[3]: 2}
    dips = tuple(
        Dip(address=dip, weight=weight, host=host if dip in DIPS["server1"] else None)
        for dip, weight in weights.items()
    )
    group = Group.of(dips)

    def put(group: Group, pinned: tuple[PinnedFlow, ...] = ()) -> None:
        vip = Vip(address="10.0.0.30", dips=group.members)
        held = MuxVip(address="10.0.0.30", group=group, pinned=pinned)
        names = {dip: name for name, own in DIPS.items() for dip in own}
        client.mux.put_vip(held)
        for name, share in HostVip.spread(vip, held, (), lambda dip: names.get(dip.encap)).items():
            client.hosts[name].put_vip(share)

    def ask(sock: socket.socket) -> IPv4Address:
        sock.sendto(b"who", ("10.0.0.30", ECHO))
        data, sender = sock.recvfrom(100)
        assert sender == ("10.0.0.30", ECHO)
        return IPv4Address(data.decode().split()[0])

    put(group)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(udp()) for _ in range(120)]
        before = [ask(sock) for sock in sockets]
        for sock, dip in zip(sockets, before, strict=True):
            flow = Flow(CLIENT, IPv4Address("10.0.0.30"), 17, sock.getsockname()[1], ECHO)
            assert dip == group.member(flow_hash(flow)).address
        for sock in sockets:
            ask(sock)  # With its second packet a flow is known.
        # One VM is drained: what it has it keeps, by what host and mux remember.
        left = (dip.model_copy(update={"weight": dip.weight * (dip.address != ALL[1])}) for dip in dips)
        put(group.updated(tuple(left)))
        assert [ask(sock) for sock in sockets] == before
        for _ in range(40):
            with udp() as fresh:
                assert ask(fresh) != ALL[1]


def test_a_traceroute_shows_the_smux(client: Balanced) -> None:
    client.put_vip("10.0.0.31", ALL)
    # What the ToR leaves of a TTL of 2 ends at the SMux, which says so.
    with udp() as sock, socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
        sock.sendto(b"who", ("10.0.0.31", 33_434))
        packet, (sender, _) = icmp.recvfrom(2048)
    assert sender == str(MUX)
    kind, code = struct.unpack_from("BB", packet, 20)
    assert (kind, code) == (11, 0)


def test_nothing_was_dropped_by_a_bug(network: Balanced) -> None:
    assert network.mux.exits()["DROP_INTERNAL"].packets == 0
    for host in network.hosts.values():
        counts = host.exits()
        assert counts["DROP_INTERNAL"].packets == counts["DROP_MALFORMED"].packets == 0, counts
    assert all(process.poll() is None for process in network.processes)


def test_a_host_on_a_kernel_without_tcx_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "bpf_call", before_tcx)
    with balanced() as network:
        for namespace in network.servers.values():
            assert "outbound" in run(namespace, "tc", "filter", "show", "dev", UPLINK, "egress")
        network.put_vip("10.0.0.1", ALL)

        async def ask() -> set[IPv4Address]:
            return {await (await Connection.open("10.0.0.1")).dip() for _ in range(200)}

        with inside(network.client):
            answered = asyncio.run(ask())
        assert all(answered & set(dips) for dips in DIPS.values()), f"only {answered} answered"
        for host in network.hosts.values():
            host.close()
        for namespace in network.servers.values():
            assert not run(namespace, "tc", "filter", "show", "dev", UPLINK, "egress")
