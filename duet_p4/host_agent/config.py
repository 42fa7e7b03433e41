"""The host agent's configuration: one JSON file."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

from pydantic import Field

from duet_p4.agent import AgentConfig
from duet_p4.model import Model


class SnatTimeouts(Model):
    """Seconds after which an idle outgoing connection is forgotten; `closing` is after FIN or RST."""

    tcp: int = Field(default=900, ge=1)
    closing: int = Field(default=30, ge=1)
    other: int = Field(default=60, ge=1)


class HostConfig(AgentConfig):
    """One server.

    `interfaces` are those that face the ToR. Destinations in `snat_exclude` are reached without SNAT.
    Where `report_url` is set, each change of a DIP's health is posted there, and
    everything again every `report_interval_s`.
    """

    interfaces: tuple[str, ...] = Field(min_length=1)
    xdp_mode: Literal["native", "skb"] = "native"
    flows: int = Field(default=16_384, ge=64, le=1 << 22)
    snat_connections: int = Field(default=16_384, ge=64, le=1 << 22)
    snat_exclude: tuple[IPv4Network, ...] = ()
    snat_timeouts: SnatTimeouts = SnatTimeouts()
    report_url: str | None = None
    report_ca: Path | None = None
    report_interval_s: float = Field(default=10.0, ge=0.1)
