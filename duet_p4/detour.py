"""A detour: the Writes that lead around a port that dies, given to the switch before it does.

P4Runtime leaves what is a target's own to extern entries. Here `extern_type_id` is `DETOUR`, `extern_id` the
port, and `entry` a `p4.v1.WriteRequest` of table entries to modify and delete. A switch that takes it carries
the updates out by itself once the port can send nothing; to its clients the tables stay as they were, and
whoever controls it then makes the same change by a Write. A Write of one of these very entries takes the
detour away; one of others leaves it, and some milliseconds later it leads as it did.
"""

from __future__ import annotations

from collections.abc import Iterable

from finsy.proto import p4r

DETOUR = 0x81_00D0E7
"""The type of the extern: the P4Runtime specification has 0x81 for those of other architectures."""


def entity(port: int, updates: Iterable[p4r.Update]) -> p4r.Entity:
    """Return the entity to write; without updates, the port's detour is forgotten."""
    entry = p4r.ExternEntry(extern_type_id=DETOUR, extern_id=port)
    entry.entry.Pack(p4r.WriteRequest(updates=updates))
    return p4r.Entity(extern_entry=entry)
