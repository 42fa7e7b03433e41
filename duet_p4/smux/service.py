"""What the SMux agent does for REST: keeps data path and journal in step.

What is put is written down first, then given to the data path; what that has no room for is taken back.
So whatever an answer says is there survives the process, and an agent that starts again holds as much.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol as Interface

from duet_p4 import telemetry
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
from duet_p4.api.problems import ConflictError, InvalidError, ProblemError
from duet_p4.holdings import Outcome, breathe
from duet_p4.journal import Held
from duet_p4.model import MuxTip, MuxVip
from duet_p4.mux_keeper import MuxKeeper
from duet_p4.smux.datapath import Datapath, Written
from duet_p4.smux.prober import Prober
from duet_p4.term import Terms

logger = logging.getLogger(__name__)


class Surroundings(Interface):
    """What the service is told of the world beside the data path."""

    def ports(self) -> Sequence[PortStatus]:
        """Return the uplinks."""

    async def sessions(self) -> Sequence[SessionStatus]:
        """Return the BGP sessions."""

    def draining(self) -> bool:
        """Return whether neighbours are asked to prefer any other SMux."""

    def trouble(self) -> str:
        """Return what is wrong, or nothing."""


class SmuxService(MuxKeeper):
    """A `MuxService`. The SMux announces covering prefixes, so whatever it holds counts as announced."""

    def __init__(
        self,
        name: str,
        target: str,
        datapath: Datapath,
        announced: Sequence[IPv4Network],
        state_dir: Path,
        surroundings: Surroundings,
        terms: Terms,
        prober: Prober | None = None,
    ) -> None:
        """Have what was asked for before forwarded, as far as there is room, and its DIPs checked."""
        super().__init__(name, state_dir, terms)
        self._name = name
        self._target = target
        self._datapath = datapath
        self._announced = announced
        self._surroundings = surroundings
        self._prober = prober
        self._started = time.monotonic()
        self._writes = 0
        self._restore()

    @property
    def problem(self) -> str:
        """What is wrong around the data path, and what of the journal was lost or has no room; or nothing."""
        return "; ".join(filter(None, (self._surroundings.trouble(), super().problem)))

    async def status(self) -> MuxStatus:
        """See `MuxService`."""
        return MuxStatus(
            name=self._name,
            kind="smux",
            target=self._target,
            uptime_s=time.monotonic() - self._started,
            vips=self._holdings.count(MuxVip),
            tips=self._holdings.count(MuxTip),
            announced=self.digest().announced,
            tables={n: TableUse(used=u, size=s) for n, (u, s) in self._datapath.table_use().items()},
            ports=tuple(self._surroundings.ports()),
            sessions=tuple(await self._surroundings.sessions()),
            writes=self._writes,
            synced=self.synced,
            draining=self._surroundings.draining(),
            health=self.problem or "ready",
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

    def host_ports(self) -> list[HostPort]:
        """Return nothing: no host hangs at an SMux."""
        return []

    def _restore(self) -> None:
        """Give the data path what the journal has, TIPs first."""
        for kind in (MuxTip, MuxVip):
            for held in self._holdings.of_kind(kind):
                address = held.entry.address
                try:
                    self._count(self._forward(held.entry))
                except (TableFullError, OSError) as error:
                    self._unplaced[address] = str(error)
                    self._holdings.forget(address)
                    logger.error("%s of the journal cannot be served: %s", address, error)
                else:
                    self._check(held.entry)

    async def _put(self, entries: Sequence[tuple[MuxEntry, bool]], outcome: Outcome) -> None:
        """See `Keeper`."""
        good: dict[IPv4Address, Held[MuxEntry]] = {}
        for entry, _ in sorted(entries, key=lambda one: self._turn(one[0])):
            problem = self._problem_of(entry)
            if problem is not None:
                outcome.problems[entry.address] = problem
            elif (held := self._holdings.get(entry.address)) and held.entry == entry:
                outcome.changes[entry.address] = self._unchanged(entry.address)
            else:
                good[entry.address] = Held(entry, announced=True)
        await self._holdings.write_down(good)
        failed: dict[IPv4Address, Held[MuxEntry] | None] = {}
        for position, (address, held) in enumerate(good.items()):
            old = self._holdings.get(address)
            try:
                written = self._count(self._forward(held.entry))
            except (TableFullError, OSError) as error:
                failed[address] = old
                kind = "TIP" if isinstance(held.entry, MuxTip) else "VIP"
                outcome.problems[address] = ConflictError(f"{kind} {address}: {error}", "table-full")
                if isinstance(error, OSError):
                    self._take_back(address, old)
                continue
            self._unplaced.pop(address, None)
            self._holdings.note({address: held})
            self._check(held.entry)
            outcome.changes[address] = Change(
                address=address,
                announced=True,
                updates=written.updates,
                timings_ms={"add_dips": written.dips_ms, "add_vip": written.vip_ms, "announce": 0.0},
            )
            await breathe(position)
        await self._holdings.write_down(failed)

    def _turn(self, entry: MuxEntry) -> int:
        """Say when an entry is put, so that no flow is led elsewhere meanwhile.

        A TIP that is new is there before its VIP leads to it; one that changes does so after its VIP has
        pinned the flows that it leads elsewhere from then on.
        """
        if isinstance(entry, MuxVip):
            return 1
        return 2 if self._holdings.get(entry.address) else 0

    async def _delete(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """See `Keeper`."""
        await self._holdings.write_down(dict.fromkeys(addresses))
        for position, address in enumerate(addresses):
            held = self._holdings.get(address)
            assert held is not None
            if isinstance(held.entry, MuxVip):
                written = self._count(self._datapath.delete_vip(address))
            else:
                written = self._count(self._datapath.delete_tip(address))
            self._holdings.note({address: None})
            if self._prober:
                self._prober.delete(address)
            outcome.changes[address] = Change(
                address=address,
                announced=False,
                updates=written.updates,
                timings_ms={"withdraw": 0.0, "delete_vip": written.vip_ms, "delete_dips": written.dips_ms},
            )
            await breathe(position)

    async def _announce(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Nothing is to be done: the covering prefix announces whatever is held."""
        outcome.changes.update({address: self._unchanged(address) for address in addresses})

    async def _withdraw(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Refuse: a covering prefix cannot leave out one address."""
        for address in addresses:
            outcome.problems[address] = ConflictError(
                f"{address} is announced by a covering prefix, which cannot leave it out: delete it"
            )

    def _forward(self, entry: MuxEntry) -> Written:
        with telemetry.span("BPF map writes", duet__address=str(entry.address)) as span:
            if isinstance(entry, MuxVip):
                written = self._datapath.put_vip(entry)
            else:
                written = self._datapath.put_tip(entry)
            if span is not None:
                telemetry.put(span, bpf__updates=written.updates)
            return written

    def _check(self, entry: MuxEntry) -> None:
        if self._prober:
            self._prober.put(entry)

    def _take_back(self, address: IPv4Address, old: Held[MuxEntry] | None) -> None:
        """Have the data path as it was before a write that the kernel refused half-way."""
        try:
            if old is not None:
                self._forward(old.entry)
        except (TableFullError, OSError) as error:
            self._unplaced[address] = str(error)
            logger.error("%s cannot be restored: %s", address, error)

    def _problem_of(self, entry: MuxEntry) -> ProblemError | None:
        address = entry.address
        what, other = ("VIP", "TIP") if isinstance(entry, MuxVip) else ("TIP", "VIP")
        held = self._holdings.get(address)
        if held is not None and type(held.entry) is not type(entry):
            return ConflictError(f"{address} cannot be a {what}: it is a {other} here", "address-in-use")
        if not any(address in prefix for prefix in self._announced):
            prefixes = ", ".join(map(str, self._announced))
            return InvalidError(
                f"{what} {address} is in none of the prefixes that this SMux announces: {prefixes}"
            )
        return None

    def _count(self, written: Written) -> Written:
        self._writes += written.updates
        return written

    def _unchanged(self, address: IPv4Address) -> Change:
        return Change(address=address, announced=True, updates=0, timings_ms={})
