"""Brings devices to what is wanted, VIP by VIP, whenever the two may differ.

Everything that happens (a request, a check that failed, a device that is back) puts addresses in a queue. A
worker takes one, compares what is wanted with what is known of the devices, does what is missing, and asks
which record is due next (`desired`), until there is nothing left to do. It depends on the state alone, not
on what was done before, so it may be interrupted anywhere, and a restart goes on where it was. What fails for
one address stops no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from controller.events import EventLog
from controller.inventory import Inventory
from controller.reach import Reach
from controller.records import Resting, VipRecord
from controller.state import State
from controller.store import StaleError
from controller.updater import desired
from controller.updater.devices import Device, is_table_full
from controller.updater.lane import AWAY, Lane, Priority
from controller.updater.layout import Down, LayoutError, is_current
from controller.updater.outcome import Outcome
from controller.updater.pinning import disturbs, pinned
from controller.updater.plan import DeviceKind, DeviceState, Entry, Plan, plan_update
from controller.updater.queue import WorkQueue
from controller.updater.wanted import Wanted, kinds_of, mux_entries
from controller.updater.waves import Waves
from duet_p4 import telemetry
from duet_p4.api.host import LiveFlow
from duet_p4.model import MuxVip, PinnedFlow
from duet_p4.rest.client import RestError

logger = logging.getLogger(__name__)

WORKERS = 1024
"""How many addresses are worked on at once; their steps share requests."""

PARALLEL_DEVICES = 64
"""How many devices are asked something at once."""

_STAGES = 16
"""More records in a row than any VIP needs to be where it shall be."""

_PATIENCE_S = 30.0
"""How long a change waits for a server that does not tell its live flows."""

_AT_ONCE_S = 1.0
"""How long it waits where a DIP failed, to which flows go meanwhile."""


Placer = Callable[[VipRecord], Awaitable[Mapping[IPv4Address, str | None]]]
"""Asks the engine where a VIP and its TIPs go, while everything else stays. May raise `RestError`."""


@dataclass(frozen=True)
class Flows:
    """The live flows of a VIP, and the servers that did not tell theirs."""

    flows: tuple[LiveFlow, ...] = ()
    silent: tuple[str, ...] = ()


FlowSource = Callable[[VipRecord, Callable[[str], bool]], Awaitable[Flows]]
"""Asks the servers of a VIP's DIPs for its live flows; told which servers can be asked."""


@dataclass(frozen=True)
class _Refusal:
    """A switch that had no room for an entry, and what it had given up until then."""

    switch: str
    freed: int
    entry: Entry


class _NotYet(Exception):  # noqa: N818 - nothing is wrong
    """Something has to be waited for; the text says what."""


