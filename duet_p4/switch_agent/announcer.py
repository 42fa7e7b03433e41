"""Announcements: /32 routes in the kernel table that BIRD learns from (`duet_p4.bird.config`)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable
from ipaddress import IPv4Address

from duet_p4.switch_agent.netlink_changes import Changes, RefusedError

logger = logging.getLogger(__name__)


class Announcer:
    """The addresses that the switch announces. They outlive the agent: `load` finds them again."""

    def __init__(self, table: int) -> None:
        self._table = table
        self._announced: set[IPv4Address] = set()

    def load(self, changes: Changes, announced: Iterable[IPv4Address]) -> None:
        """Take note of what the table has, and change it by `changes` from now on."""
        self._changes = changes
        self._announced = set(announced)

    def announced(self) -> frozenset[IPv4Address]:
        """Return what is announced."""
        return frozenset(self._announced)

    def add(self, address: IPv4Address) -> None:
        """Announce an address; BIRD passes it on within milliseconds. Raises OSError."""
        if address in self._announced:
            return
        try:
            self._changes.add_blackhole(address, self._table)
        except RefusedError as error:
            if error.errno != errno.EEXIST:
                raise
        self._announced.add(address)
        logger.debug("announced %s", address)

    def remove(self, address: IPv4Address) -> None:
        """Withdraw an address. Raises OSError."""
        if address not in self._announced:
            return
        self._announced.discard(address)
        try:
            self._changes.delete_blackhole(address, self._table)
        except RefusedError as error:
            if error.errno != errno.ESRCH:
                raise
        logger.debug("withdrew %s", address)
