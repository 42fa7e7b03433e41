"""The packet fixtures on both data paths, and properties that both share with the model."""

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from duet_p4 import bpf
from duet_p4.allocation import TableFullError
from duet_p4.bpf import pins as bpf_pins
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.model import Dip, Group, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol
from duet_p4.smux import novices
from duet_p4.smux.datapath import EXITS, Datapath, Sizes, Timeouts
from duet_p4.smux.scapy_datapath import ScapyDatapath
from duet_p4.smux.xdp import LAYOUT, XdpDatapath
from tests.unit.smux import packets
from tests.unit.smux.packets import ANNOUNCED, FIXTURES, FRAGMENT_MUX, MTU, MUX, Fixture, client, group, wire

XDP_REDIRECT = 4
MACS = [bytes.fromhex(packets.MUX_MAC.replace(":", ""))]
MUXES = IPv4Network("172.30.0.0/16")
FORGETFUL = Timeouts(other_s=0.0)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")
PATHS = [
    pytest.param("scapy"),
    pytest.param("xdp", marks=[pytest.mark.root, needs_root]),
]
Run = Callable[[bytes], tuple[int, bytes]]


class Mux:
    """A data path with a way to run one frame through it."""

    def __init__(
        self, kind: str, sizes: Sizes | None = None, timeouts: Timeouts | None = None, key: int = 0
    ) -> None:
        self.path: Datapath
        if kind == "scapy":
            scapy = ScapyDatapath(
                MUX,
                ANNOUNCED,
                uplink_mtu=MTU,
                timeouts=timeouts,
                sizes=sizes,
                macs=MACS,
                fragment_mux=FRAGMENT_MUX,
                muxes=MUXES,
                flow_key=key,
            )
            self.path = scapy
            self._run: Run = lambda frame: (
                (result := scapy.process(frame)).verdict.value,
                result.frame,
            )
            return
        xdp = XdpDatapath(
            MUX,
            ANNOUNCED,
            uplink_mtu=MTU,
            timeouts=timeouts,
            sizes=sizes,
            macs=MACS,
            fragment_mux=FRAGMENT_MUX,
            muxes=MUXES,
            flow_key=key,
        )
        self._poison = bpf.Object(bpf.compile_object(Path(__file__).parent / "poison.c")).load()
        self._poison.map("next").update(struct.pack("=I", 0), struct.pack("=I", xdp.program.fd))
        self.path = xdp
        poison = self._poison.program("poison")

        def run(frame: bytes) -> tuple[int, bytes]:
            result = poison.test_run(b"\xaa" * 64 + frame)
            return result.retval, result.data_out

        self._run = run

    def send(self, frame: bytes) -> tuple[str, bytes]:
        """Run a frame and return how it left and what came out."""
        before = self.path.exits()
        verdict, out = self._run(frame)
        changed = {
            name: (count.packets - before[name].packets, count.bytes - before[name].bytes)
            for name, count in self.path.exits().items()
            if count != before[name]
        }
        assert len(changed) == 1, f"one exit expected, got {changed}"
        name, counted = next(iter(changed.items()))
        assert counted == (1, len(frame)), f"{name} counted {counted}, not one frame of {len(frame)} bytes"
        expected = {"PASS": 2, "DROP": 1}.get(name.partition("_")[0], XDP_REDIRECT)
        assert verdict == expected, f"{name} has verdict {verdict}, expected {expected}"
        return name, out

    def flood(self, frame: bytes) -> None:
        """Run a frame, whatever becomes of it."""
        self._run(frame)

    def dip_of(self, frame: bytes) -> tuple[str, IPv4Address]:
        """Run a frame that must be forwarded and return how, and to whom."""
        name, out = self.send(frame)
        assert name.startswith("FORWARD"), f"forwarded expected, got {name}"
        return name, IPv4Address(out[30:34])

    def close(self) -> None:
        self.path.close()
        if hasattr(self, "_poison"):
            self._poison.close()


@pytest.fixture(params=PATHS)
def mux(request: pytest.FixtureRequest) -> Iterator[Mux]:
    made = Mux(request.param)
    yield made
    made.close()


