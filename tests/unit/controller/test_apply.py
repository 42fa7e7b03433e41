from ipaddress import IPv4Address
from pathlib import Path

import yaml

from controller import vipfile
from controller.cli.apply import _plain, compare
from controller.updater.apply import FEW, Applier, Apply, Done, Gone, WantedVip
from controller.vipfile import StatedVip
from duet_p4.model import HealthCheck, Vip
from tests.unit.controller.test_updater import VIP, Network, dips, run, served_by


def vip(number: int, count: int = 2) -> Vip:
    return Vip(address=VIP + number, dips=dips(count))


def applier(net: Network) -> Applier:
    return Applier(net.updater, net.events)


def test_many_vips_are_stated_in_one_request_and_each_stands_by_itself(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        net.homes = ["s1"]
        wrong = Vip(address=IPv4Address("11.0.0.1"), dips=dips(1))
        there = await net.add(vip(5), "s1")
        request = Apply(
            vips=(
                WantedVip(vip=vip(0)),
                WantedVip(vip=wrong),
                WantedVip(vip=vip(1), switch="nowhere"),
                WantedVip(vip=vip(2), switch="smux"),
                WantedVip(vip=vip(5, 3), revision=there.revision + 7),
            )
        )
        came = await applier(net).apply(request)
        assert [one.done for one in came] == [
            Done.ADDED,
            Done.NOTHING,
            Done.NOTHING,
            Done.ADDED,
            Done.NOTHING,
        ]
        assert [one.problem.kind if one.problem else None for one in came] == [
            None,
            "invalid",
            "not-found",
            None,
            "revision-differs",
        ]
        assert net.on("s1") == {str(VIP), str(VIP + 5)}
        assert net.on("m1") == {str(VIP), str(VIP + 2), str(VIP + 5)}
        assert net.updater.vip(VIP + 5) == there

    run(tmp_path, scenario)


def test_applying_the_same_again_does_nothing(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        net.homes = ["s1"]
        stated = [StatedVip(vip=vip(0)), StatedVip(vip=vip(1), switch="s2")]
        first = compare(stated, net.state.records(), prune=True)
        assert len(first.added) == 2
        await applier(net).apply(Apply(vips=tuple(first.vips)))
        await net.quiet()
        again = compare(stated, net.state.records(), prune=True)
        assert not again and again.unchanged == 2
        net.log.clear()
        same = Apply(vips=tuple(WantedVip(vip=s.vip, switch=s.switch, revision=1) for s in stated))
        assert {one.done for one in await applier(net).apply(same)} == {Done.NOTHING}
        assert net.log == []

    run(tmp_path, scenario)


def test_a_file_says_what_it_changes_and_what_it_does_not_state_is_removed_only_if_asked(
    tmp_path: Path,
) -> None:
    async def scenario(net: Network) -> None:
        for number in range(3):
            await net.add(vip(number), "s1")
        changed = vip(0, 3).model_copy(update={"health": HealthCheck(port=80)})
        stated = [StatedVip(vip=changed), StatedVip(vip=vip(1), switch="s2")]
        found = compare(stated, net.state.records(), prune=False)
        assert found.changed[VIP] == [f"+ {dips(3)[2].address}", "other health"]
        assert found.changed[VIP + 1] == ["moved to s2, from s1"]
        assert found.removed == []
        pruned = compare(stated, net.state.records(), prune=True)
        assert pruned.removed == [VIP + 2]
        await applier(net).apply(Apply(vips=tuple(pruned.vips), remove=tuple(pruned.gone)))
        await net.quiet()
        assert net.on("s2") == {str(VIP + 1)} and net.state.get(VIP + 2) is None
        assert len(served_by(net.updater.vip(VIP))) == 3
        assert not compare(stated, net.state.records(), prune=True)
        unsaid = [StatedVip(vip=changed), StatedVip(vip=vip(1))]
        (lines,) = compare(unsaid, net.state.records(), prune=True).changed.values()
        assert lines == ["given back to the engine, from s2 by hand"]

    run(tmp_path, scenario)


def test_what_is_removed_has_to_be_what_was_seen(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        seen = await net.add(vip(0), "s1")
        await net.updater.change_vip(vip(0, 3))
        (came,) = await applier(net).apply(Apply(remove=(Gone(vip=VIP, revision=seen.revision),)))
        assert came.problem is not None and came.problem.kind == "revision-differs"
        assert net.state.get(VIP) is not None

    run(tmp_path, scenario)


def test_an_exported_file_is_what_is_there(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        await net.add(vip(0).model_copy(update={"health": HealthCheck(port=80), "name": "web"}), "s1")
        await net.add(vip(1), "s1")
        await net.updater.migrate(VIP + 1, "s2")
        await net.add(vip(2), None)
        await net.updater.migrate(VIP + 2, None)
        text = yaml.safe_dump({"vips": [_plain(record) for record in net.state.records()]})
        assert not compare(vipfile.parse(text), net.state.records(), prune=True)
        assert [stated.switch for stated in vipfile.parse(text)] == [None, "s2", "smux"]

    run(tmp_path, scenario)


def test_very_many_new_vips_are_left_to_one_assignment(tmp_path: Path) -> None:
    async def scenario(net: Network) -> None:
        net.homes = ["s1"]
        many = Apply(vips=tuple(WantedVip(vip=vip(number, 1)) for number in range(FEW + 1)))
        came = await applier(net).apply(many)
        assert {one.done for one in came} == {Done.ADDED}
        assert net.on("s1") == set() and len(net.on("m1")) == FEW + 1

    run(tmp_path, scenario)
