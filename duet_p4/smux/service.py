"""What the SMux agent does for REST: keeps data path and journal in step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol as Interface

from duet_p4.allocation import TableFullError
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
from duet_p4.rest.problems import ConflictError, InvalidError, UnknownError
from duet_p4.smux.datapath import Datapath, Written


class Surroundings(Interface):
    """What the service is told of the world beside the data path."""

    def ports(self) -> Sequence[PortStatus]:
        """Return the uplinks."""

    async def sessions(self) -> Sequence[SessionStatus]:
        """Return the BGP sessions."""


class SmuxService:
    """A `MuxService`. The SMux announces covering prefixes, so whatever it holds counts as announced.

    No method awaits between reading and changing its state, so each is atomic.
    """

    def __init__(
        self,
        name: str,
        target: str,
        datapath: Datapath,
        announced: Sequence[IPv4Network],
        state_dir: Path,
        surroundings: Surroundings,
    ) -> None:
        self._name = name
        self._target = target
        self._datapath = datapath
        self._announced = announced
        self._surroundings = surroundings
        self._vip_journal = Journal(state_dir / "vips", MuxVip)
        self._tip_journal = Journal(state_dir / "tips", MuxTip)
        self._started = time.monotonic()
        self._writes = 0
        self._tips = {tip.address: tip for tip in self._tip_journal.load()}
        self._vips = {vip.address: vip for vip in self._vip_journal.load()}
        for tip in self._tips.values():
            self._count(self._datapath.put_tip(tip))
        for vip in self._vips.values():
            self._count(self._datapath.put_vip(vip))

    async def put_vip(self, vip: MuxVip, *, announce: bool) -> Change:
        """See `MuxService`."""
        return self._put_vip(vip)

    async def edit_vip(self, address: IPv4Address, edit: Callable[[MuxVip], MuxVip]) -> Change:
        """See `MuxService`."""
        return self._put_vip(edit(self._vip(address)))

    async def delete_vip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        self._vip(address)
        self._vip_journal.delete(address)
        del self._vips[address]
        return self._deleted(address, self._datapath.delete_vip(address))

    async def announce_vip(self, address: IPv4Address) -> Change:
        """Nothing is to be done: the covering prefix announces every VIP."""
        return self._unchanged(self._vip(address).address)

    async def withdraw_vip(self, address: IPv4Address) -> Change:
        """Refuse: a covering prefix cannot leave out one address."""
        raise self._cannot_withdraw("VIP", self._vip(address).address)

    async def vips(self) -> list[VipState]:
        """See `MuxService`."""
        return [VipState(vip=self._vips[address], announced=True) for address in sorted(self._vips)]

    async def put_tip(self, tip: MuxTip, *, announce: bool) -> Change:
        """See `MuxService`."""
        self._check_address("TIP", tip.address, "VIP", self._vips)
        old = self._tips.get(tip.address)
        self._tip_journal.put(tip.address, tip)
        try:
            written = self._datapath.put_tip(tip)
        except TableFullError as error:
            self._tip_journal.restore(tip.address, old)
            raise ConflictError(f"TIP {tip.address}: {error}", "table-full") from error
        self._tips[tip.address] = tip
        return self._written(tip.address, written)

    async def delete_tip(self, address: IPv4Address) -> Change:
        """See `MuxService`."""
        self._tip(address)
        self._tip_journal.delete(address)
        del self._tips[address]
        return self._deleted(address, self._datapath.delete_tip(address))

    async def announce_tip(self, address: IPv4Address) -> Change:
        """Nothing is to be done: the covering prefix announces every TIP."""
        return self._unchanged(self._tip(address).address)

    async def withdraw_tip(self, address: IPv4Address) -> Change:
        """Refuse: a covering prefix cannot leave out one address."""
        raise self._cannot_withdraw("TIP", self._tip(address).address)

    async def tips(self) -> list[TipState]:
        """See `MuxService`."""
        return [TipState(tip=self._tips[address], announced=True) for address in sorted(self._tips)]

    async def status(self) -> MuxStatus:
        """See `MuxService`."""
        return MuxStatus(
            name=self._name,
            kind="smux",
            target=self._target,
            uptime_s=time.monotonic() - self._started,
            vips=len(self._vips),
            tips=len(self._tips),
            announced=len(self._vips) + len(self._tips),
            tables={n: TableUse(used=u, size=s) for n, (u, s) in self._datapath.table_use().items()},
            ports=tuple(self._surroundings.ports()),
            sessions=tuple(await self._surroundings.sessions()),
            writes=self._writes,
        )

    async def counters(self) -> MuxCounters:
        """See `MuxService`."""
        vips = (
            VipCount(
                address=service.address,
                protocol=service.protocol,
                port=service.port,
                packets=traffic.packets,
                bytes=traffic.bytes,
            )
            for service, traffic in self._datapath.service_traffic().items()
        )
        tunnels = (
            TunnelCount(address=address, packets=traffic.packets, bytes=traffic.bytes)
            for address, traffic in self._datapath.tunnel_traffic().items()
        )
        return MuxCounters(
            vips=tuple(
                sorted(vips, key=lambda count: (count.address, count.port or 0, count.protocol or ""))
            ),
            tunnels=tuple(sorted(tunnels, key=lambda count: count.address)),
            drops={
                name.removeprefix("DROP_").lower(): traffic.packets
                for name, traffic in self._datapath.exits().items()
                if name.startswith("DROP_")
            },
        )

    def _put_vip(self, vip: MuxVip) -> Change:
        self._check_address("VIP", vip.address, "TIP", self._tips)
        old = self._vips.get(vip.address)
        self._vip_journal.put(vip.address, vip)
        try:
            written = self._datapath.put_vip(vip)
        except TableFullError as error:
            self._vip_journal.restore(vip.address, old)
            raise ConflictError(f"VIP {vip.address}: {error}", "table-full") from error
        self._vips[vip.address] = vip
        return self._written(vip.address, written)

    def _check_address(
        self,
        what: str,
        address: IPv4Address,
        other: str,
        others: dict[IPv4Address, MuxTip] | dict[IPv4Address, MuxVip],
    ) -> None:
        if address in others:
            raise ConflictError(f"{address} cannot be a {what}: it is a {other} here")
        if not any(address in prefix for prefix in self._announced):
            prefixes = ", ".join(map(str, self._announced))
            raise InvalidError(
                f"{what} {address} is in none of the prefixes that this SMux announces: {prefixes}"
            )

    def _vip(self, address: IPv4Address) -> MuxVip:
        if address not in self._vips:
            raise UnknownError(f"VIP {address} is not on this mux")
        return self._vips[address]

    def _tip(self, address: IPv4Address) -> MuxTip:
        if address not in self._tips:
            raise UnknownError(f"TIP {address} is not on this mux")
        return self._tips[address]

    def _cannot_withdraw(self, what: str, address: IPv4Address) -> ConflictError:
        return ConflictError(
            f"{what} {address} is announced by a covering prefix, which cannot leave it out: delete it"
        )

    def _count(self, written: Written) -> Written:
        self._writes += written.updates
        return written

    def _written(self, address: IPv4Address, written: Written) -> Change:
        self._count(written)
        return Change(
            address=address,
            announced=True,
            updates=written.updates,
            timings_ms={"add_dips": written.dips_ms, "add_vip": written.vip_ms, "announce": 0.0},
        )

    def _deleted(self, address: IPv4Address, written: Written) -> Change:
        self._count(written)
        return Change(
            address=address,
            announced=False,
            updates=written.updates,
            timings_ms={"withdraw": 0.0, "delete_vip": written.vip_ms, "delete_dips": written.dips_ms},
        )

    def _unchanged(self, address: IPv4Address) -> Change:
        return Change(address=address, announced=True, updates=0, timings_ms={})
