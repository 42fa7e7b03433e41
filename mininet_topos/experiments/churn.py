"""An operator who changes what is wanted all the time, and remembers what the controller acknowledged.

A request that is cut off has either been taken or not: which of the two is asked afterwards, as an
operator would. Anything else the controller then holds, or holds at the end, is a change lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from ipaddress import IPv4Address
from itertools import cycle
from typing import TypeVar

from controller.client import ControllerClient
from controller.records import Event, VipRecord
from duet_p4.hmux import pipeline
from duet_p4.model import Dip, HealthCheck, PortGroup, Protocol, Vip
from duet_p4.rest.client import RefusedError, RestError
from mininet_topos import addresses, fattree

VIPS = 12
"""The most small VIPs at a time, of every kind; each has addresses of its own on every server.

Where the servers have enough addresses, there is also a large VIP, behind TIPs, of almost all of them.
"""

FAN_OUT = pipeline.sizes()["tunneling_table"]
"""How many DIPs a VIP may have without TIPs."""

_DIPS = (2, 4)
_FIRST_VIP = 2000
_ANSWER_S, _ONES_ANSWER_S = 60.0, 5.0
_POLL_S = 0.1
_CARRIED_ON_S = 2.0
_EVENTS = 1000
_LARGE_VIP = addresses.VIPS[_FIRST_VIP + VIPS]
_LARGE_SHARE = 0.1
_CHECK = HealthCheck(port=80, interval_ms=500)
_WEIGHTS = (1, 4)
_HOST, _FIRST_VM = 0, 1 + VIPS
"""Of each server's addresses, the one that VMs are behind, and the first of those that are second VMs."""
_WITH_VMS = 3
"""So many of the VIPs may be of VMs: servers have no more addresses."""


Answer = TypeVar("Answer")


class Form(StrEnum):
    """Kinds of VIPs."""

    PLAIN = "plain"
    CHECKED = "checked"
    WEIGHTED = "weighted"
    PORTS = "ports"
    SNAT = "snat"
    VMS = "vms"


