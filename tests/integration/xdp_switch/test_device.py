"""The XDP switch on real veths: ports, CPU port, swapping programs, dying."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from finsy.proto import p4i
from google.protobuf import text_format

from duet_p4 import bpf
from duet_p4.xdp_switch import pipeline as pipeline_module
from duet_p4.xdp_switch.compiler import Compiled
from duet_p4.xdp_switch.compiler.ir import CounterArray, RegisterArray
from duet_p4.xdp_switch.dataplane import Call, UnsupportedError
from duet_p4.xdp_switch.device import RunMode, XdpDevice
from duet_p4.xdp_switch.drops import Drops
from duet_p4.xdp_switch.pipeline import XdpPipeline, build
from tests.integration import netns
from tests.integration.xdp_switch import copies, programs
from tests.integration.xdp_switch.programs import assign, field, info_of, number

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="XDP and network namespaces need root"),
]

BUILD = Path(__file__).parents[2] / "p4" / "build"
CPU_PORT = 510
HOSTS = {1: bytes.fromhex("020000000001"), 2: bytes.fromhex("020000000002")}


def program(name: str) -> tuple[bytes, p4i.P4Info]:
    config = (BUILD / f"{name}.json").read_bytes()
    return config, text_format.Parse((BUILD / f"{name}.p4info.txtpb").read_text(), p4i.P4Info())


class Wire:
    """The far ends of the switch's ports."""

    def __init__(self, ports: list[int]) -> None:
        self.sockets = {}
        for port in ports:
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            end.bind((f"host{port}", 0))
            self.sockets[port] = end

    def send(self, port: int, frame: bytes) -> None:
        self.sockets[port].send(frame)

    def receive(self, port: int, timeout: float = 2.0) -> bytes | None:
        """Return the next frame that arrives at a host, None where none does in time."""
        while select.select([self.sockets[port]], [], [], timeout)[0]:
            frame, (_, _, kind, *_) = self.sockets[port].recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                return frame
        return None

    def close(self) -> None:
        for end in self.sockets.values():
            end.close()


