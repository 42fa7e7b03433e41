"""What a host agent holds and answers.

A VIP as one server holds it says which of its DIPs serve it, how they are checked, how they do SNAT.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from pydantic import Field, model_validator

from duet_p4.api.changes import MAX_ENTRIES, Change, Changed, check_once
from duet_p4.api.digest import Digest
from duet_p4.api.health import HealthReport
from duet_p4.model import Dip, Group, HealthCheck, Model, MuxTip, MuxVip, Port, Protocol, Vip
from duet_p4.traffic import Exit

SNAT_FIRST_PORT = 32_768
MAX_DIPS = 16
"""DIPs of one VIP behind one tunnel end at most."""


class HostPort(Model):
    """A port of a VIP that a DIP serves."""

    protocol: Protocol
    port: Port


class HostDip(Model):
    """A DIP on this server.

    `host` is where muxes tunnel to, if not to the DIP itself (virtualized clusters). Without `ports`
    the DIP serves the VIP's default group.
    """

    address: IPv4Address
    host: IPv4Address | None = None
    ports: tuple[HostPort, ...] = ()

    @property
    def tunnel_end(self) -> IPv4Address:
        """The outer destination of packets to this DIP."""
        return self.host or self.address


class Snat(Model):
    """Outgoing connections of the VIP's DIPs leave with the VIP as source.

    The source port is taken from `first_port` to `last_port` such that the return flow hashes to a slot
    of the very DIP, so `group` (and `tips`, where its members are TIPs) are the VIP's as muxes hold it.
    """

    group: Group
    tips: tuple[MuxTip, ...] = ()
    first_port: Port = SNAT_FIRST_PORT
    last_port: Port = 65_535

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.first_port > self.last_port:
            raise ValueError(f"SNAT ports {self.first_port} to {self.last_port} are no range")
        return self


class HostVip(Model):
    """A VIP as a server holds it."""

    address: IPv4Address
    dips: tuple[HostDip, ...] = Field(min_length=1)
    health: HealthCheck | None = None
    snat: Snat | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: set[IPv4Address] = set()
        for dip in self.dips:
            if dip.address in seen:
                raise ValueError(f"VIP {self.address} states DIP {dip.address} twice")
            if dip.address == self.address:
                raise ValueError(f"VIP {self.address} is its own DIP")
            seen.add(dip.address)
        for end, count in Counter(dip.tunnel_end for dip in self.dips).items():
            if count > MAX_DIPS:
                raise ValueError(f"VIP {self.address} has {count} DIPs behind {end}, more than {MAX_DIPS}")
        return self

    @classmethod
    def spread(
        cls, vip: Vip, mux: MuxVip, tips: Iterable[MuxTip], server_of: Callable[[Dip], str | None]
    ) -> dict[str, Self]:
        """Return what each server needs of a VIP, by the name that `server_of` gives for its DIPs.

        DIPs without a server are left out. `mux` and `tips` are the VIP as muxes hold it; they matter
        for SNAT only.
        """
        snat = None
        if vip.snat and mux.group is not None:
            members = {member.address for member in mux.group.members}
            snat = Snat(group=mux.group, tips=tuple(tip for tip in tips if tip.address in members))
        default = {dip.address for dip in vip.dips} if vip.ports else set()
        ports: dict[IPv4Address, list[HostPort]] = {}
        for group in vip.ports:
            port = HostPort(protocol=group.protocol, port=group.port)
            for dip in group.dips:
                if dip.address not in default:
                    ports.setdefault(dip.address, []).append(port)
        shares: dict[str, dict[IPv4Address, HostDip]] = {}
        for dip in vip.all_dips():
            server = server_of(dip)
            if server is not None:
                held = HostDip(address=dip.address, host=dip.host, ports=tuple(ports.get(dip.address, ())))
                shares.setdefault(server, {})[dip.address] = held
        return {
            server: cls(address=vip.address, dips=tuple(dips.values()), health=vip.health, snat=snat)
            for server, dips in shares.items()
        }


class LiveFlow(Model):
    """A connection that a DIP has through a VIP. `source` is the client, the ports are as the VIP's."""

    protocol: int = Field(ge=0, le=255)
    source: IPv4Address
    source_port: int = Field(ge=0, le=65535)
    destination_port: int = Field(ge=0, le=65535)
    dip: IPv4Address


@dataclass(frozen=True)
class Meter:
    """Packets and bytes of a VIP on one DIP, tunnel header not counted, Ethernet header included."""

    vip: IPv4Address
    dip: IPv4Address
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


@dataclass(frozen=True)
class Source:
    """What a VIP's DIP received from clients whose addresses share their first 24 bits."""

    vip: IPv4Address
    dip: IPv4Address
    source: IPv4Address
    packets: int
    bytes: int


class HostChanges(Model):
    """Changes of many VIPs, deletions first; one that fails stops no other."""

    delete: tuple[IPv4Address, ...] = Field(default=(), max_length=MAX_ENTRIES)
    put: tuple[HostVip, ...] = Field(default=(), max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_once("delete", self.delete)
        check_once("put", [vip.address for vip in self.put])
        return self


class HostState(Model):
    """Every VIP that a server is to serve."""

    vips: tuple[HostVip, ...] = Field(default=(), max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_once("state", [vip.address for vip in self.vips])
        return self


class HostStatus(Model):
    """A host agent at a glance."""

    name: str
    uptime_s: float
    vips: int
    interfaces: tuple[str, ...]
    snat_connections: int
    exits: tuple[Exit, ...]
    writes: int
    synced: bool = False
    health: str = "ready"


class HostService(typing.Protocol):
    """What a host agent does for REST; changes behave as those of `MuxService` do."""

    async def put(self, entry: HostVip) -> Change:
        """Serve a VIP as stated."""

    async def delete(self, address: IPv4Address) -> Change:
        """Stop to serve a VIP."""

    async def change(self, changes: HostChanges) -> Changed:
        """Carry out many changes."""

    async def become(self, wanted: HostState) -> Changed:
        """Serve just what is wanted; what is right already is not written."""

    async def confirm(self, digest: str) -> None:
        """Be told that what is held is what should be. Raises ConflictError where it is not."""

    def digest(self) -> Digest:
        """Return what is held, in short."""

    def vips(self) -> list[HostVip]:
        """Return every VIP, ordered by address."""

    def vip(self, address: IPv4Address) -> HostVip:
        """Return one VIP. Raises UnknownError."""

    def live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        """Return the flows that DIPs of this server have through a VIP, SNAT's too."""

    def health(self) -> HealthReport:
        """Return the verdict of every check."""

    def meters(self) -> list[Meter]:
        """Return packets and bytes per VIP and DIP, both ways."""

    def sources(self) -> list[Source]:
        """Return packets and bytes received per VIP, DIP and /24 of clients."""

    def status(self) -> HostStatus:
        """Return the agent at a glance."""
