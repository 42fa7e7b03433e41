"""What one packet costs each data path, by its kind: nanoseconds and executed instructions.

Programs run in the kernel's test run, in a harness that puts the frame back as it was (`cost.py`); nothing is
sent, no interface is needed. A case says of what length its packets leave: those that take another way are an
error, not a figure.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from finsy import P4TableEntry

from duet_p4.api.host import HostDip, HostVip
from duet_p4.bench.by_hand import by_hand
from duet_p4.bench.cost import Cost, Harness
from duet_p4.bench.floor import PROGRAM as FLOOR
from duet_p4.bench.floor import RODATA
from duet_p4.bench.interpreter import Machine
from duet_p4.bench.line import BenchError
from duet_p4.bench.switches import IN_PORT, OUT_PORT, inserts
from duet_p4.bench.tables import (
    DESTINATION_MAC,
    FIRST_DIP,
    FIRST_VIP,
    GROUPS,
    LOOPBACK,
    MTU,
    SLOTS_PER_VIP,
    SOURCE_MAC,
    Fill,
)
from duet_p4.bench.traffic import frame
from duet_p4.bpf import Map, Object, Program, compile_object
from duet_p4.checksum import checksum
from duet_p4.hmux import entries, pipeline
from duet_p4.host_agent.datapath import HostDatapath
from duet_p4.model import Dip, Group, MuxVip, Protocol
from duet_p4.smux.xdp import XdpDatapath
from duet_p4.xdp_switch.device import XdpDevice
from duet_p4.xdp_switch.p4runtime.batch import Batch
from duet_p4.xdp_switch.p4runtime.staging import Staged, stage
from duet_p4.xdp_switch.pipeline import XdpPipeline

CLIENT = int(IPv4Address("10.255.0.1"))
TIP = IPv4Address("20.0.0.1")
PINNED_VIP = IPv4Address("10.65.0.2")
PASS, REDIRECT, NEXT = 2, 4, 0xFFFFFFFF
"""Verdicts: XDP_PASS, XDP_REDIRECT, TCX_NEXT."""
OUTER = 20
LOOPBACK_IFINDEX = 1
"""What test runs come in by; where they would leave is never used."""
FLOWS = 1024
MANY_FLOWS = 65_536
NEW_FLOW_PASSES = 6
SETTLE_SECONDS = 20.0

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """The cost of one kind of packet; `instructions` are those of the first of its frames."""

    subject: str
    tables: str
    packets: str
    ns: float
    instructions: int | None


@dataclass(frozen=True, slots=True)
class Case:
    """Packets of one kind, and the length and verdict that they leave with.

    What `only_first` packets of a flow take is known from the first pass over `frames`, which are all of
    different flows, and from that over each of `others`.
    """

    packets: str
    frames: Sequence[bytes]
    length: int
    verdict: int = REDIRECT
    only_first: bool = False
    others: Sequence[Sequence[bytes]] = ()
    by_hand: bool = True
    """Whether the pipeline that is written by hand takes such packets itself."""


def measure(progress: Progress, *, quick: bool = False, full: bool = True) -> list[Measured]:
    """Measure every kind of packet of both floors, hmux.p4, the SMux and the host agent; needs root.

    A `quick` run has fewer runs, and one VIP in the SMux; without `full` tables, hmux.p4 has one, too.
    """
    found: list[Measured] = []
    batches = 10 if quick else 60
    with Harness() as harness:

        def note(subject: str, tables: str, program: Program, case: Case, machine: Machine | None) -> None:
            progress(f"{subject} {tables}: {case.packets}")
            # Before the packets are known to the program.
            run = machine.run(case.frames[0]) if machine is not None else None
            taken = _take(harness, program, case, batches)
            if run is not None and (run.verdict, len(run.frame)) != (case.verdict, case.length):
                raise BenchError(f"{subject} {case.packets}: carried out, it ends with {run.verdict}")
            found.append(
                Measured(
                    subject, tables, case.packets, taken.ns, run.instructions if run is not None else None
                )
            )

        with floor_program() as (loaded, program):
            note("floor", "-", program, _one_vip(), Machine(loaded, "encapsulate"))
        for name, fill, cases in (
            ("one", Fill.one(), _cases_of_one()),
            *([("full", Fill.full(), _cases_of_all())] if full else []),
        ):
            with switch(fill) as (staged, shared):
                machine = Machine(staged.loaded, "pipeline", shared)
                for case in cases:
                    note("xdp", name, staged.program, case, machine)
                with by_hand(staged) as (loaded, program):
                    machine = Machine(loaded, "by_hand", [*staged.loaded.maps(), *shared])
                    for case in cases:
                        if case.by_hand:
                            note("by hand", name, program, case, machine)
        for vips in (1,) if quick else (1, 30_000):
            with smux(vips) as datapath:
                name = f"{vips} VIPs"
                machine = Machine(datapath.loaded, "smux")
                for case in _smux_cases(datapath, vips, quick):
                    note("smux", name, datapath.program, case, machine)
        with _server() as host:
            progress("host agent: both ways")
            inward, outward = _host_cases()
            note("host", "1 VIP", host.inbound, inward, Machine(host.loaded, "inbound"))
            taken = harness.cost(
                host.outbound, outward.frames, outward.verdict, outward.length, kind="tc", batches=batches
            )
            found.append(Measured("host", "1 VIP", outward.packets, taken.ns, None))
    return found


def _take(harness: Harness, program: Program, case: Case, batches: int) -> Cost:
    count = len(case.frames)
    if case.only_first:
        passes = (
            harness.cost(program, frames, case.verdict, case.length, batches=1, repeat=count)
            for frames in (case.frames, *case.others)
        )
        return min(passes, key=lambda cost: cost.ns)
    if count > FLOWS:
        return harness.cost(
            program, case.frames, case.verdict, case.length, batches=max(4, batches // 4), repeat=count
        )
    return harness.cost(program, case.frames, case.verdict, case.length, batches=batches)


@contextmanager
def floor_program(egress: int = LOOPBACK_IFINDEX) -> Iterator[tuple[Object, Program]]:
    """Offer the floor, sending by an interface of this namespace."""
    with Object(compile_object(FLOOR)) as loaded:
        loaded.load(RODATA)
        loaded.map("egress").update(bytes(4), struct.pack("=I", egress))
        yield loaded, loaded.program("encapsulate")


@contextmanager
def switch(
    fill: Fill, egress: Mapping[int, int] | None = None, ingress: int = LOOPBACK_IFINDEX
) -> Iterator[tuple[XdpPipeline, list[Map]]]:
    """Offer hmux.p4 with its tables filled, and the maps it shares with others.

    `egress` are the interfaces of ports, `ingress` is the one that frames come in by.
    """
    interfaces = {IN_PORT: LOOPBACK_IFINDEX, OUT_PORT: LOOPBACK_IFINDEX} | dict(egress or {})
    with ExitStack() as undo:
        device = XdpDevice()
        undo.callback(device.close)
        staged: Staged = asyncio.run(stage(device, pipeline.schema().get_pipeline_config(), {}))
        assert isinstance(staged.pipeline, XdpPipeline)
        undo.callback(staged.pipeline.close)
        for number, ifindex in interfaces.items():
            device.shared["egress_ports"].update(struct.pack("=I", number), struct.pack("=I", ifindex))
        device.shared["ingress_ports"].update(struct.pack("=I", ingress), struct.pack("=I", IN_PORT + 1))
        hosts = [*fill.hosts(), *_extras(fill)] if fill.vips == 1 else everything(fill)
        for request in inserts([*fill.all_but_hosts(), *hosts]):
            batch = Batch(staged.forwarding, request.updates, staged.forwarding.runs(request))
            refused = next(filter(None, asyncio.run(batch.apply(""))), None)
            if refused is not None:
                raise refused
        yield staged.pipeline, list(device.shared.values())


def everything(fill: Fill) -> Iterator[P4TableEntry]:
    """Yield what fills the tables that a full fill leaves: VIPs with ports, with pinned flows, and a TIP."""
    sizes = pipeline.sizes()
    ports, flows = sizes["acl_table"], sizes["pinned_flow_table"]
    groups = fill.slots // SLOTS_PER_VIP
    for number in range(fill.vips - 1):
        first = number % groups * SLOTS_PER_VIP
        address = IPv4Address(FIRST_VIP + number)
        has_ports, has_pins = number < ports, ports <= number < 2 * ports
        yield entries.vip(address, first, SLOTS_PER_VIP, has_ports=has_ports, has_pinned_flows=has_pins)
        if has_ports:
            yield entries.port_group(address, Protocol.UDP, 80, first, SLOTS_PER_VIP)
    yield entries.tip(TIP, 0, SLOTS_PER_VIP)
    for number in range(flows):
        source, vip, port = _pinned(number, ports)
        yield entries.pinned_flow(IPv4Address(source), IPv4Address(vip), 17, port, 80, number % fill.tunnels)
    for number in range(1, min(sizes["backstop_table"], 500)):
        yield entries.backstop(number, 1)
    for number in range(2, sizes["nexthop_table"]):
        yield entries.nexthop(number, OUT_PORT, SOURCE_MAC, DESTINATION_MAC, MTU)
    for number in range(1, sizes["nexthop_slot_table"]):
        yield entries.nexthop_slot(number, 1 + number % (sizes["nexthop_table"] - 1))
    for number in range(1 + max(GROUPS), sizes["nexthop_group_table"]):
        yield entries.nexthop_group(number, number, 1)


def _pinned(number: int, ports: int) -> tuple[int, int, int]:
    """Return client, VIP and the client's port of a pinned flow."""
    return CLIENT + number, FIRST_VIP + ports + number % ports, 1024 + number


