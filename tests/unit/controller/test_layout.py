from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.updater.layout import NONE_DOWN, Down, LayoutError, change, lay_out, tip_allocator
from duet_p4.flow_hash import Flow
from duet_p4.model import Checked, Dip, PortGroup, Protocol, Vip
from tests.unit.controller.flows import dip_of

VIP = IPv4Address("10.0.0.1")
FAN_OUT = 8


def allocator():
    return tip_allocator(IPv4Network("20.0.0.0/24"), frozenset)


def dips(count: int, first: int = 0) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.1") + first + i) for i in range(count))


def flow(number: int) -> Flow:
    return Flow(IPv4Address("100.9.0.1"), VIP, 6, number & 0xFFFF, 80)


def test_a_small_vip_needs_no_tip() -> None:
    record = lay_out(Vip(address=VIP, dips=dips(FAN_OUT)), FAN_OUT, allocator())
    assert record.tips == ()


@given(st.integers(FAN_OUT + 1, FAN_OUT * FAN_OUT))
def test_every_dip_of_a_large_vip_is_behind_exactly_one_tip(count: int) -> None:
    record = lay_out(Vip(address=VIP, dips=dips(count)), FAN_OUT, allocator())
    behind = [dip for placed in record.tips for dip in placed.tip.group.members]
    assert sorted(behind, key=lambda dip: dip.address) == list(dips(count))
    assert all(len(placed.tip.group.members) <= FAN_OUT for placed in record.tips)
    assert len(record.tips) <= FAN_OUT


@settings(deadline=None)
@given(st.integers(2, 40), st.data())
def test_a_dip_that_goes_down_moves_only_its_own_flows(count: int, data: st.DataObject) -> None:
    spec = Vip(address=VIP, dips=dips(count))
    before = lay_out(spec, FAN_OUT, allocator())
    gone = data.draw(st.sampled_from(spec.dips)).address
    after = change(before, spec, Down(gone=frozenset({gone})), FAN_OUT, allocator())
    for number in range(500):
        old, new = dip_of(before, flow(number)), dip_of(after, flow(number))
        assert new != gone
        assert old in (new, gone), (number, old, new)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=4), st.data())
def test_after_any_changes_every_dip_that_takes_flows_has_slots(
    counts: list[int], data: st.DataObject
) -> None:
    record = lay_out(Vip(address=VIP, dips=dips(counts[0])), FAN_OUT, allocator())
    for count in counts[1:]:
        drained = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
        members = tuple(
            dip.model_copy(update={"weight": int(i not in drained)}) for i, dip in enumerate(dips(count))
        )
        used = {placed.tip.address for placed in record.tips}
        allocate = tip_allocator(IPv4Network("20.0.0.0/24"), lambda used=used: used)
        record = change(record, Vip(address=VIP, dips=members), NONE_DOWN, FAN_OUT, allocate)
        assert record.layout.group is not None
        direct = {dip.address for dip in record.layout.group.used()}
        tips = {placed.tip.address: placed.tip.group for placed in record.tips}
        served = (direct - tips.keys()) | {d.address for a in direct & tips.keys() for d in tips[a].used()}
        assert served == {dip.address for dip in members if dip.weight}
        assert bool(tips) == (count > FAN_OUT)
        assert len(record.layout.group.slots) <= 4 * 8 * max(1, len(tips) or count)


def test_a_vip_whose_every_dip_is_down_keeps_them() -> None:
    spec = Vip(address=VIP, dips=dips(3))
    before = lay_out(spec, FAN_OUT, allocator())
    after = change(
        before, spec, Down(frozenset(Checked(dip.address) for dip in spec.dips)), FAN_OUT, allocator()
    )
    assert after.layout == before.layout


def test_an_added_dip_fills_the_smallest_tip_before_a_new_tip_is_made() -> None:
    spec = Vip(address=VIP, dips=dips(15))
    before = lay_out(spec, FAN_OUT, allocator())
    fuller = change(before, Vip(address=VIP, dips=dips(16)), NONE_DOWN, FAN_OUT, allocator())
    assert [len(placed.tip.group.members) for placed in fuller.tips] == [8, 8]
    used = {placed.tip.address for placed in fuller.tips}
    allocate = tip_allocator(IPv4Network("20.0.0.0/24"), lambda: used)
    more = change(fuller, Vip(address=VIP, dips=dips(17)), NONE_DOWN, FAN_OUT, allocate)
    assert [len(placed.tip.group.members) for placed in more.tips] == [8, 8, 1]
    assert len({placed.tip.address for placed in more.tips}) == 3


def test_too_many_dips_are_refused_with_the_numbers() -> None:
    with pytest.raises(LayoutError, match="65 DIPs; TIPs reach at most 64"):
        lay_out(Vip(address=VIP, dips=dips(65)), FAN_OUT, allocator())
    port = PortGroup(protocol=Protocol.TCP, port=80, dips=dips(9))
    with pytest.raises(LayoutError, match="port tcp/80 has 9 DIPs"):
        lay_out(Vip(address=VIP, ports=(port,)), FAN_OUT, allocator())


def test_an_exhausted_tip_prefix_is_named() -> None:
    with pytest.raises(LayoutError, match=r"20\.0\.0\.0/31"):
        lay_out(
            Vip(address=VIP, dips=dips(20)), FAN_OUT, tip_allocator(IPv4Network("20.0.0.0/31"), frozenset)
        )
