"""Floods: at the CPU of a switch, and at VIPs; what must go on meanwhile goes on."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from ipaddress import IPv4Address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from duet_p4.api.ports import Punted
from mininet_topos.addresses import Kind
from mininet_topos.attacks.base import Book, Ground, Outcome
from mininet_topos.testbed import probe
from mininet_topos.testbed.agents import Agents

book = Book()
BUCKETS = "token buckets of the CPU port, by port and class"
_LONG_S, _SHORT_S = 5.0, 0.5
_BATCH = 64
_BIRDS, _APART = "%H:%M:%S.%f", timedelta(seconds=0.1)


def _flood(ground: Ground, sender: str, frames: Sequence[bytes], seconds: float) -> int:
    """Send frames as fast as one thread can; returns how many a second."""
    own, _ = ground.link(sender)

    def work() -> int:
        sent, begun = 0, time.monotonic()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((own.name, 0))
            raw.setsockopt(socket.SOL_PACKET if hasattr(socket, "SOL_PACKET") else 263, 20, 1)
            while time.monotonic() < begun + seconds:
                for _ in range(_BATCH):
                    try:
                        raw.send(frames[sent % len(frames)])
                    except OSError:
                        continue
                    sent += 1
        return int(sent / (time.monotonic() - begun))

    return ground.inside(sender, work)


def _cpu(ground: Ground, packets: Sequence[Packet], **ethernet: str) -> Outcome:
    """Flood the CPU of a client's ToR; its sessions must stay, and its neighbours' with it."""
    client = ground.some(Kind.CLIENT)
    tor = ground.link(client.name)[1].node

    async def look(agents: Agents) -> tuple[dict[str, tuple[bool, str]], dict[str, tuple[int, int]]]:
        status, punted = await asyncio.gather(
            agents.muxes[tor].status(), agents.muxes[tor].call("GET", "/v1/cpu", list[Punted])
        )
        sessions = {s.name: (s.established, s.since) for s in status.sessions}
        totals: dict[str, tuple[int, int]] = {}
        for one in punted:
            passed, dropped = totals.get(one.kind, (0, 0))
            totals[one.kind] = passed + one.passed, dropped + one.dropped
        return sessions, totals

    sessions, counts = ground.operate(look)
    frames = [ground.frame(client.name, packet, **ethernet) for packet in packets]
    rate = _flood(ground, client.name, frames, _SHORT_S if ground.small else _LONG_S)
    after, now = ground.operate(look)
    if _changed(sessions, after):
        after, now = ground.operate(look)  # one that has ended has another beginning for good
    risen = {
        kind: (now[kind][0] - counts[kind][0], now[kind][1] - counts[kind][1])
        for kind in now
        if now[kind][1] > counts[kind][1]
    }
    seen = ", ".join(
        f"{kind}: {passed} passed, {dropped} dropped" for kind, (passed, dropped) in risen.items()
    )
    ended = [f"{name} ({sessions[name]}, now {after[name]})" for name in _changed(sessions, after)]
    wrong = f"sessions with {', '.join(ended)} ended" if ended else ground.serves()
    return Outcome(bool(wrong), wrong or f"{rate:,} packets/s; {seen}; no session ended")


def _changed(before: Mapping[str, tuple[bool, str]], after: Mapping[str, tuple[bool, str]]) -> list[str]:
    """Return the sessions that ended, or began anew."""
    return [
        name
        for name, (established, since) in before.items()
        if (now := after.get(name)) is None or now[0] != established or not _same(now[1], since)
    ]


def _same(moment: str, other: str) -> bool:
    """Whether two times told by BIRD are one: it tells each anew, give or take a millisecond."""
    if moment == other:
        return True
    try:
        apart = datetime.strptime(moment, _BIRDS) - datetime.strptime(other, _BIRDS)
    except ValueError:
        return False
    return abs(apart) < _APART


def _tor(ground: Ground) -> tuple[IPv4Address, IPv4Address, IPv4Address]:
    client = ground.some(Kind.CLIENT)
    far = ground.link(client.name)[1]
    loopback = ground.nodes[far.node].loopback
    assert loopback is not None
    return client.address, far.address.ip, loopback


@book.add("cpu-flood-bgp", "a client floods a ToR's address with BGP's SYNs", "the CPU's filter")
def _(ground: Ground) -> Outcome:
    client, _, loopback = _tor(ground)
    return _cpu(
        ground, [IP(src=str(client), dst=str(loopback)) / TCP(sport=p, dport=179) for p in range(1024, 1088)]
    )


@book.add("cpu-flood-bfd", "a client floods a ToR's address with BFD", "the CPU's filter")
def _(ground: Ground) -> Outcome:
    client, gateway, _ = _tor(ground)
    packet = IP(src=str(client), dst=str(gateway), ttl=255) / UDP(sport=50_000, dport=3784) / Raw(bytes(24))
    return _cpu(ground, [packet])


@book.add("cpu-flood-ping", "a client floods a ToR's address with pings", BUCKETS)
def _(ground: Ground) -> Outcome:
    client, _, loopback = _tor(ground)
    return _cpu(ground, [IP(src=str(client), dst=str(loopback)) / ICMP(id=7) / Raw(bytes(56))])


@book.add("cpu-flood-arp", "a client floods its ToR with ARP", BUCKETS)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    own, far = ground.link(client.name)
    asked = ARP(op=1, hwsrc=own.mac, psrc=str(own.address.ip), pdst=str(far.address.ip))
    return _cpu(ground, [asked], dst="ff:ff:ff:ff:ff:ff")


@book.add(
    "ttl-flood", "a client has a switch answer packets at the end of their TTL", "ICMP errors are metered"
)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    there = ground.server_of(ground.vip.spec.dips[0].address).address
    packet = IP(src=str(client.address), dst=str(there), ttl=1) / UDP(sport=1000, dport=9)
    seconds = _SHORT_S if ground.small else _LONG_S
    with ground.watching(client.name) as sniffer:
        rate = _flood(ground, client.name, [ground.frame(client.name, packet)], seconds)
        sniffer.saw(b"")
        answers = sniffer.frames
    allowed = 50 + 100 * seconds + 300
    return Outcome(answers > allowed, f"{rate:,} packets/s; {answers} answers in {seconds} s")


def _at_vip(ground: Ground, make: Callable[[random.Random], Packet]) -> Outcome:
    """Flood a VIP; a connection that was there before goes on, and new ones are taken."""
    client, user = ground.some(Kind.CLIENT), ground.outside
    seconds = _SHORT_S if ground.small else _LONG_S
    rng = random.Random(7)
    frames = [ground.frame(client.name, make(rng)) for _ in range(400)]

    async def use() -> str:
        reader, writer = await asyncio.open_connection(
            str(ground.vip.address), 80, local_addr=(str(user.address), 0)
        )

        async def ask() -> bytes:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(5.0):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                body = await reader.readexactly(length)
            return body.split(b'"dip": "')[1].split(b'"')[0]

        try:
            dip = await ask()
            began.set_result(None)
            flooded = await asyncio.to_thread(ended.result)
            for _ in range(3):
                if await ask() != dip:
                    return "its connection has moved"
            new = await probe.http(user.address, ground.vip.address, 80, 5.0)
            return new.error or f"! {flooded:,} packets/s; the connection goes on, and new ones are taken"
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            return f"its connection broke: {type(error).__name__} {error}"
        finally:
            writer.close()

    from concurrent.futures import Future

    began: Future[None] = Future()
    ended: Future[int] = Future()
    with ThreadPoolExecutor(1) as pool:
        using = pool.submit(ground.act, user.name, use)
        try:
            began.result(timeout=10.0)
            ended.set_result(_flood(ground, client.name, frames, seconds))
        except BaseException as error:
            ended.set_exception(error)
            raise
        said = using.result(timeout=60.0)
    return Outcome(not said.startswith("!"), said.removeprefix("! "))


def _source(ground: Ground, rng: random.Random) -> str:
    """Return an address that the client may have as source: its block's."""
    prefix = ground.some(Kind.CLIENT).prefix
    assert prefix is not None
    return str(prefix[rng.randrange(prefix.num_addresses)])


