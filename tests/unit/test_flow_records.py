"""Flow records: what samples of packets add up to, what programs write of them, IPFIX as others read it."""

import asyncio
import os
import re
import shutil
import socket
import struct
from collections import Counter
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.netflow import NetflowFlowsetV9, NetflowHeader
from scapy.packet import Raw

from duet_p4 import bpf
from duet_p4.api.flows import FlowRecord
from duet_p4.api.host import HostDip, HostVip
from duet_p4.bpf import libbpf
from duet_p4.flow_hash import Flow
from duet_p4.flows import cache, ipfix
from duet_p4.flows.cache import FlowCache, Sample
from duet_p4.flows.service import FlowConfig, FlowRecords
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.smux.xdp import XdpDatapath
from duet_p4.switch_agent.sampling import samples_of
from ptf_tests.conformance import vectors
from ptf_tests.conformance.programs import PROGRAMS
from ptf_tests.conformance.xdp import Xdp
from tests.unit.smux import packets
from tests.unit.smux.packets import ANNOUNCED, MTU, MUX, client, wire

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
SOURCES = Path(bpf.INCLUDE).parents[1]
DIP = IPv4Address("100.1.1.1")
MOST_ADDED = {"smux": 16, "inbound": 8, "outbound": 24}
"""Instructions, of more than a thousand: the load, and what the compiler saves for what never runs.

Packets leave `smux` in two places, and `outbound` in several.
"""
XLATED_AT = 20  # offset of bpf_prog_info.xlated_prog_len


def flow(port: int, protocol: int = 6) -> Flow:
    return Flow(IPv4Address("192.0.2.7"), IPv4Address("10.0.0.1"), protocol, port, 80)


def sample(port: int, at: float, size: int = 100) -> Sample:
    return Sample(flow(port), DIP, size, at)


def test_samples_of_a_flow_add_up_and_the_latest_flow_comes_first() -> None:
    kept = FlowCache("smux1", "smux", 8)
    kept.add([sample(1, 10.0), sample(2, 11.0), sample(1, 12.0, 300)])
    first, second = kept.records()
    assert (first.source_port, first.packets, first.bytes, first.first, first.last) == (
        1,
        16,
        3200,
        10.0,
        12.0,
    )
    assert (second.source_port, second.packets, second.sampling) == (2, 8, 8)


def test_a_record_ends_when_its_flow_is_idle_or_has_gone_on_for_long_and_is_told_once() -> None:
    kept = FlowCache("smux1", "smux", 1)
    kept.add([sample(1, 0.0), sample(2, 0.0), sample(2, cache.IDLE_S)])
    assert [record.source_port for record in kept.expire(cache.IDLE_S + 1)] == [1]
    assert not kept.expire(cache.IDLE_S + 1)
    kept.add([sample(2, cache.ACTIVE_S)])
    assert [record.source_port for record in kept.expire(cache.ACTIVE_S + 1)] == [2]
    assert not kept.records()


def test_too_many_flows_end_those_that_are_silent_for_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_FLOWS", 2)
    kept = FlowCache("smux1", "smux", 1)
    kept.add([sample(1, 0.0), sample(2, 1.0), sample(1, 2.0), sample(3, 3.0)])
    assert [record.source_port for record in kept.records()] == [3, 1]
    assert [record.source_port for record in kept.expire(3.0)] == [2]


addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
ports = st.integers(0, 65535)
records = st.builds(
    FlowRecord,
    device=st.just("smux1"),
    kind=st.just("smux"),
    source=addresses,
    source_port=ports,
    destination=addresses,
    destination_port=ports,
    protocol=st.integers(0, 255),
    dip=addresses,
    packets=st.integers(0, 2**60),
    bytes=st.integers(0, 2**60),
    reply_packets=st.integers(0, 2**60),
    reply_bytes=st.integers(0, 2**60),
    sampling=st.integers(1, 65536),
    first=st.integers(0, 2**31),
    last=st.integers(0, 2**31),
)


