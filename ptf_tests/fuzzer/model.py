"""What a P4Runtime switch holds, and how it may answer: facts about an update, and the codes they allow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from finsy.proto import p4i, p4r, rpc_code
from google.protobuf.message import Message

from ptf_tests.fuzzer.generate import ALWAYS_THERE, DELETE, INSERT, MODIFY, ORDERED, Attempt, Codes

Key = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that may be true of an update to a switch in some state, and the codes that it then gets."""

    name: str
    holds: Callable[[Model, p4r.Update], bool]
    codes: Codes
    certain: bool = True
    """Whether it must be refused; otherwise it may be."""


class Model:
    """The entities of a switch by what identifies them."""

    def __init__(self, info: p4i.P4Info, initial: Iterator[p4r.Entity]) -> None:
        """`initial` are the entities that a switch has once the pipeline was pushed."""
        self.tables = {table.preamble.id: table for table in info.tables}
        self.profiles = {profile.preamble.id: profile for profile in info.action_profiles}
        self.held: dict[Key, p4r.Entity] = {key_of(entity): entity for entity in initial}
        self._stated = dict(self.held)

    def facts(self, attempt: Attempt) -> list[Fact]:
        """Return all facts that hold for an update; the first of them that a switch sees decides."""
        if attempt.fault:
            spoiled = Fact(attempt.fault, lambda _, __: True, attempt.codes)
            return [spoiled, *self._known(attempt.update, spoiled=True)]
        return list(self._known(attempt.update, spoiled=False))

    def apply(self, update: p4r.Update) -> None:
        """Carry out an update that the switch took."""
        key = key_of(update.entity)
        if update.type == DELETE:
            self.held.pop(key, None)
            return
        entity = p4r.Entity()
        entity.CopyFrom(update.entity)
        if entity.table_entry.is_default_action and not entity.table_entry.HasField("action"):
            entity = self._stated[key]
        self.held[key] = entity

    def _known(self, update: p4r.Update, *, spoiled: bool) -> Iterator[Fact]:
        for fact in FACTS:
            try:
                if fact.holds(self, update):
                    yield fact
            except KeyError:
                # A faulty update may be about nothing that is known.
                assert spoiled

    def table(self, update: p4r.Update) -> p4i.Table | None:
        """Return the table that an update of a non-default entry is about."""
        entry = update.entity.table_entry
        if not update.entity.HasField("table_entry") or entry.is_default_action:
            return None
        return self.tables[entry.table_id]

    def entries(self, table_id: int) -> int:
        """Return how many entries a table has."""
        return sum(
            entity.table_entry.table_id == table_id and not entity.table_entry.is_default_action
            for entity in self.held.values()
            if entity.HasField("table_entry")
        )


def key_of(entity: p4r.Entity) -> Key:
    """Return what identifies an entity."""
    name = entity.WhichOneof("entity")
    message = getattr(entity, name or "table_entry")
    if isinstance(message, p4r.TableEntry):
        match = frozenset(item.SerializeToString(deterministic=True) for item in message.match)
        return (name, message.table_id, match, message.priority, message.is_default_action)
    if isinstance(message, p4r.PacketReplicationEngineEntry):
        if message.HasField("multicast_group_entry"):
            return (name, "group", message.multicast_group_entry.multicast_group_id)
        return (name, "session", message.clone_session_entry.session_id)
    return (name, *(_value(message, field) for field in _KEYS[name or ""]))


_KEYS = {
    "action_profile_member": ("action_profile_id", "member_id"),
    "action_profile_group": ("action_profile_id", "group_id"),
    "counter_entry": ("counter_id", "index"),
    "register_entry": ("register_id", "index"),
    "meter_entry": ("meter_id", "index"),
    "value_set_entry": ("value_set_id",),
    "digest_entry": ("digest_id",),
}


def _value(message: Message, field: str) -> Hashable:
    value = getattr(message, field)
    return int(value.index) if field == "index" else int(value)


def _is_there(model: Model, update: p4r.Update) -> bool:
    return key_of(update.entity) in model.held


def _always_there(update: p4r.Update) -> bool:
    return update.entity.WhichOneof("entity") in ALWAYS_THERE


def _is_default(update: p4r.Update) -> bool:
    return update.entity.table_entry.is_default_action


def _inserted_twice(model: Model, update: p4r.Update) -> bool:
    return update.type == INSERT and _is_there(model, update) and not _always_there(update)


def _not_there(model: Model, update: p4r.Update) -> bool:
    return update.type != INSERT and not _is_there(model, update)


def _neither_comes_nor_goes(_: Model, update: p4r.Update) -> bool:
    return update.type != MODIFY and (_always_there(update) or _is_default(update))


def _full(model: Model, update: p4r.Update) -> bool:
    table = model.table(update)
    return update.type == INSERT and table is not None and model.entries(table.preamble.id) >= table.size


def _many_masks(model: Model, update: p4r.Update) -> bool:
    table = model.table(update)
    if update.type != INSERT or table is None:
        return False
    mixed = len(table.match_fields) > 1 or table.match_fields[0].match_type in ORDERED
    return mixed and model.entries(table.preamble.id) > 16


def _const_table(model: Model, update: p4r.Update) -> bool:
    table = model.table(update)
    return table is not None and table.is_const_table


