"""Which names of translated types are in use: those that stand in anything that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from finsy.proto import p4r
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_ENGINE = p4r.PacketReplicationEngineEntry
EVERYTHING = (
    p4r.Entity(table_entry=p4r.TableEntry()),
    p4r.Entity(action_profile_member=p4r.ActionProfileMember()),
    p4r.Entity(action_profile_group=p4r.ActionProfileGroup()),
    p4r.Entity(register_entry=p4r.RegisterEntry()),
    p4r.Entity(value_set_entry=p4r.ValueSetEntry()),
    p4r.Entity(packet_replication_engine_entry=_ENGINE(multicast_group_entry=p4r.MulticastGroupEntry())),
    p4r.Entity(packet_replication_engine_entry=_ENGINE(clone_session_entry=p4r.CloneSessionEntry())),
)
"""Reads of all kinds of entities that hold names; default entries are one by one."""


def names_in(messages: Iterable[Message]) -> set[bytes]:
    """Return all bytestrings in messages: the names among them, and more."""
    found: set[bytes] = set()
    for message in messages:
        found.update(_bytes(message))
    return found


def _bytes(message: Message) -> Iterator[bytes]:
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in values:
                yield from _bytes(item)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            yield from values


def defaults(tables: Iterable[int]) -> Sequence[p4r.Entity]:
    """Return reads of the default entries of tables."""
    return [
        p4r.Entity(table_entry=p4r.TableEntry(table_id=number, is_default_action=True)) for number in tables
    ]
