"""The HMux's load-balancing tables, checked against a model of the pipeline at every single write."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from duet_p4.allocation import TableFullError
from duet_p4.flow_hash import Flow, flow_hash, tip_hash
from duet_p4.hmux.plan import Op, Plan, Update
from duet_p4.hmux.rows import AclRow, HostRow, Key, PinnedRow, SlotRow, TunnelRow, VipRow
from duet_p4.hmux.tables import AddressInUseError, VipTables
from duet_p4.model import Dip, Group, MuxPortGroup, MuxTip, MuxVip, PinnedFlow, Protocol

SIZES = {"host": 4, "acl": 4, "ecmp": 64, "tunneling": 10, "pinned": 6}
ROOMY = {"host": 4, "acl": 8, "ecmp": 512, "tunneling": 32, "pinned": 12}
VIPS = [IPv4Address(f"10.0.0.{n}") for n in range(1, 6)]
CLIENTS = [IPv4Address(f"192.0.2.{n}") for n in range(1, 4)]
PORTS = (80, 21, 9)
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


@dataclass
class Pipeline:
    """The P4 pipeline as a dict of rows; refuses what a P4Runtime server would refuse."""

    sizes: dict[str, int] = field(default_factory=lambda: SIZES)
    rows: dict[Key, VipRow] = field(default_factory=dict)

    def write(self, update: Update[VipRow]) -> None:
        held = self.rows.get(update.row.key)
        if update.op is Op.INSERT:
            assert held is None, f"{update.row} is there already"
            used = sum(row.table == update.row.table for row in self.rows.values())
            assert used < self.sizes[update.row.table], f"{update.row.table} is full"
            self.rows[update.row.key] = update.row
        else:
            assert held is not None, f"{update.row} is not there"
            assert held == update.before
            if update.op is Op.MODIFY:
                self.rows[update.row.key] = update.row
            else:
                del self.rows[update.row.key]

    def encap(self, flow: Flow) -> IPv4Address | None:
        """Return where the pipeline tunnels a flow; None where it is no business of the load balancer."""
        name = {6: Protocol.TCP, 17: Protocol.UDP}[flow.protocol]
        row = self.rows.get(("host", flow.destination))
        assert row is None or isinstance(row, HostRow)
        if row is not None and row.has_ports:
            row = self.rows.get(("acl", flow.destination, name, flow.destination_port), row)
        if row is None:
            return None
        assert isinstance(row, HostRow | AclRow)
        if not row.count:
            return None
        if row.has_pinned:
            key = (flow.source, flow.destination, flow.protocol, flow.source_port, flow.destination_port)
            pin = self.rows.get(("pinned", *key))
            if isinstance(pin, PinnedRow):
                return self._tunnel(pin.tunnel)
        second = isinstance(row, HostRow) and row.tip
        hashed = tip_hash(flow) if second else flow_hash(flow)
        slot = self.rows.get(("ecmp", row.first + hashed % row.count))
        assert isinstance(slot, SlotRow), f"{row} leads to a slot that is not there"
        return self._tunnel(slot.tunnel)

    def _tunnel(self, index: int) -> IPv4Address:
        row = self.rows.get(("tunneling", index))
        assert isinstance(row, TunnelRow), f"tunnel {index} is not there"
        return row.encap


FLOWS = [Flow(c, v, 6, 1000 + n, p) for v in VIPS for n, c in enumerate(CLIENTS) for p in PORTS]


def expected(held: Mapping[IPv4Address, MuxVip | MuxTip], flow: Flow) -> IPv4Address | None:
    """Return where a mux that holds exactly `held` tunnels a flow."""
    mux = held.get(flow.destination)
    if mux is None:
        return None
    if isinstance(mux, MuxTip):
        return mux.group.member(tip_hash(flow)).encap
    group = mux.group
    for port in mux.ports:
        if (port.protocol, port.port) == (Protocol.TCP, flow.destination_port):
            group = port.group
    if group is None:
        return None
    for pin in mux.pinned:
        if (pin.source, pin.protocol, pin.source_port, pin.destination_port) == (
            flow.source,
            flow.protocol,
            flow.source_port,
            flow.destination_port,
        ):
            return next(d.encap for g in mux.groups() for d in g.members if d.address == pin.dip)
    return group.member(flow_hash(flow)).encap


def shuffled(plan: Plan[VipRow], seed: int) -> Iterable[Update[VipRow]]:
    """The plan's updates, each step in an order of its own."""
    for step in plan.steps:
        yield from random.Random(seed).sample(step.updates, len(step.updates))


