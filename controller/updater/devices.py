"""The devices that the updater changes, each behind the same three calls."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import Protocol

from controller.updater.plan import DeviceKind, DeviceState, Entry
from duet_p4.model import MuxTip, MuxVip
from duet_p4.rest.client import MuxClient, RefusedError


class Device(Protocol):
    """A switch, an SMux or a server, reached over REST. Every call may raise `RestError`."""

    @property
    def kind(self) -> DeviceKind:
        """What it is."""

    async def observe(self) -> DeviceState:
        """Read back what the device holds."""

    async def put(self, entry: Entry, *, announce: bool = True) -> int:
        """Have it hold `entry`, and announce it; return how many entries of its tables were written."""

    async def announce(self, entry: Entry) -> int:
        """Have it announce an entry that it holds; return the writes."""

    async def delete(self, address: IPv4Address) -> int:
        """Have it forget an address (one it does not hold is no error); return the writes."""


class MuxDevice:
    """A switch agent or an SMux agent."""

    def __init__(self, client: MuxClient, kind: DeviceKind) -> None:
        self.client = client
        self.kind = kind

    async def observe(self) -> DeviceState:
        """Read back VIPs and TIPs."""
        vips, tips = await asyncio.gather(self.client.get_vips(), self.client.get_tips())
        state = DeviceState(self.kind)
        entries: list[tuple[Entry, bool]] = [(held.vip, held.announced) for held in vips]
        entries += [(held.tip, held.announced) for held in tips]
        for entry, announced in entries:
            state.entries[entry.address] = entry
            if announced:
                state.announced.add(entry.address)
        return state

    async def put(self, entry: Entry, *, announce: bool = True) -> int:
        """Program a VIP or TIP, then announce it."""
        if isinstance(entry, MuxVip):
            return (await self.client.put_vip(entry, announce=announce)).updates
        if isinstance(entry, MuxTip):
            return (await self.client.put_tip(entry, announce=announce)).updates
        raise TypeError(f"a mux holds VIPs and TIPs, not a {type(entry).__name__}")

    async def announce(self, entry: Entry) -> int:
        """Announce a VIP or TIP that the mux holds."""
        announce = self.client.announce_vip if isinstance(entry, MuxVip) else self.client.announce_tip
        return (await announce(entry.address)).updates

    async def delete(self, address: IPv4Address) -> int:
        """Withdraw a VIP or TIP, then remove it."""
        for delete in (self.client.delete_vip, self.client.delete_tip):
            try:
                return (await delete(address)).updates
            except RefusedError as error:
                if error.problem.status != 404:
                    raise
        return 0
