"""Parser value sets: which values the parser knows at the moment."""

from __future__ import annotations

from collections.abc import Iterator

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Pipeline
from duet_p4.xdp_switch.p4runtime.errors import already_exists, invalid_argument, resource_exhausted
from duet_p4.xdp_switch.p4runtime.p4info import Schema


class ValueSets:
    """The value sets of one pipeline; they are always there, empty at first."""

    def __init__(self, schema: Schema, pipeline: Pipeline) -> None:
        self._schema = schema
        self._pipeline = pipeline
        self._held = {number: p4r.ValueSetEntry(value_set_id=number) for number in schema.value_sets}

    def write(self, kind: int, message: p4r.ValueSetEntry) -> None:
        """Make the members of a set what the message says."""
        value_set = self._schema.value_sets.get(message.value_set_id)
        if value_set is None:
            raise invalid_argument(f"{message.value_set_id} is no value set of this P4 program")
        if kind != p4r.Update.MODIFY:
            raise invalid_argument(f"value set {value_set.name} is always there: only MODIFY is possible")
        if len(message.members) > value_set.size:
            raise resource_exhausted(
                f"value set {value_set.name} holds {value_set.size} members, not {len(message.members)}"
            )
        members: dict[tuple[int, ...], None] = {}
        for member in message.members:
            values = tuple(v for v in value_set.key.decode_match(member) if isinstance(v, int))
            if values in members:
                raise already_exists(f"value set {value_set.name} is to have a member twice")
            members[values] = None
        self._pipeline.value_sets[value_set.name].replace(list(members))
        self._held[value_set.id] = p4r.ValueSetEntry()
        self._held[value_set.id].CopyFrom(message)

    def read(self, query: p4r.ValueSetEntry) -> Iterator[p4r.ValueSetEntry]:
        """Return the set of this id, or all for 0, as they are now."""
        if not query.value_set_id:
            return iter(list(self._held.values()))
        if query.value_set_id not in self._held:
            raise invalid_argument(f"{query.value_set_id} is no value set of this P4 program")
        return iter([self._held[query.value_set_id]])
