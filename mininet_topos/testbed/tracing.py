"""One real packet from a client to a VIP, followed through every node on its way, there and back.

All switches and SMuxes and the servers of the VIP follow the flow (`POST /v1/traces`), the client sends, and
what they have seen is put in order: the clock is one on all nodes. Who does not trace is seen by what its
neighbours sent and had from it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Any

import networkx as nx

from duet_p4.api.trace import PacketTrace, TraceFlow, TraceRequest
from duet_p4.model import Model, Protocol
from duet_p4.rest.client import DeviceClient, HostClient, RefusedError, RestError
from mininet_topos import fattree
from mininet_topos.addresses import Kind
from mininet_topos.testbed import agents, probe
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.plan import Plan

_TIMEOUT_S = 3.0
_SETTLE_S = 0.2
_SECONDS = 20.0
_PACKETS = 32
_PORTS = range(20_000, 30_000)
_ICMP = 1
_CHECKSUM_AT = {Protocol.TCP.number: 16, Protocol.UDP.number: 6}
_FLAGS = (("SYN", 0x02), ("FIN", 0x01), ("RST", 0x04), ("PSH", 0x08), ("ACK", 0x10))


class Hop(Model):
    """A node that a packet passed: with what it saw itself, or, of one that does not trace, a note."""

    node: str
    came_from: str | None
    went_to: str | None
    trace: PacketTrace | None = None
    note: str | None = None


class TracedPacket(Model):
    """One packet and its hops, in the order of time."""

    what: str
    back: bool
    """Whether it is one of the answer's."""
    frame: str
    hops: tuple[Hop, ...]
    lost: bool
    """Whether it ended on its way."""


class Journey(Model):
    """What a client sent to a VIP, what came back, and every packet's way."""

    client: str
    vip: IPv4Address
    protocol: str
    source: IPv4Address
    source_port: int
    destination_port: int
    answer: str
    packets: tuple[TracedPacket, ...]
    untraced: tuple[str, ...]
    """Nodes that did not trace, and why."""
    lost_records: int


