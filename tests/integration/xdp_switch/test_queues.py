"""A port with a rate holds packets, which see their queue: the same on xdp and on BMv2."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from duet_p4 import bmv2
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.queues import Rate
from duet_p4.xdp_switch.shaping import rate_of
from tests.integration.xdp_switch import copies
from tests.integration.xdp_switch.test_device import (
    HOSTS,
    Wire,
    copies_leave,
    load,
    program,
    pytestmark,
    wire,
)

__all__ = ["pytestmark", "wire"]

FIELDS = [
    *(("dst_addr", 48), ("src_addr", 48), ("ether_type", 16), ("port", 8), ("enqueued_depth", 32)),
    *(("dequeued_depth", 32), ("waited", 32), ("enqueued_at", 32), ("number", 8)),
]
PER_SECOND, DEPTH = 4, 3


def packet(index: int) -> bytes:
    return copies.programs.pack(FIELDS, {"ether_type": 0x88B5, "port": 2, "number": index}) + bytes(40)


@contextmanager
def xdp() -> Iterator[None]:
    device = XdpDevice(rates={2: Rate(packets=PER_SECOND)}, depth=DEPTH)
    try:
        for port in HOSTS:
            device.add_port(port, f"port{port}")
        pipeline = load(device, *program("queue"))
        yield
        assert pipeline.drops() == dict.fromkeys(pipeline.drops(), 0) | {"queue": 2}
    finally:
        device.close()


@contextmanager
def on_bmv2() -> Iterator[None]:
    """BMv2 with a queue of the same rate and depth."""
    thrift = bmv2.thrift_port()
    config = Path(__file__).parents[2] / "p4" / "build" / "queue.json"
    ports = [word for port in HOSTS for word in ("-i", f"{port}@port{port}")]
    with tempfile.TemporaryDirectory() as folder:
        grpc = ["--", "--grpc-server-addr", f"unix:{folder}/p4runtime"]
        process = subprocess.Popen(
            [bmv2.COMMAND, str(config), *ports, *thrift, "--log-level", "off", *grpc],
            stdout=subprocess.DEVNULL,
        )
        try:
            tell(process, thrift, f"set_queue_depth {DEPTH} 2\nset_queue_rate {PER_SECOND} 2\n")
            yield
        finally:
            process.kill()
            process.wait()


def tell(switch: subprocess.Popen[bytes], thrift: list[str], commands: str) -> None:
    """Have simple_switch_CLI carry out commands, once the switch answers."""
    deadline = time.monotonic() + 20
    while True:
        said = subprocess.run([bmv2.SHELL, *thrift], input=commands, capture_output=True, text=True)
        if said.returncode == 0 and "Could not connect" not in said.stdout + said.stderr:
            return
        assert switch.poll() is None and time.monotonic() < deadline, said.stdout + said.stderr
        time.sleep(0.05)


@pytest.mark.parametrize("target", [xdp, on_bmv2])
def test_packets_that_wait_for_a_port_with_a_rate_see_their_queue(target, wire: Wire) -> None:  # type: ignore[no-untyped-def]
    if target is on_bmv2 and (missing := bmv2.without_shell()):
        pytest.skip(f"{missing}: nothing to compare with")
    with target():
        wire.send(1, packet(0))
        first = received(wire)
        assert (first["number"], first["enqueued_depth"], first["dequeued_depth"]) == (0, 0, 0)
        for index in range(1, DEPTH + 3):
            wire.send(1, packet(index))
        seen = [received(wire) for _ in range(DEPTH)]
        assert wire.receive(2, timeout=1.5 / PER_SECOND) is None, "there was room for three"
    assert [(s["number"], s["enqueued_depth"], s["dequeued_depth"]) for s in seen] == [
        (1, 0, 2),
        (2, 1, 1),
        (3, 2, 0),
    ]
    spacing = 1_000_000 / PER_SECOND
    leaving = [(s["enqueued_at"] + s["waited"]) & 0xFFFFFFFF for s in seen]
    assert spacing < (leaving[2] - leaving[0]) & 0xFFFFFFFF < 5 * spacing
    assert seen[0]["waited"] < seen[1]["waited"] < seen[2]["waited"]


def received(wire: Wire) -> dict[str, int]:
    frame = wire.receive(2)
    assert frame is not None
    return copies.programs.unpack(FIELDS, frame)


def test_copies_wait_with_all_that_makes_them(wire: Wire) -> None:
    device = XdpDevice(rates={2: Rate.parse("10mbit")})
    try:
        for port in HOSTS:
            device.add_port(port, f"port{port}")
        copies_leave(device, wire, 5)
    finally:
        device.close()


def test_a_rate_of_traffic_control_is_found(wire: Wire) -> None:
    assert rate_of("port1") is None
    traffic_control("qdisc add dev port1 root tbf rate 500kbit burst 15k latency 50ms")
    traffic_control("qdisc add dev port2 root handle 5: htb default 1")
    traffic_control("class add dev port2 parent 5: classid 5:1 htb rate 2mbit")
    assert (rate_of("port1"), rate_of("port2")) == (Rate(bits=500_000), Rate(bits=2_000_000))
    assert rate_of("nowhere") is None


def test_simple_switch_grpc_holds_packets_where_traffic_control_has_a_rate(
    wire: Wire, tmp_path: Path
) -> None:
    traffic_control("qdisc add dev port2 root handle 5: htb default 1")
    traffic_control("class add dev port2 parent 5: classid 5:1 htb rate 100kbit")
    root, log = Path(__file__).parents[3], tmp_path / "log"
    ports = [word for port in HOSTS for word in ("-i", f"{port}@port{port}")]
    command = [str(root / "bin" / "simple_switch_grpc"), *ports, str(root / "tests/p4/build/queue.json")]
    with log.open("w") as said:
        address = ["--", "--grpc-server-addr", f"unix:{tmp_path}/p4runtime"]
        process = subprocess.Popen([*command, "--xdp-mode", "native", *address], stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 30
        while "listening" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        wire.send(1, packet(0))
        assert received(wire)["number"] == 0
        for index in (1, 2):
            wire.send(1, packet(index) + bytes(1200))
        first, second = received(wire), received(wire)
        assert (first["number"], second["number"], second["dequeued_depth"]) == (1, 2, 0)
        assert second["waited"] > 50_000, "the first one takes the port for a tenth of a second"
    finally:
        process.terminate()
        process.wait()


def traffic_control(arguments: str) -> None:
    subprocess.run(["tc", *arguments.split()], check=True)
