"""The engine as the live controller asks it: inventories, outages, records, one VIP at a time."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.engine import Demand, FatTreeShape, Greedy, Sticky, TableUse, Topology, assign, recognise
from controller.engine.live.network import Outages, route_budget, topology_of
from controller.engine.live.planner import BY_HAND, Planner
from controller.engine.live.rows import Columns, row_of
from controller.inventory import Inventory, Link, Role, Server, Switch, TableSizes
from controller.records import PlacedTip, VipRecord
from controller.updater.layout import lay_out
from duet_p4.model import Dip, Vip
from tests.unit.engine.reference import Reference

GBPS = 1e9
SMALL = FatTreeShape(2, 2, 2, 1, 10 * GBPS, 10 * GBPS)


def inventory_of(shape: FatTreeShape, seed: int = 0, tunneling: int = 512) -> Inventory:
    """A FatTree's inventory, its switches and links in any order; one server with four DIPs per ToR."""
    drawn = Topology.fat_tree(shape)
    roles = [Role.TOR] * shape.tor_count + [Role.AGG] * shape.agg_count + [Role.CORE] * shape.core_count
    switches = [
        Switch(
            name=name,
            role=role,
            agent="http://127.0.0.1",
            loopback=IPv4Address("172.30.0.1"),
            container=None if box < 0 else int(box) + 1,
            tables={"tunneling": tunneling, "ecmp": 8 * tunneling},  # type: ignore[arg-type]
        )
        for name, role, box in zip(drawn.names, roles, drawn.container, strict=True)
    ]
    links = [
        Link(ends=(drawn.names[u], drawn.names[v]), capacity_bps=bps)
        for u, v, bps in zip(drawn.source, drawn.target, drawn.capacity, strict=True)
        if u < v
    ]
    servers = tuple(
        Server(
            name=f"server{number}",
            agent="http://127.0.0.1",
            switch=drawn.names[number],
            dips=tuple(IPv4Address("100.0.0.0") + 16 * number + i for i in range(16)),
        )
        for number in range(shape.tor_count)
    )
    order = random.Random(seed)
    order.shuffle(switches)
    order.shuffle(links)
    return Inventory(
        switches=tuple(switches),
        servers=servers,
        links=tuple(links),
        vip_prefix=IPv4Network("10.0.0.0/16"),
        tip_prefix=IPv4Network("20.0.0.0/24"),
    )


def dips(*at: tuple[int, int]) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.0") + 16 * tor + i) for tor, i in at)


def record(number: int, *at: tuple[int, int], switch: str | None = None, held: bool = False) -> VipRecord:
    vip = Vip(address=IPv4Address("10.0.0.0") + number, dips=dips(*(at or ((0, 0), (1, 1)))))
    return VipRecord(spec=vip, layout=lay_out(vip, 512, no_tip).layout, switch=switch, held=held)


def large(number: int, count: int, homes: list[str | None], switch: str | None) -> VipRecord:
    """A VIP over TIPs of at most `count` DIPs."""
    vip = Vip(address=IPv4Address("10.0.0.0") + number, dips=dips(*((i % 4, i) for i in range(16))))
    free = iter(IPv4Address("20.0.0.1") + 16 * number + i for i in range(16))
    laid = lay_out(vip, count, lambda: next(free))
    tips = [PlacedTip(tip=tip.tip, switch=home) for tip, home in zip(laid.tips, homes, strict=True)]
    return VipRecord(spec=vip, layout=laid.layout, tips=tuple(tips), switch=switch)


def no_tip() -> IPv4Address:
    raise AssertionError("no TIP is needed")


def traffic(planner: Planner, gbps: dict[int, float], source: str = "tor1.1") -> None:
    planner.set_traffic({IPv4Address("10.0.0.0") + n: {source: g * GBPS} for n, g in gbps.items()})


def test_an_inventory_in_any_order_is_recognised_as_a_fat_tree() -> None:
    shape = FatTreeShape(3, 4, 2, 3)
    for seed in range(5):
        found = topology_of(inventory_of(shape, seed))
        assert found.shape == shape
        drawn = Topology.fat_tree(shape)
        for u, v, bps in zip(found.source, found.target, found.capacity, strict=True):
            names = found.names[u], found.names[v]
            link = drawn._between[frozenset(drawn.index[name] for name in names)]
            assert bps == drawn.capacity[link[0]]


