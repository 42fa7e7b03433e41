"""Multicast groups and clone sessions: the packet replication engine.

A replica goes to the first of its port and its backup ports that is up; where none is, to its own port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from finsy.proto import p4r

from duet_p4.xdp_switch.dataplane import Pipeline, Replica
from duet_p4.xdp_switch.p4runtime.errors import (
    already_exists,
    invalid_argument,
    not_found,
    unimplemented,
)
from duet_p4.xdp_switch.p4runtime.translation import Translation, port_number

ENGINE_ID = -1
"""Stands for the engine where P4Info objects have their id."""
MAX_GROUP, MAX_SESSION, MAX_INSTANCE, MAX_PORT = 0xFFFF, 0x7FFF, 0xFFFF, 511

_Entry = p4r.PacketReplicationEngineEntry


@dataclass(frozen=True, slots=True)
class Copies:
    """A group or session as the client wrote it, and the places that each of its replicas may go to."""

    message: p4r.PacketReplicationEngineEntry
    choices: tuple[tuple[Replica, ...], ...]


class Replication:
    """The groups and sessions of one pipeline."""

    def __init__(
        self, pipeline: Pipeline, types: Mapping[str, Translation], ports: Mapping[int, bool]
    ) -> None:
        """`ports` says which ports there are, and which are up."""
        self._pipeline = pipeline
        self._types = types
        self._ports = ports
        self._groups: dict[int, Copies] = {}
        self._sessions: dict[int, Copies] = {}

    def write(self, kind: int, message: p4r.PacketReplicationEngineEntry) -> None:
        """Insert, modify or delete a group or session."""
        name = message.WhichOneof("type")
        if name == "multicast_group_entry":
            group = message.multicast_group_entry
            _check_number(group.multicast_group_id, MAX_GROUP, "multicast group")
            self._write(
                kind,
                message,
                self._groups,
                group.multicast_group_id,
                f"multicast group {group.multicast_group_id}",
                group.replicas,
            )
        elif name == "clone_session_entry":
            session = message.clone_session_entry
            _check_number(session.session_id, MAX_SESSION, "clone session")
            if kind != p4r.Update.DELETE:
                _check_session(session)
            self._write(
                kind,
                message,
                self._sessions,
                session.session_id,
                f"clone session {session.session_id}",
                session.replicas,
            )
        else:
            raise invalid_argument("the entry is neither a multicast group nor a clone session")

    def read(self, query: p4r.PacketReplicationEngineEntry) -> Iterator[p4r.PacketReplicationEngineEntry]:
        """Return the group or session of this number, or all for 0, as they are now."""
        name = query.WhichOneof("type")
        if name == "multicast_group_entry":
            held, number = self._groups, query.multicast_group_entry.multicast_group_id
        elif name == "clone_session_entry":
            held, number = self._sessions, query.clone_session_entry.session_id
        else:
            raise invalid_argument("the entry is neither a multicast group nor a clone session")
        if number:
            return iter([held[number].message] if number in held else [])
        return iter([copies.message for copies in held.values()])

    def ports_changed(self, ports: Mapping[int, bool]) -> None:
        """Let replicas with backups go where a port is up."""
        before, self._ports = self._ports, ports
        for held in (self._groups, self._sessions):
            for number, copies in held.items():
                watched = {port for choice in copies.choices if len(choice) > 1 for port, _ in choice}
                if any(before.get(port) != ports.get(port) for port in watched):
                    self._put(held, number, copies)

    def _write(
        self,
        kind: int,
        message: p4r.PacketReplicationEngineEntry,
        held: dict[int, Copies],
        number: int,
        what: str,
        replicas: Sequence[p4r.Replica],
    ) -> None:
        if kind == p4r.Update.INSERT and number in held:
            raise already_exists(f"{what} is there already")
        if kind != p4r.Update.INSERT and number not in held:
            raise not_found(f"{what} does not exist")
        if kind == p4r.Update.DELETE:
            remove: Callable[[int], None] = (
                self._pipeline.multicast.remove if held is self._groups else self._pipeline.clones.remove
            )
            remove(number)
            del held[number]
            return
        kept = _Entry()
        kept.CopyFrom(message)
        copies = Copies(kept, self._decode(replicas, what))
        self._put(held, number, copies)
        held[number] = copies

    def _put(self, held: dict[int, Copies], number: int, copies: Copies) -> None:
        places = [
            next((place for place in choice if self._ports.get(place[0])), choice[0])
            for choice in copies.choices
        ]
        if held is self._groups:
            self._pipeline.multicast.put(number, places)
        else:
            truncate = copies.message.clone_session_entry.packet_length_bytes
            self._pipeline.clones.put(number, places, truncate)

    def _decode(self, replicas: Sequence[p4r.Replica], what: str) -> tuple[tuple[Replica, ...], ...]:
        choices = []
        seen: set[Replica] = set()
        for replica in replicas:
            if replica.WhichOneof("port_kind") == "port":
                port = port_number(replica.port, self._types, f"a port of {what}")
            else:
                port = replica.egress_port
            choice = [(port, replica.instance)]
            for backup in replica.backup_replicas:
                number = port_number(backup.port, self._types, f"a backup port of {what}")
                choice.append((number, backup.instance))
            if len({number for number, _ in choice}) < len(choice):
                raise invalid_argument(f"{what}: a replica and its backups have one port twice")
            for place in choice:
                if not 0 <= place[0] <= MAX_PORT or place[1] > MAX_INSTANCE:
                    raise invalid_argument(
                        f"{what}: port {place[0]}, instance {place[1]} is beyond {MAX_PORT}, {MAX_INSTANCE}"
                    )
                if place in seen:
                    raise invalid_argument(f"{what} has port {place[0]}, instance {place[1]} twice")
                seen.add(place)
            choices.append(tuple(choice))
        return tuple(choices)


def _check_number(number: int, largest: int, what: str) -> None:
    if not 0 < number <= largest:
        raise invalid_argument(f"{what} {number} is not in 1..{largest}")


def _check_session(session: p4r.CloneSessionEntry) -> None:
    if session.packet_length_bytes < 0:
        raise invalid_argument(f"clones of {session.packet_length_bytes} bytes are not possible")
    if session.class_of_service:
        raise unimplemented(f"class of service {session.class_of_service}: there are no classes but 0")
