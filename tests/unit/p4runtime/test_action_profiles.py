"""Members, groups and one-shot action sets of a table with an action selector."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from finsy.proto import p4r, rpc_code

from duet_p4.xdp_switch.dataplane import Call, GroupHandle, MemberHandle
from tests.unit.p4runtime.client import DELETE, INSERT, MODIFY, Client, direct, exact
from tests.unit.p4runtime.memory import MemoryDevice
from tests.unit.p4runtime.test_tables import refused

PROFILE = "IngressImpl.next_hops"


def member(client: Client, number: int, port: int = 1) -> p4r.ActionProfileMember:
    return p4r.ActionProfileMember(
        action_profile_id=client.names["next_hops"],
        member_id=number,
        action=client.names.action("forward", port, port),
    )


def group(client: Client, number: int, weights: dict[int, int], max_size: int = 0) -> p4r.ActionProfileGroup:
    message = p4r.ActionProfileGroup(
        action_profile_id=client.names["next_hops"], group_id=number, max_size=max_size
    )
    for member_id, weight in weights.items():
        message.members.add(member_id=member_id, weight=weight)
    return message


def entry(client: Client, **action) -> p4r.TableEntry:
    return client.names.entry("wcmp", exact(1, 1), action=p4r.TableAction(**action))


def one_shot(client: Client, *weighted: tuple[int, int]) -> p4r.TableEntry:
    message = entry(client)
    for port, weight in weighted:
        message.action.action_profile_action_set.action_profile_actions.add(
            action=client.names.action("forward", port, port), weight=weight
        )
    return message


def test_members_and_groups_read_back_as_written(client: Client) -> None:
    members = [member(client, 1, 1), member(client, 2, 2)]
    groups = [group(client, 7, {1: 1, 2: 3}, 8)]
    client.write(*((INSERT, message) for message in members))
    client.write(*((INSERT, message) for message in groups))
    assert client.read(p4r.ActionProfileMember()) == members
    assert client.read(p4r.ActionProfileGroup()) == groups
    one = p4r.ActionProfileMember(action_profile_id=client.names["next_hops"], member_id=2)
    assert client.read(one) == [members[1]]


def test_a_member_takes_as_many_slots_as_its_weight(client: Client, device: MemoryDevice) -> None:
    client.write(*((INSERT, member(client, n, n)) for n in (1, 2)))
    client.write((INSERT, group(client, 7, {2: 2, 1: 4})))
    client.write((INSERT, entry(client, action_profile_group_id=7)))
    assert device.pipeline is not None
    forward = [Call("IngressImpl.forward", (port, port)) for port in (1, 2)]
    assert device.pipeline.members[PROFILE] == dict(enumerate(forward))
    assert device.pipeline.groups[PROFILE] == {0: [0, 1, 0]}, "weights 4 and 2 are 2 and 1"
    assert list(device.pipeline.tables["IngressImpl.wcmp"].values()) == [GroupHandle(0)]
    client.write((MODIFY, group(client, 7, {2: 1})))
    assert device.pipeline.groups[PROFILE] == {0: [1]}


def test_a_changed_member_changes_in_every_group(client: Client, device: MemoryDevice) -> None:
    client.write((INSERT, member(client, 1)))
    client.write((INSERT, group(client, 7, {1: 3})), (INSERT, group(client, 8, {1: 1})))
    client.write((MODIFY, member(client, 1, port=9)))
    assert device.pipeline is not None
    assert device.pipeline.members[PROFILE] == {0: Call("IngressImpl.forward", (9, 9))}


def test_an_entry_points_to_a_member(client: Client, device: MemoryDevice) -> None:
    client.write((INSERT, member(client, 5)))
    client.write((INSERT, entry(client, action_profile_member_id=5)))
    assert device.pipeline is not None
    assert list(device.pipeline.tables["IngressImpl.wcmp"].values()) == [MemberHandle(0)]
    assert client.read(client.names.entry("wcmp")) == [entry(client, action_profile_member_id=5)]


def test_what_is_in_use_cannot_be_deleted(client: Client) -> None:
    client.write((INSERT, member(client, 1)), (INSERT, member(client, 2)))
    client.write((INSERT, group(client, 7, {1: 1})))
    client.write((INSERT, entry(client, action_profile_group_id=7)))
    refused(client, DELETE, member(client, 1), rpc_code.FAILED_PRECONDITION)
    refused(client, DELETE, group(client, 7, {}), rpc_code.FAILED_PRECONDITION)
    client.write((MODIFY, entry(client, action_profile_member_id=2)))
    client.write((DELETE, group(client, 7, {})), (DELETE, member(client, 1)))
    refused(client, DELETE, member(client, 2), rpc_code.FAILED_PRECONDITION)
    client.write((DELETE, entry(client)), (DELETE, member(client, 2)))
    assert client.read(p4r.ActionProfileMember(), p4r.ActionProfileGroup()) == []


def test_malformed_members_and_groups_are_refused(client: Client) -> None:
    client.write((INSERT, member(client, 1)))
    client.write((INSERT, group(client, 7, {1: 1}, 4)))
    refused(client, INSERT, member(client, 1), rpc_code.ALREADY_EXISTS)
    refused(client, INSERT, group(client, 7, {1: 1}), rpc_code.ALREADY_EXISTS)
    refused(client, INSERT, member(client, 0), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, member(client, 2), rpc_code.NOT_FOUND)
    refused(client, DELETE, member(client, 2), rpc_code.NOT_FOUND)
    refused(client, MODIFY, group(client, 8, {}), rpc_code.NOT_FOUND)
    refused(client, DELETE, group(client, 8, {}), rpc_code.NOT_FOUND)
    refused(client, INSERT, group(client, 8, {2: 1}), rpc_code.NOT_FOUND)
    refused(client, INSERT, group(client, 8, {1: 0}), rpc_code.INVALID_ARGUMENT)
    refused(client, INSERT, group(client, 8, {1: 1}, -1), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, group(client, 7, {1: 1}, 5), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, group(client, 7, {1: 5}, 4), rpc_code.RESOURCE_EXHAUSTED)
    refused(client, INSERT, group(client, 8, {1: 100}), rpc_code.RESOURCE_EXHAUSTED)
    watched = group(client, 8, {1: 1})
    watched.members[0].watch_port = b"\7"
    refused(client, INSERT, watched, rpc_code.INVALID_ARGUMENT)
    empty = member(client, 2)
    empty.ClearField("action")
    refused(client, INSERT, empty, rpc_code.INVALID_ARGUMENT)
    foreign = member(client, 2)
    foreign.action.action_id = client.names["punt"]
    refused(client, INSERT, foreign, rpc_code.INVALID_ARGUMENT)


def test_a_profile_holds_as_many_members_as_its_size(client: Client) -> None:
    client.write(*((INSERT, member(client, number)) for number in range(1, 65)))
    refused(client, INSERT, member(client, 65), rpc_code.RESOURCE_EXHAUSTED)


def test_entries_refer_only_to_what_is_there(client: Client) -> None:
    refused(client, INSERT, entry(client, action_profile_member_id=1), rpc_code.NOT_FOUND)
    refused(client, INSERT, entry(client, action_profile_group_id=1), rpc_code.NOT_FOUND)
    plain = client.names.entry("wcmp", exact(1, 1), action=direct(client.names.action("drop")))
    refused(client, INSERT, plain, rpc_code.INVALID_ARGUMENT)
    default = client.names.entry(
        "wcmp", is_default_action=True, action=p4r.TableAction(action_profile_member_id=1)
    )
    refused(client, MODIFY, default, rpc_code.INVALID_ARGUMENT)


def test_a_one_shot_reads_back_as_written_and_leaves_nothing_behind(
    client: Client, device: MemoryDevice
) -> None:
    first, second = one_shot(client, (1, 1), (2, 3)), one_shot(client, (3, 1))
    client.write((INSERT, first))
    assert client.read(client.names.entry("wcmp")) == [first]
    assert client.read(p4r.ActionProfileMember(), p4r.ActionProfileGroup()) == []
    client.write((MODIFY, second))
    assert client.read(client.names.entry("wcmp")) == [second]
    assert device.pipeline is not None
    assert len(device.pipeline.members[PROFILE]) == 1
    refused(client, INSERT, first, rpc_code.ALREADY_EXISTS)
    assert len(device.pipeline.members[PROFILE]) == 1
    client.write((DELETE, second))
    assert device.pipeline.members[PROFILE] == {}
    assert device.pipeline.groups[PROFILE] == {}


def test_malformed_one_shots_are_refused(client: Client, device: MemoryDevice) -> None:
    refused(client, INSERT, one_shot(client, (1, 0)), rpc_code.INVALID_ARGUMENT)
    refused(client, INSERT, one_shot(client, *((port, 1) for port in range(65))), rpc_code.RESOURCE_EXHAUSTED)
    for field, value in (("action_selection_mode", 2), ("size_semantics", 2)):
        other = one_shot(client, (1, 1))
        setattr(other.action.action_profile_action_set, field, value)
        refused(client, INSERT, other, rpc_code.UNIMPLEMENTED)
    refused(client, INSERT, one_shot(client, (1, 1), (1 << 9, 1)), rpc_code.OUT_OF_RANGE)
    assert device.pipeline is not None
    assert device.pipeline.members[PROFILE] == {}


def test_a_member_is_left_out_while_its_watch_port_is_down(client: Client, device: MemoryDevice) -> None:
    client.write(*((INSERT, member(client, n, n)) for n in (1, 2)))
    watching = group(client, 7, {1: 1, 2: 2})
    watching.members[0].watch_port, watching.members[1].watch_port = b"\0\1", b"\2"
    client.write((INSERT, watching))

    def slots() -> list[int]:
        # A Read comes after what the server had to do before it.
        assert client.read(p4r.ActionProfileGroup()) == [watching]
        assert device.pipeline is not None
        return device.pipeline.groups[PROFILE][0]

    assert slots() == [0, 1, 1]
    device.flip(2, up=False)
    assert awaited(slots, [0])
    device.flip(1, up=False)
    assert awaited(slots, [])
    device.flip(2, up=True)
    assert awaited(slots, [1])


def awaited(found: Callable[[], list[int]], expected: list[int]) -> bool:
    """Ask until the answer is as expected; the server may see a port's change after a request."""
    for _ in range(100):
        if (last := found()) == expected:
            return True
    pytest.fail(f"expected {expected}, got {last}")