def _extras(fill: Fill) -> Iterable[P4TableEntry]:
    """Yield what the cases need beside a fill of one VIP."""
    yield entries.tip(TIP, 0, fill.slots)
    yield entries.vip(PINNED_VIP, 0, fill.slots, has_pinned_flows=True)
    yield entries.pinned_flow(IPv4Address(CLIENT), PINNED_VIP, 17, 4000, 80, 1)


def _one_vip(size: int = 64) -> Case:
    packets = "VIP" if size == 64 else f"VIP, {size} bytes"
    return Case(packets, [frame(size, CLIENT, FIRST_VIP, 4000)], size + OUTER)


def _cases_of_one() -> list[Case]:
    flows = [frame(64, CLIENT, FIRST_VIP, 4000 + n) for n in range(FLOWS)]
    tunneled = _tunnel(frame(64, CLIENT, FIRST_VIP, 4000), TIP)
    pinned = frame(64, CLIENT, int(PINNED_VIP), 4000)
    return [
        _one_vip(),
        Case(f"VIP, {FLOWS} flows", flows, 64 + OUTER),
        _one_vip(512),
        _one_vip(1500),
        Case("TIP", [tunneled], 64 + OUTER),
        Case("pinned flow", [pinned], 64 + OUTER),
        Case("routed", [frame(64, CLIENT, FIRST_DIP, 4000)], 64),
        Case("routed tunnel", [_tunnel(frame(64, CLIENT, FIRST_VIP, 4000), IPv4Address(FIRST_DIP))], 84),
        Case(
            "ICMP error about a VIP",
            [_icmp_error(FIRST_VIP)],
            len(_icmp_error(FIRST_VIP)) + OUTER,
            by_hand=False,
        ),
        Case(
            "TTL expired, answered",
            [_with_ttl(frame(64, CLIENT, FIRST_VIP, 4000), 1)],
            14 + 20 + 8 + 28,
            by_hand=False,
        ),
    ]