@pytest.fixture(params=PATHS, scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[Mux]:
    """A mux that holds every VIP and TIP of the fixtures."""
    made = Mux(request.param, timeouts=FORGETFUL)
    for vip in packets.VIPS:
        made.path.put_vip(vip)
    made.path.put_tip(packets.KNOWN_TIP)
    yield made
    made.close()


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.description)
def test_packet(world: Mux, fixture: Fixture) -> None:
    frame = fixture.frame()
    how, out = world.send(frame)
    assert how == fixture.exit
    if fixture.expected is None:
        assert out == frame
        return
    expected = fixture.expected()
    assert out == expected, f"expected {Ether(expected)!r}\ngot      {Ether(out)!r}"


def test_every_exit_but_a_bug_has_a_fixture() -> None:
    covered = {fixture.exit for fixture in FIXTURES}
    elsewhere = {"FORWARD_CONNECTION", "FORWARD_UNSETTLED", "FORWARD_FRAGMENT", "DROP_REPLY_LIMIT"}
    assert set(EXITS) - covered == elsewhere | {"DROP_INTERNAL"}


def tcp(port: int, flags: str = "A", vip: MuxVip = packets.PLAIN) -> bytes:
    return wire(client(vip, TCP(sport=port, dport=80, flags=flags)))


def udp(port: int, vip: MuxVip = packets.PLAIN) -> bytes:
    return wire(client(vip, UDP(sport=port, dport=80)))


def turned(vip: MuxVip) -> MuxVip:
    """Return the VIP with each slot given to the next member: every flow hashes elsewhere."""
    assert vip.group
    count = len(vip.group.members)
    slots = tuple((slot + 1) % count for slot in vip.group.slots)
    return vip.model_copy(update={"group": vip.group.model_copy(update={"slots": slots})})


