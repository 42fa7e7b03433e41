"""Random updates of a P4Info: small numbers, so that they meet, and at times one fault that is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finsy.proto import p4i, p4r, rpc_code

INSERT, MODIFY, DELETE = p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE
KINDS = (INSERT, MODIFY, DELETE)
Codes = frozenset[int]

INVALID = frozenset({rpc_code.INVALID_ARGUMENT})
RANGE = frozenset({rpc_code.OUT_OF_RANGE})
DENIED = frozenset({rpc_code.PERMISSION_DENIED})
UNKNOWN_ID = 0x00FF_FFFF


@dataclass(frozen=True, slots=True)
class Attempt:
    """An update, and the codes that its fault, if it has one, allows."""

    update: p4r.Update
    fault: str = ""
    codes: Codes = frozenset()


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to spoil a message; `spoil` says whether it could. `key`: also a DELETE sees it."""

    name: str
    codes: Codes
    spoil: Callable[[p4r.Entity, Generator], bool]
    key: bool = True


class Generator:
    """Makes updates of one P4Info."""

    def __init__(self, info: p4i.P4Info, rng: random.Random) -> None:
        self.info = info
        self.rng = rng
        self.actions = {action.preamble.id: action for action in info.actions}
        self.profiles = {profile.preamble.id: profile for profile in info.action_profiles}
        # A selector takes members and groups, or action sets; which of the two, it is offered mostly.
        self.one_shot = {profile.preamble.id: rng.random() < 0.5 for profile in info.action_profiles}
        self._makers = [maker for maker, there in self._choices() if there]

    def attempt(self) -> Attempt:
        """Return the next update."""
        kind = self.rng.choices(KINDS, (5, 2, 3))[0]
        entity = self.rng.choice(self._makers)()
        if entity.WhichOneof("entity") in ALWAYS_THERE:
            kind = self.rng.choices(KINDS, (1, 18, 1))[0]
        update = p4r.Update(entity=entity)
        update.type = kind  # type: ignore[assignment]
        if self.rng.random() < 0.25:
            fault = self.rng.choice([f for f in FAULTS if f.key or kind != DELETE])
            if fault.spoil(update.entity, self):
                return Attempt(update, fault.name, fault.codes)
        return Attempt(update)

    def _choices(self) -> list[tuple[Callable[[], p4r.Entity], bool]]:
        info = self.info
        tables = [table for table in info.tables if table.match_fields]
        selectors = [profile for profile in info.action_profiles if profile.with_selector]
        registers = [register for register in info.registers if _width(register)]
        return [
            *((lambda t=table: self.entry(t), True) for table in tables for _ in range(2)),
            (lambda: self.default(self.rng.choice(list(info.tables))), bool(info.tables)),
            (lambda: self.member(self.rng.choice(list(info.action_profiles))), bool(info.action_profiles)),
            (lambda: self.group(self.rng.choice(selectors)), bool(selectors)),
            (lambda: self.counter(self.rng.choice(list(info.counters))), bool(info.counters)),
            (lambda: self.register(self.rng.choice(registers)), bool(registers)),
            (lambda: self.meter(self.rng.choice(list(info.meters))), bool(info.meters)),
            (lambda: self.value_set(self.rng.choice(list(info.value_sets))), bool(info.value_sets)),
            (lambda: self.digest(self.rng.choice(list(info.digests))), bool(info.digests)),
            (self.multicast, True),
            (self.session, True),
        ]

    def value(self, width: int) -> bytes:
        """Return a number of so many bits, mostly a small one; a name where the type has no width."""
        if not width:
            return str(self.rng.randrange(4)).encode()
        number = self.rng.randrange(4) if self.rng.random() < 0.9 else self.rng.getrandbits(width)
        return canonical(number & (1 << width) - 1)

    def entry(self, table: p4i.Table) -> p4r.Entity:
        """Return an entry of a table."""
        entry = p4r.TableEntry(table_id=table.preamble.id)
        for field in table.match_fields:
            self._match(field, entry)
        if any(field.match_type in ORDERED for field in table.match_fields):
            entry.priority = self.rng.randint(1, 3)
        if self.rng.random() < 0.3:
            entry.metadata = self.rng.choice([b"a", b"bb"])
        if table.implementation_id:
            profile = self.profiles[table.implementation_id]
            often = 0.95 if self.one_shot[table.implementation_id] else 0.02
            if profile.with_selector and self.rng.random() < often:
                self._action_set(table, entry.action.action_profile_action_set)
            elif profile.with_selector and self.rng.random() < 0.5:
                entry.action.action_profile_group_id = self.rng.randint(1, 3)
            else:
                entry.action.action_profile_member_id = self.rng.randint(1, 6)
        else:
            self._action(self._allowed(table, p4i.ActionRef.DEFAULT_ONLY), entry.action.action)
        return p4r.Entity(table_entry=entry)

    def _action_set(self, table: p4i.Table, message: p4r.ActionProfileActionSet) -> None:
        for _ in range(self.rng.randint(1, 3)):
            action = message.action_profile_actions.add()
            action.weight = self.rng.randint(1, 2)
            self._action(self._allowed(table, p4i.ActionRef.DEFAULT_ONLY), action.action)

    def default(self, table: p4i.Table) -> p4r.Entity:
        """Return the default entry of a table, with an action or without."""
        entry = p4r.TableEntry(table_id=table.preamble.id, is_default_action=True)
        allowed = self._allowed(table, p4i.ActionRef.TABLE_ONLY)
        if allowed and not table.implementation_id and self.rng.random() < 0.7:
            self._action(allowed, entry.action.action)
        return p4r.Entity(table_entry=entry)

    def member(self, profile: p4i.ActionProfile) -> p4r.Entity:
        """Return a member of a profile."""
        member = p4r.ActionProfileMember(
            action_profile_id=profile.preamble.id, member_id=self.rng.randint(1, 6)
        )
        table = next(t for t in self.info.tables if t.preamble.id == profile.table_ids[0])
        self._action(self._allowed(table, p4i.ActionRef.DEFAULT_ONLY), member.action)
        return p4r.Entity(action_profile_member=member)

    def group(self, profile: p4i.ActionProfile) -> p4r.Entity:
        """Return a group of a selector, of a size that is always the same."""
        group = p4r.ActionProfileGroup(
            action_profile_id=profile.preamble.id,
            group_id=self.rng.randint(1, 3),
            max_size=profile.max_group_size,
        )
        for member in self.rng.sample(range(1, 7), self.rng.randint(0, 3)):
            group.members.add(member_id=member, weight=self.rng.randint(1, 2))
        return p4r.Entity(action_profile_group=group)

    def counter(self, counter: p4i.Counter) -> p4r.Entity:
        """Return a cell of a counter."""
        entry = p4r.CounterEntry(counter_id=counter.preamble.id)
        entry.index.index = self.rng.randrange(min(counter.size, 8))
        entry.data.packet_count = self.rng.randrange(100)
        return p4r.Entity(counter_entry=entry)

    def register(self, register: p4i.Register) -> p4r.Entity:
        """Return a cell of a register of numbers."""
        entry = p4r.RegisterEntry(register_id=register.preamble.id)
        entry.index.index = self.rng.randrange(min(register.size, 8))
        entry.data.bitstring = self.value(_width(register))
        return p4r.Entity(register_entry=entry)

    def meter(self, meter: p4i.Meter) -> p4r.Entity:
        """Return a cell of a meter, configured or not."""
        entry = p4r.MeterEntry(meter_id=meter.preamble.id)
        entry.index.index = self.rng.randrange(min(meter.size, 8))
        if self.rng.random() < 0.7:
            rate, burst = self.rng.randint(1, 1000), self.rng.randint(1, 1000)
            entry.config.cir = entry.config.pir = rate
            entry.config.cburst = entry.config.pburst = burst
        return p4r.Entity(meter_entry=entry)

    def value_set(self, value_set: p4i.ValueSet) -> p4r.Entity:
        """Return the members of a value set, all different."""
        entry = p4r.ValueSetEntry(value_set_id=value_set.preamble.id)
        for number in self.rng.sample(range(8), self.rng.randint(0, min(value_set.size, 4))):
            member = entry.members.add()
            for field in value_set.match:
                member.match.add(field_id=field.id).exact.value = canonical(number)
        return p4r.Entity(value_set_entry=entry)

    def digest(self, digest: p4i.Digest) -> p4r.Entity:
        """Return a configuration of a digest."""
        entry = p4r.DigestEntry(digest_id=digest.preamble.id)
        entry.config.max_list_size = self.rng.randrange(1, 5)
        return p4r.Entity(digest_entry=entry)

    def multicast(self) -> p4r.Entity:
        """Return a multicast group."""
        engine = p4r.PacketReplicationEngineEntry()
        engine.multicast_group_entry.multicast_group_id = self.rng.randint(1, 4)
        for instance in range(self.rng.randrange(3)):
            engine.multicast_group_entry.replicas.add(egress_port=self.rng.randrange(1, 5), instance=instance)
        return p4r.Entity(packet_replication_engine_entry=engine)

    def session(self) -> p4r.Entity:
        """Return a clone session."""
        engine = p4r.PacketReplicationEngineEntry()
        engine.clone_session_entry.session_id = self.rng.randint(1, 4)
        engine.clone_session_entry.packet_length_bytes = self.rng.choice([0, 64])
        engine.clone_session_entry.replicas.add(egress_port=self.rng.randrange(1, 5), instance=1)
        return p4r.Entity(packet_replication_engine_entry=engine)

    def _allowed(self, table: p4i.Table, but: int) -> list[p4i.Action]:
        return [self.actions[ref.id] for ref in table.action_refs if ref.scope != but]

    def _action(self, allowed: Sequence[p4i.Action], message: p4r.Action) -> None:
        action = self.rng.choice(list(allowed))
        message.action_id = action.preamble.id
        for param in action.params:
            message.params.add(param_id=param.id, value=self.value(param.bitwidth))

    def _match(self, field: p4i.MatchField, entry: p4r.TableEntry) -> None:
        kind, width = field.match_type, field.bitwidth
        if kind != p4i.MatchField.EXACT and self.rng.random() < 0.3:
            return
        item = entry.match.add(field_id=field.id)
        number = int.from_bytes(self.value(width or 8), "big")
        full = (1 << width) - 1
        if kind == p4i.MatchField.EXACT:
            item.exact.value = self.value(width)
        elif kind == p4i.MatchField.OPTIONAL:
            item.optional.value = self.value(width)
        elif kind == p4i.MatchField.LPM:
            length = self.rng.choice([1, width // 2 or 1, width])
            item.lpm.value = canonical(number >> (width - length) << (width - length))
            item.lpm.prefix_len = length
        elif kind == p4i.MatchField.TERNARY:
            mask = self.rng.choice([full, full >> 1 or 1, 1])
            item.ternary.value, item.ternary.mask = canonical(number & mask), canonical(mask)
        else:
            low = min(number, full - 1) if full else 0
            item.range.low, item.range.high = canonical(low), canonical(low)


ORDERED = (p4i.MatchField.TERNARY, p4i.MatchField.RANGE, p4i.MatchField.OPTIONAL)
ALWAYS_THERE = ("counter_entry", "register_entry", "meter_entry", "value_set_entry")
"""Kinds of which every entity is there from the start."""


def _width(register: p4i.Register) -> int:
    """Return the bits of a register's cells, 0 where they are no plain numbers."""
    return register.type_spec.bitstring.bit.bitwidth


def canonical(number: int) -> bytes:
    """Return the shortest bytes of a number."""
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def _entry_of(entity: p4r.Entity) -> p4r.TableEntry | None:
    entry = entity.table_entry
    return entry if entity.HasField("table_entry") and not entry.is_default_action else None


def _unknown_id(entity: p4r.Entity, _: Generator) -> bool:
    names = {
        "table_entry": "table_id",
        "action_profile_member": "action_profile_id",
        "action_profile_group": "action_profile_id",
        "counter_entry": "counter_id",
        "register_entry": "register_id",
        "meter_entry": "meter_id",
        "value_set_entry": "value_set_id",
        "digest_entry": "digest_id",
    }
    kind = entity.WhichOneof("entity") or ""
    if kind not in names:
        return False
    setattr(getattr(entity, kind), names[kind], UNKNOWN_ID)
    return True


def _unknown_field(entity: p4r.Entity, _: Generator) -> bool:
    entry = _entry_of(entity)
    if entry is None or not entry.match:
        return False
    entry.match[0].field_id = UNKNOWN_ID
    return True


def _field_twice(entity: p4r.Entity, _: Generator) -> bool:
    entry = _entry_of(entity)
    if entry is None or not entry.match:
        return False
    entry.match.append(entry.match[0])
    return True


def _wide_value(entity: p4r.Entity, generator: Generator) -> bool:
    entry = _entry_of(entity)
    table = _table(entry, generator)
    widths = {field.id: field.bitwidth for field in table.match_fields} if table else {}
    for item in entry.match if entry is not None else ():
        kind = item.WhichOneof("field_match_type")
        if kind in ("exact", "optional") and widths[item.field_id]:
            getattr(item, kind).value = canonical(1 << widths[item.field_id])
            return True
    return False


def _empty_value(entity: p4r.Entity, generator: Generator) -> bool:
    entry = _entry_of(entity)
    table = _table(entry, generator)
    widths = {field.id: field.bitwidth for field in table.match_fields} if table else {}
    for item in entry.match if entry is not None else ():
        if item.HasField("exact") and widths[item.field_id]:
            item.exact.value = b""
            return True
    return False


def _wrong_priority(entity: p4r.Entity, _: Generator) -> bool:
    entry = _entry_of(entity)
    if entry is None:
        return False
    entry.priority = 0 if entry.priority else 7
    return True


def _other_kind_of_match(entity: p4r.Entity, _: Generator) -> bool:
    entry = _entry_of(entity)
    if entry is None or not entry.match:
        return False
    item = entry.match[0]
    if item.HasField("exact"):
        item.lpm.value, item.lpm.prefix_len = b"\0", 1
    else:
        item.exact.value = b"\0"
    return True


def _const(entity: p4r.Entity, _: Generator) -> bool:
    entry = _entry_of(entity)
    if entry is None:
        return False
    entry.is_const = True
    return True


def _unknown_action(entity: p4r.Entity, _: Generator) -> bool:
    action = _action_of(entity)
    if action is None:
        return False
    action.action_id = UNKNOWN_ID
    return True


def _missing_parameter(entity: p4r.Entity, _: Generator) -> bool:
    action = _action_of(entity)
    if action is None or not action.params:
        return False
    del action.params[-1]
    return True


def _extra_parameter(entity: p4r.Entity, _: Generator) -> bool:
    action = _action_of(entity)
    if action is None:
        return False
    action.params.add(param_id=99, value=b"\1")
    return True


def _wide_parameter(entity: p4r.Entity, generator: Generator) -> bool:
    action = _action_of(entity)
    known = generator.actions.get(action.action_id) if action is not None else None
    if action is None or known is None:
        return False
    for given, param in zip(action.params, known.params, strict=True):
        if param.bitwidth:
            given.value = canonical(1 << param.bitwidth)
            return True
    return False


def _other_scope(entity: p4r.Entity, generator: Generator) -> bool:
    entry = _entry_of(entity)
    table = _table(entry, generator)
    if entry is None or table is None or not entry.action.HasField("action"):
        return False
    wrong = [ref.id for ref in table.action_refs if ref.scope == p4i.ActionRef.DEFAULT_ONLY]
    if not wrong:
        return False
    entry.action.action.ClearField("params")
    entry.action.action.action_id = wrong[0]
    for param in generator.actions[wrong[0]].params:
        entry.action.action.params.add(param_id=param.id, value=generator.value(param.bitwidth))
    return True


def _no_weight(entity: p4r.Entity, _: Generator) -> bool:
    group = entity.action_profile_group
    if not entity.HasField("action_profile_group") or not group.members:
        return False
    group.members[0].weight = 0
    return True


def _id_zero(entity: p4r.Entity, _: Generator) -> bool:
    if entity.HasField("action_profile_member"):
        entity.action_profile_member.member_id = 0
    elif entity.HasField("packet_replication_engine_entry"):
        engine = entity.packet_replication_engine_entry
        if engine.HasField("multicast_group_entry"):
            engine.multicast_group_entry.multicast_group_id = 0
        else:
            engine.clone_session_entry.session_id = 0
    else:
        return False
    return True


def _negative_index(entity: p4r.Entity, _: Generator) -> bool:
    return _index(entity, -1)


def _index_beyond(entity: p4r.Entity, _: Generator) -> bool:
    return _index(entity, 1 << 30)


def _index(entity: p4r.Entity, index: int) -> bool:
    for name in ("counter_entry", "meter_entry"):
        if entity.HasField(name):  # type: ignore[arg-type]
            getattr(entity, name).index.index = index
            return True
    return False


def _negative_rate(entity: p4r.Entity, _: Generator) -> bool:
    if not entity.HasField("meter_entry"):
        return False
    entity.meter_entry.config.cir = -1
    return True


def _replica_twice(entity: p4r.Entity, _: Generator) -> bool:
    group = entity.packet_replication_engine_entry.multicast_group_entry
    if not entity.HasField("packet_replication_engine_entry") or not group.replicas:
        return False
    group.replicas.append(group.replicas[0])
    return True


def _action_of(entity: p4r.Entity) -> p4r.Action | None:
    entry = _entry_of(entity)
    if entry is not None and entry.action.HasField("action"):
        return entry.action.action
    if entity.HasField("action_profile_member"):
        return entity.action_profile_member.action
    return None


def _table(entry: p4r.TableEntry | None, generator: Generator) -> p4i.Table | None:
    if entry is None:
        return None
    return next((t for t in generator.info.tables if t.preamble.id == entry.table_id), None)


EITHER = INVALID | RANGE
NOTHING_THERE = frozenset({rpc_code.NOT_FOUND})

FAULTS = (
    Fault("an unknown id", INVALID, _unknown_id),
    Fault("an unknown match field", INVALID, _unknown_field),
    Fault("a match field twice", INVALID, _field_twice),
    Fault("a match value too wide", RANGE, _wide_value),
    Fault("an empty match value", RANGE, _empty_value),
    Fault("a priority that does not belong there", INVALID, _wrong_priority),
    Fault("another kind of match", INVALID, _other_kind_of_match),
    Fault("is_const", INVALID, _const),
    Fault("an unknown action", INVALID, _unknown_action, key=False),
    Fault("a missing parameter", INVALID, _missing_parameter, key=False),
    Fault("a parameter too many", INVALID, _extra_parameter, key=False),
    Fault("a parameter too wide", RANGE, _wide_parameter, key=False),
    Fault("an action of another scope", DENIED, _other_scope, key=False),
    Fault("a weight of 0", INVALID, _no_weight, key=False),
    Fault("an id of 0", INVALID | NOTHING_THERE, _id_zero),
    Fault("a negative index", INVALID, _negative_index),
    Fault("an index beyond the end", EITHER, _index_beyond),
    Fault("a negative rate", INVALID, _negative_rate, key=False),
    Fault("a replica twice", INVALID, _replica_twice, key=False),
)
