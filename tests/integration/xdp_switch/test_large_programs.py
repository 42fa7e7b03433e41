"""Large programs of others forward as their entries say, on BMv2 too: PINS, DASH, fabric and up4.

Their sources are in p4c's, which $P4C names; p4c on PATH compiles them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from finsy import (
    P4CloneSessionEntry,
    P4IndirectAction,
    P4MulticastGroupEntry,
    P4TableAction,
    P4TableEntry,
    P4TableMatch,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from duet_p4 import bmv2, p4c
from duet_p4.bench import middleblock
from ptf_tests.conformance.bmv2 import Bmv2
from ptf_tests.conformance.program import Frame, Program, encode
from ptf_tests.conformance.xdp import Xdp

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading BPF programs needs root"),
]

Expected = Sequence[Sequence[tuple[int, Packet]]]
HOST, SWITCH, NEXT = "02:00:00:00:00:01", "02:00:00:00:00:0a", "02:00:00:00:00:0b"
PAYLOAD = bytes(range(40))


@dataclass(frozen=True)
class Scene:
    """Entries of a program, and for each frame that comes in what leaves by which port, in any order."""

    source: str
    entries: Callable[[], Iterator[Any]]
    sent: Sequence[tuple[int, Packet]]
    left: Expected


def row(
    table: str, match: Mapping[str, object], action: str, priority: int = 0, **arguments: object
) -> P4TableEntry:
    """Return a table entry."""
    return P4TableEntry(
        table, match=P4TableMatch(match), action=P4TableAction(action, **arguments), priority=priority
    )


def udp(source: str, destination: str, ttl: int = 64, sport: int = 4000, dport: int = 80) -> Packet:
    """Return an IPv4 packet."""
    return IP(src=source, dst=destination, ttl=ttl) / UDP(sport=sport, dport=dport) / Raw(PAYLOAD)


def frame(packet: Packet, destination: str = SWITCH, source: str = HOST) -> Packet:
    """Return a packet in a frame."""
    return Ether(dst=destination, src=source) / packet


def middleblock_entries() -> Iterator[Any]:
    yield from middleblock.entries(middleblock.Scale(routes=4, nexthops=2, acl_entries=2))


def middleblock_packet(route: int) -> Packet:
    return frame(udp("192.0.2.1", f"10.0.{route}.1"), destination=middleblock.SWITCH_MAC.hex(":"))


def middleblock_routed(route: int) -> Packet:
    """Route n leads to next hop n mod 2 + 1, whose interface and neighbour have its number in their MACs."""
    hop = route % 2 + 1
    return frame(
        udp("192.0.2.1", f"10.0.{route}.1", ttl=63), f"02:00:00:01:01:{hop:02x}", f"02:00:00:00:01:{hop:02x}"
    )


def fabric_router_entries() -> Iterator[Any]:
    """The same, but for ACLs: they look at other fields here."""
    for entry in middleblock_entries():
        if not entry.table_id.startswith("acl_ingress"):
            yield entry
    yield row("acl_ingress_table", {"is_ipv4": 1, "dst_ip": "203.0.113.1"}, "acl_drop", priority=1)


ROUTED = (
    [(1, middleblock_packet(0)), (1, middleblock_packet(1)), (1, middleblock_packet(9))],
    [[(2, middleblock_routed(0))], [(2, middleblock_routed(1))], []],
)


def copier_entries() -> Iterator[Any]:
    """Copy what has no TTL, which is everything to a program that parses nothing."""
    yield P4CloneSessionEntry(255, replicas=[(5, 1)])
    yield row("acl_wbb_ingress_table", {"ttl": (0, 0xFF)}, "acl_wbb_ingress_copy", priority=1)


def fabric_entries() -> Iterator[Any]:
    for port in (1, 2, 3):
        match = {"ig_port": port, "vlan_is_valid": 0}
        yield row("ingress_port_vlan", match, "permit_with_internal_vlan", priority=1, vlan_id=10)
        yield row("egress_vlan", {"vlan_id": 10, "eg_port": port}, "pop_vlan")
    match = {"ig_port": 1, "eth_dst": f"{SWITCH}/ff:ff:ff:ff:ff:ff", "eth_type": 0x800}
    yield row("fwd_classifier", match, "set_forwarding_type", priority=1, fwd_type=2)
    yield row("routing_v4", {"ipv4_dst": "10.0.2.0/24"}, "set_next_id_routing_v4", next_id=7)
    hop = P4TableAction("routing_hashed", port_num=2, smac=SWITCH, dmac=NEXT)
    yield P4TableEntry("hashed", match=P4TableMatch(next_id=7), action=P4IndirectAction([(1, hop)]))
    yield row("next_vlan", {"next_id": 7}, "set_vlan", vlan_id=10)
    match = {"vlan_id": 10, "eth_dst": "ff:ff:ff:ff:ff:ff/ff:ff:ff:ff:ff:ff"}
    yield row("bridging", match, "set_next_id_bridging", priority=1, next_id=8)
    yield P4MulticastGroupEntry(5, replicas=[(1, 1), (2, 1), (3, 1), (4, 1)])
    yield row("multicast", {"next_id": 8}, "set_mcast_group_id", group_id=5)


BROADCAST = frame(Raw(PAYLOAD), "ff:ff:ff:ff:ff:ff")
"""Port 4 has no untagged VLAN 10."""
TAGGED = Ether(dst="ff:ff:ff:ff:ff:ff", src=HOST) / Dot1Q(vlan=10, type=BROADCAST.type) / Raw(PAYLOAD)


UE, BASE_STATION, N3, SERVER = "17.0.0.1", "198.18.0.10", "198.18.0.1", "203.0.113.5"


def up4_entries() -> Iterator[Any]:
    yield row("my_station", {"dst_mac": SWITCH}, "NoAction")
    ways = {"17.0.0.0/16": (2, 2), f"{N3}/32": (1, 1)}
    for prefix, (interface, direction) in ways.items():
        given = {"src_iface": interface, "direction": direction, "slice_id": 0}
        yield row("interfaces", {"ipv4_dst_prefix": prefix}, "set_source_iface", **given)
    yield row(
        "sessions_downlink", {"ue_address": UE}, "set_session_downlink", tunnel_peer_id=1, session_meter_idx=1
    )
    yield row(
        "sessions_downlink", {"ue_address": "17.0.0.2"}, "set_session_downlink_buff", session_meter_idx=1
    )
    yield row(
        "tunnel_peers",
        {"tunnel_peer_id": 1},
        "load_tunnel_param",
        src_addr=N3,
        dst_addr=BASE_STATION,
        sport=2152,
    )
    given = {"ctr_idx": 3, "teid": 0xABCD, "qfi": 0, "tc": 0, "app_meter_idx": 1}
    for ue in (UE, "17.0.0.2"):
        yield row("terminations_downlink", {"ue_address": ue, "app_id": 0}, "downlink_term_fwd", **given)
    yield row("sessions_uplink", {"n3_address": N3, "teid": 0x77}, "set_session_uplink", session_meter_idx=1)
    given = {"ctr_idx": 4, "tc": 0, "app_meter_idx": 1}
    yield row("terminations_uplink", {"ue_address": UE, "app_id": 0}, "uplink_term_fwd", **given)
    for prefix, port in {"198.18.0.0/16": 2, "203.0.113.0/24": 3}.items():
        hop = P4TableAction("route", src_mac=SWITCH, dst_mac=NEXT, egress_port=port)
        match = P4TableMatch(dst_prefix=prefix)
        yield P4TableEntry("routes_v4", match=match, action=P4IndirectAction([(1, hop)]))


def gtp(source: str, destination: str, teid: int, inner: Packet, ttl: int, identifier: int = 1) -> Packet:
    """Return a packet of a user in a GTP-U tunnel."""
    data = bytes(inner)
    header = bytes([0x30, 255]) + len(data).to_bytes(2, "big") + teid.to_bytes(4, "big")
    outer = IP(src=source, dst=destination, ttl=ttl, id=identifier)
    return outer / UDP(sport=2152, dport=2152, chksum=0) / Raw(header + data)


DOWN, UP = udp(SERVER, UE), udp(UE, SERVER)


VIP, VM, VM_MAC = "10.1.1.1", "172.16.1.1", "02:00:00:00:0e:01"


def dash_entries() -> Iterator[Any]:
    yield row("vip", {"hdr.u0_ipv4.dst_addr": VIP}, "accept")
    yield row("appliance", {}, "set_appliance", priority=1, neighbor_mac=NEXT, mac=SWITCH)
    yield row("eni_ether_address_map", {"meta.eni_addr": VM_MAC}, "set_eni", eni_id=5)
    match = {"meta.eni_id": 5, "hdr.u0_vxlan.vni": 100}
    yield row("inbound_routing", match, "tunnel_decap", priority=1)
    groups = {
        f"{way}_v{version}_stage{stage}_dash_acl_group_id": 0
        for way in ("inbound", "outbound")
        for version in (4, 6)
        for stage in range(1, 6)
    }
    attributes = {
        "cps": 1,
        "pps": 1,
        "flows": 1,
        "admin_state": 1,
        "vm_underlay_dip": VM,
        "vm_vni": 9,
        "vnet_id": 1,
        "pl_sip": 0,
        "pl_sip_mask": 0,
        "pl_underlay_sip": 0,
        "v4_meter_policy_id": 0,
        "v6_meter_policy_id": 0,
        "dash_tunnel_dscp_mode": 0,
        "dscp": 0,
        "disable_fast_path_icmp_flow_redirection": 0,
        **groups,
    }
    yield row("eni", {"meta.eni_id": 5}, "set_eni_attrs", **attributes)
    match = {"meta.dst_ip_addr": f"::{VM}/128"}
    yield row("underlay_routing", match, "pkt_act", packet_action=1, next_hop_id=2)


def vxlan(outer: Packet, vni: int, inner: Packet) -> Packet:
    """Return a frame of a customer in a VXLAN tunnel."""
    return outer / VXLAN(flags=8, vni=vni) / inner


CUSTOMER = frame(udp("192.0.2.8", "192.0.2.9"), VM_MAC)
TO_VIP = IP(src="198.18.5.5", dst=VIP) / UDP(sport=5000, dport=4789, chksum=0)
TO_VM = IP(src=VIP, dst=VM, id=1, ttl=64) / UDP(sport=0, dport=4789, chksum=0)

SCENES = {
    "pins_middleblock": Scene("pins/pins_middleblock.p4", middleblock_entries, *ROUTED),
    "pins_fabric": Scene("pins/pins_fabric.p4", fabric_router_entries, *ROUTED),
    "pins_wbb": Scene(
        "pins/pins_wbb.p4", copier_entries, [(1, BROADCAST)], [[(0, BROADCAST), (5, BROADCAST)]]
    ),
    "fabric": Scene(
        "fabric_20190420/fabric.p4",
        fabric_entries,
        [(1, frame(udp("10.0.1.1", "10.0.2.9"))), (1, frame(udp("10.0.1.1", "10.0.3.9"))), (1, BROADCAST)],
        [
            [(2, frame(udp("10.0.1.1", "10.0.2.9", ttl=63), NEXT, SWITCH))],
            [(0, Ether(dst=SWITCH, src=HOST) / Dot1Q(vlan=10) / udp("10.0.1.1", "10.0.3.9", ttl=63))],
            [(2, BROADCAST), (3, BROADCAST), (4, TAGGED)],
        ],
    ),
    "up4": Scene(
        "omec/up4.p4",
        up4_entries,
        [
            (1, frame(DOWN)),
            (1, frame(gtp(BASE_STATION, N3, 0x77, UP, 64))),
            (1, frame(udp(SERVER, "17.0.0.2"))),
        ],
        [
            [(2, frame(gtp(N3, BASE_STATION, 0xABCD, DOWN, 63, 0x1513), NEXT, SWITCH))],
            [(3, frame(udp(UE, SERVER, ttl=63), NEXT, SWITCH))],
            [],
        ],
    ),
    "dash": Scene(
        "dash/dash-pipeline-v1model-bmv2.p4",
        dash_entries,
        [(1, vxlan(frame(TO_VIP), 100, CUSTOMER)), (1, vxlan(frame(TO_VIP), 101, CUSTOMER))],
        [[(2, vxlan(frame(TO_VM, NEXT, SWITCH), 9, CUSTOMER))], []],
    ),
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Program]:
    """Compile a scene's program, once."""
    known: dict[str, Program] = {}

    def make(name: str) -> Program:
        sources = os.environ.get("P4C")
        if not sources:
            pytest.skip("P4C names no clone of github.com/p4lang/p4c, which has these programs")
        if shutil.which(p4c.COMPILER) is None:
            pytest.skip(f"{p4c.COMPILER} is not on PATH")
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            source = Path(sources) / "testdata" / "p4_16_samples" / SCENES[name].source
            config, info = folder / f"{name}.json", folder / f"{name}.p4info.txtpb"
            p4c.compile_p4(source, config, info)
            known[name] = Program(
                name,
                config,
                info,
                states=lambda _: (),
                random_state=lambda *_: pytest.fail("no state is drawn"),
                cases=lambda *_: iter(()),
            )
        return known[name]

    return make


