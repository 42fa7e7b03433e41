"""What clients see of agents that are killed, ended, started again and removed: nothing, but the last."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from duet_p4.api.changes import Change
from duet_p4.api.host import HostDip, HostVip
from duet_p4.api.service import State
from duet_p4.bpf import pins
from duet_p4.host_agent.config import HostConfig
from duet_p4.model import Dip, Group, MuxVip
from duet_p4.rest.client import RestClient, RestError
from tests.integration.balanced import DIPS, UPLINK, Balanced, balanced
from tests.integration.netns import inside

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces and eBPF"),
]
VIP, DIP, PORT = IPv4Address("10.0.0.1"), DIPS["server1"][0], 9000
TIMEOUT_S = 10.0
LINE = b"a line that nobody asked for\n"


class Agent:
    """A host agent as a process in a server's namespace, with the mounts of this process."""

    def __init__(self, namespace: str, config: HostConfig, folder: Path) -> None:
        self.namespace = namespace
        path = folder / "server1.json"
        path.write_text(config.model_dump_json())
        self._log = folder / "server1.log"
        self._command = [
            *("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", "duet_p4.host_agent"),
            *("--config", str(path)),
        ]

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

        async def ready() -> None:
            async with asyncio.timeout(TIMEOUT_S), RestClient("http://127.0.0.1:8443") as client:
                while True:
                    assert self.process.poll() is None, self._log.read_text()
                    with suppress(RestError):
                        if (await client.health()).state is State.READY:
                            return
                    await asyncio.sleep(0.02)

        with inside(self.namespace):
            asyncio.run(ready())

    def put(self, vip: HostVip) -> None:
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
    """A VIP with one DIP, whose server has a real host agent."""
    with balanced() as network, closing(Pushing(network.servers["server1"])):
        network.hosts["server1"].close()
        config = HostConfig(
            name="server1",
            interfaces=(UPLINK,),
            state_dir=tmp_path / "server1",
            listen=IPv4Address("127.0.0.1"),
        )
        pins.mount(config.pin_folder())
        agent = Agent(network.servers["server1"], config, tmp_path)
        try:
            agent.start()
            network.mux.put_vip(MuxVip(address=VIP, group=Group.of((Dip(address=DIP),))))
            agent.put(HostVip(address=VIP, dips=(HostDip(address=DIP),)))
            yield network, agent
        finally:
            agent.process.kill()
            agent.process.wait()
            pins.remove(config.pin_folder())


def within(seconds: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_downloads_outlive_the_host_agent(served: tuple[Balanced, Agent], how: signal.Signals) -> None:
    network, agent = served
    downloads = [Download(network.client) for _ in range(12)]

    def all_go_on() -> None:
        for download in downloads:
            download.goes_on()

    all_go_on()
    for _ in range(2):
        agent.end(how)
        within(0.3, all_go_on)
        downloads.append(Download(network.client))
        all_go_on()
        agent.start()
        all_go_on()
    agent.end(how)
    agent.detach()
    with inside(network.client), pytest.raises(OSError, match=r"timed out|No route to host"):
        socket.create_connection((str(VIP), PORT), timeout=0.3)
