"""Packets through the host agent's programs, in the kernel's test run: what comes in, what goes out.

Expected packets are built by Scapy with all checksums computed afresh, so a wrong incremental update shows.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from duet_p4 import bpf
from duet_p4.allocation import TableFullError
from duet_p4.api.host import HostDip, HostGroup, HostPort, HostTip, HostVip, Share, Snat
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.host_agent.config import SnatTimeouts
from duet_p4.host_agent.connections import Connection
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.host_agent.meters import REST_S, Meters
from duet_p4.model import Dip, Group, MuxTip, MuxVip, PinnedFlow, Protocol, Vip

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]
XDP_DROP, XDP_PASS = 1, 2
NEXT, TC_DROP, TC_REDIRECT = 0xFFFFFFFF, 2, 7
MUX, CLIENT, VIP, DIP, OTHER_DIP, HOST = (
    *("172.30.0.100", "192.0.2.7", "10.0.0.1", "100.1.1.1"),
    *("100.1.1.2", "100.1.1.250"),
)
TOR_MAC, MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"


class Host:
    """The data path with a way to run one packet through it, either way."""

    def __init__(self, flows: int = 4096) -> None:
        self.path = HostDatapath(flows=flows, muxes=IPv4Network("172.30.0.0/16"))

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


@pytest.mark.parametrize("source", [CLIENT, "100.1.1.2", "172.29.255.255", "172.31.0.1", VIP])
def test_a_tunnel_of_somebody_who_is_no_mux_is_dropped(host: Host, source: str) -> None:
    packet = IP(src=source, dst=DIP) / IP(src=CLIENT, dst=VIP) / TCP(sport=1000, dport=80)
    assert host.arrive(packet)[0] == XDP_DROP
    assert host.counted() == {"DROP_NOT_A_MUX"}


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


def test_an_error_about_a_later_fragment_leaves_as_the_vips(host: Host) -> None:
    def error(destination: str) -> Packet:
        quoted = bytes(IP(src=CLIENT, dst=destination, proto=17, frag=9) / Raw(bytes(8)))
        return ICMP(type=11, code=1) / Raw(quoted)

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
                HostDip(
                    address=DIP, host=HOST, default=False, ports=(HostPort(protocol=Protocol.TCP, port=80),)
                ),
                HostDip(
                    address=OTHER_DIP,
                    host=HOST,
                    default=False,
                    ports=(HostPort(protocol=Protocol.TCP, port=21),),
                ),
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


def held(group: Group, *dips: str, snat: Snat | None = None, tips: tuple[MuxTip, ...] = ()) -> HostVip:
    """Return a VIP as a server with these DIPs holds it, that knows whose the slots are."""
    here = [IPv4Address(dip) for dip in dips or (DIP,)]
    leading = tuple(
        HostTip(address=tip.address, share=Share.of(tip.group, here))
        for tip in tips
        if {member.address for member in tip.group.members} & {*here}
    )
    near = [*here, *(tip.address for tip in leading)]
    return HostVip(
        address=VIP,
        dips=tuple(HostDip(address=dip) for dip in here),
        groups=(HostGroup(share=Share.of(group, near)),),
        tips=leading,
        snat=snat,
    )


def snat_host(group: Group, snat: Snat | None = None) -> Host:
    made = Host()
    made.path.put_vip(held(group, snat=snat or Snat()))
    return made


REMOTE = "198.51.100.9"
ALL_IDLE = SnatTimeouts.model_construct(tcp=-1, transitory=-1, pressed=-1, udp=-1, icmp=-1)


def test_snat_changes_only_source_and_port_and_the_way_back_undoes_it() -> None:
    host = snat_host(Group.of((Dip(address=DIP), Dip(address=OTHER_DIP))))
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
    host = snat_host(Group.of((Dip(address=DIP),)), Snat(first_port=50_000, last_port=50_009))
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
    shared.path.put_vip(held(group, str(dip), snat=Snat(), tips=tips))
    shared.path.forget(shared.path.idle(ALL_IDLE))
    verdict, out = shared.depart(IP(src=str(dip), dst=REMOTE) / TCP(sport=own, dport=remote_port))
    assert verdict == NEXT
    flow = Flow(IPv4Address(REMOTE), IPv4Address(VIP), 6, remote_port, IP(out[14:]).sport)
    member = group.member(flow_hash(flow)).address
    home = next((tip.group.member(tip_hash(flow)).address for tip in tips if tip.address == member), member)
    assert home == dip, f"{flow} goes to {home}"


def test_slots_of_snat_are_given_back_and_follow_the_group() -> None:
    # 200 times 800 slots are more than the table has.
    group = Group.of(tuple(Dip(address=f"100.1.1.{n}") for n in range(1, 101)))
    host = snat_host(group)
    assert host.path.put_vip(held(group, snat=Snat())) == 0, "the same again writes nothing"
    for _ in range(400):
        group = group.model_copy(update={"slots": tuple((slot + 1) % 100 for slot in group.slots)})
        host.path.put_vip(held(group, snat=Snat()))
    _, out = host.depart(IP(src=DIP, dst=REMOTE) / TCP(sport=1, dport=2))
    flow = Flow(IPv4Address(REMOTE), IPv4Address(VIP), 6, 2, IP(out[14:]).sport)
    assert str(group.member(flow_hash(flow)).address) == DIP
    host.path.close()


def arrives_at(host: Host, packet: Packet, end: str = DIP) -> str:
    """Return the DIP that a tunneled packet is handed to."""
    verdict, out = host.arrive(tunneled(packet, to=end))
    assert verdict == XDP_PASS, "it is dropped"
    return str(IP(out[14:]).dst)


def leaves_as(host: Host, packet: Packet) -> str:
    verdict, out = host.depart(packet)
    assert verdict == NEXT, "it is dropped"
    return str(IP(out[14:]).src)


def shake_hands(host: Host, source_port: int, *, vip: str | None = VIP, dip: str = DIP) -> None:
    """Have a connection to port 80, through a VIP or directly, be established."""

    def arrive(**tcp: object) -> None:
        packet = IP(src=CLIENT, dst=vip or dip) / TCP(sport=source_port, dport=80, **tcp)
        host.arrive(tunneled(packet) if vip else packet)

    arrive(flags="S", seq=7)
    accept = TCP(sport=80, dport=source_port, flags="SA", seq=1000, ack=8)
    assert leaves_as(host, IP(src=dip, dst=CLIENT) / accept) == (vip or dip)
    arrive(flags="A", seq=8, ack=1001)


def push(source_port: int, dip: str = DIP, **tcp: object) -> Packet:
    """Return what a server says unasked."""
    return IP(src=dip, dst=CLIENT) / TCP(sport=80, dport=source_port, flags="PA", **tcp) / Raw(b"news")


def test_replies_of_a_dip_with_one_vip_need_no_memory(host: Host) -> None:
    assert leaves_as(host, push(1000)) == VIP
    assert leaves_as(host, IP(src=DIP, dst=CLIENT) / TCP(sport=40_000, dport=5432, flags="A")) == DIP, (
        "a client"
    )
    assert leaves_as(host, IP(src=DIP, dst=CLIENT) / UDP(sport=123, dport=123)) == DIP, "it asks for the time"


def test_direct_connections_stay_direct_and_a_port_may_change_sides(host: Host) -> None:
    shake_hands(host, 1000)
    assert leaves_as(host, push(1000)) == VIP
    shake_hands(host, 1000, vip=None)
    assert leaves_as(host, push(1000)) == DIP
    shake_hands(host, 1000)
    assert leaves_as(host, push(1000)) == VIP
    for vip, source in ((None, DIP), (VIP, VIP), (None, DIP)):
        packet = IP(src=CLIENT, dst=vip or DIP) / UDP(sport=5, dport=53)
        host.arrive(tunneled(packet) if vip else packet)
        assert leaves_as(host, IP(src=DIP, dst=CLIENT) / UDP(sport=53, dport=5)) == (source if vip else DIP)


def test_connections_that_a_dip_had_before_it_was_one_stay_direct(host: Host) -> None:
    flow = Flow(IPv4Address(CLIENT), IPv4Address(DIP), 6, 1000, 80)
    host.path.delete_vip(IPv4Address(VIP))
    vip = HostVip(address=VIP, dips=(HostDip(address=DIP),))
    host.path.replace([vip], connections=lambda: [Connection(flow, 0.0)])
    assert leaves_as(host, push(1000)) == DIP
    assert leaves_as(host, push(1001)) == VIP


def test_connections_stay_with_their_vip_when_others_come_to_share_its_dip_and_go_again(host: Host) -> None:
    connection = Connection(Flow(IPv4Address(CLIENT), IPv4Address(DIP), 6, 1000, 80), 0.5)
    other = HostVip(address="10.0.0.2", dips=(HostDip(address=DIP),))
    told = (connection, IPv4Address(VIP), 80)
    assert list(host.path.live_flows([connection])) == [told]
    host.path.replace([other], connections=lambda: [connection])
    assert list(host.path.live_flows([connection])) == [told], "whose it is was forgotten"
    assert leaves_as(host, push(1000)) == VIP
    host.path.replace([], [IPv4Address(VIP)], lambda: [connection])
    assert leaves_as(host, push(1000)) == VIP
    assert leaves_as(host, push(1001)) == "10.0.0.2"


def test_a_port_that_had_a_connection_to_a_vip_of_before_serves_the_vip_of_now(host: Host) -> None:
    connection = Connection(Flow(IPv4Address(CLIENT), IPv4Address(DIP), 6, 1000, 80), 0.5)
    second = HostVip(address="10.0.0.2", dips=(HostDip(address=DIP),))
    host.path.replace([], [IPv4Address(VIP)], lambda: [connection])
    host.path.replace([second], connections=lambda: [connection])
    assert leaves_as(host, push(1000)) == VIP, "the DIP has not heard that the connection is over"
    assert at_dip(host, "10.0.0.2", flags="S", seq=7) == 1000
    # What it says to a SYN of a connection that it has: the client has to hear that, to reset it.
    assert leaves_as(host, IP(src=DIP, dst=CLIENT) / TCP(sport=80, dport=1000, flags="A")) == "10.0.0.2"


def test_an_outgoing_connection_from_a_services_port_is_no_reply(host: Host) -> None:
    begin = IP(src=DIP, dst=CLIENT) / TCP(sport=80, dport=1000, flags="S")
    assert leaves_as(host, begin) == DIP
    assert leaves_as(host, push(1000)) == DIP


@pytest.fixture
def ambiguous(host: Host) -> Host:
    """A DIP that serves two VIPs on all ports."""
    host.path.put_vip(HostVip(address="10.0.0.2", dips=(HostDip(address=DIP),)))
    return host


def test_two_vips_of_one_dip_are_told_apart(ambiguous: Host) -> None:
    shake_hands(ambiguous, 1000)
    shake_hands(ambiguous, 1001, vip="10.0.0.2")
    assert leaves_as(ambiguous, push(1000)) == VIP
    assert leaves_as(ambiguous, push(1001)) == "10.0.0.2"


def at_dip(host: Host, vip: str, source_port: int = 1000, dip: str = DIP, **tcp: object) -> int:
    """Have a client's segment arrive; return the client's port as the DIP sees it. All else is as it was."""

    def segment(destination: str, port: int) -> Packet:
        return IP(src=CLIENT, dst=destination) / TCP(sport=port, dport=80, **tcp) / Raw(b"odd")

    verdict, out = host.arrive(tunneled(segment(vip, source_port), to=dip))
    assert verdict == XDP_PASS
    port = int(IP(out[14:])[TCP].sport)
    assert out == bytes(Ether(src=TOR_MAC, dst=MAC) / fresh(segment(dip, port)))
    return port


def test_one_port_of_a_client_has_a_connection_to_each_vip_of_a_dip(ambiguous: Host) -> None:
    second = "10.0.0.2"
    shake_hands(ambiguous, 1000)
    port = at_dip(ambiguous, second, flags="S", seq=7)
    assert port != 1000, "the DIP has a connection from that port already"
    assert at_dip(ambiguous, second, flags="S", seq=7) == port

    def answer(source: str, to: int, **tcp: object) -> Packet:
        return IP(src=source, dst=CLIENT) / TCP(sport=80, dport=to, **tcp) / Raw(b"odd")

    for tcp in ({"flags": "SA", "seq": 1000, "ack": 8}, {"flags": "PA", "seq": 1001, "ack": 8}):
        ambiguous.expect_out(answer(DIP, port, **tcp), answer(second, 1000, **tcp))
        assert at_dip(ambiguous, second, flags="A", seq=8, ack=1001) == port
    ambiguous.expect_out(answer(DIP, 1000, flags="A"), answer(VIP, 1000, flags="A"))
    assert at_dip(ambiguous, VIP, flags="A", seq=8, ack=1001) == 1000
    for connection, seen in ((port, 1000), (1000, 1000)):
        flow = Flow(IPv4Address(CLIENT), IPv4Address(DIP), 6, connection, 80)
        (((found, _), vip, _),) = ambiguous.path.live_flows([Connection(flow, 0.0)])
        assert (found.source_port, str(vip)) == (seen, second if connection == port else VIP)

    # At the server's other DIP it is no connection, and is refused by the port that it has.
    both = (HostDip(address=DIP), HostDip(address=OTHER_DIP))
    ambiguous.path.put_vip(HostVip(address=second, dips=both))
    assert at_dip(ambiguous, second, dip=OTHER_DIP, flags="A", seq=8, ack=1001) == 1000

    # Whoever has the port that was taken, as its own, has another there, too.
    third = at_dip(ambiguous, second, source_port=port, flags="S", seq=7)
    assert third not in (port, 1000)


def test_errors_about_a_connection_with_another_port_at_the_dip_name_each_sides_own(ambiguous: Host) -> None:
    shake_hands(ambiguous, 1000)
    port = at_dip(ambiguous, "10.0.0.2", flags="S", seq=7)

    def too_big(source: str, to: int) -> Packet:
        quoted = bytes(IP(src=source, dst=CLIENT, id=7) / TCP(sport=80, dport=to, seq=99))[:28]
        return ICMP(type=3, code=4, nexthopmtu=1300) / Raw(quoted)

    def refused(destination: str, source_port: int) -> Packet:
        quoted = bytes(IP(src=CLIENT, dst=destination) / TCP(sport=source_port, dport=80, seq=7))[:28]
        return ICMP(type=3, code=13) / Raw(quoted)

    router = "172.31.0.9"
    for vip, at in (("10.0.0.2", port), (VIP, 1000)):
        ambiguous.expect_in(
            tunneled(IP(src=router, dst=vip) / too_big(vip, 1000)), IP(src=router, dst=DIP) / too_big(DIP, at)
        )
    ambiguous.depart(IP(src=DIP, dst=CLIENT) / TCP(sport=80, dport=port, flags="SA", seq=1000, ack=8))
    at_dip(ambiguous, "10.0.0.2", flags="A", seq=8, ack=1001)
    ambiguous.expect_out(
        IP(src=DIP, dst=CLIENT) / refused(DIP, port),
        IP(src="10.0.0.2", dst=CLIENT) / refused("10.0.0.2", 1000),
    )


def test_a_packet_of_no_connection_is_refused_as_its_vip_though_the_ports_have_one_to_another(
    ambiguous: Host,
) -> None:
    shake_hands(ambiguous, 1000)
    # The mux has sent it here since its own DIP is gone.
    stray = TCP(sport=1000, dport=80, flags="PA", seq=5, ack=77)
    ambiguous.arrive(tunneled(IP(src=CLIENT, dst="10.0.0.2") / stray))
    assert leaves_as(ambiguous, push(1000)) == VIP

    def reset(**tcp: object) -> Packet:
        return IP(src=DIP, dst=CLIENT) / TCP(sport=80, dport=1000, **tcp)

    assert leaves_as(ambiguous, reset(flags="R", seq=77)) == "10.0.0.2"
    assert leaves_as(ambiguous, reset(flags="RA", seq=1001, ack=8)) == VIP, "the server ends its connection"


def test_ports_say_whose_a_reply_is_where_vips_share_a_dip() -> None:
    host = Host()
    for address, port in ((VIP, 80), ("10.0.0.2", 443), ("10.0.0.3", 50_000)):
        dip = HostDip(address=DIP, default=False, ports=(HostPort(protocol=Protocol.TCP, port=port),))
        host.path.put_vip(HostVip(address=address, dips=(dip,)))
    assert leaves_as(host, push(1000)) == VIP
    for port, vip in ((443, "10.0.0.2"), (50_000, "10.0.0.3"), (22, DIP)):
        assert leaves_as(host, IP(src=DIP, dst=CLIENT) / TCP(sport=port, dport=1000, flags="A")) == vip
    host.path.close()


@pytest.mark.parametrize("kind", ["SYN", "ACK", "UDP"])
def test_a_flood_evicts_no_established_flow(kind: str) -> None:
    made = Host(flows=1024)
    for address in (VIP, "10.0.0.2"):
        made.path.put_vip(HostVip(address=address, dips=(HostDip(address=DIP),)))
    for port in range(1, 51):
        shake_hands(made, port)
    shake_hands(made, 60, vip=None)
    question, answer = UDP(sport=70, dport=53), UDP(sport=53, dport=70)
    for _ in range(2):
        made.arrive(tunneled(IP(src=CLIENT, dst=VIP) / question))
        assert leaves_as(made, IP(src=DIP, dst=CLIENT) / answer) == VIP
    l4 = {"SYN": TCP(dport=80, flags="S"), "ACK": TCP(dport=80, flags="A"), "UDP": UDP(dport=53)}[kind]
    back = {
        "SYN": TCP(sport=80, flags="SA", seq=5),
        "ACK": TCP(sport=80, flags="R"),
        "UDP": UDP(sport=53),
    }[kind]
    frame = bytearray(bytes(Ether(src=TOR_MAC, dst=MAC) / tunneled(IP(src=CLIENT, dst=VIP) / l4)))
    reply = bytearray(bytes(Ether(src=MAC, dst=TOR_MAC) / IP(src=DIP, dst=CLIENT) / back))
    for number in range(1000, 4000):
        frame[54:56] = reply[36:38] = number.to_bytes(2)
        made.path.inbound.test_run(bytes(frame))
        made.path.outbound.test_run(bytes(reply))
    assert [leaves_as(made, push(port)) for port in range(1, 51)] == [VIP] * 50
    assert leaves_as(made, push(60)) == DIP
    assert leaves_as(made, IP(src=DIP, dst=CLIENT) / answer) == VIP
    made.path.close()


HOSTED = Group.of(
    (
        Dip(address=DIP, host=HOST, weight=3),
        Dip(address=OTHER_DIP, host=HOST, weight=1),
        Dip(address="100.1.9.9", weight=2),
    )
)


def test_the_programs_cost_the_verifier_little(host: Host) -> None:
    # A loop that leaves early for as many reasons as there are header lengths had it look at 790,000.
    assert host.path.inbound.verified_instructions() < 150_000
    assert host.path.outbound.verified_instructions() < 150_000


def hosted(group: Group, pinned: tuple[PinnedFlow, ...] = ()) -> HostVip:
    vip = Vip(address=VIP, dips=group.members)
    layout = MuxVip(address=VIP, group=group, pinned=pinned)
    return HostVip.spread(vip, layout, (), lambda dip: "here" if dip.host else None)["here"]


def syn(port: int) -> Packet:
    return IP(src=CLIENT, dst=VIP) / TCP(sport=port, dport=80, flags="S")


def mine(group: Group) -> dict[int, str]:
    """Return the source ports that a mux sends here, and the DIP that it means."""
    members = {
        port: group.member(flow_hash(Flow(IPv4Address(CLIENT), IPv4Address(VIP), 6, port, 80)))
        for port in range(1, 200)
    }
    return {port: str(dip.address) for port, dip in members.items() if dip.host}


def test_a_host_picks_the_dip_that_the_mux_means() -> None:
    host = Host()
    host.path.put_vip(hosted(HOSTED))
    for port, dip in mine(HOSTED).items():
        assert arrives_at(host, syn(port), HOST) == dip
    drained = HOSTED.updated(tuple(d.model_copy(update={"weight": d.weight % 3}) for d in HOSTED.members))
    host.path.put_vip(hosted(drained))
    assert set(mine(drained).values()) == {OTHER_DIP}
    for port in mine(drained):
        assert arrives_at(host, syn(port), HOST) == OTHER_DIP
    host.path.close()


def test_what_a_host_knows_stays_with_its_dip_while_slots_change() -> None:
    host = Host()
    host.path.put_vip(hosted(HOSTED))
    before = dict(list(mine(HOSTED).items())[:40])
    assert set(before.values()) == {DIP, OTHER_DIP}

    def ack(port: int) -> Packet:
        return IP(src=CLIENT, dst=VIP) / TCP(sport=port, dport=80, flags="A", ack=1001)

    for port, dip in before.items():
        arrives_at(host, syn(port), HOST)
        assert (
            leaves_as(host, IP(src=dip, dst=CLIENT) / TCP(sport=80, dport=port, flags="SA", seq=1000)) == VIP
        )
        arrives_at(host, ack(port), HOST)
    turned = HOSTED.model_copy(update={"slots": tuple((slot + 1) % 3 for slot in HOSTED.slots)})
    moved = PinnedFlow(protocol=6, source=CLIENT, source_port=999, destination_port=80, dip=OTHER_DIP)
    host.path.put_vip(hosted(turned, (moved,)))
    assert {port: arrives_at(host, ack(port), HOST) for port in before} == before
    assert arrives_at(host, ack(999), HOST) == OTHER_DIP, "a pinned flow is where the mux pins it"

    # The same ports again are a new connection's: it goes by its slot, and is known there in turn.
    port = next(port for port in before if mine(turned).get(port, before[port]) != before[port])
    new = mine(turned)[port]
    assert arrives_at(host, syn(port), HOST) == new
    accept = TCP(sport=80, dport=port, flags="SA", seq=1000)
    assert leaves_as(host, IP(src=new, dst=CLIENT) / accept) == VIP
    assert arrives_at(host, ack(port), HOST) == new
    host.path.put_vip(hosted(HOSTED))
    assert arrives_at(host, ack(port), HOST) == new
    host.path.close()


def test_fragments_behind_a_host_follow_the_first() -> None:
    host = Host()
    host.path.put_vip(hosted(HOSTED))

    def fragment(port: int, **ip: object) -> Packet:
        l4 = Raw(bytes(64)) if ip.get("frag") else UDP(sport=port, dport=53, len=136) / Raw(bytes(64))
        return IP(src=CLIENT, dst=VIP, proto=17, id=port, **ip) / l4

    seen = set()
    for port in range(1, 30):
        assert host.arrive(tunneled(fragment(port, frag=9), to=HOST))[0] == XDP_DROP
        first = arrives_at(host, fragment(port, flags="MF"), HOST)
        assert arrives_at(host, fragment(port, frag=9), HOST) == first
        seen.add(first)
    assert seen == {DIP, OTHER_DIP}
    assert "DROP_FRAGMENT" in host.counted()
    host.path.close()


@pytest.mark.parametrize(
    ("outer", "inner", "result"),
    [(3, 2, 3), (3, 1, 3), (1, 2, 1), (2, 1, 1), (0, 3, 3), (2, 0, 0), (1, 0, 0)],
)
def test_marks_of_congestion_come_through_the_tunnel(host: Host, outer: int, inner: int, result: int) -> None:
    def request(destination: str, tos: int) -> Packet:
        return IP(src=CLIENT, dst=destination, tos=0xB8 | tos) / UDP(sport=1, dport=2)

    host.expect_in(IP(src=MUX, dst=DIP, tos=0xB8 | outer) / request(VIP, inner), request(DIP, result))


def test_congestion_that_its_sender_would_not_understand_is_a_loss(host: Host) -> None:
    packet = IP(src=MUX, dst=DIP, tos=3) / IP(src=CLIENT, dst=VIP, tos=0) / TCP()
    assert host.arrive(packet)[0] == XDP_DROP
    assert host.counted() == {"DROP_ECN"}


def test_a_dip_may_be_a_client_of_its_own_vip(host: Host) -> None:
    ask, answer = TCP(sport=40_000, dport=80, flags="S"), TCP(sport=80, dport=40_000, flags="SA")
    host.expect_in(tunneled(IP(src=DIP, dst=VIP) / ask), IP(src=VIP, dst=DIP) / ask)
    run = host.path.outbound.test_run(bytes(Ether(src=MAC, dst=TOR_MAC) / IP(src=DIP, dst=VIP) / answer))
    expected = bytes(Ether(src=MAC, dst=MAC) / fresh(IP(src=VIP, dst=DIP) / answer))
    assert (run.retval, run.data_out) == (TC_REDIRECT, expected)
    assert host.counted() == {"IN_HAIRPIN", "OUT_HAIRPIN"}


def test_fragments_of_a_hairpin_follow_their_first_both_ways(host: Host) -> None:
    """None has ports but the first, and the answer's have to be handed back, not sent out."""

    def halves(number: int, sport: int, dport: int) -> list[Packet]:
        payload = Raw(bytes(64))
        return [
            IP(src=DIP, dst=VIP, id=number, flags="MF", proto=17)
            / UDP(sport=sport, dport=dport, len=136, chksum=0)
            / payload,
            IP(src=DIP, dst=VIP, id=number, frag=9, proto=17) / payload,
        ]

    for packet in halves(6, 5000, 53):
        turned = packet.copy()
        turned.src, turned.dst = VIP, DIP
        assert leaves_as(host, packet) == DIP, "although the first one is back already"
        host.expect_in(tunneled(packet), turned)
    for packet in halves(7, 53, 5000):
        handed = packet.copy()
        handed.src, handed.dst = VIP, DIP
        run = host.path.outbound.test_run(bytes(Ether(src=MAC, dst=TOR_MAC) / packet))
        assert (run.retval, run.data_out) == (TC_REDIRECT, bytes(Ether(src=MAC, dst=MAC) / fresh(handed)))
    assert host.counted() == {"IN_HAIRPIN", "OUT_HAIRPIN"}


