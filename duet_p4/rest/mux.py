"""The REST interface that switch agents and SMux agents share: one router over a `MuxService`.

The bodies are the models of `duet_p4.model`, so the same `MuxVip` can be put to every mux.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query
from pydantic import Field

from duet_p4.model import Dip, Group, Model, MuxTip, MuxVip, Port, Protocol
from duet_p4.rest.app import problem_responses
from duet_p4.rest.problems import ConflictError, InvalidError, UnknownError

Held = TypeVar("Held")


class VipState(Model):
    """A VIP that a mux holds, and whether it announces it."""

    vip: MuxVip
    announced: bool


class TipState(Model):
    """A TIP that a mux holds, and whether it announces it."""

    tip: MuxTip
    announced: bool


class Change(Model):
    """What a request changed.

    `updates` counts entries written to the data path (0 where all was right already); `timings_ms`
    has a duration for each step of the paper's breakdown (section 7.3): `add_dips`, `add_vip`,
    `announce`, or `withdraw`, `delete_vip`, `delete_dips`.
    """

    address: IPv4Address
    announced: bool
    updates: int = Field(ge=0)
    timings_ms: dict[str, float]


class TableUse(Model):
    """How full a table of the data path is."""

    used: int
    size: int


class PortStatus(Model):
    """One data port of a mux."""

    number: int
    name: str
    up: bool


class SessionStatus(Model):
    """One BGP session: `state` is BIRD's word, `established` what it comes down to."""

    name: str
    neighbor: IPv4Address
    asn: int
    established: bool
    state: str
    since: str = ""


class MuxStatus(Model):
    """A mux at a glance. `kind` is `hmux` or `smux`, `target` names the data path below."""

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


class MuxCounters(Model):
    """Counters of a mux since they were created; `drops` is per named reason, in packets."""

    vips: tuple[VipCount, ...]
    tunnels: tuple[TunnelCount, ...]
    drops: dict[str, int]


class MuxService(typing.Protocol):
    """What a mux agent implements to be served by `router`.

    Each call is all or nothing. Calls raise `UnknownError` for what the mux does not hold and
    `ConflictError` (kind `table-full`) where a table has no room.
    """

    async def put_vip(self, vip: MuxVip, *, announce: bool) -> Change:
        """Hold `vip` exactly as given, then announce it (or, without `announce`, leave that as it is)."""

    async def edit_vip(self, address: IPv4Address, edit: Callable[[MuxVip], MuxVip]) -> Change:
        """Replace a VIP by `edit` of it; no other change of it comes in between."""

    async def delete_vip(self, address: IPv4Address) -> Change:
        """Withdraw a VIP, wait for packets on their way, and forget it."""

    async def announce_vip(self, address: IPv4Address) -> Change:
        """Announce a VIP that is held."""

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        """Withdraw a VIP, but keep serving what still arrives."""

    async def vips(self) -> list[VipState]:
        """Return every VIP, ordered by address."""

    async def put_tip(self, tip: MuxTip, *, announce: bool) -> Change:
        """Hold `tip` exactly as given, then announce it."""

    async def delete_tip(self, address: IPv4Address) -> Change:
        """Withdraw and forget a TIP."""

    async def announce_tip(self, address: IPv4Address) -> Change:
        """Announce a TIP that is held."""

    async def withdraw_tip(self, address: IPv4Address) -> Change:
        """Withdraw a TIP, but keep serving what still arrives."""

    async def tips(self) -> list[TipState]:
        """Return every TIP, ordered by address."""

    async def status(self) -> MuxStatus:
        """Return the mux at a glance."""

    async def counters(self) -> MuxCounters:
        """Read the counters of the data path."""


Announce = Annotated[bool, Query(description="announce over BGP once the tables are written")]
ProtocolQuery = Annotated[Protocol | None, Query(alias="protocol", description="protocol of a port group")]
PortQuery = Annotated[Port | None, Query(alias="port", description="destination port of a port group")]


