"""The SMux agent and the host agent as processes: REST, BGP, health, and what kill -9 leaves."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from duet_p4.api.changes import Change
from duet_p4.api.health import HealthReport
from duet_p4.api.host import HostDip, HostStatus, HostVip
from duet_p4.api.service import State
from duet_p4.bird.config import BirdConfig, Neighbor
from duet_p4.bird.daemon import Bird
from duet_p4.bird.policy import PrefixRange
from duet_p4.bpf import pins
from duet_p4.host_agent.config import HostConfig
from duet_p4.identity import Authority, Credentials, Identity, Role
from duet_p4.model import ANYBODY, Dip, Group, HealthCheck, HealthCheckKind, MuxTip, MuxVip
from duet_p4.rest.client import MuxClient, RefusedError, RestClient, UnreachableError
from duet_p4.smux.config import SmuxConfig
from tests.integration.balanced import FABRIC_MTU, run
from tests.integration.netns import inside, ip, link, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(
        not shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin"), reason="bird is not installed"
    ),
]
MUX = IPv4Address("172.30.0.100")
TOR_END, MUX_END = IPv4Address("172.31.0.0"), IPv4Address("172.31.0.1")
VIPS, TIPS = IPv4Network("10.0.0.0/16"), IPv4Network("20.0.0.0/24")
SPACE = (
    PrefixRange(network=VIPS, shortest=16, longest=32),
    PrefixRange(network=TIPS, shortest=24, longest=32),
    PrefixRange(network=IPv4Network("172.30.0.0/16"), shortest=32, longest=32),
)
HERE = IPv4Address("127.0.0.1")
URL = "https://127.0.0.1:8443"
DIP = IPv4Address("100.1.1.1")
TIMEOUT_S = 20.0


def group(*dips: str) -> Group:
    return Group.of(tuple(Dip(address=dip) for dip in dips))


async def until(check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not await check():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


class Agent:
    """An agent process in a namespace, with its log."""

    def __init__(self, module: str, namespace: str, config: Path, *options: str) -> None:
        self._command = [
            # Not `ip netns exec`: what the agent mounts must stay when it is gone.
            *("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", module),
            *("--config", str(config), *options),
        ]
        self._log = config.with_suffix(".log")
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, stdout=log)
        return self.process

    def detach(self) -> None:
        """Remove the data path that the agent has left."""
        subprocess.run([*self._command, "--detach"], check=True, timeout=TIMEOUT_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def ready(self, client: RestClient) -> None:
        async def answers() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            try:
                return (await client.health()).state is State.READY
            except UnreachableError:
                return False

        await until(answers, "the agent is ready")


def in_namespace(namespace: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with inside(namespace):
        asyncio.run(work())


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Remove what agents have left pinned."""
    yield
    for name in ("smux1", "server1"):
        pins.remove(tmp_path / name / "pins")


