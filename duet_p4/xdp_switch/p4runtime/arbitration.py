"""Who may write: P4Runtime's client arbitration for one device and the default role.

Pure bookkeeping, no I/O: a caller passes in what a stream said and gets back who must be told
what (P4Runtime specification, "Client Arbitration and Controller Replication").
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from finsy.proto import U128, p4r, rpc_code

from duet_p4.xdp_switch.p4runtime.errors import (
    failed_precondition,
    invalid_argument,
    not_found,
    permission_denied,
    resource_exhausted,
)

MAX_STREAMS = 64

StreamT = TypeVar("StreamT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Notification(Generic[StreamT]):
    """A message that one stream is owed."""

    stream: StreamT
    message: p4r.MasterArbitrationUpdate


class Arbitration(Generic[StreamT]):
    """The streams of one device and their election ids.

    The primary is the stream whose election id is the highest that the device has ever seen. When
    it leaves, nobody is primary until some stream claims an id as high.
    """

    def __init__(self, device_id: int) -> None:
        self.device_id = device_id
        self._streams: dict[StreamT, int | None] = {}
        self._highest: int | None = None

    @property
    def primary(self) -> StreamT | None:
        """The stream that may write and sees packets, if there is one."""
        if self._highest is None:
            return None
        return next((stream for stream, owned in self._streams.items() if owned == self._highest), None)

    def update(self, stream: StreamT, message: p4r.MasterArbitrationUpdate) -> list[Notification[StreamT]]:
        """Enter a stream's claim and return who is to be notified, the new primary last.

        Raises NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT or RESOURCE_EXHAUSTED; the stream is
        then to be closed with that code.
        """
        known = stream in self._streams
        if message.device_id != self.device_id:
            text = f"device id {message.device_id} is not {self.device_id}"
            raise failed_precondition(text) if known else not_found(text)
        check_role(message.role.name, message.role.id)
        if message.role.HasField("config"):
            raise invalid_argument("a role configuration is not supported: the default role may do all")
        if not known and len(self._streams) >= MAX_STREAMS:
            raise resource_exhausted(f"{MAX_STREAMS} controllers are connected already")
        election_id = U128.decode(message.election_id) if message.HasField("election_id") else None
        if election_id is not None:
            for other, owned in self._streams.items():
                if other != stream and owned == election_id:
                    raise invalid_argument(f"election id {election_id} is in use by another controller")

        before = self.primary
        self._streams[stream] = election_id
        if election_id is not None and (self._highest is None or election_id >= self._highest):
            self._highest = election_id
        after = self.primary
        if after == stream or before == stream:
            return self._notify_all()
        return [self._notification(stream, after)]

    def remove(self, stream: StreamT) -> list[Notification[StreamT]]:
        """Forget a stream that closed; the others are told if it was the primary."""
        was_primary = stream == self.primary
        self._streams.pop(stream, None)
        return self._notify_all() if was_primary else []

    def check_write(self, device_id: int, role: str, role_id: int, election_id: int | None) -> None:
        """Raise NOT_FOUND or PERMISSION_DENIED unless this election id is the primary's.

        Like BMv2, a request without an election id is let through while no controller is connected:
        that is how one-shot tools work.
        """
        if device_id != self.device_id:
            raise not_found(f"device id {device_id} is not {self.device_id}")
        check_role(role, role_id)
        if not self._streams and election_id is None:
            return
        if election_id is None or self.primary is None or election_id != self._highest:
            shown = "no election id" if election_id is None else f"election id {election_id}"
            raise permission_denied(f"{shown}: not the primary controller")

    def _notify_all(self) -> list[Notification[StreamT]]:
        primary = self.primary
        backups = [self._notification(stream, primary) for stream in self._streams if stream != primary]
        return backups if primary is None else [*backups, self._notification(primary, primary)]

    def _notification(self, stream: StreamT, primary: StreamT | None) -> Notification[StreamT]:
        message = p4r.MasterArbitrationUpdate(device_id=self.device_id)
        if self._highest is not None:
            message.election_id.CopyFrom(U128.encode(self._highest))
        if primary is None:
            message.status.code, message.status.message = rpc_code.NOT_FOUND, "no primary"
        elif stream == primary:
            message.status.code, message.status.message = rpc_code.OK, "is primary"
        else:
            message.status.code, message.status.message = rpc_code.ALREADY_EXISTS, "is backup"
        return Notification(stream, message)


def check_role(name: str, role_id: int) -> None:
    """Raise NOT_FOUND for every role but the default one."""
    if name or role_id:
        raise not_found(f"role {name or role_id!r} is unknown: there is only the default role")