def _const_default(model: Model, update: p4r.Update) -> bool:
    return _is_default(update) and bool(
        model.tables[update.entity.table_entry.table_id].const_default_action_id
    )


def _indirect_default(model: Model, update: p4r.Update) -> bool:
    return _is_default(update) and bool(model.tables[update.entity.table_entry.table_id].implementation_id)


def _refers_to_nothing(model: Model, update: p4r.Update) -> bool:
    if update.type == DELETE:
        return False
    return any(key not in model.held for key in _references(model, update.entity))


def _in_use(model: Model, update: p4r.Update) -> bool:
    name = update.entity.WhichOneof("entity")
    if update.type != DELETE or name not in ("action_profile_member", "action_profile_group"):
        return False
    key = key_of(update.entity)
    return any(key in _references(model, entity) for entity in model.held.values())


def _references(model: Model, entity: p4r.Entity) -> list[Key]:
    """Return the keys of members and groups that an entity refers to."""
    if entity.HasField("action_profile_group"):
        group = entity.action_profile_group
        members = (item.member_id for item in group.members)
        return [("action_profile_member", group.action_profile_id, member) for member in members]
    if not entity.HasField("table_entry"):
        return []
    action = entity.table_entry.action
    profile = model.tables[entity.table_entry.table_id].implementation_id
    kind = action.WhichOneof("type")
    if kind == "action_profile_member_id":
        return [("action_profile_member", profile, action.action_profile_member_id)]
    if kind == "action_profile_group_id":
        return [("action_profile_group", profile, action.action_profile_group_id)]
    return []


def _style(model: Model, update: p4r.Update) -> tuple[int, bool] | None:
    """Return the selector that an update is about, if any, and whether it takes an action set."""
    entity = update.entity
    if update.type == DELETE:
        return None
    if entity.HasField("action_profile_member"):
        return entity.action_profile_member.action_profile_id, False
    if entity.HasField("action_profile_group"):
        return entity.action_profile_group.action_profile_id, False
    if not entity.HasField("table_entry"):
        return None
    profile = model.tables[entity.table_entry.table_id].implementation_id
    if not profile or entity.table_entry.is_default_action:
        return None
    return profile, entity.table_entry.action.HasField("action_profile_action_set")


def _two_styles(model: Model, update: p4r.Update) -> bool:
    style = _style(model, update)
    if style is None:
        return False
    profile, by_set = style
    if by_set:
        return any(key[:2] == ("action_profile_member", profile) for key in model.held)
    return any(
        entity.table_entry.action.HasField("action_profile_action_set")
        and model.tables[entity.table_entry.table_id].implementation_id == profile
        for entity in model.held.values()
        if entity.HasField("table_entry")
    )


def _makes_members(model: Model, update: p4r.Update) -> bool:
    style = _style(model, update)
    return style is not None and style[1]


def _too_large_a_set(model: Model, update: p4r.Update) -> bool:
    style = _style(model, update)
    if style is None or not style[1]:
        return False
    profile = model.profiles[style[0]]
    actions = update.entity.table_entry.action.action_profile_action_set.action_profile_actions
    members = profile.HasField("sum_of_members")
    size = len(actions) if members else sum(item.weight for item in actions)
    most = profile.sum_of_members.max_member_weight if members else 0
    return 0 < profile.max_group_size < size or any(0 < most < item.weight for item in actions)


def _too_large_a_group(model: Model, update: p4r.Update) -> bool:
    group = update.entity.action_profile_group
    if update.type == DELETE or not update.entity.HasField("action_profile_group"):
        return False
    limit = group.max_size or model.profiles[group.action_profile_id].size
    return sum(item.weight for item in group.members) > limit > 0


FACTS = (
    Fact("it is there already", _inserted_twice, frozenset({rpc_code.ALREADY_EXISTS})),
    Fact("it is not there", _not_there, frozenset({rpc_code.NOT_FOUND})),
    Fact("it neither comes nor goes", _neither_comes_nor_goes, frozenset({rpc_code.INVALID_ARGUMENT})),
    Fact("the table is full", _full, frozenset({rpc_code.RESOURCE_EXHAUSTED})),
    Fact(
        "the table may have no mask left",
        _many_masks,
        frozenset({rpc_code.RESOURCE_EXHAUSTED}),
        certain=False,
    ),
    Fact("the table is const", _const_table, frozenset({rpc_code.PERMISSION_DENIED})),
    Fact("the default action is const", _const_default, frozenset({rpc_code.PERMISSION_DENIED})),
    Fact(
        "the default entry is of an indirect table", _indirect_default, frozenset({rpc_code.INVALID_ARGUMENT})
    ),
    Fact("it refers to nothing", _refers_to_nothing, frozenset({rpc_code.NOT_FOUND})),
    Fact("something refers to it", _in_use, frozenset({rpc_code.FAILED_PRECONDITION})),
    Fact("a selector has members or action sets", _two_styles, frozenset({rpc_code.INVALID_ARGUMENT})),
    Fact("the action set is too large", _too_large_a_set, frozenset({rpc_code.INVALID_ARGUMENT})),
    Fact(
        "the profile may have no room",
        _makes_members,
        frozenset({rpc_code.RESOURCE_EXHAUSTED}),
        certain=False,
    ),
    Fact("the group is too large", _too_large_a_group, frozenset({rpc_code.RESOURCE_EXHAUSTED})),
)
