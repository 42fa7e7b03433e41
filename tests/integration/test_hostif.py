"""Host interfaces: packet_out headers come before what the stack sends, packet_in headers lead to it."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv4Interface

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from duet_p4 import netdev
from duet_p4.switch_agent.config import PortConfig
from duet_p4.switch_agent.hostif import CPU_ASIC, HostInterfaces, make_cpu_port
from tests.integration.netns import inside, ip, namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
PORTS = [
    PortConfig(
        number=number,
        interface=f"port{number}",
        mac=f"02:00:00:00:00:{octet:02x}",
        address=IPv4Interface(f"172.31.{octet}.0/31"),
        peer=IPv4Address(f"172.31.{octet}.1"),
        mtu=1600,
    )
    for octet, number in ((1, 1), (2, 300))
]
XDP_DROP, XDP_REDIRECT = 1, 4
ETHER_TYPE = 0x88B5  # For experiments (IEEE 802).
_ETH_P_ALL = 3


@pytest.fixture
def namespace() -> Iterator[str]:
    with namespaces("hif") as (space,), inside(space):
        for port in PORTS:
            ip(f"link add {port.interface} type veth peer name far{port.number}", space)
            ip(f"link set far{port.number} up", space)
        with IPRoute() as netlink:
            make_cpu_port(netlink)
        yield space


def raw(interface: str, protocol: int = _ETH_P_ALL) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    opened.bind((interface, protocol))
    opened.settimeout(5)
    return opened


def header(port: int) -> bytes:
    return (port << 7).to_bytes(2)


def frame(port: PortConfig) -> bytes:
    mac = bytes.fromhex(port.mac.replace(":", ""))
    return mac + b"\x02neigh" + ETHER_TYPE.to_bytes(2) + bytes(range(46))


def receive(opened: socket.socket, wanted: bytes) -> None:
    """Wait for a frame; the stack may have something to say of its own before it."""
    seen = []
    while wanted not in seen:
        try:
            seen.append(opened.recv(2000))
        except TimeoutError:
            pytest.fail(f"{wanted.hex()} does not arrive, but {[data.hex() for data in seen]}")


def test_frames_pass_both_ways_by_their_port(namespace: str) -> None:
    interfaces = HostInterfaces(PORTS)
    for port in PORTS:
        interfaces.set_carrier(port.number, True)
    with raw(CPU_ASIC) as asic:
        for port in PORTS:
            with raw(port.hostif, ETHER_TYPE) as stack:
                asic.send(header(port.number) + frame(port))
                receive(stack, frame(port))
                stack.send(frame(port))
                receive(asic, header(port.number) + frame(port))
    interfaces.close()
    assert "hif" not in ip("-br link", namespace)


def test_the_stack_gets_what_it_has_a_use_for_from_where_it_may_come(namespace: str) -> None:
    speaker, other = PORTS
    own, peer = str(speaker.address.ip), str(speaker.peer)
    stranger = str(other.peer)

    def ip_frame(packet: Packet) -> bytes:
        return bytes(Ether(dst=speaker.mac, src="02:00:00:00:00:99") / packet)

    open_bgp = TCP(sport=40000, dport=179, flags="S")
    wanted = {
        "BGP": ip_frame(IP(src=peer, dst=own, ttl=255) / open_bgp),
        "BGP that was opened here": ip_frame(IP(src=peer, dst=own, ttl=255) / TCP(sport=179, dport=40000)),
        "BFD": ip_frame(IP(src=peer, dst=own, ttl=255) / UDP(sport=50000, dport=3784) / Raw(bytes(24))),
        "ping": ip_frame(IP(src="192.0.2.1", dst=own) / ICMP()),
        "ARP": bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=peer, pdst=own)),
    }
    refused = {
        "BGP through a router": ip_frame(IP(src=peer, dst=own, ttl=254) / open_bgp),
        "BGP of somebody else": ip_frame(IP(src=stranger, dst=own, ttl=255) / open_bgp),
        "BFD of somebody else": ip_frame(IP(src=stranger, dst=own, ttl=255) / UDP(dport=3784)),
        "SSH": ip_frame(IP(src=peer, dst=own, ttl=255) / TCP(dport=22)),
        "P4Runtime": ip_frame(IP(src=peer, dst=own, ttl=255) / TCP(dport=9559)),
        "a fragment": ip_frame(IP(src=peer, dst=own, ttl=255, frag=3) / Raw(bytes(64))),
        "options": ip_frame(IP(src=peer, dst=own, ttl=255, options=[IPOption_RR()]) / open_bgp),
        "cut short": ip_frame(IP(src=peer, dst=own, ttl=255) / open_bgp)[: 14 + 20 + 10],
        "OSPF": ip_frame(IP(src=peer, dst=own, ttl=255, proto=89) / Raw(bytes(40))),
    }
    with closing(HostInterfaces(PORTS, {speaker.interface})) as interfaces:
        program = interfaces.program

        def verdict(port: PortConfig, frame: bytes) -> int:
            return program.test_run(header(port.number) + frame).retval

        passed = {name for name, frame in wanted.items() if verdict(speaker, frame) == XDP_REDIRECT}
        assert passed == wanted.keys()
        assert not [name for name, frame in refused.items() if verdict(speaker, frame) != XDP_DROP]
        assert [verdict(other, wanted[name]) for name in ("BGP", "BFD", "ping", "ARP")] == [1, 1, 4, 4]
        counts = {(one.port, one.kind): (one.passed, one.dropped) for one in interfaces.punted()}
        assert counts["hif1", "unwanted"] == (0, len(refused))
        assert counts["hif1", "bgp"] == (2, 0) and counts["hif300", "unwanted"] == (0, 2)


def test_a_flood_of_one_class_at_one_port_takes_nothing_from_others(namespace: str) -> None:
    speaker = PORTS[0]
    arp = bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=str(speaker.peer), pdst=str(speaker.address.ip)))
    bfd = bytes(
        Ether(dst=speaker.mac)
        / IP(src=str(speaker.peer), dst=str(speaker.address.ip), ttl=255)
        / UDP(sport=50000, dport=3784)
    )
    with closing(HostInterfaces(PORTS, {speaker.interface})) as interfaces:
        begun = time.monotonic()
        for _ in range(3000):
            interfaces.program.test_run(header(1) + arp)
        lasted = time.monotonic() - begun
        assert interfaces.program.test_run(header(1) + bfd).retval == XDP_REDIRECT
        assert interfaces.program.test_run(header(300) + arp).retval == XDP_REDIRECT
        (flooded,) = [one for one in interfaces.punted() if (one.port, one.kind) == ("hif1", "arp")]
        assert flooded.passed + flooded.dropped == 3000
        assert 50 <= flooded.passed <= 51 + 100 * lasted, f"{flooded} in {lasted:.3f} s"


def test_an_echo_that_is_back_is_noted_and_goes_no_further(namespace: str) -> None:
    speaker, other = PORTS
    own = str(speaker.address.ip)

    def echo(token: int, ttl: int = 254, port: int = 3785) -> bytes:
        packet = IP(src="172.30.0.1", dst=own, ttl=ttl) / UDP(sport=3785, dport=port, chksum=0)
        return bytes(Ether(dst=speaker.mac) / packet / Raw(token.to_bytes(8, "little")))

    with closing(HostInterfaces(PORTS, {speaker.interface})) as interfaces:
        for frame in (echo(1), echo(2**63 + 7)):
            assert interfaces.program.test_run(header(1) + frame).retval == XDP_DROP
        assert (interfaces.echoes[1], interfaces.echoes[300]) == (2**63 + 7, 0)
        assert not any(one.passed or one.dropped for one in interfaces.punted()), (
            "it is no packet to the stack"
        )
        for frame in (echo(3, ttl=255), echo(3, ttl=253), echo(3, port=3784), echo(3)[:-1]):
            interfaces.program.test_run(header(1) + frame)
        assert interfaces.echoes[1] == 2**63 + 7
        with raw(CPU_ASIC) as asic:
            interfaces.send(other.number, echo(4))
            receive(asic, header(other.number) + echo(4))


def test_what_an_agent_left_half_made_is_finished_and_what_it_made_is_left_alone(namespace: str) -> None:
    ip("link add hif1 type veth peer name hif1-asic", namespace)
    HostInterfaces(PORTS)
    first = ip("-br link show hif1", namespace).split()[2], ip("-4 -br addr show hif1", namespace).split()[2]
    assert first == ("02:00:00:00:00:01", "172.31.1.0/31")
    index = netdev.index("hif1")
    again = HostInterfaces(PORTS)
    assert netdev.index("hif1") == index
    for up in (True, False):
        again.set_carrier(1, up)
        deadline = time.monotonic() + 5
        while netdev.is_up("hif1") != up:
            assert time.monotonic() < deadline, f"the carrier of hif1 does not become {up}"
            time.sleep(0.001)
    with raw(CPU_ASIC) as asic:
        again.set_carrier(1, True)
        with raw("hif1", ETHER_TYPE) as stack:
            asic.send(header(1) + frame(PORTS[0]))
            receive(stack, frame(PORTS[0]))
