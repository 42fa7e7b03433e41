"""What the kernel tells of its TCP connections, on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from duet_p4.flow_hash import Flow
from duet_p4.host_agent.connections import live_connections

LOOPBACK = IPv4Address("127.0.0.1")
TIMEOUT_S = 10


class Ends:
    """A client's end of a connection, and its server's."""

    def __init__(self, family: socket.AddressFamily, stack: ExitStack) -> None:
        listener = stack.enter_context(
            socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
        )
        self.client = stack.enter_context(
            socket.create_connection((str(LOOPBACK), listener.getsockname()[1]))
        )
        self.server = stack.enter_context(listener.accept()[0])
        self.flow = Flow(LOOPBACK, LOOPBACK, 6, self.client.getsockname()[1], self.server.getsockname()[1])

    def send(self) -> None:
        self.client.sendall(b"x")
        self.server.recv(1)


@pytest.fixture
def connected() -> Iterator[list[Ends]]:
    with ExitStack() as stack:
        yield [Ends(family, stack) for family in (socket.AF_INET, socket.AF_INET6)]


def idle_s(flow: Flow) -> float | None:
    return dict(live_connections()).get(flow)


def test_a_connection_is_as_idle_as_its_client_and_gone_once_it_is_closed(connected: list[Ends]) -> None:
    for quiet, busy in (connected, reversed(connected)):
        deadline = time.monotonic() + TIMEOUT_S
        while (quiet_s := idle_s(quiet.flow)) is not None and quiet_s < 0.1:
            assert time.monotonic() < deadline, "it is quiet, and said to be heard of"
            busy.send()
        busy.send()
        heard_s = idle_s(busy.flow)
        assert quiet_s is not None
        assert heard_s is not None
        assert heard_s < (idle_s(quiet.flow) or 0.0)
        quiet.send()
    for ends in connected:
        ends.server.close()
        ends.client.close()
        assert idle_s(ends.flow) is None