def test_a_selector_takes_members_or_action_sets_but_not_both(client: Client) -> None:
    client.write((INSERT, one_shot(client, (1, 1))))
    refused(client, INSERT, member(client, 1), rpc_code.INVALID_ARGUMENT)
    refused(client, INSERT, group(client, 1, {}), rpc_code.INVALID_ARGUMENT)
    client.write((DELETE, entry(client)))
    client.write((INSERT, member(client, 1)))
    refused(client, INSERT, one_shot(client, (1, 1)), rpc_code.INVALID_ARGUMENT)


def sized(client: Client, **fields) -> None:
    """Push the program with other sizes of its selector."""
    config = p4r.ForwardingPipelineConfig()
    config.CopyFrom(client.config)
    for name, value in fields.items():
        if name == "max_member_weight":
            config.p4info.action_profiles[0].sum_of_members.max_member_weight = value
        else:
            setattr(config.p4info.action_profiles[0], name, value)
    client.push(config=config)


def test_sum_of_members_counts_members_and_bounds_their_weights(client: Client) -> None:
    sized(client, max_group_size=2, max_member_weight=100)
    client.write(*((INSERT, member(client, n, n)) for n in (1, 2, 3)))
    client.write((INSERT, group(client, 1, {1: 100, 2: 100}, 2)))
    refused(client, INSERT, group(client, 2, {1: 101}, 2), rpc_code.INVALID_ARGUMENT)
    refused(client, INSERT, group(client, 2, {1: 1, 2: 1, 3: 1}, 2), rpc_code.RESOURCE_EXHAUSTED)
    refused(client, INSERT, group(client, 2, {1: 1}, 0), rpc_code.INVALID_ARGUMENT)
    refused(client, INSERT, group(client, 2, {1: 1}, 3), rpc_code.INVALID_ARGUMENT)
    sized(client, max_group_size=2, max_member_weight=100)
    client.write((INSERT, one_shot(client, (1, 100), (1, 100))))
    refused(client, MODIFY, one_shot(client, (1, 1), (2, 1), (3, 1)), rpc_code.INVALID_ARGUMENT)
    refused(client, MODIFY, one_shot(client, (1, 101)), rpc_code.INVALID_ARGUMENT)


def test_sum_of_weights_counts_weights(client: Client) -> None:
    sized(client, max_group_size=4)
    client.write((INSERT, one_shot(client, (1, 2), (2, 2))))
    refused(client, MODIFY, one_shot(client, (1, 2), (2, 3)), rpc_code.INVALID_ARGUMENT)


def test_where_weights_are_disallowed_only_0_is_one(client: Client, device: MemoryDevice) -> None:
    sized(client, weights_disallowed=True)
    client.write((INSERT, member(client, 1)))
    refused(client, INSERT, group(client, 1, {1: 1}), rpc_code.INVALID_ARGUMENT)
    client.write((INSERT, group(client, 1, {1: 0})))
    assert device.pipeline is not None
    assert device.pipeline.groups[PROFILE] == {0: [0]}


def test_a_max_size_beyond_the_selectors_is_resource_exhausted(client: Client) -> None:
    refused(client, INSERT, group(client, 1, {}, 65), rpc_code.RESOURCE_EXHAUSTED)
