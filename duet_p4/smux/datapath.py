"""What the SMux agent asks of a data path, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol as Interface

from duet_p4.model import MuxTip, MuxVip, Protocol
from duet_p4.traffic import Traffic, read_exits

BPF_FOLDER = Path(__file__).parent / "bpf"

EXITS = read_exits(BPF_FOLDER / "counters.h")
"""Every way a packet can leave a data path, with a sentence on whether that is normal, in table order."""


@dataclass(frozen=True)
class Sizes:
    """How many entries the tables have; `services` counts VIPs, ports of VIPs, and TIPs."""

    services: int = 65_536
    slots: int = 1_048_576
    backends: int = 131_072
    connections: int = 131_072
    pinned: int = 65_536

    @property
    def probation(self) -> int:
        """Flows of which one packet was seen, a power of two: a flood pushes out each other, so few do."""
        return 1 << max(64, self.connections // 4).bit_length() - 1


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which the connection table forgets an idle flow.

    TCP has one too: a connection may have ended while an HMux carried the VIP, and its ports may
    have been used again since.
    """

    tcp_s: float = 600.0
    other_s: float = 60.0


@dataclass(frozen=True)
class Service:
    """An address, or one port of a VIP, that has a group of its own."""

    address: IPv4Address
    protocol: Protocol | None = None
    port: int | None = None


@dataclass(frozen=True)
class Written:
    """What a change wrote: entries, and how long DIPs and then the VIP itself took, in milliseconds."""

    updates: int
    dips_ms: float
    vip_ms: float


class Datapath(Interface):
    """The SMux's forwarding: VIPs and TIPs in, counters out.

    Changes are all or nothing and take effect for each group at once; `TableFullError` leaves
    everything as it was.
    """

    def put_vip(self, vip: MuxVip) -> Written:
        """Forward a VIP as stated; connections of DIPs that left are forgotten."""

    def delete_vip(self, address: IPv4Address) -> Written:
        """Stop to forward a VIP that was put."""

    def put_tip(self, tip: MuxTip) -> Written:
        """Pick a TIP's DIPs here, for packets tunneled to it and for VIPs that have it as a member."""

    def delete_tip(self, address: IPv4Address) -> Written:
        """Forget a TIP that was put."""

    def service_traffic(self) -> Mapping[Service, Traffic]:
        """Return what came for each VIP, port of a VIP, and TIP."""

    def tunnel_traffic(self) -> Mapping[IPv4Address, Traffic]:
        """Return what was encapsulated towards each address."""

    def exits(self) -> Mapping[str, Traffic]:
        """Return how packets left, by the names of `EXITS`."""

    def table_use(self) -> Mapping[str, tuple[int, int]]:
        """Return entries used and available, per table."""

    def forwards(self, interface: str) -> bool:
        """Whether it still forwards what arrives on an interface that it was attached to."""

    def close(self) -> None:
        """Let go of it; what is pinned goes on to forward."""
