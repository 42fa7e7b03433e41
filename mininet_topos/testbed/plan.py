"""What a testbed was asked to be; the launcher reads it, and so does every later command."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field, ValidationError

from duet_p4.api.flows import MAX_SAMPLING
from duet_p4.model import FlowKey, Model, Port, Protocol
from mininet_topos import addresses
from mininet_topos.fattree import PAPER, FatTree
from mininet_topos.testbed.folder import Folder, TestbedError
from mininet_topos.testbed.vipfile import StatedVip, served_ports


class Target(StrEnum):
    """What runs the P4 program."""

    XDP = "xdp"
    BMV2 = "bmv2"


class SmuxPath(StrEnum):
    """An SMux's data path: XDP, or the Scapy one that is there to be read."""

    XDP = "xdp"
    SCAPY = "scapy"


class Plan(Model):
    """A testbed's size, and what its nodes run. The ports are those that every DIP serves.

    With a `page`, the web page is served on the machine's loopback address, at `page_port` (None: the usual
    one, or else any).
    With `packet_log`, BMv2 writes down every packet's way, which is what traces of it are read from.
    `flow_key` is the secret that its muxes hash flows with. One packet in `flow_sampling` is looked at for
    flow records; 0 is none.
    """

    size: FatTree = PAPER
    target: Target = Target.XDP
    smux_path: SmuxPath = SmuxPath.XDP
    tcp_ports: tuple[Port, ...] = (80,)
    udp_ports: tuple[Port, ...] = (7,)
    controllers: int = Field(default=1, ge=0, le=len(addresses.CONTROLLERS))
    page: bool = False
    page_port: Port | None = None
    flow_key: FlowKey = 0
    flow_sampling: int = Field(default=16, ge=0, le=MAX_SAMPLING)
    packet_log: bool = False
    log_level: str = "INFO"

    @property
    def controller(self) -> bool:
        """Whether there is a controller, one or more."""
        return self.controllers > 0

    def serving(self, vips: Sequence[StatedVip]) -> Plan:
        """Return the plan with the ports that these VIPs need besides its own."""
        tcp = {*self.tcp_ports, *served_ports(vips, Protocol.TCP)}
        udp = {*self.udp_ports, *served_ports(vips, Protocol.UDP)}
        return self.model_copy(update={"tcp_ports": tuple(sorted(tcp)), "udp_ports": tuple(sorted(udp))})

    @classmethod
    def load(cls, folder: Folder) -> Plan:
        """Read the plan of a testbed that is up; raises `TestbedError` if there is none."""
        try:
            return cls.model_validate_json(folder.plan.read_text())
        except FileNotFoundError:
            raise folder.not_up() from None
        except ValidationError as error:
            raise TestbedError(
                f"{folder.plan} is damaged: `duet testbed down --name {folder.name}` cleans up ({error})"
            ) from None
