"""Attacks with packets: tunnels, sources and addresses that their senders do not have."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from ipaddress import IPv4Address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from duet_p4.flow_hash import Flow, flow_hash
from mininet_topos import addresses
from mininet_topos.addresses import Kind
from mininet_topos.attacks.base import Book, Ground, Outcome
from mininet_topos.testbed import probe

book = Book()
GUARD = "tunnels from fabric ports only"
SOURCES = "sources of a port's prefixes only (RFC 3704)"
_AIMED = 64


def _inner(ground: Ground, source: IPv4Address | None = None) -> Packet:
    """Return a client's packet for a VIP, as a mux would put it into a tunnel."""
    client = source or ground.some(Kind.CLIENT).address
    return IP(src=str(client), dst=str(ground.vip.address)) / UDP(sport=1000, dport=7)


def _tunneled(ground: Ground, sender: str, source: object, target: IPv4Address) -> Packet:
    return IP(src=str(source), dst=str(target)) / _inner(ground)


def _dip(ground: Ground, not_at: str = "") -> tuple[IPv4Address, str]:
    """Return a DIP of the VIP, at another server than `not_at`, and its server."""
    for dip in ground.vip.spec.dips:
        server = ground.server_of(dip.address)
        if server.name != not_at:
            return dip.address, server.name
    raise ValueError(f"all DIPs of {ground.vip.address} are at {not_at}")


@book.add("tunnel-from-client", "a client tunnels to a DIP, past the mux and its rules", GUARD)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    dip, server = _dip(ground)
    return ground.smuggled(client.name, _tunneled(ground, client.name, client.address, dip), server)


@book.add("tunnel-from-server", "a server tunnels to another server's DIP", GUARD)
def _(ground: Ground) -> Outcome:
    thief = ground.some(Kind.SERVER)
    dip, server = _dip(ground, thief.name)
    return ground.smuggled(thief.name, _tunneled(ground, thief.name, thief.address, dip), server)


@book.add("tunnel-as-mux", "a server tunnels to a DIP with an SMux's address as source", GUARD)
def _(ground: Ground) -> Outcome:
    thief, smux = ground.some(Kind.SERVER), ground.some(Kind.SMUX)
    dip, server = _dip(ground, thief.name)
    return ground.smuggled(thief.name, _tunneled(ground, thief.name, smux.loopback, dip), server)


@book.add("tunnel-from-outside", "somebody outside tunnels to a DIP", GUARD)
def _(ground: Ground) -> Outcome:
    dip, server = _dip(ground)
    packet = _tunneled(ground, "outside", ground.outside.address, dip)
    return ground.smuggled("outside", packet, server, "core1")


@book.add(
    "tunnel-through-fabric", "a node on a fabric port that is no mux tunnels to a DIP", "muxes' addresses"
)
def _(ground: Ground) -> Outcome:
    """Not even a fabric port makes a tunnel good: its source must be a mux's."""
    smux = ground.some(Kind.SMUX)
    dip, server = _dip(ground)
    return ground.smuggled(smux.name, _tunneled(ground, smux.name, "100.200.1.1", dip), server)


@book.add("tip-laundering", "a client sends a tunnel to a TIP, to have it sent on as a mux's", GUARD)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    packet = _tunneled(ground, client.name, client.address, addresses.TIPS[1])
    return ground.smuggled(client.name, packet, _dip(ground)[1])


@book.add("tip-laundering-outside", "somebody outside sends a tunnel to a TIP", GUARD)
def _(ground: Ground) -> Outcome:
    packet = _tunneled(ground, "outside", ground.outside.address, addresses.TIPS[1])
    return ground.smuggled("outside", packet, _dip(ground)[1], "core1")


@book.add("fragment-laundering", "a client has the SMuxes balance a tunnel as if it were a fragment", GUARD)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    packet = _tunneled(ground, client.name, client.address, addresses.FRAGMENT_MUX)
    return ground.smuggled(client.name, packet, _dip(ground)[1])


