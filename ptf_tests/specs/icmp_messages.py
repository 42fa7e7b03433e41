"""ICMP errors: those the switch makes (RFC 792, RFC 1191), and those it steers to the right DIP."""

from __future__ import annotations

from ipaddress import IPv4Address

from finsy import P4MeterEntry
from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.packet import Packet, Raw

from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.hmux import entries
from duet_p4.hmux.entries import DropReason
from duet_p4.model import Protocol
from ptf_tests.base import CLIENT_PORT, MTU, QUIET_SECONDS, HmuxTest
from ptf_tests.packets import (
    CLIENT,
    echo,
    encapsulated,
    icmp_error,
    neighbor_mac,
    routed,
    switch_mac,
    tcp,
    tunneled,
    udp,
)

VIP = IPv4Address("10.0.0.1")
DIPS = [IPv4Address("100.0.1.0") + i for i in range(10)]
DIP = DIPS[0]
DIP_PORT = 2
OTHER_MUX = IPv4Address("172.30.0.99")


class IcmpTest(HmuxTest):
    """A VIP that one DIP serves, and a route to everyone."""

    differing_row = "ICMP errors (TTL expired, too big)"

    def setUp(self) -> None:
        super().setUp()
        self.vip(VIP, [DIP])
        self.route("0.0.0.0/0", DIP_PORT)

    def expect_error(self, packet: Packet, about: Packet, reason: DropReason, *error: int) -> None:
        """Send a packet, and fail unless it is counted and its sender is told."""
        before = self.drops()[reason]
        self.send(CLIENT_PORT, packet)
        self.expect(CLIENT_PORT, icmp_error(about, *error))
        self.assertEqual(self.drops()[reason], before + 1)


class TtlExpires(IcmpTest):
    """A packet whose TTL ends here is answered with "time exceeded", from the switch's own address."""

    def runTest(self) -> None:
        for ttl in (0, 1):
            for packet in (
                tcp(CLIENT, VIP, 1234, 80, ttl=ttl),
                udp(CLIENT, DIP, 1234, 53, ttl=ttl),
                echo(CLIENT, DIP, 1, ttl=ttl),
                udp(CLIENT, DIP, 1234, 53, ttl=ttl, options=[IPOption_Router_Alert()]),
                tcp(CLIENT, VIP, 1234, 80, payload=bytes(1400), ttl=ttl),
                IP(src=str(CLIENT), dst=str(DIP), ttl=ttl, proto=47) / b"12345678",
            ):
                self.expect_error(packet, packet, DropReason.TTL_EXPIRED, 11, 0)


class TtlExpiresInATunnel(IcmpTest):
    """At a TIP it is the client's TTL that ends; on the way, it is the tunnel's, and only counted."""

    def runTest(self) -> None:
        tip = IPv4Address("20.0.0.1")
        self.tip(tip, [DIP])
        packet = tcp(CLIENT, VIP, 1234, 80, ttl=1)
        self.expect_error(tunneled(packet, OTHER_MUX, tip), packet, DropReason.TTL_EXPIRED, 11, 0)
        in_transit = IP(src=str(OTHER_MUX), dst=str(DIP), ttl=1, proto=4) / tcp(CLIENT, VIP, 1234, 80)
        self.expect_drop(CLIENT_PORT, in_transit, DropReason.TTL_EXPIRED)


class NobodyToTell(IcmpTest):
    """No error about an error, a later fragment, or a packet without 8 bytes to quote."""

    def runTest(self) -> None:
        error = IP(src=str(CLIENT), dst=str(DIP), ttl=1) / ICMP(type=3, code=1) / raw(tcp(DIP, CLIENT, 1, 2))
        for packet in (
            error,
            udp(CLIENT, DIP, 1, 2, ttl=1, frag=100),
            IP(src=str(CLIENT), dst=str(DIP), ttl=1, proto=47) / b"1234567",
        ):
            self.expect_drop(CLIENT_PORT, packet, DropReason.TTL_EXPIRED)


