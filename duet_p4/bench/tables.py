"""What is in the tables while they are measured: one VIP, or as much as fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from finsy import P4TableEntry

from duet_p4.bench.switches import IN_PORT, OUT_PORT
from duet_p4.hmux import entries, pipeline

FIRST_VIP = int(IPv4Address("10.0.0.0"))
FIRST_DIP = int(IPv4Address("100.0.0.0"))
FIRST_ROUTE = int(IPv4Address("101.0.0.0"))
DIPS_PER_VIP = 2
SLOTS_PER_VIP = 16
LOOPBACK = IPv4Address("172.30.0.1")
SOURCE_MAC, DESTINATION_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
MTU = 1600
GROUPS = (1, 2)
"""Of next hops: both lead out of the line."""


@dataclass(frozen=True, slots=True)
class Fill:
    """How many entries of each kind."""

    vips: int
    slots: int
    tunnels: int
    routes: int

    @classmethod
    def one(cls) -> Fill:
        """One VIP with two DIPs."""
        return cls(vips=1, slots=SLOTS_PER_VIP, tunnels=DIPS_PER_VIP, routes=1)

    @classmethod
    def full(cls) -> Fill:
        """Every table as full as P4Info says."""
        sizes = pipeline.sizes()
        return cls(
            vips=sizes["host_table"],
            slots=sizes["ecmp_table"],
            tunnels=sizes["tunneling_table"],
            routes=sizes["route_table"],
        )

    def addresses(self) -> list[int]:
        """Return the VIPs, as traffic is to be sent to them."""
        return [FIRST_VIP + number for number in range(self.vips)]

    def everything(self) -> Iterator[P4TableEntry]:
        """Yield all entries, each after those that it refers to."""
        yield from self.all_but_hosts()
        yield from self.hosts()

    def all_but_hosts(self) -> Iterator[P4TableEntry]:
        """Yield the same without VIPs."""
        yield from self.base()
        yield from self.routes_to(1)
        yield from self.tunnels_to_dips()
        yield from self.slots_of_tunnels()

    def base(self) -> Iterator[P4TableEntry]:
        """Yield the configuration, and the groups of next hops 1 and 2, which lead out of the line."""
        yield entries.configuration(LOOPBACK, 0x5EED)
        yield entries.port(IN_PORT, SOURCE_MAC)
        yield entries.nexthop(1, OUT_PORT, SOURCE_MAC, DESTINATION_MAC, MTU)
        yield entries.nexthop_slot(0, 1)
        for number in GROUPS:
            yield entries.nexthop_group(number, 0, 1)

    def routes_to(self, group: int) -> Iterator[P4TableEntry]:
        """Yield the routes, those to the DIPs among them.

        A full table has a /32 for each DIP, as the longest prefix costs the most, and /32s beside.
        """
        if self.routes <= self.tunnels:
            yield entries.route(IPv4Network((FIRST_DIP, 8)), group)
            return
        for number in range(self.tunnels):
            yield entries.route(IPv4Network((FIRST_DIP + number, 32)), group)
        for number in range(self.routes - self.tunnels):
            yield entries.route(IPv4Network((FIRST_ROUTE + number, 32)), group)

    def tunnels_to_dips(self) -> Iterator[P4TableEntry]:
        """Yield the tunnels."""
        for number in range(self.tunnels):
            yield entries.tunnel(number, IPv4Address(FIRST_DIP + number))

    def slots_of_tunnels(self) -> Iterator[P4TableEntry]:
        """Yield the slots."""
        for number in range(self.slots):
            yield entries.slot(number, number % self.tunnels)

    def hosts(self) -> Iterator[P4TableEntry]:
        """Yield the VIPs, which share the slots among them."""
        groups = self.slots // SLOTS_PER_VIP
        for number in range(self.vips):
            first = number % groups * SLOTS_PER_VIP
            yield entries.vip(IPv4Address(FIRST_VIP + number), first, SLOTS_PER_VIP)
