"""Action profiles: members, groups, and one-shot action sets of tables with selectors.

The data plane knows a member and a group by a handle, and of a group the members by slot: one of weight w
stands w times in it. A member is left out while its watch port is down; a group of none but such misses.
"""

from __future__ import annotations

import heapq
from collections import Counter as Multiset
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple, TypeVar

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
from duet_p4.xdp_switch.p4runtime.translation import Translation, port_number

MAX_SLOTS = 1 << 16
"""Places of a group: its weights, divided by what divides them all, add up to no more."""

ItemT = TypeVar("ItemT")
Weighted = p4r.ActionProfileGroup.Member | p4r.ActionProfileAction


class ActionCall(NamedTuple):
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
    """An action set given in place, as the client gave it, and the handle of the group made for it."""

    message: p4r.ActionProfileActionSet
    group: int

    def fill(self, message: p4r.TableAction) -> None:
        """Write it into a table entry's action."""
        message.action_profile_action_set.CopyFrom(self.message)


Indirect = MemberRef | GroupRef | OneShot


class Handles:
    """Numbers from 0 up, the lowest free one first."""

    def __init__(self) -> None:
        self._freed: list[int] = []
        self._next = 0

    def take(self) -> int:
        """Take the lowest free number."""
        if self._freed:
            return heapq.heappop(self._freed)
        self._next += 1
        return self._next - 1

    def give_back(self, handle: int) -> None:
        """Make a number free again."""
        heapq.heappush(self._freed, handle)


@dataclass(frozen=True, slots=True)
class Share:
    """A member's part of a group: its weight, and the port that it depends on, None for none."""

    handle: int
    weight: int
    watch_port: int | None


@dataclass(frozen=True, slots=True)
class Member:
    """What a member does."""

    handle: int
    call: ActionCall


@dataclass(frozen=True, slots=True)
class Group:
    """A group as the client gave it, and the ids of its members."""

    handle: int
    message: p4r.ActionProfileGroup
    members: frozenset[int]