@pytest.mark.parametrize("harm", ["link", "capacity", "extra", "entry"])
def test_what_is_nearly_a_fat_tree_is_none(harm: str) -> None:
    inventory = inventory_of(FatTreeShape(3, 2, 2, 2))
    links, switches = list(inventory.links), list(inventory.switches)
    if harm == "link":
        del links[3]
    elif harm == "capacity":
        links[3] = links[3].model_copy(update={"capacity_bps": 3 * GBPS})
    elif harm == "extra":
        links.append(Link(ends=("tor1.1", "tor2.1"), capacity_bps=10 * GBPS))
    else:
        core = next(i for i, switch in enumerate(switches) if switch.name == "core1")
        switches[core] = switches[core].model_copy(update={"role": Role.AGG})
    changed = inventory.model_copy(update={"links": tuple(links), "switches": tuple(switches)})
    assert topology_of(changed).shape is None


def test_what_is_down_carries_nothing_and_what_it_cuts_off_is_down_too() -> None:
    inventory = inventory_of(SMALL)
    live = topology_of(inventory, Outages(lost=["agg1.1"], links_down=[("agg1.2", "tor1.1")]))
    assert {live.names[i] for i in live.down} == {"agg1.1", "tor1.1"}
    left = {live.link_name(i) for i in range(live.link_count)}
    assert "tor1.2->agg1.2" in left and not any("tor1.1" in name or "agg1.1" in name for name in left)
    assert topology_of(inventory, Outages(lost=["gone"], links_down=[("tor1.1", "tor2.1")])).shape == SMALL


def test_without_names_what_there_is_not() -> None:
    whole = Topology.fat_tree(SMALL)
    with pytest.raises(ValueError, match="no switch 'x'"):
        whole.without(["x"])
    with pytest.raises(ValueError, match=r"no link tor1\.1-tor2\.1"):
        whole.without([], [("tor1.1", "tor2.1")])
    everything = whole.without(whole.names)
    assert len(everything.down) == whole.switch_count and not everything.link_count


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_live_engine_decides_as_the_reference_does(data: st.DataObject) -> None:
    shape = FatTreeShape(2, 2, 2, data.draw(st.integers(1, 2)), 10 * GBPS, 10 * GBPS)
    inventory = inventory_of(shape, data.draw(st.integers(0, 3)), tunneling=data.draw(st.integers(3, 8)))
    names = sorted(switch.name for switch in inventory.switches)
    outages = Outages(
        lost=sorted(data.draw(st.sets(st.sampled_from(names), max_size=2))),
        links_down=data.draw(st.lists(st.sampled_from([link.ends for link in inventory.links]), max_size=3)),
    )
    planner = Planner(inventory, outages)
    place = st.tuples(st.integers(0, 3), st.integers(0, 15))
    records = [
        record(n, *data.draw(st.sets(place, min_size=1, max_size=4)))
        for n in range(data.draw(st.integers(1, 8)))
    ]
    planner.follow(records, whole=True)
    source = st.sampled_from(["tor1.1", "tor1.2", "tor2.2", "internet"])
    measured = {r.address: {data.draw(source): GBPS / 8 * data.draw(st.integers(0, 60))} for r in records}
    planner.set_traffic(measured)
    found = planner.compute(Greedy()).placement()
    demands = []
    for r in records:
        (name, bps), *_ = measured[r.address].items()
        row = row_of(r, planner.topology, planner._locate)
        demands.append(
            Demand(
                str(r.address),
                bps,
                {name: 1.0} if bps else {},
                {planner.topology.names[s]: x for s, x in zip(row.own.switches, row.own.shares, strict=True)},
                TableUse(*row.own.entries),
            )
        )
    assert found == Reference(planner.topology).greedy(demands)


def test_a_live_network_of_any_size_reaches_the_fast_ledger_and_with_outages_the_exact_one() -> None:
    inventory = inventory_of(FatTreeShape(8, 20, 4, 2))
    planner = Planner(inventory)
    planner.follow([record(n) for n in range(4)], whole=True)
    traffic(planner, {0: 1.0, 1: 2.0})
    assert type(planner.compute(Greedy()).ledger).__name__ == "FatTreeLedger"
    assert planner.place(record(9))[IPv4Address("10.0.0.9")] is not None
    planner.set_network(inventory, Outages(links_down=[("tor1.1", "agg1.1")]))
    found = planner.compute(Greedy())
    assert type(found.ledger).__name__ == "GraphLedger" and found.hmux_share == 1.0
    assert planner.place(record(9))[IPv4Address("10.0.0.9")] is not None