def test_a_later_fragment_does_not_follow_a_datagram_of_another_kind(host: Host) -> None:
    first = (
        IP(src=DIP, dst=CLIENT, id=5, flags="MF", proto=17) / UDP(sport=53, dport=9, len=136) / Raw(bytes(64))
    )
    later = IP(src=DIP, dst=CLIENT, id=5, frag=9, proto=17) / Raw(bytes(64))
    host.arrive(tunneled(IP(src=CLIENT, dst=VIP) / UDP(sport=9, dport=53)))
    assert (leaves_as(host, first), leaves_as(host, later)) == (VIP, VIP)
    first[UDP].dport = 10  # A datagram of the DIP's own, with the same identification.
    assert (leaves_as(host, first), leaves_as(host, later)) == (DIP, DIP)


def test_snat_keeps_what_it_has_when_it_is_taken_away() -> None:
    group = Group.of((Dip(address=DIP),))
    host = snat_host(group)
    begin = IP(src=DIP, dst=REMOTE) / TCP(sport=40_000, dport=443, flags="S")
    _, out = host.depart(begin)
    port = IP(out[14:]).sport
    host.path.put_vip(held(group))
    goes_on = IP(src=DIP, dst=REMOTE) / TCP(sport=40_000, dport=443, flags="A")
    assert leaves_as(host, goes_on) == VIP
    answer = IP(src=REMOTE, dst=VIP) / TCP(sport=443, dport=port, flags="A")
    assert arrives_at(host, answer) == DIP
    assert leaves_as(host, IP(src=DIP, dst=REMOTE) / TCP(sport=5001, dport=443, flags="S")) == DIP
    host.path.forget(host.path.idle(ALL_IDLE))
    assert leaves_as(host, goes_on) == DIP
    host.path.close()


