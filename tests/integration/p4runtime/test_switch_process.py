"""The switch as a process: packets through real ports, starting with a program, dying, and refusing."""

from __future__ import annotations

import itertools
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4r

from tests.integration.netns import inside, ip
from tests.integration.p4runtime.conftest import XdpSwitch
from tests.unit.p4runtime.client import DELETE, INSERT, MODIFY, Client, Stream, direct, exact
from tests.unit.p4runtime.conftest import HERE

pytestmark = pytest.mark.root

SOCKET_BUFFER_FORCE = 33
ETHERNET = bytes.fromhex("020000000002 020000000001")
UNKNOWN_TYPE = ETHERNET + b"\x88\xb5" + bytes(46)


@pytest.fixture
def hosts(switch: XdpSwitch) -> Iterator[dict[int, socket.socket]]:
    """Raw sockets on the far ends of ports 1 and 2."""
    sockets = {}
    with inside(switch.namespace):
        for number in (1, 2):
            sockets[number] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            sockets[number].bind((f"h{number}", 0))
            sockets[number].settimeout(5)
    yield sockets
    for opened in sockets.values():
        opened.close()


def ipv4(destination: int) -> bytes:
    header = bytes.fromhex("4500002e00000000 40ff0000 0a090909".replace(" ", ""))
    return ETHERNET + b"\x08\x00" + header + destination.to_bytes(4, "big") + bytes(26)


def arrives(port: socket.socket, expected: bytes) -> None:
    """Wait for exactly this frame, past what else the port may carry."""
    seen = []
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        frame = port.recv(4096)
        if frame == expected:
            return
        seen.append(frame.hex())
    pytest.fail(f"expected {expected.hex()}, got {seen}")


def packet_out(port: int, payload: bytes) -> p4r.PacketOut:
    packet = p4r.PacketOut(payload=payload)
    packet.metadata.add(metadata_id=1, value=port.to_bytes(2, "big"))
    return packet


def test_a_packet_out_leaves_by_the_port_it_names(client: Client, hosts) -> None:
    with Stream(client.stub) as stream:
        stream.claim(1)
        for number, opened in hosts.items():
            payload = ETHERNET + b"\x88\xb5" + bytes([number]) * 46
            stream.send(packet=packet_out(number, payload))
            arrives(opened, payload)


def test_a_punted_frame_comes_in_with_its_port(client: Client, hosts) -> None:
    with Stream(client.stub) as stream:
        stream.claim(1)
        for number, opened in hosts.items():
            opened.send(UNKNOWN_TYPE)
            message = stream.receive().packet
            assert message.payload == UNKNOWN_TYPE
            assert message.metadata[0].value == bytes([number])


def test_counters_are_exact_and_readable_while_traffic_runs(client: Client, hosts) -> None:
    names = client.names
    entry = names.entry("host", exact(1, 7), action=direct(names.action("punt")))
    client.write((INSERT, entry))
    query = names.entry("host", exact(1, 7), counter_data=p4r.CounterData())
    counts = []
    for _ in range(10):
        for _ in range(100):
            hosts[1].send(ipv4(7))
        counts.append(client.read(query)[0].counter_data.packet_count)
    assert counts == sorted(counts)
    found = client.read(query)[0].counter_data
    assert (found.packet_count, found.byte_count) == (1000, 1000 * len(ipv4(7)))


def test_a_packet_makes_the_round_through_the_controller_in_a_few_milliseconds(client: Client, hosts) -> None:
    with Stream(client.stub) as stream:
        stream.claim(1)
        rounds = []
        for number in range(100):
            frame = ETHERNET + b"\x88\xb5" + number.to_bytes(46, "big")
            began = time.perf_counter()
            hosts[1].send(frame)
            stream.send(packet=packet_out(2, stream.receive().packet.payload))
            arrives(hosts[2], frame)
            rounds.append(1000 * (time.perf_counter() - began))
    # 1 ms where nothing else runs; the bound only catches a wait that does not belong there.
    assert statistics.median(rounds) < 20, f"milliseconds per round: {sorted(rounds)}"


