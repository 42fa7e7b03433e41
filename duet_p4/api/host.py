"""What a host agent holds and answers.

A VIP as one server holds it says which of its DIPs serve it, how they are checked, how they do SNAT.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from pydantic import Field, model_validator

from duet_p4.api.changes import MAX_ENTRIES, Change, Changed, addresses_text, check_once
from duet_p4.api.digest import Digest, text_of
from duet_p4.api.health import HealthReport
from duet_p4.model import (
    VIP_CHECK,
    Dip,
    Group,
    HealthCheck,
    Model,
    MuxTip,
    MuxVip,
    PinnedFlow,
    Port,
    Protocol,
    Vip,
    port_name,
)
from duet_p4.traffic import Exit

SNAT_FIRST_PORT = 32_768
SNAT_MANY_FIRST_PORT = 1024
SNAT_MANY_DIPS = 32
"""A VIP with more DIPs gives their outgoing connections all ports that are not well known."""

MAX_DIPS = 16
"""DIPs of one VIP behind one tunnel end at most."""

ELSEWHERE = -1


class HostPort(Model):
    """A port of a VIP that a DIP serves."""

    protocol: Protocol
    port: Port


class PortCheck(HostPort):
    """How the DIPs of a port's group are checked for it."""

    what: HealthCheck

    @property
    def name(self) -> str:
        """How the group is called."""
        return port_name(self.protocol, self.port)


class HostDip(Model):
    """A DIP on this server.

    `host` is where muxes tunnel to, if not to the DIP itself (virtualized clusters). `default` says whether
    it serves the VIP's default group, `ports` which of its ports that have groups of their own, `checked`
    whether the VIP's own check asks it.
    """

    address: IPv4Address
    host: IPv4Address | None = None
    default: bool = True
    ports: tuple[HostPort, ...] = ()
    checked: bool = True

    @property
    def tunnel_end(self) -> IPv4Address:
        """The outer destination of packets to this DIP."""
        return self.host or self.address


class Share(Model):
    """A group's slots as one server sees them: who of its `members` owns each, or `ELSEWHERE`."""

    members: tuple[IPv4Address, ...]
    slots: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for slot in self.slots:
            if not ELSEWHERE <= slot < len(self.members):
                raise ValueError(f"slot names member {slot}, but there are {len(self.members)} members here")
        return self

    @classmethod
    def of(cls, group: Group, here: Collection[IPv4Address]) -> Self:
        """Return what a server that has the members `here` sees of a group."""
        members = tuple(member.address for member in group.members if member.address in here)
        numbers = {address: number for number, address in enumerate(members)}
        owners = [numbers.get(member.address, ELSEWHERE) for member in group.members]
        return cls(members=members, slots=tuple(owners[slot] for slot in group.slots))


class HostTip(Model):
    """A TIP by which a VIP leads to DIPs of this server."""

    address: IPv4Address
    share: Share


class HostGroup(Model):
    """The default group of a VIP, or a port's; members are DIPs of the server, and TIPs that lead to some."""

    protocol: Protocol | None = None
    port: Port | None = None
    share: Share

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.protocol is None) is not (self.port is None):
            raise ValueError("a group is of a protocol and a port, or of neither")
        return self

    @property
    def key(self) -> tuple[int, int]:
        """Protocol number and port; zeros for the default group."""
        return (self.protocol.number if self.protocol else 0, self.port or 0)