def check(target: Xdp | Bmv2, program: Program, scene: Scene) -> None:
    """Fill the tables, send, and compare."""
    target.write(encode(program.schema, scene.entries()))
    left = target.send([(port, bytes(packet)) for port, packet in scene.sent])
    wanted = [sorted((port, bytes(packet)) for port, packet in frames) for frames in scene.left]
    assert [_shown(sorted(frames)) for frames in left] == [_shown(frames) for frames in wanted]


def _shown(frames: Sequence[Frame]) -> list[str]:
    return [f"{port}: {data.hex()}" for port, data in frames]


@pytest.mark.parametrize("name", SCENES)
def test_it_forwards(name: str, compiled: Callable[[str], Program]) -> None:
    program = compiled(name)
    with Xdp(program) as target:
        check(target, program, SCENES[name])
        if name == "up4":
            # The packet to a user whose session is buffered tells the control plane so.
            assert [fields for _, fields in target.pipeline.digests.poll()] == [(0x11000002,)]


@pytest.mark.skipif(not bmv2.is_installed(), reason=f"{bmv2.MISSING}: nothing to compare with")
@pytest.mark.parametrize("name", SCENES)
def test_bmv2_forwards_the_same(name: str, compiled: Callable[[str], Program]) -> None:
    program = compiled(name)
    with Bmv2(program) as target:
        check(target, program, SCENES[name])
