"""What the services of switch agents and SMux agents share: a `MuxService`'s calls as changes of holdings."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

from duet_p4.api.changes import Action, Change, Changed
from duet_p4.api.mux import Changes, MuxEntry, TipState, VipState, WantedState
from duet_p4.holdings import Holdings, Keeper, Wish
from duet_p4.journal import Held, Journal
from duet_p4.model import MuxTip, MuxVip
from duet_p4.term import Terms

KINDS: dict[str, type[MuxEntry]] = {"vip": MuxVip, "tip": MuxTip}


class MuxKeeper(Keeper[MuxEntry]):
    """Holds VIPs and TIPs; `state_dir` has its journal."""

    def __init__(self, where: str, state_dir: Path, terms: Terms) -> None:
        """Load what was asked for before. Raises `JournalError`."""
        super().__init__(where, Holdings(Journal(state_dir / "journal.db", KINDS)), terms)

    async def put(self, entry: MuxEntry, *, announce: bool) -> Change:
        """See `MuxService`."""
        return await self.carry_out_one(Action.PUT, Wish(put=[(entry, announce)]))

    async def delete(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        return await self.carry_out_one(Action.DELETE, Wish(delete=[address]))

    async def announce(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        return await self.carry_out_one(Action.ANNOUNCE, Wish(announce=[address]))

    async def withdraw(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        return await self.carry_out_one(Action.WITHDRAW, Wish(withdraw=[address]))

    async def change(self, changes: Changes) -> Changed:
        """See `MuxService`."""
        put = [(put.entry.entry, put.announce) for put in changes.put]
        return await self.carry_out(
            Wish(changes.withdraw, changes.delete, _tips_first(put), changes.announce)
        )

    async def become(self, wanted: WantedState) -> Changed:
        """See `MuxService`."""
        states: dict[IPv4Address, Held[MuxEntry]] = {}
        for tip in wanted.tips:
            states[tip.tip.address] = Held(tip.tip, tip.announced)
        for vip in wanted.vips:
            states[vip.vip.address] = Held(vip.vip, vip.announced)
        return await self.hold_just(states)

    def state(self, address: IPv4Address) -> VipState | TipState | None:
        """See `MuxService`."""
        held = self._holdings.get(address)
        return _state(held) if held is not None else None

    def vips(self) -> list[VipState]:
        """See `MuxService`."""
        return [state for _, held in self._holdings.items() if isinstance(state := _state(held), VipState)]

    def tips(self) -> list[TipState]:
        """See `MuxService`."""
        return [state for _, held in self._holdings.items() if isinstance(state := _state(held), TipState)]


def _state(held: Held[MuxEntry]) -> VipState | TipState:
    if isinstance(held.entry, MuxVip):
        return VipState(vip=held.entry, announced=held.announced)
    return TipState(tip=held.entry, announced=held.announced)


def _tips_first(put: list[tuple[MuxEntry, bool]]) -> list[tuple[MuxEntry, bool]]:
    """A VIP whose TIPs are not there yet would have flows at the wrong place."""
    return sorted(put, key=lambda one: isinstance(one[0], MuxVip))
