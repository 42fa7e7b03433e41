"""What can be asked of the updater. Each request is checked, stored, and then waited for, but not for ever:
what takes longer goes on by itself.

A request that states a revision is refused where the VIP has another one by now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Address

from pydantic import ValidationError

from controller.audit import Audit
from controller.events import EventLog
from controller.inventory import Inventory
from controller.reach import Reach, ReachMap
from controller.records import Resting, VipRecord
from controller.state import State
from controller.store import StaleError
from controller.updater import desired
from controller.updater.admission import Admission
from controller.updater.convoy import Convoy
from controller.updater.devices import Device, MuxDevice
from controller.updater.health import HealthJudge
from controller.updater.lane import Priority
from controller.updater.operations import Progress
from controller.updater.outcome import Outcome, Report
from controller.updater.plan import DeviceKind, Plan, Step, Wave
from controller.updater.reads import Placement, known_vip
from controller.updater.reconcile import Flows, FlowSource, Placer, Reconciler
from controller.updater.wanted import kinds_of
from duet_p4.api.problems import ConflictError, ProblemError, UnknownError
from duet_p4.model import VIP_CHECK, Checked, Vip

logger = logging.getLogger(__name__)

WAIT_S = 8.0
"""How long a request waits for the devices: less than clients wait for an answer."""

_LEAST_WAIT_S = 0.5
_TOLD = 20
_REMEMBERED = 1000
"""So many events are looked at for what was said before this controller began."""


class RevisionError(ProblemError):
    """A VIP has another revision than the one that a request states (412)."""

    def __init__(self, record: VipRecord, stated: int) -> None:
        super().__init__(
            412,
            f"VIP {record.address} has revision {record.revision}, not {stated}: it was changed meanwhile",
            "revision-differs",
        )


class Updater:
    """Keeps switches, SMuxes and servers in step with what is wanted."""

    def __init__(
        self,
        state: State,
        events: EventLog,
        inventory: Inventory,
        devices: Mapping[str, Device],
        live_flows: FlowSource,
        place: Placer,
        *,
        wait_s: float = WAIT_S,
    ) -> None:
        self.state = state
        self._events = events
        self._inventory = inventory
        self._wait_s = wait_s
        self._judge = HealthJudge()
        self._live_flows = live_flows
        self._links_down: set[tuple[str, str]] = set()
        self._restarted: dict[str, dict[str, float]] = {}
        self._troubles: dict[str, str] | None = None
        self.suspect = ""
        self._dead: frozenset[str] = frozenset()
        self._convoy = Convoy()
        self.admission = Admission(state, inventory)
        self.fan_out = self.admission.fan_out
        self.reconciler = Reconciler(state, events, inventory, devices, live_flows, place, self.fan_out)

    def objections(self, inventory: Inventory) -> list[str]:
        """Say why another inventory cannot be gone on with: what it leaves out is in use, or may be."""
        before = self._inventory
        found = [
            f"the {what} is {ours} while VIPs are served, not {theirs}"
            for what, ours, theirs in (
                ("VIP prefix", before.vip_prefix, inventory.vip_prefix),
                ("TIP prefix", before.tip_prefix, inventory.tip_prefix),
            )
            if ours != theirs
        ]
        old, new = kinds_of(before), kinds_of(inventory)
        for name, kind in old.items():
            if new.get(name, kind) is not kind:
                found.append(f"{name} is a {kind}, not a {new[name]}")
            elif name not in new and (why := self._still_used(name, kind)):
                found.append(why)
        for server in before.servers:
            gone = {address for address in server.dips if inventory.server_at(address) is None}
            for vip in sorted(self.state.at_server(server.name) if gone else ()):
                record = self.state.get(vip)
                if record and (lost := gone & {dip.encap for dip in record.spec.all_dips()}):
                    found.append(f"{server.name} has DIP {min(lost)} of VIP {vip}")
                    break
        return found

    def _still_used(self, name: str, kind: DeviceKind) -> str:
        """Say what a switch or SMux is still needed for, or may be doing."""
        lane, reach = self.reconciler.lanes[name], self.reconciler.reach[name]
        if kind is DeviceKind.SMUX:
            return f"{name} answers, and may attract traffic: end it first" if reach.answers else ""
        if kind is DeviceKind.SERVER:
            return ""
        homes = self.state.on(name) | self.state.waiting_for(name)
        if homes:
            return f"{name} is the home of {len(homes)} VIPs and TIPs, {min(homes)} among them"
        gone = lane.known and not lane.held.entries and not self.state.leaving(name)
        return "" if gone or reach is Reach.LOST else f"{name} was not seen to have given up all its VIPs"

    def adopt(self, inventory: Inventory, devices: Mapping[str, Device], live_flows: FlowSource) -> None:
        """Go on with another inventory, to which there are no `objections`."""
        before, now = kinds_of(self._inventory), kinds_of(inventory)
        self._inventory, self._live_flows = inventory, live_flows
        self.state.adopt(inventory)
        self.admission.adopt(inventory)
        self.fan_out = self.admission.fan_out
        self.reconciler.adopt(inventory, devices, live_flows, self.fan_out)
        self._events.add(
            "inventory-changed",
            "controller",
            added=sorted(now.keys() - before.keys())[:_TOLD],
            removed=sorted(before.keys() - now.keys())[:_TOLD],
        )

    # What is wanted

    def vip(self, address: IPv4Address) -> VipRecord:
        """Return one wanted VIP, or raise `UnknownError`."""
        return known_vip(self.state, address)

    def suspected(self, vip: IPv4Address) -> set[IPv4Address]:
        """Return the DIPs of a VIP that look down and are kept."""
        return self._judge.suspected(vip)

    async def connections(self, address: IPv4Address, dip: IPv4Address | None = None) -> Flows:
        """Ask the servers of a VIP, or of one DIP of it, for its live flows. Raises `UnknownError`."""
        record = self.vip(address)
        if dip is not None and all(stated.address != dip for stated in record.spec.all_dips()):
            raise UnknownError(f"VIP {address} has no DIP {dip}")
        found = await self._live_flows(record, lambda name: self.reconciler.reach[name].answers)
        return Flows(tuple(flow for flow in found.flows if dip in (None, flow.dip)), found.silent)

    async def add_vip(self, spec: Vip, switch: str | None = None, *, by_hand: bool = False) -> VipRecord:
        """Add a VIP and bring it up where the engine says; or, `by_hand`, on `switch` (None: the SMuxes).

        Raises `ConflictError` where the VIP exists, and `RestError` where the engine is away.
        """
        if switch is not None:
            self.admission.check_switch(switch)
        if self.state.get(spec.address):
            raise _duplicate(spec)
        record = self.admission.admit(spec)
        tips = [placed.tip.address for placed in record.tips]
        try:
            if by_hand:
                record = record.model_copy(update={"switch": switch, "held": True})
            if not by_hand or record.tips:
                homes = await self.reconciler.homes(record)
                record = desired.rehomed(record, record.carried(), homes)
            record = self.ready_to_add(record)
            try:
                await self.state.replace([(None, record)])
            except StaleError:
                raise _duplicate(spec) from None
        finally:
            self.state.release_tips(tips)
        self._events.add("vip-added", str(spec.address), dips=len(spec.all_dips()), switch=record.switch)
        await self._carry_out_with_others([spec.address])
        return self.vip(spec.address)

    async def change_vip(self, spec: Vip, revision: int | None = None) -> VipRecord:
        """Replace a VIP's DIPs, weights or options. Live flows of DIPs that stay are kept."""
        self.vip(spec.address)
        self.admission.check(spec)

        def change(record: VipRecord) -> VipRecord:
            return record if record.spec == spec else desired.stated(record, spec)

        await self._alter(spec.address, revision, change)
        await self._forget_health(spec)
        await self._carry_out_with_others([spec.address])
        return self.vip(spec.address)

    async def drain_dip(self, vip: IPv4Address, dip: IPv4Address, revision: int | None = None) -> VipRecord:
        """Set a DIP's weight to 0 in every group of a VIP: it keeps its flows and gets no new ones."""

        def drain(record: VipRecord) -> VipRecord:
            if all(known.address != dip for known in record.spec.all_dips()):
                raise UnknownError(f"VIP {vip} has no DIP {dip}")
            try:
                return desired.stated(record, desired.drained(record.spec, dip))
            except ValidationError as error:
                raise ConflictError(
                    f"DIP {dip} is the last one of VIP {vip} that takes flows", "no-dips"
                ) from error

        await self._alter(vip, revision, drain)
        await self._carry_out_with_others([vip])
        return self.vip(vip)

    async def remove_vip(self, address: IPv4Address, revision: int | None = None) -> None:
        """Remove a VIP from switches first, then from the SMuxes."""
        while True:
            record = self._at(address, revision)
            try:
                await self.state.remove(record)
                break
            except StaleError:
                continue
        self._judge.forget(address)
        self._events.add("vip-removed", str(address))
        await self._carry_out_with_others(record.carried())

    async def migrate(self, vip: IPv4Address, switch: str | None, revision: int | None = None) -> Report:
        """Move a VIP by hand, through the SMuxes; the engine leaves it there.

        TIPs that are in its way give way, and get other homes where the engine has some.
        """
        if switch is not None:
            self.admission.check_switch(switch)
        self._at(vip, revision)
        reconciler = self.reconciler
        reconciler.hold_back([vip])
        try:
            after = await self._alter(vip, revision, lambda record: desired.by_hand(record, switch))
            homeless = [placed.tip.address for placed in after.tips if placed.home is None]
            if after.home is not None and homeless:
                homes = await reconciler.homes_if_known(after)
                await self._alter(vip, None, lambda record: desired.rehomed(record, homeless, homes))
            report = await self._in_two_waves([vip], Priority.OPERATOR, self._wait_s)
        finally:
            reconciler.let_go([vip])
            reconciler.queue.add(vip, Priority.OPERATOR)
        now = self.vip(vip)
        self._events.add("vip-placed", str(vip), switch=now.switch, waits_for=now.returning)
        return report

    async def release(self, address: IPv4Address, revision: int | None = None) -> VipRecord:
        """Let the engine place a VIP again that was placed by hand; until it does, the VIP stays."""
        record = await self._alter(address, revision, desired.released)
        self._events.add("vip-released", str(address))
        return record

    async def assign(self, placements: Iterable[Placement], progress: Progress | None = None) -> Report:
        """Move VIPs and TIPs to where an assignment has them: all leave before any arrives.

        Each VIP that moves is two steps of `progress`.

        What cannot be done for one stops no other, and is said: a VIP or TIP that is not there any more, a
        TIP on its VIP's own switch. What was placed by hand stays, and what is on a switch that cannot be
        asked to give it up. Raises `UnknownError` for a switch that is not there.
        """
        by_owner, skipped = self._by_owner(placements)
        reconciler = self.reconciler
        moved: list[IPv4Address] = []
        owners = sorted(by_owner)
        for first in range(0, len(owners), self.state.most):
            changes = []
            for vip in owners[first : first + self.state.most]:
                record = self.state.get(vip)
                if record is None:
                    continue
                after, why = self._assigned(record, by_owner[vip])
                skipped += why
                if after != record:
                    changes.append((record, after))
            reconciler.hold_back(record.address for record, _ in changes)
            moved += [record.address for record, _ in changes]
            try:
                await self.state.replace(changes)
            except StaleError:
                changes, why = await self._one_by_one(changes)
                skipped += why
            Audit(self._events).moved(changes, self.state.version)
        try:
            report = await self._in_two_waves(moved, Priority.ASSIGNMENT, None, progress)
        finally:
            reconciler.let_go(moved)
            for vip in moved:
                reconciler.queue.add(vip, Priority.ASSIGNMENT)
        for vip in moved:
            if now := self.state.get(vip):
                self._events.add("vip-placed", str(vip), switch=now.switch, waits_for=now.returning)
        return report.model_copy(update={"failed": (*report.failed, *skipped)})

    def plan(self, placements: Iterable[Placement]) -> Plan:
        """Return the steps of `assign`, without doing them."""
        by_owner, _ = self._by_owner(placements)
        steps: list[Step] = []
        for vip, homes in by_owner.items():
            after, _ = self._assigned(self.vip(vip), homes)
            waiting = [address for address, carried in after.carried().items() if carried.returning]
            plan, _, _ = self.reconciler.plan(vip, desired.come_home(after, waiting))
            steps += plan.steps
        order = list(Wave)
        return Plan(steps=tuple(sorted(steps, key=lambda step: (order.index(step.wave), step.device))))

    async def drain_smux(self, name: str, *, draining: bool) -> None:
        """Have every neighbour prefer other SMuxes to one (RFC 8326), or no longer; it serves on meanwhile.

        The SMux itself remembers it. Raises `UnknownError`, and `RestError` where it does not answer.
        """
        smuxes = {
            lane.name: lane.device
            for lane in self.reconciler.lanes.values()
            if lane.kind is DeviceKind.SMUX and isinstance(lane.device, MuxDevice)
        }
        if name not in smuxes:
            raise UnknownError(f"no SMux is called {name!r}; there are {', '.join(sorted(smuxes)[:_TOLD])}")
        before = await smuxes[name].drain(draining=draining)
        Audit(self._events).note(name, self.state.version, {"draining": before}, {"draining": draining})

    # What happens to it

    async def set_dip_health(
        self,
        vip: IPv4Address,
        told: Mapping[IPv4Address, bool],
        *,
        certain: bool = False,
        check: str = VIP_CHECK,
    ) -> None:
        """Take DIPs out of a VIP's service, or back into it, once they are remembered to be down, or not.

        A port's own `check` decides about its group only. Devices follow by themselves. What is `certain` is
        no check's verdict, and not doubted. Raises `UnknownError`.
        """
        spec = self.vip(vip).spec
        stated = spec.by_check()
        if check not in stated:
            raise UnknownError(f"VIP {vip} has no check of port {check}")
        if unknown := sorted(told.keys() - stated[check]):
            where = f" on port {check}" if check else ""
            raise UnknownError(f"VIP {vip} has no DIP {unknown[0]}{where}")
        changes, suspected = self._judge.judge(
            spec, self.state.failed(vip), told, certain=certain, check=check
        )
        if suspected:
            names = ", ".join(map(str, sorted(suspected)))
            self._events.add("health-suspect", str(vip), dips=names, why="more than half look down at once")
        await self._set_down(vip, changes)

    async def believe(self) -> None:
        """Believe of DIPs that have been suspected for long that they are down."""
        for (vip, check), dips in self._judge.confirmed().items():
            record = self.state.get(vip)
            if record is None:
                self._judge.forget(vip)
                continue
            told = dict.fromkeys(dips, False)
            changes, _ = self._judge.judge(
                record.spec, self.state.failed(vip), told, certain=True, check=check
            )
            await self._set_down(vip, changes)

    async def set_reach(self, told: ReachMap) -> None:
        """Take note of which devices answer. What is put right follows by itself."""
        if told.suspect and told.suspect != self.suspect:
            self._events.add("monitoring-suspect", "controller", why=told.suspect)
        self.suspect = told.suspect
        self._note_nodes(frozenset(told.dead))
        self._note_links(set(told.links_down))
        self._note_restarts(told.restarted)
        for device, reach in told.devices.items():
            if device in self.reconciler.lanes:  # Where monitoring is another process, it may know others.
                self.reconciler.set_reach(device, reach)
        self.reconciler.set_cut_off({*told.dead, *told.cut_off})
        self.reconciler.pins = told.pins
        await self._set_cut_off(set(told.cut_off), set(told.unheard))
        await self._note_troubles(told)

    def _note_links(self, down: set[tuple[str, str]]) -> None:
        """Record which links went down, and which are back."""
        for ends in sorted(down ^ self._links_down):
            self._events.add("link-down" if ends in down else "link-up", "-".join(ends))
        self._links_down = down

    def _note_restarts(self, restarted: Mapping[str, Mapping[str, float]]) -> None:
        """Record which processes had ended, and are there again."""
        for node, processes in restarted.items():
            known = self._restarted.setdefault(node, {})
            for process, at in processes.items():
                if known.get(process, 0.0) < at:
                    known[process] = at
                    self._events.add("restarted", node, process=process)

    async def _note_troubles(self, told: ReachMap) -> None:
        """Record what devices say is wrong with them, when they say something else, and when it is over.

        What was recorded before this controller, or its reign, began is not recorded again.
        """
        if self._troubles is None:
            self._troubles = await self._recorded_troubles()
        ready = Reach.READY
        for device in sorted(told.troubles.keys() | self._troubles.keys()):
            why = told.troubles.get(device)
            if why and why != self._troubles.get(device):
                self._events.add("device-degraded", device, why=why)
                self._troubles[device] = why
            elif not why and device in self._troubles and told.devices.get(device, ready) is ready:
                self._events.add("device-well", device)
                del self._troubles[device]

    async def _recorded_troubles(self) -> dict[str, str]:
        """Return what the newest events say is wrong with devices."""
        found: dict[str, str] = {}
        for event in await self._events.page(None, _REMEMBERED):
            if event.kind == "device-degraded":
                found[event.subject] = str(event.detail.get("why", ""))
            elif event.kind == "device-well":
                found.pop(event.subject, None)
        return found

    def _note_nodes(self, dead: frozenset[str]) -> None:
        """Record which switches and SMuxes were cut off, and which are back."""
        for name in sorted(dead ^ self._dead):
            self._events.add("node-cut-off" if name in dead else "node-back", name)
        self._dead = dead

    async def _set_cut_off(self, servers: set[str], unheard: set[str]) -> None:
        """Take the DIPs of servers that nothing can be sent to out of service, and put them back.

        A monitoring that has just begun does not know yet of all that are cut off: those stay so.
        """
        changes = dict.fromkeys(servers - self.state.cut_off, True)
        changes |= dict.fromkeys(self.state.cut_off - servers - unheard, False)
        if not changes:
            return
        await self.state.set_cut_off(changes)
        for server, cut_off in sorted(changes.items()):
            vips = self.state.at_server(server)
            self._events.add("server-cut-off" if cut_off else "server-back", server, vips=len(vips))
            for vip in vips:
                self.reconciler.queue.add(vip, Priority.HEALTH)

    async def resync(self) -> Report:
        """Ask every device whether it holds what it should, and put right what does not."""
        await self.reconciler.check_devices(everything=True)
        due = self.reconciler.queue.due()
        return Report.of(await self._carry_out(due, Priority.REPAIR, self._wait_s))

    def forget(self, vip: IPv4Address) -> None:
        """Forget what was thought of the health of a VIP that is wanted no more."""
        self._judge.forget(vip)

    async def carry_out(self, vips: Iterable[IPv4Address]) -> None:
        """Have VIPs of an operator brought where they shall be; wait for it, but not for ever."""
        await self._carry_out(vips, Priority.OPERATOR, self._wait_s)

    # How

    def ready_to_add(self, record: VipRecord) -> VipRecord:
        """Return a new record that waits for switches that do not answer, or that may announce it still."""
        record = desired.waiting_for(record, self._closed())
        resting = self.state.resting.get(record.address)
        return _after_rest(record, resting) if resting else record

    def _at(self, vip: IPv4Address, revision: int | None) -> VipRecord:
        record = self.vip(vip)
        if revision is not None and record.revision != revision:
            raise RevisionError(record, revision)
        return record

    async def _alter(
        self, vip: IPv4Address, revision: int | None, change: Callable[[VipRecord], VipRecord]
    ) -> VipRecord:
        """Put a changed record in the place of a VIP's, whatever else changes it meanwhile."""
        while True:
            record = self._at(vip, revision)
            after = change(record)
            if after == record:
                return record
            try:
                await self.state.replace([(record, after)])
                return after
            except StaleError:
                continue

    async def _forget_health(self, spec: Vip) -> None:
        """Forget that DIPs were down which the VIP has no more, or checks no more."""
        checks, stated = spec.checks(), spec.by_check()
        down = self.state.failed(spec.address)
        if gone := {one for one in down if one.check not in checks or one.dip not in stated[one.check]}:
            await self.state.set_down(spec.address, dict.fromkeys(gone, False))
        self._judge.forget(spec.address, but=checks)

    async def _set_down(self, vip: IPv4Address, changes: Mapping[Checked, bool]) -> None:
        if not changes:
            return
        await self.state.set_down(vip, changes)
        for checked, down in sorted(changes.items()):
            port = {"port": checked.check} if checked.check else {}
            self._events.add("dip-down" if down else "dip-up", str(checked.dip), vip=str(vip), **port)
        self.reconciler.queue.add(vip, Priority.HEALTH)

    def _closed(self) -> set[str]:
        reach = self.reconciler.reach
        return {name for name, known in reach.items() if not known.answers}

    def _by_owner(
        self, placements: Iterable[Placement]
    ) -> tuple[dict[IPv4Address, dict[IPv4Address, str | None]], list[str]]:
        by_owner: dict[IPv4Address, dict[IPv4Address, str | None]] = {}
        gone = []
        for placement in placements:
            if placement.switch is not None:
                self.admission.check_switch(placement.switch)
            owner = self.state.owner(placement.address)
            if owner is None:
                gone.append(f"there is no VIP or TIP {placement.address}")
            else:
                by_owner.setdefault(owner, {})[placement.address] = placement.switch
        return by_owner, gone

    def _assigned(
        self, record: VipRecord, homes: Mapping[IPv4Address, str | None]
    ) -> tuple[VipRecord, list[str]]:
        """Return a record with what the engine says, and what of that is left out and why."""
        closed = self._closed() - self._lost()
        own: dict[IPv4Address, str | None] = {}
        for address, carried in record.carried().items():
            if address not in homes or (record.held and address == record.address):
                continue
            stuck = {*carried.leaving, carried.switch} & closed
            if not stuck:
                own[address] = homes[address]
        after = desired.placed(record, own, at_once=False)
        why = []
        for placed in after.tips:
            if placed.home is not None and placed.home == after.home:
                why.append(
                    f"VIP {record.address} and its TIP {placed.tip.address} cannot both be on {after.home}"
                )
        return (record, why) if why else (after, [])

    def _lost(self) -> set[str]:
        return {name for name, known in self.reconciler.reach.items() if known is Reach.LOST}

    async def _one_by_one(
        self, changes: Iterable[tuple[VipRecord, VipRecord]]
    ) -> tuple[list[tuple[VipRecord, VipRecord]], list[str]]:
        """Make the changes that still can be made; return those, and say which cannot."""
        made, skipped = [], []
        for record, after in changes:
            try:
                await self.state.replace([(record, after)])
            except StaleError:
                skipped.append(f"VIP {record.address} was changed meanwhile: it stays where it is")
            else:
                made.append((record, after))
        return made, skipped

    async def _in_two_waves(
        self,
        vips: Collection[IPv4Address],
        priority: Priority,
        within_s: float | None,
        progress: Progress | None = None,
    ) -> Report:
        """Have VIPs that are held back leave where they are, then go where they shall be."""
        reconciler = self.reconciler
        began = time.monotonic()
        progress = progress or Progress()
        progress.expect(2 * len(vips))
        left = await self._carry_out(vips, priority, within_s, progress)
        between = time.monotonic()
        reconciler.let_go(vips)
        rest_s = None if within_s is None else max(_LEAST_WAIT_S, began + within_s - between)
        arrived = await self._carry_out(vips, priority, rest_s, progress)
        ended = time.monotonic()
        for vip in vips:
            if record := self.state.get(vip):
                arrived += self._waiting(record)
        report = Report.of([*left, *arrived])
        waves = {Wave.WITHDRAW.value: between - began, Wave.ANNOUNCE.value: ended - between}
        took = {wave: round(seconds * 1000, 3) for wave, seconds in waves.items()}
        known = {wave: took.get(wave, ms) for wave, ms in report.wave_ms.items()}
        return report.model_copy(update={"wave_ms": known})

    def _waiting(self, record: VipRecord) -> list[Outcome]:
        """Say what of a VIP waits for a switch that does not answer."""
        closed = self._closed()
        found = []
        for address, carried in record.carried().items():
            if carried.returning in closed:
                found.append(f"{carried.returning} does not answer: {address} waits for it on the SMuxes")
            for name in carried.leaving:
                if name in closed:
                    found.append(f"{name} may still announce {address}, and does not answer")
        return [Outcome(error=said) for said in found]

    async def _carry_out_with_others(self, vips: Iterable[IPv4Address]) -> None:
        """Have what an operator asked for done, together with what others ask for at the same time."""
        async with self._convoy.joined():
            await self._carry_out(vips, Priority.OPERATOR, self._wait_s)

    async def _carry_out(
        self,
        vips: Iterable[IPv4Address],
        priority: Priority,
        within_s: float | None,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """Have VIPs brought where they shall be; wait for it, up to a time (None: to the end)."""
        waiters = [self.reconciler.queue.wait(vip, priority) for vip in vips]
        if progress is not None:
            for waiter in waiters:
                waiter.add_done_callback(progress.step)
        if not waiters:
            return []
        done, late = await asyncio.wait(waiters, timeout=within_s)
        outcomes = [waiter.result() for waiter in waiters if waiter in done]
        if late:
            outcomes.append(Outcome(waits=f"{len(late)} of {len(waiters)} take longer: it goes on by itself"))
        return outcomes


def _duplicate(spec: Vip) -> ConflictError:
    return ConflictError(f"VIP {spec.address} exists already", "duplicate-vip")


def _after_rest(record: VipRecord, resting: Resting) -> VipRecord:
    """Return a record of an address that switches may still announce: until they are asked, no other does."""
    if not resting.switches:
        return record
    leaving = tuple(name for name in resting.switches if name != record.switch)
    waits = desired.put(record, {record.address: (None, record.home)}) if leaving else record
    return waits.model_copy(update={"leaving": leaving})
