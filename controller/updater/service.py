"""The updater at work: every change of what is wanted, and every repair of what is there.

A change is first made in the store, then on the devices; a crash in between is healed by `resync`,
which reads the devices back and repairs only what differs. Changes that would move live flows to
another DIP take the paper's detour: the VIP goes to the SMuxes, whose connection tables hold its
flows; those that the new slots would move are pinned; then the VIP returns to its switch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from enum import StrEnum
from ipaddress import IPv4Address
from typing import TypeVar

from pydantic import ValidationError

from controller.events import EventLog
from controller.inventory import Inventory
from controller.store import Carried, Store, VipRecord
from controller.updater.devices import Device
from controller.updater.executor import Outcome, execute, is_table_full
from controller.updater.layout import LayoutError, TipAllocator, change, is_current, lay_out, tip_allocator
from controller.updater.pinning import disturbs, pinned
from controller.updater.plan import DeviceKind, DeviceState, Entry, Plan, plan_update
from controller.updater.wanted import mux_entries, wanted_states
from duet_p4.api.host import LiveFlow
from duet_p4.api.problems import ConflictError, InvalidError, UnknownError
from duet_p4.model import Dip, Model, MuxVip, Vip
from duet_p4.rest.client import RestError

logger = logging.getLogger(__name__)

Placer = Callable[[VipRecord], Awaitable[Mapping[IPv4Address, str | None]]]
"""Asks the engine where a VIP and its TIPs go, while everything else stays. May raise `RestError`."""

FlowSource = Callable[[VipRecord], Awaitable[list[LiveFlow]]]
"""Asks the host agents of a VIP's DIPs for its live flows."""


_Carried = TypeVar("_Carried", bound=Carried)

_Load = tuple[str, dict[IPv4Address, Entry]]
"""A switch, and all that it was asked to hold."""


class Placement(Model):
    """Where one VIP or TIP shall live; None leaves it to the SMuxes."""

    address: IPv4Address
    switch: str | None


class DeviceReach(StrEnum):
    """What monitoring says of a device: `lost` is `unreachable` for so long that others step in."""

    READY = "ready"
    UNREACHABLE = "unreachable"
    LOST = "lost"


class Report(Model):
    """What an update did: steps done and failed, table entries written, duration of each wave (ms)."""

    done: int
    failed: tuple[str, ...] = ()
    writes: int
    wave_ms: dict[str, float]