@book.add("source-of-another-rack", "a client sends with an address of another rack", SOURCES)
def _(ground: Ground) -> Outcome:
    client, dip = ground.some(Kind.CLIENT), _dip(ground)
    packet = IP(src="100.1.2.250", dst=str(dip[0])) / UDP(sport=1000, dport=7)
    return ground.smuggled(client.name, packet, dip[1])


@book.add("source-of-a-neighbour", "a server sends with another server's address", SOURCES)
def _(ground: Ground) -> Outcome:
    thief = ground.some(Kind.SERVER)
    dip, server = _dip(ground, thief.name)
    other = ground.some(Kind.CLIENT)
    packet = IP(src=str(other.address), dst=str(dip)) / UDP(sport=1000, dport=7)
    return ground.smuggled(thief.name, packet, server)


@book.add("source-of-ours-from-outside", "somebody outside sends with a server's address", SOURCES)
def _(ground: Ground) -> Outcome:
    dip, server = _dip(ground)
    packet = IP(src=str(ground.some(Kind.CLIENT).address), dst=str(dip)) / UDP(sport=1000, dport=7)
    return ground.smuggled("outside", packet, server, "core1")


@book.add("source-of-a-vip-from-outside", "somebody outside answers as a VIP", SOURCES)
def _(ground: Ground) -> Outcome:
    dip, server = _dip(ground)
    packet = IP(src=str(ground.vip.address), dst=str(dip)) / UDP(sport=7, dport=7)
    return ground.smuggled("outside", packet, server, "core1")


@book.add("martians", "a client sends with sources that nobody has", SOURCES)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    dip, server = _dip(ground)
    seen = []
    for source in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"):
        packet = IP(src=source, dst=str(dip)) / UDP(sport=1000, dport=7)
        outcome = ground.smuggled(client.name, packet, server)
        seen.append(outcome.seen)
        if outcome.succeeded or ground.small:
            break
    return Outcome(outcome.succeeded, "; ".join(seen))


@book.add("martians-outside", "somebody outside sends with a loopback's address as source", SOURCES)
def _(ground: Ground) -> Outcome:
    dip, server = _dip(ground)
    packet = IP(src="127.0.0.1", dst=str(dip)) / UDP(sport=1000, dport=7)
    return ground.smuggled("outside", packet, server, "core1")


@book.add(
    "foreign-frame", "a client has a switch forward a frame for another Ethernet address", "own MAC only"
)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    dip, server = _dip(ground)
    packet = IP(src=str(client.address), dst=str(dip)) / UDP(sport=1000, dport=7)
    return ground.smuggled(client.name, packet, server, dst="02:d0:66:66:66:66")


@book.add("group-frame", "a client has a switch forward a broadcast frame", "own MAC only")
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    dip, server = _dip(ground)
    packet = IP(src=str(client.address), dst=str(dip)) / UDP(sport=1000, dport=7)
    return ground.smuggled(client.name, packet, server, dst="ff:ff:ff:ff:ff:ff")


@book.add("bad-quote", "an ICMP error about a VIP that quotes somebody else's packet", "quotes are checked")
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    quoted = IP(src="8.8.8.8", dst=str(client.address)) / UDP(sport=53, dport=1000)
    error = IP(src=str(client.address), dst=str(ground.vip.address)) / ICMP(type=3, code=4) / quoted
    return ground.smuggled(client.name, error, _dip(ground)[1])


@book.add("echo-storm", "a server sends as one VIP's echo port to another's", "UDP between VIPs is ended")
def _(ground: Ground) -> Outcome:
    """Each answer would be the next question: hundreds of packets for one."""
    server = _dip(ground)[1]
    vips = [record for record in ground.records if not record.spec.ports][:2]
    marker = os.urandom(12)
    one, other = vips[0].address, vips[-1].address
    before = ground.drops()
    with ground.watching(server) as sniffer:
        packet = IP(src=str(other), dst=str(one)) / UDP(sport=7, dport=7) / Raw(marker)
        ground.send(server, ground.frame(server, packet))
        client = ground.some(Kind.CLIENT)
        for _ in range(5):
            ground.act(client.name, lambda: probe.ping(client.address, ground.nodes[server].address, 2.0))
        sniffer.saw(marker)
        first = sniffer.frames
        ground.act(client.name, lambda: asyncio.sleep(0.2))
        sniffer.saw(marker)
        storm = sniffer.frames - first
    return Outcome(storm > 100, f"{storm} frames in 0.2 s afterwards; {ground.what_dropped(before)}")


