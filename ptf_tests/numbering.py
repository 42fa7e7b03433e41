"""The tests call a switch's ports 1, 2, 3 ...; a chip has numbers of its own for them.

Numbers of ports stand in table entries (match fields and parameters) and in the headers of packet I/O.
Which of them are such, their names in P4Info say.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finsy.proto import p4i, p4r

_FIELDS = {"ingress_port"}
_PARAMETERS = {"port"}
_METADATA = {"ingress_port", "egress_port"}


@dataclass(frozen=True)
class Numbering:
    """Where in a program's messages ports stand, and what their numbers are more than the tests' by."""

    offset: int = 0
    fields: frozenset[tuple[int, int]] = field(default=frozenset())
    """Table and match field."""
    parameters: frozenset[tuple[int, int]] = field(default=frozenset())
    """Action and parameter."""
    metadata: frozenset[int] = field(default=frozenset())

    @classmethod
    def of(cls, info: p4i.P4Info, offset: int) -> Numbering:
        """Return the numbering of a program whose ports are so much more than the tests'."""
        return cls(
            offset,
            frozenset(
                (table.preamble.id, key.id)
                for table in info.tables
                for key in table.match_fields
                if key.name in _FIELDS
            ),
            frozenset(
                (action.preamble.id, parameter.id)
                for action in info.actions
                for parameter in action.params
                if parameter.name in _PARAMETERS
            ),
            frozenset(
                part.id
                for header in info.controller_packet_metadata
                for part in header.metadata
                if part.name in _METADATA
            ),
        )

    def to_switch(self, message: p4r.Entity | p4r.PacketOut) -> None:
        """Change the tests' numbers in a message into the switch's."""
        self._shift(message, self.offset)

    def to_test(self, message: p4r.Entity | p4r.PacketIn) -> None:
        """Change the switch's numbers in a message into the tests'."""
        self._shift(message, -self.offset)

    def _shift(self, message: p4r.Entity | p4r.PacketIn | p4r.PacketOut, by: int) -> None:
        if not by:
            return
        if not isinstance(message, p4r.Entity):
            for part in message.metadata:
                if part.metadata_id in self.metadata:
                    part.value = _plus(part.value, by)
            return
        entry = message.table_entry
        if message.HasField("direct_counter_entry"):
            entry = message.direct_counter_entry.table_entry
        for match in entry.match:
            if (entry.table_id, match.field_id) in self.fields:
                match.exact.value = _plus(match.exact.value, by)
        action = entry.action.action
        for parameter in action.params:
            if (action.action_id, parameter.param_id) in self.parameters:
                parameter.value = _plus(parameter.value, by)


def _plus(value: bytes, by: int) -> bytes:
    number = int.from_bytes(value) + by
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8))