class Updater:
    """Keeps switches, SMuxes and servers in step with the store."""

    def __init__(
        self,
        store: Store,
        events: EventLog,
        inventory: Inventory,
        devices: Mapping[str, Device],
        live_flows: FlowSource,
        place: Placer,
    ) -> None:
        self._store = store
        self._events = events
        self._inventory = inventory
        self._devices = devices
        self._live_flows = live_flows
        self._engine_places = place
        self._unreachable: set[str] = set()
        self._dirty: set[str] = set()
        self._refused: dict[IPv4Address, _Load] = {}
        self._told: dict[IPv4Address, _Load] = {}
        self._repair_due = asyncio.Event()
        self._lock = asyncio.Lock()
        self.fan_out = min(switch.tables.tunneling for switch in inventory.switches)

    # What is wanted

    def vips(self) -> list[VipRecord]:
        """Return every wanted VIP."""
        return list(self._store.vips().values())

    def vip(self, address: IPv4Address) -> VipRecord:
        """Return one wanted VIP, or raise `UnknownError`."""
        record = self._store.vip(address)
        if record is None:
            raise UnknownError(f"there is no VIP {address}")
        return record

    def placements(self) -> tuple[Placement, ...]:
        """Return where every VIP and TIP shall live."""
        return tuple(
            Placement(address=address, switch=switch)
            for record in self.vips()
            for address, (_, switch) in mux_entries(record).items()
        )

    async def add_vip(self, spec: Vip, switch: str | None = None, *, by_hand: bool = False) -> VipRecord:
        """Add a VIP and bring it up where the engine says; or, `by_hand`, on `switch` (None: the SMuxes).

        Raises `ConflictError` where the VIP exists, and `RestError` where the engine is away.
        """
        if switch is not None:
            self.check_switch(switch)
        async with self._lock:
            if self._store.vip(spec.address):
                raise ConflictError(f"VIP {spec.address} exists already", "duplicate-vip")
            record = self._lay_out(spec, self._store.down_dips(spec.address))
            if by_hand:
                record = record.model_copy(update={"switch": switch, "held": True})
            if not by_hand or record.tips:
                record = _placed(record, await self._homes(record))
            record = self._waiting_for_unreachable(record, record.carried())
            self._store.put_vips([record])
            self._events.add("vip-added", str(spec.address), dips=len(spec.all_dips()), switch=record.switch)
            outcome = await self._apply([], [record])
        return record if outcome.ok else self.vip(spec.address)

    def check_switch(self, name: str) -> None:
        """Raise `UnknownError` unless a switch has that name."""
        names = sorted(switch.name for switch in self._inventory.switches)
        if name not in names:
            raise UnknownError(f"no switch is called {name!r}; there are {', '.join(names)}")

    async def change_vip(self, spec: Vip) -> VipRecord:
        """Replace a VIP's DIPs, weights or options. Live flows of DIPs that stay are kept."""
        async with self._lock:
            old = self.vip(spec.address)
            self._lay_out(spec)
            await self._change(old, spec)
            return self.vip(spec.address)

    async def drain_dip(self, vip: IPv4Address, dip: IPv4Address) -> VipRecord:
        """Set a DIP's weight to 0 in every group of a VIP: it keeps its flows and gets no new ones."""

        def drained(dips: tuple[Dip, ...]) -> tuple[Dip, ...]:
            return tuple(d.model_copy(update={"weight": 0}) if d.address == dip else d for d in dips)

        async with self._lock:
            old = self.vip(vip)
            spec = old.spec
            if all(known.address != dip for known in spec.all_dips()):
                raise UnknownError(f"VIP {vip} has no DIP {dip}")
            fields = {
                **spec.model_dump(),
                "dips": drained(spec.dips),
                "ports": [{**port.model_dump(), "dips": drained(port.dips)} for port in spec.ports],
            }
            try:
                wanted = Vip.model_validate(fields)
            except ValidationError as error:
                raise ConflictError(
                    f"DIP {dip} is the last one of VIP {vip} that takes flows", "no-dips"
                ) from error
            await self._change(old, wanted)
            return self.vip(vip)

    async def remove_vip(self, address: IPv4Address) -> None:
        """Remove a VIP from switches first, then from the SMuxes."""
        async with self._lock:
            record = self.vip(address)
            self._store.delete_vip(address)
            self._events.add("vip-removed", str(address))
            await self._apply([record], [])

    async def place(self, placements: Iterable[Placement], *, by_hand: bool = False) -> Report:
        """Move VIPs and TIPs to where `placements` says, in two waves through the SMuxes.

        What is placed `by_hand` stays there: later placements that are not leave it alone. Its TIPs get
        other homes where they have none, or are in its way.
        """
        async with self._lock:
            before, after = self._with_placements({p.address: p.switch for p in placements}, by_hand)
            if by_hand:
                after = [await self._with_tips_homed(record) for record in after]
            self._store.put_vips(after)
            outcome = await self._apply(before, after)
            for record in after:
                now = self.vip(record.address)
                self._events.add(
                    "vip-placed", str(record.address), switch=now.switch, waits_for=now.returning
                )
            return self._report(outcome, after)

    async def release(self, address: IPv4Address) -> VipRecord:
        """Let the engine place a VIP again that was placed by hand; until it does, the VIP stays."""
        async with self._lock:
            record = self.vip(address).model_copy(update={"held": False})
            self._store.put_vips([record])
            self._events.add("vip-released", str(address))
            return record

    async def plan(self, placements: Iterable[Placement]) -> Plan:
        """Return what `place` would do, without doing it."""
        async with self._lock:
            _, after = self._with_placements({p.address: p.switch for p in placements}, by_hand=False)
            records = {**self._store.vips(), **{record.address: record for record in after}}
            wanted = wanted_states(records.values(), self._inventory)
            return plan_update(wanted, await self._observe(wanted))

    # What happens to it

    async def set_dip_health(
        self, dips: Iterable[IPv4Address], *, up: bool, vip: IPv4Address | None = None
    ) -> None:
        """Take DIPs out of a VIP's service (None: of every VIP's), or back into it.

        Their health is remembered over restarts; should a restart come in between, `settle` does the rest.
        """
        async with self._lock:
            records = [self.vip(vip)] if vip else self.vips()
            changed = self._store.set_dips_down(dips, not up, vip)
            serving = {r.address: changed & {dip.address for dip in r.spec.all_dips()} for r in records}
            for dip in sorted(set[IPv4Address]().union(*serving.values())):
                count = sum(dip in own for own in serving.values())
                self._events.add("dip-up" if up else "dip-down", str(dip), vips=count)
            for record in records:
                if serving[record.address]:
                    await self._change(record, record.spec)

    async def set_reach(self, device: str, reach: DeviceReach) -> None:
        """Note whether a device answers. One that does not gets no requests; one that does again is repaired
        by the next `repair`.

        A switch that is lost gives up what the engine put there, and what waits to return to it: each goes
        where the engine says now. What an operator put there by hand waits on the SMuxes for it to come back.
        """
        if device not in self._devices:
            raise UnknownError(f"no device is called {device!r}")
        if reach is DeviceReach.READY:
            if device in self._unreachable:
                self._unreachable.discard(device)
                self._events.add("device-back", device)
                async with self._lock:
                    self._store.put_vips(self._come_home(device))
            self._note_dirty(device)
            await self._set_server_health(device, up=True)
            return
        if device not in self._unreachable:
            self._unreachable.add(device)
            self._events.add("device-unreachable", device)
            await self._set_server_health(device, up=False)
        if reach is DeviceReach.LOST:
            async with self._lock:
                homes = {
                    address: record
                    for record in self.vips()
                    for address, carried in record.carried().items()
                    if carried.home == device
                }
                self._store.put_vips(
                    _put(record, {address: (None, device)})
                    for address, record in homes.items()
                    if record.held and address == record.address
                )
            stranded = [a for a, record in homes.items() if not record.held or a != record.address]
            self._events.add("device-lost", device, vips=len(homes), waiting=len(homes) - len(stranded))
            await self.place(Placement(address=address, switch=None) for address in stranded)
            for owner in sorted({self._owner(address) for address in stranded}):
                target = await self._homes(self.vip(owner))
                wanted = [Placement(address=a, switch=s) for a, s in target.items() if a in stranded]
                await self.place(wanted)

    def _come_home(self, device: str) -> list[VipRecord]:
        """Return the records of what waits for a switch that is back; `repair` does the rest."""
        records = [
            (record, {a: (s, None) for a, s in self._returning(record).items() if s == device})
            for record in self.vips()
        ]
        return [_put(record, where) for record, where in records if where]

    def _waiting_for_unreachable(self, record: VipRecord, placed: Collection[IPv4Address]) -> VipRecord:
        """Return a record in which what was `placed` on a switch that does not answer waits for it."""
        return _put(
            record,
            {
                address: (None, carried.switch)
                for address, carried in record.carried().items()
                if address in placed and carried.switch in self._unreachable
            },
        )

    async def _set_server_health(self, device: str, *, up: bool) -> None:
        """A server whose agent is gone decapsulates nothing: its DIPs go down with it, and come back."""
        for server in self._inventory.servers:
            if server.name == device:
                await self.set_dip_health(server.dips, up=up)

    def _owner(self, address: IPv4Address) -> IPv4Address:
        return next(record.address for record in self.vips() if address in record.carried())

    async def resync(self, only: Iterable[str] | None = None) -> Report:
        """Read devices back (all, or `only` some) and repair what differs from the store."""
        async with self._lock:
            wanted = wanted_states(self._store.vips().values(), self._inventory)
            if only is None:
                self._refused.clear()
            else:
                wanted = {name: wanted[name] for name in only}
            observed = await self._observe(wanted)
            self._dirty -= set(observed)
            plan = plan_update(wanted, observed)
            outcome = await execute(plan, wanted, self._devices)
            self._note_failures(outcome)
            if plan.steps:
                self._events.add("resync", "controller", steps=len(plan.steps), writes=outcome.writes)
            return self._report(outcome)

    async def repair(self) -> None:
        """Wait until some device may differ from what is wanted, then read those back and repair them.

        A device that could not be read back is due again: it may be back before monitoring misses it.
        """
        await self._repair_due.wait()
        self._repair_due.clear()
        try:
            await self.resync(self._dirty - self._unreachable)
        finally:
            if self._dirty - self._unreachable:
                self._repair_due.set()

    def _note_dirty(self, device: str) -> None:
        self._dirty.add(device)
        self._repair_due.set()

    async def settle(self) -> None:
        """Unpin flows that have ended, and return VIPs and TIPs to the switch that they wait for.

        A VIP whose layout is behind the health of its DIPs, as after a kill, is brought up to it.
        """
        async with self._lock:
            for record in self.vips():
                if not is_current(record, self._store.down_dips(record.address)):
                    await self._change(record, record.spec)
                    continue
                if not record.layout.pinned and not self._returning(record):
                    continue
                try:
                    flows = await self._live_flows(record)
                except RestError as error:
                    logger.warning(
                        "VIP %s stays as it is: its live flows are unknown: %s", record.address, error
                    )
                    continue
                await self._return(record, flows)

    # How

    def _lay_out(self, spec: Vip, down: Collection[IPv4Address] = ()) -> VipRecord:
        """Spell a VIP out afresh, without DIPs that are down; `InvalidError` for what no layout can serve."""
        if spec.address not in self._inventory.vip_prefix:
            raise InvalidError(f"VIP {spec.address} is outside the VIP prefix {self._inventory.vip_prefix}")
        for dip in spec.all_dips():
            if not self._inventory.has_host(dip.encap):
                raise InvalidError(f"VIP {spec.address}: no server has the address of DIP {dip.encap}")
            for prefix in (self._inventory.vip_prefix, self._inventory.tip_prefix):
                if dip.address in prefix:
                    raise InvalidError(f"VIP {spec.address}: DIP {dip.address} lies in {prefix}, no server's")
        try:
            return lay_out(spec, self.fan_out, self._tips(), down)
        except LayoutError as error:
            raise InvalidError(str(error)) from error

    async def _change(self, old: VipRecord, spec: Vip) -> None:
        down = self._store.down_dips(spec.address)
        new = change(old, spec, down, self.fan_out, self._tips(), lean=old.switch is None)
        new = new.model_copy(update={"revision": old.revision + 1})
        if not disturbs(old, new):
            new = pinned(new, old.layout.pinned)
            self._store.put_vips([new])
            self._events.add("vip-changed", str(spec.address), dips=len(spec.all_dips()))
            await self._apply([old], [new])
            return
        detour = old.model_copy(update={"switch": None, "returning": old.home})
        self._store.put_vips([detour])
        await self._apply([old], [detour])
        new = new.model_copy(update={"switch": None, "returning": detour.returning})
        if new.carried().keys() - old.carried().keys():
            new = await self._rehomed(new)
        new = pinned(new, await self._live_flows(old))
        self._store.put_vips([new])
        self._events.add(
            "vip-changed", str(spec.address), dips=len(spec.all_dips()), pinned=len(new.layout.pinned)
        )
        await self._apply([detour], [new])
        await self._return(new, await self._live_flows(new))

    async def _rehomed(self, record: VipRecord) -> VipRecord:
        """Return a VIP that got new TIPs with homes for all, where it waits for its own."""
        homes = await self._homes_if_known(record)
        if not homes:
            return record
        waiting = {"switch": None, "returning": homes.pop(record.address)}
        return _placed(record, homes).model_copy(update=waiting)

    async def _with_tips_homed(self, record: VipRecord) -> VipRecord:
        """Return a VIP that was placed by hand with homes for those of its TIPs that have none."""
        homeless = {placed.tip.address for placed in record.tips if placed.home is None}
        if record.home is None or not homeless:
            return record
        homes = await self._homes_if_known(record)
        return _placed(record, {address: s for address, s in homes.items() if address in homeless})

    async def _homes_if_known(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Return `_homes`; nothing where the engine is away: TIPs then wait for the next assignment."""
        try:
            return await self._homes(record)
        except RestError as error:
            logger.warning("the SMuxes carry TIPs of VIP %s: no engine: %s", record.address, error)
            return {}

    async def _homes(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Return where the engine has a VIP and its TIPs, but no TIP on the VIP's own switch.

        A VIP that is held stays where it is, whatever the engine says.
        """
        homes = dict(await self._engine_places(record))
        if record.held:
            homes[record.address] = record.home
        own = homes[record.address]
        return {a: None if a != record.address and s == own else s for a, s in homes.items()}

    async def _return(self, record: VipRecord, flows: list[LiveFlow]) -> None:
        """Refresh a VIP's pins, and let it and its TIPs return to the switches that have room for them."""
        after = pinned(record, flows)
        returning = self._returning(after)
        after = _put(after, {address: (switch, None) for address, switch in returning.items()})
        if after != record:
            self._store.put_vips([after])
            await self._apply([record], [after])
            now = self.vip(record.address).carried()
            for address, switch in returning.items():
                if now[address].switch == switch:
                    self._events.add("returned", str(address), switch=switch)

    def _returning(self, record: VipRecord) -> dict[IPv4Address, str]:
        """Return which of a VIP and its TIPs may return, and where."""
        return {
            address: carried.returning
            for address, carried in record.carried().items()
            if carried.returning is not None and self._may_fit(record, address, carried.returning)
        }

    def _may_fit(self, record: VipRecord, address: IPv4Address, switch: str) -> bool:
        """Whether a switch answers, has room for a record's pins, and did not refuse the very same before."""
        if switch in self._unreachable:
            return False
        if address == record.address:
            others = sum(
                len(other.layout.pinned)
                for other in self.vips()
                if other.switch == switch and other.address != address
            )
            if others + len(record.layout.pinned) > self._inventory.switch(switch).tables.pinned:
                return False
        return self._refused.get(address) != self._load(record, address, switch)

    def _load(self, record: VipRecord, address: IPv4Address, switch: str) -> _Load:
        """Return what a switch would hold with a VIP or TIP of `record` on it, beside what it holds.

        Pins are left out: whether they fit is known, and they change all the time.
        """
        held = {a: e for other in self.vips() for a, (e, on) in mux_entries(other).items() if on == switch}
        held[address] = mux_entries(record)[address][0]
        bare = {a: e.model_copy(update={"pinned": ()}) for a, e in held.items() if isinstance(e, MuxVip)}
        return switch, held | bare

    async def _apply(self, before: Iterable[VipRecord], after: Iterable[VipRecord]) -> Outcome:
        """Take the devices from one state of some VIPs to another, without reading them back.

        Requests are idempotent, so a device that was not as `before` says ends up right all the
        same, and one that refuses or does not answer is left to `resync`.
        """
        wanted = wanted_states(after, self._inventory)
        assumed = wanted_states(before, self._inventory)
        reachable = {name: assumed[name] for name in self._devices if name not in self._unreachable}
        outcome = await execute(plan_update(wanted, reachable), wanted, self._devices)
        self._note_failures(outcome)
        return outcome

    async def _observe(self, wanted: Mapping[str, DeviceState]) -> dict[str, DeviceState]:
        async def observe(name: str) -> tuple[str, DeviceState | None]:
            try:
                return name, await self._devices[name].observe()
            except RestError as error:
                logger.warning("%s cannot be read back: %s", name, error)
                return name, None

        names = [name for name in wanted if name in self._devices and name not in self._unreachable]
        states = await asyncio.gather(*(observe(name) for name in names))
        return {name: state for name, state in states if state is not None}

    def _note_failures(self, outcome: Outcome) -> None:
        """Log what failed. What a switch has no room for waits for it on the SMuxes."""
        for step, error in outcome.failed:
            if not is_table_full(error) or self._devices[step.device].kind is not DeviceKind.SWITCH:
                self._events.add("update-failed", str(step.address), device=step.device, why=str(error))
                if not is_table_full(error):
                    self._note_dirty(step.device)
                continue
            record = _put(self.vip(self._owner(step.address)), {step.address: (None, step.device)})
            self._store.put_vips([record])
            load = self._load(record, step.address, step.device)
            if self._told.get(step.address) != load:
                self._events.add("left-to-smuxes", str(step.address), device=step.device, why=str(error))
            self._refused[step.address] = self._told[step.address] = load
        for step in outcome.barred:
            self._note_dirty(step.device)

    def _with_placements(
        self, placements: Mapping[IPv4Address, str | None], by_hand: bool
    ) -> tuple[list[VipRecord], list[VipRecord]]:
        """Return the records that `placements` changes, before and after; nothing is changed yet.

        Unless they are made `by_hand`, they leave VIPs alone that were placed by hand.

        Raises `UnknownError` for an address or a switch that is not there, and `InvalidError` for a TIP
        on its VIP's own switch.
        """
        records = self._store.vips()
        owners = {address: record.address for record in records.values() for address in record.carried()}
        for address, switch in placements.items():
            if address not in owners:
                raise UnknownError(f"there is no VIP or TIP {address}")
            if switch is not None:
                self.check_switch(switch)
        before, after = [], []
        for owner in sorted({owners[address] for address in placements}):
            old = records[owner]
            own = {a: s for a, s in placements.items() if by_hand or not old.held or a != owner}
            new = self._waiting_for_unreachable(_placed(old, own), own)
            in_the_way = [tip.tip.address for tip in new.tips if tip.home and tip.home == new.home]
            if by_hand:
                new = _put(new, dict.fromkeys(in_the_way, (None, None))).model_copy(update={"held": True})
            elif in_the_way:
                raise InvalidError(f"VIP {owner} and one of its TIPs cannot both be on {new.home}")
            if new != old:
                before.append(old)
                after.append(new)
        return before, after

    def _report(self, outcome: Outcome, placed: Iterable[VipRecord] = ()) -> Report:
        """Say what was done, and which of `placed` wait for a switch that does not answer."""
        failed = [f"{step.device} {step.action} {step.address}: {error}" for step, error in outcome.failed]
        failed += [
            f"{carried.returning} does not answer: {address} waits for it on the SMuxes"
            for record in placed
            for address, carried in record.carried().items()
            if carried.returning in self._unreachable
        ]
        return Report(
            done=len(outcome.done),
            failed=tuple(failed),
            writes=outcome.writes,
            wave_ms={wave.value: round(ms, 3) for wave, ms in outcome.wave_ms.items()},
        )

    def _tips(self) -> TipAllocator:
        def used() -> set[IPv4Address]:
            return {placed.tip.address for record in self.vips() for placed in record.tips}

        return tip_allocator(self._inventory.tip_prefix, used)


def _placed(record: VipRecord, placements: Mapping[IPv4Address, str | None]) -> VipRecord:
    """Return a record with its VIP and TIPs placed; what waits for the very switch goes on waiting."""
    return _put(
        record,
        {
            address: (placements[address], None)
            for address, carried in record.carried().items()
            if address in placements
            and (carried.returning is None or carried.returning != placements[address])
        },
    )


def _put(record: VipRecord, where: Mapping[IPv4Address, tuple[str | None, str | None]]) -> VipRecord:
    """Return a record with `switch` and `returning` of its VIP and TIPs as `where` says."""
    tips = tuple(_moved(placed, where.get(placed.tip.address)) for placed in record.tips)
    return _moved(record, where.get(record.address)).model_copy(update={"tips": tips})


def _moved(carried: _Carried, where: tuple[str | None, str | None] | None) -> _Carried:
    if where is None:
        return carried
    return carried.model_copy(update={"switch": where[0], "returning": where[1]})
