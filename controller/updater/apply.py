"""Many VIPs in one request: stated, changed, removed, each by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Self

from pydantic import Field, model_validator

from controller.events import EventLog
from controller.records import ON_SMUXES, VipRecord
from controller.store import StaleError
from controller.updater import desired
from controller.updater.lane import Priority
from controller.updater.service import Updater
from duet_p4.api.problems import Problem, ProblemError
from duet_p4.model import Model, Vip

MAX_APPLIED = 1000
"""How many VIPs one request states at most."""

FEW = 64
"""So many new VIPs in a request, and no more, are placed by the engine one by one."""


class WantedVip(Model):
    """A VIP as a file states it; `switch` is where it is by hand (`smux`: the SMuxes), or none.

    `revision` is the one that it was compared with; null for one that was not there.
    """

    vip: Vip
    switch: str | None = None
    revision: int | None = None


class Gone(Model):
    """A VIP that is to be removed if it has this revision."""

    vip: IPv4Address
    revision: int


class Apply(Model):
    """Many VIPs that are wanted, and others that are to be removed."""

    vips: tuple[WantedVip, ...] = Field(default=(), max_length=MAX_APPLIED)
    remove: tuple[Gone, ...] = Field(default=(), max_length=MAX_APPLIED)

    @model_validator(mode="after")
    def _check(self) -> Self:
        counts = Counter([*(item.vip.address for item in self.vips), *(gone.vip for gone in self.remove)])
        for address, count in counts.items():
            if count > 1:
                raise ValueError(f"VIP {address} is stated twice")
        return self


class Done(StrEnum):
    """What was done with a VIP."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    NOTHING = "nothing"


class Applied(Model):
    """What became of one VIP of many: nothing, where it was so already or there is a problem."""

    vip: IPv4Address
    done: Done
    problem: Problem | None = None


class Applier:
    """Has what requests of many VIPs state."""

    def __init__(self, updater: Updater, events: EventLog) -> None:
        self._updater = updater
        self._events = events

    async def apply(self, request: Apply) -> list[Applied]:
        """State many VIPs, and remove others, each if it has the revision that the request saw.

        What is wrong with one stops no other. New VIPs go where the engine says if they are few; else the
        SMuxes carry them until the next assignment.
        """
        few = sum(item.revision is None for item in request.vips) <= FEW
        prepared = await asyncio.gather(*(self._prepare(item, placed=few) for item in request.vips))
        changes = [(old, new) for old, new, _ in prepared if new is not None]
        most = self._updater.state.most
        for first in range(0, len(changes), most):
            with suppress(StaleError):  # those that were changed meanwhile are found below
                await self._updater.state.replace(changes[first : first + most])
        applied = []
        for item, (old, new, problem) in zip(request.vips, prepared, strict=True):
            if new is not None and self._updater.state.get(item.vip.address) is not new:
                try:
                    await self._updater.state.replace([(old, new)])
                except StaleError:
                    problem = _stale(item.vip.address).problem
            if new is not None:
                self._updater.state.release_tips(placed.tip.address for placed in new.tips)
            applied.append(self._applied(item.vip.address, old, new, problem))
        for gone in request.remove:
            applied.append(await self._apply_removal(gone))
        await self._updater.carry_out([one.vip for one in applied if one.problem is None])
        return applied

    async def _prepare(
        self, item: WantedVip, *, placed: bool
    ) -> tuple[VipRecord | None, VipRecord | None, Problem | None]:
        """Return the record of a VIP before and after; no record after where nothing is to be done."""
        spec, old = item.vip, self._updater.state.get(item.vip.address)
        switch = None if item.switch == ON_SMUXES else item.switch
        try:
            if (old.revision if old else None) != item.revision:
                raise _stale(spec.address)
            if switch is not None:
                self._updater.admission.check_switch(switch)
            if old is not None:
                if old.spec != spec:
                    self._updater.admission.check(spec)
                new = desired.applied(old, spec, switch, by_hand=item.switch is not None)
                return old, None if new is old else new, None
            record = self._updater.admission.admit(spec)
            if item.switch is not None:
                record = record.model_copy(update={"switch": switch, "held": True})
            if placed and (item.switch is None or record.tips):
                homes = await self._updater.reconciler.homes_if_known(record)
                record = desired.rehomed(record, record.carried(), homes)
            return None, self._updater.ready_to_add(record), None
        except ProblemError as error:
            return old, None, error.problem

    def _applied(
        self, vip: IPv4Address, old: VipRecord | None, new: VipRecord | None, problem: Problem | None
    ) -> Applied:
        if problem is not None:
            return Applied(vip=vip, done=Done.NOTHING, problem=problem)
        if new is None:
            return Applied(vip=vip, done=Done.NOTHING)
        if old is None:
            self._events.add("vip-added", str(vip), dips=len(new.spec.all_dips()), switch=new.switch)
            return Applied(vip=vip, done=Done.ADDED)
        return Applied(vip=vip, done=Done.CHANGED)

    async def _apply_removal(self, gone: Gone) -> Applied:
        record = self._updater.state.get(gone.vip)
        if record is None:
            return Applied(vip=gone.vip, done=Done.NOTHING)
        try:
            if record.revision != gone.revision:
                raise StaleError
            await self._updater.state.remove(record)
        except StaleError:
            return Applied(vip=gone.vip, done=Done.NOTHING, problem=_stale(gone.vip).problem)
        self._updater.forget(gone.vip)
        self._events.add("vip-removed", str(gone.vip))
        for address in record.carried():
            self._updater.reconciler.queue.add(address, Priority.OPERATOR)
        return Applied(vip=gone.vip, done=Done.REMOVED)


def _stale(vip: IPv4Address) -> ProblemError:
    return ProblemError(412, f"VIP {vip} was changed meanwhile: compare anew", "revision-differs")