class Fate(StrEnum):
    """What became of a request; `TAKEN` and `NOT_TAKEN` are those that were cut off."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    TAKEN = "taken"
    NOT_TAKEN = "not taken"


@dataclass(frozen=True)
class Wanted:
    """A VIP as the operator left it; one that is not `held` is where the engine says."""

    spec: Vip
    switch: str | None = None
    held: bool = False

    def differs(self, record: VipRecord) -> str:
        """Say how a record of the controller differs from this; empty if it does not."""
        if record.spec != self.spec:
            return f"VIP {record.address} is {record.spec}, not {self.spec}"
        if self.held and (record.home, record.held) != (self.switch, True):
            return (
                f"VIP {record.address} is on {record.home} (held: {record.held}), not held on {self.switch}"
            )
        return ""


@dataclass(frozen=True)
class Change:
    """A request that was made: what it asked for, and what became of it."""

    what: str
    vip: IPv4Address
    fate: Fate
    detail: str


Send = Callable[[ControllerClient], Awaitable[object]]


class Operator:
    """Makes random changes through one controller or another.

    `wanted` has what they must hold, `lost` what they do not.
    """

    def __init__(
        self,
        controllers: Sequence[ControllerClient],
        rng: random.Random,
        switches: Sequence[str],
        servers: Sequence[fattree.Node],
    ) -> None:
        self._controllers = controllers
        self._rng = rng
        self._switches = switches
        self._servers = servers
        self._all_dips = [address for server in servers for address in server.prefix or ()]
        self.wanted: dict[IPv4Address, Wanted] = {}
        self.lost: list[str] = []
        self._left: dict[tuple[IPv4Address, IPv4Address], float] = {}
        self._leaving: set[tuple[IPv4Address, IPv4Address]] = set()

    def left_since(self, vip: IPv4Address, dip: IPv4Address, since: float) -> bool:
        """Return whether a DIP was to leave a VIP, or the VIP to go, since a moment (monotonic clock).

        Whatever becomes of the request, until it is over nobody may hold on to these; nor to a DIP that is
        acknowledged to have left, though muxes may hear of it later.
        """
        gone = dip not in _dips(self.wanted.get(vip))
        return gone or (vip, dip) in self._leaving or self._left.get((vip, dip), -1.0) >= since

    async def change(self) -> Change:
        """Make one change; one that is cut off is over once the controller has said what became of it."""
        what, vip, after, send = self._choose()
        before = self.wanted.get(vip)
        self._leaving = {(vip, dip) for dip in _dips(before) - _dips(after)}
        try:
            await send(self._rng.choice(self._controllers))
            fate, detail = Fate.ACKNOWLEDGED, ""
        except RefusedError as error:
            detail = str(error)
            if error.problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                fate = await self._resolve(vip, before, after)
            else:
                fate = Fate.REFUSED
        except RestError as error:
            detail = str(error)
            fate = await self._resolve(vip, before, after)
        if fate in (Fate.ACKNOWLEDGED, Fate.TAKEN):
            self._note(vip, after)
        self._left |= dict.fromkeys(self._leaving, time.monotonic())
        self._leaving = set()
        return Change(what, vip, fate, detail)

    async def check(self) -> None:
        """Compare all that the controller holds with what was acknowledged."""
        records = await self.records()
        for vip in sorted(records.keys() | self.wanted.keys()):
            self.lost += _difference(vip, self.wanted.get(vip), records.get(vip))

    async def _resolve(self, vip: IPv4Address, before: Wanted | None, after: Wanted | None) -> Fate:
        """Ask what became of a request; what is neither before nor after it is lost.

        The leader may carry on for a while with what a follower passed on that has died.
        """
        deadline = time.monotonic() + _CARRIED_ON_S
        while True:
            record = (await self.records()).get(vip)
            if not _difference(vip, after, record):
                return Fate.TAKEN
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(_POLL_S)
        self.lost += _difference(vip, before, record)
        return Fate.NOT_TAKEN

    async def records(self) -> dict[IPv4Address, VipRecord]:
        """Return what is wanted, as a controller tells that answers; waits for one. Raises TimeoutError."""
        return {record.address: record for record in await self._asked(lambda one: one.vips())}

    async def events(self) -> list[Event]:
        """Return the newest events, as `records` does what is wanted."""
        return await self._asked(lambda one: one.events(limit=_EVENTS))

    async def _asked(self, ask: Callable[[ControllerClient], Awaitable[Answer]]) -> Answer:
        async with asyncio.timeout(_ANSWER_S):
            for controller in cycle(self._controllers):
                with suppress(RestError, TimeoutError):
                    async with asyncio.timeout(_ONES_ANSWER_S):
                        return await ask(controller)
                await asyncio.sleep(_POLL_S)
        raise AssertionError("a cycle has no end")

    def _note(self, vip: IPv4Address, after: Wanted | None) -> None:
        if after is None:
            self.wanted.pop(vip, None)
        else:
            self.wanted[vip] = after

    def _choose(self) -> tuple[str, IPv4Address, Wanted | None, Send]:
        rng = self._rng
        small = sorted(self.wanted.keys() - {_LARGE_VIP})
        if len(small) < VIPS // 2 or (len(small) < VIPS and rng.random() < 0.2):
            return self._add()
        if len(self._all_dips) > FAN_OUT and rng.random() < _LARGE_SHARE:
            return self._change_large()
        vip = rng.choice(small)
        old = self.wanted[vip]
        dips = old.spec.dips
        what = rng.choices(
            ("remove", "migrate", "release", "add DIP", "remove DIP", "drain DIP", "fill DIPs"),
            (1, 3, 1, 2, 2, 2, 1),
        )[0]
        match what:
            case "remove":
                return what, vip, None, lambda c: c.remove_vip(vip)
            case "migrate":
                to = rng.choice([None, *self._switches])
                return what, vip, replace(old, switch=to, held=True), lambda c: c.migrate(vip, to)
            case "release":
                return what, vip, replace(old, held=False), lambda c: c.release(vip)
            case "drain DIP":
                dip = rng.choice(dips).address
                spec = old.spec.model_copy(update={"dips": _drained(dips, dip)})
                return what, vip, replace(old, spec=spec), lambda c: c.drain(vip, dip)
            case "add DIP":
                known = {dip.address for dip in old.spec.all_dips()}
                free = [dip for dip in self._dips_of(vip, _form(old.spec)) if dip.address not in known]
                dips = (*dips, *rng.sample(free, min(1, len(free))))
            case "remove DIP":
                gone = rng.choice(dips)
                # The last one stays: without it, a VIP with port groups would answer no ping any more.
                dips = tuple(dip for dip in dips if dip != gone) or dips
            case "fill DIPs":
                dips = tuple(dip.model_copy(update={"weight": 1}) for dip in dips)
        spec = old.spec.model_copy(update={"dips": dips})
        return what, vip, replace(old, spec=spec), lambda c: c.change_vip(spec)

    def _add(self) -> tuple[str, IPv4Address, Wanted | None, Send]:
        rng = self._rng
        own = (addresses.VIPS[_FIRST_VIP + number] for number in range(VIPS))
        vip = rng.choice([address for address in own if address not in self.wanted])
        form = rng.choice([form for form in Form if form is not Form.VMS or _number(vip) < _WITH_VMS])
        spec = self._spec(vip, form)
        if rng.random() < 0.5:
            return "add", vip, Wanted(spec), lambda c: c.add_vip(spec)
        switch = rng.choice(self._switches)
        return "add", vip, Wanted(spec, switch, held=True), lambda c: c.add_vip(spec, switch)

    def _change_large(self) -> tuple[str, IPv4Address, Wanted | None, Send]:
        """Add the large VIP, or give it some other of the DIPs, or move it."""
        rng, vip = self._rng, _LARGE_VIP
        count = rng.randint(FAN_OUT + 1, len(self._all_dips))
        spec = Vip(address=vip, dips=tuple(Dip(address=dip) for dip in rng.sample(self._all_dips, count)))
        old = self.wanted.get(vip)
        if old is None:
            return "add large", vip, Wanted(spec), lambda c: c.add_vip(spec)
        if rng.random() < 0.3:
            to = rng.choice([None, *self._switches])
            return "migrate large", vip, replace(old, switch=to, held=True), lambda c: c.migrate(vip, to)
        return "change large", vip, replace(old, spec=spec), lambda c: c.change_vip(spec)

    def _spec(self, vip: IPv4Address, form: Form) -> Vip:
        """Return a new VIP of a kind."""
        rng = self._rng
        chosen = rng.sample(self._dips_of(vip, form), rng.randint(*_DIPS))
        if form is Form.WEIGHTED:
            chosen = [dip.model_copy(update={"weight": rng.randint(*_WEIGHTS)}) for dip in chosen]
        ports: tuple[PortGroup, ...] = ()
        if form is Form.PORTS:
            half = len(chosen) // 2
            ports = (PortGroup(protocol=Protocol.TCP, port=80, dips=tuple(chosen[:half]), health=_CHECK),)
            chosen = chosen[half:]
        check = _CHECK if form is Form.CHECKED else None
        return Vip(address=vip, dips=tuple(chosen), ports=ports, snat=form is Form.SNAT, health=check)

    def _dips_of(self, vip: IPv4Address, form: Form) -> list[Dip]:
        """Return what a VIP may have as DIPs: its own address on each server, or two VMs behind each."""
        own = 1 + _number(vip)
        prefixes = [server.prefix for server in self._servers if server.prefix is not None]
        if form is not Form.VMS:
            return [Dip(address=prefix[own]) for prefix in prefixes]
        vms = (own, _FIRST_VM + _number(vip))
        return [Dip(address=prefix[vm], host=prefix[_HOST]) for prefix in prefixes for vm in vms]


def _number(vip: IPv4Address) -> int:
    return int(vip) - int(addresses.VIPS[_FIRST_VIP])


def _form(spec: Vip) -> Form:
    return Form.VMS if any(dip.host for dip in spec.dips) else Form.PLAIN


def _dips(wanted: Wanted | None) -> set[IPv4Address]:
    return {dip.address for dip in wanted.spec.all_dips()} if wanted else set()


def _drained(dips: Sequence[Dip], drained: IPv4Address) -> tuple[Dip, ...]:
    return tuple(dip.model_copy(update={"weight": 0}) if dip.address == drained else dip for dip in dips)


def _difference(vip: IPv4Address, wanted: Wanted | None, record: VipRecord | None) -> list[str]:
    if wanted is None:
        return [f"VIP {vip} is there, though it was removed or never added"] if record else []
    if record is None:
        return [f"VIP {vip} is not there, though it was added"]
    difference = wanted.differs(record)
    return [difference] if difference else []
