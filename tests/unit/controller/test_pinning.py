from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.records import VipRecord
from controller.updater.layout import Down, change, lay_out, tip_allocator
from controller.updater.pinning import disturbs, pinned
from duet_p4.model import Checked, Dip, PortGroup, Protocol, Vip
from tests.unit.controller.flows import dip_of, key_of, live_flows

VIP = IPv4Address("10.0.0.1")
FAN_OUT = 8


def dips(count: int, weight: int = 1) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.1") + i, weight=weight) for i in range(count))


def allocator(*records: VipRecord):
    def used() -> set[IPv4Address]:
        return {placed.tip.address for record in records for placed in record.tips}

    return tip_allocator(IPv4Network("20.0.0.0/24"), used)


def laid_out(spec: Vip) -> VipRecord:
    return lay_out(spec, FAN_OUT, allocator())


def changed(record: VipRecord, spec: Vip, *down: IPv4Address) -> VipRecord:
    return change(record, spec, Down(failed=frozenset(map(Checked, down))), FAN_OUT, allocator(record))


def with_tips_of(old: VipRecord, new: VipRecord) -> VipRecord:
    """Return what a mux holds that has put TIPs that are new, then the VIP, and not yet TIPs that change."""
    held = {placed.tip.address: placed for placed in old.tips}
    return new.model_copy(update={"tips": tuple(held.get(placed.tip.address, placed) for placed in new.tips)})


members = st.sets(st.integers(0, 29), min_size=1, max_size=30)


@settings(deadline=None)
@given(members, members, st.sets(st.integers(0, 29), max_size=5), st.sets(st.integers(0, 29), max_size=3))
def test_slots_and_pins_together_keep_every_live_flow_whose_dip_stays(
    before: set[int], after: set[int], drained: set[int], down: set[int]
) -> None:
    every = dips(30)
    old = laid_out(Vip(address=VIP, dips=tuple(every[i] for i in sorted(before))))
    kept = [every[i].model_copy(update={"weight": int(i not in drained)}) for i in sorted(after)]
    if not any(dip.weight for dip in kept):
        return
    bare = changed(old, Vip(address=VIP, dips=tuple(kept)), *(every[i].address for i in down))
    flows = live_flows(old, 200)
    new = pinned(bare, flows)
    served = {dip.address for dip in kept} - {every[i].address for i in down}
    for flow in flows:
        if flow.dip in served:
            assert dip_of(new, key_of(new, flow)) == flow.dip
            between = with_tips_of(old, new)
            assert dip_of(between, key_of(new, flow)) == flow.dip, "until TIPs change after their VIP"
    if not disturbs(old, bare):
        assert new.layout.pinned == (), "a change that was said to disturb no flow moves one"
    known = {dip.address for group in new.layout.groups() for dip in group.members}
    assert all(pin.dip in known for pin in new.layout.pinned)
    assert type(new).model_validate_json(new.model_dump_json()) == new
    assert pinned(new, new.layout.pinned) == new
    assert pinned(new, ()) == bare, "pins leave something behind"


def test_only_flows_that_their_slot_would_move_are_pinned() -> None:
    old = laid_out(Vip(address=VIP, dips=dips(3)))
    new = pinned(changed(old, Vip(address=VIP, dips=dips(4))), live_flows(old, 200))
    assert 0 < len(new.layout.pinned) < 100
    for pin in new.layout.pinned:
        bare = pinned(new, ())
        assert dip_of(bare, key_of(bare, pin)) != pin.dip  # type: ignore[arg-type]


def test_flows_of_a_dip_that_left_are_not_pinned() -> None:
    old = laid_out(Vip(address=VIP, dips=dips(3)))
    new = changed(old, Vip(address=VIP, dips=dips(2)))
    assert all(pin.dip != dips(3)[2].address for pin in pinned(new, live_flows(old, 300)).layout.pinned)
    assert not disturbs(old, new)


@pytest.mark.parametrize("first", [0, 1])
def test_a_flow_of_which_two_dips_tell_is_that_ones_who_heard_of_the_client_last(first: int) -> None:
    """A client's port that is used again once its DIP has left leaves an end of a connection there."""
    without = laid_out(Vip(address=VIP, dips=dips(3)[1:]))
    new = changed(without, Vip(address=VIP, dips=dips(3)))
    live = live_flows(without, 200)
    ends = [flow.model_copy(update={"dip": dips(1)[0].address, "idle_s": 1.0}) for flow in live]
    told = [live, ends][first] + [live, ends][1 - first]
    assert pinned(new, told) == pinned(new, live)
    assert {pin.dip for pin in pinned(new, ends).layout.pinned} == {dips(1)[0].address}
    earlier = pinned(new, ends).layout.pinned
    assert pinned(new, (*earlier, *live)) == pinned(new, (*live, *earlier)) == pinned(new, live)


def test_adding_or_draining_a_dip_disturbs_and_an_equal_layout_does_not() -> None:
    old = laid_out(Vip(address=VIP, dips=dips(3)))
    drained = (*dips(2), Dip(address=dips(3)[2].address, weight=0))
    assert disturbs(old, changed(old, Vip(address=VIP, dips=dips(4))))
    assert disturbs(old, changed(old, Vip(address=VIP, dips=drained)))
    assert not disturbs(old, changed(old, old.spec))


def test_behind_tips_a_dip_that_joins_disturbs_and_one_that_leaves_does_not() -> None:
    old = laid_out(Vip(address=VIP, dips=dips(15)))
    assert disturbs(old, changed(old, Vip(address=VIP, dips=dips(16))))
    assert not disturbs(old, changed(old, Vip(address=VIP, dips=dips(14))))
    failed = dips(15)[3].address
    assert not disturbs(old, changed(old, old.spec, failed), [Checked(failed)])


def test_a_new_port_group_disturbs_the_flows_that_the_default_group_served() -> None:
    old = laid_out(Vip(address=VIP, dips=dips(2)))

    def with_port(own: tuple[Dip, ...]) -> VipRecord:
        port = PortGroup(protocol=Protocol.TCP, port=80, dips=own)
        return changed(old, Vip(address=VIP, dips=dips(2), ports=(port,)))

    assert not disturbs(old, with_port(dips(4)[2:]))
    assert disturbs(old, with_port(dips(3)))