def _cases_of_all() -> list[Case]:
    fill = Fill.full()
    vips = [frame(64, CLIENT + n, FIRST_VIP + n, 1024 + n) for n in range(fill.vips)]
    routes = [frame(64, CLIENT, FIRST_DIP + n % fill.tunnels, 1024 + n) for n in range(FLOWS)]
    ports = pipeline.sizes()["acl_table"]
    # A third each through the ACL table, by a pinned flow, and by neither.
    mixed = list(vips)
    for number in range(0, fill.vips, 3):
        source, vip, port = _pinned(number, ports)
        mixed[number] = frame(64, source, vip, port)
        if number + 1 < len(mixed):
            mixed[number + 1] = frame(64, CLIENT + number, FIRST_VIP + number % ports, 1024 + number)
    return [
        Case("VIP", [vips[-2]], 84),
        Case("every VIP in turn", vips[:-1], 84),
        Case("ports, pinned flows and others in turn", mixed[: fill.vips - 1], 84),
        Case("TIP", [_tunnel(vips[0], TIP)], 84),
        Case("routed, every DIP in turn", routes, 64),
    ]


def _smux_cases(datapath: XdpDatapath, vips: int, quick: bool) -> Iterator[Case]:
    one = frame(64, CLIENT, FIRST_VIP, 4000)
    for _ in range(2):
        datapath.program.test_run(one)
    yield Case("known flow", [one], 84)
    first, *others = (
        [
            frame(64, CLIENT + n, FIRST_VIP + n % vips, 1024 + n % 60_000)
            for n in range(turn * MANY_FLOWS, (turn + 1) * MANY_FLOWS)
        ]
        for turn in range(1 if quick else NEW_FLOW_PASSES)
    )
    before = datapath.exits()["FORWARD_HASH"].packets
    yield Case("new flows", first, 84, only_first=True, others=others)
    if (new := datapath.exits()["FORWARD_HASH"].packets - before) != MANY_FLOWS * (1 + len(others)):
        raise BenchError(f"the SMux took {new} packets for those of new flows")
    if not quick:
        _settle(datapath, first)
        yield Case("65,536 known flows in turn", first, 84)


