import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import zip_longest
from pathlib import Path

import pytest

from controller import audit
from controller.events import EventLog
from controller.inventory import Inventory, Role, Server, SMux, Switch, TableSizes
from controller.reach import Reach, ReachMap
from controller.records import VipRecord
from controller.state import State
from controller.store import SqliteStore
from controller.updater.devices import MuxDevice
from controller.updater.outcome import Report
from controller.updater.plan import DeviceKind
from controller.updater.reads import Placement, placements_of
from controller.updater.reconcile import Flows
from controller.updater.service import Updater
from duet_p4 import identity
from duet_p4.api.host import LiveFlow
from duet_p4.api.problems import ConflictError, InvalidError, UnknownError
from duet_p4.flow_hash import Flow, flow_hash
from duet_p4.model import Checked, Dip, HealthCheck, PortGroup, Protocol, Vip
from duet_p4.rest.access import ACTOR
from duet_p4.rest.client import MuxClient, UnreachableError
from duet_p4.slots import SLOTS_PER_MEMBER
from tests.unit.controller.flows import dip_of, key_of, live_flows
from tests.unit.controller.memory_mux import MemoryMux, served

VIP = IPv4Address("10.0.0.1")


def dips(count: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.1") + i) for i in range(count))


class Network:
    """Two switches and an SMux, an updater over them, and the flows that servers would report."""

    def __init__(
        self, state: State, events: EventLog, muxes: dict[str, MemoryMux], urls: dict[str, str]
    ) -> None:
        self.log = muxes["s1"].log
        self.muxes = muxes
        self.flows: list[LiveFlow] = []
        self.silent: tuple[str, ...] = ()
        self.state = state
        self.events = events
        self.homes: list[str | None] = []
        self.engine_is_away = False

    def start(self, inventory: Inventory, devices: dict[str, MuxDevice], wait_s: float) -> None:
        self.updater = Updater(
            self.state, self.events, inventory, devices, self.live_flows, self.place, wait_s=wait_s
        )
        self.reconciler = self.updater.reconciler

    async def add(self, spec: Vip, switch: str | None, *tips: str | None) -> VipRecord:
        """Add a VIP that the engine wants on `switch`, and its TIPs on `tips`."""
        self.homes = [switch, *tips]
        return await self.updater.add_vip(spec)

    async def place(self, record: VipRecord) -> dict[IPv4Address, str | None]:
        if self.engine_is_away:
            raise UnreachableError("the engine is away")
        return dict(zip_longest(record.carried(), self.homes[: len(record.carried())]))

    async def live_flows(self, record: VipRecord, can_be_asked: Callable[[str], bool]) -> Flows:
        self.log.append("flows asked for")
        return Flows(tuple(self.flows), self.silent)

    async def assign(self, *placements: tuple[IPv4Address, str | None]) -> Report:
        return await self.updater.assign(Placement(address=a, switch=s) for a, s in placements)

    async def set_health(self, dips: Iterable[IPv4Address], *, up: bool, vip: IPv4Address = VIP) -> None:
        """Report DIPs, as what is known for certain, and wait until all devices know."""
        await self.updater.set_dip_health(vip, dict.fromkeys(dips, up), certain=True)
        await self.quiet()

    async def set_reach(self, **reach: Reach) -> None:
        await self.updater.set_reach(ReachMap(devices=dict(reach)))
        await self.quiet()

    async def settle(self) -> None:
        self.reconciler.settle()
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until nobody has anything to do now."""
        async with asyncio.timeout(20):
            while not self.reconciler.queue.idle:  # noqa: ASYNC110 - many things may make it so
                await asyncio.sleep(0.002)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - many things may make it so
                await asyncio.sleep(0.005)

    async def kinds(self) -> list[str]:
        await self.events.flush()
        return [event.kind for event in await self.events.page(None, 1000)]

    def on(self, mux: str) -> set[str]:
        return {str(address) for address in self.muxes[mux].held}


def inventory_of(urls: dict[str, str]) -> Inventory:
    return Inventory(
        switches=tuple(
            Switch(
                name=name,
                role=Role.TOR,
                agent=urls[name],
                loopback=IPv4Address("172.30.0.1"),
                tables=TableSizes(tunneling=8, pinned=20),
            )
            for name in ("s1", "s2")
        ),
        smuxes=(SMux(name="m1", agent=urls["m1"], switch="s1", address=IPv4Address("100.9.0.9")),),
        vip_prefix=IPv4Network("10.0.0.0/16"),
        tip_prefix=IPv4Network("20.0.0.0/24"),
    )


@asynccontextmanager
async def network(
    path: Path,
    wait_s: float = 8.0,
    without: str = "",
    servers: tuple[Server, ...] = (),
    prepare: Callable[[Network], None] = lambda _: None,
) -> AsyncIterator[Network]:
    """Run an updater over three muxes; `without` one that left the inventory."""
    log: list[str] = []
    muxes = {name: MemoryMux(name, 8 if name != "m1" else 10_000, log) for name in ("s1", "s2", "m1")}
    async with AsyncExitStack() as stack:
        devices, urls = {}, {}
        for name, mux in muxes.items():
            urls[name] = await stack.enter_async_context(served(mux))
            client = await stack.enter_async_context(MuxClient(urls[name], timeout_s=2.0))
            devices[name] = MuxDevice(client, DeviceKind.SMUX if name == "m1" else DeviceKind.SWITCH)
        inventory = inventory_of(urls).model_copy(update={"servers": servers})
        if without:
            left = tuple(switch for switch in inventory.switches if switch.name != without)
            inventory = inventory.model_copy(update={"switches": left})
            del devices[without]
        store = SqliteStore(path / "duet.db")
        stack.push_async_callback(store.close)
        contents = await store.load()
        state = State(store, contents, inventory)
        net = Network(state, EventLog(store, contents.last_event), muxes, urls)
        net.start(inventory, devices, wait_s)
        prepare(net)
        net.reconciler.begin()

        async def repair() -> None:
            while True:
                await net.reconciler.check_devices(everything=False)
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (net.reconciler.run(), repair())]
            try:
                await net.until(lambda: all(lane.known for lane in net.reconciler.lanes.values()))
                yield net
            finally:
                for task in tasks:
                    task.cancel()


def run(path: Path, scenario: Callable[[Network], Awaitable[None]], wait_s: float = 8.0) -> None:
    async def main() -> None:
        async with network(path, wait_s) as net:
            await scenario(net)

    asyncio.run(main())


def test_a_vip_is_added_moved_and_removed_with_the_smux_always_behind_it(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        assert set(net.log[:2]) == {f"s1 program {VIP}", f"m1 put {VIP}"}
        assert net.log[2:] == [f"s1 announce {VIP}"]
        net.log.clear()
        report = await net.assign((VIP, "s2"))
        assert net.log == [f"s1 delete {VIP}", f"s2 put {VIP}"]
        assert set(report.wave_ms) == {"withdraw", "announce"}
        net.log.clear()
        await net.updater.remove_vip(VIP)
        assert net.log == [f"s2 delete {VIP}", f"m1 delete {VIP}"]

    run(tmp_path, scenario)


def test_what_an_assignment_moves_is_in_the_audit_log_with_who_asked(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        ACTOR.set(identity.Identity(identity.Role.OPERATOR, "ann"))
        await net.assign((VIP, "s2"))
        await net.assign((VIP, "s2"))
        await net.events.flush()
        (noted,) = [event for event in await net.events.page(None, 1000) if event.subject == "assignment"]
        assert noted.kind == audit.KIND
        assert noted.detail == {
            "actor": "operator ann",
            "revision": 2,
            "before": {str(VIP): "s1"},
            "after": {str(VIP): "s2"},
            "moved": 1,
        }

    run(tmp_path, scenario)


def test_bad_requests_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        vip = Vip(address=VIP, dips=dips(2))
        await net.add(vip, None)
        net.log.clear()
        with pytest.raises(ConflictError, match=r"10\.0\.0\.1 exists already"):
            await net.add(vip, None)
        with pytest.raises(InvalidError, match=r"11\.0\.0\.1 is outside the VIP prefix"):
            await net.add(Vip(address=IPv4Address("11.0.0.1"), dips=dips(1)), None)
        with pytest.raises(UnknownError, match="no switch is called 's9'"):
            await net.assign((VIP, "s9"))
        assert (await net.assign((IPv4Address("10.0.0.9"), "s1"))).failed == (
            "there is no VIP or TIP 10.0.0.9",
        )
        with pytest.raises(UnknownError, match=r"no VIP 10\.0\.0\.9"):
            await net.updater.remove_vip(IPv4Address("10.0.0.9"))
        assert net.log == []

    run(tmp_path, scenario)


def test_a_vip_that_a_switch_has_no_room_for_stays_on_the_smuxes(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(5)), "s1")
        other = IPv4Address("10.0.0.2")
        record = await net.add(Vip(address=other, dips=dips(5)), "s1")
        assert record.switch is None
        assert net.on("s1") == {str(VIP)} and str(other) in net.on("m1")
        assert "left-to-smuxes" in await net.kinds()

    run(tmp_path, scenario)


def test_a_vip_returns_to_a_switch_that_had_no_room_for_it_once_there_is_some(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(5)), "s1")
        other = IPv4Address("10.0.0.2")
        waiting = await net.updater.add_vip(Vip(address=other, dips=dips(5)), "s1", by_hand=True)
        assert (waiting.switch, waiting.returning, waiting.held) == (None, "s1", True)
        events = len(await net.kinds())
        net.log.clear()
        await net.settle()
        assert net.log == []
        assert len(await net.kinds()) == events, "what was refused was tried again though nothing changed"
        await net.updater.remove_vip(VIP)
        await net.settle()
        settled = net.updater.vip(other)
        assert (settled.switch, settled.returning, settled.held) == ("s1", None, True)
        assert net.on("s1") == {str(other)}

    run(tmp_path, scenario)


def test_a_switch_without_room_for_old_and_new_at_once_gives_the_old_up_first(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(8)), "s1")
        net.log.clear()
        # Its slots move from a DIP that leaves to one that joins: no live flow is in the way.
        await net.set_health([dips(8)[0].address], up=False)
        swapped = net.updater.vip(VIP)
        await net.updater.change_vip(Vip(address=VIP, dips=(*dips(8)[1:], dips(9)[8])))
        assert net.updater.vip(VIP).switch == "s1"
        assert net.muxes["s1"].held[VIP] == net.muxes["m1"].held[VIP] != swapped.layout
        assert "left-to-smuxes" not in await net.kinds()

    run(tmp_path, scenario)


def test_a_refused_change_leaves_no_switch_with_what_was_before(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(4)), "s1")
        other = IPv4Address("10.0.0.2")
        await net.add(Vip(address=other, dips=dips(3)), "s1")
        port = PortGroup(protocol=Protocol.TCP, port=81, dips=dips(9)[4:])
        await net.updater.change_vip(Vip(address=VIP, dips=dips(4), ports=(port,)))
        record = net.updater.vip(VIP)
        assert (record.switch, record.returning) == (None, "s1")
        assert net.on("s1") == {str(other)}
        assert net.muxes["m1"].held[VIP] == record.layout

    run(tmp_path, scenario)


def test_a_vip_that_outgrows_a_table_gets_tips_with_homes_and_loses_them_again(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(8)), "s1")
        net.homes = ["s1", "s2", None]
        grown = await net.updater.change_vip(Vip(address=VIP, dips=dips(9)))
        assert (grown.switch, [tip.switch for tip in grown.tips]) == ("s1", ["s2", None])
        assert net.on("s2") == {str(grown.tips[0].tip.address)}
        net.homes = ["s2"]
        shrunk = await net.updater.change_vip(Vip(address=VIP, dips=dips(7)))
        assert (shrunk.switch, shrunk.tips) == ("s1", ())
        assert (net.on("s1"), net.on("s2")) == ({str(VIP)}, set())

    run(tmp_path, scenario)


def test_dips_that_fail_and_come_back_leave_a_large_vip_its_tips(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        homes = {address: carried.switch for address, carried in before.carried().items()}
        failing = [dip.address for dip in dips(4)]
        for up in (False, True):
            await net.set_health(failing, up=up)
            now = net.updater.vip(VIP)
            assert {address: carried.switch for address, carried in now.carried().items()} == homes
        assert served_by(now) == {dip.address for dip in dips(9)}

    run(tmp_path, scenario)


def test_live_flows_of_a_vip_with_tips_are_pinned_when_a_dip_joins(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        net.flows = live_flows(before, 60)
        after = await net.updater.change_vip(Vip(address=VIP, dips=dips(10)))
        assert after.layout.pinned and after.switch == "s1"
        assert all(dip_of(after, key_of(after, flow)) == flow.dip for flow in net.flows)
        assert net.muxes["s1"].held[VIP] == net.muxes["m1"].held[VIP] == after.layout
        net.flows = []
        await net.settle()
        settled = net.updater.vip(VIP).layout
        assert settled.group is not None and len(settled.group.members) == 2 and not settled.pinned

    run(tmp_path, scenario)


def test_a_tip_that_a_switch_has_no_room_for_returns_once_there_is_some(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        other = IPv4Address("10.0.0.2")
        await net.add(Vip(address=other, dips=dips(5)), "s2")
        waiting = await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        assert [(tip.switch, tip.returning) for tip in waiting.tips] == [(None, "s2"), (None, None)]
        await net.updater.remove_vip(other)
        await net.settle()
        assert net.on("s2") == {str(waiting.tips[0].tip.address)}

    run(tmp_path, scenario)


def test_what_waits_for_a_switch_that_is_lost_goes_elsewhere(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(5)), "s1")
        other = IPv4Address("10.0.0.2")
        await net.add(Vip(address=other, dips=dips(5)), "s1")
        assert net.updater.vip(other).returning == "s1"
        net.homes = ["s2"]
        await net.updater.migrate(VIP, "s1")
        await net.set_reach(s1=Reach.LOST)
        held = net.updater.vip(VIP)
        assert (net.updater.vip(other).switch, held.switch, held.returning) == ("s2", None, "s1")

    run(tmp_path, scenario)


def test_an_assignment_leaves_what_was_placed_by_hand_after_it_was_computed(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        computed = placements_of(net.updater.state)
        await net.updater.migrate(VIP, "s2")
        assert (await net.updater.assign(computed)).done == 0
        assert net.updater.vip(VIP).switch == "s2"

    run(tmp_path, scenario)


def test_a_vip_moved_to_a_switch_that_does_not_answer_waits_for_it(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.set_reach(s2=Reach.UNREACHABLE)
        report = await net.updater.migrate(VIP, "s2")
        assert report.failed == (f"s2 does not answer: {VIP} waits for it on the SMuxes",)
        assert net.on("s1") == set()
        await net.settle()
        assert net.updater.vip(VIP).returning == "s2"
        await net.set_reach(s2=Reach.READY)
        await net.until(lambda: net.on("s2") == {str(VIP)})
        assert net.updater.vip(VIP).switch == "s2"

    run(tmp_path, scenario)


def test_a_vip_moved_by_hand_takes_its_tips_out_of_its_way_and_off_the_smuxes(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        net.homes = ["s2", "s1", None]
        await net.updater.migrate(VIP, "s2")
        moved = net.updater.vip(VIP)
        assert (moved.switch, [tip.switch for tip in moved.tips]) == ("s2", ["s1", None])
        assert net.on("s1") == {str(moved.tips[0].tip.address)} and net.on("s2") == {str(VIP)}

    run(tmp_path, scenario)


def test_a_vip_that_waits_needs_no_more_slots_than_a_fresh_one(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(5)), "s1")
        other = IPv4Address("10.0.0.2")
        await net.add(Vip(address=other, dips=dips(8)), "s1")
        await net.updater.change_vip(Vip(address=other, dips=dips(3)))
        settled = net.updater.vip(other)
        assert settled.switch == "s1" and settled.layout.group is not None
        assert len(settled.layout.group.slots) == 3 * SLOTS_PER_MEMBER

    run(tmp_path, scenario)


def test_adding_a_dip_takes_the_vip_through_the_smuxes_and_pins_the_flows_it_would_move(
    tmp_path: Path,
) -> None:
    async def scenario(net: Network) -> None:
        spec = Vip(address=VIP, dips=dips(2))
        record = await net.add(spec, "s1")
        assert record.layout.group is not None
        for port in range(40):
            key = Flow(IPv4Address("100.9.0.1"), VIP, 6, 5000 + port, 80)
            dip = record.layout.group.member(flow_hash(key)).address
            flow = LiveFlow(
                protocol=6, source=key.source, source_port=5000 + port, destination_port=80, dip=dip
            )
            net.flows.append(flow)
        net.log.clear()
        after = await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        assert after.switch == "s1" and after.returning is None
        assert net.log[0] == f"s1 delete {VIP}"
        assert net.log.index("flows asked for") < net.log.index(f"m1 put {VIP}")
        assert net.log[-1] == f"s1 put {VIP}"
        pinned = {pin.source_port: pin.dip for pin in after.layout.pinned}
        assert pinned, "a third DIP takes a third of the slots, so some flows must be pinned"
        for flow in net.flows:
            key = Flow(flow.source, VIP, 6, flow.source_port, 80)
            assert after.layout.group is not None
            by_slot = after.layout.group.member(flow_hash(key)).address
            assert pinned.get(flow.source_port, by_slot) == flow.dip

        net.flows.clear()
        await net.settle()
        assert net.updater.vip(VIP).layout.pinned == ()

    run(tmp_path, scenario)


async def wait_for_the_switch(net: Network) -> None:
    """Have a VIP of s1 wait on the SMuxes, with more flows to pin than s1 has room for."""
    record = await net.add(Vip(address=VIP, dips=dips(1)), "s1")
    only = record.layout.groups()[0].members[0].address
    net.flows = [
        LiveFlow(protocol=6, source=IPv4Address("100.9.0.1"), source_port=p, destination_port=80, dip=only)
        for p in range(2000, 2200)
    ]
    waiting = await net.updater.change_vip(Vip(address=VIP, dips=dips(2)))
    assert (waiting.switch, waiting.returning) == (None, "s1")


def test_a_vip_with_more_pins_than_fit_waits_on_the_smuxes_until_its_flows_end(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await wait_for_the_switch(net)
        assert net.on("s1") == set()
        net.flows = net.flows[:10]
        await net.settle()
        settled = net.updater.vip(VIP)
        assert (settled.switch, settled.returning) == ("s1", None)

    run(tmp_path, scenario)


def test_a_switch_itself_says_how_many_pinned_flows_it_has_room_for(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await wait_for_the_switch(net)
        await net.updater.set_reach(ReachMap(devices={}, pins={"s1": 16_384}))
        await net.settle()
        assert net.updater.vip(VIP).switch == "s1"

    run(tmp_path, scenario)


@pytest.mark.parametrize("target", ["s2", None, "s1"])
def test_a_vip_that_waits_for_its_switch_goes_where_an_operator_says_instead(
    tmp_path: Path, target: str | None
) -> None:
    async def scenario(net: Network) -> None:
        await wait_for_the_switch(net)
        await net.updater.migrate(VIP, target)
        moved = net.updater.vip(VIP)
        assert moved.held
        assert (moved.switch, moved.returning) == (None, target), "s2 has no room for its pins either"
        net.flows = []
        await net.settle()
        assert net.updater.vip(VIP).switch == target

    run(tmp_path, scenario)


def test_a_released_vip_stays_until_the_engine_moves_it(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await wait_for_the_switch(net)
        net.log.clear()
        released = await net.updater.release(VIP)
        assert (released.held, released.returning) == (False, "s1")
        assert net.log == []

    run(tmp_path, scenario)


def test_a_dead_dip_loses_its_slots_and_gets_them_back(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(3)), "s1")
        dead = dips(3)[1].address
        await net.set_health([dead], up=False)
        assert dead not in served_by(net.updater.vip(VIP))
        await net.set_health([dead], up=True)
        assert dead in served_by(net.updater.vip(VIP))

    run(tmp_path, scenario)


def test_dips_of_other_vips_have_their_own_health(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(3)), "s1")
        await net.set_health([dips(3)[1].address], up=False)
        other = await net.add(Vip(address=VIP + 1, dips=dips(3)), "s2")
        assert served_by(other) == {dip.address for dip in dips(3)}

    run(tmp_path, scenario)


def test_a_vip_that_is_added_again_knows_nothing_of_its_former_health(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        spec = Vip(address=VIP, dips=dips(2))
        await net.add(spec, "s1")
        await net.set_health([dips(2)[0].address], up=False)
        await net.updater.remove_vip(VIP)
        with pytest.raises(UnknownError):
            await net.set_health([dips(2)[0].address], up=False)
        assert served_by(await net.add(spec, "s1")) == {dip.address for dip in dips(2)}

    run(tmp_path, scenario)


@pytest.mark.parametrize("up", [False, True])
def test_health_that_a_kill_kept_from_the_layout_reaches_it_later(tmp_path: Path, up: bool) -> None:
    changing = dips(3)[1].address

    async def before(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(3), health=HealthCheck(port=80)), "s1")
        await net.set_health([changing], up=not up)
        await net.state.set_down(VIP, {Checked(changing): not up})  # and then it was killed

    async def after(net: Network) -> None:
        await net.until(lambda: (changing in served_by(net.updater.vip(VIP))) is up)
        await net.quiet()
        net.log.clear()
        await net.settle()
        assert net.log == []

    run(tmp_path, before)
    run(tmp_path, after)


def test_changes_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(3)), "s1")
        await asyncio.gather(*(net.updater.drain_dip(VIP, dip.address) for dip in dips(2)))
        assert [dip.weight for dip in net.updater.vip(VIP).spec.dips] == [0, 0, 1]

    run(tmp_path, scenario)


def served_by(record: VipRecord) -> set[IPv4Address]:
    tips = {placed.tip.address: placed.tip.group for placed in record.tips}
    members = {member.address for group in record.layout.groups() for member in group.used()}
    behind = {dip.address for address in members & tips.keys() for dip in tips[address].used()}
    return (members - tips.keys()) | behind


def test_resync_repairs_what_differs_and_writes_nothing_where_all_is_right(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(20)), "s1")
        other = IPv4Address("10.0.0.2")
        await net.add(Vip(address=other, dips=dips(2)), "s2")
        net.log.clear()
        assert (await net.updater.resync()).writes == 0
        assert net.log == []
        stray = net.muxes["s2"].held.pop(other)
        net.muxes["s1"].held[other] = stray
        net.muxes["m1"].held.clear()
        await net.updater.resync()
        assert net.on("s2") == {str(other)} and str(other) not in net.on("s1")
        assert (await net.updater.resync()).done == 0

    run(tmp_path, scenario)


def test_a_device_that_is_away_is_put_right_once_it_is_back(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        net.muxes["m1"].away = True
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        assert net.on("m1") == set()
        net.muxes["m1"].away = False
        await net.until(lambda: net.on("m1") == {str(VIP)})

    run(tmp_path, scenario)


def test_an_smux_that_was_restarted_behind_the_times_is_told_soon_that_it_may_announce(
    tmp_path: Path,
) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), None)
        await net.set_reach(m1=Reach.UNREACHABLE)
        await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        net.muxes["m1"].synced = False
        await net.set_reach(m1=Reach.READY)
        await net.until(lambda: net.muxes["m1"].synced)
        assert net.muxes["m1"].held == {VIP: net.updater.vip(VIP).layout}

    run(tmp_path, scenario)


def test_a_vip_whose_old_switch_did_not_withdraw_it_reaches_the_new_one_later(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        net.muxes["s1"].away = True
        await net.assign((VIP, "s2"))
        assert net.on("s2") == set(), "two switches announce it"
        assert net.updater.vip(VIP).leaving == ("s1",)
        net.muxes["s1"].away = False
        await net.until(lambda: net.on("s1") == set() and net.on("s2") == {str(VIP)})
        await net.quiet()
        assert net.updater.vip(VIP).leaving == ()

    run(tmp_path, scenario)


def test_a_restarted_updater_wants_what_was_acknowledged(tmp_path: Path) -> None:
    async def before(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")

    async def after(net: Network) -> None:
        # The muxes of this run began empty; what they lack may have been put right by now.
        await net.updater.resync()
        assert net.on("s1") == {str(VIP)}

    run(tmp_path, before)
    run(tmp_path, after)


def test_a_plan_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        net.log.clear()
        plan = net.updater.plan([Placement(address=VIP, switch="s2")])
        assert [(step.wave.value, step.device) for step in plan.steps] == [
            ("withdraw", "s1"),
            ("announce", "s2"),
        ]
        assert net.log == [] and net.updater.vip(VIP).switch == "s1"

    run(tmp_path, scenario)
