"""The instrumented variants of SMux and server: they forward as the programs do, and tell how."""

import os
import re
import shutil
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from duet_p4 import bpf
from duet_p4.api.host import HostDip, HostVip
from duet_p4.api.trace import PacketTrace, Step, TraceFlow
from duet_p4.flow_hash import Flow, flow_hash
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.smux.datapath import EXITS, Timeouts
from duet_p4.smux.xdp import XdpDatapath
from duet_p4.tracing.instrumented import Instrumented
from duet_p4.tracing.steps import Steps
from tests.unit.smux import packets
from tests.unit.smux.packets import ANNOUNCED, FIXTURES, FRAGMENT_MUX, MTU, MUX, Fixture, client, wire

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
root = [pytest.mark.root, needs_root]
SOURCES = Path(bpf.INCLUDE).parents[1]
SMUX, HOST = SOURCES / "smux" / "bpf", SOURCES / "host_agent" / "bpf"
HOOK = re.compile(r"\bTRACE(?:_BEGIN_\w+|_END_\w+)?\([^;]*?\);")
LOAD_64_BIT = 0x18


class Traced:
    """An SMux that holds every VIP and TIP of the fixtures, and its variant."""

    def __init__(self) -> None:
        macs = [bytes.fromhex(packets.MUX_MAC.replace(":", ""))]
        self.path = XdpDatapath(
            MUX,
            ANNOUNCED,
            uplink_mtu=MTU,
            timeouts=Timeouts(other_s=0.0),
            macs=macs,
            fragment_mux=FRAGMENT_MUX,
            muxes=IPv4Network("172.30.0.0/16"),
        )
        for vip in packets.VIPS:
            self.path.put_vip(vip)
        self.path.put_tip(packets.KNOWN_TIP)
        self.variant = self.path.instrument()

    def send(self, frame: bytes, flow: TraceFlow | None = None) -> tuple[bytes, list[PacketTrace]]:
        self.variant.follow(flow, 1)
        out = self.variant.program("smux").test_run(frame).data_out
        return out, self.variant.poll()


@pytest.fixture(scope="module")
def smux() -> Iterator[Traced]:
    made = Traced()
    yield made
    made.variant.close()
    made.path.close()


def steps(trace: PacketTrace, name: str) -> list[Step]:
    return [step for step in trace.steps if step.name == name]


def values(step: Step) -> dict[str, int]:
    return {value.name: int(value.value, 16) for value in step.arguments}


@pytest.mark.parametrize("folder", [SMUX, HOST], ids=["smux", "server"])
def test_every_step_is_taken_somewhere_and_every_place_takes_a_step_that_there_is(folder: Path) -> None:
    taken = {
        name
        for source in folder.glob("*.[ch]")
        for name in re.findall(r"TRACE\((STEP_\w+)", source.read_text())
    }
    assert taken == set(Steps(folder, {}).names)


@pytest.mark.parametrize(
    ("folder", "source", "programs"),
    [
        pytest.param(SMUX, "smux.bpf.c", ("smux",), marks=root),
        pytest.param(HOST, "host.bpf.c", ("inbound", "outbound"), marks=root),
    ],
    ids=["smux", "server"],
)
def test_a_program_that_nobody_traces_is_the_one_without_hooks(
    folder: Path, source: str, programs: tuple[str, ...], tmp_path: Path
) -> None:
    bare = tmp_path / "bpf"
    shutil.copytree(folder, bare)
    for path in bare.iterdir():
        text = HOOK.sub(";", path.read_text())
        path.write_text(re.sub(r'#include "(?:trace|steps)\.h"\n', "", text))
        assert not re.search(r"^ +TRACE(?:_BEGIN_\w+|_END_\w+)?\(", path.read_text(), re.MULTILINE)
    assert _code(folder / source, programs) == _code(bare / source, programs)


def _code(source: Path, programs: tuple[str, ...]) -> list[bytes]:
    """Return the instructions of programs, without which maps they have."""
    with bpf.Object(bpf.compile_object(source)) as loaded:
        loaded.load()
        return [
            b"".join(
                code[at : at + 8] if code[at] != LOAD_64_BIT else code[at : at + 1]
                for at in range(0, len(code), 8)
            )
            for code in map(loaded.instructions, programs)
        ]


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.description)
def test_a_traced_packet_fares_at_an_smux_as_any(smux: Traced, fixture: Fixture) -> None:
    frame = fixture.frame()
    out, (trace,) = smux.send(frame)
    assert out == (fixture.expected() if fixture.expected else frame)
    assert (trace.frame, trace.length) == (frame[:256].hex(), len(frame))
    assert trace.steps[-1].counters == (fixture.exit.lower(),)
    verdict = {"PASS": "passed", "DROP": "dropped"}.get(fixture.exit.partition("_")[0], "sent")
    assert trace.verdict == verdict
    if verdict == "dropped":
        assert trace.reason == f"{EXITS[fixture.exit]} (counter {fixture.exit.lower()})"
    else:
        assert trace.frame_out == out[:256].hex()


