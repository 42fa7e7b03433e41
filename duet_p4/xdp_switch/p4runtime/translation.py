"""Types whose values clients know by other names than the data plane: `@p4runtime_translation`.

A number that fits the data plane's width, written out for a type of strings, is itself; so port "1" is
port 1. Any other name gets a number of its own when it is first used, the highest that is free; once none is,
those of names that nothing uses any more are taken back. A P4 program may state some beforehand, as PINS
does, by `@p4runtime_translation_mappings({ {"", 0} })`.
(P4Runtime specification, "User-defined types" and "PSA Metadata Translation".)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from finsy.proto import p4i, rpc_code

from duet_p4.xdp_switch.p4runtime import values
from duet_p4.xdp_switch.p4runtime.errors import P4RuntimeError, out_of_range

CPU_PORT = b"\xff\xff\xff\xfd"
"""The CPU port's name where ports are numbers of 32 bits (specification, "Translation of Port Numbers")."""
DROP_PORT = 511
"""BMv2's, which no name may stand for; it is the highest number of its width."""
_PORT_TYPE = re.compile(r"port_?id(_[a-z0-9]+)?(_t)?$", re.IGNORECASE)
_MAPPING = re.compile(r'\{\s*(?:"([^"]*)"|(\d+))\s*,\s*(0[xX][0-9a-fA-F]+|\d+)\s*\}')


class NamesExhaustedError(P4RuntimeError):
    """RESOURCE_EXHAUSTED: every number of a translated type stands for a name."""

    def __init__(self, message: str) -> None:
        super().__init__(rpc_code.RESOURCE_EXHAUSTED, message)


class Translation:
    """One type: names, as bytes on the wire, to numbers and back.

    `sdn_width` is the width of a name that is a number, None for a string, 0 for the data plane's own.
    """

    def __init__(self, name: str, sdn_width: int | None, stated: Mapping[bytes, int] | None = None) -> None:
        self.name = name
        self.sdn_width = sdn_width
        self.width = 128
        """Bits of the data plane; see `narrow`."""
        self._stated = frozenset(stated or ())
        self._numbers = dict(stated or {})
        self._names = {number: name for name, number in self._numbers.items()}

    @property
    def is_port(self) -> bool:
        """Whether the type's name is that of a port's number."""
        return bool(_PORT_TYPE.search(self.name))

    def state(self, name: bytes, number: int) -> None:
        """Let a name stand for a number, unless either is taken."""
        if name not in self._numbers and number not in self._names:
            self._numbers[name], self._names[number] = number, name
            self._stated |= {name}

    def keep(self, used: Collection[bytes]) -> bool:
        """Forget the names that are not among `used`, but those stated; returns whether there were any."""
        idle = self._numbers.keys() - self._stated - set(used)
        for name in idle:
            del self._names[self._numbers.pop(name)]
        return bool(idle)

    def narrow(self, width: int) -> None:
        """Note that the data plane holds values of this type in `width` bits somewhere."""
        self.width = min(self.width, width)

    def decode(self, data: bytes, what: str) -> int:
        """Return the data plane's number for a name.

        Raises OUT_OF_RANGE, naming `what`, where it is no value of the type, NamesExhaustedError where every
        number stands for something.
        """
        if self.sdn_width == 0:
            return values.decode(data, self.width, what)
        if self.sdn_width is not None:
            data = values.encode(values.decode(data, self.sdn_width, what))
        number = self._numbers.get(data)
        if number is None:
            number = self._own_number(data)
            if number is None or number in self._names:
                number = self._free_number(what)
            self._numbers[data], self._names[number] = number, data
        return number

    def encode(self, number: int) -> bytes:
        """Return the name of a number; one that nobody named is written out."""
        name = self._names.get(number)
        if name is not None:
            return name
        return str(number).encode() if self.sdn_width is None else values.encode(number)

    def _own_number(self, data: bytes) -> int | None:
        """Return the number that a name says, where the data plane can hold it."""
        if self.sdn_width is not None:
            number = int.from_bytes(data, "big")
        elif data.isdigit() and (data == b"0" or not data.startswith(b"0")):
            number = int(data)
        else:
            return None
        return number if not number >> self.width else None

    def _free_number(self, what: str) -> int:
        number = (1 << self.width) - 1
        if self.width == DROP_PORT.bit_length():
            number -= 1
        while number in self._names:
            number -= 1
        if number < 0:
            raise NamesExhaustedError(f"{what}: all {1 << self.width} values of {self.name} are in use")
        return number


def translations(info: p4i.P4Info) -> dict[str, Translation]:
    """Return the translated types of a P4Info by name."""
    found = {}
    for name, spec in info.type_info.new_types.items():
        if spec.WhichOneof("representation") != "translated_type":
            continue
        stated: dict[bytes, int] = {}
        is_string = spec.translated_type.WhichOneof("sdn_type") == "sdn_string"
        for annotation in spec.annotations:
            if annotation.startswith("@p4runtime_translation_mappings"):
                for text, digits, number in _MAPPING.findall(annotation):
                    key = text.encode() if is_string else values.encode(int(digits or text or 0))
                    stated[key] = int(number, 0)
        width = None if is_string else spec.translated_type.sdn_bitwidth
        found[name] = Translation(name, width, stated)
    return found


def port_number(data: bytes, types: Mapping[str, Translation], what: str) -> int:
    """Return the number of a port that a client names; raises OUT_OF_RANGE."""
    for translation in types.values():
        if translation.is_port:
            return translation.decode(data, what)
    number = int.from_bytes(data, "big")
    if not data or number > DROP_PORT:
        raise out_of_range(f"{what}: 0x{data.hex()} is no port")
    return number
