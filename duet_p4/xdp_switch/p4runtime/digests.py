"""Digests: what the data plane tells of packets, gathered into lists for the primary controller.

A message is told once: what waits in the buffer, or was sent and not yet acknowledged, is not told again
(P4Runtime specification, "DigestEntry"). Pure bookkeeping: a caller brings samples and the time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from finsy.proto import p4r

from duet_p4.xdp_switch.p4runtime.errors import already_exists, invalid_argument, not_found
from duet_p4.xdp_switch.p4runtime.p4info import Digest, Schema

MAX_LIST = 512
"""Messages in one list where the client states no limit."""

Values = tuple[int, ...]


@dataclass(slots=True)
class _Learning:
    """One digest that a client has enabled."""

    digest: Digest
    config: p4r.DigestEntry.Config
    buffer: dict[Values, None] = field(default_factory=dict)
    since: float = 0.0
    sent: dict[int, tuple[float, frozenset[Values]]] = field(default_factory=dict)
    next_list: int = 1

    @property
    def limit(self) -> int:
        """Distinct messages that fill a list."""
        if not self.config.max_timeout_ns:
            return 1
        return self.config.max_list_size or MAX_LIST

    @property
    def due(self) -> float:
        """When the buffer is to be sent."""
        return self.since + self.config.max_timeout_ns / 1e9

    def expire(self, now: float) -> None:
        """Forget what was sent too long ago for an acknowledgement."""
        kept = self.config.ack_timeout_ns / 1e9
        for number in [n for n, (when, _) in self.sent.items() if now - when >= kept]:
            del self.sent[number]

    def knows(self, values: Values) -> bool:
        """Whether a message waits, or waits to be acknowledged."""
        return values in self.buffer or any(values in told for _, told in self.sent.values())

    def flush(self, now: float) -> p4r.DigestList:
        """Return the buffer as a list."""
        message = p4r.DigestList(digest_id=self.digest.id, list_id=self.next_list, timestamp=time.time_ns())
        for values in self.buffer:
            message.data.append(self.digest.type.encode(iter(values)))
        if self.config.ack_timeout_ns:
            self.sent[self.next_list] = (now, frozenset(self.buffer))
        self.next_list += 1
        self.buffer.clear()
        return message


class DigestState:
    """The digests of one pipeline: which are enabled, and what waits. Times are seconds of one clock."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._by_name = {digest.name: digest.id for digest in schema.digests.values()}
        self._enabled: dict[int, _Learning] = {}
        self._configs: dict[int, p4r.DigestEntry] = {}

    def write(self, kind: int, message: p4r.DigestEntry) -> None:
        """Enable, configure or disable a digest."""
        digest = self._digest(message.digest_id)
        known = self._enabled.get(digest.id)
        if kind == p4r.Update.INSERT and known is not None:
            raise already_exists(f"digest {digest.name} is enabled already")
        if kind != p4r.Update.INSERT and known is None:
            raise not_found(f"digest {digest.name} is not enabled")
        if kind == p4r.Update.DELETE:
            del self._enabled[digest.id], self._configs[digest.id]
            return
        config = p4r.DigestEntry.Config()
        config.CopyFrom(message.config)
        if min(config.max_timeout_ns, config.max_list_size, config.ack_timeout_ns) < 0:
            raise invalid_argument(f"digest {digest.name}: a timeout or size is below 0")
        if known is None:
            self._enabled[digest.id] = _Learning(digest, config)
        else:
            known.config = config
        self._configs[digest.id] = p4r.DigestEntry()
        self._configs[digest.id].CopyFrom(message)

    def read(self, query: p4r.DigestEntry) -> Iterator[p4r.DigestEntry]:
        """Return the configuration of a digest, or for id 0 of all that are enabled."""
        if query.digest_id:
            self._digest(query.digest_id)
            found = self._configs.get(query.digest_id)
            return iter([found] if found is not None else [])
        return iter(list(self._configs.values()))

    def acknowledge(self, message: p4r.DigestListAck) -> None:
        """Note that a list was received; raises INVALID_ARGUMENT for a digest that is not in the P4Info."""
        digest = self._digest(message.digest_id)
        known = self._enabled.get(digest.id)
        if known is not None:
            known.sent.pop(message.list_id, None)

    def forget_sent(self) -> None:
        """Tell again what was not acknowledged: another controller is primary."""
        for learning in self._enabled.values():
            learning.sent.clear()

    def add(self, samples: Sequence[tuple[str, Values]], now: float) -> list[p4r.DigestList]:
        """Take samples of the data plane, and return the lists that are full with them."""
        lists = []
        for name, values in samples:
            learning = self._enabled.get(self._by_name.get(name, 0))
            if learning is None:
                continue
            learning.expire(now)
            if learning.knows(values):
                continue
            if not learning.buffer:
                learning.since = now
            learning.buffer[values] = None
            if len(learning.buffer) >= learning.limit:
                lists.append(learning.flush(now))
        return lists

    def due(self, now: float) -> list[p4r.DigestList]:
        """Return the lists whose time has come."""
        return [
            learning.flush(now)
            for learning in self._enabled.values()
            if learning.buffer and now >= learning.due
        ]

    def next_due(self) -> float | None:
        """Return when the next list is to be sent."""
        return min((learning.due for learning in self._enabled.values() if learning.buffer), default=None)

    def _digest(self, digest_id: int) -> Digest:
        digest = self._schema.digests.get(digest_id)
        if digest is None:
            raise invalid_argument(f"digest {digest_id} is not in the P4Info")
        return digest