addresses = st.integers(1, 8).map(lambda n: IPv4Address(f"100.0.0.{n}"))
hosts = st.one_of(st.none(), st.integers(1, 2).map(lambda n: IPv4Address(f"100.9.9.{n}")))
dips = st.lists(
    st.builds(Dip, address=addresses, weight=st.integers(0, 2), host=hosts),
    min_size=1,
    max_size=5,
    unique_by=lambda dip: dip.address,
).filter(lambda members: any(dip.weight for dip in members))
groups = st.tuples(dips, st.sampled_from([None, 6, 16])).map(lambda t: Group.of(tuple(t[0]), t[1]))


@st.composite
def mux_vips(draw: st.DrawFn, address: IPv4Address) -> MuxVip:
    group = draw(st.one_of(st.none(), groups))
    keys = st.sampled_from([(Protocol.TCP, 80), (Protocol.TCP, 21)])
    port_keys = draw(st.lists(keys, unique=True, min_size=0 if group else 1, max_size=2))
    ports = tuple(MuxPortGroup(protocol=k, port=p, group=draw(groups)) for k, p in port_keys)
    members = sorted({d.address for g in [group, *(p.group for p in ports)] if g for d in g.members})
    served = {port for _, port in port_keys} if group is None else set(PORTS)
    flows = [f for f in FLOWS if f.destination == address and f.destination_port in served]
    pinned = draw(st.lists(st.tuples(st.sampled_from(flows), st.sampled_from(members)), max_size=3))
    return MuxVip(
        address=address,
        group=group,
        ports=ports,
        pinned=tuple(
            PinnedFlow(
                protocol=f.protocol,
                source=f.source,
                source_port=f.source_port,
                destination_port=f.destination_port,
                dip=dip,
            )
            for f, dip in {flow: (flow, dip) for flow, dip in pinned}.values()
        ),
    )


@st.composite
def changes(draw: st.DrawFn) -> MuxVip | MuxTip | IPv4Address:
    address = draw(st.sampled_from(VIPS))
    kind = draw(st.sampled_from(["put", "put", "put", "tip", "delete"]))
    if kind == "delete":
        return address
    if kind == "tip":
        return MuxTip(address=address, group=draw(groups))
    return draw(mux_vips(address))


def planned(tables: VipTables, change: MuxVip | MuxTip | IPv4Address) -> Plan[VipRow]:
    if isinstance(change, MuxVip):
        return tables.put_vip(change)
    if isinstance(change, MuxTip):
        return tables.put_tip(change)
    return tables.delete(change)


@settings(max_examples=60, deadline=None, phases=PHASES)
@given(st.lists(changes(), min_size=1, max_size=8), st.integers(0, 1000))
def test_at_every_write_a_flow_has_its_old_or_its_new_dip(
    sequence: list[MuxVip | MuxTip | IPv4Address], seed: int
) -> None:
    tables, pipeline = VipTables(SIZES), Pipeline()
    held: dict[IPv4Address, MuxVip | MuxTip] = {}
    for change in sequence:
        try:
            plan = planned(tables, change)
        except (TableFullError, AddressInUseError):
            assert {row.key: row for row in tables.rows()} == pipeline.rows
            continue
        after = dict(held)
        if isinstance(change, IPv4Address):
            after.pop(change, None)
        else:
            after[change.address] = change
        allowed = {flow: {expected(held, flow), expected(after, flow)} for flow in FLOWS}
        for update in shuffled(plan, seed):
            pipeline.write(update)
            for flow, choices in allowed.items():
                got = pipeline.encap(flow)
                assert got in choices, f"{flow} goes to {got}, not to one of {choices}, after {update}"
        tables.apply(plan)
        held = after
        assert {flow: pipeline.encap(flow) for flow in FLOWS} == {f: expected(held, f) for f in FLOWS}
        assert not len(planned(tables, change)), "the same change again writes something"
        assert not len(tables.sweep()), "the change left something behind"
    assert tables.addresses() == sorted(held)


@settings(max_examples=40, deadline=None, phases=PHASES)
@given(st.lists(changes(), min_size=1, max_size=8), st.integers(0, 200), st.integers(0, 1000))
def test_after_a_crash_between_two_writes_the_tables_are_repaired(
    sequence: list[MuxVip | MuxTip | IPv4Address], crash_after: int, seed: int
) -> None:
    tables, pipeline = VipTables(SIZES), Pipeline()
    held: dict[IPv4Address, MuxVip | MuxTip] = {}
    for change in sequence[:-1]:
        try:
            plan = planned(tables, change)
        except (TableFullError, AddressInUseError):
            continue
        for update in plan:
            pipeline.write(update)
        tables.apply(plan)
        if isinstance(change, IPv4Address):
            held.pop(change, None)
        else:
            held[change.address] = change
    try:
        updates = list(shuffled(planned(tables, sequence[-1]), seed))
    except (TableFullError, AddressInUseError):
        return
    for update in updates[:crash_after]:
        pipeline.write(update)

    rows = list(pipeline.rows.values())
    random.Random(seed).shuffle(rows)
    again = VipTables(SIZES, rows)
    touched = sequence[-1] if isinstance(sequence[-1], IPv4Address) else sequence[-1].address
    steady = {flow: pipeline.encap(flow) for flow in FLOWS if flow.destination != touched}

    def run(plan: Plan[VipRow]) -> None:
        for update in plan:
            pipeline.write(update)
            for flow, dip in steady.items():
                assert pipeline.encap(flow) == dip, f"{flow} moved by {update}"
        again.apply(plan)

    run(again.sweep())
    for address in again.addresses():
        if address not in held:
            run(again.delete(address))
    for mux in held.values():
        run(planned(again, mux))
    run(again.sweep())
    assert {flow: pipeline.encap(flow) for flow in FLOWS} == {f: expected(held, f) for f in FLOWS}
    assert again.addresses() == sorted(held)


