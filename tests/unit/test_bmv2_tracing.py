"""What is read of BMv2's log and event log; bmv2_packets.log is what it said of packets of l2_switch.p4."""

import asyncio
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from duet_p4.api.trace import PacketTrace, TraceFlow
from duet_p4.switch_agent.bmv2_tracing import Tail, Wanted
from duet_p4.tracing.bmv2_events import Numbers, signature, subscribed
from duet_p4.tracing.bmv2_log import Messages, Passages, Reader
from duet_p4.tracing.frames import belongs
from duet_p4.xdp_switch.compiler import ir
from duet_p4.xdp_switch.compiler.reader import read
from duet_p4.xdp_switch.matching import hit_of
from ptf_tests.conformance.programs import PROGRAMS

LOG = (Path(__file__).parent / "bmv2_packets.log").read_text()
DROPPED = bytes.fromhex("0180c2000001020000000004810080640000") + bytes(40)
TAGGED = bytes.fromhex("02000000000802000000000005dc") + bytes(40)
SENT = TAGGED[:12] + bytes.fromhex("8100006405dc") + TAGGED[14:]
FLOW = TraceFlow(
    source="198.51.100.1", destination="10.0.0.1", protocol=6, source_port=999, destination_port=80
)


def traces(log: str, pieces: int = 1) -> dict[int, PacketTrace]:
    """Return the traces in a log that comes in pieces, by the packets' numbers."""
    messages, passages = Messages(), Passages()
    reader = Reader(read(PROGRAMS["l2_switch"].device_config.read_bytes()))
    size = -(-len(log) // pieces)
    told = [log[at : at + size] for at in range(0, len(log), size)]
    ended = [one for text in (*told, "") for message in messages.cut(text) for one in passages.take(message)]
    frames = {3: DROPPED, 17: TAGGED}
    return {one.packet: reader.trace(one, frames[one.packet]) for one in (*ended, *passages.rest())}


def test_a_dropped_packet_is_told_with_the_entry_that_it_hit() -> None:
    dropped = traces(LOG)[3]
    assert (dropped.verdict, dropped.ingress, dropped.egress) == ("dropped", "2", None)
    assert dropped.reason == "the program marked it to drop"
    assert [step.name for step in dropped.steps if step.kind == "state"] == [
        "start",
        "parse_ethernet",
        "parse_vlan",
    ]
    table = next(step for step in dropped.steps if step.kind == "table")
    (key,) = table.key
    assert (table.name, table.hit, table.action) == ("L2Ingress.reserved_table", True, "L2Ingress.drop")
    assert (key.field, key.kind, key.value, key.wanted) == (
        *("dst_addr", "exact"),
        *("0x0180c2000001", "0x0180c2000001"),
    )
    assert table.line is not None and table.line.file.endswith("l2_switch.p4")
    headers = {value.name: value.value for value in dropped.headers_in}
    assert headers["ethernet.dst_addr"] == "0x0180c2000001" and headers["vlan.id"] == "0x064"


def test_a_sent_packet_is_told_with_arguments_conditions_and_how_it_left() -> None:
    said = f"Sending packet of length {len(SENT)} on port 0: {SENT.hex()}"
    sent = traces(f"{LOG}\n[08:42:27.400] [bmv2] [I] [thread 18427] {said}")[17]
    assert (sent.verdict, sent.egress, sent.frame_out) == ("sent", "0", SENT.hex())
    tables = {step.name: step for step in sent.steps if step.kind == "table"}
    forward = tables["L2Ingress.forwarding_table"]
    assert [(key.field, key.value, key.wanted) for key in forward.key] == [
        ("vlan_id", "0x064", "0x064"),
        ("dst_addr", "0x020000000008", "0x020000000008"),
    ]
    assert [(one.name, one.value) for one in forward.arguments] == [("port", "0x000"), ("tagged", "0x1")]
    assert tables["L2Ingress.reserved_table"].hit is False
    taken = [step.name for step in sent.steps if step.kind == "branch" and step.taken]
    assert "meta.keep_tag == 1 && !hdr.vlan.isValid()" in taken
    assert {value.name: value.value for value in sent.headers_out}["vlan.id"] == "0x064"
    assert sent.began_ns <= sent.ended_ns <= time.monotonic_ns()


@pytest.mark.parametrize("pieces", [2, 7, 5000])
def test_a_log_is_read_as_it_comes(pieces: int) -> None:
    def told(found: dict[int, PacketTrace]) -> list[object]:
        return [one.model_copy(update={"began_ns": 0, "ended_ns": 0}) for one in found.values()]

    assert told(traces(LOG, pieces)) == told(traces(LOG))


def test_only_packets_of_the_flow_are_told_and_those_that_are_not_found_again_are_known() -> None:
    frame = bytes(Ether() / IP(src="198.51.100.1", dst="10.0.0.1") / TCP(sport=999, dport=80))
    said = f"Received packet of length {len(frame)} on port 2: {frame.hex()}"
    received = f"[08:42:27.200] [bmv2] [I] [thread 1] {said}\n"
    for told, expected, lost in ((signature(frame), [frame.hex()], 0), (7, [], 1), (None, [], 1)):
        numbers = Numbers()
        if told is not None:
            numbers.take(struct.pack("=iQIQQQi", 0, 1, 0, told, 3, 0, 2))
        reader = Reader(read(PROGRAMS["l2_switch"].device_config.read_bytes()))
        wanted = Wanted(FLOW, numbers, reader, patience_s=0.0)
        found = [one for text in (received + LOG, "", "") for one in wanted.take(text)]
        assert [one.frame for one in found] == expected
        assert len(wanted.pending) == lost


def test_a_log_that_is_begun_anew_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "packets.txt"
    path.write_text("before\n")
    tail = Tail(path)
    with path.open("a") as log:
        log.write("one\n")
    assert tail.read() == "one\n"
    path.rename(tmp_path / "packets.1.txt")
    with (tmp_path / "packets.1.txt").open("a") as log:
        log.write("two\n")
    path.write_text("three\n")
    assert tail.read() == "two\nthree\n"
    assert tail.read() == ""


def test_the_event_log_of_a_publisher_says_which_number_a_frame_has(tmp_path: Path) -> None:
    event = struct.pack("=iQIQQQi", 0, 1, 0, signature(b"frame"), 42, 0, 3)
    other = struct.pack("=iQIQQQii", 12, 1, 0, 5, 42, 0, 1, 2)

    async def publish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\0SP\0\0\x20\0\0")
        assert await reader.readexactly(8) == b"\0SP\0\0\x21\0\0"
        for message in (event, other):
            writer.write(struct.pack("!BQ", 1, len(message)) + message)
        await reader.read()
        writer.close()

    async def run() -> None:
        path = tmp_path / "events.ipc"
        async with await asyncio.start_unix_server(publish, path), subscribed(path) as numbers:
            async with asyncio.timeout(30):
                while numbers.signature_of(42) is None:  # noqa: ASYNC110 - what the socket brings
                    await asyncio.sleep(0.01)
            assert numbers.signature_of(42) == signature(b"frame")
        with pytest.raises(OSError, match="No such file"):
            async with subscribed(tmp_path / "nobody.ipc"):
                pass

    asyncio.run(run())


def test_a_signature_is_the_xxh64_of_a_frame() -> None:
    assert signature(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


CLIENT, VIP = "198.51.100.1", "10.0.0.1"


@pytest.mark.parametrize(
    ("packet", "flow", "expected"),
    [
        (IP(src=CLIENT, dst=VIP) / TCP(sport=999, dport=80), FLOW, True),
        (IP(src=VIP, dst=CLIENT) / TCP(sport=80, dport=999), FLOW, True),
        (
            IP(src="172.30.0.1", dst="100.1.1.1") / IP(src=CLIENT, dst=VIP) / TCP(sport=999, dport=80),
            FLOW,
            True,
        ),
        (IP(src=CLIENT, dst=VIP) / TCP(sport=998, dport=80), FLOW, False),
        (IP(src=CLIENT, dst=VIP) / UDP(sport=999, dport=80), FLOW, False),
        (IP(src=CLIENT, dst=VIP, frag=9) / TCP(sport=999, dport=80), FLOW, False),
        (IP(src=CLIENT, dst=VIP) / ICMP(id=7), TraceFlow(destination=VIP, protocol=1, source_port=7), True),
        (IP(src=CLIENT, dst=VIP) / ICMP(id=8), TraceFlow(destination=VIP, protocol=1, source_port=7), False),
    ],
)
def test_a_frame_belongs_to_a_flow_there_and_back_bare_and_in_a_tunnel(
    packet: Packet, flow: TraceFlow, expected: bool
) -> None:
    assert belongs(bytes(Ether() / packet), flow) is expected
    assert not belongs(bytes(Ether(type=0x806) / packet), flow)


def keys(*kinds: str) -> Sequence[ir.KeyField]:
    return [ir.KeyField(f"k{n}", kind, ir.FieldRef("h", f"f{n}"), 32) for n, kind in enumerate(kinds)]


def test_the_longest_prefix_or_else_the_highest_priority_is_hit() -> None:
    ten, wide = int(IPv4Address("10.0.0.0")), ((0, 0),)
    prefixes = {(((ten, 8),), 0), (((ten, 24),), 0), (wide, 0)}
    assert hit_of(prefixes, [ten + 9], keys("lpm")) == (((ten, 24),), 0)
    assert hit_of(prefixes, [ten + 999], keys("lpm")) == (((ten, 8),), 0)
    assert hit_of(prefixes, [1], keys("lpm")) == (wide, 0)
    ternary = {(((4, 12), (0, 99)), 1), (((4, 4), None), 7)}
    assert hit_of(ternary, [4, 50], keys("ternary", "range")) == (((4, 4), None), 7)
    assert hit_of(ternary, [8, 50], keys("ternary", "range")) is None
    assert hit_of({((3, 4), 0)}, [3, 4], keys("exact", "exact")) == ((3, 4), 0)
