"""A mux that keeps its tables in memory, behind the real REST interface on a real TCP port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.app import create_app
from duet_p4.rest.mux import Change, MuxCounters, MuxStatus, SessionStatus, TipState, VipState, router
from duet_p4.rest.problems import ConflictError, UnavailableError, UnknownError
from duet_p4.rest.server import serve

Entry = MuxVip | MuxTip


class MemoryMux:
    """Holds what it is told, up to `size` DIPs, and writes down every request that changed it.

    An entry that changes needs room for the old and the new. While a mux is `away`, it refuses to change
    or to tell what it holds.
    """

    def __init__(self, name: str, size: int = 10_000, log: list[str] | None = None) -> None:
        self.name = name
        self.size = size
        self.held: dict[IPv4Address, Entry] = {}
        self.announced: set[IPv4Address] = set()
        self.away = False
        self.sessions: tuple[SessionStatus, ...] = ()
        self.asked = 0
        self.log: list[str] = [] if log is None else log

    def _be_here(self) -> None:
        if self.away:
            raise UnavailableError(f"{self.name} is away")

    def _put(self, entry: Entry, announce: bool) -> Change:
        self._be_here()

        def dips(held: Entry) -> set[IPv4Address]:
            groups = held.groups() if isinstance(held, MuxVip) else [held.group]
            return {dip.address for group in groups for dip in group.used()}

        # Make before break: the old DIPs stay until the new ones are there.
        needed = [dips(held) for address, held in self.held.items() if address != entry.address]
        needed.append(dips(entry) | (dips(self.held[entry.address]) if entry.address in self.held else set()))
        if sum(map(len, needed)) > self.size:
            raise ConflictError(f"tunneling_table is full: {self.size} entries", "table-full")
        updates = 0 if self.held.get(entry.address) == entry else 1
        self.held[entry.address] = entry
        if announce:
            self.announced.add(entry.address)
        self.log.append(f"{self.name} {'put' if announce else 'program'} {entry.address}")
        return self._change(entry.address, updates)

    def _delete(self, address: IPv4Address, kind: type[Entry]) -> Change:
        self._be_here()
        if not isinstance(self.held.get(address), kind):
            raise UnknownError(f"{address} is not on this mux")
        del self.held[address]
        self.announced.discard(address)
        self.log.append(f"{self.name} delete {address}")
        return self._change(address, 1)

    def _change(self, address: IPv4Address, updates: int) -> Change:
        announced = address in self.announced
        return Change(address=address, announced=announced, updates=updates, timings_ms={})

    async def put_vip(self, vip: MuxVip, *, announce: bool) -> Change:
        return self._put(vip, announce)

    async def edit_vip(self, address: IPv4Address, edit: Callable[[MuxVip], MuxVip]) -> Change:
        held = self.held[address]
        assert isinstance(held, MuxVip)
        return self._put(edit(held), False)

    async def delete_vip(self, address: IPv4Address) -> Change:
        return self._delete(address, MuxVip)

    async def announce_vip(self, address: IPv4Address) -> Change:
        self._be_here()
        self.announced.add(address)
        self.log.append(f"{self.name} announce {address}")
        return self._change(address, 0)

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        self.announced.discard(address)
        return self._change(address, 0)

    async def vips(self) -> list[VipState]:
        self._be_here()
        return [
            VipState(vip=held, announced=address in self.announced)
            for address, held in sorted(self.held.items())
            if isinstance(held, MuxVip)
        ]

    async def put_tip(self, tip: MuxTip, *, announce: bool) -> Change:
        return self._put(tip, announce)

    async def delete_tip(self, address: IPv4Address) -> Change:
        return self._delete(address, MuxTip)

    async def announce_tip(self, address: IPv4Address) -> Change:
        return await self.announce_vip(address)

    async def withdraw_tip(self, address: IPv4Address) -> Change:
        return await self.withdraw_vip(address)

    async def tips(self) -> list[TipState]:
        return [
            TipState(tip=held, announced=address in self.announced)
            for address, held in sorted(self.held.items())
            if isinstance(held, MuxTip)
        ]

    async def status(self) -> MuxStatus:
        self.asked += 1
        return MuxStatus(
            name=self.name,
            kind="hmux",
            target="memory",
            uptime_s=0,
            vips=len(await self.vips()),
            tips=len(await self.tips()),
            announced=len(self.announced),
            tables={},
            ports=(),
            sessions=self.sessions,
            writes=len(self.log),
        )

    async def counters(self) -> MuxCounters:
        return MuxCounters(vips=(), tunnels=(), drops={})


@asynccontextmanager
async def served(mux: MemoryMux) -> AsyncIterator[str]:
    """Serve `mux` on a loopback port; yields its URL."""
    app = create_app(mux.name, token=None)
    app.include_router(router(mux))
    async with serve(app, "127.0.0.1", 0) as url:
        yield url
