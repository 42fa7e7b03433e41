"""What a port takes: frames for the switch, from sources that may be there, tunnels from muxes only."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from scapy.layers.inet import IP

from duet_p4.hmux import entries
from duet_p4.hmux.entries import DropReason, PortKind
from ptf_tests.base import CLIENT_PORT, HmuxTest
from ptf_tests.packets import CLIENT, SWITCH_MAC, echo, encapsulated, frame, routed, tcp, tunneled, udp

VIP = IPv4Address("10.0.0.1")
DIP = IPv4Address("100.0.0.1")
TIP = IPv4Address("20.0.0.1")
DIP_PORT = 2
MUX = IPv4Address("172.30.0.99")


class AdmissionTest(HmuxTest):
    """A VIP and a TIP that one DIP serves, and a route to everyone."""

    def setUp(self) -> None:
        super().setUp()
        self.vip(VIP, [DIP])
        self.tip(TIP, [DIP])
        self.route("0.0.0.0/0", DIP_PORT)

    def lead_to(self, kind: PortKind, *prefixes: str) -> None:
        """Say what is behind the client's port."""
        self.switch.write(
            [
                ~entries.port(CLIENT_PORT, SWITCH_MAC, kind),
                *(+entries.source(CLIENT_PORT, IPv4Network(prefix)) for prefix in prefixes),
            ]
        )

    def expect_routed(self, packet: IP) -> None:
        """Fail unless a packet goes on to the DIP's port."""
        self.send(CLIENT_PORT, packet)
        self.expect(DIP_PORT, routed(packet, DIP_PORT))


class FramesForOthers(AdmissionTest):
    """A frame for another's MAC, as a flooding bridge brings it, is dropped; a group's is not forwarded."""

    def runTest(self) -> None:
        for packet in (tcp(CLIENT, VIP, 1, 80), udp(CLIENT, DIP, 1, 2), udp(CLIENT, DIP, 1, 2, ttl=1)):
            data = frame(packet)
            for mac in ("0200000000cc", "ffffffffffff", "01005e000005", "0200000001bb"):
                self.expect_drop(CLIENT_PORT, bytes.fromhex(mac) + data[6:], DropReason.FOREIGN_MAC, mac)


class GroupFramesToTheCpu(AdmissionTest):
    """What is for the switch itself reaches its CPU also in a frame to a group, as OSPF's hellos do."""

    def runTest(self) -> None:
        self.switch.write([+entries.route_to_cpu(IPv4Network("224.0.0.5/32"))])
        hello = IP(src=str(CLIENT), dst="224.0.0.5", ttl=1, proto=89) / b"hello"
        data = bytes.fromhex("01005e000005") + frame(hello)[6:]
        self.send(CLIENT_PORT, data)
        self.assertEqual(self.packet_in(), (CLIENT_PORT, data))


class MartianSources(AdmissionTest):
    """Sources that nobody has are dropped, to VIPs and others, in a tunnel as well (RFC 1812, 5.3.7)."""

    def runTest(self) -> None:
        for source in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"):
            for packet in (
                tcp(source, VIP, 1, 80),
                udp(source, DIP, 1, 2),
                tunneled(echo(source, VIP, 1), MUX, TIP),
            ):
                self.expect_drop(CLIENT_PORT, packet, DropReason.MARTIAN, source)


class HostPorts(AdmissionTest):
    """A host sends as itself or, in answers, as a VIP; never as another, and no tunnels (RFC 3704)."""

    def runTest(self) -> None:
        self.lead_to(PortKind.HOST, "100.9.9.0/28", "172.31.0.1/32", "10.0.0.0/16")
        for source in ("100.9.9.0", "100.9.9.15", "172.31.0.1", "10.0.200.1"):
            self.expect_routed(udp(source, DIP, 1, 2))
        for source in ("100.9.9.16", "100.1.1.1", "172.31.0.0", "10.1.0.1", "172.30.0.99"):
            self.expect_drop(CLIENT_PORT, udp(source, DIP, 1, 2), DropReason.SPOOFED, source)
            self.expect_drop(CLIENT_PORT, tcp(source, VIP, 1, 80), DropReason.SPOOFED, source)
        inner = tcp("100.9.9.1", VIP, 1, 80)
        for destination in (TIP, DIP, VIP):
            packet = tunneled(inner, "100.9.9.1", destination)
            self.expect_drop(CLIENT_PORT, packet, DropReason.HOST_TUNNEL, f"a tunnel to {destination}")
        self.send(CLIENT_PORT, inner)
        self.expect(DIP_PORT, encapsulated(inner, DIP, DIP_PORT))


class OutsidePorts(AdmissionTest):
    """From another network come any sources, but no tunnels."""

    def runTest(self) -> None:
        self.lead_to(PortKind.OUTSIDE)
        self.expect_routed(udp("198.51.100.7", DIP, 1, 2))
        for destination in (TIP, DIP):
            packet = tunneled(tcp("198.51.100.7", VIP, 1, 80), MUX, destination)
            self.expect_drop(CLIENT_PORT, packet, DropReason.HOST_TUNNEL)


class PortsNobodyKnows(AdmissionTest):
    """IPv4 from a port that the control plane has said nothing about is dropped."""

    def runTest(self) -> None:
        self.switch.write([-entries.port(CLIENT_PORT, SWITCH_MAC)])
        self.expect_drop(CLIENT_PORT, udp(CLIENT, DIP, 1, 2), DropReason.NO_PORT)