def test_a_batch_at_once_is_seen_whole_by_every_packet(client: Client, hosts) -> None:
    """Two tables take turns in sending packets on: where neither did for a moment, packets were lost."""
    names = client.names

    def entry(table: str, action: str, *arguments: int) -> p4r.TableEntry:
        keys = {"route": [p4r.FieldMatch(field_id=1)], "acl": [exact(3, 1)]}[table]
        if table == "route":
            keys[0].lpm.value, keys[0].lpm.prefix_len = bytes([10, 0, 0, 0]), 8
        found = names.entry(table, *keys, action=direct(names.action(action, *arguments)))
        found.priority = 1 if table == "acl" else 0
        return found

    client.write(
        (INSERT, names.entry("host", exact(1, 0x0A000001), action=direct(names.action("punt")))),
        (INSERT, entry("route", "forward", 2, 1)),
    )
    turns = [
        [(MODIFY, entry("route", "drop")), (INSERT, entry("acl", "forward", 2, 2))],
        [(DELETE, entry("acl", "forward", 2, 2)), (MODIFY, entry("route", "forward", 2, 1))],
    ]
    done = threading.Event()
    sent = 0

    def send() -> None:
        nonlocal sent
        while not done.is_set():
            hosts[1].send(ipv4(0x0A000001))
            sent += 1
            time.sleep(0.0002)

    sender = threading.Thread(target=send)
    hosts[2].setsockopt(socket.SOL_SOCKET, SOCKET_BUFFER_FORCE, 64 << 20)
    sender.start()
    try:
        for batch in [*turns, *turns]:
            client.write(*batch, atomicity=p4r.WriteRequest.DATAPLANE_ATOMIC)
            with pytest.raises(grpc.RpcError):
                client.write(*batch, atomicity=p4r.WriteRequest.DATAPLANE_ATOMIC)
    finally:
        done.set()
        sender.join()
    ways = []
    while len(ways) < sent:
        frame = hosts[2].recv(4096)
        if frame[12:14] == b"\x08\x00":
            ways.append(int.from_bytes(frame[:6], "big"))
    assert [way for way, _ in itertools.groupby(ways)] == [1, 2, 1, 2, 1]
    query = names.entry("host", exact(1, 0x0A000001), counter_data=p4r.CounterData())
    assert client.read(query)[0].counter_data.packet_count == sent, "no count is lost, either"


def test_sigkill_leaves_nothing_behind_and_the_switch_starts_again(tmp_path: Path) -> None:
    switch = XdpSwitch(tmp_path)
    try:
        client = switch.client()
        client.push()
        client.channel.close()
        assert "xdp" in ip("link show s1", switch.namespace)
        switch.kill()
        assert "xdp" not in ip("link show s1", switch.namespace)
        lines = ip("-o link", switch.namespace).splitlines()
        names = [line.split(":")[1].strip().split("@")[0] for line in lines]
        assert sorted(names) == ["h1", "h2", "lo", "s1", "s2"]
        switch.start("--no-p4")
        client = switch.client()
        with pytest.raises(grpc.RpcError) as caught:
            client.read(p4r.TableEntry())
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        client.channel.close()
    finally:
        switch.close()


def test_a_program_given_at_start_runs(tmp_path: Path) -> None:
    switch = XdpSwitch(tmp_path, str(HERE / "features.json"))
    try:
        client = switch.client()
        assert len(client.read(client.names.entry("protocol"))) == 2
        client.channel.close()
    finally:
        switch.close()


def test_sigterm_stops_it_cleanly(tmp_path: Path) -> None:
    switch = XdpSwitch(tmp_path)
    try:
        client = switch.client()
        with Stream(client.stub) as stream:
            stream.claim(1)
            assert switch.process is not None
            switch.process.terminate()
            assert switch.process.wait(10) == 0, switch.log.read_text()
        client.channel.close()
        assert "Traceback" not in switch.log.read_text()
    finally:
        switch.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--no-p4", "-i", "1@nosuch"], "has no interface nosuch"),
        (["--no-p4", "--", "--grpc-server-addr", "unix:/nowhere/x"], "cannot listen on unix:/nowhere/x"),
        ([str(HERE / "features.p4"), "--p4info", str(HERE / "features.p4info.txtpb")], "features.p4"),
        ([str(HERE / "features.json"), "--p4info", str(HERE / "features.json")], "is no P4Info in text form"),
    ],
)
def test_what_keeps_it_from_starting_is_said(switch: XdpSwitch, arguments: list[str], said: str) -> None:
    result = subprocess.run(
        ["ip", "netns", "exec", switch.namespace, sys.executable, "-m", "duet_p4.xdp_switch", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_a_port_in_use_is_said(switch: XdpSwitch) -> None:
    with inside(switch.namespace):
        taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    with taken:
        result = subprocess.run(
            [
                *("ip", "netns", "exec", switch.namespace, sys.executable, "-m", "duet_p4.xdp_switch"),
                *("--no-p4", "--", "--grpc-server-addr", address),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert result.returncode == 1
    assert f"cannot listen on {address}: Address already in use" in result.stderr
