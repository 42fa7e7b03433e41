"""Differential fuzzing of the two muxes: hmux.p4 and the SMux hold the same and get the same frames.

Both must do the same with each frame to a VIP or TIP: send it to the same DIP with the same headers, answer
it by the same ICMP error, or drop it. Where an HMux hands something on, the next mux is asked, too: an SMux
for a fragment, the HMux that carries the TIP for a VIP of many DIPs; in the end it is at the same DIP.

What differs by design is listed in `EXCEPTIONS`, and no more.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Self

from duet_p4.hmux import entries, pipeline
from duet_p4.hmux.codec import Codec
from duet_p4.hmux.rows import VIP_ROWS
from duet_p4.hmux.tables import VipTables
from duet_p4.model import Dip, Group, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol
from duet_p4.smux.xdp import XdpDatapath
from ptf_tests.conformance import headers as h
from ptf_tests.conformance import hmux_traffic
from ptf_tests.conformance.hmux import PROGRAM
from ptf_tests.conformance.hmux_states import PINNED, TIPS, VIPS
from ptf_tests.conformance.program import Case, State, encode
from ptf_tests.conformance.shrink import shrink_frame
from ptf_tests.conformance.xdp import Xdp

FRAMES_PER_WORLD = 5_000
SHOWN = 5
ANNOUNCED = (IPv4Network("10.0.0.0/16"), IPv4Network("20.0.0.0/24"))
HMUX, SMUX = IPv4Address("172.30.0.7"), IPv4Address("172.30.0.100")
FRAGMENT_MUX = IPv4Address("172.30.255.254")
MUXES = IPv4Network("172.30.0.0/16")
_PORT, _OUT = 1, 2
_NEXT_MAC = bytes.fromhex("0200000000cc")
_IP, _INNER = 14, 34
_IP_HEADER = 20
_L4_HEADERS = {h.TCP: 20, h.UDP: 8, h.ICMP: 8}
_ECN = _CE = 3
_XDP_DROP, _XDP_REDIRECT = 1, 4
_REPLY_WINDOW_S = 0.02
"""An SMux answers by so many ICMP errors in each such time only."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a frame: `how` is forward, answer or drop; where it left, what left."""

    how: str
    frame: bytes = b""

    @property
    def destination(self) -> IPv4Address | None:
        """Where it is sent."""
        return IPv4Address(self.frame[30:34]) if self.frame else None

    def told(self) -> tuple[str, bytes]:
        """Return what two muxes must agree on: all but links' addresses, the mux's own, and its checksum.

        A mark of congestion may be in the tunnel's header, or in the client's as well, whose it will be at
        the tunnel's end (RFC 6040).
        """
        packet = bytearray(self.frame[_IP:])
        if self.how == "forward" and packet[1] & _ECN == _CE and packet[_IP_HEADER + 1] & _ECN:
            packet[_IP_HEADER + 1] |= _CE
            packet[_IP_HEADER + 10 : _IP_HEADER + 12] = bytes(2)
        del packet[10:16]
        return self.how, bytes(packet)


@dataclass(slots=True)
class Summary:
    """What a run found: what became of frames, and how many were not compared, by the exception."""

    seed: int
    worlds: int = 0
    frames: int = 0
    differences: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    excepted: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class World:
    """What both muxes hold, and how they are set up."""

    vips: tuple[MuxVip, ...]
    tips: tuple[MuxTip, ...]
    key: int
    mtu: int


def fuzz(frames: int, seed: int, tell: Callable[[str], None]) -> Summary:
    """Compare the muxes over at least so many frames that are for VIPs or TIPs; `tell` each difference."""
    summary = Summary(seed)
    began = time.monotonic()
    while summary.frames < frames:
        rng = random.Random(f"muxes {seed} {summary.worlds}")
        wanted = min(FRAMES_PER_WORLD, frames - summary.frames)
        with Pair(make_world(rng)) as pair:
            for case in hmux_traffic.cases(State("any", ()), rng):
                if not wanted:
                    break
                if case.port == pipeline.CPU_PORT or not pair.holds(case.frame):
                    continue
                wanted -= 1
                if excepted := pair.excepted(case.frame):
                    summary.excepted[excepted] += 1
                    continue
                summary.frames += 1
                summary.outcomes[pair.by_hmux(case.frame).how] += 1
                why = pair.difference(case.frame)
                if not why:
                    continue
                summary.differences += 1
                if summary.differences <= SHOWN:
                    tell(f"world {summary.worlds}, frame {summary.frames}: {pair.shown(case, why)}")
        summary.worlds += 1
    summary.seconds = round(time.monotonic() - began, 1)
    return summary