def test_a_connection_keeps_its_dip_when_slots_change(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    _, dip = mux.dip_of(tcp(1, "S"))
    mux.path.put_vip(turned(packets.PLAIN))
    assert mux.dip_of(tcp(1)) == ("FORWARD_CONNECTION", dip)
    how, new = mux.dip_of(tcp(1, "S"))
    assert (how, new != dip) == ("FORWARD_HASH", True), "a SYN begins a new connection, by hash"
    assert mux.dip_of(tcp(1)) == ("FORWARD_CONNECTION", new)


def test_an_icmp_error_follows_the_connection(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    _, dip = mux.dip_of(tcp(1000, "S"))
    mux.path.put_vip(turned(packets.PLAIN))
    error = packets.quoting(packets.reply_of(packets.PLAIN, TCP(sport=80, dport=1000)))
    assert mux.dip_of(wire(error)) == ("FORWARD_ICMP_ERROR", dip)


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize(
    ("timeouts", "forgotten", "kept"),
    [(Timeouts(other_s=0.0), udp, tcp), (Timeouts(tcp_s=0.0), tcp, udp)],
    ids=["UDP", "TCP"],
)
def test_an_idle_flow_is_forgotten_in_its_own_time(
    kind: str, timeouts: Timeouts, forgotten: Callable[[int], bytes], kept: Callable[[int], bytes]
) -> None:
    mux = Mux(kind, timeouts=timeouts)
    mux.path.put_vip(packets.PLAIN)
    old, kept_dip = mux.dip_of(forgotten(1))[1], mux.dip_of(kept(1))[1]
    mux.path.put_vip(turned(packets.PLAIN))
    by_hash = ("FORWARD_HASH", "FORWARD_MIDSTREAM")
    # The data path's clock ticks every few milliseconds.
    for _ in range(1000):
        how, dip = mux.dip_of(forgotten(1))
        if how in by_hash:
            break
        assert dip == old
    assert how in by_hash and dip != old
    assert mux.dip_of(kept(1)) == ("FORWARD_CONNECTION", kept_dip)
    mux.close()


def test_a_removed_dip_loses_its_connections_and_no_other_does(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    before = {port: mux.dip_of(tcp(port, "S"))[1] for port in range(1, 40)}
    assert packets.PLAIN.group
    gone = packets.PLAIN.group.members[1].address
    rest = tuple(dip for dip in packets.PLAIN.group.members if dip.address != gone)
    after = packets.PLAIN.model_copy(update={"group": packets.PLAIN.group.updated(rest)})
    mux.path.put_vip(after)
    assert gone in before.values()
    for port, dip in before.items():
        how, now = mux.dip_of(tcp(port))
        if dip == gone:
            assert (how, now != gone) == ("FORWARD_MIDSTREAM", True)
        else:
            assert (how, now) == ("FORWARD_CONNECTION", dip)


def test_a_dip_that_comes_back_does_not_get_old_connections_back(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    port = next(p for p in range(1, 100) if mux.dip_of(tcp(p, "S"))[1] == IPv4Address("100.1.1.2"))
    assert packets.PLAIN.group
    rest = tuple(d for d in packets.PLAIN.group.members if str(d.address) != "100.1.1.2")
    mux.path.put_vip(packets.PLAIN.model_copy(update={"group": packets.PLAIN.group.updated(rest)}))
    mux.path.put_vip(packets.PLAIN)
    assert mux.dip_of(tcp(port))[0] == "FORWARD_MIDSTREAM"


def test_fragments_follow_the_first_and_the_first_its_flow(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    _, dip = mux.dip_of(udp(1))
    mux.path.put_vip(turned(packets.PLAIN))

    def fragment(l4: Packet, **ip: object) -> bytes:
        return wire(client(packets.PLAIN, l4, id=77, proto=17, **ip))

    later = fragment(Raw(bytes(64)), frag=9)
    assert mux.send(later)[0] == "DROP_FRAGMENT"
    assert mux.dip_of(fragment(UDP(sport=1, dport=80, len=136) / Raw(bytes(64)), flags="MF"))[1] == dip
    assert mux.dip_of(later) == ("FORWARD_FRAGMENT", dip)
    mux.path.delete_vip(packets.PLAIN.address)
    mux.path.put_vip(packets.PLAIN)
    assert mux.send(later)[0] == "DROP_FRAGMENT", "the DIP has left, and come back another"


def test_a_reset_frees_the_flow_and_none_is_learned_from_the_end_of_one(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    for flags in ("R", "FA", "RA"):
        assert mux.send(tcp(7, flags))[0] == mux.send(tcp(7, flags))[0] == "FORWARD_MIDSTREAM"
    for settled in (False, True):
        mux.send(tcp(7, "S"))
        if settled:
            assert mux.send(tcp(7))[0] == "FORWARD_CONNECTION"
        assert mux.send(tcp(7, "R"))[0] == "FORWARD_CONNECTION"
        assert mux.send(tcp(7, "R"))[0] == "FORWARD_MIDSTREAM"


@pytest.mark.parametrize("kind", PATHS)
def test_a_connection_that_one_side_has_ended_is_forgotten_sooner(kind: str) -> None:
    mux = Mux(kind, timeouts=FORGETFUL)
    mux.path.put_vip(packets.PLAIN)
    for port, flags in ((1, "A"), (2, "FA")):
        mux.send(tcp(port, "S"))
        mux.send(tcp(port))
        mux.send(tcp(port, flags))
    for _ in range(1000):
        how = mux.send(tcp(2, "FA"))[0]
        if how == "FORWARD_MIDSTREAM":
            break
    assert how == "FORWARD_MIDSTREAM"
    assert mux.send(tcp(1))[0] == "FORWARD_CONNECTION"
    mux.close()


def test_what_is_left_to_a_tip_elsewhere_is_not_remembered(mux: Mux) -> None:
    """Else a packet that comes back for the TIP, once it is here, would be sent to the TIP again."""
    mux.path.put_vip(packets.LARGE)
    assert mux.dip_of(udp(1, packets.LARGE))[1] == packets.KNOWN_TIP.address
    mux.path.put_tip(packets.KNOWN_TIP)
    inner = client(packets.LARGE, UDP(sport=1, dport=80))
    tunneled = wire(IP(src="172.30.0.1", dst=str(packets.KNOWN_TIP.address)) / inner)
    dips = {dip.address for dip in packets.KNOWN_TIP.group.members}
    assert mux.dip_of(tunneled)[1] in dips
    assert mux.dip_of(udp(1, packets.LARGE))[1] in dips


@pytest.mark.parametrize("kind", PATHS)
@pytest.mark.parametrize("flags", ["S", "A", "UDP"])
def test_a_flood_evicts_no_flow_that_has_settled(kind: str, flags: str) -> None:
    mux = Mux(kind, sizes=Sizes(services=16, slots=256, backends=16, connections=1024, pinned=1))
    mux.path.put_vip(packets.PLAIN)
    before = {}
    for port in range(1, 101):
        mux.send(tcp(port, "S"))
        before[port] = mux.dip_of(tcp(port))[1]
    frame = bytearray(udp(9) if flags == "UDP" else tcp(9, flags))
    for number in range(5_000 if kind == "xdp" else 2_000):
        frame[34:36] = struct.pack("!H", 1000 + number)
        mux.flood(bytes(frame))
    mux.path.put_vip(turned(packets.PLAIN))
    assert {port: mux.dip_of(tcp(port)) for port in before} == {
        port: ("FORWARD_CONNECTION", dip) for port, dip in before.items()
    }
    mux.close()


@pytest.mark.parametrize("kind", PATHS)
def test_few_flows_do_not_take_each_others_places_before_they_settle(kind: str) -> None:
    mux = Mux(kind, sizes=Sizes(services=16, slots=256, backends=16, connections=8192, pinned=1))
    mux.path.put_vip(packets.PLAIN)
    # Of 80 in 2,048 places, one or two pairs have the same first place.
    ports = [Random(seed).sample(range(1, 1 << 16), 80) for seed in range(3)]
    for several in ports:
        before = {port: mux.dip_of(udp(port))[1] for port in several}
        assert {port: mux.dip_of(udp(port)) for port in several} == {
            port: ("FORWARD_CONNECTION", dip) for port, dip in before.items()
        }
    mux.close()


@pytest.mark.parametrize("kind", PATHS)
def test_flows_settle_and_errors_are_answered_at_a_limited_rate(kind: str) -> None:
    mux = Mux(kind)
    mux.path.put_vip(packets.PLAIN)
    before = mux.path.exits()
    expired = wire(client(packets.PLAIN, UDP(), ttl=1))
    many = 2000 if kind == "xdp" else 200
    flows = [udp(port) for port in range(1, many + 1)]
    for frame in (*flows, *flows, *[expired] * many):
        mux.flood(frame)
    counts = {name: count.packets - before[name].packets for name, count in mux.path.exits().items()}
    assert counts["FORWARD_CONNECTION"] + counts["FORWARD_UNSETTLED"] == many
    assert counts["REPLY_TTL"] + counts["DROP_REPLY_LIMIT"] == many
    if kind == "xdp":
        assert counts["DROP_REPLY_LIMIT"] > 0
    mux.close()


def test_a_drained_dip_keeps_its_connections_and_gets_no_more(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    before = {port: mux.dip_of(tcp(port, "S"))[1] for port in range(1, 40)}
    assert packets.PLAIN.group
    first, *others = packets.PLAIN.group.members
    drained = packets.PLAIN.group.updated((first.model_copy(update={"weight": 0}), *others))
    mux.path.put_vip(packets.PLAIN.model_copy(update={"group": drained}))
    assert first.address in before.values()
    for port, dip in before.items():
        assert mux.dip_of(tcp(port)) == ("FORWARD_CONNECTION", dip)
    assert all(mux.dip_of(tcp(port, "S"))[1] != first.address for port in range(100, 160))


@pytest.mark.parametrize("kind", PATHS)
def test_an_evicted_connection_falls_back_to_the_hash(kind: str) -> None:
    mux = Mux(kind, sizes=Sizes(services=16, slots=256, backends=16, connections=64, pinned=1))
    mux.path.put_vip(packets.PLAIN)
    before = {port: mux.dip_of(tcp(port, "S"))[1] for port in range(1, 300)}
    how = {port: mux.dip_of(tcp(port)) for port in (1, 2, 3)}
    assert how == {port: ("FORWARD_MIDSTREAM", before[port]) for port in (1, 2, 3)}
    mux.close()


def test_a_deleted_vip_is_dropped_and_a_deleted_tip_left_to_others(mux: Mux) -> None:
    mux.path.put_vip(packets.PLAIN)
    mux.path.put_vip(packets.LARGE)
    mux.path.put_tip(packets.KNOWN_TIP)
    assert mux.dip_of(udp(1, packets.LARGE))[1] in {d.address for d in packets.KNOWN_TIP.group.members}
    mux.path.delete_tip(packets.KNOWN_TIP.address)
    assert mux.dip_of(udp(1, packets.LARGE))[1] == packets.KNOWN_TIP.address
    mux.path.delete_vip(packets.PLAIN.address)
    assert mux.send(udp(1))[0] == "DROP_UNKNOWN_VIP"


def test_traffic_is_counted_per_vip_port_and_dip(mux: Mux) -> None:
    mux.path.put_vip(packets.MIXED)
    default, ftp = udp(1, packets.MIXED), wire(client(packets.MIXED, TCP(dport=21)))
    for frame in (default, default, ftp):
        mux.send(frame)
    counts = {(s.protocol, s.port): (t.packets, t.bytes) for s, t in mux.path.service_traffic().items()}
    assert counts == {(None, None): (2, 2 * len(default)), (Protocol.TCP, 21): (1, len(ftp))}
    tunnels = {str(dip): (t.packets, t.bytes) for dip, t in mux.path.tunnel_traffic().items()}
    assert tunnels == {"100.1.1.3": (2, 2 * len(default)), "110.0.0.9": (1, len(ftp))}
    mux.path.delete_vip(packets.MIXED.address)
    assert mux.path.tunnel_traffic()[IPv4Address("100.1.1.3")].packets == 2, "counts outlive the VIP"


def test_putting_the_same_again_writes_nothing(mux: Mux) -> None:
    assert mux.path.put_vip(packets.PORTS).updates > 0
    assert mux.path.put_vip(packets.PORTS).updates == 0
    assert mux.path.put_tip(packets.KNOWN_TIP).updates > 0
    assert mux.path.put_tip(packets.KNOWN_TIP).updates == 0


@pytest.mark.root
@needs_root
def test_a_full_table_changes_nothing() -> None:
    mux = Mux("xdp", Sizes(services=2, slots=40, backends=5, connections=64, pinned=1))
    mux.path.put_vip(packets.PLAIN)
    before = mux.path.table_use()
    for refused, table in (
        (MuxVip(address="10.0.1.1", group=group("100.9.9.1", "100.9.9.2", "100.9.9.3")), "backends"),
        (packets.MIXED, "services"),
        (turned(packets.PLAIN), "slots"),
    ):
        with pytest.raises(TableFullError, match=table):
            mux.path.put_vip(refused)
        assert mux.path.table_use() == before
    assert mux.send(udp(1))[0] == "FORWARD_HASH"
    mux.close()


@pytest.mark.root
@needs_root
def test_tables_do_not_leak() -> None:
    mux = Mux("xdp", Sizes(services=8, slots=256, backends=32, connections=64, pinned=4))
    for round_ in range(100):
        mux.path.put_vip(packets.PLAIN)
        mux.path.put_vip(turned(packets.PLAIN))
        mux.path.put_vip(packets.PINNED)
        mux.path.put_tip(packets.KNOWN_TIP)
        assert mux.dip_of(udp(round_ + 1))[0] == "FORWARD_HASH"
        for address in (packets.PLAIN.address, packets.PINNED.address):
            mux.path.delete_vip(address)
        mux.path.delete_tip(packets.KNOWN_TIP.address)
    assert {used for used, _ in mux.path.table_use().values()} == {0}
    mux.close()


dips = st.lists(st.integers(1, 250), min_size=1, max_size=12, unique=True)
flows = st.tuples(
    st.ip_addresses(v=4).filter(
        lambda a: 0 < a.packed[0] < 224 and a.packed[0] != 127 and not any(a in net for net in ANNOUNCED)
    ),
    st.sampled_from([6, 17, 1, 47]),
    st.integers(0, 65535),
    st.integers(0, 65535),
)


@st.composite
def groups(draw: st.DrawFn, network: str) -> Group:
    hosts = draw(dips)
    weights = draw(st.lists(st.integers(0, 4), min_size=len(hosts), max_size=len(hosts)).filter(any))
    members = tuple(
        Dip(address=f"{network}.{host}", weight=weight) for host, weight in zip(hosts, weights, strict=True)
    )
    return Group.of(members)


@pytest.fixture(params=PATHS, scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Mux]:
    made = Mux(request.param, timeouts=FORGETFUL)
    yield made
    made.close()


def packet_of(flow: Flow) -> bytes:
    ip = IP(src=str(flow.source), dst=str(flow.destination), proto=flow.protocol)
    l4 = {
        6: TCP(sport=flow.source_port, dport=flow.destination_port, flags="S"),
        17: UDP(sport=flow.source_port, dport=flow.destination_port),
        1: ICMP(type=8, id=flow.source_port),
    }.get(flow.protocol, Raw(b"other"))
    return wire(ip / l4)


def flow_to(vip: str, drawn: tuple[IPv4Address, int, int, int]) -> Flow:
    source, protocol, source_port, destination_port = drawn
    if protocol == 1:
        destination_port = 0
    if protocol == 47:
        source_port = destination_port = 0
    return Flow(source, IPv4Address(vip), protocol, source_port, destination_port)


@settings(max_examples=60, deadline=None)
@given(default=groups("100.1.1"), http=groups("100.1.2"), drawn=st.lists(flows, min_size=1, max_size=8))
def test_the_choice_of_a_dip_is_the_models(
    shared: Mux, default: Group, http: Group, drawn: list[tuple[IPv4Address, int, int, int]]
) -> None:
    vip = MuxVip(
        address="10.0.3.3",
        group=default,
        ports=(MuxPortGroup(protocol=Protocol.TCP, port=80, group=http),),
    )
    if vip.address in {service.address for service in shared.path.service_traffic()}:
        shared.path.delete_vip(vip.address)
    shared.path.put_vip(vip)
    for one in (*drawn, (IPv4Address("1.2.3.4"), 6, drawn[0][2], 80)):
        flow = flow_to("10.0.3.3", one)
        chosen = http if (flow.protocol, flow.destination_port) == (6, 80) else default
        assert shared.dip_of(packet_of(flow))[1] == chosen.member(flow_hash(flow)).address, flow


@settings(max_examples=40, deadline=None)
@given(first=groups("100.1.1"), second=groups("100.1.2"), drawn=st.lists(flows, min_size=1, max_size=8))
def test_both_levels_of_a_large_vip_are_the_models(
    shared: Mux, first: Group, second: Group, drawn: list[tuple[IPv4Address, int, int, int]]
) -> None:
    tips = {IPv4Address("20.0.0.1"): first, IPv4Address("20.0.0.2"): second}
    vip = MuxVip(address="10.0.4.4", group=group("20.0.0.1", "20.0.0.2"))
    held = {service.address for service in shared.path.service_traffic()}
    if vip.address in held:
        shared.path.delete_vip(vip.address)
    for address, members in tips.items():
        if address in held:
            shared.path.delete_tip(address)
        shared.path.put_tip(MuxTip(address=address, group=members))
    shared.path.put_vip(vip)
    assert vip.group
    for one in drawn:
        flow = flow_to("10.0.4.4", one)
        tip = vip.group.member(flow_hash(flow)).address
        expected = tips[tip].member(tip_hash(flow)).address
        frame = packet_of(flow)
        assert shared.dip_of(frame)[1] == expected, flow
        tunneled = wire(IP(src="172.30.0.1", dst=str(tip)) / IP(frame[14:]))
        assert shared.dip_of(tunneled)[1] == expected, f"{flow} tunneled to {tip}"


@pytest.mark.root
@needs_root
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_frames_fare_alike_on_both_data_paths(both: tuple[Mux, Mux], data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(FIXTURES)).frame())
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(12, min(len(frame), 90) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(14, len(frame)))])
    assert both[0].send(cut) == both[1].send(cut)


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Mux, Mux]]:
    pair = Mux("xdp"), Mux("scapy")
    for made in pair:
        for vip in packets.VIPS:
            made.path.put_vip(vip)
        made.path.put_tip(packets.KNOWN_TIP)
    yield pair
    for made in pair:
        made.close()


def _forms(address: str) -> Iterator[MuxVip]:
    """A VIP as it may become: plain, with ports, pinned flows, other DIPs, and the members of a TIP."""
    port = MuxPortGroup(protocol=Protocol.TCP, port=80, group=group("100.0.0.1", "100.0.0.2"))
    pins = tuple(
        PinnedFlow(protocol=6, source=packets.CLIENT, source_port=n, destination_port=80, dip="100.1.1.2")
        for n in (1, 2)
    )
    for members in (("100.1.1.1", "100.1.1.2"), ("100.1.1.2", "100.1.1.3"), ("20.0.0.1", "100.1.1.2")):
        plain = MuxVip(address=address, group=group(*members))
        yield from (plain, turned(plain))
        yield plain.model_copy(update={"ports": (port,)})
        yield plain.model_copy(update={"pinned": pins})
        yield plain.model_copy(update={"ports": (port,), "pinned": pins})


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("seed", range(6))
def test_flows_fare_alike_on_both_data_paths_and_are_counted_alike_as_their_vip_changes(seed: int) -> None:
    """Known flows of a VIP ask for less of it on XDP, as long as it has neither ports nor pinned flows."""
    draw = Random(seed)
    vips = ("10.0.0.8", "10.0.0.9")
    forms = {IPv4Address(vip): list(_forms(vip)) for vip in vips}
    made = [Mux("xdp"), Mux("scapy")]
    paths = [mux.path for mux in made]
    held: set[IPv4Address] = set()
    for _ in range(250):
        address = IPv4Address(draw.choice(vips))
        before = [path.service_traffic() for path in paths]
        match draw.choices(("send", "put", "delete", "put TIP", "delete TIP"), (60, 8, 1, 2, 1))[0]:
            case "put":
                form = draw.choice(forms[address])
                for path in paths:
                    path.put_vip(form)
                held.add(address)
            case "delete" if address in held:
                for path in paths:
                    path.delete_vip(address)
                held.remove(address)
            case "put TIP":
                for path in paths:
                    path.put_tip(packets.KNOWN_TIP)
                held.add(packets.KNOWN_TIP.address)
            case "delete TIP" if packets.KNOWN_TIP.address in held:
                for path in paths:
                    path.delete_tip(packets.KNOWN_TIP.address)
                held.remove(packets.KNOWN_TIP.address)
            case _:
                flags = draw.choices(("A", "S", "F", "R"), (20, 3, 1, 1))[0]
                port, number = draw.choice((80, 81)), draw.randint(1, 4)
                l4 = draw.choice((TCP(sport=number, dport=port, flags=flags), UDP(sport=number, dport=port)))
                ttl = draw.choices((64, 1), (20, 1))[0]
                packet = IP(src=packets.CLIENT, dst=str(address), ttl=ttl) / l4
                if draw.random() < 0.2:
                    packet = IP(src="172.30.0.1", dst=str(packets.KNOWN_TIP.address)) / packet
                assert made[0].send(wire(packet)) == made[1].send(wire(packet))
        # A service that is there again counts anew on XDP.
        counted = [
            {
                service: (count.packets - old[service].packets, count.bytes - old[service].bytes)
                for service, count in path.service_traffic().items()
                if service in old
            }
            for path, old in zip(paths, before, strict=True)
        ]
        assert counted[0] == counted[1]
        tunneled = [{dip: n for dip, n in path.tunnel_traffic().items() if n.packets} for path in paths]
        assert tunneled[0] == tunneled[1]
    for mux in made:
        mux.close()


@pytest.mark.root
@needs_root
def test_the_program_costs_the_verifier_little() -> None:
    with closing(XdpDatapath(MUX, ANNOUNCED)) as path:
        assert path.program.verified_instructions() < 150_000


@pytest.mark.root
@needs_root
def test_a_successor_keeps_connections_of_dips_that_stay_and_of_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "pins"
    first = XdpDatapath(MUX, ANNOUNCED, pins=bpf.Pins(folder, LAYOUT))
    second = None
    try:
        for vip in (packets.PLAIN, packets.MIXED, packets.PINNED):
            first.put_vip(vip)
        before = {port: _dip_of(first, tcp(port, "S")) for port in range(1, 60)}
        old_ftp = _dip_of(first, wire(client(packets.MIXED, TCP(sport=9, dport=21, flags="S"))))
        first.close()

        second = XdpDatapath(MUX, ANNOUNCED, pins=bpf.Pins(folder, LAYOUT))
        assert packets.PLAIN.group
        gone, *rest = packets.PLAIN.group.members
        # In another order, so that places differ, and without one DIP and one VIP.
        second.put_vip(packets.MIXED)
        second.put_vip(turned(MuxVip(address=packets.PLAIN.address, group=Group.of(tuple(rest)))))
        second.attach([])
        for port, dip in before.items():
            if dip != gone.address:
                assert _dip_of(second, tcp(port)) == dip
            else:
                assert _dip_of(second, tcp(port)) in {other.address for other in rest}
        assert _dip_of(second, wire(client(packets.MIXED, TCP(sport=9, dport=21)))) == old_ftp
        assert second.table_use()["backends"][0] == 4
        exits = second.exits()
        assert exits["FORWARD_CONNECTION"].packets == sum(dip != gone.address for dip in before.values())
        assert exits["DROP_INTERNAL"].packets == 0
    finally:
        if second:
            second.close()
        bpf_pins.remove(folder)


@pytest.mark.root
@needs_root
def test_of_a_group_of_flows_on_probation_a_new_one_takes_the_place_of_one() -> None:
    sizes = replace(Sizes(), connections=64)
    with closing(XdpDatapath(MUX, ANNOUNCED, sizes=sizes)) as path:
        path.put_vip(packets.PLAIN)
        flows = (_flow_of(port) for port in range(1, 2000))
        of_group = [
            f.source_port for f in flows if novices.group_of(f, sizes.probation // novices.GROUP, 0) == 3
        ]
        asked = of_group[: novices.GROUP + 1]
        before = {port: _dip_of(path, tcp(port, "S")) for port in asked}
        path.put_vip(turned(packets.PLAIN))
        kept = [port for port, dip in before.items() if _dip_of(path, tcp(port)) == dip]
        assert len(kept) == novices.GROUP and asked[-1] in kept


def _flow_of(port: int) -> Flow:
    packet = IP(tcp(port)[14:])
    return Flow(IPv4Address(packet.src), IPv4Address(packet.dst), 6, port, packet.dport)


@pytest.mark.root
@needs_root
@pytest.mark.parametrize(("before", "after"), [(1024, 16_384), (16_384, 1024)], ids=["more", "less"])
def test_a_successor_with_room_for_more_flows_or_fewer_knows_those_that_have_sent_one_packet(
    tmp_path: Path, before: int, after: int
) -> None:
    folder = tmp_path / "pins"
    made: list[XdpDatapath] = []
    try:
        for connections in (before, after):
            sizes = replace(Sizes(), connections=connections)
            pins = bpf.Pins(folder, LAYOUT)
            made.append(XdpDatapath(MUX, ANNOUNCED, sizes=sizes, pins=pins, flow_key=7))
            made[-1].put_vip(turned(packets.PLAIN) if len(made) > 1 else packets.PLAIN)
            if len(made) == 1:
                known = {port: _dip_of(made[0], tcp(port, "S")) for port in range(1, 40)}
        made[-1].attach([])
        assert {port: _dip_of(made[-1], tcp(port)) for port in known} == known
    finally:
        for path in made:
            path.close()
        bpf_pins.remove(folder)


def _dip_of(path: XdpDatapath, frame: bytes) -> IPv4Address:
    out = path.program.test_run(frame).data_out
    assert len(out) > len(frame), "it is not forwarded"
    return IPv4Address(out[30:34])


@pytest.mark.parametrize("kind", PATHS)
def test_with_a_key_flows_go_where_nobody_without_it_can_tell(kind: str) -> None:
    """A client that picks source ports by the hash as it is published aims at one DIP, and misses."""
    key = 0xD0E7_5EC2
    mux = Mux(kind, key=key)
    try:
        spread = Group.of(tuple(Dip(address=IPv4Address(f"100.1.1.{n}")) for n in range(1, 9)))
        vip = MuxVip(address=IPv4Address("10.0.7.7"), group=spread)
        mux.path.put_vip(vip)
        flows = [Flow(IPv4Address("192.0.2.7"), vip.address, 17, port, 53) for port in range(1024, 3072)]
        aimed = [flow for flow in flows if spread.member(flow_hash(flow, 0)) == spread.members[0]]
        hit: Counter[IPv4Address] = Counter()
        for flow in aimed[:160]:
            asked = UDP(sport=flow.source_port, dport=53)
            dip = mux.dip_of(wire(IP(src=str(flow.source), dst=str(vip.address)) / asked))[1]
            assert dip == spread.member(flow_hash(flow, key)).address, flow
            hit[dip] += 1
        assert max(hit.values()) < 2.5 * 160 / 8, f"flows aimed at one DIP reach {hit}"
    finally:
        mux.close()
