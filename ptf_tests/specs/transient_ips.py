"""TIPs: a VIP with more DIPs than a tunneling table holds (the paper's section 3.3, large fan-out)."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address
from typing import Final

from duet_p4.flow_hash import flow_hash, tip_hash
from duet_p4.hmux import pipeline
from duet_p4.hmux.entries import DropReason
from ptf_tests.base import CLIENT_PORT, HmuxTest
from ptf_tests.packets import (
    CLIENT,
    SWITCH_MAC,
    Tunneled,
    decremented,
    encapsulated,
    frame,
    tcp,
    tunneled,
    udp_flows,
)

VIP = IPv4Address("10.0.0.1")
TIPS = [IPv4Address("20.0.0.1"), IPv4Address("20.0.0.2")]
OTHER_MUX = IPv4Address("172.30.0.99")
DIPS_PER_TIP = 300
ROUTER_MAC = bytes.fromhex(SWITCH_MAC.replace(":", ""))


class TipReplacesTheTunnel(HmuxTest):
    """A TIP's packet leaves in a new tunnel, from this switch to a DIP; the old tunnel is gone."""

    def runTest(self) -> None:
        dip = IPv4Address("100.0.0.1")
        self.tip(TIPS[0], [dip])
        self.route("100.0.0.0/8", 2)
        packet = tcp(CLIENT, VIP, 1234, 80, tos=0x28, flags="DF")
        self.send(CLIENT_PORT, tunneled(packet, OTHER_MUX, TIPS[0]))
        self.expect(2, encapsulated(packet, dip, 2))


class CongestionMarksSurviveATip(HmuxTest):
    """What the old tunnel says of congestion goes on in the new one (RFC 6040); else it drops the packet."""

    # By the ECN of packet and tunnel: that of the new tunnel, where it is not the packet's own.
    combined: Final = {(2, 1): 1, (1, 3): 3, (2, 3): 3, (3, 3): 3}

    def runTest(self) -> None:
        dip = IPv4Address("100.0.0.1")
        self.tip(TIPS[0], [dip])
        self.route("100.0.0.0/8", 2)
        for inner in range(4):
            packet = tcp(CLIENT, VIP, 1234, 80, tos=0xB8 | inner)
            for outer in range(4):
                arriving = tunneled(packet, OTHER_MUX, TIPS[0], tos=outer)
                if (inner, outer) == (0, 3):
                    self.expect_drop(CLIENT_PORT, arriving, DropReason.CONGESTION)
                    continue
                self.send(CLIENT_PORT, arriving)
                tos = 0xB8 | self.combined.get((inner, outer), inner)
                self.expect(2, encapsulated(packet, dip, 2, tos=tos))


class TwoHopsReachEveryDip(HmuxTest):
    """A VIP of 600 DIPs, over two TIPs: every flow passes two HMuxes, and all DIPs get an even share.

    The switch plays the VIP's HMux first, then that of each TIP in turn.
    """

    def runTest(self) -> None:
        self.assertGreater(len(TIPS) * DIPS_PER_TIP, pipeline.sizes()["tunneling_table"])
        dips = {
            tip: [IPv4Address(f"100.{i + 1}.0.0") + n for n in range(DIPS_PER_TIP)]
            for i, tip in enumerate(TIPS)
        }
        slots = {tip: dips[tip] * 8 for tip in TIPS}
        flows = udp_flows(6000, VIP)

        self.become_hop()
        self.vip(VIP, TIPS * 8)
        at_tip = {}
        for _, received in self.burst(CLIENT_PORT, list(flows.values())):
            at_tip[Tunneled.parse(received).flow] = ROUTER_MAC + received[6:]
        taken = {flow: Tunneled.parse(data).destination for flow, data in at_tip.items()}
        self.assert_same(taken, {flow: TIPS[flow_hash(flow) % 16 % 2] for flow in flows})

        served: dict[object, IPv4Address] = {}
        for tip in TIPS:
            self.become_hop()
            self.tip(tip, slots[tip])
            served |= self.tunneled_to({flow: data for flow, data in at_tip.items() if taken[flow] == tip})
        self.assert_same(
            served, {flow: slots[taken[flow]][tip_hash(flow) % len(slots[taken[flow]])] for flow in flows}
        )
        self.assert_even(Counter(served.values()), dict.fromkeys([*dips[TIPS[0]], *dips[TIPS[1]]], 1))

    def become_hop(self) -> None:
        """Start over as another switch, which knows the way to every TIP and DIP."""
        self.tearDown()
        self.doCleanups()
        self.setUp()
        self.route("20.0.0.0/8", 3)
        self.route("100.0.0.0/8", 2)


class EachHopCostsTheClientATtl(HmuxTest):
    """The client's TTL goes down at every mux, so that TIPs that lead to each other end in a drop."""

    def runTest(self) -> None:
        self.tip(TIPS[0], [TIPS[1]])
        self.route("20.0.0.0/8", 3)
        packet = tcp(CLIENT, VIP, 1234, 80, ttl=9)
        self.send(CLIENT_PORT, tunneled(decremented(packet), OTHER_MUX, TIPS[0]))
        self.expect(3, encapsulated(decremented(packet), TIPS[1], 3))


class BareTip(HmuxTest):
    """A packet to a TIP that is in no tunnel has no business there."""

    def runTest(self) -> None:
        self.tip(TIPS[0], [IPv4Address("100.0.0.1")])
        self.expect_drop(CLIENT_PORT, tcp(CLIENT, TIPS[0], 1234, 80), DropReason.BARE_TIP)


class TunnelToAVip(HmuxTest):
    """A VIP takes no tunnels: a switch cannot encapsulate twice."""

    def runTest(self) -> None:
        self.vip(VIP, [IPv4Address("100.0.0.1")])
        packet = tunneled(tcp(CLIENT, "100.0.0.9", 1234, 80), OTHER_MUX, VIP)
        self.expect_drop(CLIENT_PORT, frame(packet), DropReason.TUNNELED_VIP)