class ActionProfileState:
    """The members and groups of one action profile or selector."""

    def __init__(
        self,
        profile: ActionProfile,
        pipeline: Pipeline,
        ports: Mapping[int, bool],
        types: Mapping[str, Translation],
    ) -> None:
        """`ports` says which ports there are, and which are up."""
        self._types = types
        self.profile = profile
        self._pipeline = pipeline
        self._ports = ports
        self._members: dict[int, Member] = {}
        self._groups: dict[int, Group] = {}
        self._one_shots = 0
        self._shares: dict[int, tuple[Share, ...]] = {}
        self._member_handles = Handles()
        self._group_handles = Handles()
        self._members_used = 0
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
        self._check_style(one_shot=False)
        if not message.HasField("action"):
            raise invalid_argument(f"member {member_id} has no action")
        call = self._decode_call(message.action)
        if kind == p4r.Update.INSERT:
            if member is not None:
                raise already_exists(f"member {member_id} of {self.profile.name} is there already")
            self._members[member_id] = Member(self._create_member(call), call)
        else:
            if member is None:
                raise not_found(f"member {member_id} of {self.profile.name} does not exist")
            self._pipeline.set_member(self.profile.name, member.handle, call.target)
            self._members[member_id] = Member(member.handle, call)

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
        self._check_style(one_shot=False)
        group = self._groups.get(group_id)
        if kind == p4r.Update.INSERT:
            if group is not None:
                raise already_exists(f"group {group_id} of {self.profile.name} is there already")
            self._check_max_size(message.max_size)
            shares = self._decode_group(message, message.max_size)
            handle = self._create_group(shares)
        else:
            if group is None:
                raise not_found(f"group {group_id} of {self.profile.name} does not exist")
            if message.max_size != group.message.max_size:
                raise invalid_argument(
                    f"group {group_id} was made for {group.message.max_size} members; that cannot be changed"
                )
            handle = group.handle
            self._set_group(handle, self._decode_group(message, message.max_size))
        kept = p4r.ActionProfileGroup()
        kept.CopyFrom(message)
        self._groups[group_id] = Group(handle, kept, frozenset(item.member_id for item in message.members))

    def read_members(self, member_id: int) -> Iterator[p4r.ActionProfileMember]:
        """Return the member of this id, or all for 0, as they are now."""
        return self._encode_members(_selected(self._members, member_id))

    def read_groups(self, group_id: int) -> Iterator[p4r.ActionProfileGroup]:
        """Return the group of this id, or all for 0, as they are now."""
        return iter([group.message for _, group in _selected(self._groups, group_id)])

    def ports_changed(self, ports: Mapping[int, bool]) -> None:
        """Put members whose watch port came up into their groups, and take the others out."""
        before, self._ports = self._ports, ports
        for handle, shares in self._shares.items():
            watched = {share.watch_port for share in shares} - {None}
            if any(before.get(port) != ports.get(port) for port in watched if port is not None):
                self._set_group(handle, shares)

    def resolve(self, message: p4r.TableAction) -> Indirect:
        """Return what a table entry's action refers to, which is kept from deletion until `release`.

        A one-shot action set gets a group of its own here.
        """
        kind = message.WhichOneof("type")
        if kind == "action_profile_member_id":
            self._check_style(one_shot=False)
            if message.action_profile_member_id not in self._members:
                raise not_found(
                    f"member {message.action_profile_member_id} of {self.profile.name} does not exist"
                )
            return self._referred(MemberRef(message.action_profile_member_id))
        if kind == "action_profile_group_id":
            self._check_style(one_shot=False)
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
            return MemberHandle(self._members[action.member_id].handle)
        if isinstance(action, GroupRef):
            return GroupHandle(self._groups[action.group_id].handle)
        return GroupHandle(action.group)

    def release(self, action: Indirect) -> None:
        """Note that a table entry refers to `action` no longer; drops the group of a one-shot."""
        if isinstance(action, OneShot):
            shares = self._shares[action.group]
            self._drop_group(action.group)
            self._drop_members([share.handle for share in shares])
            self._one_shots -= 1
        else:
            self._references[action] -= 1

    def _referred(self, action: MemberRef | GroupRef) -> MemberRef | GroupRef:
        self._references[action] += 1
        return action

    def _check_style(self, *, one_shot: bool) -> None:
        """Raise where a selector would be programmed by members and by action sets at the same time."""
        name = self.profile.name
        if one_shot and self._members:
            raise invalid_argument(f"selector {name} has members: it takes no action sets beside them")
        if not one_shot and self._one_shots:
            raise invalid_argument(
                f"selector {name} has action sets: it takes no members and groups beside them"
            )

    def _create_one_shot(self, message: p4r.ActionProfileActionSet) -> OneShot:
        profile = self.profile
        if not profile.with_selector:
            raise invalid_argument(f"action profile {profile.name} has no selector, so no action sets")
        self._check_style(one_shot=True)
        self._check_modes(message)
        calls = []
        for item in message.action_profile_actions:
            calls.append((self._decode_call(item.action), self._weight(item), self._watch_port(item)))
        size = len(calls) if profile.sum_of_members else sum(weight for _, weight, _ in calls)
        if 0 < profile.max_group_size < size:
            raise invalid_argument(
                f"an action set of {profile.name} holds at most {profile.max_group_size}, not {size}"
            )
        handles: list[int] = []
        try:
            for call, _, _ in calls:
                handles.append(self._create_member(call))
            shares = [
                Share(handle, weight, port) for handle, (_, weight, port) in zip(handles, calls, strict=True)
            ]
            group = self._create_group(shares)
        except BaseException:
            self._drop_members(handles)
            raise
        self._one_shots += 1
        kept = p4r.ActionProfileActionSet()
        kept.CopyFrom(message)
        return OneShot(kept, group)

    def _check_modes(self, message: p4r.ActionProfileActionSet) -> None:
        """Raise where an action set asks for other hashing or sizes than the selector's own."""
        kinds = p4r.ActionProfileActionSet
        modes = kinds.ActionSelectionMode
        if message.action_selection_mode not in (
            modes.Value("DEFAULT_MODE_DETERMINED_BY_ACTION_SELECTOR"),
            modes.Value("HASH"),
        ):
            raise unimplemented(f"selector {self.profile.name} selects by hash only")
        sizes = kinds.SizeSemantics
        own = "SUM_OF_MEMBERS" if self.profile.sum_of_members else "SUM_OF_WEIGHTS"
        if message.size_semantics not in (
            sizes.Value("DEFAULT_SIZE_DETERMINED_BY_ACTION_SELECTOR"),
            sizes.Value(own),
        ):
            raise unimplemented(f"selector {self.profile.name} counts {own} only")

    def _decode_group(self, message: p4r.ActionProfileGroup, max_size: int) -> list[Share]:
        shares: dict[int, Share] = {}
        for item in message.members:
            weight, port = self._weight(item), self._watch_port(item)
            member = self._members.get(item.member_id)
            if member is None:
                raise not_found(f"member {item.member_id} of {self.profile.name} does not exist")
            if item.member_id in shares:
                raise invalid_argument(f"member {item.member_id} is given twice: use weights instead")
            shares[item.member_id] = Share(member.handle, weight, port)
        size = len(shares) if self.profile.sum_of_members else sum(s.weight for s in shares.values())
        limit = max_size or self.profile.max_group_size or self.profile.size
        if 0 < limit < size:
            raise resource_exhausted(f"group {message.group_id} holds at most {limit}, not {size}")
        return list(shares.values())

    def _weight(self, item: Weighted) -> int:
        profile = self.profile
        if profile.weights_disallowed:
            if item.weight:
                raise invalid_argument(f"selector {profile.name} has no weights, {item.weight} was given")
            return 1
        if item.weight <= 0:
            raise invalid_argument(f"a weight is above 0, {item.weight} was given")
        if 0 < profile.max_member_weight < item.weight:
            raise invalid_argument(
                f"a weight of {profile.name} is at most {profile.max_member_weight}, {item.weight} was given"
            )
        return item.weight

    def _watch_port(self, item: Weighted) -> int | None:
        kind = item.WhichOneof("watch_kind")
        if kind is None or (kind == "watch_port" and not item.watch_port):
            return None
        port = item.watch if kind == "watch" else port_number(item.watch_port, self._types, "a watch port")
        if port not in self._ports:
            raise invalid_argument(f"watch port {port} is no port of this switch")
        return port

    def _check_max_size(self, max_size: int) -> None:
        limit, size = self.profile.max_group_size, self.profile.size
        if max_size < 0 or (limit and not 0 < max_size <= limit):
            raise invalid_argument(f"max_size {max_size} is not in {'1' if limit else '0'}..{limit or 'any'}")
        if 0 < size < max_size:
            raise resource_exhausted(f"max_size {max_size}: {self.profile.name} has room for {size}")

    def _create_member(self, call: ActionCall) -> int:
        size = self.profile.size
        if 0 < size <= self._members_used:
            raise resource_exhausted(f"action profile {self.profile.name} is full: it holds {size} members")
        handle = self._member_handles.take()
        try:
            self._pipeline.set_member(self.profile.name, handle, call.target)
        except BaseException:
            self._member_handles.give_back(handle)
            raise
        self._members_used += 1
        return handle

    def _drop_members(self, handles: Sequence[int]) -> None:
        for handle in handles:
            self._pipeline.delete_member(self.profile.name, handle)
            self._member_handles.give_back(handle)
            self._members_used -= 1

    def _create_group(self, shares: Sequence[Share]) -> int:
        handle = self._group_handles.take()
        try:
            self._set_group(handle, shares)
        except BaseException:
            self._group_handles.give_back(handle)
            raise
        return handle

    def _set_group(self, handle: int, shares: Sequence[Share]) -> None:
        alive = [s for s in shares if s.watch_port is None or self._ports.get(s.watch_port)]
        unit = gcd(*(share.weight for share in alive)) or 1
        if sum(share.weight for share in alive) // unit > MAX_SLOTS:
            raise resource_exhausted(f"weights of {self.profile.name} need more than {MAX_SLOTS} slots")
        alive.sort(key=lambda share: share.handle)
        # Each member once, then the rest of their weights: with weights of 1 it is BMv2's order.
        slots = [share.handle for share in alive]
        slots += [share.handle for share in alive for _ in range(share.weight // unit - 1)]
        self._pipeline.set_group(self.profile.name, handle, slots)
        self._shares[handle] = tuple(shares)

    def _drop_group(self, handle: int) -> None:
        self._pipeline.delete_group(self.profile.name, handle)
        del self._shares[handle]
        self._group_handles.give_back(handle)

    def _delete_member(self, member_id: int) -> None:
        member = self._members.get(member_id)
        if member is None:
            raise not_found(f"member {member_id} of {self.profile.name} does not exist")
        users = [group_id for group_id, group in self._groups.items() if member_id in group.members]
        if users:
            raise failed_precondition(f"member {member_id} is still in group {users[0]}")
        if self._references[MemberRef(member_id)]:
            raise failed_precondition(f"a table entry still refers to member {member_id}")
        del self._members[member_id]
        self._drop_members([member.handle])

    def _delete_group(self, group_id: int) -> None:
        group = self._groups.get(group_id)
        if group is None:
            raise not_found(f"group {group_id} of {self.profile.name} does not exist")
        if self._references[GroupRef(group_id)]:
            raise failed_precondition(f"a table entry still refers to group {group_id}")
        del self._groups[group_id]
        self._drop_group(group.handle)

    def _decode_call(self, message: p4r.Action) -> ActionCall:
        action = self.profile.actions.get(message.action_id)
        if action is None:
            raise invalid_argument(
                f"action profile {self.profile.name} has no action with id {message.action_id}"
            )
        return ActionCall(action, action.decode(message))

    def _encode_members(self, members: Sequence[tuple[int, Member]]) -> Iterator[p4r.ActionProfileMember]:
        for key, member in members:
            message = p4r.ActionProfileMember(action_profile_id=self.profile.id, member_id=key)
            member.call.action.encode(member.call.arguments, message.action)
            yield message


def _selected(items: Mapping[int, ItemT], key: int) -> list[tuple[int, ItemT]]:
    if key:
        return [(key, items[key])] if key in items else []
    return list(items.items())
