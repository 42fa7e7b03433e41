"""A port that dies is led around in the kernel: nothing of the switch's process runs in between."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from finsy import P4TableEntry
from finsy.proto import p4r

from duet_p4 import detour
from duet_p4.bench.switches import inserts
from duet_p4.bench.traffic import frame
from duet_p4.hmux import entries, pipeline
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError
from duet_p4.xdp_switch.p4runtime.forwarding import ForwardingState
from duet_p4.xdp_switch.p4runtime.staging import stage
from tests.integration import netns
from tests.integration.xdp_switch.test_device import Wire, make_pair

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="XDP and network namespaces need root"),
]

MAC, FAR = "02:00:00:00:00:01", "02:00:00:00:00:02"
FIRST, SECOND, OTHER = IPv4Address("100.0.0.1"), IPv4Address("100.0.0.2"), IPv4Address("100.0.1.1")
FRAME = frame(64, int(IPv4Address("10.255.0.1")), int(FIRST), 4000)
GROUPS = {2: 1, 3: 2}


@pytest.fixture
def wire() -> Iterator[Wire]:
    with netns.namespaces("xdp") as (name,), netns.inside(name):
        # Else the kernel's own frames, router solicitations, arrive too.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        for port in (1, 2, 3):
            make_pair(port)
        ends = Wire([1, 2, 3])
        yield ends
        ends.close()


@pytest.fixture
def switch(wire: Wire) -> Iterator[tuple[XdpDevice, ForwardingState]]:
    """hmux.p4 on three ports: two addresses of a /24 lead to port 2, the rest of it to port 3."""
    device = XdpDevice()
    for port in (1, 2, 3):
        device.add_port(port, f"port{port}")
    staged = asyncio.run(stage(device, pipeline.schema().get_pipeline_config(), {}))
    device.activate(staged.pipeline)
    rows: list[P4TableEntry] = [entries.configuration(IPv4Address("172.30.0.1"), 1), entries.port(1, MAC)]
    for port, group in GROUPS.items():
        rows.append(entries.nexthop(group, port, MAC, FAR, 1500))
        rows.append(entries.nexthop_slot(group, group))
        rows.append(entries.nexthop_group(group, group, 1))
    rows += [route(FIRST, 32, 2), route(SECOND, 32, 2), route(IPv4Address("100.0.0.0"), 24, 3)]
    for request in inserts(rows):
        for update in request.updates:
            staged.forwarding.write(update)
    yield device, staged.forwarding
    device.close()


def route(address: IPv4Address, length: int, port: int) -> P4TableEntry:
    return entries.route(IPv4Network((address, length)), GROUPS[port])


def change(kind: p4r.Update.Type.ValueType, *rows: P4TableEntry) -> list[p4r.Update]:
    return [p4r.Update(type=kind, entity=row.encode(pipeline.schema())) for row in rows]


def prepare(state: ForwardingState, port: int, updates: list[p4r.Update]) -> None:
    state.write(p4r.Update(type=p4r.Update.MODIFY, entity=detour.entity(port, updates)))


def lead_around(state: ForwardingState) -> None:
    prepare(state, 2, change(p4r.Update.DELETE, route(FIRST, 32, 2), route(SECOND, 32, 2)))


def arrives_at(wire: Wire, port: int, timeout: float = 5.0) -> bool:
    wire.send(1, FRAME)
    return wire.receive(port, timeout) is not None


def await_up(device: XdpDevice, port: int) -> None:
    """Wait until the kernel's own work queue has noted that a port has a carrier again."""
    deadline = time.monotonic() + 10
    while not device.port_states()[port]:
        assert time.monotonic() < deadline, f"port {port} does not come up"
        time.sleep(0.01)


def cut(port: int, state: str) -> None:
    netns.ip(f"link set host{port} {state}")


def test_the_frame_after_the_first_that_is_lost_is_led_around(
    wire: Wire, switch: tuple[XdpDevice, ForwardingState]
) -> None:
    _, state = switch
    lead_around(state)
    assert arrives_at(wire, 2)
    cut(2, "down")
    wire.send(1, FRAME)
    assert arrives_at(wire, 3)
    # To clients the tables are as before; the change that comes from them confirms what has been done.
    for update in change(p4r.Update.DELETE, route(FIRST, 32, 2), route(SECOND, 32, 2)):
        state.write(update)
    assert arrives_at(wire, 3)


def test_a_port_that_is_back_before_anybody_wrote_gets_its_packets_again(
    wire: Wire, switch: tuple[XdpDevice, ForwardingState]
) -> None:
    device, state = switch
    lead_around(state)
    for _ in range(2):
        cut(2, "down")
        wire.send(1, FRAME)
        assert arrives_at(wire, 3)
        cut(2, "up")
        wire.sockets[2].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # "Network is down": it was.
        await_up(device, 2)
        state.ports_changed(device.port_states())
        assert arrives_at(wire, 2)


def write(state: ForwardingState, *updates: p4r.Update) -> None:
    for update in updates:
        state.write(update)
    state.pipeline.rearm()


def test_a_change_of_an_entry_that_a_detour_changes_takes_it_away(
    wire: Wire, switch: tuple[XdpDevice, ForwardingState]
) -> None:
    _, state = switch
    lead_around(state)
    (again,) = change(p4r.Update.MODIFY, route(FIRST, 32, 2))
    write(state, again)
    cut(2, "down")
    wire.send(1, FRAME)
    assert not arrives_at(wire, 3, 0.5)


def test_a_detour_leads_around_after_changes_of_other_entries_and_of_those_that_cover_its_own(
    wire: Wire, switch: tuple[XdpDevice, ForwardingState]
) -> None:
    _, state = switch
    lead_around(state)
    below, above = (route(IPv4Address("100.0.0.0"), length, 3) for length in (25, 26))
    write(state, *change(p4r.Update.INSERT, route(OTHER, 32, 3), below))
    write(state, *change(p4r.Update.INSERT, above), *change(p4r.Update.DELETE, below))
    cut(2, "down")
    wire.send(1, FRAME)
    assert arrives_at(wire, 3)
    for gone in (route(OTHER, 32, 3), route(FIRST, 32, 2)):
        write(state, *change(p4r.Update.DELETE, gone))
        assert arrives_at(wire, 3)


def test_what_a_detour_cannot_do_is_refused_and_changes_nothing(
    wire: Wire, switch: tuple[XdpDevice, ForwardingState]
) -> None:
    _, state = switch
    lead_around(state)
    for updates, why in (
        (change(p4r.Update.INSERT, route(OTHER, 32, 3)), "modifies and deletes"),
        (change(p4r.Update.DELETE, route(OTHER, 32, 3)), "no such entry"),
        (change(p4r.Update.DELETE, entries.nexthop(1, 2, MAC, FAR, 1500)), "more than words"),
    ):
        with pytest.raises(P4RuntimeError, match=why):
            prepare(state, 2, updates)
    with pytest.raises(P4RuntimeError, match="port 600 is out of range"):
        prepare(state, 600, [])
    cut(2, "down")
    wire.send(1, FRAME)
    assert arrives_at(wire, 3)
