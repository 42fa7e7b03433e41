"""What clients see of agents that are killed, ended, started again and removed: nothing, but the last."""

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from duet_p4.api.changes import Change
from duet_p4.api.host import HostDip, HostVip
from duet_p4.api.service import State
from duet_p4.bird.config import BirdConfig
from duet_p4.bird.policy import PrefixRange
from duet_p4.bpf import pins
from duet_p4.host_agent.config import HostConfig
from duet_p4.model import ANYBODY, Dip, Group, MuxVip
from duet_p4.rest.client import RestClient, RestError
from duet_p4.smux.config import SmuxConfig
from tests.integration.balanced import DIPS, HTTP, MUX, TIPS, UPLINK, VIPS, Balanced, balanced
from tests.integration.netns import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and eBPF"),
]
VIP, DIP, PORT = IPv4Address("10.0.0.1"), DIPS["server1"][0], 9000
OTHER, IDLE_PORT = IPv4Address("10.0.0.2"), 9001
TIMEOUT_S, START_TIMEOUT_S = 20.0, 60.0
LINE = b"a line that nobody asked for\n"


class Agent:
    """An agent as a process in a node's namespace, with the mounts of this process."""

    def __init__(self, module: str, namespace: str, config: HostConfig | SmuxConfig, folder: Path) -> None:
        self.namespace = namespace
        self._config = config
        self._path = folder / f"{config.name}.json"
        self._path.write_text(config.model_dump_json())
        self._log = folder / f"{config.name}.log"
        self._command = [
            *("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", module),
            *("--config", str(self._path)),
        ]

    def reconfigure(self, **options: int) -> None:
        """Have the next one started with other options, as an upgrade brings."""
        self._path.write_text(self._config.model_copy(update=options).model_dump_json())

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

        async def ready() -> None:
            async with asyncio.timeout(START_TIMEOUT_S), RestClient("http://127.0.0.1:8443") as client:
                while True:
                    assert self.process.poll() is None, self._log.read_text()
                    with suppress(RestError):
                        if (await client.health()).state is State.READY:
                            return
                    await asyncio.sleep(0.02)

        with inside(self.namespace):
            asyncio.run(ready())

    def put(self, vip: HostVip | MuxVip) -> None:
        async def call() -> None:
            async with RestClient("http://127.0.0.1:8443") as client:
                await client.call("PUT", f"/v1/vips/{vip.address}", Change, body=vip)

        with inside(self.namespace):
            asyncio.run(call())

    def end(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(TIMEOUT_S)

    def detach(self) -> None:
        subprocess.run([*self._command, "--detach"], check=True, timeout=TIMEOUT_S)


class Pushing:
    """A server that speaks, whatever it hears: one line every 10 ms to each who connects."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._listener = socket.create_server((str(DIP), PORT), backlog=64)
        self._accepted: list[socket.socket] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._push)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                made, _ = self._listener.accept()
                made.setblocking(False)
                self._accepted.append(made)

    def _push(self) -> None:
        while not self._ended.wait(0.01):
            for made in list(self._accepted):
                with suppress(OSError):
                    made.send(LINE)

    def close(self) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for made in (self._listener, *self._accepted):
            made.close()


class Idle:
    """Connections on which nobody says anything, until the server does."""

    def __init__(self, network: Balanced, count: int) -> None:
        with (
            inside(network.servers["server1"]),
            socket.create_server((str(DIP), IDLE_PORT), backlog=count) as at,
        ):
            with inside(network.client):
                self._clients = [
                    socket.create_connection((str(OTHER), IDLE_PORT), TIMEOUT_S) for _ in range(count)
                ]
            self._served = [at.accept()[0] for _ in range(count)]

    def speak(self) -> None:
        """Have the server say a line on each, which must arrive."""
        for served in self._served:
            served.sendall(LINE)
        silent = 0
        for client in self._clients:
            try:
                silent += client.recv(4096) != LINE
            except OSError:
                silent += 1
        assert not silent, f"{silent} of {len(self._clients)} connections are dead"

    def close(self) -> None:
        for one in (*self._clients, *self._served):
            one.close()


class Download:
    """A client that only listens."""

    def __init__(self, namespace: str, target: IPv4Address = VIP) -> None:
        with inside(namespace):
            self.socket = socket.create_connection((str(target), PORT), timeout=TIMEOUT_S)

    def goes_on(self) -> None:
        """Wait for data that was sent from now on; fails where the connection is dead or silent."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                assert self.socket.recv(1 << 16), "the connection was closed"
        self.socket.settimeout(TIMEOUT_S)
        assert self.socket.recv(1 << 16), "the connection was closed"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Balanced, Agent]]:
    """Two VIPs with one DIP, whose server has a real host agent."""
    with balanced() as network, closing(Pushing(network.servers["server1"])):
        network.hosts["server1"].close()
        config = HostConfig(
            name="server1",
            interfaces=(UPLINK,),
            muxes=ANYBODY,
            state_dir=tmp_path / "server1",
            listen=IPv4Address("127.0.0.1"),
            insecure=True,
        )
        pins.mount(config.pin_folder())
        agent = Agent("duet_p4.host_agent", network.servers["server1"], config, tmp_path)
        try:
            agent.start()
            # Two VIPs on the DIP: whose a reply is, only the agent's tables of flows say.
            for vip in (VIP, OTHER):
                network.mux.put_vip(MuxVip(address=vip, group=Group.of((Dip(address=DIP),))))
                agent.put(HostVip(address=vip, dips=(HostDip(address=DIP),)))
            yield network, agent
        finally:
            agent.process.kill()
            agent.process.wait()
            pins.remove(config.pin_folder())


