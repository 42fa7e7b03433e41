from collections import Counter
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from duet_p4.model import Dip, Group, MuxVip, Vip


def dips(count: int) -> tuple[Dip, ...]:
    return tuple(Dip(address=IPv4Address("100.0.0.1") + i) for i in range(count))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dips": [{"address": "2001:db8::1"}]}, "2001:db8::1"),
        ({"dips": [{"address": "100.0.0.1"}, {"address": "100.0.0.1"}]}, "DIP 100.0.0.1 twice"),
        ({"dips": []}, "has no DIPs"),
        ({"dips": [{"address": "10.0.0.1"}]}, "its own DIP"),
        ({"dips": [{"address": "100.0.0.1", "weight": -1}]}, "-1"),
        ({"dips": [{"address": "100.0.0.1", "weight": 0}]}, "every DIP has weight 0"),
        ({"dips": [{"address": "100.0.0.1"}], "colour": "red"}, "colour"),
    ],
)
def test_a_bad_vip_is_refused_and_the_value_named(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Vip.model_validate({"address": "10.0.0.1", **fields})


@given(st.integers(2, 60), st.data())
def test_removing_a_dip_moves_only_its_flows(count: int, data: st.DataObject) -> None:
    group = Group.of(dips(count))
    gone = data.draw(st.sampled_from(group.members))
    after = group.updated(tuple(dip for dip in group.members if dip != gone))
    for flow_hash in range(len(group.slots)):
        old, new = group.member(flow_hash), after.member(flow_hash)
        assert (old == gone and new != gone) or old == new


@given(st.integers(1, 12), st.integers(1, 200))
def test_a_group_that_grows_serves_all_its_dips_and_moves_flows_only_to_the_new(old: int, added: int) -> None:
    group = Group.of(dips(old))
    after = group.updated(dips(old + added))
    owned = Counter(after.slots)
    assert len(owned) == old + added and max(owned.values()) <= 2 * min(owned.values())
    joined = set(dips(old + added)[old:])
    for flow_hash in range(len(after.slots)):
        assert after.member(flow_hash) in joined | {group.member(flow_hash)}


def test_used_leaves_out_a_drained_dip() -> None:
    members = (Dip(address=IPv4Address("100.0.0.1")), Dip(address=IPv4Address("100.0.0.2"), weight=0))
    assert Group.of(members).used() == [members[0]]


def test_a_mux_vip_survives_json() -> None:
    vip = MuxVip.of(Vip(address=IPv4Address("10.0.0.1"), dips=dips(3)))
    assert MuxVip.model_validate_json(vip.model_dump_json()) == vip
