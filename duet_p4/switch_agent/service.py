"""What the switch agent does for REST: VIPs and TIPs, all or nothing, announced in the right order.

To announce is: tables first, then the route. To delete is the reverse; in between, the VIP is served
until no packet comes for it any more, that is, until every other switch has heard that the route is
gone. The journal holds what was asked for, so an agent that starts again compares it with what the
switch holds, and writes only what differs.

Entries of one request are planned one after the other and written together, stage by stage: what a plan
takes is never what an earlier plan of the same write frees.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from duet_p4.allocation import TableFullError
from duet_p4.api.changes import Change
from duet_p4.api.mux import (
    MuxCounters,
    MuxEntry,
    MuxStatus,
    PortStatus,
    SessionStatus,
    TableUse,
    TunnelCount,
    VipCount,
)
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import ConflictError, ProblemError, UnavailableError
from duet_p4.hmux.plan import Plan, Update
from duet_p4.hmux.rows import AclRow, HostRow, TunnelRow, VipRow
from duet_p4.hmux.tables import AddressInUseError, SlotCountError, VipTables
from duet_p4.holdings import Outcome, breathe
from duet_p4.journal import Held
from duet_p4.model import MuxTip, MuxVip
from duet_p4.mux_keeper import MuxKeeper
from duet_p4.switch_agent.announcer import Announcer
from duet_p4.switch_agent.p4client import Switch, WriteError
from duet_p4.switch_agent.p4session import SwitchError
from duet_p4.term import Terms

logger = logging.getLogger(__name__)

_LOOK_S = 0.006
_BATCH_ROWS = 2000
"""How many rows of many entries are written together: enough to cost little, few enough to take back."""


class Surroundings(Protocol):
    """What the service is told of the switch beside its own tables."""

    def ports(self) -> list[PortStatus]:
        """Return the front-panel ports."""

    def host_ports(self) -> list[HostPort]:
        """Return the ports with hosts behind them."""

    async def sessions(self) -> list[SessionStatus]:
        """Return the BGP sessions."""

    def underlay(self) -> dict[str, tuple[int, int]]:
        """Return how many entries of each underlay table are used, and how many there are."""

    def suspect(self, why: str) -> None:
        """Be told that it is not known any more what the switch holds."""

    def trouble(self) -> str:
        """Return what is wrong with the switch, or nothing."""


@dataclass
class _Planned:
    """An entry that is to be put (or, without one, an address that is to be deleted), and how."""

    address: IPv4Address
    plan: Plan[VipRow]


class HmuxService(MuxKeeper):
    """A `MuxService` over one P4 switch."""

    def __init__(
        self,
        name: str,
        target: str,
        state_dir: Path,
        announcer: Announcer,
        surroundings: Surroundings,
        terms: Terms,
        sizes: Mapping[str, int],
        quiet_s: float,
        patience_s: float,
        least_s: float = 0.0,
    ) -> None:
        """Load what was asked for before. Raises `JournalError`.

        A VIP that is withdrawn has no more packets once none came for `quiet_s`, and BGP has had `least_s` to
        tell everybody; after `patience_s` it is given up all the same.
        """
        super().__init__(name, state_dir, terms)
        self._name = name
        self._target = target
        self._announcer = announcer
        self._surroundings = surroundings
        self._sizes = sizes
        self.stray = ""
        """What nobody asked for and the switch does not let go; else nothing."""
        self._quiet_s = quiet_s
        self._patience_s = patience_s
        self._least_s = least_s
        self._started = time.monotonic()
        self._writing = asyncio.Lock()
        self._switch: Switch | None = None
        self._tables: VipTables | None = None
        self._writes_before = 0
        self._waiting: set[IPv4Address] = set()
        """Addresses that are announced only once what is held is confirmed."""

    @property
    def problem(self) -> str:
        """What of the journal was lost, or cannot be had on the switch; else nothing."""
        return "; ".join(filter(None, (super().problem, self.stray)))

    async def attach(self, switch: Switch, tables: VipTables, *, cold: bool = False) -> int:
        """Have the switch hold and BIRD announce what was asked for; return how many rows were written.

        `tables` are what the switch holds; what nobody asked for is removed. Meanwhile and until
        `detach`, changes go to this switch. One that starts `cold`, with empty tables, was away: others
        may have its VIPs, so it announces what its journal has only once that is confirmed.
        """
        async with self._writing:
            before = switch.writes
            self._switch, self._tables = switch, tables
            self._unplaced.clear()
            for address in self._announcer.announced() - set(self._holdings):
                self._announcer.remove(address)
            await self._clean_up(tables)
            if cold:
                self.synced = False
                self._waiting = {address for address, held in self._holdings.items() if held.announced}
            for kind in (MuxTip, MuxVip):
                for held in self._holdings.of_kind(kind):
                    await self._restore(held)
            return switch.writes - before

    async def clean_up(self) -> bool:
        """Try again to remove from the switch what nobody asked for; return whether nothing of it is left."""
        async with self._writing:
            if self._tables is not None:
                await self._clean_up(self._tables)
            return not self.stray

    async def detach(self) -> None:
        """Stop changing the switch, which is gone, and withdraw what it cannot serve any more."""
        self.let_go()
        for address in self._announcer.announced():
            self._announcer.remove(address)

    def let_go(self) -> None:
        """Stop changing the switch for now; what is announced stays so."""
        if self._switch is not None:
            self._writes_before += self._switch.writes
        self._switch = self._tables = None

    async def quiet(self) -> None:
        """Wait until what was being written to a switch that was let go of is written, or has failed."""
        async with self._writing:
            pass

    async def admit(self) -> None:
        """Announce what had to wait for confirmation."""
        async with self._writing:
            waiting, self._waiting = self._waiting, set()
            for address in sorted(waiting):
                held = self._holdings.get(address)
                if held is not None and held.announced and self._tables is not None:
                    self._announcer.add(address)

    def host_ports(self) -> list[HostPort]:
        """See `MuxService`."""
        return self._surroundings.host_ports()

    async def status(self) -> MuxStatus:
        """See `MuxService`."""
        used = {**(self._tables or VipTables(self._sizes)).used(), **self._surroundings.underlay()}
        return MuxStatus(
            name=self._name,
            kind="hmux",
            target=self._target,
            uptime_s=time.monotonic() - self._started,
            vips=self._holdings.count(MuxVip),
            tips=self._holdings.count(MuxTip),
            announced=len(self._announcer.announced()),
            tables={table: TableUse(used=count, size=size) for table, (count, size) in used.items()},
            ports=tuple(self._surroundings.ports()),
            sessions=tuple(await self._surroundings.sessions()),
            writes=self._writes_before + (self._switch.writes if self._switch else 0),
            synced=self.synced,
            health=self._surroundings.trouble() or self.problem or "ready",
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

    async def _put(self, entries: Sequence[tuple[MuxEntry, bool]], outcome: Outcome) -> None:
        """See `Keeper`."""
        announce: list[IPv4Address] = []
        wanted: dict[IPv4Address, Held[MuxEntry]] = {}
        for entry, also in entries:
            held = self._holdings.get(entry.address)
            wanted[entry.address] = Held(entry, announced=also or bool(held and held.announced))
            if also:
                announce.append(entry.address)
        async with self._writing:
            self._attached()
            await self._program(wanted, outcome)
        for address in announce:
            if address in outcome.changes:
                await self._announce_one(address, outcome)

    async def _delete(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """See `Keeper`."""
        self._attached()
        timings = await self._withdraw_all(addresses)
        if "withdraw" in timings:
            timings["drain"] = await self._drain(addresses)
        async with self._writing:
            await self._program(dict.fromkeys(addresses), outcome)
        for address, change in outcome.changes.items():
            outcome.changes[address] = change.model_copy(
                update={"timings_ms": timings | change.timings_ms, "announced": False}
            )

    async def _announce(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """See `Keeper`."""
        self._attached()
        wanted = {address: self._restated(address, announced=True) for address in addresses}
        await self._holdings.write_down(wanted)
        self._holdings.note(wanted)
        for address in addresses:
            outcome.changes[address] = self._change(address, 0, {})
            await self._announce_one(address, outcome)

    async def _withdraw(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """See `Keeper`."""
        timings = await self._withdraw_all(addresses)
        for address in addresses:
            outcome.changes[address] = self._change(address, 0, dict(timings))

    async def _withdraw_all(self, addresses: Sequence[IPv4Address]) -> dict[str, float]:
        """Withdraw addresses; no time is returned where none was announced.

        That is written down first: an agent that starts again meanwhile must not announce them again.
        """
        wanted = {address: self._restated(address, announced=False) for address in addresses}
        await self._holdings.write_down(wanted)
        self._holdings.note(wanted)
        self._waiting.difference_update(addresses)
        announced = [address for address in addresses if address in self._announcer.announced()]
        if not announced:
            return {}
        started = time.perf_counter()
        for address in announced:
            self._announcer.remove(address)
        return {"withdraw": 1000 * (time.perf_counter() - started)}

    async def _announce_one(self, address: IPv4Address, outcome: Outcome) -> None:
        """Announce an address that the switch holds, and add the time to its change."""
        started = time.perf_counter()
        self._waiting.discard(address)
        if self._tables is None or address not in self._tables:
            del outcome.changes[address]
            outcome.problems[address] = ConflictError(
                f"{address} is not announced: the switch does not hold it", "not-programmed"
            )
            return
        self._announcer.add(address)
        timings = outcome.changes[address].timings_ms | {"announce": 1000 * (time.perf_counter() - started)}
        outcome.changes[address] = self._change(address, outcome.changes[address].updates, timings)

    async def _program(
        self,
        wanted: Mapping[IPv4Address, Held[MuxEntry] | None],
        outcome: Outcome,
    ) -> None:
        """Have the switch hold entries (None: no more), each or what it had before, and write that down."""
        _, tables = self._attached()
        batch: list[_Planned] = []
        for position, (address, held) in enumerate(wanted.items()):
            try:
                plan = _plan(tables, address, held.entry if held else None)
                if plan.takes and any(planned.plan.frees for planned in batch):
                    await self._write_batch(batch, wanted, outcome)
                    batch = []
                    plan = _plan(tables, address, held.entry if held else None)
            except TableFullError as error:
                # What an earlier plan frees may be the very room.
                if not any(planned.plan.frees for planned in batch):
                    outcome.problems[address] = ConflictError(str(error), "table-full")
                    continue
                await self._write_batch(batch, wanted, outcome)
                batch = []
                try:
                    plan = _plan(tables, address, held.entry if held else None)
                except TableFullError as still:
                    outcome.problems[address] = ConflictError(str(still), "table-full")
                    continue
            except AddressInUseError as error:
                outcome.problems[address] = ConflictError(str(error), "address-in-use")
                continue
            except SlotCountError as error:
                outcome.problems[address] = ConflictError(str(error), "slot-count")
                continue
            tables.apply(plan)
            batch.append(_Planned(address, plan))
            if sum(len(planned.plan) for planned in batch) >= _BATCH_ROWS:
                await self._write_batch(batch, wanted, outcome)
                batch = []
            await breathe(position)
        await self._write_batch(batch, wanted, outcome)

    async def _write_batch(
        self,
        batch: list[_Planned],
        wanted: Mapping[IPv4Address, Held[MuxEntry] | None],
        outcome: Outcome,
    ) -> None:
        """Write plans that the tables have noted already: down first, then to the switch.

        What the switch refuses is as it was before, in its tables, here and in the journal.
        """
        if not batch:
            return
        _, tables = self._attached()
        after = {planned.address: wanted[planned.address] for planned in batch}
        before = {address: self._holdings.get(address) for address in after}
        try:
            await self._holdings.write_down(after)
        except ProblemError:
            for planned in reversed(batch):
                tables.apply(planned.plan.inverse())
            raise
        plan = Plan.together(planned.plan for planned in batch)
        try:
            timings = await self._write(plan, noted=True)
        except ConflictError as error:
            await self._holdings.write_down(before)
            if len(batch) == 1:
                outcome.problems[batch[0].address] = error
                return
            # One of many is the reason: each by itself, so that the others do not suffer.
            for planned in batch:
                address, held = planned.address, wanted[planned.address]
                again = _Planned(address, _plan(tables, address, held.entry if held else None))
                tables.apply(again.plan)
                await self._write_batch([again], wanted, outcome)
            return
        except UnavailableError:
            await self._holdings.write_down(before)
            raise
        self._holdings.note(after)
        for planned in batch:
            self._unplaced.pop(planned.address, None)
            outcome.changes[planned.address] = self._change(planned.address, len(planned.plan), timings)

    async def _write(self, plan: Plan[VipRow], *, noted: bool = False) -> dict[str, float]:
        """Write a plan and note it (unless it is `noted`); what was taken of one that fails is taken back."""
        switch, tables = self._attached()
        try:
            timings = await switch.write_whole(plan)
        except WriteError as error:
            if noted:
                tables.apply(plan.inverse())
            await self._take_back(switch, tables, error.taken)
            raise ConflictError(str(error), "refused-by-switch") from error
        except SwitchError as error:
            self._surroundings.suspect(str(error))
            raise UnavailableError(str(error)) from error
        if not noted:
            tables.apply(plan)
        return timings

    async def _take_back(self, switch: Switch, tables: VipTables, taken: Iterable[Update[VipRow]]) -> None:
        """Undo updates, the last first, one by one: their order is what keeps traffic whole."""
        for update in reversed(list(taken)):
            try:
                await switch.write_plan(Plan.of(("undo", [update.inverse()])))
            except (WriteError, SwitchError) as error:
                logger.error("cannot take back what was written: %s", error)
                self._surroundings.suspect(f"cannot take back what was written: {error}")
                return

    async def _drain(self, addresses: Sequence[IPv4Address]) -> float:
        """Wait until no packet comes for addresses any more; return the milliseconds that took."""
        switch, _ = self._attached()
        started = changed = time.perf_counter()
        try:
            before = await switch.packets(addresses)
            while (now := time.perf_counter()) - changed < self._quiet_s or now - started < self._least_s:
                if now - started > self._patience_s:
                    logger.warning("%d VIPs: packets still come, but they are deleted", len(addresses))
                    break
                await asyncio.sleep(_LOOK_S)
                count = await switch.packets(addresses)
                if count != before:
                    before, changed = count, time.perf_counter()
        except SwitchError as error:
            self._surroundings.suspect(str(error))
            raise UnavailableError(str(error)) from error
        return 1000 * (time.perf_counter() - started)

    async def _clean_up(self, tables: VipTables) -> None:
        """Remove from the switch what nobody asked for. A refusal is said, and costs nothing else."""
        self.stray = ""
        strays = [address for address in tables.addresses() if address not in self._holdings]
        plans: list[Callable[[], Plan[VipRow]]] = [tables.sweep]
        plans += [partial(tables.delete, address) for address in strays]
        for plan in plans:
            try:
                await self._write(plan())
            except ConflictError as error:
                self.stray = f"what nobody asked for cannot be removed: {error}"
                logger.error("%s", self.stray)

    async def _restore(self, held: Held[MuxEntry]) -> None:
        """Have the switch hold what was asked for earlier.

        What it cannot hold is not announced, and said not to be, so that whoever asked can do something.
        """
        _, tables = self._attached()
        address = held.entry.address
        try:
            await self._write(_plan(tables, address, held.entry))
        except (TableFullError, AddressInUseError, SlotCountError, ConflictError) as error:
            logger.error("%s cannot be restored: %s", address, error)
            self._unplaced[address] = str(error)
            restated = {address: self._restated(address, announced=False)}
            await self._holdings.write_down(restated)
            self._holdings.note(restated)
            self._announcer.remove(address)
            return
        if held.announced and address not in self._waiting:
            self._announcer.add(address)
        else:
            self._announcer.remove(address)

    def _restated(self, address: IPv4Address, *, announced: bool) -> Held[MuxEntry]:
        held = self._holdings.get(address)
        assert held is not None
        return Held(held.entry, announced)

    def _attached(self) -> tuple[Switch, VipTables]:
        if self._switch is None or self._tables is None:
            raise UnavailableError(f"the P4 switch of {self._name} does not answer")
        return self._switch, self._tables

    def _change(self, address: IPv4Address, updates: int, timings: dict[str, float]) -> Change:
        announced = address in self._announcer.announced()
        return Change(address=address, announced=announced, updates=updates, timings_ms=timings)


def _plan(tables: VipTables, address: IPv4Address, entry: MuxEntry | None) -> Plan[VipRow]:
    if entry is None:
        return tables.delete(address)
    return tables.put_vip(entry) if isinstance(entry, MuxVip) else tables.put_tip(entry)
