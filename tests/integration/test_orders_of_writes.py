"""UDP through muxes that are written to in every order: it arrives or is dropped, and never goes round.

            outside
               |
               A      an HMux, which carries the VIP
               |
    client --- B      an HMux below it, which carries one of the VIP's TIPs
              / \\
          SMux   servers

The muxes are the real ones, the wires between them this test: so a packet can be followed from mux to mux,
and sent between any two writes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network

import networkx as nx
import pytest
from finsy.proto import p4r

from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.codec import Codec
from duet_p4.hmux.plan import Plan
from duet_p4.hmux.rows import VIP_ROWS, VipRow
from duet_p4.hmux.tables import VipTables
from duet_p4.model import Dip, Group, MuxTip, MuxVip
from duet_p4.smux.xdp import XdpDatapath
from ptf_tests.conformance import headers as h
from ptf_tests.conformance.hmux import PROGRAM
from ptf_tests.conformance.program import encode
from ptf_tests.conformance.xdp import Xdp

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root"),
]
VIPS, TIPS, DIPS = IPv4Network("10.0.0.0/16"), IPv4Network("20.0.0.0/24"), IPv4Network("100.0.0.0/8")
VIP = VIPS[1]
LOOPBACKS = {"A": IPv4Address("172.30.0.1"), "B": IPv4Address("172.30.0.2")}
SMUX = IPv4Address("172.30.0.100")
ANYWHERE = IPv4Network("0.0.0.0/0")
UP, DOWN, TO_SMUX, TO_SERVERS, TO_CLIENT = 1, 1, 2, 3, 4
OUTSIDE = 2
XDP_DROP, XDP_REDIRECT = 1, 4


def group(*members: IPv4Address) -> Group:
    return Group.of(tuple(Dip(address=member) for member in members), 4)


TIP = [MuxTip(address=TIPS[n], group=group(DIPS[256 * n + 1], DIPS[256 * n + 2])) for n in (1, 2)]
LARGE = MuxVip(address=VIP, group=group(*(tip.address for tip in TIP)))
SMALL = MuxVip(address=VIP, group=group(DIPS[768 + 1], DIPS[768 + 2]))


class HMux:
    """A switch that runs hmux.p4, and what its tables hold."""

    def __init__(self, switch: Xdp, loopback: IPv4Address, ports: int) -> None:
        self._switch = switch
        self.tables = VipTables(pipeline.sizes_of(VIP_ROWS))
        self._codec = Codec(PROGRAM.schema)
        self.write(entries.configuration(loopback, 7))
        for port in range(1, ports + 1):
            self.write(
                entries.port(port, h.SWITCH_MAC_TEXT),
                # Each port is a next-hop group of the same number.
                entries.nexthop_group(port, port, 1),
                entries.nexthop_slot(port, port),
                entries.nexthop(port, port, h.SWITCH_MAC_TEXT, h.SWITCH_MAC_TEXT, 1600),
            )

    def write(self, *made: object) -> None:
        self._switch.write(encode(PROGRAM.schema, made))

    def delete(self, entry: object) -> None:
        (update,) = encode(PROGRAM.schema, [entry])
        self._switch.write([p4r.Update(type=p4r.Update.DELETE, entity=update.entity)])

    def carry_out(self, plan: Plan[VipRow]) -> Iterator[None]:
        """Write row by row; what comes between two writes finds the tables as they are then."""
        for update in plan:
            self._switch.write([self._codec.update(update)])
            yield
        self.tables.apply(plan)

    def forward(self, port: int, frame: bytes) -> tuple[int, bytes] | None:
        """Return by which port a frame leaves, and how; None where it is dropped."""
        left = self._switch.send([(port, frame)])[0]
        return left[0] if left else None


class Network:
    """The muxes, with nothing written yet but the routes that no VIP or TIP has made."""

    def __init__(self, stack: ExitStack) -> None:
        self.hmuxes = {
            name: HMux(stack.enter_context(Xdp(PROGRAM)), LOOPBACKS[name], ports)
            for name, ports in (("A", 2), ("B", 4))
        }
        self.smux = XdpDatapath(SMUX, (VIPS, TIPS), uplink_mtu=1600, macs=[h.SWITCH_MAC])
        stack.callback(self.smux.close)
        above, below = self.hmuxes["A"], self.hmuxes["B"]
        above.write(*(entries.route(prefix, DOWN) for prefix in (VIPS, TIPS, DIPS)))
        above.write(entries.route(ANYWHERE, OUTSIDE))
        below.write(*(entries.route(prefix, TO_SMUX) for prefix in (VIPS, TIPS)))
        below.write(entries.route(DIPS, TO_SERVERS), entries.route(ANYWHERE, UP))
        below.write(entries.backstop(UP, TO_SMUX))
        self.small = self.balances = False
        self._tips: set[IPv4Address] = set()

    def writes(self) -> list[Callable[[bool], Iterable[None]]]:
        """Return everything that may be there or not; each can be put and taken back whenever."""
        return [
            lambda there: self._put_vip(there, self.small),
            lambda there: self._put_vip(self.balances, there),
            lambda there: self._put_tip(TIP[0], there),
            lambda there: self._put_tip(TIP[1], there),
            lambda there: self._carry("A", LARGE, there),
            lambda there: self._carry("B", TIP[0], there),
            self._announce,
        ]

    @property
    def covered(self) -> bool:
        """Whether the SMux holds all, as it does before a controller has anything carried by a switch."""
        return self.balances and len(self._tips) == len(TIP)

    def _put_vip(self, there: bool, small: bool) -> Iterator[None]:
        if there:
            self.smux.put_vip(SMALL if small else LARGE)
        elif self.balances:
            self.smux.delete_vip(VIP)
        self.balances, self.small = there, small
        yield

    def _put_tip(self, tip: MuxTip, there: bool) -> Iterator[None]:
        if there:
            self.smux.put_tip(tip)
            self._tips.add(tip.address)
        else:
            self.smux.delete_tip(tip.address)
            self._tips.remove(tip.address)
        yield

    def _carry(self, name: str, entry: MuxVip | MuxTip, there: bool) -> Iterator[None]:
        tables = self.hmuxes[name].tables
        if not there:
            plan = tables.delete(entry.address)
        elif isinstance(entry, MuxVip):
            plan = tables.put_vip(entry)
        else:
            plan = tables.put_tip(entry)
        return self.hmuxes[name].carry_out(plan)

    def _announce(self, there: bool) -> Iterator[None]:
        """What BGP makes of A's announcement of the VIP, before or after A has it."""
        way = entries.route_up_to_mux(IPv4Network(VIP), UP)
        if there:
            self.hmuxes["B"].write(way)
        else:
            self.hmuxes["B"].delete(way)
        yield

    def follow(self, at: str, port: int, frame: bytes) -> IPv4Address | None:
        """Return the DIP that a packet arrives at, None where it is dropped. It must not go round."""
        way: list[tuple[str, int, IPv4Address]] = []
        while True:
            place = (at, port, IPv4Address(frame[30:34]))
            assert place not in way, f"the packet goes round: {way}, and again {place}"
            way.append(place)
            frame = h.SWITCH_MAC + frame[6:]
            if at == "SMux":
                result = self.smux.program.test_run(frame)
                if result.retval == XDP_DROP:
                    return None
                assert result.retval == XDP_REDIRECT, f"the SMux does not forward: {way}"
                at, port, frame = "B", TO_SMUX, result.data_out
                continue
            left = self.hmuxes[at].forward(port, frame)
            if left is None:
                return None
            port, frame = left
            match at, port:
                case "A", 1:
                    at, port = "B", UP
                case "B", 1:
                    at, port = "A", DOWN
                case "B", 2:
                    at, port = "SMux", 0
                case "B", 3:
                    return IPv4Address(frame[30:34])
                case _:
                    pytest.fail(f"the packet came back to who sent it: {way}")


