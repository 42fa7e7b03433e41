"""P4Data: what registers hold and digests say, of any type whose leaves are numbers.

(P4Runtime specification, "Representation of Arbitrary P4 Types".)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from finsy.proto import p4d, p4i, p4t

from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, invalid_argument, unimplemented
from duet_p4.xdp_switch.p4runtime.translation import Translation


@dataclass(frozen=True, slots=True)
class DataType:
    """A type as P4Info states it: `kind` is the field of P4Data that carries it."""

    kind: str
    width: int = 0
    signed: bool = False
    members: tuple[DataType, ...] = ()
    translation: Translation | None = None

    def encode(self, leaves: Iterator[int]) -> p4d.P4Data:
        """Return a value, taking its numbers from the data plane in order."""
        data = p4d.P4Data()
        if self.members:
            target = data.tuple if self.kind == "tuple" else data.struct
            for member in self.members:
                target.members.append(member.encode(leaves))
        elif self.kind == "bool":
            data.bool = bool(next(leaves))
        elif self.kind == "enum_value":
            data.enum_value = values.encode(next(leaves))
        elif self.translation is not None:
            data.bitstring = self.translation.encode(next(leaves))
        else:
            number = next(leaves)
            data.bitstring = (
                values.encode_signed(number, self.width) if self.signed else values.encode(number)
            )
        return data

    def decode(self, data: p4d.P4Data, what: str) -> int:
        """Return the number of a value of a type without members; raises INVALID_ARGUMENT, OUT_OF_RANGE."""
        if data.WhichOneof("data") != self.kind:
            given = data.WhichOneof("data") or "nothing"
            raise invalid_argument(f"{what} holds a {self.kind}, {given} was given")
        if self.kind == "bool":
            return int(data.bool)
        if self.kind == "enum_value":
            return values.decode(data.enum_value, self.width, what)
        if self.translation is not None:
            return self.translation.decode(data.bitstring, what)
        decode = values.decode_signed if self.signed else values.decode
        return decode(data.bitstring, self.width, what)


def data_type(
    spec: p4t.P4DataTypeSpec, info: p4i.P4Info, types: Mapping[str, Translation], what: str
) -> DataType:
    """Return the type of `what`; raises UNIMPLEMENTED for one with leaves that are no numbers."""
    kind = spec.WhichOneof("type_spec")
    known = info.type_info

    def members(specs: Sequence[p4t.P4DataTypeSpec]) -> tuple[DataType, ...]:
        return tuple(data_type(member, info, types, what) for member in specs)

    if kind == "bitstring":
        return _bitstring(spec.bitstring, what)
    if kind == "bool":
        return DataType("bool", 1)
    if kind == "tuple":
        return DataType("tuple", members=members(spec.tuple.members))
    if kind == "struct":
        described = known.structs[spec.struct.name]
        return DataType("struct", members=members([member.type_spec for member in described.members]))
    if kind == "serializable_enum":
        width = known.serializable_enums[spec.serializable_enum.name].underlying_type.bitwidth
        return DataType("enum_value", width)
    if kind == "new_type":
        name = spec.new_type.name
        if name in types:
            return DataType("bitstring", types[name].sdn_width or 0, translation=types[name])
        return data_type(known.new_types[name].original_type, info, types, what)
    raise _unsupported(kind, what)


def _bitstring(spec: p4t.P4BitstringLikeTypeSpec, what: str) -> DataType:
    kind = spec.WhichOneof("type_spec")
    if kind == "bit":
        return DataType("bitstring", spec.bit.bitwidth)
    if kind == "int":
        return DataType("bitstring", spec.int.bitwidth, signed=True)
    raise _unsupported(kind, what)


def _unsupported(kind: str | None, what: str) -> P4RuntimeError:
    return unimplemented(f"{what} holds a {kind or 'value of no type'}, which is not supported")