def decoded(message: bytes) -> list[dict[int, int]]:
    """Return the records of a message by their elements' numbers, cut by the template as Scapy reads it.

    Its own names do not tell the elements of the reverse direction from the others.
    """
    packet = NetflowHeader(message)
    assert packet.version == 10 and packet.getlayer(1).length == len(message)
    templates = packet[NetflowFlowsetV9]
    fields = templates.templates[0].template_fields
    assert {field.enterpriseNumber for field in fields if field.enterpriseBit} == {29305}
    sizes = [(field.enterpriseBit << 15 | field.fieldType, field.fieldLength) for field in fields]
    data = message[16 + templates.length :]
    assert struct.unpack_from("!HH", data) == (templates.templates[0].templateID, len(data))
    found = []
    for start in range(4, len(data), sum(size for _, size in sizes)):
        record, at = {}, start
        for number, size in sizes:
            record[number] = int.from_bytes(data[at : at + size], "big")
            at += size
        found.append(record)
    return found


@given(st.lists(records, min_size=1, max_size=60))
def test_others_read_in_ipfix_what_was_recorded(told: list[FlowRecord]) -> None:
    exporter = ipfix.Exporter(7)
    messages = list(exporter.messages(told, 1_700_000_000.0))
    assert all(len(message) <= ipfix.MESSAGE_BYTES for message in messages)
    read = [record for message in messages for record in decoded(message)]
    assert [[record[n] for _, n, _, _ in ipfix.ELEMENTS] for record in read] == [
        [int.from_bytes(encode(record), "big") for *_, encode in ipfix.ELEMENTS] for record in told
    ]
    headers = [struct.unpack_from("!HHIII", message) for message in messages]
    assert {(version, time, domain) for version, _, time, _, domain in headers} == {(10, 1_700_000_000, 7)}
    assert headers[0][3] == 0 and next(exporter.messages(told, 0.0))[8:12] == len(told).to_bytes(4, "big")


def test_records_that_end_reach_the_collector() -> None:
    async def run() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
            collector.bind(("127.0.0.1", 0))
            collector.settimeout(10)
            config = FlowConfig(sampling=4, collector="127.0.0.1", collector_port=collector.getsockname()[1])
            waiting = [[sample(5, 1.0, 1000)]]
            flows = FlowRecords("smux1", "smux", config, lambda: waiting.pop() if waiting else [])
            task = asyncio.create_task(flows.run())
            message = await asyncio.to_thread(collector.recv, 2048)
            task.cancel()
            return message

    (record,) = decoded(asyncio.run(run()))
    assert [(record[n]) for n in (7, 226, 2, 1, 305)] == [5, int(DIP), 4, 4000, 4]


def test_what_an_agent_knows_when_it_ends_reaches_the_collector() -> None:
    async def run() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
            collector.bind(("127.0.0.1", 0))
            collector.settimeout(10)
            config = FlowConfig(sampling=1, collector="127.0.0.1", collector_port=collector.getsockname()[1])
            polled = asyncio.Event()

            def poll() -> list[Sample]:
                first = not polled.is_set()
                polled.set()
                return [sample(6, 9e9)] if first else []

            task = asyncio.create_task(FlowRecords("smux1", "smux", config, poll).run())
            await polled.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return collector.recv(2048)

    (record,) = decoded(asyncio.run(run()))
    assert record[7] == 6


@pytest.mark.root
@needs_root
def test_an_smux_that_samples_every_packet_tells_each_and_one_that_samples_none_nothing() -> None:
    frames = [wire(client(packets.PLAIN, UDP(sport=port, dport=53) / Raw(bytes(port)))) for port in (3, 4, 4)]
    for sampling, expected in ((1, [(3, 45), (4, 46), (4, 46)]), (0, [])):
        path = XdpDatapath(MUX, ANNOUNCED, uplink_mtu=MTU, flow_sampling=sampling)
        path.put_vip(packets.PLAIN)
        dips = [IPv4Address(path.program.test_run(frame).data_out[30:34]) for frame in frames]
        path.program.test_run(wire(client(packets.PLAIN, UDP(sport=9, dport=53), ttl=1)))
        found = path.samples.poll()
        assert [(one.flow.source_port, one.bytes) for one in found] == expected
        assert [one.dip for one in found] == dips[: len(expected)] and path.samples.lost == 0
        assert all(one.flow.destination == packets.PLAIN.address for one in found)
        path.close()