def datagram(source: IPv4Address, port: int) -> bytes:
    return h.ethernet(h.ipv4(source, VIP, h.UDP, h.udp(port, 7, b"anybody there?")))


def packets() -> list[tuple[str, int, Flow]]:
    """Return flows from above and from below, by each TIP."""
    found = []
    for at, port, source in (("A", OUTSIDE, "192.0.2.7"), ("B", TO_CLIENT, "100.9.9.9")):
        flows = (Flow(IPv4Address(source), VIP, h.UDP, n, 7) for n in range(5000, 5100))
        by_tip: dict[IPv4Address, Flow] = {}
        for flow in flows:
            assert LARGE.group
            by_tip.setdefault(LARGE.group.member(flow_hash(flow)).address, flow)
        assert len(by_tip) == len(TIP)
        found += [(at, port, flow) for flow in by_tip.values()]
    return found


def dips_of(flow: Flow) -> set[IPv4Address]:
    """Return where a flow may end: by the VIP as the HMux has it, and as the SMux may have it."""
    assert LARGE.group and SMALL.group
    by_address = {tip.address: tip for tip in TIP}
    tip = by_address[LARGE.group.member(flow_hash(flow)).address]
    return {tip.group.member(tip_hash(flow)).address, SMALL.group.member(flow_hash(flow)).address}


def test_udp_never_goes_round_whatever_is_written_before_what() -> None:
    """Each write and its opposite, with every set of the others in place; the same flows all the while."""
    sent = [
        (at, port, datagram(flow.source, flow.source_port), dips_of(flow)) for at, port, flow in packets()
    ]
    fates: Counter[bool] = Counter()
    with ExitStack() as stack:
        network = Network(stack)
        writes = network.writes()

        def send(whole: bool) -> None:
            for at, port, frame, dips in sent:
                dip = network.follow(at, port, frame)
                assert dip is None or dip in dips
                assert dip is not None or not whole, "lost, although the SMux holds all"
                fates[dip is not None] += 1

        nothing = (0,) * len(writes)
        for before, after in nx.eulerian_circuit(nx.hypercube_graph(len(writes)).to_directed(), nothing):
            changed = next(n for n, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
            was_covered = network.covered
            for _ in writes[changed](bool(after[changed])):
                send(was_covered and network.covered)
    assert min(fates[True], fates[False]) > 500, fates