def test_one_vip_is_placed_where_the_others_leave_most_room() -> None:
    planner = Planner(inventory_of(SMALL))
    standing = [record(n, (0, n), switch="tor1.1") for n in range(3)]
    planner.follow(standing, whole=True)
    traffic(planner, dict.fromkeys(range(4), 4.0))
    new = record(3, (0, 3))
    at = planner.place(new)[new.address]
    assert at is not None
    assert planner.stand().ledger.worst() > 0
    # It stands there from then on: the same question again finds the ledger as it was before.
    assert planner.place(new)[new.address] == at
    planner.follow([], [new.address])
    rebuilt = Planner(inventory_of(SMALL))
    rebuilt.follow(standing, whole=True)
    traffic(rebuilt, dict.fromkeys(range(4), 4.0))
    assert planner.stand().ledger.links == pytest.approx(rebuilt.stand().ledger.links, abs=1e-12)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_standing_ledger_is_what_a_new_one_would_be(data: st.DataObject) -> None:
    """Whatever was placed, changed and removed in between."""
    inventory = inventory_of(SMALL)
    names = sorted(switch.name for switch in inventory.switches)
    planner = Planner(inventory)
    traffic(planner, dict.fromkeys(range(8), 1.0))
    home = st.one_of(st.none(), st.sampled_from(names))
    wanted: dict[IPv4Address, VipRecord] = {}
    for _ in range(data.draw(st.integers(1, 12))):
        number = data.draw(st.integers(0, 5))
        if data.draw(st.booleans()):
            homes = data.draw(st.lists(home, min_size=4, max_size=4))
            now = large(number, 4, homes, data.draw(home))
        else:
            now = record(number, (number % 4, 1), switch=data.draw(home))
        action = data.draw(st.sampled_from(["follow", "remove", "place"]))
        if action == "remove":
            planner.follow([], [now.address])
            wanted.pop(now.address, None)
            continue
        if action == "place":
            homes_found = planner.place(now)
            tips = tuple(tip.model_copy(update={"switch": homes_found[tip.tip.address]}) for tip in now.tips)
            now = now.model_copy(update={"switch": homes_found[now.address], "tips": tips})
        planner.follow([now])
        wanted[now.address] = now
    rebuilt = Planner(inventory)
    rebuilt.follow(wanted.values(), whole=True)
    traffic(rebuilt, dict.fromkeys(range(8), 1.0))
    assert planner.stand().ledger.links == pytest.approx(rebuilt.stand().ledger.links, abs=1e-9)
    assert (planner.stand().ledger.tables.entries == rebuilt.stand().ledger.tables.entries).all()


def test_a_stranded_vip_goes_to_no_switch_of_its_own_tips_and_they_stay() -> None:
    inventory = inventory_of(SMALL, tunneling=8)
    for seed in range(8):
        planner = Planner(inventory, Outages(lost=["tor1.1"]))
        vip = large(seed, 8, ["agg1.1", "agg1.2"], None)
        planner.follow([vip], whole=True)
        traffic(planner, {seed: 1.0})
        found = planner.place(vip)
        tips = {found[tip.tip.address] for tip in vip.tips}
        assert tips == {"agg1.1", "agg1.2"}
        assert found[vip.address] not in {None, "tor1.1", *tips}


def test_a_vip_whose_tips_find_no_home_waits_on_the_smuxes_with_them() -> None:
    inventory = inventory_of(SMALL, tunneling=4)
    planner = Planner(inventory)
    vip = large(1, 4, [None] * 4, None)
    full = [
        record(10 + n, *((i, n) for i in range(4)), switch=name)
        for n, name in enumerate(sorted(s.name for s in inventory.switches)[:8])
    ]
    planner.follow([*full, vip], whole=True)
    before = planner.stand().ledger.tables.entries.copy()
    assert set(planner.place(vip).values()) == {None}
    assert (planner.stand().ledger.tables.entries == before).all()


