"""What a role may write and read: the `@p4runtime_role("name")` annotations of a P4 program, as in PINS.

The default role may do everything. Where no table, profile or packet header is annotated, so may every
other role; where some are, a role may write and read those that carry its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from finsy.proto import p4i

_ANNOTATION = re.compile(r'@p4runtime_role\(\s*"([^"]*)"\s*\)')


class Roles:
    """The roles that a P4Info names, and what each may do."""

    def __init__(self, info: p4i.P4Info) -> None:
        self._owner: dict[int, str] = {}
        self._packets: dict[str, str] = {}
        for item in _items(info):
            for annotation in item.preamble.annotations:
                found = _ANNOTATION.match(annotation)
                if found is not None:
                    self._owner[item.preamble.id] = found[1]
                    self._packets[item.preamble.name] = found[1]
        for table in info.tables:
            owner = self._owner.get(table.preamble.id)
            if owner is not None:
                for number in (*table.direct_resource_ids, table.implementation_id):
                    if number:
                        self._owner.setdefault(number, owner)

    @property
    def names(self) -> frozenset[str]:
        """The roles that something is annotated for."""
        return frozenset(self._owner.values())

    def allows(self, role: str, number: int) -> bool:
        """Whether a role may write and read the object of this id; what has a negative one is all's."""
        return not role or not self._owner or number < 0 or self._owner.get(number) == role

    def may_receive(self, role: str) -> bool:
        """Whether packets are sent to the primary of a role."""
        return self._packets.get("packet_in", role) == role

    def may_send(self, role: str) -> bool:
        """Whether the primary of a role may send packets."""
        return not role or self._packets.get("packet_out", role) == role


def _items(info: p4i.P4Info) -> Iterator[Any]:
    groups: list[Iterable[Any]] = [
        info.tables,
        info.action_profiles,
        info.counters,
        info.direct_counters,
        info.meters,
        info.direct_meters,
        info.registers,
        info.digests,
        info.value_sets,
        info.controller_packet_metadata,
    ]
    for group in groups:
        yield from group
