"""Routing: longest prefix, equal-cost paths, TTL."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Network

from scapy.compat import raw
from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.l2 import Ether

from duet_p4.flow_hash import underlay_hash
from duet_p4.hmux import entries
from duet_p4.hmux.entries import DropReason
from ptf_tests.base import CLIENT_PORT, UNDERLAY_SEED, HmuxTest
from ptf_tests.packets import (
    CLIENT,
    LOOPBACK,
    SENDER_MAC,
    echo,
    encapsulated,
    frame,
    neighbor_mac,
    routed,
    switch_mac,
    tcp,
    tunneled,
    udp,
    udp_flows,
)

SERVER = IPv4Address("100.0.0.5")
OTHER_SEED = 0xCBF4_3926


class RoutesOn(HmuxTest):
    """A packet to anyone else is routed: TTL one less, checksum right, Ethernet addresses of the next hop."""

    def runTest(self) -> None:
        self.route("100.0.0.0/24", 2)
        for packet in (
            tcp(CLIENT, SERVER, 1, 2, ttl=2),
            udp(CLIENT, SERVER, 1, 2, flags="DF"),
            udp(CLIENT, SERVER, 1, 2, options=[IPOption_Router_Alert()]),
            echo(CLIENT, SERVER, 9),
            IP(src=str(CLIENT), dst=str(SERVER), proto=89) / b"?",
        ):
            self.send(CLIENT_PORT, packet)
            self.expect(2, routed(packet, 2))


class ChecksumCarries(HmuxTest):
    """The adjusted checksum is right for every value it had before, those that carry included."""

    def runTest(self) -> None:
        self.route("100.0.0.0/24", 2)
        seen = set()
        for identification in range(0, 0x10000, 97):
            packet = udp(CLIENT, SERVER, 1, 2, id=identification)
            seen.add(IP(raw(packet)).chksum >= 0xFEFF)
            self.send(CLIENT_PORT, packet)
            received = self.receive()
            self.assertIsNotNone(received)
            self.assertEqual(received[1].hex(), routed(packet, 2).hex())
        self.assertEqual(seen, {True, False})


class LongestPrefixWins(HmuxTest):
    """A VIP's /32, announced by its HMux, wins over the SMuxes' covering prefix; without it they have it."""

    def runTest(self) -> None:
        vip = IPv4Address("10.0.0.1")
        for prefix, port in (("0.0.0.0/0", 5), ("10.0.0.0/16", 3), ("10.0.0.0/24", 4), (f"{vip}/32", 2)):
            self.route(prefix, port)
        for address, port in ((vip, 2), ("10.0.0.2", 4), ("10.0.9.9", 3), ("11.0.0.1", 5)):
            packet = tcp(CLIENT, address, 1, 2)
            self.send(CLIENT_PORT, packet)
            self.expect(port, routed(packet, port))
        self.switch.write([-entries.route(IPv4Network(f"{vip}/32"), 0)])
        packet = tcp(CLIENT, vip, 1, 2)
        self.send(CLIENT_PORT, packet)
        self.expect(4, routed(packet, 4))


class NeverUpAfterDown(HmuxTest):
    """What came down to a VIP or TIP goes on down, to the SMuxes, even if its route leads up again."""

    def runTest(self) -> None:
        up, down, above = 3, 2, 4
        vip, tip, own = IPv4Address("10.0.0.1"), IPv4Address("20.0.0.1"), IPv4Address("10.0.0.2")
        group_up, group_down = self.group(up), self.group(down)
        self.switch.write(
            [
                +entries.route_up_to_mux(IPv4Network(vip), group_up),
                +entries.route_up_to_mux(IPv4Network(tip), group_up),
                +entries.route(IPv4Network("100.0.0.0/24"), group_up),
                +entries.backstop(above, group_down),
            ]
        )
        to_vip = tcp(CLIENT, vip, 1, 2)
        to_tip = tunneled(to_vip, "172.30.0.99", tip)
        for packet in (to_vip, to_tip):
            for came_by, leaves_by in ((CLIENT_PORT, up), (above, down)):
                self.send(came_by, packet)
                self.expect(leaves_by, routed(packet, leaves_by))
        # Only muxes have a backstop, and what this switch tunnels to a TIP has not come down yet.
        to_server = tcp(CLIENT, SERVER, 1, 2)
        self.send(above, to_server)
        self.expect(up, routed(to_server, up))
        self.vip(own, [tip])
        to_own = tcp(CLIENT, own, 1, 2)
        self.send(above, to_own)
        self.expect(up, encapsulated(to_own, tip, up))
        self.switch.write([-entries.backstop(above, group_down)])
        self.send(above, to_vip)
        self.expect(up, routed(to_vip, up))


class EqualPathsShareFlows(HmuxTest):
    """Flows spread over equal next hops, and each keeps to its own."""

    def runTest(self) -> None:
        ports = [2, 3, 4]
        self.route("100.0.0.0/8", *ports)
        flows = udp_flows(3000, SERVER)
        taken = self.ports_of(flows)
        self.assert_same(taken, {flow: ports[underlay_hash(flow, UNDERLAY_SEED) % 3] for flow in flows})
        self.assert_even(Counter(taken.values()), dict.fromkeys(ports, 1))


class StagesDoNotPolarize(HmuxTest):
    """With another seed flows spread anew: the choice of one switch says nothing about that of the next."""

    def runTest(self) -> None:
        self.route("100.0.0.0/8", 2, 3)
        flows = udp_flows(3000, SERVER)
        first = self.ports_of(flows)
        self.switch.write([~entries.configuration(LOOPBACK, OTHER_SEED)])
        second = self.ports_of(flows)
        pairs = Counter((first[flow], second[flow]) for flow in flows)
        self.assert_even(pairs, dict.fromkeys([(a, b) for a in (2, 3) for b in (2, 3)], 1))


class TunnelsShareByTheClientsFlow(HmuxTest):
    """Tunnels between the same two muxes spread over equal paths, for the flow inside is hashed."""

    def runTest(self) -> None:
        self.route("100.0.0.0/8", 2, 3)
        used = set()
        for flow, data in udp_flows(32, "10.0.0.1").items():
            packet = tunneled(IP(data[14:]), "172.30.0.99", SERVER)
            port = (2, 3)[underlay_hash(flow, UNDERLAY_SEED) % 2]
            self.send(CLIENT_PORT, packet)
            self.expect(port, routed(packet, port))
            used.add(port)
        self.assertEqual(used, {2, 3})


class NoRoute(HmuxTest):
    """What no prefix covers is dropped as such."""

    def runTest(self) -> None:
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, SERVER, 1, 2), DropReason.NO_ROUTE)


class BlackholeRoute(HmuxTest):
    """A route may lead nowhere."""

    def runTest(self) -> None:
        self.switch.write([+entries.route_to_nowhere(IPv4Network("100.0.0.0/24"))])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, SERVER, 1, 2), DropReason.BLACKHOLE)


class NextHopThatIsNotThere(HmuxTest):
    """A group or next hop that the control plane left empty drops; it does not send astray."""

    def runTest(self) -> None:
        self.route("100.0.0.0/24", 2)
        self.switch.write([-entries.nexthop(2, 2, switch_mac(2), neighbor_mac(2), 1500)])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, SERVER, 1, 2), DropReason.NO_NEXTHOP)
        self.switch.write([-entries.nexthop_slot(0, 2)])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, SERVER, 1, 2), DropReason.NO_NEXTHOP)


class BackByTheSamePort(HmuxTest):
    """A next hop on the ingress port is as good as any."""

    def runTest(self) -> None:
        self.route("100.0.0.0/24", CLIENT_PORT)
        packet = tcp(CLIENT, SERVER, 1, 2)
        self.send(CLIENT_PORT, packet)
        self.expect(CLIENT_PORT, routed(packet, CLIENT_PORT))


class MalformedPackets(HmuxTest):
    """Headers that contradict themselves or the frame are dropped as malformed."""

    differing_row = "frame shorter than its IPv4 length"

    def runTest(self) -> None:
        self.route("0.0.0.0/0", 2)
        good = udp(CLIENT, SERVER, 1, 2)
        outer = {"src": "172.30.0.99", "dst": str(SERVER), "proto": 4}
        for what, bad in {
            "a version that is not 4": frame(udp(CLIENT, SERVER, 1, 2, version=5)),
            "a header shorter than 20 bytes": frame(udp(CLIENT, SERVER, 1, 2, ihl=4)),
            "more header than frame": frame(IP(src=str(CLIENT), dst=str(SERVER), ihl=15, len=20)),
            "a total length shorter than the header": frame(udp(CLIENT, SERVER, 1, 2, len=19)),
            "a total length beyond the frame": frame(udp(CLIENT, SERVER, 1, 2, len=len(good) + 1)),
            "a frame that ends in the IPv4 header": frame(good)[:33],
            "a frame that ends in the ports": frame(good)[:37],
            "a tunnel that ends in the inner header": frame(IP(**outer) / raw(good)[:19]),
            "a tunnel shorter than what it carries": frame(IP(**outer, len=20 + len(good) - 1) / good),
            "no IPv4 in the tunnel": frame(IP(**outer) / raw(Ether(dst=SENDER_MAC) / good)),
        }.items():
            self.expect_drop(CLIENT_PORT, bad, DropReason.MALFORMED, what)


class BadChecksum(HmuxTest):
    """A wrong IPv4 header checksum is dropped as such: without options, with them, on a tunnel's header."""

    differing_row = "IPv4 options"

    def runTest(self) -> None:
        self.vip(IPv4Address("10.0.0.1"), [SERVER])
        self.route("0.0.0.0/0", 2)
        for packet in (
            udp(CLIENT, SERVER, 1, 2),
            udp(CLIENT, "10.0.0.1", 1, 2),
            udp(CLIENT, SERVER, 1, 2, options=[IPOption_Router_Alert()]),
            tunneled(udp(CLIENT, "10.0.0.1", 1, 2), "172.30.0.99", SERVER),
        ):
            right = IP(raw(packet)).chksum
            for wrong in (right ^ 1, right ^ 0x8000, right + 1 & 0xFFFF):
                packet.chksum = wrong
                self.expect_drop(CLIENT_PORT, packet, DropReason.BAD_CHECKSUM)