@book.add(
    "syn-flood", "a client sends SYNs to a VIP from ports and addresses without end", "probation of flows"
)
def _(ground: Ground) -> Outcome:
    def make(rng: random.Random) -> Packet:
        ports = TCP(sport=rng.randrange(1024, 65536), dport=80, flags="S", seq=rng.getrandbits(32))
        return IP(src=_source(ground, rng), dst=str(ground.vip.address)) / ports

    return _at_vip(ground, make)


@book.add("ack-flood", "a client sends ACKs of connections that are not there to a VIP", "probation of flows")
def _(ground: Ground) -> Outcome:
    def make(rng: random.Random) -> Packet:
        ports = TCP(sport=rng.randrange(1024, 65536), dport=80, flags="A", ack=rng.getrandbits(32))
        return IP(src=_source(ground, rng), dst=str(ground.vip.address)) / ports

    return _at_vip(ground, make)


@book.add("udp-flood", "a client sends datagrams of new flows without end to a VIP", "probation of flows")
def _(ground: Ground) -> Outcome:
    def make(rng: random.Random) -> Packet:
        ports = UDP(sport=rng.randrange(1024, 65536), dport=9)
        return IP(src=_source(ground, rng), dst=str(ground.vip.address)) / ports / Raw(bytes(18))

    return _at_vip(ground, make)
