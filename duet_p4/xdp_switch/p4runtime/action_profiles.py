"""Action profiles: members, groups, and one-shot action sets of tables with selectors.

A member of weight w stands w times in a group. BMv2 picks the n-th member of a group in the order of
member handles, and a handle is the lowest free number when the member, or another copy of it, is made:
the same is done here, so that the same flows take the same members on both targets.
"""

from __future__ import annotations

import heapq
from collections import Counter as Multiset
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Call, GroupHandle, MemberHandle, Pipeline, TargetAction
from duet_p4.xdp_switch.p4runtime.errors import (
    already_exists,
    failed_precondition,
    invalid_argument,
    not_found,
    resource_exhausted,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.p4info import Action, ActionProfile

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class ActionCall:
    """An action with its arguments."""

    action: Action
    arguments: tuple[int, ...]

    @property
    def target(self) -> Call:
        """The same as the data plane names it."""
        return Call(self.action.name, self.arguments)

    def fill(self, message: p4r.TableAction) -> None:
        """Write it into a table entry's action."""
        self.action.encode(self.arguments, message.action)


@dataclass(frozen=True, slots=True)
class MemberRef:
    """A member that a table entry points to."""

    member_id: int

    def fill(self, message: p4r.TableAction) -> None:
        """Write it into a table entry's action."""
        message.action_profile_member_id = self.member_id


@dataclass(frozen=True, slots=True)
class GroupRef:
    """A group that a table entry points to."""

    group_id: int

    def fill(self, message: p4r.TableAction) -> None:
        """Write it into a table entry's action."""
        message.action_profile_group_id = self.group_id


@dataclass(frozen=True, slots=True)
class OneShot:
    """An action set given in place, with the data plane's handles of what was made for it."""

    weighted: tuple[tuple[ActionCall, int], ...]
    group: int
    members: tuple[int, ...]

    def fill(self, message: p4r.TableAction) -> None:
        """Write it into a table entry's action, as the client gave it."""
        actions = message.action_profile_action_set.action_profile_actions
        for call, weight in self.weighted:
            call.action.encode(call.arguments, actions.add(weight=weight).action)


Indirect = MemberRef | GroupRef | OneShot


class Handles:
    """Numbers from 0 up, the lowest free one first."""

    def __init__(self) -> None:
        self._freed: list[int] = []
        self._next = 0

    @property
    def used(self) -> int:
        """How many numbers are taken."""
        return self._next - len(self._freed)

    def take(self) -> int:
        """Take the lowest free number."""
        if self._freed:
            return heapq.heappop(self._freed)
        self._next += 1
        return self._next - 1

    def give_back(self, handle: int) -> None:
        """Make a number free again."""
        heapq.heappush(self._freed, handle)


@dataclass(slots=True)
class Member:
    """What a member does, and a handle for every copy of it that some group needs."""

    call: ActionCall
    handles: list[int]


@dataclass(slots=True)
class Group:
    """Weights of a group's members by member id, and the size it was made for."""

    handle: int
    max_size: int
    weights: dict[int, int] = field(default_factory=dict)


class ActionProfileState:
    """The members and groups of one action profile or selector."""

    def __init__(self, profile: ActionProfile, pipeline: Pipeline) -> None:
        self.profile = profile
        self._pipeline = pipeline
        self._members: dict[int, Member] = {}
        self._groups: dict[int, Group] = {}
        self._member_handles = Handles()
        self._group_handles = Handles()
        self._references: Multiset[MemberRef | GroupRef] = Multiset()

    def write_member(self, kind: int, message: p4r.ActionProfileMember) -> None:
        """Insert, modify or delete a member."""
        member_id = message.member_id
        member = self._members.get(member_id)
        if kind == p4r.Update.DELETE:
            self._delete_member(member_id)
            return
        if not member_id:
            raise invalid_argument("a member id is not 0")
        if not message.HasField("action"):
            raise invalid_argument(f"member {member_id} has no action")
        call = self._decode_call(message.action)
        if kind == p4r.Update.INSERT:
            if member is not None:
                raise already_exists(f"member {member_id} of {self.profile.name} is there already")
            self._members[member_id] = Member(call, self._create_copies(call, 1))
        else:
            if member is None:
                raise not_found(f"member {member_id} of {self.profile.name} does not exist")
            for handle in member.handles:
                self._pipeline.set_member(self.profile.name, handle, call.target)
            member.call = call

    def write_group(self, kind: int, message: p4r.ActionProfileGroup) -> None:
        """Insert, modify or delete a group."""
        if not self.profile.with_selector:
            raise invalid_argument(f"action profile {self.profile.name} has no selector, so no groups")
        group_id = message.group_id
        if kind == p4r.Update.DELETE:
            self._delete_group(group_id)
            return
        if not group_id:
            raise invalid_argument("a group id is not 0")
        group = self._groups.get(group_id)
        if kind == p4r.Update.INSERT:
            if group is not None:
                raise already_exists(f"group {group_id} of {self.profile.name} is there already")
            max_size = self._check_max_size(message.max_size)
            weights = self._check_weights(message, max_size)
            group = Group(self._group_handles.take(), max_size)
            try:
                self._apply_weights(group, weights)
            except BaseException:
                self._group_handles.give_back(group.handle)
                raise
            self._groups[group_id] = group
        else:
            if group is None:
                raise not_found(f"group {group_id} of {self.profile.name} does not exist")
            if message.max_size not in (0, group.max_size):
                raise invalid_argument(
                    f"group {group_id} was made for {group.max_size} members; that cannot be changed"
                )
            self._apply_weights(group, self._check_weights(message, group.max_size))

    def read_members(self, member_id: int) -> Iterator[p4r.ActionProfileMember]:
        """Yield the member of this id, or all for 0."""
        for key, member in _selected(self._members, member_id):
            message = p4r.ActionProfileMember(action_profile_id=self.profile.id, member_id=key)
            member.call.action.encode(member.call.arguments, message.action)
            yield message

    def read_groups(self, group_id: int) -> Iterator[p4r.ActionProfileGroup]:
        """Yield the group of this id, or all for 0."""
        for key, group in _selected(self._groups, group_id):
            message = p4r.ActionProfileGroup(
                action_profile_id=self.profile.id, group_id=key, max_size=group.max_size
            )
            for member_id, weight in sorted(group.weights.items()):
                message.members.add(member_id=member_id, weight=weight)
            yield message

    def resolve(self, message: p4r.TableAction) -> Indirect:
        """Return what a table entry's action refers to, which is kept from deletion until `release`.

        A one-shot action set gets a group of its own here.
        """
        kind = message.WhichOneof("type")
        if kind == "action_profile_member_id":
            if message.action_profile_member_id not in self._members:
                raise not_found(
                    f"member {message.action_profile_member_id} of {self.profile.name} does not exist"
                )
            return self._referred(MemberRef(message.action_profile_member_id))
        if kind == "action_profile_group_id":
            if message.action_profile_group_id not in self._groups:
                raise not_found(
                    f"group {message.action_profile_group_id} of {self.profile.name} does not exist"
                )
            return self._referred(GroupRef(message.action_profile_group_id))
        if kind == "action_profile_action_set":
            return self._create_one_shot(message.action_profile_action_set)
        raise invalid_argument(
            f"a table of action profile {self.profile.name} takes a member, a group or an action set"
        )

    def target(self, action: Indirect) -> TargetAction:
        """Return the data plane's name for what an entry refers to."""
        if isinstance(action, MemberRef):
            return MemberHandle(self._members[action.member_id].handles[0])
        if isinstance(action, GroupRef):
            return GroupHandle(self._groups[action.group_id].handle)
        return GroupHandle(action.group)

    def release(self, action: Indirect) -> None:
        """Note that a table entry refers to `action` no longer; drops the group of a one-shot."""
        if isinstance(action, OneShot):
            self._pipeline.delete_group(self.profile.name, action.group)
            self._group_handles.give_back(action.group)
            self._drop_copies(list(action.members))
        else:
            self._references[action] -= 1

    def _referred(self, action: MemberRef | GroupRef) -> MemberRef | GroupRef:
        self._references[action] += 1
        return action

    def _create_one_shot(self, message: p4r.ActionProfileActionSet) -> OneShot:
        if not self.profile.with_selector:
            raise invalid_argument(f"action profile {self.profile.name} has no selector, so no action sets")
        if message.action_selection_mode or message.size_semantics:
            raise unimplemented("selection modes and size semantics other than the default are not supported")
        weighted = []
        for item in message.action_profile_actions:
            _refuse_watch_port(item)
            _check_weight(item.weight)
            weighted.append((self._decode_call(item.action), item.weight))
        total = sum(weight for _, weight in weighted)
        if 0 < self.profile.max_group_size < total:
            raise invalid_argument(
                f"an action set of {self.profile.name} holds at most {self.profile.max_group_size}, "
                f"the weights add up to {total}"
            )
        self._check_room(total)
        members: list[int] = []
        group = self._group_handles.take()
        try:
            for call, weight in weighted:
                members += self._create_copies(call, weight)
            self._pipeline.set_group(self.profile.name, group, sorted(members))
        except BaseException:
            self._group_handles.give_back(group)
            self._drop_copies(members)
            raise
        return OneShot(tuple(weighted), group, tuple(members))

    def _delete_member(self, member_id: int) -> None:
        member = self._members.get(member_id)
        if member is None:
            raise not_found(f"member {member_id} of {self.profile.name} does not exist")
        users = [group_id for group_id, group in self._groups.items() if member_id in group.weights]
        if users:
            raise failed_precondition(f"member {member_id} is still in group {users[0]}")
        if self._references[MemberRef(member_id)]:
            raise failed_precondition(f"a table entry still refers to member {member_id}")
        del self._members[member_id]
        self._drop_copies(member.handles)

    def _delete_group(self, group_id: int) -> None:
        group = self._groups.get(group_id)
        if group is None:
            raise not_found(f"group {group_id} of {self.profile.name} does not exist")
        if self._references[GroupRef(group_id)]:
            raise failed_precondition(f"a table entry still refers to group {group_id}")
        del self._groups[group_id]
        self._pipeline.delete_group(self.profile.name, group.handle)
        self._group_handles.give_back(group.handle)
        members, group.weights = group.weights, {}
        for member_id in members:
            self._trim_copies(member_id, group)

    def _check_weights(self, message: p4r.ActionProfileGroup, max_size: int) -> dict[int, int]:
        weights: dict[int, int] = {}
        for item in message.members:
            _refuse_watch_port(item)
            _check_weight(item.weight)
            if item.member_id not in self._members:
                raise not_found(f"member {item.member_id} of {self.profile.name} does not exist")
            if item.member_id in weights:
                raise invalid_argument(f"member {item.member_id} is given twice: use weights instead")
            weights[item.member_id] = item.weight
        limit = max_size or self.profile.max_group_size
        total = sum(weights.values())
        if 0 < limit < total:
            raise resource_exhausted(
                f"group {message.group_id} holds at most {limit}, its weights add up to {total}"
            )
        self._check_room(
            sum(max(0, weight - len(self._members[key].handles)) for key, weight in weights.items())
        )
        return weights

    def _check_max_size(self, max_size: int) -> int:
        limit = self.profile.max_group_size
        if max_size < 0 or 0 < limit < max_size:
            raise invalid_argument(f"max_size {max_size} is not in 0..{limit or 'any'}")
        return max_size

    def _apply_weights(self, group: Group, weights: dict[int, int]) -> None:
        copies: list[int] = []
        before = group.weights
        try:
            for member_id, weight in sorted(weights.items()):
                member = self._members[member_id]
                member.handles += self._create_copies(member.call, weight - len(member.handles))
                copies += member.handles[:weight]
            self._pipeline.set_group(self.profile.name, group.handle, sorted(copies))
            group.weights = weights
        finally:
            for member_id in before.keys() | weights.keys():
                self._trim_copies(member_id, group)

    def _create_copies(self, call: ActionCall, count: int) -> list[int]:
        self._check_room(max(0, count))
        handles: list[int] = []
        try:
            for _ in range(count):
                handles.append(self._member_handles.take())
                self._pipeline.set_member(self.profile.name, handles[-1], call.target)
        except BaseException:
            self._member_handles.give_back(handles.pop())
            self._drop_copies(handles)
            raise
        return handles

    def _trim_copies(self, member_id: int, changed: Group) -> None:
        """Drop the copies of a member that no group needs any more; the first one stays."""
        member = self._members[member_id]
        groups = [changed, *self._groups.values()]
        needed = max([1, *(group.weights.get(member_id, 0) for group in groups)])
        surplus = member.handles[needed:]
        del member.handles[needed:]
        self._drop_copies(surplus)

    def _drop_copies(self, handles: list[int]) -> None:
        for handle in handles:
            self._pipeline.delete_member(self.profile.name, handle)
            self._member_handles.give_back(handle)

    def _check_room(self, count: int) -> None:
        used = self._member_handles.used
        if self.profile.size and used + count > self.profile.size:
            raise resource_exhausted(
                f"action profile {self.profile.name} is full: {used} of {self.profile.size} members in use"
            )

    def _decode_call(self, message: p4r.Action) -> ActionCall:
        action = self.profile.actions.get(message.action_id)
        if action is None:
            raise invalid_argument(
                f"action profile {self.profile.name} has no action with id {message.action_id}"
            )
        return ActionCall(action, action.decode(message))


def _selected(items: dict[int, ItemT], key: int) -> list[tuple[int, ItemT]]:
    if key:
        return [(key, items[key])] if key in items else []
    return list(items.items())


def _check_weight(weight: int) -> None:
    if weight <= 0:
        raise invalid_argument(f"a weight is above 0, {weight} was given")


def _refuse_watch_port(item: p4r.ActionProfileGroup.Member | p4r.ActionProfileAction) -> None:
    if item.WhichOneof("watch_kind"):
        raise unimplemented("watch ports are not supported")