def within(seconds: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for both ends of a thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.usefixtures("descriptors")
def test_downloads_and_idle_connections_outlive_the_host_agent_and_its_upgrade(
    served: tuple[Balanced, Agent], how: signal.Signals
) -> None:
    network, agent = served
    idle = Idle(network, 1000)
    downloads = [Download(network.client) for _ in range(12)]

    def all_go_on() -> None:
        for download in downloads:
            download.goes_on()

    all_go_on()
    for flows in (65_536, 32_768):
        agent.end(how)
        within(0.3, all_go_on)
        idle.speak()
        downloads.append(Download(network.client))
        all_go_on()
        agent.reconfigure(flows=flows)
        agent.start()
        all_go_on()
        idle.speak()
    idle.close()
    agent.end(how)
    agent.detach()
    with inside(network.client), pytest.raises(OSError, match=r"timed out|No route to host"):
        socket.create_connection((str(VIP), PORT), timeout=0.3)


@pytest.mark.skipif(not shutil.which("bird", path="/usr/sbin:/sbin:/usr/bin"), reason="bird is not installed")
def test_connections_outlive_the_smux_agent_and_keep_their_dips(tmp_path: Path) -> None:
    """Even where the successor at once moves every slot: it knows the predecessor's connections."""
    config = SmuxConfig(
        name="smux1",
        address=MUX,
        uplinks=(UPLINK,),
        announced=(VIPS, TIPS),
        muxes=ANYBODY,
        bird=BirdConfig(
            router_id=MUX,
            asn=4_200_900_001,
            neighbors=(),
            space=tuple(
                PrefixRange(network=network, shortest=network.prefixlen, longest=32)
                for network in (VIPS, TIPS, IPv4Network("172.30.0.0/16"))
            ),
            transit=False,
        ),
        state_dir=tmp_path / "smux1",
        listen=IPv4Address("127.0.0.1"),
        insecure=True,
    )
    with balanced() as network:
        network.mux.close()
        pins.mount(config.pin_folder())
        agent = Agent("duet_p4.smux", network.smux, config, tmp_path)
        try:
            agent.start()
            group = Group.of(tuple(Dip(address=dip) for dips in DIPS.values() for dip in dips))
            for name, dips in DIPS.items():
                network.hosts[name].put_vip(
                    HostVip(address=VIP, dips=tuple(HostDip(address=d) for d in dips))
                )
            agent.put(MuxVip(address=VIP, group=group))
            with inside(network.client):
                connections = [socket.create_connection((str(VIP), HTTP), TIMEOUT_S) for _ in range(40)]

            def ask() -> list[bytes]:
                for connection in connections:
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n")
                answers = [connection.recv(4096) for connection in connections]
                return [answer.partition(b'"dip": ')[2].partition(b",")[0] for answer in answers]

            before = ask()
            assert len(set(before)) > 1
            for turn, how in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
                agent.end(how)
                assert ask() == before
                agent.start()
                slots = tuple((slot + turn) % 6 for slot in group.slots)
                agent.put(MuxVip(address=VIP, group=group.model_copy(update={"slots": slots})))
                assert ask() == before
            for connection in connections:
                connection.close()
        finally:
            agent.process.kill()
            agent.process.wait()
            pins.remove(config.pin_folder())