def router(service: MuxService) -> APIRouter:
    """Return the paths of a mux, answered by `service`."""
    api = APIRouter(prefix="/v1")
    found = problem_responses(404)
    changed = problem_responses(404, 409)

    @api.get("/vips", tags=["vips"])
    async def get_vips() -> list[VipState]:
        """List every VIP the mux holds."""
        return await service.vips()

    @api.get("/vips/{vip}", tags=["vips"], responses=found)
    async def get_vip(vip: IPv4Address) -> VipState:
        """Return one VIP."""
        return _find(vip, {state.vip.address: state for state in await service.vips()}, "VIP")

    @api.put("/vips/{vip}", tags=["vips"], responses=problem_responses(409))
    async def put_vip(vip: IPv4Address, body: MuxVip, announce: Announce = True) -> Change:
        """Hold a VIP exactly as given: tables first, then the announcement."""
        _check_address("VIP", vip, body.address)
        return await service.put_vip(body, announce=announce)

    @api.delete("/vips/{vip}", tags=["vips"], responses=found)
    async def delete_vip(vip: IPv4Address) -> Change:
        """Withdraw a VIP, then remove it from the tables."""
        return await service.delete_vip(vip)

    @api.post("/vips/{vip}/announce", tags=["vips"], responses=found)
    async def announce_vip(vip: IPv4Address) -> Change:
        """Announce a VIP that the mux holds."""
        return await service.announce_vip(vip)

    @api.post("/vips/{vip}/withdraw", tags=["vips"], responses=found)
    async def withdraw_vip(vip: IPv4Address) -> Change:
        """Withdraw a VIP, and keep it in the tables."""
        return await service.withdraw_vip(vip)

    @api.put("/vips/{vip}/dips/{dip}", tags=["dips"], responses=changed)
    async def put_dip(
        vip: IPv4Address, dip: IPv4Address, body: Dip, protocol: ProtocolQuery = None, port: PortQuery = None
    ) -> Change:
        """Add a DIP to a VIP, or change its weight; only slots that must move do."""
        _check_address("DIP", dip, body.address)
        return await service.edit_vip(vip, lambda old: with_dip(old, body, protocol, port))

    @api.delete("/vips/{vip}/dips/{dip}", tags=["dips"], responses=changed)
    async def delete_dip(
        vip: IPv4Address, dip: IPv4Address, protocol: ProtocolQuery = None, port: PortQuery = None
    ) -> Change:
        """Remove a DIP from a VIP (from all its groups unless one is named); only its slots move."""
        return await service.edit_vip(vip, lambda old: without_dip(old, dip, protocol, port))

    @api.get("/tips", tags=["tips"])
    async def get_tips() -> list[TipState]:
        """List every TIP the mux holds."""
        return await service.tips()

    @api.get("/tips/{tip}", tags=["tips"], responses=found)
    async def get_tip(tip: IPv4Address) -> TipState:
        """Return one TIP."""
        return _find(tip, {state.tip.address: state for state in await service.tips()}, "TIP")

    @api.put("/tips/{tip}", tags=["tips"], responses=problem_responses(409))
    async def put_tip(tip: IPv4Address, body: MuxTip, announce: Announce = True) -> Change:
        """Hold a TIP exactly as given: tables first, then the announcement."""
        _check_address("TIP", tip, body.address)
        return await service.put_tip(body, announce=announce)

    @api.delete("/tips/{tip}", tags=["tips"], responses=found)
    async def delete_tip(tip: IPv4Address) -> Change:
        """Withdraw a TIP, then remove it from the tables."""
        return await service.delete_tip(tip)

    @api.post("/tips/{tip}/announce", tags=["tips"], responses=found)
    async def announce_tip(tip: IPv4Address) -> Change:
        """Announce a TIP that the mux holds."""
        return await service.announce_tip(tip)

    @api.post("/tips/{tip}/withdraw", tags=["tips"], responses=found)
    async def withdraw_tip(tip: IPv4Address) -> Change:
        """Withdraw a TIP, and keep it in the tables."""
        return await service.withdraw_tip(tip)

    @api.get("/status", tags=["status"])
    async def get_status() -> MuxStatus:
        """Return the mux at a glance."""
        return await service.status()

    @api.get("/counters", tags=["status"])
    async def get_counters() -> MuxCounters:
        """Read the counters of the data path."""
        return await service.counters()

    return api