@pytest.mark.root
@needs_root
def test_an_smux_tells_hash_slot_and_dip_of_a_new_flow_and_what_it_remembers_of_a_known_one(
    smux: Traced,
) -> None:
    vip = packets.PLAIN
    assert vip.group is not None
    flow = Flow(IPv4Address(packets.CLIENT), vip.address, 6, 7777, 80)
    out, (first,) = smux.send(wire(client(vip, TCP(sport=7777, dport=80, flags="S"))))
    service, (hashed,), (slot,) = steps(first, "services")[0], steps(first, "hash"), steps(first, "slots")
    assert service.hit and {key.field: int(key.value, 16) for key in service.key}["vip_addr"] == int(
        vip.address
    )
    assert values(hashed)["vip_hash"] == flow_hash(flow)
    picked = vip.group.members[vip.group.slots[flow_hash(flow) % len(vip.group.slots)]]
    assert values(slot)["dip"] == int(picked.encap) == int.from_bytes(out[30:34], "big")
    assert slot.line is not None and slot.line.file == "smux.bpf.c" and "encap" not in slot.line.text
    assert steps(first, "put the flow on probation")
    (encapsulated,) = steps(first, "encapsulate")
    assert values(encapsulated)["dip"] == int(picked.encap)
    assert {v.name: int(v.value, 16) for v in first.headers_out}["outer_ipv4.dst_addr"] == int(picked.encap)
    _, (second,) = smux.send(wire(client(vip, TCP(sport=7777, dport=80, flags="A"))))
    assert [step.hit for step in steps(second, "connections") + steps(second, "probation")] == [False, True]
    assert steps(second, "take the flow as a connection") and not steps(second, "hash")
    _, (third,) = smux.send(wire(client(vip, TCP(sport=7777, dport=80, flags="A"))))
    (known,) = steps(third, "connections")
    assert known.hit and values(known)["dip"] == int(picked.encap)


@pytest.mark.root
@needs_root
def test_only_packets_of_the_flow_are_traced_at_an_smux(smux: Traced) -> None:
    flow = TraceFlow(source=packets.CLIENT, destination=packets.PLAIN.address, protocol=6, source_port=5005)
    assert not smux.send(wire(client(packets.PLAIN, TCP(sport=5006, dport=80))), flow)[1]
    assert smux.send(wire(client(packets.PLAIN, TCP(sport=5005, dport=80))), flow)[1]


@pytest.mark.root
@needs_root
def test_a_server_tells_how_a_request_came_to_its_dip_and_how_the_answer_left() -> None:
    path = HostDatapath(flows=1024, muxes=IPv4Network("172.30.0.0/16"))
    path.put_vip(HostVip(address="10.0.0.1", dips=(HostDip(address="100.1.1.1"),)))
    variant = path.instrument()
    variant.follow(TraceFlow(source="192.0.2.7", destination="10.0.0.1", protocol=6, source_port=1000), 8)
    request = IP(src="192.0.2.7", dst="10.0.0.1", ttl=59) / TCP(sport=1000, dport=80, flags="S")
    frame = bytes(
        Ether(src=packets.TOR_MAC, dst=packets.MUX_MAC) / IP(src="172.30.0.9", dst="100.1.1.1") / request
    )
    answer = bytes(
        Ether(src=packets.MUX_MAC, dst=packets.TOR_MAC)
        / IP(src="100.1.1.1", dst="192.0.2.7")
        / TCP(sport=80, dport=1000, flags="SA")
    )
    for name, sent in (("inbound", frame), ("outbound", answer)):
        expected = _run(path, name, sent)
        assert variant.program(name).test_run(sent).data_out == expected
    there, back = variant.poll()
    assert there.verdict == "passed" and there.steps[-1].counters == ("in_tunneled",)
    assert values(steps(there, "rewrite the VIP to the DIP")[0])["dip"] == int(IPv4Address("100.1.1.1"))
    assert steps(there, "services")[0].hit and steps(there, "decapsulate")
    assert back.verdict == "sent" and back.steps[-1].counters == ("out_reply",)
    assert values(steps(back, "rewrite the source to the VIP")[0])["vip_addr"] == int(IPv4Address("10.0.0.1"))
    assert {v.name: int(v.value, 16) for v in back.headers_out}["ipv4.src_addr"] == int(
        IPv4Address("10.0.0.1")
    )
    variant.close()
    path.close()


def _run(path: HostDatapath, name: str, frame: bytes) -> bytes:
    program = path.inbound if name == "inbound" else path.outbound
    return program.test_run(frame).data_out


@pytest.mark.root
@needs_root
def test_what_a_server_drops_is_told_with_the_counter() -> None:
    path = HostDatapath(flows=1024, muxes=IPv4Network("172.30.0.0/16"))
    path.put_vip(HostVip(address="10.0.0.1", dips=(HostDip(address="100.1.1.1"),)))
    variant: Instrumented = path.instrument()
    variant.follow(None, 1)
    request = IP(src="192.0.2.7", dst="10.0.9.9") / TCP(sport=1000, dport=80, flags="S")
    frame = bytes(Ether() / IP(src="172.30.0.9", dst="100.1.1.1") / request)
    variant.program("inbound").test_run(frame)
    (trace,) = variant.poll()
    assert trace.verdict == "dropped" and "drop_unknown_vip" in str(trace.reason)
    variant.close()
    path.close()
