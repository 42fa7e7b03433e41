"""P4Info, compiled for speed: every id resolves to an object that checks and decodes messages.

Match keys and action arguments become the tuples that `duet_p4.xdp_switch.dataplane` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finsy.proto import p4i

from duet_p4.xdp_switch.dataplane import Pipeline
from duet_p4.xdp_switch.p4runtime.errors import invalid_argument, unimplemented
from duet_p4.xdp_switch.p4runtime.fields import Field, MatchField, MatchKind
from duet_p4.xdp_switch.p4runtime.meters import MeterKind
from duet_p4.xdp_switch.p4runtime.p4data import DataType, data_type
from duet_p4.xdp_switch.p4runtime.table_info import Action, Table
from duet_p4.xdp_switch.p4runtime.translation import Translation, translations


@dataclass(frozen=True, slots=True)
class Counter:
    """An indexed counter array."""

    id: int
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Meter:
    """An indexed meter array."""

    id: int
    name: str
    size: int
    kind: MeterKind


@dataclass(frozen=True, slots=True)
class Register:
    """A register array."""

    id: int
    name: str
    size: int
    type: DataType


@dataclass(frozen=True, slots=True)
class Digest:
    """What the data plane tells of some packets."""

    id: int
    name: str
    type: DataType


@dataclass(frozen=True, slots=True)
class ValueSet:
    """A set of values that the parser asks; its members are keys like those of a table of exact fields."""

    id: int
    name: str
    size: int
    key: Table


@dataclass(frozen=True, slots=True)
class ActionProfile:
    """An action profile or selector shared by tables."""

    id: int
    name: str
    size: int
    max_group_size: int
    with_selector: bool
    sum_of_members: bool
    max_member_weight: int
    weights_disallowed: bool
    actions: dict[int, Action]


@dataclass(frozen=True, slots=True)
class PacketHeader:
    """A controller header, packet_in or packet_out."""

    name: str
    fields: tuple[Field, ...]
    padding: frozenset[int]
    """Ids of fields that carry nothing, which clients may leave out."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything a P4Info says that the server needs."""

    tables: dict[int, Table]
    actions: dict[int, Action]
    counters: dict[int, Counter]
    meters: dict[int, Meter]
    registers: dict[int, Register]
    digests: dict[int, Digest]
    value_sets: dict[int, ValueSet]
    action_profiles: dict[int, ActionProfile]
    types: dict[str, Translation]
    packet_in: PacketHeader | None
    packet_out: PacketHeader | None

    @classmethod
    def of(cls, info: p4i.P4Info) -> Schema:
        """Compile a P4Info.

        Raises INVALID_ARGUMENT where it contradicts itself, UNIMPLEMENTED where it holds what this
        switch cannot do.
        """
        for extern in info.externs:
            raise unimplemented(f"extern {extern.extern_type_name} is not supported")
        _check_ids(info)
        types = translations(info)
        actions = {
            a.preamble.id: Action(
                a.preamble.id,
                a.preamble.name,
                tuple(_field(p, f"{a.preamble.name}.{p.name}", types) for p in a.params),
            )
            for a in info.actions
        }
        tables = {t.preamble.id: _table(t, actions, info, types) for t in info.tables}
        headers = {
            h.preamble.name: PacketHeader(
                h.preamble.name,
                tuple(_field(m, f"{h.preamble.name}.{m.name}", types) for m in h.metadata),
                frozenset(m.id for m in h.metadata if m.name.startswith("_") or "@padding" in m.annotations),
            )
            for h in info.controller_packet_metadata
        }
        return cls(
            tables=tables,
            actions=actions,
            counters={c.preamble.id: Counter(c.preamble.id, c.preamble.name, c.size) for c in info.counters},
            meters={
                m.preamble.id: Meter(m.preamble.id, m.preamble.name, m.size, MeterKind(m.spec.type))
                for m in info.meters
            },
            registers={
                r.preamble.id: Register(
                    r.preamble.id,
                    r.preamble.name,
                    r.size,
                    data_type(r.type_spec, info, types, f"register {r.preamble.name}"),
                )
                for r in info.registers
            },
            digests={
                d.preamble.id: Digest(
                    d.preamble.id,
                    d.preamble.name,
                    data_type(d.type_spec, info, types, f"digest {d.preamble.name}"),
                )
                for d in info.digests
            },
            value_sets={v.preamble.id: _value_set(v, types) for v in info.value_sets},
            action_profiles={p.preamble.id: _action_profile(p, tables) for p in info.action_profiles},
            types=types,
            packet_in=headers.get("packet_in"),
            packet_out=headers.get("packet_out"),
        )

    def bind(self, pipeline: Pipeline) -> None:
        """Tell translated types how wide the data plane holds their values."""
        for table in self.tables.values():
            _narrow(table.fields, pipeline.key_widths(table.name))
        for action in self.actions.values():
            _narrow(action.params, pipeline.parameter_widths(action.name))
        for header in (self.packet_in, self.packet_out):
            if header is not None:
                widths = dict(pipeline.packet_layout(header.name))
                _narrow(header.fields, [widths[field.name] for field in header.fields])