def with_dip(vip: MuxVip, dip: Dip, protocol: Protocol | None = None, port: int | None = None) -> MuxVip:
    """Return `vip` with `dip` added, or replaced where it has it, in its default or the named group.

    Raises `UnknownError` where the VIP has no such group.
    """

    def edit(group: Group) -> Group:
        others = [old for old in group.members if old.address != dip.address]
        at = next((i for i, old in enumerate(group.members) if old.address == dip.address), len(others))
        return _update(group, (*others[:at], dip, *others[at:]), vip)

    return _edit_groups(vip, protocol, port, edit)


def without_dip(
    vip: MuxVip, dip: IPv4Address, protocol: Protocol | None = None, port: int | None = None
) -> MuxVip:
    """Return `vip` without `dip`, in the named group or, where none is named, in all that have it.

    Flows pinned to the DIP are dropped where no group has it any more. Raises `UnknownError` where
    the DIP is not there, and `ConflictError` where a group would be left without DIPs.
    """
    hit = False

    def edit(group: Group) -> Group:
        nonlocal hit
        rest = tuple(old for old in group.members if old.address != dip)
        if len(rest) == len(group.members):
            return group
        hit = True
        return _update(group, rest, vip)

    if protocol is None and port is None:
        after = vip.model_copy(
            update={
                "group": edit(vip.group) if vip.group else None,
                "ports": tuple(p.model_copy(update={"group": edit(p.group)}) for p in vip.ports),
            }
        )
    else:
        after = _edit_groups(vip, protocol, port, edit)
    if not hit:
        raise UnknownError(f"VIP {vip.address} has no DIP {dip}")
    known = {member.address for group in after.groups() for member in group.members}
    return after.model_copy(update={"pinned": tuple(flow for flow in vip.pinned if flow.dip in known)})


def _edit_groups(
    vip: MuxVip, protocol: Protocol | None, port: int | None, edit: Callable[[Group], Group]
) -> MuxVip:
    if (protocol is None) != (port is None):
        raise InvalidError(
            f"a port-based group has a protocol and a port, got protocol {protocol}, port {port}"
        )
    if protocol is None:
        if vip.group is None:
            raise UnknownError(f"VIP {vip.address} has port-based groups only: name a protocol and a port")
        return vip.model_copy(update={"group": edit(vip.group)})
    if not any((p.protocol, p.port) == (protocol, port) for p in vip.ports):
        raise UnknownError(f"VIP {vip.address} has no group for {protocol}/{port}")
    ports = tuple(
        p.model_copy(update={"group": edit(p.group)}) if (p.protocol, p.port) == (protocol, port) else p
        for p in vip.ports
    )
    return vip.model_copy(update={"ports": ports})


def _update(group: Group, dips: tuple[Dip, ...], vip: MuxVip) -> Group:
    """Return the group with `dips`, of which one must take flows."""
    if not any(dip.weight for dip in dips):
        raise ConflictError(f"VIP {vip.address} would be left without a DIP that takes flows", "no-dips")
    return group.updated(dips)


def _find(address: IPv4Address, states: dict[IPv4Address, Held], what: str) -> Held:
    if address not in states:
        raise UnknownError(f"{what} {address} is not on this mux")
    return states[address]


def _check_address(what: str, path: IPv4Address, body: IPv4Address) -> None:
    if path != body:
        raise InvalidError(f"the path names {what} {path}, the body {body}")