def make_world(rng: random.Random) -> World:
    """Return VIPs with and without ports, with pinned flows, behind TIPs, with weights, all at random."""
    vips = tuple(_vip(rng, number, address) for number, address in enumerate(VIPS[:16]))
    tips = tuple(MuxTip(address=address, group=_group(rng, 100 + n)) for n, address in enumerate(TIPS[:3]))
    return World(vips, tips, rng.choice((0, rng.randrange(1 << 32))), rng.choice((1600, 1500, 576, 128)))


def _vip(rng: random.Random, number: int, address: IPv4Address) -> MuxVip:
    group: Group | None = _group(rng, number)
    ports = tuple(
        MuxPortGroup(protocol=protocol, port=port, group=_group(rng, 50 + number))
        for protocol, port in ((Protocol.TCP, 80), (Protocol.TCP, 21), (Protocol.UDP, 53))
        if number % 3 == 1 and rng.random() < 0.6
    )
    if number in (4, 5):
        group = Group.of(tuple(Dip(address=tip) for tip in TIPS[: number - 2]))
    elif ports and rng.random() < 0.5:
        group = None
    pins = []
    if number in (6, 7) and group is not None:
        pins = [
            PinnedFlow(
                protocol=protocol,
                source=source,
                source_port=source_port,
                destination_port=destination_port,
                dip=rng.choice(group.members).address,
            )
            for source, vip, protocol, source_port, destination_port in PINNED
            if vip == address
        ]
    return MuxVip(address=address, group=group, ports=ports, pinned=tuple(pins))


def _group(rng: random.Random, number: int) -> Group:
    count = rng.choice((1, 2, 3, 5, 16))
    dips = [
        Dip(address=IPv4Address(f"100.1.{number}.{n + 1}"), weight=rng.choice((1, 1, 2, 3)))
        for n in range(count)
    ]
    return Group.of(tuple(dips), rng.choice((None, None, 64)))


