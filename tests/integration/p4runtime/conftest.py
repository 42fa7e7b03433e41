"""The xdp switch as a process in a network namespace of its own, with features.p4 and two ports."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.integration.netns import link, namespaces
from tests.unit.p4runtime.client import DEADLINE, Client
from tests.unit.p4runtime.conftest import CONFIG, INFO

PORTS = (1, 2)


class XdpSwitch:
    """A switch process. Its port n is `sn`; what is sent into `hn` comes in there."""

    _numbers = itertools.count()

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._stack = ExitStack()
        (self.namespace,) = self._stack.enter_context(namespaces(f"p4rt{next(self._numbers)}"))
        self.socket = folder / "p4runtime.sock"
        self.log = folder / "switch.log"
        self.process: subprocess.Popen[bytes] | None = None
        try:
            for number in PORTS:
                link(self.namespace, f"s{number}", self.namespace, f"h{number}")
                for name in (f"s{number}", f"h{number}"):
                    self.run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
                # XDP redirects into a veth only where its peer polls, as it does with GRO on.
                self.run("ethtool", "-K", f"h{number}", "gro", "on")
            self.start(*(arguments or ["--no-p4"]))
        except BaseException:
            self.close()
            raise

    def start(self, *arguments: str, address: str | None = None) -> None:
        """Start the process, on its socket or at another address; `arguments` come before the target's."""
        self.socket.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.namespace, sys.executable, "-m", "duet_p4.xdp_switch"),
                    *("--device-id", "1", *arguments),
                    *(part for number in PORTS for part in ("-i", f"{number}@s{number}")),
                    *("--", "--grpc-server-addr", address or f"unix:{self.socket}", "--cpu-port", "510"),
                ],
                stderr=log,
            )

    def client(self) -> Client:
        """Return a client once the server answers."""
        client = Client(f"unix:{self.socket}", INFO, CONFIG)
        try:
            grpc.channel_ready_future(client.channel).result(timeout=DEADLINE)
        except grpc.FutureTimeoutError:
            client.channel.close()
            pytest.fail(f"the switch did not start:\n{self.log.read_text()}")
        return client

    def run(self, *command: str) -> None:
        """Run a command in the switch's namespace."""
        subprocess.run(["ip", "netns", "exec", self.namespace, *command], check=True)

    def kill(self) -> None:
        """End the process by SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        """End the process and remove the namespace."""
        if self.process is not None:
            self.kill()
        self._stack.close()


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XdpSwitch]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces and XDP need root")
    switch = XdpSwitch(tmp_path_factory.mktemp("xdp"))
    yield switch
    switch.close()
    assert "Traceback" not in switch.log.read_text(), switch.log.read_text()


@pytest.fixture
def client(switch: XdpSwitch) -> Iterator[Client]:
    """A client of a switch whose tables are as features.p4 states them."""
    client = switch.client()
    client.push()
    yield client
    client.channel.close()
