"""Packets through the host agent's programs, in the kernel's test run: what comes in, what goes out.

Expected packets are built by Scapy with all checksums computed afresh, so a wrong incremental update shows.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from duet_p4.api.host import HostDip, HostPort, HostVip, Snat
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.host_agent.config import SnatTimeouts
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.model import Dip, Group, MuxTip, Protocol

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]
XDP_DROP, XDP_PASS = 1, 2
NEXT, TC_DROP = 0xFFFFFFFF, 2
MUX, CLIENT, VIP, DIP, OTHER_DIP, HOST = (
    *("172.30.0.100", "192.0.2.7", "10.0.0.1", "100.1.1.1"),
    *("100.1.1.2", "100.1.1.250"),
)
TOR_MAC, MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Host:
    """The data path with a way to run one packet through it, either way."""

    def __init__(self) -> None:
        self.path = HostDatapath()

    def arrive(self, packet: Packet) -> tuple[int, bytes]:
        run = self.path.inbound.test_run(bytes(Ether(src=TOR_MAC, dst=MAC) / packet))
        return run.retval, run.data_out

    def depart(self, packet: Packet) -> tuple[int, bytes]:
        run = self.path.outbound.test_run(bytes(Ether(src=MAC, dst=TOR_MAC) / packet))
        return run.retval, run.data_out

    def expect_in(self, packet: Packet, expected: Packet) -> None:
        verdict, out = self.arrive(packet)
        wanted = bytes(Ether(src=TOR_MAC, dst=MAC) / fresh(expected))
        assert (verdict, out) == (XDP_PASS, wanted), (
            f"expected {IP(wanted[14:])!r}\ngot      {IP(out[14:])!r}"
        )

    def expect_out(self, packet: Packet, expected: Packet) -> None:
        verdict, out = self.depart(packet)
        wanted = bytes(Ether(src=MAC, dst=TOR_MAC) / fresh(expected))
        assert (verdict, out) == (NEXT, wanted), f"expected {IP(wanted[14:])!r}\ngot      {IP(out[14:])!r}"

    def counted(self) -> set[str]:
        return {name for name, traffic in self.path.exits().items() if traffic.packets}


def fresh(packet: Packet) -> Packet:
    """Return the packet with every checksum computed by Scapy."""
    return IP(bytes(packet))


def tunneled(inner: Packet, to: str = DIP) -> Packet:
    return IP(src=MUX, dst=to, ttl=60) / inner


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    made.path.put_vip(HostVip(address=VIP, dips=(HostDip(address=DIP),)))
    yield made
    made.path.close()


L4 = {
    "TCP": TCP(sport=1000, dport=80, flags="S", options=[("MSS", 1460)]),
    "UDP": UDP(sport=1000, dport=53) / Raw(b"odd length!"),
    "UDP without a checksum": UDP(sport=1000, dport=53, chksum=0) / Raw(b"x"),
    "echo request": ICMP(type=8, id=77, seq=1) / Raw(b"payload"),
    "another protocol": Raw(b"\x00\x00\x08\x00gre"),
}
ANSWER = {
    "TCP": TCP(sport=80, dport=1000, flags="SA", options=[("MSS", 1460)]),
    "UDP": UDP(sport=53, dport=1000) / Raw(b"odd length!"),
    "UDP without a checksum": UDP(sport=53, dport=1000, chksum=0) / Raw(b"x"),
    "echo request": ICMP(type=0, id=77, seq=1) / Raw(b"payload"),
    "another protocol": Raw(b"\x00\x00\x08\x00erg"),
}


@pytest.mark.parametrize("kind", L4)
def test_a_request_reaches_the_dip_and_its_answer_leaves_as_the_vip(host: Host, kind: str) -> None:
    proto = {"proto": 47} if kind == "another protocol" else {}
    request = IP(src=CLIENT, dst=VIP, ttl=59, tos=3, id=9, flags="DF", **proto) / L4[kind]
    host.expect_in(
        tunneled(request), IP(src=CLIENT, dst=DIP, ttl=59, tos=3, id=9, flags="DF", **proto) / L4[kind]
    )
    answer = IP(src=DIP, dst=CLIENT, id=5, **proto) / ANSWER[kind]
    host.expect_out(answer, IP(src=VIP, dst=CLIENT, id=5, **proto) / ANSWER[kind])
    assert host.counted() == {"IN_TUNNELED", "OUT_REPLY"}


def test_options_and_padding_are_kept(host: Host) -> None:
    options = [IPOption_NOP()] * 4
    request = IP(src=CLIENT, dst=VIP, options=options) / UDP(sport=1, dport=2)
    host.expect_in(tunneled(request), IP(src=CLIENT, dst=DIP, options=options) / UDP(sport=1, dport=2))
    verdict, out = host.arrive(tunneled(request) / Raw(b""))
    assert (verdict, len(out)) == (XDP_PASS, 14 + 24 + 8)


def test_what_is_not_tunneled_is_the_kernels(host: Host) -> None:
    for packet in (IP(src=CLIENT, dst=DIP) / TCP(), tunneled(IP(src=CLIENT, dst=VIP) / TCP(), to=HOST)):
        frame = bytes(Ether(src=TOR_MAC, dst=MAC) / packet)
        assert host.arrive(packet) == (XDP_PASS, frame)
    arp = bytes(Ether(src=TOR_MAC, dst=MAC) / ARP())
    assert host.path.inbound.test_run(arp).data_out == arp
    assert host.counted() == set()


def test_a_vip_that_is_not_served_is_dropped(host: Host) -> None:
    assert host.arrive(tunneled(IP(src=CLIENT, dst="10.0.0.2") / TCP()))[0] == XDP_DROP
    host.path.delete_vip(IPv4Address(VIP))
    host.path.put_vip(HostVip(address="10.0.0.3", dips=(HostDip(address=DIP),)))
    assert host.arrive(tunneled(IP(src=CLIENT, dst=VIP) / TCP()))[0] == XDP_DROP
    assert host.counted() == {"DROP_UNKNOWN_VIP"}


@pytest.mark.parametrize(
    "inner",
    [
        IP(src=CLIENT, dst=VIP, chksum=0x1234) / TCP(),
        IP(src=CLIENT, dst=VIP, len=2000) / TCP(),
        IP(src=CLIENT, dst=VIP, proto=6) / Raw(bytes(19)),
        IP(src=CLIENT, dst=VIP, version=5) / TCP(),
        Raw(b"\x45"),
    ],
    ids=["checksum", "length", "short TCP", "version", "runt"],
)
def test_malformed_inner_packets_are_dropped(host: Host, inner: Packet) -> None:
    assert host.arrive(IP(src=MUX, dst=DIP, proto=4) / inner)[0] == XDP_DROP
    assert host.counted() == {"DROP_MALFORMED"}


def test_fragmentation_needed_names_the_dips_own_packet(host: Host) -> None:
    def error(source: str) -> Packet:
        quoted = bytes(IP(src=source, dst=CLIENT, id=7) / TCP(sport=80, dport=1000, seq=99))[:28]
        return ICMP(type=3, code=4, nexthopmtu=1300) / Raw(quoted)

    router = "172.31.0.9"
    host.expect_in(tunneled(IP(src=router, dst=VIP) / error(VIP)), IP(src=router, dst=DIP) / error(DIP))
    assert host.counted() == {"IN_ICMP_ERROR"}


def test_the_dips_icmp_errors_leave_as_the_vips(host: Host) -> None:
    host.arrive(tunneled(IP(src=CLIENT, dst=VIP) / UDP(sport=1000, dport=9)))

    def error(destination: str) -> Packet:
        quoted = bytes(IP(src=CLIENT, dst=destination, id=7) / UDP(sport=1000, dport=9, chksum=1))[:28]
        return ICMP(type=3, code=3) / Raw(quoted)

    host.expect_out(IP(src=DIP, dst=CLIENT) / error(DIP), IP(src=VIP, dst=CLIENT) / error(VIP))


def test_fragments_go_both_ways(host: Host) -> None:
    whole = UDP(sport=1000, dport=53) / Raw(bytes(range(200)))
    # The checksum covers the whole datagram, so that of the first fragment is the whole's.
    at_vip, at_dip = (bytes(IP(src=CLIENT, dst=to, id=3) / whole)[20:] for to in (VIP, DIP))

    def fragments(source: str, destination: str, data: bytes) -> list[Packet]:
        return [
            IP(src=source, dst=destination, id=3, proto=17, flags="MF") / Raw(data[:104]),
            IP(src=source, dst=destination, id=3, proto=17, frag=13) / Raw(data[104:]),
        ]

    for sent, expected in zip(fragments(CLIENT, VIP, at_vip), fragments(CLIENT, DIP, at_dip), strict=True):
        host.expect_in(tunneled(sent), expected)
    answer = UDP(sport=53, dport=1000) / Raw(bytes(range(200)))
    from_dip, from_vip = (bytes(IP(src=source, dst=CLIENT, id=3) / answer)[20:] for source in (DIP, VIP))
    for sent, expected in zip(
        fragments(DIP, CLIENT, from_dip), fragments(VIP, CLIENT, from_vip), strict=True
    ):
        host.expect_out(sent, expected)


def test_ports_of_a_vip_have_their_own_dips_behind_a_host(host: Host) -> None:
    host.path.put_vip(
        HostVip(
            address="10.0.0.2",
            dips=(
                HostDip(address=DIP, host=HOST, ports=(HostPort(protocol=Protocol.TCP, port=80),)),
                HostDip(address=OTHER_DIP, host=HOST, ports=(HostPort(protocol=Protocol.TCP, port=21),)),
            ),
        )
    )
    for port, dip in ((80, DIP), (21, OTHER_DIP)):
        packet = IP(src=CLIENT, dst="10.0.0.2") / TCP(dport=port)
        host.expect_in(tunneled(packet, to=HOST), IP(src=CLIENT, dst=dip) / TCP(dport=port))
    assert host.arrive(tunneled(IP(src=CLIENT, dst="10.0.0.2") / TCP(dport=22), to=HOST))[0] == XDP_DROP


def test_what_a_dip_sends_on_its_own_is_left_alone(host: Host) -> None:
    for packet in (
        IP(src=DIP, dst=CLIENT) / TCP(dport=80),
        IP(src=HOST, dst=CLIENT) / TCP(sport=80, dport=1000, flags="SA"),
    ):
        assert host.depart(packet) == (NEXT, bytes(Ether(src=MAC, dst=TOR_MAC) / packet))
    assert host.counted() == set()


def snat_host(snat: Snat, dip: str = DIP) -> Host:
    made = Host()
    made.path.put_vip(HostVip(address=VIP, dips=(HostDip(address=dip),), snat=snat))
    return made


REMOTE = "198.51.100.9"


def test_snat_changes_only_source_and_port_and_the_way_back_undoes_it() -> None:
    host = snat_host(Snat(group=Group.of((Dip(address=DIP), Dip(address=OTHER_DIP)))))
    for make, answer in (
        (lambda p: TCP(sport=p, dport=443, flags="S"), lambda p: TCP(sport=443, dport=p, flags="SA")),
        (lambda p: UDP(sport=p, dport=53) / Raw(b"q"), lambda p: UDP(sport=53, dport=p) / Raw(b"a")),
        (lambda p: ICMP(type=8, id=p) / Raw(b"q"), lambda p: ICMP(type=0, id=p) / Raw(b"q")),
    ):
        _, out = host.depart(IP(src=DIP, dst=REMOTE) / make(5000))
        l4 = IP(out[14:]).payload
        port = l4.id if isinstance(l4, ICMP) else l4.sport
        assert 32_768 <= port <= 65_535
        host.expect_out(IP(src=DIP, dst=REMOTE) / make(5000), IP(src=VIP, dst=REMOTE) / make(port))
        host.expect_in(
            tunneled(IP(src=REMOTE, dst=VIP) / answer(port)), IP(src=REMOTE, dst=DIP) / answer(5000)
        )

        def error(source: str, own: int, make=make) -> Packet:  # type: ignore[no-untyped-def]
            l4 = make(own)
            # What of the L4 header a checksum covers is not ours to fix in 8 quoted bytes.
            quoted = bytearray(bytes(IP(src=source, dst=REMOTE, id=7) / l4)[:28])
            quoted[22 if isinstance(l4, ICMP) else 26 : 24 if isinstance(l4, ICMP) else 28] = b"\0\0"
            return ICMP(type=11) / Raw(bytes(quoted))

        host.expect_in(
            tunneled(IP(src="172.31.0.9", dst=VIP) / error(VIP, port)),
            IP(src="172.31.0.9", dst=DIP) / error(DIP, 5000),
        )
    assert host.counted() == {"OUT_SNAT", "IN_SNAT", "IN_ICMP_ERROR"}
    assert host.path.snat_connections() == 3
    host.path.close()


def test_snat_takes_each_port_once_until_none_is_left() -> None:
    host = snat_host(Snat(group=Group.of((Dip(address=DIP),)), first_port=50_000, last_port=50_009))
    ports = set()
    for own in range(1, 11):
        verdict, out = host.depart(IP(src=DIP, dst=REMOTE) / UDP(sport=own, dport=53))
        assert verdict == NEXT
        ports.add(IP(out[14:]).sport)
    assert ports == set(range(50_000, 50_010))
    assert host.depart(IP(src=DIP, dst=REMOTE) / UDP(sport=11, dport=53))[0] == TC_DROP
    assert host.depart(IP(src=DIP, dst="198.51.100.10") / UDP(sport=11, dport=53))[0] == NEXT
    host.path.close()


@st.composite
def groups(draw: st.DrawFn, network: str) -> Group:
    weights = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    return Group.of(tuple(Dip(address=f"{network}.{n}", weight=w) for n, w in enumerate(weights, start=1)))


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    made = Host()
    yield made
    made.path.close()


@settings(max_examples=60, deadline=None)
@given(
    group=groups("100.1.1"),
    levels=st.lists(groups("100.2.1"), max_size=2),
    own=st.integers(1, 65535),
    remote_port=st.integers(1, 65535),
    which=st.randoms(use_true_random=False),
)
def test_the_return_flow_of_snat_hashes_home(
    shared: Host,
    group: Group,
    levels: list[Group],
    own: int,
    remote_port: int,
    which: Random,
) -> None:
    tips: tuple[MuxTip, ...] = ()
    if levels:
        # Members of the second level must differ, as those of one VIP do.
        shares = [
            share.model_copy(
                update={
                    "members": tuple(
                        dip.model_copy(update={"address": IPv4Address(int(dip.address) + 256 * n)})
                        for dip in share.members
                    )
                }
            )
            for n, share in enumerate(levels)
        ]
        tips = tuple(MuxTip(address=f"20.0.0.{n}", group=share) for n, share in enumerate(shares, start=1))
        dips = (*group.members, *(Dip(address=tip.address) for tip in tips))
        group = Group.of(dips)
    candidates = [d.address for d in group.members if d.address not in {t.address for t in tips}]
    candidates += [d.address for tip in tips for d in tip.group.members]
    dip = which.choice(candidates)
    snat = Snat(group=group, tips=tips)
    shared.path.put_vip(HostVip(address=VIP, dips=(HostDip(address=dip),), snat=snat))
    shared.path.expire(SnatTimeouts.model_construct(tcp=-1, closing=-1, other=-1))
    verdict, out = shared.depart(IP(src=str(dip), dst=REMOTE) / TCP(sport=own, dport=remote_port))
    assert verdict == NEXT
    flow = Flow(IPv4Address(REMOTE), IPv4Address(VIP), 6, remote_port, IP(out[14:]).sport)
    member = group.member(flow_hash(flow)).address
    home = next((tip.group.member(tip_hash(flow)).address for tip in tips if tip.address == member), member)
    assert home == dip, f"{flow} goes to {home}"


def test_slots_of_snat_are_given_back_and_follow_the_group() -> None:
    # 200 times 800 slots are more than the table has.
    group = Group.of(tuple(Dip(address=f"100.1.1.{n}") for n in range(1, 101)))
    host = snat_host(Snat(group=group))
    vip = HostVip(address=VIP, dips=(HostDip(address=DIP),), snat=Snat(group=group))
    assert host.path.put_vip(vip) == 0, "the same again writes nothing"
    for _ in range(200):
        group = group.model_copy(update={"slots": tuple((slot + 1) % 100 for slot in group.slots)})
        host.path.put_vip(vip.model_copy(update={"snat": Snat(group=group)}))
    _, out = host.depart(IP(src=DIP, dst=REMOTE) / TCP(sport=1, dport=2))
    flow = Flow(IPv4Address(REMOTE), IPv4Address(VIP), 6, 2, IP(out[14:]).sport)
    assert str(group.member(flow_hash(flow)).address) == DIP
    host.path.close()
