"""What the host agent does for REST: keeps data path, checks and journal in step."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from duet_p4 import telemetry
from duet_p4.allocation import TableFullError
from duet_p4.api.changes import Action, Change, Changed
from duet_p4.api.health import HealthReport
from duet_p4.api.host import HostChanges, HostPort, HostState, HostStatus, HostVip, LiveFlow, Meter, Source
from duet_p4.api.problems import ConflictError
from duet_p4.health.checks import Dial, connect
from duet_p4.health.monitor import HealthMonitor, Target
from duet_p4.holdings import Holdings, Keeper, Outcome, Wish
from duet_p4.host_agent.config import HostConfig
from duet_p4.host_agent.connections import live_connections
from duet_p4.host_agent.datapath import EXITS, Exhausted, HostDatapath
from duet_p4.journal import Held, Journal
from duet_p4.model import Checked
from duet_p4.term import Terms
from duet_p4.traffic import describe

logger = logging.getLogger(__name__)

_PRESSED_S = 60.0
"""How long ports for outgoing connections count as scarce after the last one was not found."""

_LATELY_S = 10.0
"""Who found no port within it is told of; longer than between two looks."""

_TOLD = 3


class HostService(Keeper[HostVip]):
    """A `HostService` of `duet_p4.api.host`. What a server serves counts as announced."""

    def __init__(
        self,
        config: HostConfig,
        datapath: HostDatapath,
        terms: Terms,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve what was asked for before, as far as there is room. Raises `JournalError`."""
        journal = Journal(config.state_dir / "journal.db", {"vip": HostVip})
        super().__init__(config.name, Holdings(journal), terms)
        self._config = config
        self._datapath = datapath
        self._monitor = HealthMonitor(_dial, changed)
        self._started = time.monotonic()
        self._writes = 0
        self._outgoing = 0
        self._full = datapath.exits()["DROP_SNAT_FULL"].packets
        self._full_since = -_PRESSED_S
        self._scarce = ""
        self._restore()

    @property
    def problem(self) -> str:
        """What of the data path or the journal was lost or has no room, or nothing."""
        bare = [self._scarce] if self._is_pressed else []
        bare += [
            f"the data path is not on {name} any more: packets to DIPs get lost"
            for name in self._config.interfaces
            if not self._datapath.serves(name)
        ]
        return "; ".join(filter(None, (*bare, super().problem)))

    async def put(self, entry: HostVip) -> Change:
        """See `duet_p4.api.host`."""
        return await self.carry_out_one(Action.PUT, Wish(put=[(entry, True)]))

    async def delete(self, address: IPv4Address) -> Change:
        """See `duet_p4.api.host`."""
        return await self.carry_out_one(Action.DELETE, Wish(delete=[address]))

    async def change(self, changes: HostChanges) -> Changed:
        """See `duet_p4.api.host`."""
        return await self.carry_out(Wish(delete=changes.delete, put=[(vip, True) for vip in changes.put]))

    async def become(self, wanted: HostState) -> Changed:
        """See `duet_p4.api.host`."""
        return await self.hold_just({vip.address: Held(vip, announced=True) for vip in wanted.vips})

    def vips(self) -> list[HostVip]:
        """See `duet_p4.api.host`."""
        return [held.entry for _, held in self._holdings.items()]

    def vip(self, address: IPv4Address) -> HostVip:
        """See `duet_p4.api.host`."""
        return self.known(address, HostVip, "VIP").entry

    async def live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        """See `duet_p4.api.host`."""
        self.vip(address)
        return await asyncio.to_thread(self._live_flows, address)

    def _live_flows(self, address: IPv4Address) -> list[LiveFlow]:
        return [
            LiveFlow(
                protocol=flow.protocol,
                source=flow.source,
                source_port=flow.source_port,
                destination_port=port,
                dip=flow.destination,
                idle_s=round(idle_s, 3),
            )
            for (flow, idle_s), vip, port in self._datapath.live_flows(live_connections())
            if vip == address
        ]

    def health(self) -> HealthReport:
        """See `duet_p4.api.host`."""
        return HealthReport(reporter=self._config.name, dips=tuple(self._monitor.health()))

    def meters(self) -> list[Meter]:
        """See `duet_p4.api.host`."""
        return self._datapath.meters()

    def sources(self) -> list[Source]:
        """See `duet_p4.api.host`."""
        return self._datapath.sources()

    def status(self) -> HostStatus:
        """See `duet_p4.api.host`."""
        return HostStatus(
            name=self._config.name,
            uptime_s=time.monotonic() - self._started,
            vips=len(self._holdings),
            interfaces=self._config.interfaces,
            snat_connections=self._outgoing,
            exits=describe(self._datapath.exits(), EXITS),
            writes=self._writes,
            synced=self.synced,
            health=self.problem or "ready",
        )

    async def expire(self) -> None:
        """Forget idle outgoing connections, and note whether ports for them run out."""
        now = time.monotonic()
        full = self._datapath.exits()["DROP_SNAT_FULL"].packets
        if full > self._full:
            if not self._is_pressed:
                self._scarce = _scarce(self._datapath.exhausted(_LATELY_S))
                logger.warning("%s", self._scarce)
            self._full, self._full_since = full, now
        idle = await asyncio.to_thread(
            self._datapath.idle, self._config.snat_timeouts, pressed=self._is_pressed
        )
        self._outgoing = idle.live
        self._datapath.forget(idle)

    @property
    def _is_pressed(self) -> bool:
        return time.monotonic() - self._full_since < _PRESSED_S

    async def close(self) -> None:
        """Stop the checks."""
        await self._monitor.close()
        self._holdings.close()

    def _replace(self, vips: Sequence[HostVip]) -> int:
        """Have the data path serve VIPs; connections that their DIPs have already stay whose they were."""
        with telemetry.span("BPF map writes", duet__vips=len(vips)) as span:
            updates = self._datapath.replace(vips, connections=live_connections)
            if span is not None:
                telemetry.put(span, bpf__updates=updates)
        return updates

    def _restore(self) -> None:
        wanted = self.vips()
        try:
            self._writes += self._datapath.replace(wanted)
            served = wanted
        except (TableFullError, OSError):
            served = [vip for vip in wanted if self._fits(vip)]
        for vip in served:
            self._monitor.put_vip(vip.address, targets(vip))

    def _fits(self, vip: HostVip) -> bool:
        try:
            self._writes += self._datapath.replace([vip])
        except (TableFullError, OSError) as error:
            self._unplaced[vip.address] = str(error)
            self._holdings.forget(vip.address)
            logger.error("VIP %s of the journal cannot be served: %s", vip.address, error)
            return False
        return True

    async def _put(self, entries: Sequence[tuple[HostVip, bool]], outcome: Outcome) -> None:
        """See `Keeper`. All at once where there is room for all."""
        good: dict[IPv4Address, Held[HostVip]] = {}
        for vip, _ in entries:
            held = self._holdings.get(vip.address)
            if held is not None and held.entry == vip:
                outcome.changes[vip.address] = _change(vip.address, 0, 0.0)
            else:
                good[vip.address] = Held(vip, announced=True)
        await self._holdings.write_down(good)
        began = time.perf_counter()
        refused: dict[IPv4Address, Held[HostVip] | None] = {}
        try:
            updates = self._replace([held.entry for held in good.values()])
            counts = dict.fromkeys(good, 0) | ({next(iter(good)): updates} if good else {})
        except (TableFullError, OSError):
            counts = {}
            for address, held in good.items():
                try:
                    counts[address] = self._replace([held.entry])
                except (TableFullError, OSError) as error:
                    refused[address] = self._holdings.get(address)
                    outcome.problems[address] = ConflictError(f"VIP {address}: {error}", "table-full")
        elapsed_ms = (time.perf_counter() - began) * 1e3
        for address, updates in counts.items():
            self._unplaced.pop(address, None)
            self._holdings.note({address: good[address]})
            self._monitor.put_vip(address, targets(good[address].entry))
            self._writes += updates
            outcome.changes[address] = _change(address, updates, elapsed_ms)
        await self._holdings.write_down(refused)

    async def _delete(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """See `Keeper`."""
        await self._holdings.write_down(dict.fromkeys(addresses))
        began = time.perf_counter()
        updates = self._datapath.replace([], addresses, live_connections)
        elapsed_ms = (time.perf_counter() - began) * 1e3
        self._writes += updates
        for address in addresses:
            self._holdings.note({address: None})
            self._monitor.delete_vip(address)
            outcome.changes[address] = _change(address, updates, elapsed_ms, announced=False)
            updates = 0

    async def _announce(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Nothing is to be done: a server announces nothing."""
        outcome.changes.update({address: _change(address, 0, 0.0) for address in addresses})

    async def _withdraw(self, addresses: Sequence[IPv4Address], outcome: Outcome) -> None:
        """Refuse: a server announces nothing."""
        for address in addresses:
            outcome.problems[address] = ConflictError(f"{address} is not announced by a server: delete it")


def _scarce(found: Sequence[Exhausted]) -> str:
    """Say that ports run out, and who found none."""
    some = ", ".join(map(str, found[:_TOLD]))
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    return f"outgoing connections (SNAT) find no free port, too many are to one destination: {some}{more}"


def _change(address: IPv4Address, updates: int, elapsed_ms: float, *, announced: bool = True) -> Change:
    return Change(address=address, announced=announced, updates=updates, timings_ms={"data_path": elapsed_ms})


def targets(vip: HostVip) -> dict[Checked, Target]:
    """Return whom a VIP's checks ask on this server, and what."""
    found = {}
    if vip.health is not None:
        found = {Checked(dip.address): Target(vip.health) for dip in vip.dips if dip.checked}
    for check in vip.port_checks:
        port = HostPort(protocol=check.protocol, port=check.port)
        for dip in vip.dips:
            if port in dip.ports:
                found[Checked(dip.address, check.name)] = Target(check.what)
    return found


def _dial(vip: IPv4Address, dip: IPv4Address, target: Target) -> Dial:
    """Ask a DIP from its own server, as packets of clients come once they are decapsulated."""
    return lambda protocol, port: connect(protocol, dip, port)