class Snat(Model):
    """Outgoing connections of the VIP's DIPs leave with the VIP as source.

    The source port is taken from `first_port` to `last_port`, but for those `reserved`, such that the return
    flow hashes to a slot of the very DIP. A DIP without slots connects out with its own address.
    """

    first_port: Port = SNAT_FIRST_PORT
    last_port: Port = 65_535
    reserved: tuple[HostPort, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.first_port > self.last_port:
            raise ValueError(f"SNAT ports {self.first_port} to {self.last_port} are no range")
        return self


class HostVip(Model):
    """A VIP as a server holds it.

    `groups` are there where the server has to know whose a slot is: where several DIPs share a tunnel
    end, and for SNAT; `tips` are those among their members; `pinned` flows are of DIPs that share an end.
    """

    address: IPv4Address
    dips: tuple[HostDip, ...] = Field(min_length=1)
    groups: tuple[HostGroup, ...] = ()
    tips: tuple[HostTip, ...] = ()
    pinned: tuple[PinnedFlow, ...] = ()
    health: HealthCheck | None = None
    port_checks: tuple[PortCheck, ...] = ()
    snat: Snat | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: set[IPv4Address] = set()
        for dip in self.dips:
            if dip.address in seen:
                raise ValueError(f"VIP {self.address} states DIP {dip.address} twice")
            if dip.address == self.address:
                raise ValueError(f"VIP {self.address} is its own DIP")
            if not dip.default and not dip.ports:
                raise ValueError(f"VIP {self.address} has nothing for DIP {dip.address} to serve")
            seen.add(dip.address)
        for end, count in Counter(dip.tunnel_end for dip in self.dips).items():
            if count > MAX_DIPS:
                raise ValueError(f"VIP {self.address} has {count} DIPs behind {end}, more than {MAX_DIPS}")
        known = seen | {tip.address for tip in self.tips}
        shares = [group.share for group in self.groups] + [tip.share for tip in self.tips]
        for member in (member for share in shares for member in share.members):
            if member not in known:
                raise ValueError(f"VIP {self.address} has slots of {member}, which is no DIP of it here")
        for flow in self.pinned:
            if flow.dip not in seen:
                raise ValueError(f"VIP {self.address} pins a flow to {flow.dip}, which is no DIP of it here")
        return self

    @classmethod
    def spread(
        cls, vip: Vip, mux: MuxVip, tips: Iterable[MuxTip], server_of: Callable[[Dip], str | None]
    ) -> dict[str, Self]:
        """Return what each server needs of a VIP, by the name that `server_of` gives for its DIPs.

        DIPs without a server are left out. `mux` and `tips` are the VIP as muxes hold it: a server with
        several DIPs behind one tunnel end picks among them by the same slots.
        """
        default = {dip.address for dip in vip.dips}
        ports: dict[IPv4Address, list[HostPort]] = {}
        for group in vip.ports:
            for dip in group.dips:
                ports.setdefault(dip.address, []).append(HostPort(protocol=group.protocol, port=group.port))
        held: dict[str, dict[IPv4Address, HostDip]] = {}
        asked = {dip.address for dip in vip.asked().get(VIP_CHECK, ())}
        for dip in vip.all_dips():
            server = server_of(dip)
            if server is not None:
                held.setdefault(server, {})[dip.address] = HostDip(
                    address=dip.address,
                    host=dip.host,
                    default=dip.address in default,
                    ports=tuple(ports.get(dip.address, ())),
                    checked=vip.health is None or dip.address in asked,
                )
        snat = None
        if vip.snat and mux.group is not None:
            snat = Snat(
                first_port=SNAT_FIRST_PORT if len(default) <= SNAT_MANY_DIPS else SNAT_MANY_FIRST_PORT,
                reserved=tuple(HostPort(protocol=group.protocol, port=group.port) for group in vip.ports),
            )
        known = tuple(tips)
        return {server: cls._of(vip, mux, known, tuple(dips.values()), snat) for server, dips in held.items()}

    @classmethod
    def _of(
        cls, vip: Vip, mux: MuxVip, tips: Iterable[MuxTip], dips: tuple[HostDip, ...], snat: Snat | None
    ) -> Self:
        here = {dip.address for dip in dips}
        ends = Counter(dip.tunnel_end for dip in dips)
        sharing = {dip.address for dip in dips if ends[dip.tunnel_end] > 1}
        wanted: list[tuple[Protocol | None, int | None, Group]] = []
        if mux.group is not None and (sharing or snat):
            wanted.append((None, None, mux.group))
        if sharing:
            wanted += [(entry.protocol, entry.port, entry.group) for entry in mux.ports]
        members = {member.address for *_, group in wanted for member in group.members}
        leading = tuple(
            HostTip(address=tip.address, share=Share.of(tip.group, here))
            for tip in tips
            if tip.address in members and any(member.address in here for member in tip.group.members)
        )
        near = here | {tip.address for tip in leading}
        return cls(
            address=vip.address,
            dips=dips,
            groups=tuple(
                HostGroup(protocol=protocol, port=port, share=Share.of(group, near))
                for protocol, port, group in wanted
                if protocol is None or any(member.address in near for member in group.members)
            ),
            tips=leading,
            pinned=tuple(flow for flow in mux.pinned if flow.dip in sharing),
            health=vip.health,
            port_checks=tuple(
                PortCheck(protocol=group.protocol, port=group.port, what=group.health)
                for group in vip.ports
                if group.health is not None and any(dip.address in here for dip in group.dips)
            ),
            snat=snat,
        )


class LiveFlow(Model):
    """A flow that a DIP has through a VIP. `source` is the client, the ports are as the VIP's.

    The DIP heard of the client `idle_s` ago. One flow may be told of by several DIPs: where a client's port
    was used again, a DIP that left meanwhile still has its end of the earlier connection.
    """

    protocol: int = Field(ge=0, le=255)
    source: IPv4Address
    source_port: int = Field(ge=0, le=65535)
    destination_port: int = Field(ge=0, le=65535)
    dip: IPv4Address
    idle_s: float = Field(default=0.0, ge=0)


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


def changes_text(delete: Iterable[IPv4Address], put: Iterable[HostVip]) -> bytes:
    """Return the JSON of `HostChanges`, of entries that were checked when they were made."""
    return b'{"delete":[%s],"put":[%s]}' % (addresses_text(delete), b",".join(map(text_of, put)))


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

    async def live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        """Return the flows that DIPs of this server have through a VIP, SNAT's too."""

    def health(self) -> HealthReport:
        """Return the verdict of every check."""

    def meters(self) -> list[Meter]:
        """Return packets and bytes per VIP and DIP, both ways."""

    def sources(self) -> list[Source]:
        """Return packets and bytes received per VIP, DIP and /24 of clients."""

    def status(self) -> HostStatus:
        """Return the agent at a glance."""
