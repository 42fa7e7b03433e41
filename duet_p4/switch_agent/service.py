"""What the switch agent does for REST: VIPs and TIPs, all or nothing, announced in the right order.

To announce is: tables first, then the route. To delete is the reverse; in between, the VIP is served
until no packet comes for it any more, that is, until every other switch has heard that the route is
gone. The journal holds what was asked for, so an agent that starts again compares it with what the
switch holds, and writes only what differs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from duet_p4.hmux.plan import Plan, TableFullError, Update
from duet_p4.hmux.rows import AclRow, HostRow, TunnelRow, VipRow
from duet_p4.hmux.tables import AddressInUseError, VipTables
from duet_p4.journal import Journal
from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.mux import (
    Change,
    MuxCounters,
    MuxStatus,
    PortStatus,
    SessionStatus,
    TableUse,
    TipState,
    TunnelCount,
    VipCount,
    VipState,
)
from duet_p4.rest.problems import ConflictError, UnavailableError, UnknownError
from duet_p4.switch_agent.announcer import Announcer
from duet_p4.switch_agent.p4client import Switch, SwitchError, WriteError

logger = logging.getLogger(__name__)

_LOOK_S = 0.006


class Surroundings(Protocol):
    """What the service is told of the switch beside its own tables."""

    def ports(self) -> list[PortStatus]:
        """Return the front-panel ports."""

    async def sessions(self) -> list[SessionStatus]:
        """Return the BGP sessions."""

    def underlay(self) -> dict[str, tuple[int, int]]:
        """Return how many entries of each underlay table are used, and how many there are."""

    def suspect(self) -> None:
        """Be told that it is not known any more what the switch holds."""


class HmuxService:
    """A `MuxService` over one P4 switch."""

    def __init__(
        self,
        name: str,
        target: str,
        state_dir: Path,
        announcer: Announcer,
        surroundings: Surroundings,
        quiet_s: float,
        patience_s: float,
    ) -> None:
        """Load what was asked for before. Raises `JournalError`.

        A VIP that is withdrawn has no more packets once none came for `quiet_s`; after `patience_s` it is
        given up all the same.
        """
        self._name = name
        self._target = target
        self._announcer = announcer
        self._surroundings = surroundings
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._vip_journal = Journal(state_dir / "vips", VipState)
        self._tip_journal = Journal(state_dir / "tips", TipState)
        self._vips = {state.vip.address: state for state in self._vip_journal.load()}
        self._tips = {state.tip.address: state for state in self._tip_journal.load()}
        self._started = time.monotonic()
        self._busy: defaultdict[IPv4Address, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._writing = asyncio.Lock()
        self._switch: Switch | None = None
        self._tables: VipTables | None = None
        self._writes_before = 0

    async def attach(self, switch: Switch, tables: VipTables) -> int:
        """Have the switch hold and BIRD announce what was asked for; return how many rows were written.

        `tables` are what the switch holds; what nobody asked for is removed. Meanwhile and until
        `detach`, changes go to this switch.
        """
        async with self._writing:
            before = switch.writes
            self._switch, self._tables = switch, tables
            wanted = self._vips.keys() | self._tips.keys()
            for address in self._announcer.announced() - wanted:
                await self._announcer.remove(address)
            await self._write(tables.sweep())
            for address in tables.addresses():
                if address not in wanted:
                    await self._write(tables.delete(address))
            for state in self._states():
                await self._restore(state)
            return switch.writes - before

    async def detach(self) -> None:
        """Stop changing the switch, which is gone, and withdraw what it cannot serve any more."""
        if self._switch is not None:
            self._writes_before += self._switch.writes
        self._switch = self._tables = None
        for address in self._announcer.announced():
            await self._announcer.remove(address)

    async def put_vip(self, vip: MuxVip, *, announce: bool) -> Change:
        """See `MuxService`."""
        async with self._busy[vip.address]:
            return await self._put_vip(vip, announce)

    async def edit_vip(self, address: IPv4Address, edit: Callable[[MuxVip], MuxVip]) -> Change:
        """See `MuxService`."""
        async with self._busy[address]:
            return await self._put_vip(edit(self._vip(address).vip), announce=False)

    async def delete_vip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._vip):
            change = await self._delete(address)
            del self._vips[address]
            self._vip_journal.delete(address)
            return change

    async def announce_vip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._vip):
            self._vips[address] = self._vip(address).model_copy(update={"announced": True})
            self._vip_journal.put(address, self._vips[address])
            return await self._announce(address)

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._vip):
            self._vips[address] = self._vip(address).model_copy(update={"announced": False})
            self._vip_journal.put(address, self._vips[address])
            return self._change(address, 0, await self._withdraw(address))

    async def vips(self) -> list[VipState]:
        """See `MuxService`."""
        return [self._vips[address] for address in sorted(self._vips)]

    async def put_tip(self, tip: MuxTip, *, announce: bool) -> Change:
        """See `MuxService`."""
        address = tip.address
        async with self._busy[address]:
            updates, timings = await self._program(lambda tables: tables.put_tip(tip))
            held = address in self._tips and self._tips[address].announced
            self._tips[address] = TipState(tip=tip, announced=announce or held)
            self._tip_journal.put(address, self._tips[address])
            if announce:
                timings |= (await self._announce(address)).timings_ms
            return self._change(address, updates, timings)

    async def delete_tip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._tip):
            change = await self._delete(address)
            del self._tips[address]
            self._tip_journal.delete(address)
            return change

    async def announce_tip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._tip):
            self._tips[address] = self._tip(address).model_copy(update={"announced": True})
            self._tip_journal.put(address, self._tips[address])
            return await self._announce(address)

    async def withdraw_tip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        async with self._known(address, self._tip):
            self._tips[address] = self._tip(address).model_copy(update={"announced": False})
            self._tip_journal.put(address, self._tips[address])
            return self._change(address, 0, await self._withdraw(address))

    async def tips(self) -> list[TipState]:
        """See `MuxService`."""
        return [self._tips[address] for address in sorted(self._tips)]

    async def status(self) -> MuxStatus:
        """See `MuxService`."""
        used = {**(self._tables.used() if self._tables else {}), **self._surroundings.underlay()}
        return MuxStatus(
            name=self._name,
            kind="hmux",
            target=self._target,
            uptime_s=time.monotonic() - self._started,
            vips=len(self._vips),
            tips=len(self._tips),
            announced=len(self._announcer.announced()),
            tables={table: TableUse(used=count, size=size) for table, (count, size) in used.items()},
            ports=tuple(self._surroundings.ports()),
            sessions=tuple(await self._surroundings.sessions()),
            writes=self._writes_before + (self._switch.writes if self._switch else 0),
        )

    async def counters(self) -> MuxCounters:
        """See `MuxService`."""
        switch, _ = self._attached()
        vips, tunnels = [], []
        for row, packets, size in await switch.read_counted_rows():
            if isinstance(row, HostRow):
                vips.append(VipCount(address=row.address, packets=packets, bytes=size))
            elif isinstance(row, AclRow):
                vips.append(
                    VipCount(
                        address=row.address, protocol=row.protocol, port=row.port, packets=packets, bytes=size
                    )
                )
            elif isinstance(row, TunnelRow):
                tunnels.append(TunnelCount(address=row.encap, packets=packets, bytes=size))
        drops = await switch.read_drops()
        return MuxCounters(
            vips=tuple(sorted(vips, key=lambda vip: (vip.address, vip.port or 0, vip.protocol or ""))),
            tunnels=tuple(sorted(tunnels, key=lambda tunnel: tunnel.address)),
            drops={reason.name.lower(): count for reason, count in drops.items()},
        )

    async def _put_vip(self, vip: MuxVip, announce: bool) -> Change:
        updates, timings = await self._program(lambda tables: tables.put_vip(vip))
        held = vip.address in self._vips and self._vips[vip.address].announced
        self._vips[vip.address] = VipState(vip=vip, announced=announce or held)
        self._vip_journal.put(vip.address, self._vips[vip.address])
        if announce:
            timings |= (await self._announce(vip.address)).timings_ms
        return self._change(vip.address, updates, timings)

    async def _program(self, plan: Callable[[VipTables], Plan[VipRow]]) -> tuple[int, dict[str, float]]:
        """Write a plan, or have the switch as it was and raise a problem."""
        async with self._writing:
            _, tables = self._attached()
            try:
                wanted = plan(tables)
            except TableFullError as error:
                raise ConflictError(str(error), "table-full") from error
            except AddressInUseError as error:
                raise ConflictError(str(error), "address-in-use") from error
            return len(wanted), await self._write(wanted)

    async def _write(self, plan: Plan[VipRow]) -> dict[str, float]:
        """Write a plan and note it; what was taken of one that fails is taken back."""
        switch, tables = self._attached()
        try:
            timings = await switch.write_plan(plan)
        except WriteError as error:
            await self._take_back(switch, tables, error.taken)
            raise ConflictError(str(error), "refused-by-switch") from error
        except SwitchError as error:
            self._surroundings.suspect()
            raise UnavailableError(str(error)) from error
        tables.apply(plan)
        return timings

    async def _take_back(self, switch: Switch, tables: VipTables, taken: Iterable[Update[VipRow]]) -> None:
        """Undo updates, the last first, one by one: their order is what keeps traffic whole."""
        for update in reversed(list(taken)):
            try:
                await switch.write_plan(Plan.of(("undo", [update.inverse()])))
            except (WriteError, SwitchError) as error:
                logger.error("cannot take back what was written: %s", error)
                self._surroundings.suspect()
                return

    async def _delete(self, address: IPv4Address) -> Change:
        timings = await self._withdraw(address)
        if timings:
            timings["drain"] = await self._drain(address)
        updates, written = await self._program(lambda tables: tables.delete(address))
        return self._change(address, updates, timings | written)

    async def _drain(self, address: IPv4Address) -> float:
        """Wait until no packet comes for an address any more; return the milliseconds that took."""
        switch, _ = self._attached()
        started = changed = time.perf_counter()
        try:
            before = await switch.packets(address)
            while (now := time.perf_counter()) - changed < self._quiet_s:
                if now - started > self._patience_s:
                    logger.warning("%s: packets still come, but it is deleted", address)
                    break
                await asyncio.sleep(_LOOK_S)
                count = await switch.packets(address)
                if count != before:
                    before, changed = count, time.perf_counter()
        except SwitchError as error:
            self._surroundings.suspect()
            raise UnavailableError(str(error)) from error
        return 1000 * (time.perf_counter() - started)

    async def _announce(self, address: IPv4Address) -> Change:
        self._attached()
        started = time.perf_counter()
        await self._announcer.add(address)
        return self._change(address, 0, {"announce": 1000 * (time.perf_counter() - started)})

    async def _withdraw(self, address: IPv4Address) -> dict[str, float]:
        """Withdraw an address; empty where it was not announced."""
        if address not in self._announcer.announced():
            return {}
        started = time.perf_counter()
        await self._announcer.remove(address)
        return {"withdraw": 1000 * (time.perf_counter() - started)}

    async def _restore(self, state: VipState | TipState) -> None:
        """Have the switch hold what was asked for earlier.

        What it cannot hold is not announced, and said not to be, so that whoever asked can do something.
        """
        _, tables = self._attached()
        address = state.vip.address if isinstance(state, VipState) else state.tip.address
        try:
            plan = tables.put_vip(state.vip) if isinstance(state, VipState) else tables.put_tip(state.tip)
            await self._write(plan)
        except (TableFullError, AddressInUseError, ConflictError) as error:
            logger.error("%s cannot be restored: %s", address, error)
            if isinstance(state, VipState):
                self._vips[address] = state.model_copy(update={"announced": False})
            else:
                self._tips[address] = state.model_copy(update={"announced": False})
            await self._announcer.remove(address)
            return
        if state.announced:
            await self._announcer.add(address)
        else:
            await self._announcer.remove(address)

    def _states(self) -> list[VipState | TipState]:
        return [*self._tips.values(), *self._vips.values()]

    def _attached(self) -> tuple[Switch, VipTables]:
        if self._switch is None or self._tables is None:
            raise UnavailableError(f"the P4 switch of {self._name} does not answer")
        return self._switch, self._tables

    @asynccontextmanager
    async def _known(
        self, address: IPv4Address, find: Callable[[IPv4Address], object]
    ) -> AsyncIterator[None]:
        """Have an address to oneself; raises where it is not held."""
        find(address)
        async with self._busy[address]:
            find(address)
            yield

    def _vip(self, address: IPv4Address) -> VipState:
        if address not in self._vips:
            raise UnknownError(f"VIP {address} is not on this switch")
        return self._vips[address]

    def _tip(self, address: IPv4Address) -> TipState:
        if address not in self._tips:
            raise UnknownError(f"TIP {address} is not on this switch")
        return self._tips[address]

    def _change(self, address: IPv4Address, updates: int, timings: dict[str, float]) -> Change:
        announced = address in self._announcer.announced()
        return Change(address=address, announced=announced, updates=updates, timings_ms=timings)