@pytest.mark.parametrize(
    ("ends", "closed"),
    [((), False), (("out",), False), (("in",), False), (("out", "in"), True), (("reset",), True)],
)
def test_a_connection_is_closed_once_both_sides_are_or_it_is_reset(
    ends: tuple[str, ...], *, closed: bool
) -> None:
    host = snat_host(Group.of((Dip(address=DIP),)))
    only_closed = SnatTimeouts.model_construct(tcp=10_000, transitory=-1, pressed=-1)

    def depart(flags: str) -> int:
        _, out = host.depart(IP(src=DIP, dst=REMOTE) / TCP(sport=5000, dport=443, flags=flags))
        return int(IP(out[14:]).sport)

    port = depart("S")

    def arrive(flags: str) -> None:
        arrives_at(host, IP(src=REMOTE, dst=VIP) / TCP(sport=443, dport=port, flags=flags))

    arrive("SA")
    for end in ends:
        {"out": lambda: depart("FA"), "in": lambda: arrive("FA"), "reset": lambda: arrive("R")}[end]()
    assert bool(host.path.idle(only_closed).inward) is closed
    # The same ports again: it is a new connection, with the time of one.
    assert depart("S") == port
    arrive("SA")
    assert not host.path.idle(only_closed).inward
    host.path.close()


