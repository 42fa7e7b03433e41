"""A VIP as one server holds it: which of its DIPs serve it, how they are checked, how they do SNAT."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Self

from pydantic import Field, model_validator

from duet_p4.model import Dip, Group, HealthCheck, Model, MuxTip, MuxVip, Port, Protocol, Vip

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
        for end in {dip.tunnel_end for dip in self.dips}:
            behind = [dip for dip in self.dips if dip.tunnel_end == end]
            if len(behind) > MAX_DIPS:
                raise ValueError(
                    f"VIP {self.address} has {len(behind)} DIPs behind {end}, more than {MAX_DIPS}"
                )
        return self

    @classmethod
    def of(
        cls, vip: Vip, mux: MuxVip, tips: Iterable[MuxTip], is_local: Callable[[Dip], bool]
    ) -> Self | None:
        """Return what a server needs of a VIP; None where none of its DIPs `is_local` there.

        `mux` and `tips` are the VIP as muxes hold it; they matter for SNAT only.
        """
        ports: dict[IPv4Address, list[HostPort]] = {}
        local = {dip.address: dip for dip in vip.all_dips() if is_local(dip)}
        default = {dip.address for dip in vip.dips}
        for group in vip.ports:
            for dip in group.dips:
                if dip.address in local and dip.address not in default:
                    ports.setdefault(dip.address, []).append(
                        HostPort(protocol=group.protocol, port=group.port)
                    )
        if not local:
            return None
        snat = None
        if vip.snat and mux.group is not None:
            members = {member.address for member in mux.group.members}
            snat = Snat(group=mux.group, tips=tuple(tip for tip in tips if tip.address in members))
        return cls(
            address=vip.address,
            dips=tuple(
                HostDip(address=dip.address, host=dip.host, ports=tuple(ports.get(dip.address, ())))
                for dip in local.values()
            ),
            health=vip.health,
            snat=snat,
        )


class LiveFlow(Model):
    """A connection that a DIP has through a VIP. `source` is the client, the ports are as the VIP's."""

    protocol: int = Field(ge=0, le=255)
    source: IPv4Address
    source_port: int = Field(ge=0, le=65535)
    destination_port: int = Field(ge=0, le=65535)
    dip: IPv4Address