@book.add("arp-spoofing", "a server claims another server's address at their ToR", "a /31 for each host")
def _(ground: Ground) -> Outcome:
    thief, victim = ground.some(Kind.SERVER), ground.some(Kind.SERVER, 1)
    own, _ = ground.link(thief.name)
    _, its_gateway = ground.link(victim.name)
    its = ground.link(victim.name)[0]
    lie = ARP(
        op=2, hwsrc=own.mac, psrc=str(its.address.ip), hwdst=its_gateway.mac, pdst=str(its_gateway.address.ip)
    )
    claim = ARP(op=1, hwsrc=own.mac, psrc=str(its.address.ip), pdst=str(its.address.ip))
    frames = [ground.frame(thief.name, lie)] * 5
    frames += [ground.frame(thief.name, claim, dst="ff:ff:ff:ff:ff:ff")] * 5
    before = ground.drops()
    ground.send(thief.name, *frames)
    client, marker = ground.some(Kind.CLIENT), os.urandom(12)
    with ground.watching(thief.name) as sniffer:
        packet = IP(src=str(client.address), dst=str(victim.address)) / UDP(sport=1000, dport=7) / Raw(marker)
        ground.send(client.name, ground.frame(client.name, packet))
        answer = ground.act(client.name, lambda: probe.ping(client.address, victim.address, 2.0))
        stolen = sniffer.saw(marker)
    wrong = answer.error or ""
    return Outcome(
        stolen or bool(wrong), f"{victim.name} gets its packets{wrong}; {ground.what_dropped(before)}"
    )


@book.add("hash-aiming", "a client picks the source ports that lead to one DIP", "a secret key in the hash")
def _(ground: Ground) -> Outcome:
    """It knows the slots, and the hash as it is published; only the key it does not know."""
    client = ground.some(Kind.CLIENT)
    group = ground.vip.layout.group
    assert group is not None
    aim = group.members[group.slots[0]]
    flows = [Flow(client.address, ground.vip.address, 6, port, 80) for port in range(20_000, 24_000)]
    aimed = [flow.source_port for flow in flows if group.member(flow_hash(flow, 0)) == aim][:_AIMED]

    async def ask() -> Counter[IPv4Address | None]:
        found = [
            await probe.http(client.address, ground.vip.address, 80, 3.0, source_port=port) for port in aimed
        ]
        return Counter(exchange.dip for exchange in found)

    hit = ground.act(client.name, ask)
    share = Counter(group.slots)[group.slots[0]] / len(group.slots)
    reached = hit[aim.address] / len(aimed)
    return Outcome(
        reached > 0.5 + share / 2 or None in hit,
        f"{reached:.0%} of {len(aimed)} flows reach the DIP aimed at; its share is {share:.0%}",
    )


@book.add(
    "unhealthy-by-request",
    "a client tells a DIP through its VIP to fail its checks",
    "only the server itself",
)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)

    async def post() -> bytes:
        reader, writer = await asyncio.open_connection(str(ground.vip.address), 80)
        writer.write(b"POST /fail HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    answer = ground.act(client.name, post)
    return Outcome(b" 200 " in answer[:20], f"answered {answer[:24]!r}")


@book.add(
    "land", "a client sends TCP from a VIP to the same VIP", "a server's packets leave with its own source"
)
def _(ground: Ground) -> Outcome:
    client = ground.some(Kind.CLIENT)
    vip = str(ground.vip.address)
    ground.send(
        client.name,
        *[ground.frame(client.name, IP(src=vip, dst=vip) / TCP(sport=80, dport=80, flags="S"))] * 20,
    )
    wrong = ground.serves()
    return Outcome(bool(wrong), wrong or "the VIP serves on")
