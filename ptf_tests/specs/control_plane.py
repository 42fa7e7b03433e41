"""What the control plane sees: packets in and out, counters, full tables, a switch not yet configured."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from finsy import P4TableEntry
from ptf.testutils import test_param_get
from scapy.compat import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether

from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.entries import DropReason
from duet_p4.model import Protocol
from ptf_tests.base import CLIENT_PORT, HmuxTest
from ptf_tests.p4runtime import WriteError
from ptf_tests.packets import (
    CLIENT,
    LOOPBACK,
    SENDER_MAC,
    echo,
    encapsulated,
    frame,
    tcp,
    tunneled,
    udp,
    udp_flows,
)

VIP = IPv4Address("10.0.0.1")
DIPS = [IPv4Address("100.0.1.0") + i for i in range(4)]
REFUSAL = {"xdp": 8, "bmv2": 2}
"""RESOURCE_EXHAUSTED, as P4Runtime wants it; BMv2 says UNKNOWN."""


class ControlTrafficGoesToTheCpu(HmuxTest):
    """ARP, and everything to an address of the switch itself, arrives as it came, with its ingress port."""

    def runTest(self) -> None:
        link = "172.31.0.0"
        self.switch.write(
            [
                +entries.punt(entries.ETHERTYPE_ARP),
                +entries.route_to_cpu(IPv4Network(f"{LOOPBACK}/32")),
                +entries.route_to_cpu(IPv4Network(f"{link}/32")),
            ]
        )
        bgp = IP(src="172.31.0.1", dst=link, ttl=1) / TCP(sport=40000, dport=179)
        for packet in (
            raw(Ether(src=SENDER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="172.31.0.1", pdst=link)),
            frame(bgp),
            frame(IP(src="172.31.0.1", dst=link, ttl=255) / UDP(sport=49152, dport=3784) / bytes(24)),
            frame(
                IP(src="172.31.0.1", dst=str(LOOPBACK), ttl=255) / UDP(sport=49152, dport=4784) / bytes(24)
            ),
            frame(echo(CLIENT, LOOPBACK, 5, ttl=1)),
            frame(udp(CLIENT, LOOPBACK, 1, 33434, payload=bytes(1400))),
            frame(tunneled(tcp(CLIENT, VIP, 1, 2), "172.30.0.99", LOOPBACK)),
        ):
            for port in (1, 6):
                self.send(port, packet)
                self.assertEqual(self.packet_in(), (port, packet))
        self.expect_nothing()


class OtherEtherTypesAreDropped(HmuxTest):
    """Frames that are neither IPv4 nor wanted by the CPU are counted and dropped."""

    def runTest(self) -> None:
        for ether_type in (0x0806, 0x86DD, 0x88CC, 0x0000, 0xFFFF):
            data = raw(Ether(src=SENDER_MAC, dst="ff:ff:ff:ff:ff:ff", type=ether_type)) + bytes(46)
            self.expect_drop(CLIENT_PORT, data, DropReason.ETHER_TYPE)


class UnconfiguredSwitchBalancesNothing(HmuxTest):
    """Until it knows its own address, a switch passes control traffic only: tunnels would have no source."""

    def runTest(self) -> None:
        self.switch.push_pipeline()
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, VIP, 1, 2), DropReason.NOT_CONFIGURED)
        self.switch.write([+entries.punt(entries.ETHERTYPE_ARP)])
        arp = raw(Ether(src=SENDER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="172.31.0.1"))
        self.send(CLIENT_PORT, arp)
        self.assertEqual(self.packet_in(), (CLIENT_PORT, arp))
        self.switch.send(entries.packet_out(2, arp))
        self.expect(2, arp)


class CpuSendsByAnyPort(HmuxTest):
    """A packet-out leaves by the port it names, byte for byte, whatever it holds."""

    def runTest(self) -> None:
        self.vip(VIP, DIPS)
        for data in (
            raw(Ether(src=SENDER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="172.31.0.1")),
            frame(tcp(LOOPBACK, VIP, 179, 40000, ttl=1)),
            frame(udp(LOOPBACK, CLIENT, 1, 2, payload=bytes(1400))),
        ):
            for port in (1, 3, 6):
                self.switch.send(entries.packet_out(port, data))
                self.expect(port, data)


class CountersAreExact(HmuxTest):
    """Entries of VIPs, ports and tunnels count every packet, and its bytes as they arrived."""

    def runTest(self) -> None:
        self.route("100.0.0.0/8", 2)
        self.vip(VIP, DIPS * 2, has_ports=True)
        http = IPv4Address("100.0.2.2")
        port_group = entries.port_group(VIP, Protocol.TCP, 80, *self.slots([http]))
        self.switch.write([+port_group])
        other = IPv4Address("10.0.0.2")
        self.vip(other, DIPS)

        flows = udp_flows(500, VIP)
        found = self.tunneled_to(flows)
        to_port = [frame(tcp(CLIENT, VIP, port, 80, payload=bytes(port))) for port in range(1, 60)]
        self.burst(CLIENT_PORT, to_port)

        sizes = [len(data) for data in flows.values()]
        port_sizes = [len(data) for data in to_port]
        host = entries.vip(VIP, 0, 8)
        self.assertEqual(self.counts(host), (len(sizes + port_sizes), sum(sizes + port_sizes)))
        self.assertEqual(self.counts(port_group), (len(port_sizes), sum(port_sizes)))
        self.assertEqual(self.counts(entries.vip(other, 8, 4)), (0, 0))
        for dip in DIPS:
            mine = [len(flows[flow]) for flow in flows if found[flow] == dip]
            self.assertEqual(self.counts(entries.tunnel(self.tunnel(dip), dip)), (len(mine), sum(mine)))
        tunnel = entries.tunnel(self.tunnel(http), http)
        self.assertEqual(self.counts(tunnel), (len(port_sizes), sum(port_sizes)))


class ModifyingAnEntryTakesEffect(HmuxTest):
    """A modified entry is what the next packet meets; a deleted one is not met any more."""

    def runTest(self) -> None:
        self.route("0.0.0.0/0", 2)
        first, second = DIPS[:2]
        self.vip(VIP, [first])
        packet = tcp(CLIENT, VIP, 1, 2)
        self.send(CLIENT_PORT, packet)
        self.expect(2, encapsulated(packet, first, 2))
        self.switch.write([~entries.tunnel(self.tunnel(first), second)])
        self.send(CLIENT_PORT, packet)
        self.expect(2, encapsulated(packet, second, 2))
        self.switch.write([-entries.tunnel(self.tunnel(first), second)])
        self.expect_drop(CLIENT_PORT, packet, DropReason.EMPTY_SLOT)


class FullTables(HmuxTest):
    """Every table takes as many entries as it says, no more, and works when full."""

    differing_row = "a full table"

    def runTest(self) -> None:
        sizes = pipeline.sizes()
        vips = IPv4Address("10.0.0.0")
        self.switch.write(+entries.tunnel(i, DIPS[0] + i) for i in range(sizes["tunneling_table"]))
        self.switch.write(+entries.slot(i, i % sizes["tunneling_table"]) for i in range(sizes["ecmp_table"]))
        self.switch.write(+entries.vip(vips + i, i % 4096, 1) for i in range(sizes["host_table"]))
        self.route("0.0.0.0/0", 2)
        routes = IPv4Address("200.0.0.0")
        self.switch.write(
            +entries.route(IPv4Network((routes + i, 32)), 0) for i in range(sizes["route_table"] - 1)
        )

        def one_more(entry: P4TableEntry) -> None:
            with self.assertRaises(WriteError) as caught:
                self.switch.write([+entry])
            self.assertEqual(
                caught.exception.codes, [REFUSAL[test_param_get("target")]], str(caught.exception)
            )

        one_more(entries.vip(vips + sizes["host_table"], 0, 1))
        one_more(entries.route(IPv4Network("201.0.0.0/8"), 0))

        for i in (0, 1, 511, 512, 4095, 4096, sizes["host_table"] - 1):
            packet = udp(CLIENT, vips + i, 7, 9)
            self.send(CLIENT_PORT, packet)
            self.expect(2, encapsulated(packet, DIPS[0] + i % 4096 % 512, 2))

        # A full table still takes what replaces, and what follows a delete.
        last = vips + sizes["host_table"] - 1
        self.switch.write([~entries.vip(last, 1, 1)])
        self.switch.write([-entries.vip(last, 1, 1)])
        self.switch.write([+entries.vip(vips + sizes["host_table"], 2, 1)])
        packet = udp(CLIENT, vips + sizes["host_table"], 7, 9)
        self.send(CLIENT_PORT, packet)
        self.expect(2, encapsulated(packet, DIPS[0] + 2, 2))