def _settle(datapath: XdpDatapath, frames: Sequence[bytes]) -> None:
    """Have the SMux know all flows: it takes over so many in a second, and no more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with Harness() as harness:
        while time.monotonic() < deadline:
            before = datapath.exits()
            for at in range(0, len(frames), MANY_FLOWS // 2):
                part = [one for each in frames[at : at + MANY_FLOWS // 2] for one in (each, each)]
                harness.cost(datapath.program, part, REDIRECT, 84, batches=1, repeat=len(part))
            after = datapath.exits()
            if all(after[name] == before[name] for name in ("FORWARD_UNSETTLED", "FORWARD_HASH")):
                return
    raise BenchError("the SMux has not taken over all flows")


@contextmanager
def smux(vips: int) -> Iterator[XdpDatapath]:
    """Offer an SMux that holds so many VIPs."""
    datapath = XdpDatapath(IPv4Address("192.0.2.1"), [])
    try:
        dips = (Dip(address=IPv4Address(FIRST_DIP)), Dip(address=IPv4Address(FIRST_DIP + 1)))
        group = Group.of(dips)
        for number in range(vips):
            datapath.put_vip(MuxVip(address=IPv4Address(FIRST_VIP + number), group=group))
        yield datapath
    finally:
        datapath.close()


@contextmanager
def _server() -> Iterator[HostDatapath]:
    """Offer the data path of a server with one DIP of one VIP."""
    datapath = HostDatapath()
    try:
        dip = HostDip(address=IPv4Address(FIRST_DIP))
        datapath.put_vip(HostVip(address=IPv4Address(FIRST_VIP), dips=(dip,)))
        inward, outward = _host_cases()
        # The server knows the flow by the second packet, and answers it then.
        for _ in range(3):
            datapath.inbound.test_run(inward.frames[0])
            datapath.outbound.test_run(outward.frames[0])
        yield datapath
    finally:
        datapath.close()


def _host_cases() -> tuple[Case, Case]:
    inner = frame(64, CLIENT, FIRST_VIP, 4000)
    reply = bytearray(frame(64, FIRST_DIP, CLIENT, 80))
    reply[36:38] = (4000).to_bytes(2, "big")
    tunneled = _tunnel(inner, IPv4Address(FIRST_DIP))
    return (
        Case("in, known flow", [tunneled], 64, PASS),
        Case("out, reply of a known flow", [bytes(reply)], 64, NEXT),
    )


def _tunnel(inner: bytes, destination: IPv4Address) -> bytes:
    """Return a frame's packet in IP-in-IP to an address."""
    length = len(inner) - 14 + 20
    header = _ipv4(length, 4, LOOPBACK, destination)
    return inner[:14] + header + inner[14:]


def _ipv4(length: int, protocol: int, source: IPv4Address, destination: IPv4Address) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, protocol, 0, source.packed, destination.packed
    )
    return header[:10] + checksum(header).to_bytes(2) + header[12:]


def _with_ttl(data: bytes, ttl: int) -> bytes:
    header = bytearray(data[14:34])
    header[8], header[10:12] = ttl, bytes(2)
    header[10:12] = checksum(bytes(header)).to_bytes(2)
    return data[:14] + bytes(header) + data[34:]


def _icmp_error(vip: int) -> bytes:
    """Return a router's "unreachable" about what a DIP sent as its VIP to a client."""
    quoted = _ipv4(28, 17, IPv4Address(vip), IPv4Address(CLIENT)) + struct.pack("!HHHH", 80, 4000, 8, 0)
    message = struct.pack("!BBHI", 3, 1, 0, 0) + quoted
    message = message[:2] + checksum(message).to_bytes(2) + message[4:]
    base = frame(64, CLIENT, vip, 4000)
    return base[:14] + _ipv4(20 + len(message), 1, IPv4Address(CLIENT + 9), IPv4Address(vip)) + message
