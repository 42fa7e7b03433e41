from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duet_p4 import slots
from duet_p4.model import Dip, Group

weights_strategy = st.lists(st.integers(0, 20), min_size=1, max_size=40).filter(any)


@given(weights_strategy)
def test_shares_follow_weights_within_one_slot(weights: list[int]) -> None:
    table = slots.build(weights, 8 * len(weights) + 64)
    held = Counter(table)
    for member, weight in enumerate(weights):
        ideal = len(table) * weight / sum(weights)
        assert ideal - 2 < held[member] < ideal + 2 or (weight and held[member] == 1), (member, held, ideal)


@given(weights_strategy)
def test_default_count_serves_every_weighted_member_and_no_other(weights: list[int]) -> None:
    table = slots.build(weights)
    assert set(table) == {member for member, weight in enumerate(weights) if weight}


@given(weights_strategy | st.lists(st.sampled_from([0, 3]), min_size=1, max_size=40).filter(any))
def test_a_fresh_table_is_what_one_without_owners_becomes(weights: list[int]) -> None:
    table = slots.build(weights)
    assert table == slots.update([None] * len(table), weights, rebalance=False)


@given(weights_strategy, st.data())
def test_removal_moves_only_the_slots_of_the_one_removed(weights: list[int], data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, len(weights) - 1))
    rest = [0 if member == gone else weight for member, weight in enumerate(weights)]
    if not any(rest):
        return
    before = slots.build(weights)
    after = slots.update(before, rest, rebalance=False)
    assert gone not in after
    for old, new in zip(before, after, strict=True):
        assert old in (new, gone)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.integers(1, 20))
def test_addition_moves_slots_only_to_the_newcomer_when_weights_are_equal(
    weights: list[int], weight: int
) -> None:
    equal = [weight] * len(weights)
    before = slots.build(equal, 16 * (len(equal) + 1))
    after = slots.update(before, [*equal, weight], rebalance=True)
    newcomer = len(equal)
    assert Counter(after)[newcomer] == 16
    assert all(old == new or new == newcomer for old, new in zip(before, after, strict=True))


def test_bad_weights_are_named() -> None:
    with pytest.raises(ValueError, match="weight -3 is negative"):
        slots.build([1, -3])
    with pytest.raises(ValueError, match="no member has a positive weight"):
        slots.build([0, 0])
    with pytest.raises(ValueError, match="2 slots cannot hold 3 members"):
        slots.build([1, 1, 1], 2)


@contextmanager
def powers_of_two() -> Iterator[None]:
    slots.use_powers_of_two(True)
    try:
        yield
    finally:
        slots.use_powers_of_two(False)


@given(weights_strategy)
def test_a_power_of_two_of_slots_gives_each_member_its_share_within_one(weights: list[int]) -> None:
    with powers_of_two():
        table = slots.build(weights)
    served = sum(1 for weight in weights if weight)
    assert len(table).bit_count() == 1
    assert 4 * served < len(table) <= 8 * served
    held = Counter(table)
    assert set(held) == {member for member, weight in enumerate(weights) if weight}
    if len({weight for weight in weights if weight}) == 1:
        assert max(held.values()) - min(held.values()) <= 1


@given(st.integers(1, 40), st.integers(1, 200))
def test_a_group_that_grows_keeps_a_power_of_two_and_moves_no_flow_but_to_newcomers(
    few: int, more: int
) -> None:
    with powers_of_two():
        before = slots.build([1] * few)
        wide = slots.widened(before, [1] * (few + more))
        after = slots.update(wide, [1] * (few + more), rebalance=True)
    assert len(wide).bit_count() == len(after).bit_count() == 1
    assert len(wide) >= 4 * (few + more)
    for hashed in range(len(after)):
        assert wide[hashed] == before[hashed % len(before)]
        assert after[hashed] == wide[hashed] or after[hashed] >= few


def test_a_group_of_before_begins_afresh_once_it_changes() -> None:
    dips = tuple(Dip(address=IPv4Address("100.0.0.1") + n) for n in range(3))
    old = Group.of(dips)
    assert len(old.slots) == 24
    with powers_of_two():
        assert old.updated(dips) == Group.of(dips)
        assert len(old.updated(dips[:2]).slots) == 16
        kept = Group.of(dips)
        assert kept.updated(dips) == kept
