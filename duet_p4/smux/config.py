"""The SMux agent's configuration: one JSON file."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from pydantic import Field

from duet_p4.agent import AgentConfig
from duet_p4.bird.config import BirdConfig
from duet_p4.flows.service import FlowConfig
from duet_p4.identity import Role
from duet_p4.model import FlowKey, Model
from duet_p4.smux.datapath import Sizes, Timeouts


class TableSizes(Model):
    """Entries per table; `services` counts VIPs, ports of VIPs, and TIPs."""

    services: int = Field(default=Sizes.services, ge=1, le=1 << 20)
    slots: int = Field(default=Sizes.slots, ge=1, le=1 << 24)
    backends: int = Field(default=Sizes.backends, ge=1, le=1 << 20)
    connections: int = Field(default=Sizes.connections, ge=1, le=1 << 24)
    pinned: int = Field(default=Sizes.pinned, ge=1, le=1 << 20)

    def sizes(self) -> Sizes:
        """Return the same for a data path."""
        return Sizes(**self.model_dump())


class FlowTimeouts(Model):
    """Seconds after which the connection table forgets an idle flow."""

    tcp_s: float = Field(default=Timeouts.tcp_s, gt=0, le=86_400)
    other_s: float = Field(default=Timeouts.other_s, gt=0, le=86_400)

    def timeouts(self) -> Timeouts:
        """Return the same for a data path."""
        return Timeouts(**self.model_dump())


class SmuxConfig(AgentConfig):
    """One SMux.

    `address` is its own: the outer source of what it sends and the BGP router id. `announced` are the
    prefixes that cover all VIPs and TIPs. `fragment_mux` is an address of all SMuxes: HMuxes tunnel
    fragments of packets to VIPs there. `bird` has no originated prefixes: the agent adds `address` and,
    once what it holds is confirmed, or after `hold_s` seconds, `announced` and `fragment_mux`. `datapath`
    is `xdp`, or `scapy` to read along. Tunnels are taken from `muxes` only. `flow_key` is the secret that all
    muxes hash flows with.

    Where `report_urls` name controllers, the DIPs of VIPs that have a check are checked through the tunnel,
    each change of a verdict is posted to one of them, and all verdicts again every `report_interval_s`.
    """

    role = Role.SMUX

    address: IPv4Address
    uplinks: tuple[str, ...] = Field(min_length=1)
    announced: tuple[IPv4Network, ...] = Field(min_length=1)
    fragment_mux: IPv4Address | None = None
    bird: BirdConfig
    datapath: Literal["xdp", "scapy"] = "xdp"
    hold_s: float = Field(default=30.0, ge=0, le=3600)
    muxes: IPv4Network
    flow_key: FlowKey = 0
    flow_records: FlowConfig = FlowConfig()
    report_urls: tuple[str, ...] = ()
    report_interval_s: float = Field(default=2.0, ge=0.1)
    xdp_mode: Literal["native", "skb"] = "native"
    timeouts: FlowTimeouts = FlowTimeouts()
    tables: TableSizes = TableSizes()