class ErrorsAreFew(IcmpTest):
    """What would cause more errors than the meter of its port allows is dropped unanswered."""

    def runTest(self) -> None:
        burst, sent = 5, 40
        self.switch.write([~entries.icmp_error_limit(CLIENT_PORT, 1, burst)])
        self.addCleanup(self.switch.write, [~P4MeterEntry("icmp_error_meter", index=CLIENT_PORT)])
        packet = udp(CLIENT, DIP, 1, 2, ttl=1)
        before = self.drops()[DropReason.TTL_EXPIRED]
        for _ in range(sent):
            self.send(CLIENT_PORT, packet)
        self.await_equal(lambda: self.drops()[DropReason.TTL_EXPIRED], before + sent, "all packets, dropped")
        answers = 0
        while self.receive(QUIET_SECONDS) is not None:
            answers += 1
        self.assertGreaterEqual(answers, burst)
        self.assertLess(answers, sent / 2)
        self.send(2, packet)  # Another port has a meter of its own.
        self.assertIsNotNone(self.receive())


class TooBigOnceEncapsulated(IcmpTest):
    """The client learns the size that fits the tunnel: the egress port's MTU less the outer header."""

    def runTest(self) -> None:
        headers = len(tcp(CLIENT, VIP, 1234, 80, payload=b""))
        fits = tcp(CLIENT, VIP, 1234, 80, payload=bytes(MTU - 20 - headers), flags="DF")
        self.send(CLIENT_PORT, fits)
        self.expect(DIP_PORT, encapsulated(fits, DIP, DIP_PORT))
        for size in (1, 20):
            packet = tcp(CLIENT, VIP, 1234, 80, payload=bytes(MTU - 20 - headers + size), flags="DF")
            self.expect_error(packet, packet, DropReason.TOO_BIG, 3, 4, MTU - 20)
        packet = udp(CLIENT, VIP, 1, 2, payload=bytes(1460), flags="DF", options=[IPOption_Router_Alert()])
        self.expect_error(packet, packet, DropReason.TOO_BIG, 3, 4, MTU - 20)


class TooBigToRoute(IcmpTest):
    """Without a tunnel, the whole MTU of the egress port counts."""

    def runTest(self) -> None:
        fits = udp(CLIENT, DIP, 1, 2, payload=bytes(MTU - 28), flags="DF")
        self.send(CLIENT_PORT, fits)
        self.expect(DIP_PORT, routed(fits, DIP_PORT))
        packet = udp(CLIENT, DIP, 1, 2, payload=bytes(MTU - 27), flags="DF")
        self.expect_error(packet, packet, DropReason.TOO_BIG, 3, 4, MTU)


class TooBigInATunnel(IcmpTest):
    """Where the narrow link is beyond the mux, the client is still the one who learns."""

    def runTest(self) -> None:
        tip = IPv4Address("20.0.0.1")
        self.tip(tip, [DIP])
        narrow = 1000
        self.switch.write([~entries.nexthop(DIP_PORT, DIP_PORT, switch_mac(2), neighbor_mac(2), narrow)])
        packet = tcp(CLIENT, VIP, 1234, 80, payload=bytes(1200), flags="DF")
        for destination in (DIP, tip):
            carried = tunneled(packet, OTHER_MUX, destination)
            self.expect_error(carried, packet, DropReason.TOO_BIG, 3, 4, narrow - 20)


class TooBigToTell(IcmpTest):
    """A packet that may be fragmented, which a switch cannot do, is dropped and counted."""

    def runTest(self) -> None:
        for packet in (
            tcp(CLIENT, VIP, 1234, 80, payload=bytes(1460)),
            udp(CLIENT, DIP, 1, 2, payload=bytes(1480)),
        ):
            self.expect_drop(CLIENT_PORT, packet, DropReason.TOO_BIG)


class ErrorsFollowTheFlowTheyQuote(HmuxTest):
    """An ICMP error about what a DIP sent from its VIP reaches that DIP; 8 bytes of quoted L4 suffice."""

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        self.route("100.0.0.0/8", DIP_PORT)
        router = "100.77.0.1"
        reached = set()
        for client_port in range(2000, 2012):
            for quoted, protocol in (
                (IP(src=str(VIP), dst=str(CLIENT)) / TCP(sport=80, dport=client_port), 6),
                (IP(src=str(VIP), dst=str(CLIENT)) / UDP(sport=80, dport=client_port) / b"answer", 17),
            ):
                dip = owners[flow_hash(Flow(CLIENT, VIP, protocol, client_port, 80)) % len(owners)]
                for type_, code in ((3, 4), (3, 1), (4, 0), (11, 0), (12, 0)):
                    error = IP(src=router, dst=str(VIP)) / ICMP(type=type_, code=code) / Raw(raw(quoted)[:28])
                    self.send(CLIENT_PORT, error)
                    self.expect(DIP_PORT, encapsulated(error, dip, DIP_PORT))
                reached.add(dip)
        self.assertGreater(len(reached), 5)


