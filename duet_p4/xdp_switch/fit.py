"""Whether a P4Info and a BMv2 JSON are of one program; a pipeline is refused before anything changes.

What p4c itself lets differ is taken: tables and actions that it optimized out of the JSON, tables of its own
in the JSON only, and fields whose P4Runtime type is translated, so that their widths differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finsy.proto import p4i

from duet_p4.xdp_switch.compiler import ir

_KINDS = {"exact": ("exact", "valid"), "optional": ("optional", "ternary")}
"""How p4c writes match kinds of the P4Info in the JSON, where it has other words for them."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """What of a P4Info the data plane tells: bits of match fields and parameters, headers, digests."""

    keys: dict[str, Sequence[int]]
    parameters: dict[str, Sequence[int]]
    packets: dict[str, Sequence[tuple[str, int]]]
    """Fields, with padding that the P4Info leaves out, of packet_in and packet_out."""
    digests: dict[int, str]
    """The P4Info's name of each of the pipeline config's digests."""


def check(info: p4i.P4Info, program: ir.Program) -> Fitting:
    """Return what a P4Info does not say: widths where types are translated, digests that have no name in P4.

    Raises ValueError, naming what differs, where `info` is not this program's.
    """
    actions = {action.preamble.id: action for action in info.actions}
    fitting = Fitting(
        {table.preamble.name: [field.bitwidth for field in table.match_fields] for table in info.tables},
        {action.preamble.name: [param.bitwidth for param in action.params] for action in info.actions},
        {h.preamble.name: _packet_layout(h, program) for h in info.controller_packet_metadata},
        _name_digests(info, program),
    )
    stated = program.tables()
    missing = []
    for table in info.tables:
        if table.preamble.name not in stated:
            missing.append(table.preamble.name)
            continue
        fitting.keys[table.preamble.name] = _check_key(table, stated[table.preamble.name])
        for reference in table.action_refs:
            action = actions[reference.id]
            fitting.parameters[action.preamble.name] = _check_action(
                action, stated[table.preamble.name], program
            )
    _check_missing(missing, {table.preamble.name for table in info.tables}, stated)
    _check_resources(info, program)
    return fitting


def _check_key(message: p4i.Table, table: ir.Table) -> Sequence[int]:
    name = table.name
    if len(message.match_fields) != len(table.keys):
        raise ValueError(
            f"the key of table {name} has {len(message.match_fields)} fields in the P4Info, "
            f"{len(table.keys)} in the pipeline config"
        )
    for field, key in zip(message.match_fields, table.keys, strict=True):
        # Keys of type error have no width in the P4Info.
        if not field.type_name.name and field.bitwidth not in (0, key.width):
            raise ValueError(
                f"field {field.name} of table {name} has {field.bitwidth} bits in the P4Info, "
                f"{key.width} in the pipeline config"
            )
        kind = p4i.MatchField.MatchType.Name(field.match_type).lower()
        if key.kind not in _KINDS.get(kind, (kind,)):
            raise ValueError(
                f"field {field.name} of table {name} is matched {kind} in the P4Info, "
                f"{key.kind} in the pipeline config"
            )
    return [key.width for key in table.keys]


def _check_action(message: p4i.Action, table: ir.Table, program: ir.Program) -> Sequence[int]:
    name = message.preamble.name
    # Actions that are also called directly have copies without parameters, which no table holds.
    same = [program.actions[number] for number in table.actions if program.actions[number].name == name]
    if not same:
        raise ValueError(
            f"table {table.name} has an action {name} in the P4Info, none in the pipeline config"
        )
    widths = [parameter.width for parameter in same[0].parameters]
    given = [param.bitwidth for param in message.params]
    translated = [bool(param.type_name.name) for param in message.params]
    if len(given) != len(widths) or any(
        not free and stated != width for stated, width, free in zip(given, widths, translated, strict=True)
    ):
        raise ValueError(
            f"the parameters of action {name} have {given} bits in the P4Info, "
            f"{widths} in the pipeline config"
        )
    return widths


def _packet_layout(message: p4i.ControllerPacketMetadata, program: ir.Program) -> Sequence[tuple[str, int]]:
    """Return the fields of the header that has all fields of a controller header, in order."""
    stated = [(item.name, item.bitwidth) for item in message.metadata]
    wanted = [name for name, _ in stated]
    layouts = {header.type.name: header.type for header in program.headers.values() if not header.metadata}
    fitting = [
        [(field.name, field.width) for field in layout.fields.values()]
        for layout in layouts.values()
        if [name for name in layout.fields if name in wanted] == wanted
    ]
    if not fitting:
        return stated
    # Others may have fields of the same names; what lacks least is meant.
    return min(fitting, key=len)


def _check_missing(missing: Sequence[str], known: set[str], stated: Mapping[str, ir.Table]) -> None:
    """Refuse a table by another name: one that only the P4Info has, where the JSON has one it lacks."""
    unknown = [
        table.name
        for table in stated.values()
        if table.keys and not table.entries and table.name not in known
    ]
    if missing and unknown:
        raise ValueError(
            f"the P4Info has a table {missing[0]}, the pipeline config has none, but a table {unknown[0]}"
        )


def _check_resources(info: p4i.P4Info, program: ir.Program) -> None:
    arrays = {name: array for name, array in program.counters.items() if array.table is None}
    _check_sizes("counter", info.counters, {name: array.size for name, array in arrays.items()})
    _check_sizes("register", info.registers, {name: r.size for name, r in program.registers.items()})
    for register in info.registers:
        spec = register.type_spec.bitstring
        width = spec.bit.bitwidth or spec.int.bitwidth
        if (
            register.type_spec.HasField("bitstring")
            and width != program.registers[register.preamble.name].width
        ):
            raise ValueError(
                f"register {register.preamble.name} has {width} bits in the P4Info, "
                f"{program.registers[register.preamble.name].width} in the pipeline config"
            )
    profiles = program.profiles()
    used = {table.implementation_id for table in info.tables if table.preamble.name in program.tables()}
    for profile in info.action_profiles:
        name = profile.preamble.name
        if profile.preamble.id in used and name not in profiles:
            raise ValueError(f"the P4Info has an action profile {name}, the pipeline config has none")
        if name in profiles and profile.with_selector != (profiles[name].algorithm is not None):
            raise ValueError(
                f"action profile {name} has a selector in only one of P4Info and pipeline config"
            )
    counted = {array.table for array in program.counters.values() if array.table is not None}
    by_id = {table.preamble.id: table.preamble.name for table in info.tables}
    for counter in info.direct_counters:
        table = by_id.get(counter.direct_table_id)
        if table in program.tables() and table not in counted:
            raise ValueError(f"table {table} has a direct counter in the P4Info, none in the pipeline config")
    indexed = {name: meter.size for name, meter in program.meters.items() if meter.table is None}
    _check_sizes("meter", info.meters, indexed)
    metered = {table.name for table in program.tables().values() if table.meter is not None}
    for meter in info.direct_meters:
        table = by_id.get(meter.direct_table_id)
        if table in program.tables() and table not in metered:
            raise ValueError(f"table {table} has a direct meter in the P4Info, none in the pipeline config")
    _check_value_sets(info, program)


def _check_value_sets(info: p4i.P4Info, program: ir.Program) -> None:
    fields = {
        transition.value_set: len(state.key)
        for state in program.parser.values()
        for transition in state.transitions
        if transition.value_set is not None
    }
    for message in info.value_sets:
        name, stated = message.preamble.name, len(message.match)
        if name not in program.value_sets:
            raise ValueError(f"the P4Info has a value set {name}, the pipeline config has none")
        if stated != fields.get(name, stated):
            raise ValueError(
                f"value set {name} has {stated} fields in the P4Info, {fields[name]} in the pipeline config"
            )


def _name_digests(info: p4i.P4Info, program: ir.Program) -> dict[int, str]:
    """Return the P4Info's name of each digest; p4c makes up two names for one of a tuple, in one order."""
    names = {number: digest.name for number, digest in program.digests.items()}
    stated = {message.preamble.name for message in info.digests}
    others = iter([number for number, name in sorted(names.items()) if name not in stated])
    for message in info.digests:
        name, spec = message.preamble.name, message.type_spec
        if name not in names.values():
            number = next(others, None) if spec.HasField("tuple") else None
            if number is None:
                raise ValueError(f"the P4Info has a digest {name}, the pipeline config has none")
            names[number] = name
        number = next(known for known, one in names.items() if one == name)
        fields = len(spec.tuple.members) if spec.HasField("tuple") else None
        if spec.HasField("struct") and spec.struct.name in info.type_info.structs:
            fields = len(info.type_info.structs[spec.struct.name].members)
        if fields not in (None, len(program.digests[number].values)):
            raise ValueError(
                f"digest {name} has {fields} fields in the P4Info, "
                f"{len(program.digests[number].values)} in the pipeline config"
            )
    return names


def _check_sizes(
    what: str, messages: Iterable[p4i.Counter | p4i.Register | p4i.Meter], sizes: Mapping[str, int]
) -> None:
    for message in messages:
        name = message.preamble.name
        if name not in sizes:
            raise ValueError(f"the P4Info has a {what} {name}, the pipeline config has none")
        if message.size != sizes[name]:
            raise ValueError(
                f"{what} {name} has {message.size} cells in the P4Info, {sizes[name]} in the pipeline config"
            )