@dataclass(frozen=True)
class Inner:
    """The client's packet in a frame, whatever is around it."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    identification: int
    content: bytes
    tunnel: IPv4Address | None
    """Where the tunnel around it leads, None without one."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """Return what is the same of a packet in every hop, and differs between packets.

        An L4 checksum may not be filled in yet where a packet leaves its host.
        """
        at = _CHECKSUM_AT.get(self.protocol)
        content = self.content if at is None else self.content[:at] + self.content[at + 2 :]
        return self.source, self.destination, self.protocol, self.identification, content

    @property
    def what(self) -> str:
        """Return what kind of packet it is, in a few words."""
        content = self.content
        if self.protocol == Protocol.TCP.number and len(content) >= 14:
            names = [name for name, bit in _FLAGS if content[13] & bit]
            carried = len(content) - (content[12] >> 4) * 4
            return f"TCP {'-'.join(names)}" + (f" with {carried} bytes" if carried > 0 else "")
        if self.protocol == Protocol.UDP.number:
            return f"UDP with {max(len(content) - 8, 0)} bytes"
        if self.protocol == _ICMP and content:
            return {0: "ICMP echo reply", 8: "ICMP echo request"}.get(content[0], f"ICMP type {content[0]}")
        return f"IP protocol {self.protocol}"


def inner_of(frame: bytes) -> Inner | None:
    """Return the IPv4 packet in a frame, that in a tunnel if it is one; None where there is none."""
    if frame[12:14] != b"\x08\x00":
        return None
    at, tunnel = 14, None
    while len(frame) >= at + 20:
        header = frame[at:]
        length = (header[0] & 15) * 4
        source, destination = IPv4Address(header[12:16]), IPv4Address(header[16:20])
        if header[9] == 4 and tunnel is None:
            at, tunnel = at + length, destination
            continue
        content = header[length : int.from_bytes(header[2:4], "big")]
        return Inner(
            source, destination, header[9], int.from_bytes(header[4:6], "big"), bytes(content[:120]), tunnel
        )
    return None


async def trace(
    folder: Folder,
    client: str,
    vip: IPv4Address,
    port: int,
    protocol: str,
    source_port: int | None = None,
) -> Journey:
    """Send one packet, or the exchange it begins, from a client to a VIP, and return its way.

    `protocol` is `tcp`, `udp` or `icmp`. Raises TestbedError where there is no such client, or none traces.
    """
    graph = fattree.fattree(Plan.load(folder).size)
    node = _client(graph, client)
    source = node.address
    chosen = source_port or random.choice(_PORTS)
    number = {"tcp": Protocol.TCP.number, "udp": Protocol.UDP.number, "icmp": _ICMP}[protocol]
    flow = TraceFlow(
        source=source,
        destination=vip,
        protocol=number,
        source_port=chosen,
        destination_port=port if protocol != "icmp" else None,
    )
    jobs: dict[str, Any] = {
        "tcp": lambda: probe.http(source, vip, port, _TIMEOUT_S, chosen),
        "udp": lambda: probe.udp(source, vip, port, _TIMEOUT_S, chosen),
        "icmp": lambda: probe.ping(source, vip, _TIMEOUT_S, identifier=chosen),
    }
    async with agents.connect(folder, graph) as connected:
        devices: dict[str, DeviceClient] = {
            **connected.switches,
            **connected.smuxes,
            **await _serving(connected.servers, vip),
        }
        begun, untraced = await _begin(devices, TraceRequest(flow=flow, packets=_PACKETS, seconds=_SECONDS))
        try:
            job = {client: (folder.namespace(client), jobs[protocol])}
            exchange = (await asyncio.to_thread(probe.run_in, job))[client]
            await asyncio.sleep(_SETTLE_S)
        finally:
            ended = await _each({name: devices[name].end_trace(number_) for name, number_ in begun.items()})
    seen: list[PacketTrace] = []
    lost = 0
    for name, result in ended.items():
        if isinstance(result, BaseException):
            untraced.append(f"{name}: {result}")
        else:
            seen += result.packets
            lost += result.lost
    answer = exchange.error or (f"answered by DIP {exchange.dip}" if exchange.dip else "answered")
    return Journey(
        client=client,
        vip=vip,
        protocol=protocol,
        source=source,
        source_port=chosen,
        destination_port=port,
        answer=f"{answer} after {exchange.seconds * 1000:.1f} ms",
        packets=tuple(packets_of(graph, seen, vip, client)),
        untraced=tuple(untraced),
        lost_records=lost,
    )


def _in_order(graph: nx.Graph, seen: Sequence[PacketTrace]) -> list[PacketTrace]:
    """Put what devices saw of one packet in the order of its way.

    A device comes after the one that sent the packet to it, whatever their clocks say: BMv2's log has no more
    than milliseconds.
    """
    left = sorted(seen, key=lambda one: one.began_ns)
    sent_to = {to for one in left if (to := _next_of(graph, one)) is not None}
    first = next((one for one in left if _entry_of(graph, one) not in sent_to), left[0])
    found: list[PacketTrace] = []
    one: PacketTrace | None = first
    while left:
        one = one or left[0]
        left.remove(one)
        found.append(one)
        to = _next_of(graph, one)
        one = next((other for other in left if to is not None and _entry_of(graph, other) == to), None)
    return found


def _next_of(graph: nx.Graph, one: PacketTrace) -> tuple[str, str] | None:
    """Return who gets a packet that a device sent, and from whom."""
    to = _peer(graph, one.device, one.egress)
    return (to, one.device) if to is not None else None


def _entry_of(graph: nx.Graph, one: PacketTrace) -> tuple[str, str] | None:
    """Return who has got a packet, and from whom."""
    came = None if _leaves_dip(one) else _peer(graph, one.device, one.ingress)
    return (one.device, came) if came is not None else None


def packets_of(
    graph: nx.Graph, seen: Sequence[PacketTrace], vip: IPv4Address, client: str
) -> list[TracedPacket]:
    """Put what devices have seen in order: by packet, then by time."""
    groups: dict[tuple[Any, ...], list[PacketTrace]] = {}
    for one in sorted(seen, key=lambda one: one.began_ns):
        inner = inner_of(_outside(one))
        if inner is not None:
            groups.setdefault(inner.identity, []).append(one)
    packets = []
    for passed in groups.values():
        hops = _in_order(graph, passed)
        inner = inner_of(_outside(hops[0]))
        assert inner is not None
        back = inner.source == vip
        found = _hops(graph, hops)
        last = found[-1]
        packets.append(
            TracedPacket(
                what=inner.what,
                back=back,
                frame=_outside(hops[0]).hex(),
                hops=tuple(found),
                lost=last.trace is not None and last.trace.verdict not in ("sent", "passed"),
            )
        )
    return packets


def _leaves_dip(one: PacketTrace) -> bool:
    return one.kind == "server" and one.verdict == "sent"


def _outside(one: PacketTrace) -> bytes:
    """Return the frame as it is outside of servers, whose DIPs the VIP stands for."""
    return bytes.fromhex(one.frame_out if _leaves_dip(one) and one.frame_out else one.frame)


def _hops(graph: nx.Graph, seen: Sequence[PacketTrace]) -> list[Hop]:
    """Return the nodes in their order, with those between them that do not trace themselves."""
    found: list[Hop] = []
    before: PacketTrace | None = None
    for one in seen:
        came = None if _leaves_dip(one) else _peer(graph, one.device, one.ingress)
        if (
            came is not None
            and not fattree.nodes(graph.subgraph([came]))[0].is_switch
            and (
                before is None
                or (before.device != came and _peer(graph, before.device, before.egress) == came)
            )
        ):
            found.append(_between(graph, came, before, one))
        found.append(
            Hop(node=one.device, came_from=came, went_to=_peer(graph, one.device, one.egress), trace=one)
        )
        before = one
    if before is not None:
        last = _peer(graph, before.device, before.egress)
        if last is not None and not fattree.nodes(graph.subgraph([last]))[0].is_switch:
            found.append(_between(graph, last, before, None))
    return found


def _between(graph: nx.Graph, name: str, before: PacketTrace | None, after: PacketTrace | None) -> Hop:
    kind = fattree.nodes(graph.subgraph([name]))[0].kind
    received = inner_of(bytes.fromhex(before.frame_out)) if before and before.frame_out else None
    sent = inner_of(bytes.fromhex(after.frame)) if after else None
    note = {
        (False, False): "",
        (True, False): "received it"
        + (f" in a tunnel to {received.tunnel}" if received and received.tunnel else ""),
        (False, True): "sent it",
        (True, True): (
            f"encapsulated it to {sent.tunnel}"
            if sent and sent.tunnel and received and received.tunnel != sent.tunnel
            else "passed it on"
        ),
    }[before is not None, after is not None]
    if kind is Kind.SERVER and received is not None and received.tunnel is not None and after is None:
        note += f"; its host agent takes the tunnel off and rewrites {received.destination} to the DIP"
    return Hop(
        node=name,
        came_from=before.device if before else None,
        went_to=after.device if after else None,
        note=note,
    )


def _peer(graph: nx.Graph, switch: str, port: str | None) -> str | None:
    """Return the node at a port or interface, None where there is none, as behind the CPU port."""
    port = (port or "").removeprefix("eth")
    if not port.isdecimal() or switch not in graph:
        return None
    return next(
        (
            link.peer(switch).node
            for link in fattree.links(graph, switch)
            if link.port(switch).number == int(port)
        ),
        None,
    )


def _client(graph: nx.Graph, name: str) -> fattree.Node:
    clients = {node.name: node for node in fattree.nodes(graph, Kind.CLIENT)}
    if name not in clients:
        raise TestbedError(f"there is no client {name!r}; there are {', '.join(clients)}")
    return clients[name]


async def _serving(servers: dict[str, HostClient], vip: IPv4Address) -> dict[str, HostClient]:
    """Return the servers that serve a VIP, and those that do not say."""
    told = await _each({name: client.get_vip(vip) for name, client in servers.items()})

    def refused(name: str) -> bool:
        error = told[name]
        return isinstance(error, RefusedError) and error.problem.status == HTTPStatus.NOT_FOUND

    return {name: client for name, client in servers.items() if not refused(name)}


async def _begin(devices: dict[str, DeviceClient], request: TraceRequest) -> tuple[dict[str, str], list[str]]:
    """Have all devices follow a flow; return their traces, and who does not, and why.

    The first one of each kind compiles the instrumented variant, the others take what it has made.
    """
    firsts = list({name.rstrip("0123456789."): name for name in reversed(devices)}.values())
    started: dict[str, Any] = {}
    for batch in (firsts, [name for name in devices if name not in firsts]):
        started |= await _each({name: devices[name].begin_trace(request) for name in batch})
    begun = {name: one.id for name, one in started.items() if not isinstance(one, BaseException)}
    refused = [f"{name}: {one}" for name, one in started.items() if isinstance(one, BaseException)]
    if not begun:
        raise TestbedError(f"nobody traces: {refused[0]}")
    return begun, refused


async def _each(work: dict[str, Coroutine[Any, Any, Any]]) -> dict[str, Any]:
    """Await all; what fails over REST is the exception."""

    async def one(item: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await item
        except RestError as error:
            return error

    results = await agents.gather([one(item) for item in work.values()])
    return dict(zip(work, results, strict=True))
