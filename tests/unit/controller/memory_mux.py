"""A mux that keeps its tables in memory, behind the real REST interface on a real TCP port."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

from duet_p4.api.changes import Change, Changed
from duet_p4.api.digest import Digest
from duet_p4.api.mux import Changes, MuxCounters, MuxEntry, MuxStatus, SessionStatus, TipState, VipState
from duet_p4.api.ports import HostPort
from duet_p4.api.problems import ConflictError, UnavailableError
from duet_p4.holdings import Outcome
from duet_p4.journal import Held
from duet_p4.model import MuxVip
from duet_p4.mux_keeper import MuxKeeper
from duet_p4.rest.app import create_app
from duet_p4.rest.routers import draining
from duet_p4.rest.routers.mux import router
from duet_p4.rest.server import serve
from duet_p4.term import Terms


class MemoryMux(MuxKeeper):
    """Holds what it is told, up to `size` DIPs, and writes down every request that changed it.

    An entry that changes needs room for the old and the new. While a mux is `away`, it refuses to change
    or to tell what it holds.
    """

    def __init__(self, name: str, size: int = 10_000, log: list[str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.terms = Terms()
        super().__init__(name, Path(self._folder.name), self.terms)
        self.name = name
        self.size = size
        self.away = False
        self.sessions: tuple[SessionStatus, ...] = ()
        self.draining = False
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.log: list[str] = [] if log is None else log

    @property
    def held(self) -> dict[IPv4Address, MuxEntry]:
        return {address: held.entry for address, held in self._holdings.items()}

    @property
    def announced(self) -> set[IPv4Address]:
        return {address for address, held in self._holdings.items() if held.announced}

    def alone(self, address: IPv4Address) -> AbstractAsyncContextManager[None]:
        """Have an address to oneself, as a request does that takes long."""
        return self._locks.alone([address])

    @property
    def wanted_alone(self) -> set[IPv4Address]:
        """Addresses that more than one request wants for itself."""
        return {address for address, (_, users) in self._locks._locks.items() if users > 1}

    def forget(self) -> None:
        """Lose everything, as a mux does that starts anew without its disk."""
        self._holdings.note(dict.fromkeys(self._holdings))

    async def change(self, changes: Changes) -> Changed:
        await self.answers.wait()
        return await super().change(changes)

    async def drain(self, wanted: bool) -> None:
        """Have neighbours prefer others, or no longer."""
        self._be_here()
        self.draining = wanted

    def _be_here(self) -> None:
        if self.away:
            raise UnavailableError(f"{self.name} is away")

    def _check_room(self, entry: MuxEntry) -> None:
        def dips(held: MuxEntry) -> set[IPv4Address]:
            groups = held.groups() if isinstance(held, MuxVip) else [held.group]
            return {dip.address for group in groups for dip in group.used()}

        # Make before break: the old DIPs stay until the new ones are there.
        needed = [dips(held) for address, held in self.held.items() if address != entry.address]
        needed.append(dips(entry) | (dips(self.held[entry.address]) if entry.address in self.held else set()))
        if sum(map(len, needed)) > self.size:
            raise ConflictError(f"tunneling_table is full: {self.size} entries", "table-full")

    async def _put(self, entries: Sequence[tuple[MuxEntry, bool]], outcome: Outcome) -> None:
        self._be_here()
        for entry, announce in entries:
            address = entry.address
            try:
                self._check_room(entry)
            except ConflictError as error:
                outcome.problems[address] = error
                continue
            old = self._holdings.get(address)
            updates = 0 if old and old.entry == entry else 1
            self.log.append(f"{self.name} {'put' if announce else 'program'} {address}")
            await self._become(
                outcome, updates, address, Held(entry, announce or bool(old and old.announced))
            )

    async def _delete(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        self._be_here()
        for address in addresses:
            self.log.append(f"{self.name} delete {address}")
            await self._become(outcome, 1, address, None)

    async def _announce(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        self._be_here()
        for address in addresses:
            self.log.append(f"{self.name} announce {address}")
            await self._become(outcome, 0, address, Held(self.held[address], announced=True))

    async def _withdraw(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        self._be_here()
        for address in addresses:
            await self._become(outcome, 0, address, Held(self.held[address], announced=False))

    async def _become(
        self, outcome: Outcome, updates: int, address: IPv4Address, held: Held[MuxEntry] | None
    ) -> None:
        await self._holdings.write_down({address: held})
        self._holdings.note({address: held})
        outcome.changes[address] = Change(
            address=address, announced=bool(held and held.announced), updates=updates, timings_ms={}
        )

    def vips(self) -> list[VipState]:
        self._be_here()
        return super().vips()

    def tips(self) -> list[TipState]:
        self._be_here()
        return super().tips()

    def digest(self) -> Digest:
        self._be_here()
        return super().digest()

    def host_ports(self) -> list[HostPort]:
        return []

    async def status(self) -> MuxStatus:
        self.asked += 1
        return MuxStatus(
            name=self.name,
            kind="hmux",
            target="memory",
            uptime_s=0,
            vips=len(self.vips()),
            tips=len(self.tips()),
            announced=len(self.announced),
            tables={},
            ports=(),
            sessions=self.sessions,
            draining=self.draining,
            writes=len(self.log),
        )

    async def counters(self) -> MuxCounters:
        return MuxCounters(vips=(), tunnels=(), drops={})


@asynccontextmanager
async def served(mux: MemoryMux, port: int = 0) -> AsyncIterator[str]:
    """Serve `mux` on a loopback port, any unless one is given; yields its URL."""
    app = create_app(mux.name, access=None, terms=mux.terms)
    app.include_router(router(mux))
    app.include_router(draining.router(lambda: mux.draining, mux.drain))
    async with serve(app, "127.0.0.1", port, None) as url:
        yield url
