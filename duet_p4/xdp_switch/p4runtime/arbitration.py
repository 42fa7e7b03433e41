"""Who may write: P4Runtime's client arbitration for one device, role by role.

Pure bookkeeping, no I/O: a caller passes in what a stream said and gets back who must be told
what (P4Runtime specification, "Client Arbitration and Controller Replication").
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from finsy.proto import U128, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime.errors import (
    failed_precondition,
    invalid_argument,
    not_found,
    permission_denied,
    resource_exhausted,
)

DEFAULT_ROLE = ""
MAX_STREAMS = 64
"""Controllers of one role."""

StreamT = TypeVar("StreamT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Notification(Generic[StreamT]):
    """A message that one stream is owed."""

    stream: StreamT
    message: p4r.MasterArbitrationUpdate


@dataclass(slots=True)
class _Role(Generic[StreamT]):
    """The streams of one role with their election ids, and the highest id ever seen."""

    streams: dict[StreamT, int | None] = field(default_factory=dict)
    highest: int | None = None

    @property
    def primary(self) -> StreamT | None:
        if self.highest is None:
            return None
        return next((stream for stream, owned in self.streams.items() if owned == self.highest), None)


class Arbitration(Generic[StreamT]):
    """The streams of one device, their roles and election ids.

    The primary of a role is the stream whose election id is the highest that the device has ever seen
    for the role. When it leaves, nobody is primary until some stream claims an id as high.
    """

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        self.declared: Collection[str] = ()
        """Roles that the P4 program names."""
        self._roles: dict[str, _Role[StreamT]] = {DEFAULT_ROLE: _Role()}
        self._role_of: dict[StreamT, str] = {}

    def primary(self, role: str = DEFAULT_ROLE) -> StreamT | None:
        """Return the stream that may write for a role, if there is one."""
        known = self._roles.get(role)
        return known.primary if known is not None else None

    def primaries(self) -> dict[str, StreamT]:
        """Return the primary of every role that has one."""
        return {name: role.primary for name, role in self._roles.items() if role.primary is not None}

    def role_of(self, stream: StreamT) -> str | None:
        """Return the role of a stream that has claimed one."""
        return self._role_of.get(stream)

    def update(self, stream: StreamT, message: p4r.MasterArbitrationUpdate) -> list[Notification[StreamT]]:
        """Enter a stream's claim and return who is to be notified, the new primary last.

        Raises NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT or RESOURCE_EXHAUSTED; the stream is
        then to be closed with that code.
        """
        known = self._role_of.get(stream)
        if message.device_id != self.device_id:
            text = f"device id {message.device_id} is not {self.device_id}"
            raise not_found(text) if known is None else failed_precondition(text)
        name = _role_name(message.role)
        if known not in (None, name):
            raise failed_precondition(f"this stream has role {known!r}: open another one for {name!r}")
        if message.role.HasField("config"):
            raise invalid_argument(
                f"a configuration of role {name!r} is not known: roles are what the P4 program annotates"
            )
        role = self._roles.get(name, _Role())
        if known is None and len(role.streams) >= MAX_STREAMS:
            raise resource_exhausted(f"{MAX_STREAMS} controllers of role {name!r} are connected already")
        election_id = U128.decode(message.election_id) if message.HasField("election_id") else None
        if election_id is not None:
            for other, owned in role.streams.items():
                if other != stream and owned == election_id:
                    raise invalid_argument(f"election id {election_id} is in use by another controller")

        before = role.primary
        self._roles[name] = role
        self._role_of[stream] = name
        role.streams[stream] = election_id
        if election_id is not None and (role.highest is None or election_id >= role.highest):
            role.highest = election_id
        after = role.primary
        if after == stream or before == stream:
            return self._notify_all(name)
        return [self.notification(stream)]

    def remove(self, stream: StreamT) -> list[Notification[StreamT]]:
        """Forget a stream that closed; the others of its role are told if it was the primary."""
        name = self._role_of.pop(stream, None)
        if name is None:
            return []
        role = self._roles[name]
        was_primary = stream == role.primary
        del role.streams[stream]
        return self._notify_all(name) if was_primary else []

    def check_write(self, device_id: int, role: str, role_id: int, election_id: int | None) -> None:
        """Raise NOT_FOUND or PERMISSION_DENIED unless this election id is that of the role's primary.

        Like BMv2, a request without an election id is let through while no controller is connected:
        that is how one-shot tools work.
        """
        if device_id != self.device_id:
            raise not_found(f"device id {device_id} is not {self.device_id}")
        name = self.check_role(role, role_id)
        known = self._roles.get(name, _Role())
        if not self._role_of and election_id is None:
            return
        if election_id is None or known.primary is None or election_id != known.highest:
            shown = "no election id" if election_id is None else f"election id {election_id}"
            raise permission_denied(f"{shown}: not the primary controller")

    def check_role(self, name: str, role_id: int = 0) -> str:
        """Return the name of a role; raises NOT_FOUND for one that nobody has named."""
        if role_id:
            raise not_found(f"role {role_id} is unknown: roles have names")
        if name not in self._roles and name not in self.declared:
            raise not_found(f"role {name!r} is unknown: no controller has claimed it")
        return name

    def notification(self, stream: StreamT) -> Notification[StreamT]:
        """Return what a stream is told of the primary of its role."""
        name = self._role_of[stream]
        role = self._roles[name]
        message = p4r.MasterArbitrationUpdate(device_id=self.device_id)
        if name:
            message.role.name = name
        if role.highest is not None:
            message.election_id.CopyFrom(U128.encode(role.highest))
        if role.primary is None:
            message.status.code, message.status.message = rpc_code.NOT_FOUND, "no primary"
        elif stream == role.primary:
            message.status.code, message.status.message = rpc_code.OK, "is primary"
        else:
            message.status.code, message.status.message = rpc_code.ALREADY_EXISTS, "is backup"
        return Notification(stream, message)

    def _notify_all(self, name: str) -> list[Notification[StreamT]]:
        role = self._roles[name]
        # The primary, whose status is 0, comes last.
        return [self.notification(stream) for stream in sorted(role.streams, key=lambda s: s == role.primary)]


def _role_name(role: p4r.Role) -> str:
    if role.id and not role.name:
        raise not_found(f"role {role.id} is unknown: roles have names")
    return role.name
