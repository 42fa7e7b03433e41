"""A packet to a VIP leaves in a tunnel to a DIP (the paper's section 3.1; RFC 2003)."""

from __future__ import annotations

from ipaddress import IPv4Address

from scapy.layers.inet import IPOption_Router_Alert

from duet_p4.hmux.entries import DropReason
from ptf_tests.base import CLIENT_PORT, HmuxTest
from ptf_tests.packets import CLIENT, echo, encapsulated, frame, tcp, udp

VIP = IPv4Address("10.0.0.1")
DIP = IPv4Address("100.0.0.1")
DIP_PORT = 2


class VipWithOneDip(HmuxTest):
    """A VIP that one DIP serves."""

    def setUp(self) -> None:
        super().setUp()
        self.vip(VIP, [DIP])
        self.route(f"{DIP}/32", DIP_PORT)


class TunnelsByteForByte(VipWithOneDip):
    """TCP, UDP and ICMP echo leave in IP-in-IP from the switch's loopback to the DIP, otherwise unchanged."""

    def runTest(self) -> None:
        for packet in (
            tcp(CLIENT, VIP, 1234, 80),
            udp(CLIENT, VIP, 1234, 53),
            echo(CLIENT, VIP, identifier=77),
            tcp(CLIENT, VIP, 1234, 80, payload=bytes(1440)),
        ):
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, DIP, DIP_PORT))


class OuterHeaderFollowsTheInner(VipWithOneDip):
    """Type of service and congestion marks show on the outside; identification does not (RFC 6864)."""

    def runTest(self) -> None:
        for fields in ({"tos": 0xB9}, {"flags": "DF"}, {"flags": 0, "id": 4711}, {"ttl": 2}, {"ttl": 255}):
            packet = tcp(CLIENT, VIP, 1234, 80, **fields)
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, DIP, DIP_PORT))


class CarriesOptions(VipWithOneDip):
    """IPv4 options of any length are carried inside, and the ports behind them still count."""

    differing_row = "IPv4 options"

    def runTest(self) -> None:
        for words in range(1, 11):
            options = [IPOption_Router_Alert(), *[b"\x01" * 4] * (words - 1)]
            packet = tcp(CLIENT, VIP, 1234, 80, options=options)
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, DIP, DIP_PORT))


class KeepsPadding(VipWithOneDip):
    """The padding of a short frame stays behind the packet; lengths count the packet only."""

    def runTest(self) -> None:
        packet = udp(CLIENT, VIP, 1234, 53, payload=b"")
        padding = bytes(60 - len(frame(packet)))
        self.send(CLIENT_PORT, frame(packet) + padding)
        self.expect(DIP_PORT, encapsulated(packet, DIP, DIP_PORT, padding))


class DipWithoutARoute(HmuxTest):
    """A packet for a DIP that no route leads to is dropped as such."""

    def runTest(self) -> None:
        self.vip(VIP, [DIP])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, VIP, 1234, 80), DropReason.NO_ROUTE)