@pytest.fixture
def uplink() -> Iterator[list[str]]:
    """A ToR and an SMux on a link."""
    with namespaces("at", "am") as names:
        tor, smux = names
        link(tor, "eth1", smux, "eth1")
        for namespace, address in ((tor, TOR_END), (smux, MUX_END)):
            ip(f"link set eth1 mtu {FABRIC_MTU}", namespace)
            ip(f"addr add {address}/31 dev eth1", namespace)
            run(namespace, "ethtool", "-K", "eth1", "tx", "off", "gro", "on")
        run(tor, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth1.rp_filter=0")
        yield names


def neighbor(interface_local: IPv4Address, remote: IPv4Address, asn: int) -> tuple[Neighbor]:
    return (Neighbor(name="peer", interface="eth1", local=interface_local, address=remote, asn=asn),)


def certify(folder: Path) -> None:
    """Make credentials of the SMux, of an operator, and of a server."""
    authority = Authority()
    for identity in (
        Identity(Role.SMUX, "smux1"),
        Identity(Role.OPERATOR, "operator"),
        Identity(Role.SERVER, "server1"),
    ):
        authority.issue(folder / f"{identity.name}-credentials", identity, [HERE])


def client_of(folder: Path, name: str = "operator") -> MuxClient:
    return MuxClient(URL, credentials=Credentials(folder / f"{name}-credentials"))


def smux_config(tmp_path: Path, hold_s: float = 0.0) -> Path:
    certify(tmp_path)
    config = SmuxConfig(
        name="smux1",
        address=MUX,
        uplinks=("eth1",),
        announced=(VIPS, TIPS),
        muxes=ANYBODY,
        bird=BirdConfig(
            router_id=MUX,
            asn=4_200_900_001,
            neighbors=neighbor(MUX_END, TOR_END, 4_200_001_001),
            space=SPACE,
            transit=False,
        ),
        hold_s=hold_s,
        state_dir=tmp_path / "smux1",
        listen=HERE,
        credentials=tmp_path / "smux1-credentials",
    )
    path = tmp_path / "smux1.json"
    path.write_text(config.model_dump_json())
    return path


@asynccontextmanager
async def tor_bird(tor: str, directory: Path) -> AsyncIterator[Bird]:
    config = BirdConfig(
        router_id=IPv4Address("172.30.0.1"),
        asn=4_200_001_001,
        neighbors=neighbor(TOR_END, MUX_END, 4_200_900_001),
        space=SPACE,
    )
    bird = Bird(config, directory)
    with inside(tor):
        await bird.start()
    try:
        yield bird
    finally:
        await bird.stop()


async def prefixes(bird: Bird) -> set[IPv4Network]:
    return {route.prefix for route in await bird.routes() if route.via}


def test_an_smux_announces_what_it_holds_once_that_is_confirmed(uplink: list[str], tmp_path: Path) -> None:
    tor, smux = uplink
    (tmp_path / "tor").mkdir()
    vip = MuxVip(address="10.0.0.1", group=group("100.1.1.1", "100.1.1.2"))

    async def live() -> None:
        agent = Agent("duet_p4.smux", smux, smux_config(tmp_path, hold_s=600.0))
        async with (
            tor_bird(tor, tmp_path / "tor") as bird,
            client_of(tmp_path) as client,
        ):

            async def only_itself() -> bool:
                return await prefixes(bird) == {IPv4Network(MUX)}

            async def everything() -> bool:
                return await prefixes(bird) == {VIPS, TIPS, IPv4Network(MUX)}

            async def least() -> bool:
                return "BGP.local_pref: 0" in "\n".join(await bird.query(f"show route all {VIPS}"))

            async def as_good_as_others() -> bool:
                return not await least()

            try:
                await agent.ready(client)
                await until(only_itself, "its own address is announced")
                await client.put_vip(vip)
                with pytest.raises(RefusedError, match="409"):
                    await client.confirm("0" * 64)
                assert await only_itself(), "nobody has confirmed what it holds"
                assert not (await client.status()).synced
                await client.confirm((await client.digest()).digest)
                await until(everything, "it announces what it holds")
                established = {session.neighbor.name: session.since for session in await bird.sessions()}
                await client.drain(draining=True)
                await until(least, "its neighbour prefers others")
                assert await everything()

                agent.kill()
                agent.start()
                await agent.ready(client)
                assert not (await client.status()).synced
                assert await everything(), "an agent that starts again goes on announcing"
                assert await least(), "and is drained still"
                await client.drain(draining=False)
                await until(as_good_as_others, "it is as good as others again")
                assert {
                    session.neighbor.name: session.since for session in await bird.sessions()
                } == established
            finally:
                agent.kill()
                agent.detach()

    in_namespace(smux, live)


def test_an_smux_announces_holds_and_comes_back(uplink: list[str], tmp_path: Path) -> None:
    tor, smux = uplink
    (tmp_path / "tor").mkdir()
    expected = {VIPS, TIPS, IPv4Network(MUX)}
    vip = MuxVip(address="10.0.0.1", group=group("100.1.1.1", "100.1.1.2"))
    tip = MuxTip(address="20.0.0.1", group=group("100.1.1.3"))

    async def live() -> None:
        agent = Agent("duet_p4.smux", smux, smux_config(tmp_path))
        async with (
            tor_bird(tor, tmp_path / "tor") as bird,
            client_of(tmp_path) as client,
        ):

            async def announced() -> bool:
                return await prefixes(bird) == expected

            async def withdrawn() -> bool:
                return not await prefixes(bird)

            try:
                await agent.ready(client)
                await until(announced, f"{expected} are announced")
                change = await client.put_vip(vip)
                assert change.announced and change.updates > 0
                assert (await client.put_vip(vip)).updates == 0
                await client.put_tip(tip)

                with pytest.raises(RefusedError, match=r"10\.9\.0\.1 is in none of the prefixes"):
                    await client.put_vip(MuxVip(address="10.9.0.1", group=group("100.1.1.1")))
                with pytest.raises(RefusedError, match=r"20\.0\.0\.1 cannot be a VIP"):
                    await client.put_vip(MuxVip(address="20.0.0.1", group=group("100.1.1.1")))
                async with client_of(tmp_path, "server1") as stranger:
                    with pytest.raises(RefusedError, match=r"403.*server server1 may not DELETE"):
                        await stranger.delete_vip(vip.address)

                since = (await client.status()).sessions[0].since
                agent.kill()
                agent.start()
                await agent.ready(client)
                assert (await client.status()).sessions[0].since == since, "the BGP session goes on"
                assert await announced(), "whatever becomes of its agent, an SMux that forwards announces"
                assert [state.vip for state in await client.get_vips()] == [vip]
                assert [state.tip for state in await client.get_tips()] == [tip]
                status = await client.status()
                assert (status.kind, status.vips, status.tips, status.tables["slots"].used) == (
                    "smux",
                    1,
                    1,
                    24,
                )
                agent.process.send_signal(signal.SIGTERM)
                assert agent.process.wait(TIMEOUT_S) == 0
                assert await announced()
                agent.detach()
                await until(withdrawn, "a data path that is removed was withdrawn")
            finally:
                agent.kill()

    in_namespace(smux, live)


def watch(tor: str) -> "subprocess.Popen[bytes]":
    """Start to watch what the ToR gets tunneled."""
    watching = subprocess.Popen(
        ["ip", "netns", "exec", tor, "tcpdump", "-nnlU", "-i", "eth1", "-Q", "in", "ip proto 4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stderr
    while b"listening" not in watching.stderr.readline():
        pass
    return watching


@pytest.mark.parametrize("datapath", ["xdp", "scapy"])
def test_an_smux_forwards_on_either_data_path(uplink: list[str], tmp_path: Path, datapath: str) -> None:
    """The ToR stands in for client and server: it sees the tunneled packet come back."""
    tor, smux = uplink
    ip("addr add 192.0.2.10/32 dev lo", tor)
    ip(f"route add {VIPS} via {MUX_END} src 192.0.2.10", tor)

    async def live() -> None:
        agent = Agent("duet_p4.smux", smux, smux_config(tmp_path), "--datapath", datapath)
        async with client_of(tmp_path) as client:
            try:
                await agent.ready(client)
                await client.put_vip(MuxVip(address="10.0.0.1", group=group("100.1.1.1")))
                watching = watch(tor)
                run(tor, "sh", "-c", "ping -c 3 -i 0.05 -W 1 10.0.0.1 || true")

                async def counted() -> bool:
                    return (await client.counters()).vips[0].packets == 3

                await until(counted, "3 packets of the VIP are counted")
                assert watching.stdout
                line = watching.stdout.readline().decode()
                watching.kill()
                watching.communicate()
                assert f"{MUX} > 100.1.1.1" in line and "192.0.2.10 > 10.0.0.1" in line, line
                assert (await client.status()).target == datapath
                assert sum((await client.counters()).drops.values()) == 0
                assert [count.packets for count in (await client.counters()).tunnels] == [3]
            finally:
                agent.kill()

    in_namespace(smux, live)


@pytest.fixture
def server() -> Iterator[str]:
    with namespaces("as", "ap") as (name, peer):
        link(name, "eth1", peer, "eth1")
        ip(f"addr add {DIP}/32 dev lo", name)
        yield name


def dip_server() -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(
        [sys.executable, "-m", "duet_p4.dip_server", str(DIP), "--ready"], stdout=subprocess.PIPE
    )
    assert server.stdout and server.stdout.readline() == b"ready\n"
    return server


def host_config(tmp_path: Path) -> Path:
    config = HostConfig(
        name="server1",
        interfaces=("eth1",),
        muxes=ANYBODY,
        state_dir=tmp_path / "server1",
        listen=HERE,
        insecure=True,
    )
    path = tmp_path / "server1.json"
    path.write_text(config.model_dump_json())
    return path


def test_a_host_agent_checks_health_and_comes_back(server: str, tmp_path: Path) -> None:
    path = host_config(tmp_path)
    check = HealthCheck(
        kind=HealthCheckKind.HTTP, port=80, path="/health", interval_ms=30, timeout_ms=500, fall=2, rise=2
    )
    vip = HostVip(address="10.0.0.1", dips=(HostDip(address=DIP),), health=check)

    async def http(method: str, what: str) -> None:
        reader, writer = await asyncio.open_connection(str(DIP), 80)
        writer.write(f"{method} {what} HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()

    async def live() -> None:
        dips = dip_server()
        agent = Agent("duet_p4.host_agent", server, path)
        async with RestClient("http://127.0.0.1:8443") as client:

            async def is_up(expected: bool) -> bool:
                report = await client.call("GET", "/v1/health", HealthReport)
                return [dip.up for dip in report.dips] == [expected]

            try:
                await agent.ready(client)
                change = await client.call("PUT", f"/v1/vips/{vip.address}", Change, body=vip)
                assert change.updates > 0
                again = await client.call("PUT", f"/v1/vips/{vip.address}", Change, body=vip)
                assert again.updates == 0
                await until(lambda: is_up(True), "the DIP is up")
                await http("POST", "/fail")
                await until(lambda: is_up(False), "a DIP that answers 503 is down")
                await http("POST", "/recover")
                await until(lambda: is_up(True), "the DIP is up again")

                agent.kill()
                agent.start()
                await agent.ready(client)
                assert await client.call("GET", "/v1/vips", list[HostVip]) == [vip]
                status = await client.call("GET", "/v1/status", HostStatus)
                assert (status.vips, status.snat_connections) == (1, 0)
                await until(lambda: is_up(True), "the DIP is checked again")

                dips.kill()
                await until(lambda: is_up(False), "a DIP whose server is dead is down")
                report = await client.call("GET", "/v1/health", HealthReport)
                assert f"{DIP}:80" in report.dips[0].detail

                with pytest.raises(RefusedError, match=r"10\.0\.0\.9 is not on server1"):
                    await client.call("DELETE", "/v1/vips/10.0.0.9", Change)
                await client.call("DELETE", f"/v1/vips/{vip.address}", Change)
                assert (await client.call("GET", "/v1/health", HealthReport)).dips == ()
                agent.process.send_signal(signal.SIGTERM)
                assert agent.process.wait(TIMEOUT_S) == 0
                assert "xdp" in run(server, "ip", "link", "show", "eth1"), "the data path outlives its agent"
                agent.detach()
            finally:
                agent.kill()
                dips.kill()
                dips.communicate()

    in_namespace(server, live)
    shown = run(server, "ip", "link", "show", "eth1")
    assert "xdp" not in shown, shown


def test_a_host_agent_whose_port_is_taken_says_so(server: str, tmp_path: Path) -> None:
    path = host_config(tmp_path)
    with inside(server), socket.create_server(("127.0.0.1", 8443)):
        agent = Agent("duet_p4.host_agent", server, path)
        assert agent.process.wait(TIMEOUT_S) == 1
    (line,) = path.with_suffix(".log").read_text().splitlines()
    assert line.endswith("cannot listen on 127.0.0.1:8443: Address already in use"), line
