"""What a device tells of a packet that somebody wanted to see on its way.

Numbers are hexadecimal, as wide as their fields: JSON's own would lose bits of wide ones.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Literal, Protocol

from pydantic import Field

from duet_p4.api.installed import Installed
from duet_p4.model import Model

MAX_PACKETS = 64
"""Packets that one trace may follow on one device."""
MAX_SECONDS = 60.0
"""How long one trace may last."""


class TraceFlow(Model):
    """The flow whose packets are wanted, there and back, bare or in a tunnel; None is any.

    An ICMP echo's identifier stands for both its ports.
    """

    source: IPv4Address | None = None
    destination: IPv4Address | None = None
    protocol: int | None = Field(default=None, ge=1, le=255)
    source_port: int | None = Field(default=None, ge=1, le=65535)
    destination_port: int | None = Field(default=None, ge=1, le=65535)


class TraceRequest(Model):
    """A trace: which packets, how many, for how long."""

    flow: TraceFlow
    packets: int = Field(default=8, ge=1, le=MAX_PACKETS)
    seconds: float = Field(default=5.0, gt=0, le=MAX_SECONDS)


class Line(Model):
    """A line of P4, or of an eBPF program's C."""

    file: str
    line: int
    text: str = ""


class Matched(Model):
    """A field of a table's key: what the packet had, and what the entry wants (None without one)."""

    field: str
    kind: str
    value: str
    wanted: str | None = None


class Value(Model):
    """A field, or an argument, and its value."""

    name: str
    value: str
    width: int


class Changed(Model):
    """A field that a step changed: None where its header is not there before, or afterwards."""

    field: str
    before: str | None
    after: str | None
    width: int


class Step(Model):
    """What happened to a packet: a parser state, a condition, a table, the end of a pipeline, its verdict.

    `work` is what an SMux or a server does that is no lookup; a `line` of theirs is one of C.
    """

    kind: Literal["state", "parsed", "branch", "table", "work", "done", "drop", "sent"]
    name: str
    line: Line | None = None
    taken: bool | None = None
    """Of a branch."""
    key: tuple[Matched, ...] = ()
    hit: bool | None = None
    priority: int | None = None
    installed: Installed | None = None
    """Of the entry that was hit."""
    action: str | None = None
    action_line: Line | None = None
    arguments: tuple[Value, ...] = ()
    counters: tuple[str, ...] = ()
    """Counters that count the packet here, as `name[index]`."""
    changes: tuple[Changed, ...] = ()


class PacketTrace(Model):
    """One packet in one device: how it came, what happened, how it left."""

    device: str = ""
    kind: Literal["switch", "smux", "server"] = "switch"
    began_ns: int
    """The machine's monotonic clock, the same on all its nodes."""
    ended_ns: int
    ingress: str
    frame: str
    """The first bytes that came in, in hexadecimal."""
    length: int
    headers_in: tuple[Value, ...] = ()
    headers_out: tuple[Value, ...] = ()
    steps: tuple[Step, ...] = ()
    verdict: str
    """How it left: `sent`, `dropped`, or `passed` to the kernel (of a server: to the DIP)."""
    egress: str | None = None
    frame_out: str | None = None
    reason: str | None = None
    """Why it was dropped, with the counter that has counted it."""


class Traced(Model):
    """What a trace has seen until now; `lost` records had no room, so a packet may lack steps."""

    packets: tuple[PacketTrace, ...]
    lost: int = 0
    ended: bool


class TraceBegun(Model):
    """A trace that follows packets from now on."""

    id: str


class TraceService(Protocol):
    """What a device that can trace offers."""

    async def begin(self, request: TraceRequest) -> TraceBegun:
        """Follow packets. Raises ConflictError while another goes on, UnavailableError where none can."""

    def seen(self, trace: str) -> Traced:
        """Return what a trace has seen. Raises UnknownError."""

    async def end(self, trace: str) -> Traced:
        """End a trace, and return what it has seen. Raises UnknownError."""
