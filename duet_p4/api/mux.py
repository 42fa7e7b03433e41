"""What switch agents and SMux agents hold and answer: the same models and paths for both.

The entries are the models of `duet_p4.model`, so the same `MuxVip` can be put to every mux.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Self, TypeAlias

from pydantic import Field, model_validator

from duet_p4.api.changes import MAX_ENTRIES, Change, Changed, addresses_text, check_once
from duet_p4.api.digest import Digest, text_of
from duet_p4.api.ports import HostPort
from duet_p4.model import Model, MuxTip, MuxVip, Port, Protocol

MuxEntry: TypeAlias = MuxVip | MuxTip


class VipState(Model):
    """A VIP that a mux holds, and whether it announces it."""

    vip: MuxVip
    announced: bool


class TipState(Model):
    """A TIP that a mux holds, and whether it announces it."""

    tip: MuxTip
    announced: bool


class Stated(Model):
    """A VIP or a TIP: one of the two."""

    vip: MuxVip | None = None
    tip: MuxTip | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.vip is None) == (self.tip is None):
            raise ValueError("an entry is either a vip or a tip")
        return self

    @classmethod
    def of(cls, entry: MuxEntry) -> Self:
        """Return an entry as it is stated; it was checked when it was made."""
        if isinstance(entry, MuxVip):
            return cls.model_construct(vip=entry)
        return cls.model_construct(tip=entry)

    @property
    def entry(self) -> MuxEntry:
        """The VIP or TIP."""
        entry = self.vip or self.tip
        assert entry is not None
        return entry


class Put(Model):
    """An entry to hold exactly as given, and then to announce; else its announcement is left as it is."""

    entry: Stated
    announce: bool = True


class Changes(Model):
    """Changes of many addresses, carried out in the order of the fields, TIPs before VIPs among `put`.

    Each is all or nothing by itself, and one that fails stops no other. An SMux puts TIPs that it has already
    after VIPs, whose pins keep flows where they are.
    """

    withdraw: tuple[IPv4Address, ...] = Field(default=(), max_length=MAX_ENTRIES)
    delete: tuple[IPv4Address, ...] = Field(default=(), max_length=MAX_ENTRIES)
    put: tuple[Put, ...] = Field(default=(), max_length=MAX_ENTRIES)
    announce: tuple[IPv4Address, ...] = Field(default=(), max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        addresses = [put.entry.entry.address for put in self.put]
        check_once("put", addresses)
        for what, listed in (
            ("withdraw", self.withdraw),
            ("delete", self.delete),
            ("announce", self.announce),
        ):
            check_once(what, listed)
        return self


def changes_text(
    delete: Iterable[IPv4Address], put: Iterable[tuple[MuxEntry, bool]], announce: Iterable[IPv4Address]
) -> bytes:
    """Return the JSON of `Changes`, of entries that were checked when they were made."""
    entries = (
        b'{"entry":{"%s":%s},"announce":%s}'
        % (b"vip" if isinstance(entry, MuxVip) else b"tip", text_of(entry), b"true" if also else b"false")
        for entry, also in put
    )
    listed = addresses_text(delete), b",".join(entries), addresses_text(announce)
    return b'{"delete":[%s],"put":[%s],"announce":[%s]}' % listed


class WantedState(Model):
    """Everything that a mux is to hold."""

    vips: tuple[VipState, ...] = Field(default=(), max_length=MAX_ENTRIES)
    tips: tuple[TipState, ...] = Field(default=(), max_length=MAX_ENTRIES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_once("state", [s.vip.address for s in self.vips] + [s.tip.address for s in self.tips])
        return self


class TableUse(Model):
    """How full a table of the data path is."""

    used: int
    size: int


class PortStatus(Model):
    """One data port of a mux.

    `peer` is the address at the other end, where the mux knows it; bytes count from when the port was made.
    """

    number: int
    name: str
    up: bool
    peer: IPv4Address | None = None
    received_bytes: int = 0
    sent_bytes: int = 0


class SessionStatus(Model):
    """One BGP session: `state` is BIRD's word, `established` what it comes down to.

    `bfd` is BIRD's word on the BFD session beside it, such as `Up`; empty where there is none.
    """

    name: str
    neighbor: IPv4Address
    asn: int
    established: bool
    state: str
    since: str = ""
    bfd: str = ""


class MuxStatus(Model):
    """A mux at a glance. `kind` is `hmux` or `smux`, `target` names the data path below.

    `tables` has every table of the data path by its short name. `synced` says that what the mux holds was
    confirmed since it started; `health` is what is wrong with it, or `ready`. An SMux that is `draining`
    asks its neighbours to prefer any other.
    """

    name: str
    kind: str
    target: str
    uptime_s: float
    vips: int
    tips: int
    announced: int
    tables: dict[str, TableUse]
    ports: tuple[PortStatus, ...]
    sessions: tuple[SessionStatus, ...]
    writes: int = Field(description="entries written to the data path since the agent started")
    synced: bool = False
    draining: bool = False
    health: str = "ready"


class Count(Model):
    """Packets and bytes."""

    packets: int
    bytes: int


class VipCount(Count):
    """Traffic that matched a VIP (or one port of it, or a TIP)."""

    address: IPv4Address
    protocol: Protocol | None = None
    port: Port | None = None


class TunnelCount(Count):
    """Traffic encapsulated towards an address, over all VIPs."""

    address: IPv4Address


class Draining(Model):
    """Whether an SMux asks its neighbours to prefer any other (RFC 8326)."""

    draining: bool


class MuxCounters(Model):
    """Counters of a mux since they were created; `drops` is per named reason, in packets."""

    vips: tuple[VipCount, ...]
    tunnels: tuple[TunnelCount, ...]
    drops: dict[str, int]


class MuxService(typing.Protocol):
    """What a mux agent does for REST.

    Changes of one address are all or nothing. They raise `UnknownError` for what the mux does not hold
    and `ConflictError` (kind `table-full`) where a table has no room; `change` and `become` raise for
    none of their entries, but say of each what came of it.
    """

    async def put(self, entry: MuxEntry, *, announce: bool) -> Change:
        """Hold `entry` exactly as given, then announce it (or, without `announce`, leave that as it is)."""

    async def delete(self, address: IPv4Address) -> Change:
        """Withdraw a VIP or TIP, wait for packets on their way, and forget it."""

    async def announce(self, address: IPv4Address) -> Change:
        """Announce a VIP or TIP that is held."""

    async def withdraw(self, address: IPv4Address) -> Change:
        """Withdraw a VIP or TIP, but keep serving what still arrives."""

    async def change(self, changes: Changes) -> Changed:
        """Carry out many changes."""

    async def become(self, wanted: WantedState) -> Changed:
        """Hold just what is wanted; what is right already is not written."""

    async def confirm(self, digest: str) -> None:
        """Be told that what is held is what should be. Raises ConflictError where it is not."""

    def digest(self) -> Digest:
        """Return what is held, in short."""

    def state(self, address: IPv4Address) -> VipState | TipState | None:
        """Return the VIP or TIP that is held by an address."""

    def vips(self) -> list[VipState]:
        """Return every VIP, ordered by address."""

    def tips(self) -> list[TipState]:
        """Return every TIP, ordered by address."""

    async def status(self) -> MuxStatus:
        """Return the mux at a glance."""

    async def counters(self) -> MuxCounters:
        """Read the counters of the data path."""

    def host_ports(self) -> list[HostPort]:
        """Return the ports with hosts behind them; an SMux has none."""