@pytest.mark.root
@needs_root
def test_a_server_tells_who_has_the_flow_of_which_vip_and_what_it_answers() -> None:
    path = HostDatapath(flows=1024, muxes=IPv4Network("172.30.0.0/16"), flow_sampling=1)
    path.put_vip(HostVip(address="10.0.0.1", dips=(HostDip(address="100.1.1.1"),)))
    request = IP(src="192.0.2.7", dst="10.0.0.1") / TCP(sport=1000, dport=80, flags="S")
    path.inbound.test_run(bytes(Ether() / IP(src="172.30.0.9", dst="100.1.1.1") / request))
    reply = IP(src="100.1.1.1", dst="192.0.2.7") / TCP(sport=80, dport=1000, flags="SA")
    path.outbound.test_run(bytes(Ether() / reply / Raw(bytes(100))))
    begun, answered = path.samples.poll()
    assert (begun.flow, begun.dip, begun.bytes, begun.replies) == (flow(1000), DIP, 54, 0)
    assert (answered.flow, answered.dip, answered.bytes, answered.replies) == (flow(1000), DIP, 154, 1)
    path.close()


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(
    ("folder", "source", "program"),
    [
        ("smux", "smux.bpf.c", "smux"),
        ("host_agent", "host.bpf.c", "inbound"),
        ("host_agent", "host.bpf.c", "outbound"),
    ],
)
def test_without_samples_no_more_is_left_of_them_than_the_load_of_a_constant(
    folder: str, source: str, program: str, tmp_path: Path
) -> None:
    bare = tmp_path / "bpf"
    shutil.copytree(SOURCES / folder / "bpf", bare)
    for path in bare.iterdir():
        path.write_text(re.sub(r"^ +sample_(flow|reply)\(.*;$", "", path.read_text(), flags=re.MULTILINE))
    added = _in_kernel(SOURCES / folder / "bpf" / source, program) - _in_kernel(bare / source, program)
    assert 0 <= added <= MOST_ADDED[program]


def _in_kernel(source: Path, program: str) -> int:
    """Return how many instructions the kernel keeps of a program."""
    with bpf.Object(bpf.compile_object(source)) as loaded:
        loaded.load()
        info = libbpf.object_info(loaded.program(program).fd, XLATED_AT + 4)
        return int(struct.unpack_from("=I", info, XLATED_AT)[0]) // 8


@pytest.mark.root
@needs_root
def test_a_switch_that_samples_every_frame_tells_the_flows_that_it_has_tunneled() -> None:
    recording = max(
        vectors.read(vectors.path_of(PROGRAMS["hmux"])).recordings,
        key=lambda one: sum(_is_tunneled(frame) for left in one.expected for _, frame in left),
    )
    tunneled = [[IP(frame[14:]) for _, frame in left if _is_tunneled(frame)] for left in recording.expected]
    mux = Counter(outer.src for outers in tunneled for outer in outers).most_common(1)[0][0]
    told = 0
    with Xdp(PROGRAMS["hmux"], sampling=1) as target:
        target.write(recording.state.updates)
        for case, outers in zip(recording.cases, tunneled, strict=True):
            target.send([(case.port, case.frame)])
            found = list(samples_of(b"".join(target.pipeline.samples()), IPv4Address(mux)))
            own = [outer for outer in outers if outer.src == mux]
            assert [(one.flow.source, one.dip) for one in found] == [
                (IPv4Address(outer.payload.src), IPv4Address(outer.dst)) for outer in own
            ]
            told += len(found)
    assert told > 3


def _is_tunneled(frame: bytes) -> bool:
    return len(frame) >= 62 and frame[12:15] == b"\x08\x00\x45" and frame[23] == 4
