"""The HMux's underlay tables, checked against a model of the pipeline at every single write."""

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.routes import Adjacency, Gateway, Local, Place, RouteTables, Target, fill
from duet_p4.hmux.rows import (
    BackstopRow,
    Key,
    NextHopGroupRow,
    NextHopRow,
    NextHopSlotRow,
    RouteRow,
    UnderlayRow,
)

SIZES = {"route": 6, "backstop": 4, "nexthop_group": 16, "nexthop_slot": 128, "nexthop": 16}
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
GATEWAYS = [Gateway(port, IPv4Address(f"172.31.0.{port}")) for port in range(1, 5)]
COVERING = IPv4Network("10.0.0.0/16")
PLACE = Place(uplinks=frozenset({3, 4}), muxes=(COVERING,))
PREFIXES = [
    IPv4Network(p)
    for p in ("10.0.0.0/16", "10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/24", "100.1.1.0/24", "172.30.0.1/32")
]
ADDRESSES = [IPv4Address(a) for a in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.9.9", "100.1.1.7", "1.1.1.1")]
HASHES = range(0, 48, 7)


def adjacency(gateway: Gateway, generation: int = 0) -> Adjacency:
    return Adjacency(source=0x02_00 + gateway.port, destination=0x0A_00 + gateway.port + generation, mtu=1520)


@dataclass
class Pipeline:
    """The underlay of the P4 pipeline as a dict of rows."""

    rows: dict[Key, UnderlayRow] = field(default_factory=dict)

    def write(self, update: Update[UnderlayRow]) -> None:
        held = self.rows.get(update.row.key)
        if update.op is Op.INSERT:
            assert held is None, f"{update.row} is there already"
            used = sum(row.table == update.row.table for row in self.rows.values())
            assert used < SIZES[update.row.table], f"{update.row.table} is full"
        else:
            assert held is not None, f"{update.row} is not there"
            assert held == update.before
        if update.op is Op.DELETE:
            del self.rows[update.row.key]
        else:
            self.rows[update.row.key] = update.row

    def routes(self, address: IPv4Address) -> list[RouteRow]:
        found = [r for r in self.rows.values() if isinstance(r, RouteRow) and address in r.prefix]
        return sorted(found, key=lambda row: -row.prefix.prefixlen)

    def leave(self, route: RouteRow, hashed: int) -> int:
        """Return where a flow leaves: a port, or what else the route says."""
        if route.group < 0:
            return route.group
        group = self.rows.get((NextHopGroupRow.table, route.group))
        assert isinstance(group, NextHopGroupRow), f"{route} leads to a group that is not there"
        slot = self.rows.get((NextHopSlotRow.table, group.first + hashed % group.count))
        assert isinstance(slot, NextHopSlotRow), f"{group} leads to a slot that is not there"
        nexthop = self.rows.get((NextHopRow.table, slot.nexthop))
        assert isinstance(nexthop, NextHopRow), f"{slot} leads to a next hop that is not there"
        return nexthop.port

    def backstops(self) -> dict[int, tuple[int, ...]]:
        """Return, per port that comes down, the ports that its slots go down by."""
        found = {}
        for row in self.rows.values():
            if isinstance(row, BackstopRow):
                group = self.rows.get((NextHopGroupRow.table, row.group))
                assert isinstance(group, NextHopGroupRow), f"{row} leads to a group that is not there"
                route = RouteRow(COVERING, row.group)
                found[row.port] = tuple(self.leave(route, n) for n in range(group.count))
        return found

    def everywhere(self, address: IPv4Address, hashed: int) -> set[int | None]:
        """Return where a flow leaves by each route that covers it; None for "by none"."""
        return {None, *(self.leave(route, hashed) for route in self.routes(address))}

    def best(self, address: IPv4Address, hashed: int) -> int | None:
        routes = self.routes(address)
        return self.leave(routes[0], hashed) if routes else None


targets = st.one_of(
    st.none(),
    st.sampled_from(Local),
    st.frozensets(st.sampled_from(GATEWAYS), min_size=1, max_size=4),
)
wishes = st.dictionaries(st.sampled_from(PREFIXES), targets, max_size=4)
ROUTES = st.dictionaries(
    st.sampled_from(PREFIXES), st.frozensets(st.sampled_from(GATEWAYS), min_size=1), max_size=len(PREFIXES)
)
reaches = st.dictionaries(st.sampled_from(GATEWAYS), st.one_of(st.none(), st.integers(0, 1)), max_size=2)


def stated(reach: dict[Gateway, int | None]) -> dict[Gateway, Adjacency | None]:
    return {gw: None if n is None else adjacency(gw, n) for gw, n in reach.items()}


def check_final(
    pipeline: Pipeline, wanted: dict[IPv4Network, Target], alive: dict[Gateway, Adjacency]
) -> None:
    installed = {row.prefix: row for row in pipeline.rows.values() if isinstance(row, RouteRow)}
    for prefix, target in wanted.items():
        if isinstance(target, Local):
            assert installed.pop(prefix).group == target.value
        elif owners := fill(target, frozenset(alive)):
            row = installed.pop(prefix)
            leads_up = any(gateway.port in PLACE.uplinks for gateway in target)
            assert row.up == (prefix.subnet_of(COVERING) and leads_up)
            assert [pipeline.leave(row, n) for n in range(len(owners))] == [gw.port for gw in owners]
    covering = wanted.get(COVERING)
    down: tuple[int, ...] = ()
    if isinstance(covering, frozenset) and not any(gateway.port in PLACE.uplinks for gateway in covering):
        down = tuple(gateway.port for gateway in fill(covering, frozenset(alive)))
    assert pipeline.backstops() == (dict.fromkeys(PLACE.uplinks, down) if down else {})
    assert not installed, f"routes that nobody wants: {installed}"
    slots = [row for row in pipeline.rows.values() if isinstance(row, NextHopSlotRow)]
    groups = [row for row in pipeline.rows.values() if isinstance(row, NextHopGroupRow)]
    hops = [row for row in pipeline.rows.values() if isinstance(row, NextHopRow)]
    assert sum(group.count for group in groups) == len(slots)
    assert {slot.nexthop for slot in slots} == {hop.nexthop for hop in hops}
    assert {r.group for r in pipeline.rows.values() if isinstance(r, RouteRow) and r.group >= 0} == {
        group.group for group in groups
    }


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(st.lists(st.tuples(wishes, reaches), min_size=1, max_size=8), st.integers(0, 1000))
def test_at_every_write_a_flow_takes_a_route_of_before_or_after(
    sequence: list[tuple[dict[IPv4Network, Target | None], dict[Gateway, int | None]]], seed: int
) -> None:
    tables, pipeline = RouteTables(SIZES, place=PLACE), Pipeline()
    wanted: dict[IPv4Network, Target] = {}
    alive: dict[Gateway, Adjacency] = {}
    flows = [(address, hashed) for address in ADDRESSES for hashed in HASHES]
    # One kind of change at a time: a route that leaves a group whose slots move may pass through both.
    for wish, reach in [change for w, r in sequence for change in ((w, {}), ({}, r))]:
        tables.want(wish)
        tables.reach(stated(reach))
        wanted = {p: t for p, t in (wanted | wish).items() if t is not None}
        alive = {gw: a for gw, a in (alive | stated(reach)).items() if a is not None}
        plan = tables.plan()
        before = Pipeline(dict(pipeline.rows))
        after = Pipeline(dict(pipeline.rows))
        for update in plan:
            after.write(update)
        for step in plan.steps:
            for update in random.Random(seed).sample(step.updates, len(step.updates)):
                pipeline.write(update)
                pipeline.backstops()
                for flow in flows:
                    if before.best(*flow) is not None and after.best(*flow) is not None:
                        allowed = before.everywhere(*flow) | after.everywhere(*flow) - {None}
                        assert pipeline.best(*flow) in allowed, f"{flow} after {update}"
        tables.settle()
        assert not tables.unplaced
        check_final(pipeline, wanted, alive)
        assert not len(tables.plan()), "the same state again writes something"
        rows = random.Random(seed).sample(tables.rows(), len(tables.rows()))
        again = RouteTables(SIZES, rows, PLACE)
        again.want(wanted)
        again.reach(alive)
        assert not len(again.plan()), "a restarted agent writes something"


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(st.lists(st.tuples(wishes, reaches), min_size=1, max_size=5), st.integers(0, 60), wishes, reaches)
def test_after_a_plan_that_broke_off_the_next_one_repairs(
    sequence: list[tuple[dict[IPv4Network, Target | None], dict[Gateway, int | None]]],
    stop: int,
    last_wish: dict[IPv4Network, Target | None],
    last_reach: dict[Gateway, int | None],
) -> None:
    for restarted in (False, True):
        tables, pipeline = RouteTables(SIZES, place=PLACE), Pipeline()
        wanted: dict[IPv4Network, Target] = {}
        alive: dict[Gateway, Adjacency] = {}

        def run(plan: Plan[UnderlayRow], tables: RouteTables, pipeline: Pipeline = pipeline) -> None:
            for update in plan:
                pipeline.write(update)
            tables.settle()

        for wish, reach in [*sequence, (last_wish, last_reach)]:
            tables.want(wish)
            tables.reach(stated(reach))
            wanted = {p: t for p, t in (wanted | wish).items() if t is not None}
            alive = {gw: a for gw, a in (alive | stated(reach)).items() if a is not None}
            if (wish, reach) is not (last_wish, last_reach):
                run(tables.plan(), tables)
        broken = list(tables.plan())[:stop]
        for update in broken:
            pipeline.write(update)
        if restarted:
            tables = RouteTables(SIZES, pipeline.rows.values(), PLACE)
            tables.want(wanted)
            tables.reach(alive)
        else:
            tables.apply(broken)
        run(tables.plan(), tables)
        check_final(pipeline, wanted, alive)


@given(
    st.frozensets(st.sampled_from(GATEWAYS), min_size=1),
    st.frozensets(st.sampled_from(GATEWAYS)),
    st.sampled_from(GATEWAYS),
)
def test_a_gateways_death_moves_only_its_own_slots(
    gateways: frozenset[Gateway], alive: frozenset[Gateway], dead: Gateway
) -> None:
    before, after = fill(gateways, gateways), fill(gateways, gateways - {dead})
    assert all(old in (new, dead) for old, new in zip(before, after, strict=False))
    assert dead not in after
    assert set(fill(gateways, alive)) == gateways & alive


def test_the_death_of_a_gateway_costs_as_many_writes_for_many_prefixes_as_for_one() -> None:
    roomy = {"route": 2000, "backstop": 4, "nexthop_group": 16, "nexthop_slot": 128, "nexthop": 16}
    tables = RouteTables(roomy)
    both = frozenset(GATEWAYS[:2])
    tables.want({IPv4Network((0x0A000000 + n, 32)): both for n in range(1000)})
    tables.reach({gw: adjacency(gw) for gw in GATEWAYS})
    assert len(tables.plan()) == 1000 + 1 + 8 + 2
    tables.settle()
    tables.reach({GATEWAYS[0]: None})
    kinds = [(update.op, update.row.table) for update in tables.plan()]
    assert kinds == [(Op.MODIFY, "nexthop_slot")] * 4 + [(Op.DELETE, "nexthop")]


def test_a_full_route_table_keeps_the_short_prefixes_and_says_what_is_missing() -> None:
    tables = RouteTables(SIZES)
    tables.reach({GATEWAYS[0]: adjacency(GATEWAYS[0])})
    many = {IPv4Network((0x0A000000 + n, 32)): frozenset(GATEWAYS[:1]) for n in range(10)}
    tables.want(many | {IPv4Network("10.0.0.0/16"): frozenset(GATEWAYS[:1])})
    tables.plan()
    tables.settle()
    assert tables.used()["route"] == (6, 6)
    assert len(tables.unplaced) == 5
    assert all(prefix.prefixlen == 32 for prefix in tables.unplaced)
    tables.want({IPv4Network((0x0A000000 + n, 32)): None for n in range(5)})
    tables.plan()
    tables.settle()
    tables.plan()
    tables.settle()
    assert not tables.unplaced


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(
    ROUTES,
    st.sampled_from(GATEWAYS),
    st.booleans(),
)
def test_a_detour_leads_packets_where_the_plan_for_the_dead_port_would(
    routes: dict[IPv4Network, frozenset[Gateway]], dying: Gateway, masked: bool
) -> None:
    tables = RouteTables(SIZES, place=PLACE, masked=masked)
    tables.want(dict(routes))
    tables.reach({gateway: adjacency(gateway) for gateway in GATEWAYS})
    pipeline = Pipeline()
    for step in tables.plan().steps:
        for update in step.updates:
            pipeline.write(update)
    tables.settle()
    before, detoured = dict(pipeline.rows), Pipeline(dict(pipeline.rows))
    for update in tables.detour(dying.port):
        assert update.op is not Op.INSERT
        detoured.write(update)
    assert pipeline.rows == before, "a detour is prepared, not carried out"
    tables.reach({dying: None})
    plan = tables.plan()
    for step in plan.steps:
        for update in step.updates:
            pipeline.write(update)
    for address in ADDRESSES:
        for hashed in HASHES:
            found = [p.routes(address)[:1] for p in (pipeline, detoured)]
            assert len(found[0]) == len(found[1])
            if found[0]:
                assert pipeline.leave(found[0][0], hashed) == detoured.leave(found[1][0], hashed)


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(st.lists(ROUTES, min_size=2, max_size=4), st.booleans())
def test_a_change_leaves_the_detours_alone_of_ports_that_it_does_not_concern(
    stages: list[dict[IPv4Network, frozenset[Gateway]]], masked: bool
) -> None:
    tables = RouteTables(SIZES, place=PLACE, masked=masked)
    tables.reach({gateway: adjacency(gateway) for gateway in GATEWAYS})
    before: dict[int, list[Update[UnderlayRow]]] = {}
    for routes in stages:
        tables.want({prefix: routes.get(prefix) for prefix in PREFIXES})
        plan = tables.plan()
        tables.settle()
        concerned = tables.concerned(plan)
        written = {update.row.key for update in plan}
        now = {port: tables.detour(port) for port in tables.ports()}
        for port in before.keys() - concerned:
            assert now[port] == before[port]
            assert written.isdisjoint(update.row.key for update in now[port])
        before = now


def test_the_way_to_a_silent_neighbour_itself_stays() -> None:
    via = GATEWAYS[0]
    itself = Gateway(via.port, via.address, itself=True)
    tables = RouteTables(SIZES)
    own, beyond = IPv4Network(via.address), PREFIXES[4]
    tables.want({own: frozenset({itself}), beyond: frozenset({via})})
    tables.reach({via: adjacency(via), itself: adjacency(via)})
    for silent, left in ((False, {own, beyond}), (True, {own}), (False, {own, beyond})):
        tables.reach({via: None if silent else adjacency(via)})
        tables.plan()
        tables.settle()
        assert {row.prefix for row in tables.rows() if isinstance(row, RouteRow)} == left
    assert sum(isinstance(row, NextHopRow) for row in tables.rows()) == 1, "both ways share a next hop"


@given(st.integers(1, 70), st.sets(st.integers(0, 69)))
def test_a_switch_that_masks_hashes_gets_a_power_of_two_of_slots_that_differ_by_one_at_most(
    number: int, dead: set[int]
) -> None:
    everyone = [Gateway(port, IPv4Address("172.31.0.0") + port) for port in range(number)]
    owners = fill(frozenset(everyone), frozenset(everyone), masked=True)
    assert len(owners).bit_count() == 1
    shares = [owners.count(gateway) for gateway in everyone]
    assert max(shares) - min(shares) <= 1
    living = frozenset(gateway for gateway in everyone if gateway.port not in dead)
    left = fill(frozenset(everyone), living, masked=True)
    if living:
        moved = [before for before, after in zip(owners, left, strict=True) if before != after]
        assert set(left) == living or len(living) > len(left)
        assert not living & set(moved), "slots of the living have moved"
    else:
        assert left == ()
