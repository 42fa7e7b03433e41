"""Parser value sets of a running program."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from duet_p4 import bpf
from duet_p4.xdp_switch.dataplane import NoRoomError


class ValueSet:
    """A set of keys that a parser state selects on; `members` is None where the program never asks it."""

    def __init__(self, name: str, size: int, members: bpf.Map | None) -> None:
        self._name = name
        self.size = size
        self._map = members
        self._held: set[tuple[int, ...]] = set()

    def replace(self, members: Sequence[tuple[int, ...]]) -> None:
        """Make these the members. Raises NoRoomError, ValueError for a wrong number of fields."""
        wanted = set(members)
        if len(wanted) > self.size:
            raise NoRoomError(f"value set {self._name} has room for {self.size} members")
        if self._map is not None:
            fields = self._map.key_size // 8
            for member in wanted:
                if len(member) != fields:
                    raise ValueError(f"a member of value set {self._name} has {fields} fields, not {member}")
            for member in self._held - wanted:
                self._map.delete(struct.pack(f"={fields}Q", *member))
            for member in wanted - self._held:
                self._map.update(struct.pack(f"={fields}Q", *member), (1).to_bytes(4, "little"))
        self._held = wanted