def make_pair(port: int) -> None:
    """Make a port and its far end."""
    netns.ip(f"link add port{port} type veth peer name host{port}")
    for end in (f"port{port}", f"host{port}"):
        netns.ip(f"link set {end} up arp off")
    # Without NAPI on the far end the kernel would drop what XDP sends to it.
    subprocess.run(["ethtool", "-K", f"host{port}", "gro", "on"], check=True, capture_output=True)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Two veth pairs in a namespace: port1 and port2 for the switch, host1 and host2 outside."""
    with netns.namespaces("xdp") as (name,), netns.inside(name):
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        for port in HOSTS:
            make_pair(port)
        ends = Wire(list(HOSTS))
        yield ends
        ends.close()


@pytest.fixture
def switch(wire: Wire) -> Iterator[XdpDevice]:
    device = XdpDevice(CPU_PORT)
    for port in HOSTS:
        device.add_port(port, f"port{port}")
    yield device
    device.close()


def load(switch: XdpDevice, config: bytes, info: p4i.P4Info) -> XdpPipeline:
    """Put a program on the ports."""
    pipeline = switch.stage(config, info)
    switch.activate(pipeline)
    return pipeline


def frame(destination: bytes, source: bytes = HOSTS[1], payload: bytes = bytes(46)) -> bytes:
    return destination + source + b"\x08\x00" + payload


def wait_for_packet_in(switch: XdpDevice) -> bytes | None:
    assert switch.packet_in_fd is not None
    select.select([switch.packet_in_fd], [], [], 2.0)
    return switch.receive()


def test_frames_are_forwarded_between_ports(switch: XdpDevice, wire: Wire) -> None:
    pipeline = load(switch, *program("l2_switch"))
    pipeline.insert(
        "L2Ingress.forwarding_table",
        (1, int.from_bytes(HOSTS[2], "big")),
        0,
        Call("L2Ingress.forward", (2, 0)),
    )
    sent = frame(HOSTS[2])
    wire.send(1, sent)
    assert wire.receive(2) == sent
    key = ((1, int.from_bytes(HOSTS[2], "big")), 0)
    assert pipeline.read_direct("L2Ingress.forwarding_table", [key]) == [(1, len(sent))]


def test_packet_in_carries_the_ingress_port(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    assert switch.receive() is None
    sent = frame(bytes.fromhex("0180c200000e"))
    wire.send(2, sent)
    assert wait_for_packet_in(switch) == (2 << 7).to_bytes(2, "big") + sent


def test_packet_out_leaves_by_its_port(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    sent = frame(HOSTS[1])
    switch.send((1 << 7).to_bytes(2, "big") + sent)
    assert wire.receive(1) == sent


def test_a_new_program_takes_over_the_ports(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    load(switch, *program("stateful"))
    wire.send(1, frame(bytes.fromhex("0180c200000e")))
    assert wire.receive(2, timeout=0.2) is None
    assert switch.receive() is None, "the firewall knows no packet-in"


def test_a_refused_program_leaves_the_old_one_running(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    config, info = program("l3_router")
    with pytest.raises(ValueError, match="no BMv2 JSON"):
        switch.stage(b"{}", info)
    foreign = config.replace(b'"extern_instances" : []', b'"extern_instances" : [{"name": "police"}]')
    with pytest.raises(UnsupportedError, match="extern instance police"):
        switch.stage(foreign, info)
    wire.send(2, frame(bytes.fromhex("0180c200000e")))
    assert wait_for_packet_in(switch) is not None


def test_ports_are_checked(switch: XdpDevice) -> None:
    with pytest.raises(ValueError, match="port 1 is port1 already"):
        switch.add_port(1, "port2")
    with pytest.raises(ValueError, match="port 511 is out of range"):
        switch.add_port(511, "port2")
    with pytest.raises(OSError, match="no interface nowhere"):
        switch.add_port(3, "nowhere")


def test_a_frame_to_a_port_that_is_not_there_vanishes(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    switch.send((77 << 7).to_bytes(2, "big") + frame(HOSTS[1]))
    switch.send((2 << 7).to_bytes(2, "big") + frame(HOSTS[2]))
    assert wire.receive(2) == frame(HOSTS[2])
    assert wire.receive(1, timeout=0.1) is None


def test_kill_9_detaches_and_leaves_nothing_behind(wire: Wire) -> None:
    script = (
        "import sys\n"
        "from tests.integration.xdp_switch.test_device import *\n"
        "device = XdpDevice(CPU_PORT)\n"
        "device.add_port(1, 'port1')\n"
        "load(device, *program('l2_switch'))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert "prog/xdp" in netns.ip("link show port1")
    assert "p4cpu" in netns.ip("link show")
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = 50
    while ("prog/xdp" in netns.ip("link show port1") or "p4cpu" in netns.ip("link show")) and deadline:
        deadline -= 1
        select.select([], [], [], 0.05)
    assert "prog/xdp" not in netns.ip("link show port1")
    assert "p4cpu" not in netns.ip("link show")


def test_a_frame_of_fewer_than_14_bytes_is_dropped_counted_and_told() -> None:
    fields = [("value", 112)]
    made = programs.program(fields, [("rest", 8)], [], [])
    drops = Drops()
    with programs.running(made) as pipeline:
        assert pipeline.replay(bytes(14 + 13), 1) == [(1, bytes(14))]
        assert drops.look(pipeline) == ""
        assert pipeline.replay(bytes(14 + 12), 1) == []
        assert pipeline.drops()["no_room"] == 1
        assert drops.look(pipeline).startswith("1 because there was no room")
        assert drops.look(pipeline) == ""


@pytest.mark.parametrize("changes", [1, 2])
def test_a_packet_held_up_in_a_lookup_does_what_its_entry_said_or_is_dropped(
    monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """The program itself changes the entry that it has found; a second change may give it to another one.

    The packet came after the first change was announced, and is done before the second is over.
    """
    table = "L2Ingress_forwarding_table"
    found = f"*found = bpf_map_lookup_elem(&table_{table}, &key);"
    held_up = f"""{found}
        if (found) {{
            struct entry_{table} other = *found;
            other.of_L2Ingress_forward_8.p_port ^= 3;
            for (__u32 n = 0; n < {changes}; n++) {{
                CHANGES({table}) += n > 0;
                bpf_map_update_elem(&table_{table}, &key, &other, 0);
                CHANGES({table}) += n == 0;
            }}
        }}"""

    def build_held_up(compiled: Compiled, defines: Mapping[str, str] | None = None) -> Path:
        assert found in compiled.source
        return build(replace(compiled, source=compiled.source.replace(found, held_up)), defines)

    monkeypatch.setattr(pipeline_module, "build", build_held_up)
    device = XdpDevice(replays=True)
    try:
        pipeline = device.stage(*program("l2_switch"))
        key = (1, int.from_bytes(HOSTS[2], "big"))
        pipeline.insert("L2Ingress.forwarding_table", key, 0, Call("L2Ingress.forward", (2, 0)))
        sent = frame(HOSTS[2])
        assert pipeline.replay(sent, 1) == ([(2, sent)] if changes == 1 else [])
        assert pipeline.drops()["changed"] == changes - 1
        pipeline.close()
    finally:
        device.close()


def test_copies_leave_by_their_ports_with_all_that_makes_them(switch: XdpDevice, wire: Wire) -> None:
    copies_leave(switch, wire, 40)


def copies_leave(device: XdpDevice, wire: Wire, frames: int) -> None:
    """Send so many frames to a program that makes copies of each, and find all of them."""
    made = copies.document(
        [
            assign(field("standard_metadata", "mcast_grp"), number(5)),
            copies.primitive("clone_ingress_pkt_to_egress", number(9), number(1)),
            assign(field("input", "word"), number(1000)),
        ],
        [assign(field("input", "rest"), field("standard_metadata", "egress_rid"))],
    )
    pipeline = load(device, json.dumps(made).encode(), info_of(made))
    pipeline.multicast.put(5, [(2, 20), (1, 10), (2, 21)])
    pipeline.clones.put(9, [(2, 2)])
    for _ in range(frames):
        wire.send(1, copies.FRAME)
        left = [(2, wire.receive(2)) for _ in range(3)] + [(1, wire.receive(1))]
        assert all(data is not None for _, data in left), f"{left}, {pipeline.drops()}"
        told = copies.words([(port, data) for port, data in left if data is not None])
        assert sorted(told) == [(1, 1000, 10), (2, 7, 2), (2, 1000, 20), (2, 1000, 21)]
    assert sum(pipeline.drops().values()) == 0


def test_an_inner_port_leaves_nothing_behind(wire: Wire) -> None:
    def interfaces() -> str:
        return subprocess.run(["ip", "-o", "link"], check=True, capture_output=True, text=True).stdout

    before = interfaces()
    device = XdpDevice()
    made = copies.document([assign(field("standard_metadata", "mcast_grp"), number(5))])
    load(device, json.dumps(made).encode(), info_of(made))
    assert interfaces() == before, "the pair is not among the switch's interfaces"
    device.close()


def learn(pipeline: XdpPipeline, port: int) -> None:
    """Forward to a host, whichever port a frame comes from."""
    for source in HOSTS:
        pipeline.insert(
            "L2Ingress.forwarding_table",
            (source, int.from_bytes(HOSTS[port], "big")),
            0,
            Call("L2Ingress.forward", (port, 0)),
        )


def test_a_staged_program_runs_once_it_is_activated(switch: XdpDevice, wire: Wire) -> None:
    first = load(switch, *program("l2_switch"))
    staged = switch.stage(*program("l2_switch"))
    learn(staged, 2)
    sent = frame(HOSTS[2])
    wire.send(1, sent)
    assert wait_for_packet_in(switch) is not None, "the first program knows no host and floods to the CPU"
    assert wire.receive(2, timeout=0.1) is None
    switch.activate(staged)
    wire.send(1, sent)
    assert wire.receive(2) == sent
    assert first is not staged


def test_a_port_that_refuses_gives_all_ports_their_program_back(switch: XdpDevice, wire: Wire) -> None:
    learn(load(switch, *program("l2_switch")), 2)
    staged = switch.stage(*program("l2_switch"))
    link = switch._ports[2].link
    assert link is not None
    # Another program takes the place: the link of port 2 is one of something else now.
    switch._ports[2].link = bpf.Link(os.open("/dev/null", os.O_RDONLY))
    with pytest.raises(OSError, match="Errno"):
        switch.activate(staged)
    switch._ports[2].link.close()
    switch._ports[2].link = link
    sent = frame(HOSTS[2])
    wire.send(1, sent)
    assert wire.receive(2) == sent
    staged.close()


def test_a_port_that_vanishes_spoils_no_push_and_works_when_it_is_back(switch: XdpDevice, wire: Wire) -> None:
    learn(load(switch, *program("l2_switch")), 2)
    netns.ip("link del port2")
    assert switch.port_states()[2] is False
    staged = switch.stage(*program("l2_switch"))
    learn(staged, 2)
    learn(staged, 1)
    switch.activate(staged)
    wire.send(1, frame(HOSTS[1]))
    assert wire.receive(1) == frame(HOSTS[1]), "port 1 runs the new program"
    make_pair(2)
    again = Wire([2])
    assert select.select([switch.port_events_fd], [], [], 2.0)[0]
    assert switch.port_states()[2] is True
    wire.send(1, frame(HOSTS[2]))
    assert again.receive(2) == frame(HOSTS[2])
    again.send(2, frame(HOSTS[1], HOSTS[2]))
    assert wire.receive(1) == frame(HOSTS[1], HOSTS[2])
    again.close()


def test_port_states_follow_the_carrier(switch: XdpDevice, wire: Wire) -> None:
    assert dict(switch.port_states()) == {1: True, 2: True, CPU_PORT: True}
    netns.ip("link set host2 down")
    while switch.port_states()[2]:
        assert select.select([switch.port_events_fd], [], [], 5.0)[0], "nobody says that port 2 is down"
    assert dict(switch.port_states()) == {1: True, 2: False, CPU_PORT: True}


def test_a_cpu_port_that_was_deleted_is_made_anew(switch: XdpDevice, wire: Wire) -> None:
    load(switch, *program("l2_switch"))
    netns.ip("link del p4cpu0")
    with pytest.raises(OSError, match="Errno"):
        switch.receive()
    sent = frame(bytes.fromhex("0180c200000e"))
    wire.send(2, sent)
    assert wait_for_packet_in(switch) == (2 << 7).to_bytes(2, "big") + sent
    switch.send((1 << 7).to_bytes(2, "big") + sent)
    assert wire.receive(1) == sent


def test_whole_arrays_are_written_at_once(switch: XdpDevice) -> None:
    pipeline = load(switch, *program("stateful"))
    (counter, *_), (register, *_) = (
        list(sizes(pipeline.compiled.program.counters)),
        list(sizes(pipeline.compiled.program.registers)),
    )
    counts = [(index, 2 * index) for index in range(counter[1])]
    pipeline.write_counter(counter[0], 0, counts)
    assert pipeline.read_counter(counter[0], 0, counter[1]) == counts
    pipeline.write_register(register[0], 1, [1] * (register[1] - 1))
    assert pipeline.read_register(register[0], 0, register[1]) == [0] + [1] * (register[1] - 1)


def sizes(arrays: Mapping[str, CounterArray] | Mapping[str, RegisterArray]) -> Iterator[tuple[str, int]]:
    """Names and sizes of indexed arrays."""
    for name, array in arrays.items():
        if not getattr(array, "table", None):
            yield name, array.size


def test_a_clone_to_the_cpu_port_is_a_packet_in(switch: XdpDevice, wire: Wire) -> None:
    made = copies.document(
        [
            assign(field("standard_metadata", "egress_spec"), number(2)),
            copies.primitive("clone_ingress_pkt_to_egress", number(9), number(1)),
        ]
    )
    pipeline = load(switch, json.dumps(made).encode(), info_of(made))
    pipeline.clones.put(9, [(CPU_PORT, 0)], truncate=20)
    wire.send(1, copies.FRAME)
    assert wire.receive(2) == copies.FRAME
    assert wait_for_packet_in(switch) == copies.FRAME[:20]


JUMBO = 9500


@pytest.fixture
def jumbo() -> Iterator[Wire]:
    """Ports as p4lang makes them: an MTU of 9,500, and nothing at the far ends that polls."""
    with netns.namespaces("xdp") as (name,), netns.inside(name):
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        for port in HOSTS:
            netns.ip(f"link add port{port} type veth peer name host{port}")
            for end in (f"port{port}", f"host{port}"):
                netns.ip(f"link set {end} up arp off mtu {JUMBO}")
        ends = Wire(list(HOSTS))
        yield ends
        ends.close()


@pytest.mark.parametrize("mode", ["auto", "generic"])
def test_jumbo_frames_pass_between_ports_that_native_xdp_cannot_serve(
    jumbo: Wire, mode: RunMode, caplog
) -> None:
    device = XdpDevice(CPU_PORT, mode)
    for port in HOSTS:
        device.add_port(port, f"port{port}")
    try:
        learn(load(device, *program("l2_switch")), 2)
        for size in (60, 1500, 9000):
            sent = frame(HOSTS[2], payload=bytes(size))
            jumbo.send(1, sent)
            assert jumbo.receive(2) == sent
        flooded = frame(bytes.fromhex("0180c200000e"))
        jumbo.send(2, flooded)
        assert wait_for_packet_in(device) == (2 << 7).to_bytes(2, "big") + flooded
        said = "port1, port2 takes no frames from native XDP"
        assert (said in caplog.text) == (mode == "auto")
    finally:
        device.close()


def test_copies_leave_by_ports_that_native_xdp_cannot_serve(jumbo: Wire) -> None:
    device = XdpDevice(mode="auto")
    for port in HOSTS:
        device.add_port(port, f"port{port}")
    try:
        made = copies.document([assign(field("standard_metadata", "mcast_grp"), number(5))])
        pipeline = load(device, json.dumps(made).encode(), info_of(made))
        pipeline.multicast.put(5, [(2, 20), (1, 10)])
        jumbo.send(1, copies.FRAME)
        assert jumbo.receive(2) is not None
        assert jumbo.receive(1) is not None
    finally:
        device.close()


def test_a_port_of_too_large_an_mtu_runs_generic_xdp_and_says_so(
    switch: XdpDevice, wire: Wire, caplog
) -> None:
    netns.ip(f"link set port1 mtu {JUMBO}")
    netns.ip(f"link set host1 mtu {JUMBO}")
    learn(load(switch, *program("l2_switch")), 2)
    assert "port1 runs generic XDP, which is slower: its MTU is too large for native XDP" in caplog.text
    wire.send(1, frame(HOSTS[2]))
    assert wire.receive(2) == frame(HOSTS[2])
