"""Which DIP serves a flow: spread, weights, stickiness, ports, pinned flows, fragments."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from scapy.layers.inet import IP, IPOption_Router_Alert, fragment
from scapy.packet import Raw

from duet_p4.flow_hash import flow_hash
from duet_p4.hmux import entries
from duet_p4.hmux.entries import DropReason
from duet_p4.model import Protocol
from ptf_tests.base import CLIENT_PORT, UNDERLAY_SEED, HmuxTest
from ptf_tests.packets import CLIENT, LOOPBACK, Tunneled, echo, encapsulated, flow_of, tcp, udp, udp_flows

VIP = IPv4Address("10.0.0.1")
DIPS = [IPv4Address("100.0.1.0") + i for i in range(10)]
DIP_PORT = 2


class BalancingTest(HmuxTest):
    """An HMux with a route to every DIP."""

    def setUp(self) -> None:
        super().setUp()
        self.route("100.0.0.0/8", DIP_PORT)


class SpreadsFlowsEvenly(BalancingTest):
    """Flows spread over a VIP's DIPs, each to the DIP that the flow hash names."""

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        found = self.tunneled_to(udp_flows(4000, VIP))
        self.assert_same(found, {flow: owners[flow_hash(flow) % len(owners)] for flow in found})
        self.assert_even(Counter(found.values()), dict.fromkeys(DIPS, 1))


class FlowsStick(BalancingTest):
    """Every packet of a flow takes the same way, whatever else it carries."""

    def runTest(self) -> None:
        self.vip(VIP, DIPS * 8)
        flows = udp_flows(300, VIP)
        first = self.tunneled_to(flows)
        longer = {flow: data + b"more" for flow, data in flows.items()}
        self.assert_same(self.tunneled_to(longer), first)
        self.assert_same(self.tunneled_to(flows, port=5), first)


class HonoursWeights(BalancingTest):
    """A DIP that owns three times the slots gets three times the flows (WCMP)."""

    def runTest(self) -> None:
        heavy, light = DIPS[:2]
        self.vip(VIP, [heavy, heavy, light, heavy] * 4)
        found = self.tunneled_to(udp_flows(2000, VIP))
        self.assert_even(Counter(found.values()), {heavy: 3, light: 1})


class RemovalMovesOnlyItsFlows(BalancingTest):
    """When a DIP's slots go to others, flows of other DIPs stay where they are (resilient hashing)."""

    def runTest(self) -> None:
        owners = DIPS * 4
        first = self.vip(VIP, owners)
        flows = udp_flows(1500, VIP)
        before = self.tunneled_to(flows)
        gone, rest = DIPS[3], DIPS[:3] + DIPS[4:]
        self.switch.write(
            ~entries.slot(first + i, self.tunnel(rest[i % len(rest)]))
            for i, owner in enumerate(owners)
            if owner == gone
        )
        after = self.tunneled_to(flows)
        stay = {flow: dip for flow, dip in before.items() if dip != gone}
        self.assert_same({flow: after[flow] for flow in stay}, stay)
        self.assertNotIn(gone, set(after.values()))


class PortsHaveTheirOwnDips(BalancingTest):
    """HTTP and FTP of one VIP go to different DIPs (port-based load balancing, section 3.3)."""

    http = (IPv4Address("100.0.0.1"), IPv4Address("100.0.0.2"))
    ftp = (IPv4Address("110.0.0.1"), IPv4Address("110.0.0.2"))

    def setUp(self) -> None:
        super().setUp()
        self.route("110.0.0.0/8", 3)
        for port, dips in ((80, self.http), (21, self.ftp)):
            self.switch.write([+entries.port_group(VIP, Protocol.TCP, port, *self.slots(dips))])

    def expect_dips(self, destination_port: int, dips: tuple[IPv4Address, ...], egress_port: int) -> None:
        for source_port in range(1024, 1040):
            packet = tcp(CLIENT, VIP, source_port, destination_port)
            dip = dips[flow_hash(flow_of(packet)) % len(dips)]
            self.send(CLIENT_PORT, packet)
            self.expect(egress_port, encapsulated(packet, dip, egress_port))

    def runTest(self) -> None:
        self.switch.write([+entries.vip(VIP, 0, 0, has_ports=True)])
        self.expect_dips(80, self.http, DIP_PORT)
        self.expect_dips(21, self.ftp, 3)
        for packet in (tcp(CLIENT, VIP, 1024, 443), udp(CLIENT, VIP, 1024, 80), echo(CLIENT, VIP, 1)):
            self.expect_drop(CLIENT_PORT, packet, DropReason.NO_GROUP)


class OtherPortsHaveTheDefaultDips(PortsHaveTheirOwnDips):
    """What no port of a VIP claims goes to the DIPs of the VIP itself."""

    def runTest(self) -> None:
        self.vip(VIP, DIPS[:2], has_ports=True)
        self.expect_dips(80, self.http, DIP_PORT)
        self.expect_dips(443, tuple(DIPS[:2]), DIP_PORT)