class Reconciler:
    """Keeps devices in step with the state. `run` does the work; the rest says that there is some."""

    def __init__(
        self,
        state: State,
        events: EventLog,
        inventory: Inventory,
        devices: Mapping[str, Device],
        flows: FlowSource,
        place: Placer,
        fan_out: int,
    ) -> None:
        self._state = state
        self._events = events
        self._inventory = inventory
        self._flows = flows
        self._place = place
        self._fan_out = fan_out
        self.queue: WorkQueue[Outcome] = WorkQueue()
        self.reach = dict.fromkeys(devices, Reach.UNKNOWN)
        self.last: dict[IPv4Address, Outcome] = {}
        self.pins: Mapping[str, int] = {}
        """How many pinned flows a switch holds, where it has said so; else the inventory does."""
        self._kinds = kinds_of(inventory)
        self._wanted = Wanted(inventory)
        self._smuxes = [smux.name for smux in inventory.smuxes]
        self._holders: dict[IPv4Address, set[str]] = {}
        self._limit = asyncio.Semaphore(PARALLEL_DEVICES)
        self.lanes = {name: self._lane(name, device) for name, device in devices.items()}
        self._lost: frozenset[str] = frozenset()
        self._refused: dict[IPv4Address, _Refusal] = {}
        self._told: dict[IPv4Address, str] = {}
        self._refresh: set[IPv4Address] = set()
        self._gate: set[IPv4Address] = set()
        self._cut = asyncio.Event()
        self._silent_since: dict[IPv4Address, float] = {}
        self._unknown: set[IPv4Address] = set()
        """VIPs of which it was told that servers do not tell their flows."""

    def _lane(self, name: str, device: Device) -> Lane:
        def wanted() -> DeviceState:
            return self._wanted.on(name, device.kind, self._state)

        def differs(addresses: set[IPv4Address]) -> None:
            for address in addresses:
                self.queue.add(self.key(address), Priority.REPAIR)

        return Lane(name, device, self._limit, wanted, differs, self._holders)

    def key(self, address: IPv4Address) -> IPv4Address:
        """Return under what an address is queued: its VIP, or itself where nobody wants it."""
        return self._state.owner(address) or address

    # What happens

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._worker(), name=f"worker {number}")

    def begin(self) -> None:
        """Look at every VIP that waits for something; what devices lack, `check_devices` finds."""
        for record in self._state.records():
            down = self._down(record)
            waits = any(c.leaving or c.returning for c in record.carried().values())
            if waits or record.unsettled or not is_current(record, down):
                self.queue.add(record.address, Priority.REPAIR)

    def set_reach(self, device: str, reach: Reach) -> None:
        """Take note of whether a device answers, and have done what follows from it."""
        before = self.reach[device]
        if before is reach:
            return
        self.reach[device] = reach
        lane = self.lanes[device]
        if reach.answers and not before.answers:
            self._events.add("device-back", device)
        elif before.answers and not reach.answers:
            self._events.add("device-unreachable", device)
        lane.set_reachable(reach.answers)
        self._lost = frozenset(name for name, known in self.reach.items() if known is Reach.LOST)
        if reach is Reach.LOST:
            homes = self._state.on(device) | self._state.waiting_for(device)
            self._events.add("device-lost", device, vips=len(homes))
        if reach is Reach.LOST or before is Reach.LOST:
            self.look_again(device)

    def adopt(
        self, inventory: Inventory, devices: Mapping[str, Device], flows: FlowSource, fan_out: int
    ) -> None:
        """Go on with another inventory and its devices. What is new is asked what it holds, and filled."""
        before = {server.name: server for server in self._inventory.servers}
        self._inventory, self._flows, self._fan_out = inventory, flows, fan_out
        self._kinds = kinds_of(inventory)
        self._wanted = Wanted(inventory)
        self._smuxes = [smux.name for smux in inventory.smuxes]
        for name in self.lanes.keys() - devices.keys():
            self.lanes.pop(name).close()
            del self.reach[name]
        for name, device in devices.items():
            if name not in self.lanes:
                self.lanes[name] = self._lane(name, device)
                self.reach[name] = Reach.UNKNOWN
            elif self.lanes[name].device is not device:
                self.lanes[name].replace(device)
        self._lost &= self.lanes.keys()
        for server in inventory.servers:
            if before.get(server.name) != server:
                for vip in self._state.at_server(server.name):
                    self.queue.add(vip, Priority.REPAIR)

    def set_cut_off(self, devices: Collection[str]) -> None:
        """Take note of which devices no packet can get to: what others need is not kept waiting for them."""
        cut = any(name in devices and not lane.cut_off for name, lane in self.lanes.items())
        for name, lane in self.lanes.items():
            lane.set_cut_off(name in devices)
        if cut:
            self._cut.set()
            self._cut = asyncio.Event()

    def look_again(self, device: str) -> None:
        """Have all looked at that has to do with a switch or SMux, though it may hold what it should."""
        state = self._state
        addresses = state.on(device) | state.waiting_for(device) | state.leaving(device)
        addresses |= {address for address, rest in state.resting.items() if device in rest.switches}
        if device in self._smuxes:
            addresses |= state.unsettled
        for address in addresses:
            self.queue.add(self.key(address), Priority.REPAIR)

    async def check_devices(self, *, everything: bool) -> None:
        """Ask devices whether they hold what they should: all of them, or those that are in doubt."""
        due = [lane for lane in self.lanes.values() if (lane.open if everything else lane.due())]

        async def check(lane: Lane) -> None:
            doubtful = lane.doubtful
            if await lane.check() and doubtful:
                self.look_again(lane.name)

        await asyncio.gather(*(check(lane) for lane in due))

    def settle(self) -> None:
        """Have pins of flows that may have ended looked at, and what waits for a switch that has room."""
        for vip in self._state.pinned:
            self._refresh.add(vip)
            self.queue.add(vip, Priority.REPAIR)
        for address, switch in self._state.waiting().items():
            vip = self.key(address)
            record = self._state.get(vip)
            if record is not None and self._has_room(record, address, switch):
                self.queue.add(vip, Priority.REPAIR)

    async def forget_rested(self) -> None:
        """Forget addresses that have rested long enough, and that no switch may announce."""
        if rested := self._state.rested():
            await self._state.rest(dict.fromkeys(rested))

    def hold_back(self, vips: Iterable[IPv4Address]) -> None:
        """Keep VIPs, and their TIPs, on the SMuxes until they are let go: others have to make room first."""
        self._gate.update(vips)

    def let_go(self, vips: Iterable[IPv4Address]) -> None:
        """Let VIPs that were held back go where they shall be."""
        self._gate.difference_update(vips)

    # Work

    async def _worker(self) -> None:
        while True:
            key, priority = await self.queue.get()
            outcome = Outcome()
            try:
                with (
                    telemetry.entered(self.queue.cause(key)),
                    telemetry.span("reconcile", duet__vip=str(key), duet__priority=priority.name),
                ):
                    outcome = await self._reconcile(key, priority)
            except (RestError, LayoutError) as error:
                outcome.error = str(error)
                logger.warning("%s: %s", key, error)
            except Exception as error:
                outcome.error = f"{type(error).__name__}: {error}"
                logger.exception("%s could not be brought where it shall be", key)
            finally:
                self._note(key, outcome)
                self.queue.done(key, outcome, failed=outcome.retry)

    def _note(self, key: IPv4Address, outcome: Outcome) -> None:
        """Remember what came of it while something is left to do, and say it once."""
        said = [
            f"{step.device}: {problem.detail}" for step, problem in outcome.failed if problem.kind != AWAY
        ]
        said += [outcome.error] if outcome.error else []
        why = "; ".join(said)
        if why and self._told.get(key) != why:
            self._events.add("update-failed", str(key), why=why)
        if why:
            self._told[key] = why
        else:
            self._told.pop(key, None)
        if outcome.retry or outcome.away:
            self.last[key] = outcome
        else:
            self.last.pop(key, None)

    async def _reconcile(self, key: IPv4Address, priority: Priority) -> Outcome:
        total = Outcome()
        refresh = key in self._refresh
        self._refresh.discard(key)
        for _ in range(_STAGES):
            record = self._state.get(key)
            outcome = await self._apply(key, record, priority)
            total.add(outcome)
            if record is None:
                await self._rest(key)
                self._forget(key)
                return total
            try:
                after = await self._next(record, outcome, refresh=refresh)
            except _NotYet as reason:
                total.waits = str(reason)
                return total
            if after is record:
                return total
            try:
                await self._state.replace([(record, after)])
            except StaleError:
                continue
            finally:
                self._state.release_tips(after.carried().keys() - record.carried().keys())
            self._changed(record, after)
            refresh = False
        raise RuntimeError(f"VIP {key} does not settle")

    def _changed(self, before: VipRecord, after: VipRecord) -> None:
        """Do what follows from a record that took another's place."""
        for address in before.carried().keys() - after.carried().keys():
            self.queue.add(address, Priority.REPAIR)
        was = before.carried()
        for address, carried in after.carried().items():
            if carried.switch is not None and address in was and was[address].returning == carried.switch:
                self._events.add("returned", str(address), switch=carried.switch)

    def _forget(self, key: IPv4Address) -> None:
        self._wanted.forget(key)
        self._refused.pop(key, None)
        self._told.pop(key, None)
        self._silent_since.pop(key, None)
        self._unknown.discard(key)

    async def _apply(self, key: IPv4Address, record: VipRecord | None, priority: Priority) -> Outcome:
        """Bring the devices to a record, as far as they can be reached."""
        plan, wanted, away = self.plan(key, record)
        if doubtful := [self.lanes[name] for name in away if self.lanes[name].due()]:
            await asyncio.gather(*(lane.ensure_known() for lane in doubtful))
            plan, wanted, away = self.plan(key, record)
        carried = record.carried() if record else {}
        leaving = {address: set(c.leaving) - self._lost for address, c in carried.items()}
        outcome = await Waves(plan, wanted, self.lanes, leaving, priority).run()
        outcome.away |= away
        return outcome

    def plan(
        self, key: IPv4Address, record: VipRecord | None
    ) -> tuple[Plan, dict[str, DeviceState], set[str]]:
        """Return the steps to a record, the part of the devices' state it is about, and who is away."""
        addresses = {key} if record is None else set(record.carried())
        names = set(self._smuxes) if record is not None else set()
        wanted: dict[str, DeviceState] = {}
        for address in addresses:
            names |= self._holders.get(address, set())
        for name, entry in self._wanted.of(record) if record is not None else ():
            if name not in wanted:
                wanted[name] = DeviceState(self._kinds[name])
            wanted[name].hold(entry)
        for name in names:
            wanted.setdefault(name, DeviceState(self._kinds[name]))
        asked = {name: self.lanes[name] for name in wanted if name in self.lanes}
        observed = {n: lane.part(addresses) for n, lane in asked.items() if lane.open and lane.known}
        return plan_update(wanted, observed), wanted, set(asked) - set(observed)

    async def _rest(self, address: IPv4Address) -> None:
        """Note which switches were seen to have given up what nobody wants."""
        resting = self._state.resting.get(address)
        if resting is None:
            return
        left = tuple(name for name in resting.switches if not self._is_gone(name, address))
        if left != resting.switches:
            changed = Resting(address=address, switches=left, since=resting.since)
            await self._state.rest({address: changed})

    def _is_gone(self, switch: str, address: IPv4Address) -> bool:
        """Whether a switch is known not to announce an address."""
        lane = self.lanes.get(switch)
        return lane is None or switch in self._lost or (lane.open and not lane.may_hold(address))

    # What is due next

    async def _next(self, record: VipRecord, outcome: Outcome, *, refresh: bool) -> VipRecord:
        """Return the record that shall take the place of one; the same where nothing is due.

        Raises `_NotYet`, `RestError`, `LayoutError`.
        """
        after = desired.withdrawn(record, self._gone(record))
        if full := self._full(record, outcome):
            return self._refuse(after, full)
        after = await self._off_lost(after)
        down = self._down(record)
        new = desired.relaid(after, down, self._fan_out, self._state.allocate_tip)
        if new is not None:
            return await self._relaid(record, after, new, down)
        ready = self._ready(after)
        everywhere = self._is_on_smuxes(outcome)
        if refresh or (record.unsettled and (ready or everywhere)):
            after = pinned(after, await self._live_flows(after))
            after = after.model_copy(update={"unsettled": record.unsettled and not everywhere})
            ready = self._ready(after)
        if ready:
            after = desired.come_home(after, ready)
        return record if after == record else after

    def _is_on_smuxes(self, outcome: Outcome) -> bool:
        """Whether every SMux holds what was applied, so that no flow begins by an older layout any more."""
        without = outcome.away | {step.device for step, _ in outcome.failed}
        return not without & (set(self._smuxes) - self._lost)

    def _gone(self, record: VipRecord) -> dict[IPv4Address, set[str]]:
        return {
            address: {name for name in carried.leaving if self._is_gone(name, address)}
            for address, carried in record.carried().items()
        }

    def _full(self, record: VipRecord, outcome: Outcome) -> dict[IPv4Address, str]:
        """Return what a switch had no room for that shall carry it."""
        carried = record.carried()
        return {
            step.address: step.device
            for step, problem in outcome.failed
            if is_table_full(problem)
            and step.address in carried
            and carried[step.address].switch == step.device
            and self._kinds[step.device] is DeviceKind.SWITCH
            and not self.lanes[step.device].may_hold(step.address)
        }

    def _refuse(self, record: VipRecord, full: Mapping[IPv4Address, str]) -> VipRecord:
        for address, switch in full.items():
            entry = _bare(mux_entries(record)[address][0])
            # What it gives up by this very refusal makes no room.
            freed = self._state.freed.get(switch, 0) + list(full.values()).count(switch)
            refusal = _Refusal(switch, freed, entry)
            known = self._refused.get(address)
            if known is None or (known.switch, known.entry) != (switch, entry):
                self._events.add("left-to-smuxes", str(address), device=switch, why=f"{switch} has no room")
            self._refused[address] = refusal
        return desired.left_to_smuxes(record, full)

    async def _off_lost(self, record: VipRecord) -> VipRecord:
        """Return a record of which nothing is on a lost switch: what the engine put there goes elsewhere."""
        lost = self._lost
        if not lost or all(carried.home not in lost for carried in record.carried().values()):
            return record
        after = desired.awaiting_lost(record, lost)
        addresses = desired.stranded(after, lost)
        if addresses:
            homes = await self.homes(after)
            if names := {homes.get(address) for address in addresses} & lost:
                raise _NotYet(f"the engine does not know yet that {', '.join(map(str, names))} is lost")
            after = desired.rehomed(after, addresses, homes)
        return after

    def _down(self, record: VipRecord) -> Down:
        failed, gone = self._state.failed(record.address), self._state.out_of_reach(record.spec)
        return Down(failed=failed, gone=gone)

    async def _relaid(self, record: VipRecord, after: VipRecord, new: VipRecord, down: Down) -> VipRecord:
        """Return the next record on the way to a new layout: the detour over the SMuxes, or the layout."""
        added = new.carried().keys() - after.carried().keys()
        try:
            if desired.needs_detour(after, new, down):
                if after.switch is not None:
                    self._state.release_tips(added)
                    return desired.detoured(after)
                names = ", ".join(after.leaving)
                raise _NotYet(f"VIP {record.address} changes once {names} has been seen to withdraw it")
            if disturbs(after, new, down.failed):
                new = pinned(new, await self._live_flows(after))
            else:
                flows = await self._flows_now(after) if disturbs(after, new) else ()
                new = pinned(new, (*after.layout.pinned, *flows))
            if disturbs(after, new):
                new = new.model_copy(update={"unsettled": True})
            if added:
                homes = await self.homes_if_known(new)
                new = desired.rehomed(new, [*added, *self._unplaced(new)], homes)
        except BaseException:
            self._state.release_tips(added)
            raise
        self._events.add(
            "vip-changed",
            str(record.address),
            dips=len(new.spec.all_dips()),
            out=len(new.left_out()),
            pinned=len(new.layout.pinned),
        )
        return new

    def _unplaced(self, record: VipRecord) -> list[IPv4Address]:
        """Return the VIP itself where it waits: with new TIPs it may belong elsewhere."""
        return [record.address] if record.returning is not None else []

    async def homes_if_known(self, record: VipRecord) -> Mapping[IPv4Address, str | None]:
        """Return `homes`; where the engine is away, all stays, and new TIPs wait for the next assignment."""
        try:
            return await self.homes(record)
        except RestError as error:
            logger.warning("the SMuxes carry new TIPs of VIP %s: no engine: %s", record.address, error)
            return {address: carried.home for address, carried in record.carried().items()}

    async def homes(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        """Return where the engine has a VIP and its TIPs, but no TIP on the VIP's own switch.

        A VIP that is held stays where it is, whatever the engine says. Raises `RestError`.
        """
        homes = dict(await self._place(record))
        if record.held:
            homes[record.address] = record.home
        own = homes.get(record.address)
        return {a: None if a != record.address and s == own else s for a, s in homes.items()}

    async def _ask_for_flows(self, record: VipRecord) -> Flows:
        """Ask servers for a VIP's live flows, anew where any is cut off meanwhile: it would not answer."""
        while True:
            cut = asyncio.create_task(self._cut.wait())
            asking = asyncio.ensure_future(self._flows(record, lambda name: self.lanes[name].open))
            try:
                await asyncio.wait((asking, cut), return_when=asyncio.FIRST_COMPLETED)
                if asking.done():
                    return asking.result()
            finally:
                cut.cancel()
                asking.cancel()
                await asyncio.gather(cut, asking, return_exceptions=True)

    async def _flows_now(self, record: VipRecord) -> tuple[LiveFlow, ...]:
        """Return the live flows that servers tell of at once: a DIP that fails gets new ones until then."""
        try:
            async with asyncio.timeout(_AT_ONCE_S):
                return (await self._ask_for_flows(record)).flows
        except TimeoutError:
            self._events.add("flows-unknown", str(record.address), servers=[])
            return ()

    async def _live_flows(self, record: VipRecord) -> tuple[LiveFlow | PinnedFlow, ...]:
        """Return a VIP's live flows. A server that does not tell is waited for, but not for ever.

        After that, those that are pinned to its DIPs count as live.
        """
        vip = record.address
        found = await self._ask_for_flows(record)
        if not found.silent:
            self._silent_since.pop(vip, None)
            self._unknown.discard(vip)
            return found.flows
        since = self._silent_since.setdefault(vip, time.monotonic())
        silent = ", ".join(found.silent)
        if time.monotonic() - since < _PATIENCE_S:
            raise _NotYet(f"VIP {vip} waits for {silent} to tell its live flows")
        if vip not in self._unknown:
            self._unknown.add(vip)
            self._events.add("flows-unknown", str(vip), servers=list(found.silent))
        ends = {dip.address: self._inventory.server_at(dip.encap) for dip in record.spec.all_dips()}
        silent_dips = {dip for dip, server in ends.items() if server and server.name in found.silent}
        return (*found.flows, *(pin for pin in record.layout.pinned if pin.dip in silent_dips))

    def _ready(self, record: VipRecord) -> list[IPv4Address]:
        """Return what may return to the switch that it waits for."""
        if record.address in self._gate:
            return []
        return [
            address
            for address, carried in record.carried().items()
            if carried.returning is not None
            and not set(carried.leaving) - {carried.returning}
            and self._has_room(record, address, carried.returning)
        ]

    def _has_room(self, record: VipRecord, address: IPv4Address, switch: str) -> bool:
        return not self.why_not(record, address, switch)

    def why_not(self, record: VipRecord, address: IPv4Address, switch: str) -> str:
        """Say why a switch cannot take what waits for it: it does not answer, has no room for a record's
        pins, or refused the very same before.
        """
        lane = self.lanes.get(switch)
        if lane is None:
            return f"there is no switch {switch}"
        if not (lane.open and lane.known):
            return f"{switch} to answer"
        if address == record.address:
            size = self.pins.get(switch, self._inventory.switch(switch).tables.pinned)
            room = size - self._state.pins_on(switch)
            if len(record.layout.pinned) > room:
                return f"{switch} to have room for {len(record.layout.pinned)} pinned flows, not {room}"
        refusal = self._refused.get(address)
        now = _Refusal(switch, self._state.freed.get(switch, 0), _bare(mux_entries(record)[address][0]))
        return f"{switch} to have room" if refusal == now else ""


def _bare(entry: Entry) -> Entry:
    """Return an entry without pins: whether those fit is known, and they change all the time."""
    return entry.model_copy(update={"pinned": ()}) if isinstance(entry, MuxVip) else entry