@settings(max_examples=50, deadline=None, phases=PHASES)
@given(mux_vips(VIPS[0]), mux_vips(VIPS[0]), st.integers(0, 200))
def test_a_plan_taken_back_half_way_leaves_everything_as_it_was(a: MuxVip, b: MuxVip, stop: int) -> None:
    tables, pipeline = VipTables(ROOMY), Pipeline(ROOMY)
    plan = tables.put_vip(a)
    for update in plan:
        pipeline.write(update)
    tables.apply(plan)
    before = dict(pipeline.rows)
    written = list(tables.put_vip(b))[:stop]
    for update in written:
        pipeline.write(update)
    for update in reversed(written):
        pipeline.write(update.inverse())
    assert pipeline.rows == before


def group(*last: int, slots: int | None = None) -> Group:
    return Group.of(tuple(Dip(address=IPv4Address(f"100.0.0.{n}")) for n in last), slots)


def test_removing_a_dip_rewrites_its_slots_and_frees_its_tunnel() -> None:
    tables = VipTables(SIZES)
    old = group(1, 2, 3, 4)
    tables.apply(tables.put_vip(MuxVip(address=VIPS[0], group=old)))
    plan = tables.put_vip(MuxVip(address=VIPS[0], group=old.updated(old.members[1:])))
    kinds = sorted((update.op.name, update.row.table) for update in plan)
    assert kinds == [("DELETE", "tunneling"), *[("MODIFY", "ecmp")] * 8]


def test_vips_share_the_tunnels_of_their_common_dips() -> None:
    tables = VipTables(SIZES)
    for vip in VIPS[:3]:
        tables.apply(tables.put_vip(MuxVip(address=vip, group=group(1, 2))))
    assert tables.used()["tunneling"] == (2, 10)
    tables.apply(tables.delete(VIPS[0]))
    assert tables.used()["tunneling"] == (2, 10)
    for vip in VIPS[1:3]:
        tables.apply(tables.delete(vip))
    assert {name: used for name, (used, _) in tables.used().items()} == dict.fromkeys(SIZES, 0)


@pytest.mark.parametrize(
    ("vip", "table"),
    [
        (MuxVip(address=VIPS[4], group=group(1, slots=65)), "ecmp"),
        (MuxVip(address=VIPS[4], group=group(*range(1, 12), slots=11)), "tunneling"),
        (
            MuxVip(
                address=VIPS[4],
                ports=tuple(
                    MuxPortGroup(protocol=Protocol.UDP, port=p, group=group(1, slots=1)) for p in range(1, 6)
                ),
            ),
            "acl",
        ),
    ],
)
def test_a_full_table_is_named_with_its_size_and_what_was_asked(vip: MuxVip, table: str) -> None:
    tables = VipTables(SIZES)
    with pytest.raises(TableFullError, match=rf"{table} table is full: VIP 10.0.0.5 needs \d+ more") as full:
        tables.put_vip(vip)
    assert full.value.table == table
    assert tables.rows() == []


def test_a_full_host_table_still_takes_changes_of_what_it_holds() -> None:
    tables = VipTables(SIZES)
    for vip in VIPS[:4]:
        tables.apply(tables.put_vip(MuxVip(address=vip, group=group(1, slots=1))))
    with pytest.raises(TableFullError, match="4 of 4"):
        tables.put_vip(MuxVip(address=VIPS[4], group=group(1, slots=1)))
    assert len(tables.put_vip(MuxVip(address=VIPS[0], group=group(2, slots=2)))) == 5


def test_one_address_is_not_a_vip_and_a_tip() -> None:
    tables = VipTables(SIZES)
    tables.apply(tables.put_tip(MuxTip(address=VIPS[0], group=group(1))))
    with pytest.raises(AddressInUseError, match=r"VIP 10.0.0.1: the switch holds 10.0.0.1 as a TIP"):
        tables.put_vip(MuxVip(address=VIPS[0], group=group(1)))
