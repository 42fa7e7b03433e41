"""The devices that the updater changes, each behind the same few calls: many changes in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol

from controller.updater.plan import Action, DeviceKind, DeviceState, Entry
from duet_p4.api import host, mux
from duet_p4.api.changes import Action as Done
from duet_p4.api.changes import Changed, Result
from duet_p4.api.digest import Digest
from duet_p4.api.host import HostState, HostVip
from duet_p4.api.mux import MuxEntry, TipState, VipState, WantedState
from duet_p4.api.problems import Problem
from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.client import HostClient, MuxClient

_ANSWER_S = 10.0
_PER_ENTRY_S = 0.02
"""How much longer a request may take for each entry that it changes."""


@dataclass(frozen=True)
class Operation:
    """One thing to be done on a device; `entry` is what to hold or announce, None to forget the address."""

    action: Action
    address: IPv4Address
    entry: Entry | None = None


@dataclass(frozen=True)
class Came:
    """What came of an operation: entries of tables written, or the problem that was in its way."""

    writes: int
    problem: Problem | None = None


class Device(Protocol):
    """A switch, an SMux or a server, reached over REST. Every call may raise `RestError`."""

    @property
    def kind(self) -> DeviceKind:
        """What it is."""

    def lead(self, term: int, leads: Callable[[], bool]) -> None:
        """Say with every write from now on that it is the leader's of this term; write while it `leads`."""

    async def digest(self) -> Digest:
        """Return in short what the device holds."""

    async def observe(self) -> DeviceState:
        """Read back what the device holds."""

    async def change(self, operations: Sequence[Operation]) -> list[Came]:
        """Do many things, none of which names an address twice; what fails for one stops no other."""

    async def become(self, state: DeviceState) -> list[tuple[IPv4Address, Problem]]:
        """Have it hold just what `state` has; return what it would not."""

    async def confirm(self, digest: str) -> None:
        """Tell it that it holds what it should. Raises `RefusedError` where that has another digest."""


class MuxDevice:
    """A switch agent or an SMux agent."""

    def __init__(self, client: MuxClient, kind: DeviceKind) -> None:
        self.client = client
        self.kind = kind

    def lead(self, term: int, leads: Callable[[], bool]) -> None:
        """See `Device`."""
        self.client.lead(term, leads)

    async def digest(self) -> Digest:
        """See `Device`."""
        return await self.client.digest()

    async def observe(self) -> DeviceState:
        """See `Device`."""
        vips, tips = await asyncio.gather(self.client.get_vips(), self.client.get_tips())
        state = DeviceState(self.kind)
        for vip in vips:
            state.hold(vip.vip, announced=vip.announced)
        for tip in tips:
            state.hold(tip.tip, announced=tip.announced)
        return state

    async def change(self, operations: Sequence[Operation]) -> list[Came]:
        """See `Device`."""
        changes = mux.changes_text(
            delete=(op.address for op in operations if op.action is Action.DELETE),
            put=(
                (_mux_entry(op), op.action is Action.PUT)
                for op in operations
                if op.action in (Action.PUT, Action.PROGRAM)
            ),
            announce=(op.address for op in operations if op.action is Action.ANNOUNCE),
        )
        answer = await self.client.call(
            "POST", "/v1/changes", Changed, body=changes, timeout_s=_patience(len(operations))
        )
        return _outcomes(operations, answer)

    async def become(self, state: DeviceState) -> list[tuple[IPv4Address, Problem]]:
        """See `Device`."""
        held = [(entry, address in state.announced) for address, entry in state.entries.items()]
        wanted = WantedState.model_construct(
            vips=tuple(
                VipState.model_construct(vip=e, announced=a) for e, a in held if isinstance(e, MuxVip)
            ),
            tips=tuple(
                TipState.model_construct(tip=e, announced=a) for e, a in held if isinstance(e, MuxTip)
            ),
        )
        answer = await self.client.call(
            "PUT", "/v1/state", Changed, body=wanted, timeout_s=_patience(len(held))
        )
        return _problems(answer)

    async def confirm(self, digest: str) -> None:
        """See `Device`."""
        await self.client.confirm(digest)

    async def drain(self, *, draining: bool) -> bool:
        """Have neighbours of an SMux prefer others, or no longer; return whether they were before."""
        before = await self.client.draining()
        await self.client.drain(draining=draining)
        return before


class ServerDevice:
    """A server's host agent."""

    kind = DeviceKind.SERVER

    def __init__(self, client: HostClient) -> None:
        self.client = client

    def lead(self, term: int, leads: Callable[[], bool]) -> None:
        """See `Device`."""
        self.client.lead(term, leads)

    async def digest(self) -> Digest:
        """See `Device`."""
        return await self.client.digest()

    async def observe(self) -> DeviceState:
        """See `Device`."""
        state = DeviceState(self.kind)
        for vip in await self.client.get_vips():
            state.hold(vip)
        return state

    async def change(self, operations: Sequence[Operation]) -> list[Came]:
        """See `Device`; to announce is nothing to do for a server."""
        changes = host.changes_text(
            delete=(op.address for op in operations if op.action is Action.DELETE),
            put=(_host_vip(op) for op in operations if op.action in (Action.PUT, Action.PROGRAM)),
        )
        answer = await self.client.call(
            "POST", "/v1/changes", Changed, body=changes, timeout_s=_patience(len(operations))
        )
        return _outcomes(operations, answer)

    async def become(self, state: DeviceState) -> list[tuple[IPv4Address, Problem]]:
        """See `Device`."""
        wanted = HostState.model_construct(
            vips=tuple(e for e in state.entries.values() if isinstance(e, HostVip))
        )
        answer = await self.client.call(
            "PUT", "/v1/state", Changed, body=wanted, timeout_s=_patience(len(wanted.vips))
        )
        return _problems(answer)

    async def confirm(self, digest: str) -> None:
        """See `Device`."""
        await self.client.confirm(digest)


def _patience(entries: int) -> float:
    return _ANSWER_S + entries * _PER_ENTRY_S


def _mux_entry(operation: Operation) -> MuxEntry:
    entry = operation.entry
    if not isinstance(entry, MuxVip | MuxTip):
        raise TypeError(f"a mux holds VIPs and TIPs, not a {type(entry).__name__}")
    return entry


def _host_vip(operation: Operation) -> HostVip:
    if not isinstance(operation.entry, HostVip):
        raise TypeError(f"a server holds VIPs of its DIPs, not a {type(operation.entry).__name__}")
    return operation.entry


_ANSWERS = {
    Action.PUT: Done.PUT,
    Action.PROGRAM: Done.PUT,
    Action.ANNOUNCE: Done.ANNOUNCE,
    Action.DELETE: Done.DELETE,
}


def _outcomes(operations: Sequence[Operation], answer: Changed) -> list[Came]:
    """Return what came of each operation; to forget what is not held is done already."""
    results = {(result.address, result.action): result for result in answer.results}
    return [_outcome(op, results.get((op.address, _ANSWERS[op.action]))) for op in operations]


def _outcome(operation: Operation, result: Result | None) -> Came:
    if result is None or result.problem is None:
        return Came(writes=result.change.updates if result and result.change else 0)
    if operation.action is Action.DELETE and result.problem.status == 404:
        return Came(writes=0)
    return Came(writes=0, problem=result.problem)


def _problems(answer: Changed) -> list[tuple[IPv4Address, Problem]]:
    return [(result.address, result.problem) for result in answer.results if result.problem is not None]


def is_table_full(problem: Problem) -> bool:
    """Whether a device refused something for want of room."""
    return problem.kind == "table-full"