class Pair:
    """An HMux and an SMux that hold the same. Needs root."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tips = {tip.address for tip in world.tips}
        self._held = {entry.address.packed for entry in (*world.vips, *world.tips)}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        world = self.world
        with self._stack as stack:
            self._hmux = stack.enter_context(Xdp(PROGRAM))
            self._smux = XdpDatapath(
                SMUX,
                ANNOUNCED,
                uplink_mtu=world.mtu,
                macs=[h.SWITCH_MAC],
                fragment_mux=FRAGMENT_MUX,
                muxes=MUXES,
                flow_key=world.key,
            )
            stack.callback(self._smux.close)
            self._fill()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _fill(self) -> None:
        schema = PROGRAM.schema
        self._hmux.write(
            encode(
                schema,
                [
                    entries.configuration(HMUX, 7, self.world.key, FRAGMENT_MUX),
                    entries.port(_PORT, h.SWITCH_MAC_TEXT),
                    entries.route(IPv4Network("0.0.0.0/0"), 1),
                    entries.nexthop_group(1, 1, 1),
                    entries.nexthop_slot(1, 1),
                    entries.nexthop(1, _OUT, h.SWITCH_MAC_TEXT, _NEXT_MAC.hex(":"), self.world.mtu),
                ],
            )
        )
        tables = VipTables(pipeline.sizes_of(VIP_ROWS))
        codec = Codec(schema)
        for entry in (*self.world.tips, *self.world.vips):
            plan = tables.put_vip(entry) if isinstance(entry, MuxVip) else tables.put_tip(entry)
            self._hmux.write([codec.update(update) for update in plan])
            tables.apply(plan)
            if isinstance(entry, MuxVip):
                self._smux.put_vip(entry)
            else:
                self._smux.put_tip(entry)

    def difference(self, frame: bytes) -> str:
        """Return in which way the muxes differ on a frame, or nothing."""
        hmux, smux = self.by_hmux(frame), self.by_smux(frame)
        if hmux.how == "answer" and smux.how == "drop":
            time.sleep(_REPLY_WINDOW_S)  # Too many were answered at once, perhaps.
            smux = self.by_smux(frame)
        return self._between(hmux, smux)

    def excepted(self, frame: bytes) -> str:
        """Return why the muxes may differ on a frame, or nothing."""
        return next((name for name, by_design in EXCEPTIONS.items() if by_design(self, frame)), "")

    def shown(self, case: Case, why: str) -> str:
        """Return a description of a difference, with a frame that is as small as it gets."""
        small = shrink_frame(case.frame, lambda frame: self.differs(frame, why))
        counted, exits = self._hmux.counters(), self._smux.exits()
        hmux, smux = self.by_hmux(small), self.by_smux(small)
        dropped = [name for name, count in self._hmux.counters().items() if count != counted.get(name)]
        left = [name for name, count in self._smux.exits().items() if count != exits[name]]
        return "\n".join(
            (
                f"{case.kind}: {why}",
                f"  frame {small.hex(' ')}",
                f"  HMux: {hmux.how} {hmux.frame.hex(' ')} ({', '.join(dropped)})",
                f"  SMux: {smux.how} {smux.frame.hex(' ')} ({', '.join(left)})",
            )
        )

    def differs(self, frame: bytes, why: str) -> bool:
        """Whether the muxes differ on a frame in this way."""
        return self.holds(frame) and not self.excepted(frame) and self.difference(frame) == why

    def holds(self, frame: bytes) -> bool:
        """Whether a frame is for a VIP or TIP that the muxes hold."""
        return (
            len(frame) >= _INNER
            and frame[:6] == h.SWITCH_MAC
            and frame[12:14] == b"\x08\x00"
            and frame[30:34] in self._held
        )

    def _between(self, hmux: Outcome, smux: Outcome) -> str:
        if hmux.how == "forward" and hmux.destination == FRAGMENT_MUX:
            handed = self.by_smux(_forwarded(hmux.frame))
            if (handed.how, handed.destination) == (smux.how, smux.destination):
                return ""
            return "a fragment does not come to the same DIP by the HMux" if smux.how != "answer" else ""
        if hmux.how == "forward" and hmux.destination in self.tips:
            tunneled = _forwarded(hmux.frame)
            carried, known = self.by_hmux(tunneled), self.by_smux(tunneled)
            if carried.told() != known.told():
                return "what is tunneled to a TIP is treated differently"
            if carried.how == smux.how == "forward" and carried.destination != smux.destination:
                return "the HMuxes of VIP and TIP pick another DIP than the SMux"
            return "" if smux.how == "forward" else "the SMux does not forward to the TIP's DIP"
        if hmux.how != smux.how:
            return f"the HMux would {hmux.how}, the SMux {smux.how}"
        if hmux.destination != smux.destination:
            return "the DIP is another"
        return "" if hmux.told() == smux.told() else "what leaves is different"

    def by_hmux(self, frame: bytes) -> Outcome:
        """Return what the HMux does with a frame."""
        left = self._hmux.send([(_PORT, frame)])[0]
        if not left:
            return Outcome("drop")
        ((port, out),) = left
        return Outcome("answer" if port == _PORT else "forward", out)

    def by_smux(self, frame: bytes) -> Outcome:
        """Return what the SMux does with a frame."""
        result = self._smux.program.test_run(frame)
        if result.retval != _XDP_REDIRECT:
            return Outcome("drop" if result.retval == _XDP_DROP else "pass")
        return Outcome("forward" if result.data_out[23] == h.IPIP else "answer", result.data_out)


def _forwarded(frame: bytes) -> bytes:
    """Return a frame as the next mux gets it."""
    return h.SWITCH_MAC + frame[6:]


def _no_mux_tunnels_it(pair: Pair, frame: bytes) -> bool:
    """An HMux takes tunnels from ports behind which are muxes, and believes those; an SMux looks itself."""
    if frame[23] != h.IPIP or IPv4Address(frame[30:34]) not in pair.tips:
        return False
    bare = frame[:_IP] + frame[_IP + _IP_HEADER :]
    if IPv4Address(frame[26:30]) not in MUXES or not pair.holds(bare) or _is_fragment(bare):
        return True
    tunneled = pair.by_hmux(bare)
    there = tunneled.how == "forward" and tunneled.destination == IPv4Address(frame[30:34])
    return not there or pair.by_smux(bare).how != "forward"


def _is_cut_short(pair: Pair, frame: bytes) -> bool:
    """Nobody takes a packet without all of its L4 header: an SMux drops it, an HMux reads its ports only."""
    at = _INNER if frame[23] == h.IPIP and len(frame) >= _INNER + _IP_HEADER else _IP
    header = (frame[at] & 0xF) * 4
    return int.from_bytes(frame[at + 2 : at + 4]) - header < _L4_HEADERS.get(frame[at + 9], 0)


def _is_tunnel_with_options(pair: Pair, frame: bytes) -> bool:
    """An HMux finds no tunnel behind options (p4src/hmux.p4): to a VIP, that is a packet like others."""
    return frame[23] == h.IPIP and frame[_IP] & 0xF > 5


def _is_fragment_at_its_end(pair: Pair, frame: bytes) -> bool:
    """The way of a fragment by an HMux to an SMux is one hop longer."""
    return _is_fragment(frame) and frame[22] <= 2


def _is_fragment(frame: bytes) -> bool:
    return bool(int.from_bytes(frame[20:22]) & 0x3FFF)


EXCEPTIONS: Mapping[str, Callable[[Pair, bytes], bool]] = {
    "tunneled to a TIP, but by no mux, or what no mux tunnels": _no_mux_tunnels_it,
    "cut short within its L4 header": _is_cut_short,
    "a tunnel whose header has options": _is_tunnel_with_options,
    "a fragment with a TTL of 2 or less": _is_fragment_at_its_end,
}
"""What differs by design: by its name, whether a frame is such a one."""
