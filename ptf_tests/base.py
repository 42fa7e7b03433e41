"""What every packet test builds on: a switch with a few neighbours, frames in, frames out."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import ptf
from finsy import P4CounterData, P4TableEntry
from ptf.base_tests import BaseTest
from ptf.testutils import test_param_get
from scapy.packet import Packet
from scipy.stats import chisquare

from duet_p4.flow_hash import Flow
from duet_p4.hmux import entries
from duet_p4.hmux.entries import DropReason
from ptf_tests.p4runtime import P4Runtime
from ptf_tests.packets import LOOPBACK, SWITCH_MAC, Tunneled, difference, frame, neighbor_mac, switch_mac
from ptf_tests.targets import target_of

ANSWER_SECONDS = 3.0
"""How long a frame may take through the switch; a slow machine needs more than a fast one."""

QUIET_SECONDS = 0.01
"""How long to listen for a frame that must not come, once the switch has dealt with what was sent."""

BURST = 32
"""Frames in flight at a time: an egress queue of BMv2 holds 64."""

CLIENT_PORT = 1
MTU = 1500
UNDERLAY_SEED = 0x1234_5678


class HmuxTest(BaseTest):
    """A configured HMux with one neighbour on each port, next hop P on port P, and no routes yet."""

    differing_row = ""
    """The row of docs/tofino.md's differences that a test is about: then it is none for a Tofino."""

    def setUp(self) -> None:
        super().setUp()
        self.dataplane = ptf.dataplane_instance
        self.dataplane.flush()
        conf = test_param_get("conf")
        self.target = target_of(test_param_get("target"), Path(conf) if conf else None)
        if self.target.differs and self.differing_row:
            self.skipTest(f"differs on a Tofino (docs/tofino.md): {self.differing_row}")
        self.switch = P4Runtime(
            test_param_get("address"), self.target.schema, self.target.device_id, self.target.ports
        )
        self.switch.__enter__()
        self.addCleanup(self.switch.__exit__)
        self.switch.clear()
        self.addCleanup(self.switch.clear)
        self._slots = self._nexthop_slots = self._groups = 0
        self._tunnels: dict[IPv4Address, int] = {}
        self.switch.write(
            [
                ~entries.configuration(LOOPBACK, UNDERLAY_SEED),
                *(+entries.port(port, SWITCH_MAC) for port in range(1, 7)),
                *(
                    +entries.nexthop(port, port, switch_mac(port), neighbor_mac(port), self.mtu(port))
                    for port in range(1, 7)
                ),
            ]
        )

    def mtu(self, port: int) -> int:
        """Return the MTU of a port; a test may have others."""
        return MTU

    # What the control plane does.

    def route(self, prefix: str, *ports: int) -> None:
        """Route a prefix over the neighbours of these ports, in equal shares."""
        self.switch.write([+entries.route(IPv4Network(prefix), self.group(*ports))])

    def group(self, *ports: int) -> int:
        """Make a next-hop group of the neighbours of these ports, in equal shares; return its number."""
        self._check_slots(len(ports))
        group, first = self._groups, self._nexthop_slots
        self._groups += 1
        self._nexthop_slots += len(ports)
        self.switch.write(+entries.nexthop_slot(first + i, port) for i, port in enumerate(ports))
        self.switch.write([+entries.nexthop_group(group, first, len(ports))])
        return group

    def tunnel(self, encap: IPv4Address) -> int:
        """Return the index of the tunnel to an address, made where it is not there yet."""
        if encap not in self._tunnels:
            self._tunnels[encap] = len(self._tunnels)
            self.switch.write([+entries.tunnel(self._tunnels[encap], encap)])
        return self._tunnels[encap]

    def slots(self, owners: Sequence[IPv4Address]) -> tuple[int, int]:
        """Give each of these addresses a slot, in this order; return the first slot and their number."""
        self._check_slots(len(owners))
        first = self._slots
        self._slots += len(owners)
        tunnels = [self.tunnel(owner) for owner in owners]
        self.switch.write(+entries.slot(first + i, tunnel) for i, tunnel in enumerate(tunnels))
        return first, len(owners)

    def _check_slots(self, count: int) -> None:
        """Skip a test for whose number of slots a Tofino has no mask."""
        if self.target.differs and count & (count - 1):
            self.skipTest(f"differs on a Tofino (docs/tofino.md): slots of a group, here {count}")

    def vip(self, address: IPv4Address, owners: Sequence[IPv4Address], **flags: bool) -> int:
        """Have a VIP served by the owners of its slots; return its first slot."""
        first, count = self.slots(owners)
        self.switch.write([+entries.vip(address, first, count, **flags)])
        return first

    def tip(self, address: IPv4Address, owners: Sequence[IPv4Address]) -> int:
        """Have a TIP served by the owners of its slots; return its first slot."""
        first, count = self.slots(owners)
        self.switch.write([+entries.tip(address, first, count)])
        return first

    # Frames.

    def send(self, port: int, packet: Packet | bytes) -> None:
        """Send a frame, or an IPv4 packet in one, into a port of the switch."""
        self.dataplane.send(0, port, packet if isinstance(packet, bytes) else frame(packet))

    def receive(self, seconds: float = ANSWER_SECONDS) -> tuple[int, bytes] | None:
        """Return the next frame that leaves the switch and its port, or None."""
        result = self.dataplane.poll(device_number=0, timeout=seconds)
        if isinstance(result, self.dataplane.PollSuccess):
            return result.port, bytes(result.packet)
        return None

    def expect(self, port: int, expected: bytes) -> None:
        """Fail unless exactly this frame, and no other, leaves by this port."""
        received = self.receive()
        if received is None:
            self.fail(f"nothing came, instead of this on port {port}:\n{difference(expected, b'')}")
        if received[1] != expected:
            self.fail(f"on port {received[0]} (expected {port}):\n{difference(expected, received[1])}")
        self.assertEqual(received[0], port, "the right frame left by the wrong port")
        self.expect_nothing()

    def expect_nothing(self) -> None:
        """Fail where anything more leaves the switch."""
        received = self.receive(QUIET_SECONDS)
        if received is not None:
            self.fail(f"unexpected on port {received[0]}:\n{difference(b'', received[1])}")

    def expect_drop(
        self, port: int, packet: Packet | bytes, reason: DropReason, what: str = "a packet"
    ) -> None:
        """Send a frame (`what` says which), and fail unless it is dropped for this reason."""
        before = self.drops()
        self.send(port, packet)
        self.await_equal(
            lambda: self.drops()[reason], before[reason] + 1, f"{what}, dropped as {reason.name}"
        )
        after = self.drops()
        others = {r.name: after[r] - before[r] for r in DropReason if r != reason and after[r] != before[r]}
        self.assertEqual(others, {}, "dropped for other reasons, too")
        self.expect_nothing()

    def burst(self, port: int, frames: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Send frames, each of which must come out; return what came and by which port, in any order."""
        received: list[tuple[int, bytes]] = []
        for start in range(0, len(frames), BURST):
            chunk = frames[start : start + BURST]
            for one in chunk:
                self.send(port, one)
            for _ in chunk:
                answer = self.receive()
                if answer is None:
                    self.fail(
                        f"{len(received)} of {start + len(chunk)} frames came out; drops: {self.drops()}"
                    )
                received.append(answer)
        return received

    def tunneled_to(self, flows: Mapping[Flow, bytes], port: int = CLIENT_PORT) -> dict[Flow, IPv4Address]:
        """Send a frame of each flow, and return where each was tunneled to."""
        found = {}
        for _, received in self.burst(port, list(flows.values())):
            tunnel = Tunneled.parse(received)
            found[tunnel.flow] = tunnel.destination
        self.assertEqual(len(set(found) ^ set(flows)), 0, "other flows came out than went in")
        return found

    def ports_of(self, flows: Mapping[Flow, bytes]) -> dict[Flow, int]:
        """Send a frame of each flow, and return by which port each was routed on, untunneled."""
        ends = slice(26, 38)  # Addresses and ports, in a header without options.
        flow_at = {data[ends]: flow for flow, data in flows.items()}
        return {flow_at[data[ends]]: port for port, data in self.burst(CLIENT_PORT, list(flows.values()))}

    def assert_same(self, found: Mapping[Flow, object], expected: Mapping[Flow, object]) -> None:
        """Fail where flows went elsewhere than expected; show some of them."""
        wrong = [flow for flow in expected if found.get(flow) != expected[flow]]
        if wrong or len(found) != len(expected):
            shown = "\n".join(
                f"{flow}: expected {expected[flow]}, got {found.get(flow)}" for flow in wrong[:10]
            )
            self.fail(f"{len(wrong)} of {len(expected)} flows went elsewhere, among them\n{shown}")

    def assert_even(self, counts: Mapping[object, int], shares: Mapping[object, float]) -> None:
        """Fail where the counts are not a fair draw in these shares (chi-square, 1 in 1000)."""
        total = sum(shares.values())
        drawn = sum(counts.values())
        expected = [drawn * share / total for share in shares.values()]
        observed = [counts.get(key, 0) for key in shares]
        self.assertEqual(sum(observed), drawn, f"went elsewhere: {set(counts) - set(shares)}")
        p = chisquare(observed, expected).pvalue
        self.assertGreater(p, 0.001, f"not in shares {dict(shares)}: {dict(counts)} (p = {p:.2g})")

    # What the switch reports.

    def drops(self) -> dict[DropReason, int]:
        """Return the drop counters."""
        return entries.drop_counts(self.switch.read(*entries.drop_counters()))

    def counts(self, entry: P4TableEntry) -> tuple[int, int]:
        """Return packets and bytes that an entry has counted."""
        wanted = P4TableEntry(entry.table_id, match=entry.match, counter_data=P4CounterData())
        (held,) = self.switch.read(wanted)
        return held.counter_data.packet_count, held.counter_data.byte_count

    def packet_in(self) -> tuple[int, bytes]:
        """Return the ingress port and the frame of the next packet-in."""
        try:
            packet = self.switch.packets_in.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            self.fail(f"no packet-in came; drops: {self.drops()}")
        return entries.ingress_port(packet), packet.payload

    def await_equal(self, value: Callable[[], object], expected: object, what: str) -> None:
        """Fail unless a value becomes what it should before long."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while (found := value()) != expected:
            if time.monotonic() > deadline:
                self.fail(f"{what}: expected {expected}, got {found}; drops: {self.drops()}")
            time.sleep(0.005)