def test_snat_spares_ports_of_groups_and_destinations_near_or_of_many() -> None:
    reserved = tuple(HostPort(protocol=Protocol.UDP, port=port) for port in range(50_000, 50_009))
    snat = Snat(first_port=50_000, last_port=50_009, reserved=reserved)
    host = snat_host(Group.of((Dip(address=DIP),)), snat)
    _, out = host.depart(IP(src=DIP, dst=REMOTE) / UDP(sport=1, dport=53))
    assert IP(out[14:]).sport == 50_009
    for destination in ("224.0.0.251", "255.255.255.255", "169.254.169.254", "127.0.0.1"):
        assert leaves_as(host, IP(src=DIP, dst=destination) / UDP(sport=2, dport=53)) == DIP
    host.path.close()


def test_a_dip_without_slots_connects_out_as_itself_and_stays_so() -> None:
    group = Group.of((Dip(address=DIP, weight=0), Dip(address=OTHER_DIP)))
    host = snat_host(group)
    out = IP(src=DIP, dst=REMOTE) / UDP(sport=5000, dport=53)
    assert leaves_as(host, out) == DIP
    host.path.put_vip(held(Group.of((Dip(address=DIP),)), snat=Snat()))
    assert leaves_as(host, out) == DIP, "a flow does not change its source"
    assert leaves_as(host, IP(src=DIP, dst=REMOTE) / UDP(sport=5001, dport=53)) == VIP
    assert host.counted() == {"OUT_OWN", "OUT_SNAT"}
    host.path.close()