def _narrow(fields: Iterable[Field], widths: Iterable[int]) -> None:
    for item, width in zip(fields, widths, strict=True):
        if item.translation is not None:
            item.translation.narrow(width)


def _field(message: Any, what: str, types: Mapping[str, Translation]) -> Field:
    return Field(message.id, message.name, message.bitwidth, _translation(message, what, types))


def _translation(message: Any, what: str, types: Mapping[str, Translation]) -> Translation | None:
    """Return how the values of a field, parameter or header field are named."""
    known = types.get(message.type_name.name)
    if known is not None or message.bitwidth > 0:
        return known
    # A type that P4Info has no width for, such as `error`: numbers as the data plane has them.
    return Translation(what, 0)


def _table(
    message: p4i.Table,
    actions: Mapping[int, Action],
    info: p4i.P4Info,
    types: Mapping[str, Translation],
) -> Table:
    name = message.preamble.name
    fields = tuple(_match_field(match, name, types) for match in message.match_fields)
    scopes = {ref.id: ref.scope for ref in message.action_refs}
    for action_id in scopes:
        if action_id not in actions:
            raise invalid_argument(f"P4Info: table {name} refers to action {action_id}, which is not there")
    resources = set(message.direct_resource_ids)
    meters = [meter for meter in info.direct_meters if meter.preamble.id in resources]
    return Table.of(
        id=message.preamble.id,
        name=name,
        size=message.size,
        fields=fields,
        actions={action_id: actions[action_id] for action_id in scopes},
        scopes=dict(scopes),
        const_default=bool(message.const_default_action_id),
        is_const=message.is_const_table,
        implementation=message.implementation_id,
        direct_counter=next((c.preamble.id for c in info.direct_counters if c.preamble.id in resources), 0),
        direct_meter=MeterKind(meters[0].spec.type) if meters else None,
        idle_timeout=message.idle_timeout_behavior == p4i.Table.NOTIFY_CONTROL,
    )


def _match_field(match: p4i.MatchField, owner: str, types: Mapping[str, Translation]) -> MatchField:
    what = f"{owner}.{match.name}"
    try:
        kind = MatchKind(match.match_type)
    except ValueError:
        shown = match.other_match_type or p4i.MatchField.MatchType.Name(match.match_type)
        raise unimplemented(f"match kind {shown} of {what} is not supported") from None
    translation = _translation(match, what, types)
    if translation is not None and kind not in (MatchKind.EXACT, MatchKind.OPTIONAL):
        if translation.sdn_width is None:
            raise unimplemented(f"{what}: a string cannot be matched {kind.name.lower()}")
        translation = None
    return MatchField(match.id, match.name, match.bitwidth, translation, kind)


def _value_set(message: p4i.ValueSet, types: Mapping[str, Translation]) -> ValueSet:
    name = message.preamble.name
    fields = tuple(_match_field(match, name, types) for match in message.match)
    for spec in fields:
        if spec.kind is not MatchKind.EXACT:
            raise unimplemented(f"value set {name} has a field that is not matched exactly")
    key = Table.of(
        id=message.preamble.id,
        name=name,
        size=message.size,
        fields=fields,
        actions={},
        scopes={},
        const_default=False,
        is_const=False,
        implementation=0,
        direct_counter=0,
        direct_meter=None,
        idle_timeout=False,
    )
    return ValueSet(message.preamble.id, name, message.size, key)


def _action_profile(message: p4i.ActionProfile, tables: Mapping[int, Table]) -> ActionProfile:
    name = message.preamble.name
    actions: dict[int, Action] = {}
    for table_id in message.table_ids:
        if table_id not in tables:
            raise invalid_argument(f"P4Info: {name} refers to table {table_id}, which is not there")
        table = tables[table_id]
        actions |= {
            action_id: action
            for action_id, action in table.actions.items()
            if table.scopes[action_id] != p4i.ActionRef.DEFAULT_ONLY
        }
    return ActionProfile(
        id=message.preamble.id,
        name=name,
        size=message.size,
        max_group_size=message.max_group_size,
        with_selector=message.with_selector,
        sum_of_members=message.HasField("sum_of_members"),
        max_member_weight=message.sum_of_members.max_member_weight,
        weights_disallowed=message.weights_disallowed,
        actions=actions,
    )


def _check_ids(info: p4i.P4Info) -> None:
    seen: set[int] = set()
    for number in _ids(info):
        if number in seen:
            raise invalid_argument(f"P4Info: id {number} is used twice")
        seen.add(number)


def _ids(info: p4i.P4Info) -> Iterator[int]:
    groups: list[Iterable[Any]] = [
        info.tables,
        info.actions,
        info.action_profiles,
        info.counters,
        info.direct_counters,
        info.meters,
        info.direct_meters,
        info.registers,
        info.digests,
        info.value_sets,
    ]
    for group in groups:
        for item in group:
            yield item.preamble.id


__all__ = [
    "Action",
    "ActionProfile",
    "Counter",
    "Digest",
    "Field",
    "MatchField",
    "MatchKind",
    "Meter",
    "PacketHeader",
    "Register",
    "Schema",
    "Table",
    "ValueSet",
]
