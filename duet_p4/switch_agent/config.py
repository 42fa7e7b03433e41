"""The switch agent's configuration: one JSON file."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from duet_p4.agent import AgentConfig
from duet_p4.bird.config import BirdConfig
from duet_p4.flows.service import FlowConfig
from duet_p4.hmux.pipeline import CPU_PORT
from duet_p4.hmux.tofino import CHIPS
from duet_p4.hmux.tofino_config import Server
from duet_p4.identity import Role
from duet_p4.model import FlowKey, Model

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def _check_mac(text: str) -> str:
    if not _MAC.fullmatch(text.lower()):
        raise ValueError(f"{text!r} is no Ethernet address such as 02:00:00:00:00:01")
    if int(text[:2], 16) & 1:
        raise ValueError(f"{text} is a group's Ethernet address, not an interface's")
    return text.lower()


Mac = Annotated[str, AfterValidator(_check_mac)]


class PortConfig(Model):
    """A front-panel port: a link to another switch, an SMux or a host.

    The P4 switch calls it `number`; `interface` is the device that it drives, `mac` that device's
    address. `address` and `peer` are the two ends of the link's /31. `mtu` is in bytes of IP packet.
    `prefixes` hang behind a peer that does not speak BGP: a host's own block of addresses. `up` says
    that the port leads up the tree, from a ToR to an Agg or from an Agg to a Core.
    """

    number: int = Field(ge=1, lt=CPU_PORT)
    interface: str = Field(pattern=r"^[^\s\"/]{1,15}$")
    mac: Mac
    address: IPv4Interface
    peer: IPv4Address
    mtu: int = Field(ge=576, le=65535)
    prefixes: tuple[IPv4Network, ...] = ()
    up: bool = False
    outside: bool = False

    @property
    def hostif(self) -> str:
        """The name of the host interface that stands for the port in the switch's IP stack."""
        return f"hif{self.number}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.peer not in self.address.network or self.peer == self.address.ip:
            raise ValueError(
                f"port {self.number}: the peer {self.peer} is not at the other end of {self.address}"
            )
        return self


_PORTS_OF_A_PIPE = 128
_FRONT_PANEL = {"tofino1": range(64), "tofino2": range(8, 72)}
"""Which of a pipe's ports have cables; the others lead to CPUs, packet generators and back into the pipe."""


class TofinoConfig(Model):
    """A Tofino that runs hmux_tna.p4.

    `conf` is what the compiler wrote for bf_switchd, beside the program's binary, which `server` is pushed;
    `cpu_interface` is the network device of the chip's CPU port, as the driver's kernel module makes it.
    """

    conf: Path
    cpu_interface: str = Field(pattern=r"^[^\s\"/]{1,15}$")
    server: Server = Server.BF_SWITCHD


class P4Config(Model):
    """How the P4 switch below is reached; `target` names it in the status, and a Tofino's has a `tofino`.

    `address` is the Unix socket (`unix:PATH`, private to the node's owner) that it listens on, or HOST:PORT.
    Over TCP both sides show certificates of an authority that the agent's credentials believe, unless it is
    `insecure`. A BMv2 that is to tell packets' ways writes to `log` at level trace, the frames too, and
    publishes its events at `events`.
    """

    address: str = Field(pattern=r"^(unix:/\S{1,106}|[^\s:]+:\d{1,5})$")
    insecure: bool = False
    device_id: int = Field(default=0, ge=0)
    target: str = "xdp"
    log: Path | None = None
    events: Path | None = None
    tofino: TofinoConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target.startswith("tofino") and self.target not in CHIPS:
            raise ValueError(f"hmux_tna.p4 is for {' and '.join(CHIPS)}, not for {self.target}")
        if (self.target in CHIPS) != (self.tofino is not None):
            missing = "needs" if self.tofino is None else "has no use for"
            raise ValueError(f"target {self.target} {missing} `tofino`, where a chip's program is")
        return self

    @property
    def private(self) -> bool:
        """Whether no certificates are needed."""
        return self.insecure or self.address.startswith("unix:")


class EchoConfig(Model):
    """How neighbours are asked whether they forward: each `interval_ms`, in doubt each `hurry_ms`.

    A port is silent after `fall` echoes that were missed one after the other, and is no longer once `rise_ms`
    have passed without a miss.
    """

    interval_ms: int = Field(default=50, ge=5, le=60_000)
    hurry_ms: int = Field(default=20, ge=5, le=60_000)
    fall: int = Field(default=4, ge=2, le=50)
    rise_ms: int = Field(default=1000, ge=0, le=60_000)


