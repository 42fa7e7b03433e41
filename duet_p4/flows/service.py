"""The flow records of an agent: read from its data path now and then, told over REST, sent to a collector."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from ipaddress import IPv4Address

from pydantic import Field

from duet_p4.api.flows import MAX_SAMPLING, DeviceKind, FlowRecord
from duet_p4.flows import ipfix
from duet_p4.flows.cache import FlowCache, Sample
from duet_p4.model import Model, Port

logger = logging.getLogger(__name__)

_POLL_S = 0.25
_EXPIRE_S = 1.0


class FlowConfig(Model):
    """Which flows are recorded: one packet in `sampling` (0: none) is looked at.

    Records that end are sent by IPFIX over UDP to `collector`, if there is one.
    """

    sampling: int = Field(default=0, ge=0, le=MAX_SAMPLING)
    collector: IPv4Address | None = None
    collector_port: Port = ipfix.PORT


class FlowRecords:
    """The records of one device; see `api.flows.FlowRecordService`."""

    def __init__(
        self, device: str, kind: DeviceKind, config: FlowConfig, poll: Callable[[], Sequence[Sample]]
    ) -> None:
        """`poll` returns the samples since the last call."""
        self._config = config
        self._poll = poll
        self._cache = FlowCache(device, kind, config.sampling)
        self._exporter = ipfix.Exporter(zlib.crc32(device.encode()))

    def records(self) -> Sequence[FlowRecord]:
        """See `FlowRecordService`."""
        return self._cache.records()

    async def run(self) -> None:
        """Follow the data path until cancelled; at once done where it does not sample."""
        if not self._config.sampling:
            return
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.setblocking(False)
            due = time.monotonic()
            try:
                while True:
                    self._cache.add(self._poll())
                    if time.monotonic() >= due:
                        self._send(sender, self._cache.expire(time.time()))
                        due = time.monotonic() + _EXPIRE_S
                    await asyncio.sleep(_POLL_S)
            finally:
                # What an agent that ends knows is not lost to the collector.
                self._send(sender, [*self._cache.expire(time.time()), *self._cache.records()])

    def _send(self, sender: socket.socket, records: Sequence[FlowRecord]) -> None:
        if self._config.collector is None:
            return
        to = (str(self._config.collector), self._config.collector_port)
        for message in self._exporter.messages(records, time.time()):
            try:
                sender.sendto(message, to)
            except OSError as error:
                logger.warning("flow records do not reach the collector %s: %s", to[0], error)
                return