def test_tables_do_not_leak_and_a_full_one_changes_nothing() -> None:
    host = Host()
    host.path.put_vip(hosted(HOSTED))
    used = {name: pool.used for name, pool in host.path.pools.items()}
    many = [
        HostVip(address=f"10.1.{n // 250}.{n % 250 + 1}", dips=(HostDip(address=DIP),)) for n in range(4096)
    ]
    with pytest.raises(TableFullError, match="meters"):
        host.path.replace(many)
    assert {name: pool.used for name, pool in host.path.pools.items()} == used
    assert arrives_at(host, syn(next(iter(mine(HOSTED)))), HOST) in (DIP, OTHER_DIP)
    for _ in range(5):
        host.path.replace(many[:500], [IPv4Address(VIP)])
        host.path.replace([hosted(HOSTED)], [vip.address for vip in many[:500]])
    assert {name: pool.used for name, pool in host.path.pools.items()} == used
    host.path.close()


def test_meters_are_given_to_others_once_nobody_can_mean_the_first() -> None:
    clock = 0.0
    names, counts = bpf.create_map(2, "names", 4, 8, 4), bpf.create_map(6, "counts", 4, 32, 4)
    meters = Meters(names, counts, lambda: clock)

    def take(*numbers: int) -> dict[int, int]:
        pairs = {(IPv4Address(f"10.0.0.{n}"), IPv4Address(DIP)): n for n in numbers}
        planned = meters.plan(pairs)
        meters.commit(planned, meters.held.keys() - pairs.keys())
        return {pairs[pair]: index for pair, index in planned.items()}

    assert take(1, 2, 3) == {1: 0, 2: 1, 3: 2}
    assert take(2, 3, 4) == {2: 1, 3: 2, 4: 3}
    with pytest.raises(TableFullError, match="meters"):
        take(2, 3, 4, 5)
    assert Meters(names, counts).held == meters.held, "a successor goes on with them"
    clock = REST_S
    assert take(2, 3, 4, 5)[5] == 0
    clock += REST_S / 2
    assert take(5) == {5: 0}
    for table in (names, counts):
        table.close()
