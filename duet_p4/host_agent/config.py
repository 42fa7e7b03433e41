"""The host agent's configuration: one JSON file."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Literal

from pydantic import Field

from duet_p4.agent import AgentConfig
from duet_p4.flows.service import FlowConfig
from duet_p4.identity import Role
from duet_p4.model import FlowKey, Model

_ICMP, _TCP = 1, 6


class SnatTimeouts(Model):
    """Seconds after which an idle outgoing connection is forgotten.

    RFC 5382 and 7857 (TCP), 4787 (UDP) and 5508 (ICMP) have these at least: `tcp` while a connection is
    open, and still while it is half-closed; `transitory` before its first answer and after its end, but
    `pressed` after its end where ports run out: as long as the far end keeps it in TIME_WAIT.
    """

    tcp: int = Field(default=7440, ge=1)
    transitory: int = Field(default=240, ge=1)
    pressed: int = Field(default=60, ge=1)
    udp: int = Field(default=300, ge=1)
    icmp: int = Field(default=60, ge=1)

    def limit(self, protocol: int, *, answered: bool, closed: bool, pressed: bool) -> int:
        """Return how long a connection may be idle."""
        if protocol == _ICMP:
            return self.icmp
        if protocol != _TCP:
            return self.udp
        if closed:
            return min(self.pressed, self.transitory) if pressed else self.transitory
        return self.tcp if answered else self.transitory


class HostConfig(AgentConfig):
    """One server.

    `interfaces` are those that face the ToR. Destinations in `snat_exclude` are reached without SNAT. Tunnels
    are taken from `muxes` only. `flow_key` is the secret that all muxes hash flows with.
    Where `report_urls` name controllers, each change of a DIP's health is posted to one of them, and
    everything again every `report_interval_s`.
    """

    role = Role.SERVER

    interfaces: tuple[str, ...] = Field(min_length=1)
    xdp_mode: Literal["native", "skb"] = "native"
    flows: int = Field(default=65_536, ge=64, le=1 << 22)
    snat_connections: int = Field(default=65_536, ge=64, le=1 << 22)
    snat_exclude: tuple[IPv4Network, ...] = ()
    snat_timeouts: SnatTimeouts = SnatTimeouts()
    muxes: IPv4Network
    flow_key: FlowKey = 0
    flow_records: FlowConfig = FlowConfig()
    report_urls: tuple[str, ...] = ()
    report_interval_s: float = Field(default=10.0, ge=0.1)
