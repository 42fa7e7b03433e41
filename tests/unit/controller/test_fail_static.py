"""What the controller does, and above all does not do, while parts of the network cannot be reached."""

import asyncio
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from controller.inventory import Inventory, Server
from controller.reach import Reach, ReachMap
from controller.records import VipRecord
from controller.store.sqlite import SqliteStore
from controller.updater import reconcile, status
from controller.updater.reconcile import Flows
from controller.updater.service import RevisionError, Updater
from controller.updater.wanted import mux_entries
from duet_p4.api.problems import ConflictError, UnknownError
from duet_p4.model import Checked, HealthCheck, MuxVip, PortGroup, Protocol, Vip
from duet_p4.rest.client import RefusedError
from duet_p4.smux import prober
from tests.unit.controller.flows import dip_of, key_of, live_flows
from tests.unit.controller.test_updater import VIP, Network, dips, inventory_of, network, run, served_by

OTHER = VIP + 1


def announcers(net: Network, address: IPv4Address = VIP) -> set[str]:
    return {name for name in ("s1", "s2") if address in net.muxes[name].announced}


def test_what_an_unreachable_switch_may_announce_no_other_announces(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.set_reach(s1=Reach.UNREACHABLE)
        report = await net.updater.migrate(VIP, "s2")
        await net.quiet()
        assert announcers(net) == {"s1"}
        assert any("s1 may still announce" in why for why in report.failed)
        await net.set_reach(s1=Reach.READY)
        await net.until(lambda: announcers(net) == {"s2"})
        await net.quiet()
        assert net.updater.vip(VIP).leaving == ()

    run(tmp_path, scenario)


def test_an_assignment_leaves_what_is_on_an_unreachable_switch(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.set_reach(s1=Reach.UNREACHABLE)
        await net.assign((VIP, "s2"))
        assert net.updater.vip(VIP).switch == "s1" and announcers(net) == {"s1"}

    run(tmp_path, scenario)


def test_a_management_network_that_heals_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.add(Vip(address=OTHER, dips=dips(3)), None)
        net.log.clear()
        everybody = dict.fromkeys(net.reconciler.lanes, Reach.UNREACHABLE)
        why = "3 of 3 devices do not answer"
        for _ in range(3):
            await net.updater.set_reach(ReachMap(devices=everybody, suspect=why))
            await net.quiet()
        await net.set_reach(**dict.fromkeys(everybody, Reach.READY))
        await net.reconciler.check_devices(everything=True)
        await net.quiet()
        assert net.log == [], "a device was written to"
        assert announcers(net) == {"s1"} and net.updater.vip(VIP).switch == "s1"
        kinds = await net.kinds()
        assert kinds.count("monitoring-suspect") == 1 and "device-lost" not in kinds

    run(tmp_path, scenario)


def test_it_is_not_forgotten_over_a_restart_who_may_announce(tmp_path: Path) -> None:
    async def before(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.set_reach(s1=Reach.UNREACHABLE)
        await net.updater.migrate(VIP, "s2")

    async def kept() -> tuple[str, ...]:
        store = SqliteStore(tmp_path / "duet.db")
        try:
            record, _ = (await store.load()).vips[VIP]
            return record.leaving
        finally:
            await store.close()

    async def after(net: Network) -> None:
        # Its muxes are empty: s1, once it was asked, announces nothing any more.
        await net.until(lambda: announcers(net) == {"s2"})
        await net.until(lambda: net.state.leaving("s1") == set())

    run(tmp_path, before)
    assert asyncio.run(kept()) == ("s1",)
    run(tmp_path, after)


def test_a_switch_that_is_lost_gives_up_its_vips_and_nothing_of_it_is_left_behind(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        net.homes = ["s2"]
        await net.set_reach(s1=Reach.LOST)
        await net.until(lambda: "s2" in announcers(net))
        assert net.updater.vip(VIP).switch == "s2"
        await net.set_reach(s1=Reach.READY)
        await net.until(lambda: announcers(net) == {"s2"})

    run(tmp_path, scenario)


def test_a_vip_stays_on_its_switch_while_no_smux_can_take_it(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        net.muxes["m1"].away = True
        net.flows = live_flows(net.updater.vip(VIP), 20)
        await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        await net.updater.migrate(VIP, "s2")
        await net.quiet()
        assert announcers(net) == {"s1"}, "it was withdrawn, and nobody has it"
        net.muxes["m1"].away = False
        await net.until(lambda: announcers(net) == {"s2"})
        assert served_by(net.updater.vip(VIP)) == {dip.address for dip in dips(3)}

    run(tmp_path, scenario)


def test_what_fails_for_one_vip_stops_no_other(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.add(Vip(address=OTHER, dips=dips(2)), "s1")
        gone = VIP + 7
        report = await net.assign((gone, "s2"), (VIP, "s2"), (OTHER, "s2"))
        assert report.failed == (f"there is no VIP or TIP {gone}",)
        assert announcers(net) == announcers(net, OTHER) == {"s2"}

    run(tmp_path, scenario)


def test_an_assignment_leaves_out_what_was_removed_meanwhile_and_what_cannot_be(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        large, (tip, *_) = VIP + 2, await with_tips(net, VIP + 2)
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.add(Vip(address=OTHER, dips=dips(2)), "s1")
        removed, report = await asyncio.gather(
            net.updater.remove_vip(VIP),
            net.assign((VIP, "s2"), (OTHER, "s2"), (large, "s2"), (tip, "s2")),
        )
        assert removed is None
        assert set(report.failed) == {
            f"VIP {VIP} was changed meanwhile: it stays where it is",
            f"VIP {large} and its TIP {tip} cannot both be on s2",
        }
        assert announcers(net) == set()
        assert announcers(net, OTHER) == {"s2"}
        assert announcers(net, large) == {"s1"}

    run(tmp_path, scenario)


async def with_tips(net: Network, vip: IPv4Address) -> list[IPv4Address]:
    """Add a VIP on s1 with two TIPs, one of them on s2; return them."""
    await net.add(Vip(address=vip, dips=dips(9)), "s1", "s2", None)
    return [placed.tip.address for placed in net.updater.vip(vip).tips]


def test_a_tip_in_the_way_of_a_stranded_vip_gives_way(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        await net.add(Vip(address=OTHER, dips=dips(1)), "s1")
        net.homes = ["s2"]  # also for the VIP whose TIP is there
        await net.set_reach(s1=Reach.LOST)
        await net.until(lambda: "s2" in announcers(net) & announcers(net, OTHER))
        moved = net.updater.vip(VIP)
        assert [tip.switch for tip in moved.tips] == [None, None]

    run(tmp_path, scenario)


def test_a_hanging_switch_holds_no_other_vip_up(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.add(Vip(address=OTHER, dips=dips(3)), "s2")
        net.muxes["s1"].answers.clear()
        hanging = asyncio.create_task(net.updater.migrate(VIP, None))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        dead = dips(3)[1].address
        await net.updater.set_dip_health(OTHER, {dead: False})
        await net.until(lambda: dead not in served_by(net.updater.vip(OTHER)))
        await net.until(lambda: net.muxes["s2"].held[OTHER] == net.updater.vip(OTHER).layout)
        assert not hanging.done(), "the switch does not hang"
        assert time.monotonic() - began < 5
        net.muxes["s1"].answers.set()
        await hanging

    run(tmp_path, scenario)


def test_a_request_does_not_wait_for_ever_and_goes_on_by_itself(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        net.muxes["s1"].answers.clear()
        report = await net.updater.migrate(VIP, None)
        assert any("goes on by itself" in why for why in report.failed)
        net.muxes["s1"].answers.set()
        await net.until(lambda: announcers(net) == set())

    run(tmp_path, scenario, wait_s=0.2)


def test_a_switch_that_refuses_everything_is_left_alone_and_said_once(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        before = len(await net.kinds())
        net.muxes["s1"].away = True
        await net.updater.migrate(VIP, None)
        await asyncio.sleep(1.5)
        lane = net.reconciler.lanes["s1"]
        assert lane.retry_in > 0 or lane.doubtful
        kinds = (await net.kinds())[before:]
        assert len(kinds) <= 3, kinds

    run(tmp_path, scenario)


def test_health_that_nobody_checks_any_more_is_forgotten(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        checked = Vip(address=VIP, dips=dips(3), health=HealthCheck(port=80))
        await net.add(checked, "s1")
        await net.set_health([dips(3)[0].address], up=False)
        assert len(served_by(net.updater.vip(VIP))) == 2
        await net.updater.change_vip(checked.model_copy(update={"health": None}))
        assert len(served_by(net.updater.vip(VIP))) == 3
        assert net.state.down(VIP) == frozenset()

    run(tmp_path, scenario)


def test_a_check_of_a_port_decides_about_that_port_only(tmp_path: Path) -> None:
    one, two, three = dips(3)
    check = HealthCheck(port=21)

    def group_of(net: Network, port: str = "") -> set[IPv4Address]:
        return net.updater.vip(VIP).in_service()[port]

    async def scenario(net: Network) -> None:
        ftp = PortGroup(protocol=Protocol.TCP, port=21, dips=(one, two), health=check)
        dns = PortGroup(protocol=Protocol.UDP, port=53, dips=(one, three))
        spec = Vip(address=VIP, dips=(one, two, three), ports=(ftp, dns), health=HealthCheck(port=80))
        await net.add(spec, "s1")
        await net.updater.set_dip_health(VIP, {one.address: False}, check="tcp/21", certain=True)
        await net.quiet()
        assert group_of(net, "tcp/21") == {two.address}
        assert group_of(net) == {dip.address for dip in spec.dips}
        assert group_of(net, "udp/53") == {one.address, three.address}
        said = status.why(net.updater, VIP).reasons
        assert f"out of service for port tcp/21: {one.address}" in said
        await net.set_health([three.address], up=False)
        assert group_of(net) == {one.address, two.address}
        assert group_of(net, "udp/53") == {one.address}, "a group without a check goes by the VIP's"
        assert group_of(net, "tcp/21") == {two.address}
        with pytest.raises(UnknownError, match="no check of port udp/53"):
            await net.updater.set_dip_health(VIP, {one.address: False}, check="udp/53")
        with pytest.raises(UnknownError, match=f"no DIP {three.address} on port tcp/21"):
            await net.updater.set_dip_health(VIP, {three.address: False}, check="tcp/21")
        await net.updater.change_vip(
            spec.model_copy(update={"ports": (ftp.model_copy(update={"health": None}), dns)})
        )
        assert group_of(net, "tcp/21") == {one.address, two.address}, "nobody checks it any more"
        assert net.state.down(VIP) == {Checked(three.address)}

    run(tmp_path, scenario)


@pytest.mark.parametrize("cut", [False, True])
def test_connections_stay_with_a_dip_that_fails_its_check_unless_they_are_to_be_cut(
    tmp_path: Path, *, cut: bool
) -> None:
    async def scenario(net: Network) -> None:
        spec = Vip(address=VIP, dips=dips(3), health=HealthCheck(port=80, cut=cut))
        await net.add(spec, "s1")
        net.flows = live_flows(net.updater.vip(VIP), 60)
        failing = dips(3)[0].address
        net.log.clear()
        await net.updater.set_dip_health(VIP, {failing: False})
        await net.quiet()
        record = net.updater.vip(VIP)
        assert record.switch == "s1" and not any("withdraw" in line for line in net.log), "no detour"
        assert failing not in served_by(record) and record.left_out() == {failing}
        kept = {flow for flow in net.flows if dip_of(record, key_of(record, flow)) == flow.dip}
        lost = set(net.flows) - kept
        assert {flow.dip for flow in lost} == ({failing} if cut else set())
        entry = mux_entries(record)[VIP][0]
        assert isinstance(entry, MuxVip) and Checked(failing) in prober.targets(entry, {}), "it is asked on"
        await net.set_health([failing], up=True)
        assert served_by(net.updater.vip(VIP)) == {dip.address for dip in spec.dips}

    run(tmp_path, scenario)


def test_dips_that_come_back_together_return_by_one_detour(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        spec = Vip(address=VIP, dips=dips(7), health=HealthCheck(port=80))
        await net.add(spec, "s1")
        failed = [dip.address for dip in dips(3)]
        await net.set_health(failed, up=False)
        before = (await net.kinds()).count("vip-changed")
        net.log.clear()
        await net.updater.set_dip_health(VIP, dict.fromkeys(failed, True))
        await net.quiet()
        assert served_by(net.updater.vip(VIP)) == {dip.address for dip in spec.dips}
        assert net.updater.vip(VIP).switch == "s1"
        assert (await net.kinds()).count("vip-changed") - before == 1, net.log

    run(tmp_path, scenario)


def test_what_a_device_says_is_wrong_is_an_event_once_and_so_is_its_end(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        said: list[dict[str, str]] = [
            {},
            {"s1": "no port"},
            {"s1": "no port"},
            {"s1": "no room", "m1": "no BIRD"},
        ]
        for troubles in (*said, {}):
            await net.updater.set_reach(ReachMap(devices={}, troubles=troubles))
        await net.events.flush()
        events = await net.events.page(None, 1000)
        told = [(e.kind, e.subject, e.detail) for e in events if e.kind in ("device-degraded", "device-well")]
        assert told == [
            ("device-degraded", "s1", {"why": "no port"}),
            ("device-degraded", "m1", {"why": "no BIRD"}),
            ("device-degraded", "s1", {"why": "no room"}),
            ("device-well", "m1", {}),
            ("device-well", "s1", {}),
        ]

    run(tmp_path, scenario)


def test_what_a_device_said_is_wrong_is_no_event_again_for_the_next_leader_but_its_end_is(
    tmp_path: Path,
) -> None:
    before = {"s1": "no port", "m1": "no BIRD"}

    async def said(net: Network) -> list[tuple[str, str]]:
        await net.events.flush()
        return [
            (e.kind, e.subject)
            for e in await net.events.page(None, 1000)
            if e.kind in ("device-degraded", "device-well")
        ]

    async def first(net: Network) -> None:
        await net.updater.set_reach(ReachMap(devices={}, troubles=before))
        assert len(await said(net)) == 2

    async def second(net: Network) -> None:
        unheard = {"s1": Reach.UNKNOWN, "m1": Reach.UNWELL}
        await net.updater.set_reach(ReachMap(devices=unheard, troubles={"m1": "no BIRD"}))
        assert len(await said(net)) == 2, "s1 was not heard of yet"
        await net.updater.set_reach(ReachMap(devices={"s1": Reach.READY}, troubles={"m1": "no BIRD"}))
        assert (await said(net))[2:] == [("device-well", "s1")]

    run(tmp_path, first)
    run(tmp_path, second)


def test_a_device_that_says_nothing_of_what_is_wrong_with_it_is_well(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.updater.set_reach(ReachMap(devices={}, troubles={"s1": ""}))
        await net.events.flush()
        assert not [e for e in await net.events.page(None, 1000) if e.subject == "s1"]

    run(tmp_path, scenario)


def test_what_had_ended_is_an_event_once(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        for at in (1.0, 1.0, 2.0):
            await net.updater.set_reach(ReachMap(devices={}, restarted={"s1": {"bird": at}}))
        assert (await net.kinds()).count("restarted") == 2

    run(tmp_path, scenario)


def test_a_dip_that_leaves_a_vip_takes_its_health_along(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        checked = Vip(address=VIP, dips=dips(3), health=HealthCheck(port=80))
        await net.add(checked, "s1")
        await net.set_health([dips(3)[0].address], up=False)
        await net.updater.change_vip(checked.model_copy(update={"dips": dips(3)[1:]}))
        await net.updater.change_vip(checked)
        assert len(served_by(net.updater.vip(VIP))) == 3

    run(tmp_path, scenario)


def test_more_than_half_of_the_dips_that_fail_at_once_stay(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(4), health=HealthCheck(port=80)), "s1")
        await net.updater.set_dip_health(VIP, {dip.address: False for dip in dips(3)})
        await net.quiet()
        assert len(served_by(net.updater.vip(VIP))) == 4
        assert (await net.kinds()).count("health-suspect") == 1

    run(tmp_path, scenario)


def test_a_vip_waits_for_a_switch_that_has_left_the_inventory_and_harms_no_other(tmp_path: Path) -> None:
    async def before(net: Network) -> None:
        for number, switch in ((0, "s2"), (1, "s1")):
            await net.add(Vip(address=VIP + number, dips=dips(1)), "s1")
            net.muxes[switch].size = 0
            net.muxes["s1"].size = 0
            await net.updater.migrate(VIP + number, switch)
        assert [net.updater.vip(VIP + n).returning for n in range(2)] == ["s2", "s1"]

    async def after(path: Path) -> None:
        async with network(path, without="s2") as net:
            await net.settle()
            await net.until(lambda: announcers(net, OTHER) == {"s1"})
            assert net.updater.vip(VIP).returning == "s2"

    run(tmp_path, before)
    asyncio.run(after(tmp_path))


def test_a_tip_rests_before_another_vip_gets_it(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        first = await net.add(Vip(address=VIP, dips=dips(9)), "s1", "s2", None)
        await net.set_reach(s2=Reach.UNREACHABLE)
        await net.updater.remove_vip(VIP)
        tips = {placed.tip.address for placed in first.tips}
        again = await net.add(Vip(address=OTHER, dips=dips(9)), "s1", None, None)
        assert not tips & {placed.tip.address for placed in again.tips}
        assert net.state.resting[first.tips[0].tip.address].switches == ("s2",)
        await net.set_reach(s2=Reach.READY)
        await net.until(lambda: net.on("s2") == set())
        await net.until(lambda: net.state.resting[first.tips[0].tip.address].switches == ())

    run(tmp_path, scenario)


def test_a_vip_that_is_added_again_is_announced_by_nobody_else_than_who_may_have_it_still(
    tmp_path: Path,
) -> None:
    async def scenario(net: Network) -> None:
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        await net.set_reach(s1=Reach.UNREACHABLE)
        await net.updater.remove_vip(VIP)
        await net.add(Vip(address=VIP, dips=dips(3)), "s2")
        await net.quiet()
        assert announcers(net) == {"s1"}
        await net.set_reach(s1=Reach.READY)
        await net.until(lambda: announcers(net) == {"s2"})

    run(tmp_path, scenario)


def test_a_server_that_tells_no_flows_is_waited_for(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        flows = live_flows(before, 50)
        net.silent = ("server1",)
        waiting = await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        assert waiting.layout == before.layout, "flows that nobody told of were moved"
        assert (waiting.switch, waiting.returning) == (None, "s1")
        net.silent, net.flows = (), flows
        await net.until(lambda: net.updater.vip(VIP).switch == "s1")
        assert net.updater.vip(VIP).layout.pinned

    run(tmp_path, scenario)


def test_a_server_that_is_cut_off_while_it_is_asked_for_flows_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(2)), None)
        asked: list[IPv4Address] = []
        hangs = asyncio.Event()

        async def flows(record: VipRecord, can_be_asked: Callable[[str], bool]) -> Flows:
            asked.append(record.address)
            if not can_be_asked("s2"):
                return Flows()
            hangs.set()
            await asyncio.Event().wait()
            raise AssertionError("it does not answer")

        net.reconciler._flows = flows
        change = asyncio.create_task(net.updater.change_vip(Vip(address=VIP, dips=dips(3))))
        await hangs.wait()
        net.reconciler.set_cut_off({"s2"})
        assert (await change).layout != before.layout
        assert len(asked) == 3, "before the change, that again, and once all SMuxes have it"

    run(tmp_path, scenario)


def all_kept(net: Network) -> bool:
    """Whether every flow is where it was, on SMuxes that hold what is wanted."""
    record = net.updater.vip(VIP)
    return net.muxes["m1"].held.get(VIP) == record.layout and all(
        dip_of(record, key_of(record, flow)) == flow.dip for flow in net.flows
    )


def test_flows_that_begin_while_an_smux_lacks_a_change_stay_where_they_are(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(2)), None)
        net.muxes["m1"].away = True
        await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        assert net.updater.vip(VIP).layout != before.layout
        net.flows = live_flows(before, 50)
        net.muxes["m1"].away = False
        await net.until(lambda: all_kept(net))
        await net.until(lambda: not net.updater.vip(VIP).unsettled)
        net.log.clear()
        await net.reconciler.check_devices(everything=True)
        await net.quiet()
        assert "flows asked for" not in net.log, "what has settled is looked at again"

    run(tmp_path, scenario, wait_s=0.1)


def test_flows_that_begin_while_one_controller_follows_another_stay_where_they_are(tmp_path: Path) -> None:
    before: list[VipRecord] = []

    async def dies(net: Network) -> None:
        before.append(await net.add(Vip(address=VIP, dips=dips(2)), None))
        net.muxes["m1"].away = True
        await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))

    def begin(net: Network) -> None:
        net.flows = live_flows(before[0], 50)

    async def follows() -> None:
        async with network(tmp_path, prepare=begin) as net:
            await net.until(lambda: all_kept(net))

    run(tmp_path, dies, wait_s=0.1)
    asyncio.run(follows())


def test_pinned_flows_of_a_server_that_tells_none_for_long_stay_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = tuple(
        Server(name=f"server{n}", agent="http://x", switch="s1", dips=(dip.address,))
        for n, dip in enumerate(dips(3))
    )

    async def scenario() -> None:
        async with network(tmp_path, servers=servers) as net:
            before = await net.add(Vip(address=VIP, dips=dips(2)), "s1")
            net.flows = live_flows(before, 50)
            await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
            pins = net.updater.vip(VIP).layout.pinned
            gone = dips(2)[1].address
            assert {pin.dip for pin in pins} == {dip.address for dip in dips(2)}
            monkeypatch.setattr(reconcile, "_PATIENCE_S", 0.0)
            net.flows, net.silent = [], ("server1",)
            for _ in range(2):
                await net.settle()
            left = net.updater.vip(VIP).layout.pinned
            assert left == tuple(pin for pin in pins if pin.dip == gone)
            assert (await net.kinds()).count("flows-unknown") == 1
            net.silent = ()
            await net.settle()
            assert not net.updater.vip(VIP).layout.pinned

    asyncio.run(scenario())


def test_two_operators_do_not_overwrite_each_other(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        seen = (await net.add(Vip(address=VIP, dips=dips(2)), "s1")).revision
        first = await net.updater.change_vip(Vip(address=VIP, dips=dips(3)), seen)
        assert first.revision == seen + 1
        with pytest.raises(RevisionError, match=rf"has revision {seen + 1}, not {seen}"):
            await net.updater.change_vip(Vip(address=VIP, dips=dips(1)), seen)
        for change in (net.updater.remove_vip, net.updater.release):
            with pytest.raises(RevisionError):
                await change(VIP, seen)
        with pytest.raises(RevisionError):
            await net.updater.migrate(VIP, None, seen)
        with pytest.raises(RevisionError):
            await net.updater.drain_dip(VIP, dips(1)[0].address, seen)
        assert net.updater.vip(VIP) == first

    run(tmp_path, scenario)


def test_an_unchanged_device_is_asked_one_small_thing(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        for number in range(5):
            await net.add(Vip(address=VIP + number, dips=dips(1)), "s1")
        await net.reconciler.check_devices(everything=True)
        asked: list[str] = []
        for lane in net.reconciler.lanes.values():
            client = lane.device.client  # type: ignore[attr-defined]
            original = client.call

            async def call(
                method: str, path: str, *rest: object, original=original, **more: object
            ) -> object:
                asked.append(f"{method} {path}")
                return await original(method, path, *rest, **more)

            client.call = call
        await net.reconciler.check_devices(everything=True)
        assert asked == ["POST /v1/synced"] * 3

    run(tmp_path, scenario)


def test_a_new_smux_is_filled_before_it_is_told_that_it_may_announce(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        for number in range(5):
            await net.add(Vip(address=VIP + number, dips=dips(2)), None)
        mux = net.muxes["m1"]
        mux.forget()
        held_when_confirmed: list[int] = []
        original = mux.confirm

        async def confirm(digest: str) -> None:
            await original(digest)
            held_when_confirmed.append(len(mux.held))

        mux.confirm = confirm  # type: ignore[method-assign]
        await net.reconciler.check_devices(everything=True)
        await net.until(lambda: bool(held_when_confirmed))
        assert held_when_confirmed[0] == 5

    run(tmp_path, scenario)


def test_devices_refuse_a_controller_that_leads_no_more(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        for lane in net.reconciler.lanes.values():
            lane.device.lead(7, lambda: True)
        await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        for lane in net.reconciler.lanes.values():
            lane.device.lead(6, lambda: True)
        with pytest.raises(RefusedError, match="term 6 is over"):
            await net.reconciler.lanes["s1"].device.confirm("0" * 64)

    run(tmp_path, scenario)


def test_a_plain_router_in_the_inventory_limits_nobody(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        inventory: Inventory = inventory_of(dict.fromkeys(("s1", "s2", "m1"), "http://x"))
        router = inventory.switches[1].model_copy(
            update={"tables": inventory.switches[1].tables.model_copy(update={"tunneling": 0})}
        )
        mixed = inventory.model_copy(update={"switches": (inventory.switches[0], router)})
        updater = Updater(net.state, net.events, mixed, {}, net.live_flows, net.place)
        assert updater.fan_out == 8

    run(tmp_path, scenario)


def test_a_change_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        before = await net.add(Vip(address=VIP, dips=dips(2)), "s1")
        store = net.state._store
        original = store.commit

        async def broken(batch: object) -> None:
            raise OSError("no space left on device")

        store.commit = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(OSError):
            await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))
        with pytest.raises(OSError):
            await net.add(Vip(address=OTHER, dips=dips(2)), "s1")
        store.commit = original  # type: ignore[method-assign]
        assert net.updater.vip(VIP) == before and net.state.get(OTHER) is None
        assert (await net.updater.change_vip(Vip(address=VIP, dips=dips(3)))).spec.dips == dips(3)

    run(tmp_path, scenario)


def test_a_vip_that_is_added_twice_at_once_is_added_once(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        net.homes = ["s1"]
        came = await asyncio.gather(
            *(net.updater.add_vip(Vip(address=VIP, dips=dips(2))) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(one, VipRecord) for one in came) == 1
        assert sum(isinstance(one, ConflictError) for one in came) == 4

    run(tmp_path, scenario)


def test_servers_that_are_cut_off_take_their_dips_along_also_over_a_restart(tmp_path: Path) -> None:
    servers = tuple(
        Server(name=f"server{n}", agent="http://x", switch="s1", dips=(dip.address,))
        for n, dip in enumerate(dips(3))
    )

    async def scenario(first: bool) -> None:
        async with network(tmp_path, servers=servers) as net:
            reach = dict.fromkeys(net.reconciler.lanes, Reach.READY)
            if first:
                await net.add(Vip(address=VIP, dips=dips(3)), "s1")
                told = ReachMap(devices=reach, cut_off=("server0", "server1"))
                await net.updater.set_reach(told)
                await net.quiet()
            assert served_by(net.updater.vip(VIP)) == {dips(3)[2].address}
            added = await net.add(Vip(address=VIP + 1 + first, dips=dips(3)), "s1")
            assert served_by(added) == {dips(3)[2].address}
            if not first:
                await net.updater.set_reach(
                    ReachMap(devices=reach, unheard=("server0", "server1", "server2"))
                )
                assert "server-back" not in await net.kinds(), "nobody has told anything of them yet"
                await net.updater.set_reach(ReachMap(devices=reach))
                await net.until(lambda: len(served_by(net.updater.vip(VIP))) == 3)
                assert (await net.kinds()).count("server-back") == 2

    asyncio.run(scenario(True))
    asyncio.run(scenario(False))