def test_what_is_on_a_closed_switch_stays_and_nothing_new_comes() -> None:
    inventory = inventory_of(SMALL)
    names = [switch.name for switch in inventory.switches if switch.name != "tor1.2"]
    planner = Planner(inventory, Outages(closed=names))
    planner.follow([record(1, switch="agg1.1"), record(2, switch="core1")], whole=True)
    traffic(planner, {1: 1.0, 2: 5.0, 3: 1.0})
    assert planner.compute(Greedy()).placement() == {"10.0.0.1": "agg1.1", "10.0.0.2": "core1"}
    assert planner.place(record(3))[IPv4Address("10.0.0.3")] == "tor1.2"
    assert planner.place(record(2, switch="core1"))[IPv4Address("10.0.0.2")] == "core1"


def test_what_is_on_a_lost_switch_goes_elsewhere_unless_it_was_put_there_by_hand() -> None:
    inventory = inventory_of(SMALL)
    planner = Planner(inventory, Outages(lost=["agg1.1"]))
    planner.follow([record(1, switch="agg1.1"), record(2, switch="agg1.1", held=True)], whole=True)
    planner.compute(Sticky())
    placement = dict(planner.placement())
    assert placement[IPv4Address("10.0.0.1")] not in (None, "agg1.1")
    assert placement[IPv4Address("10.0.0.2")] == "agg1.1"
    assert planner.explain(IPv4Address("10.0.0.2")).reason == BY_HAND


def test_a_vip_that_cannot_be_modelled_is_left_out_and_said_and_the_others_are_assigned() -> None:
    planner = Planner(inventory_of(SMALL))
    vip = Vip(address=IPv4Address("10.0.0.2"), dips=(Dip(address=IPv4Address("100.9.9.9")),))
    planner.follow([record(1), VipRecord(spec=vip, layout=lay_out(vip, 512, no_tip).layout)], whole=True)
    assert set(planner.compute(Greedy()).placement()) == {"10.0.0.1"}
    assert planner.problems == {vip.address: "no server has the address of DIP 100.9.9.9"}
    planner.follow([], [vip.address])
    assert planner.problems == {}


def test_table_sizes_and_the_route_budget_are_what_devices_tell() -> None:
    inventory = inventory_of(SMALL)
    tables = {"tor1.1": {"tunneling": 3, "route": 100}, "core1": {"route": 40}, "core2": {"route": 9}}
    told = Outages(tables=tables, routes={"tor1.1": 30, "core1": 38, "core2": 9}, lost=["core2"])
    topology = topology_of(inventory, told)
    assert topology.tables[topology.index["tor1.1"]].tolist() == [16384, 4096, 3, 1024]
    assert route_budget(told) == 2
    assert route_budget(Outages()) == 16384
    planner = Planner(inventory, told)
    planner.follow([record(n) for n in range(4)], whole=True)
    traffic(planner, {n: 1.0 + n for n in range(4)})
    assert [name for name, at in planner.compute(Greedy()).placement().items() if at] == [
        "10.0.0.2",
        "10.0.0.3",
    ]


def test_a_switch_that_is_stated_without_tables_is_left_whatever_it_says_that_it_has() -> None:
    inventory = inventory_of(SMALL)
    told = Outages(tables={"tor1.1": {"tunneling": 512, "host": 16384, "ecmp": 4096, "acl": 1024}})
    planner = Planner(inventory, told)
    planner.follow([record(n, switch="tor1.1") for n in range(4)], whole=True)
    traffic(planner, dict.fromkeys(range(4), 0.1))
    assert set(planner.compute(Sticky()).placement().values()) == {"tor1.1"}
    empty = tuple(
        switch.model_copy(update={"tables": TableSizes(tunneling=0)}) if switch.name == "tor1.1" else switch
        for switch in inventory.switches
    )
    stated = {**dict(inventory), "switches": empty}
    planner.set_network(Inventory(**stated), told)
    homes = set(planner.compute(Sticky()).placement().values())
    assert "tor1.1" not in homes and None not in homes


def test_recognising_changes_no_network() -> None:
    whole = topology_of(inventory_of(FatTreeShape(2, 3, 2, 2), 4))
    assert recognise(whole) is whole
    plain = Columns([row_of(record(1), whole, lambda _: "tor1.1")]).demands({}, whole)
    assert assign(whole, plain, Greedy()).placement()["10.0.0.1"] is not None
    assert np.array_equal(plain.traffic, [0.0])