class ErrorsAboutEchoes(HmuxTest):
    """An ICMP error about an echo reply reaches the DIP that answered the echo."""

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        self.route("100.0.0.0/8", DIP_PORT)
        for identifier in range(20):
            dip = owners[flow_hash(Flow(CLIENT, VIP, 1, identifier, 0)) % len(owners)]
            quoted = IP(src=str(VIP), dst=str(CLIENT)) / ICMP(type=0, id=identifier, seq=3)
            error = IP(src="100.77.0.1", dst=str(VIP)) / ICMP(type=11, code=0) / Raw(raw(quoted)[:28])
            self.send(CLIENT_PORT, error)
            self.expect(DIP_PORT, encapsulated(error, dip, DIP_PORT))


class ErrorsToAPort(HmuxTest):
    """An error about a flow of one port of a VIP goes to the DIPs of that port."""

    def runTest(self) -> None:
        http, other = DIPS[:2]
        self.switch.write([+entries.port_group(VIP, Protocol.TCP, 80, *self.slots([http]))])
        self.vip(VIP, [other], has_ports=True)
        self.route("100.0.0.0/8", DIP_PORT)
        for port, dip in ((80, http), (443, other)):
            quoted = IP(src=str(VIP), dst=str(CLIENT)) / TCP(sport=port, dport=2000)
            error = IP(src="100.77.0.1", dst=str(VIP)) / ICMP(type=3, code=4) / Raw(raw(quoted)[:28])
            self.send(CLIENT_PORT, error)
            self.expect(DIP_PORT, encapsulated(error, dip, DIP_PORT))


class ErrorsInATunnel(HmuxTest):
    """The mux of a TIP steers an error like the flow it quotes, too."""

    def runTest(self) -> None:
        tip = IPv4Address("20.0.0.1")
        owners = DIPS * 8
        self.tip(tip, owners)
        self.route("100.0.0.0/8", DIP_PORT)
        for client_port in range(2000, 2010):
            dip = owners[tip_hash(Flow(CLIENT, VIP, 6, client_port, 80)) % len(owners)]
            quoted = IP(src=str(VIP), dst=str(CLIENT)) / TCP(sport=80, dport=client_port)
            error = IP(src="100.77.0.1", dst=str(VIP)) / ICMP(type=3, code=4) / Raw(raw(quoted)[:28])
            self.send(CLIENT_PORT, tunneled(error, OTHER_MUX, tip))
            self.expect(DIP_PORT, encapsulated(error, dip, DIP_PORT))


class ErrorsThatQuoteTooLittle(IcmpTest):
    """An error to a VIP that does not tell which flow it is about is dropped; to others it is routed."""

    def runTest(self) -> None:
        segment = IP(src=str(VIP), dst=str(CLIENT)) / TCP(sport=80, dport=2000)
        for quoted in (
            b"",
            raw(segment)[:19],
            raw(segment)[:27],
            raw(IP(src=str(VIP), dst=str(CLIENT), options=[IPOption_Router_Alert()]) / TCP())[:32],
            raw(IP(src=str(VIP), dst=str(CLIENT), frag=100, proto=6) / Raw(b"8 bytes."))[:28],
            raw(IP(src=str(VIP), dst=str(CLIENT)) / ICMP(type=14, id=7))[:28],
            raw(IP(src=str(DIP), dst=str(CLIENT)) / TCP(sport=80, dport=2000))[:28],
        ):
            message = ICMP(type=3, code=3) / Raw(quoted)
            self.expect_drop(
                CLIENT_PORT, IP(src="100.77.0.1", dst=str(VIP)) / message, DropReason.BAD_QUOTE, repr(quoted)
            )
            error = IP(src="100.77.0.1", dst=str(DIP)) / message
            self.send(CLIENT_PORT, error)
            self.expect(DIP_PORT, routed(error, DIP_PORT))