class PinnedFlowSurvivesASlotChange(BalancingTest):
    """A pinned flow stays on its DIP when its slot goes to another; flows beside it move."""

    def runTest(self) -> None:
        old, new = DIPS[:2]
        first = self.vip(VIP, [old])
        pinned, other = udp(CLIENT, VIP, 1111, 53), udp(CLIENT, VIP, 2222, 53)
        self.switch.write([+entries.pinned_flow(CLIENT, VIP, 17, 1111, 53, self.tunnel(old))])
        self.switch.write([~entries.vip(VIP, first, 1, has_pinned_flows=True)])
        self.switch.write([~entries.slot(first, self.tunnel(new))])
        for packet, dip in ((pinned, old), (other, new), (pinned, old)):
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, dip, DIP_PORT))


class PinnedFlowOfAPort(BalancingTest):
    """A flow to one port of a VIP can be pinned, too, and costs the other ports nothing."""

    def runTest(self) -> None:
        old, new = DIPS[:2]
        group = self.slots([new])
        self.switch.write([+entries.port_group(VIP, Protocol.UDP, 53, *group, has_pinned_flows=True)])
        self.switch.write([+entries.vip(VIP, 0, 0, has_ports=True)])
        self.switch.write([+entries.pinned_flow(CLIENT, VIP, 17, 1111, 53, self.tunnel(old))])
        for source_port, dip in ((1111, old), (1112, new)):
            packet = udp(CLIENT, VIP, source_port, 53)
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, dip, DIP_PORT))


class FragmentsGoToAnSmux(BalancingTest):
    """Fragments of packets to a VIP, the first included, go to the SMuxes, which can remember its ports."""

    fragment_mux = IPv4Address("172.30.255.254")

    def runTest(self) -> None:
        self.vip(VIP, DIPS * 8)
        self.route("172.30.0.0/16", 4)
        whole = udp(CLIENT, VIP, 5000, 53, payload=bytes(range(256)) * 4, id=7, flags=0)
        parts = fragment(whole, fragsize=400)
        self.assertEqual(len(parts), 3)
        for part in parts:
            self.expect_drop(CLIENT_PORT, part, DropReason.FRAGMENT)
        self.switch.write([~entries.configuration(LOOPBACK, UNDERLAY_SEED, fragment_mux=self.fragment_mux)])
        for ports_only in (False, True):
            if ports_only:
                self.switch.write([~entries.vip(VIP, 0, 0, has_ports=True)])
            for part in parts:
                self.send(CLIENT_PORT, part)
                self.expect(4, encapsulated(part, self.fragment_mux, 4))


class EchoesSpreadByIdentifier(BalancingTest):
    """ICMP echo to a VIP is balanced like traffic: by its addresses and identifier."""

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        dips = set()
        for identifier in range(40):
            packet = echo(CLIENT, VIP, identifier)
            dip = owners[flow_hash(flow_of(packet)) % len(owners)]
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, dip, DIP_PORT))
            dips.add(dip)
        self.assertGreater(len(dips), 5)


class OptionsDoNotMoveAFlow(BalancingTest):
    """A packet with IPv4 options goes where its flow goes."""

    differing_row = "IPv4 options"

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        for source_port in range(1024, 1044):
            plain = udp(CLIENT, VIP, source_port, 53)
            dip = owners[flow_hash(flow_of(plain)) % len(owners)]
            packet = udp(CLIENT, VIP, source_port, 53, options=[IPOption_Router_Alert()])
            self.send(CLIENT_PORT, packet)
            self.expect(DIP_PORT, encapsulated(packet, dip, DIP_PORT))


class OtherProtocolsHaveNoPorts(BalancingTest):
    """Protocols without ports are balanced by addresses and protocol, however short the packet."""

    def runTest(self) -> None:
        owners = DIPS * 8
        self.vip(VIP, owners)
        for protocol in (47, 50, 99, 132, 255):
            for length in (0, 3, 8, 40):
                packet = IP(src=str(CLIENT), dst=str(VIP), proto=protocol) / Raw(b"x" * length)
                dip = owners[flow_hash(flow_of(packet)) % len(owners)]
                self.send(CLIENT_PORT, packet)
                self.expect(DIP_PORT, encapsulated(packet, dip, DIP_PORT))


class EmptySlotsDrop(BalancingTest):
    """A slot that the control plane left empty drops its flows; it does not send them astray."""

    def runTest(self) -> None:
        first = self.vip(VIP, DIPS[:1])
        self.switch.write([-entries.slot(first, self.tunnel(DIPS[0]))])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, VIP, 1234, 80), DropReason.EMPTY_SLOT)


class WithdrawnVipIsRouted(BalancingTest):
    """Once a VIP's entry is gone, its packets are routed like any others: to the SMuxes."""

    def runTest(self) -> None:
        first = self.vip(VIP, DIPS)
        self.route("10.0.0.0/16", 4)
        flows = udp_flows(20, VIP)
        self.tunneled_to(flows)
        self.switch.write([-entries.vip(VIP, first, len(DIPS))])
        for port, data in self.burst(CLIENT_PORT, list(flows.values())):
            self.assertEqual(port, 4)
            self.assertRaises(ValueError, Tunneled.parse, data)