class SwitchConfig(AgentConfig):
    """One switch.

    `address` is its loopback: the router id, the outer source of tunnels, the source of ICMP errors. `bird`
    names its neighbours' `interface` as in `ports`; the agent has BIRD run on the host interfaces.
    `originated` are further prefixes that the switch announces for itself and whose unassigned addresses it
    drops: a ToR's servers. `muxes` are the prefixes of VIPs and TIPs, as the SMuxes announce them. `seed`
    makes its choice among equal next hops its own; seeds should differ in many bits, as those that a hash
    function makes do. `flow_key` is the secret that all muxes hash flows with, `space` every prefix of ours:
    a port to `outside` lets none of these in as source, and no tunnel. `fragment_mux` is the address of the
    SMuxes that take fragments of packets to VIPs. A VIP that is withdrawn stays in the tables for
    `drain_least_ms`, in which BGP tells everybody (that a quiet VIP had no packet proves nothing), and
    until no packet came for it for `drain_quiet_ms`, at most for `drain_patience_ms`. A session with the P4
    switch may be away for `grace_s` before the switch is given up. A switch that lost its tables announces
    what its journal has once that is confirmed, or after `hold_s`. Where `report_urls` name
    controllers, whether hosts can be reached is posted to one of them when it changes, and again every
    `report_interval_s`. `flow_records` has the sampling that the P4 switch was started with. Without `echo`,
    a neighbour that hangs with its ports up is left to BFD.
    """

    role = Role.SWITCH

    address: IPv4Address
    ports: tuple[PortConfig, ...] = Field(min_length=1)
    bird: BirdConfig
    originated: tuple[IPv4Network, ...] = ()
    muxes: tuple[IPv4Network, ...] = ()
    space: tuple[IPv4Network, ...] = ()
    seed: int = Field(ge=0, le=0xFFFF_FFFF)
    fragment_mux: IPv4Address | None = None
    p4: P4Config
    grace_s: float = Field(default=10.0, ge=0, le=600)
    hold_s: float = Field(default=30.0, ge=0, le=3600)
    flow_key: FlowKey = 0
    flow_records: FlowConfig = FlowConfig()
    report_urls: tuple[str, ...] = ()
    report_interval_s: float = Field(default=5.0, ge=0.1)
    drain_least_ms: int = Field(default=30, ge=0, le=10_000)
    drain_quiet_ms: int = Field(default=12, ge=0, le=1000)
    drain_patience_ms: int = Field(default=1000, ge=0, le=60_000)
    echo: EchoConfig | None = EchoConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what in ("number", "interface", "mac", "peer"):
            values = [getattr(port, what) for port in self.ports]
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"two ports have the {what} {value}")
        if self.p4.tofino is not None:
            cabled = _FRONT_PANEL[self.p4.target]
            for number in (port.number for port in self.ports):
                if number % _PORTS_OF_A_PIPE not in cabled:
                    raise ValueError(
                        f"port {number} has no cable on a {self.p4.target}: "
                        f"its ports are {cabled[0]} to {cabled[-1]} of each 128, which are a pipe's"
                    )
        known = {port.interface: port for port in self.ports}
        for neighbor in self.bird.neighbors:
            port = known.get(neighbor.interface)
            if port is None:
                raise ValueError(
                    f"neighbour {neighbor.name} is at {neighbor.interface}, which is none of the ports"
                )
            if (neighbor.local, neighbor.address) != (port.address.ip, port.peer):
                raise ValueError(
                    f"neighbour {neighbor.name} is {neighbor.local} to {neighbor.address}, "
                    f"but port {port.number} is {port.address.ip} to {port.peer}"
                )
        return self

    def routing(self) -> BirdConfig:
        """Return what BIRD is to do: on the host interfaces, with the switch's own prefixes announced."""
        hostifs = {port.interface: port.hostif for port in self.ports}
        own = (*self.bird.originated, IPv4Network(self.address), *self.originated)
        return BirdConfig.model_validate(
            self.bird.model_dump()
            | {
                "originated": own,
                "neighbors": [
                    neighbor.model_dump() | {"interface": hostifs[neighbor.interface]}
                    for neighbor in self.bird.neighbors
                ],
            }
        )
