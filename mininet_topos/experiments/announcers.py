"""Watches, on the switches themselves, who announces which address: no two ever may.

A switch announces a VIP or TIP by a route in the kernel table that its BIRD reads (`duet_p4.bird.config`), so
the kernel of its namespace tells of it the moment it changes, whatever controller and agent think. What a
switch whose BIRD is dead has there counts as well: it would be announced again. An overlap that is over
before both ends of it were read, some milliseconds, goes unseen.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from duet_p4.bird.config import BirdConfig
from duet_p4.switch_agent.netlink import Dump, Events, LostEventsError, Message, Route
from mininet_topos.testbed import namespaces

_TABLE: int = BirdConfig.model_fields["announce_table"].default
_BUFFER = 64 << 20


@dataclass(frozen=True)
class Overlap:
    """An address that several switches announced at once; `at` is a monotonic time."""

    address: IPv4Address
    switches: tuple[str, ...]
    at: float


class Announcers:
    """Follows the announcements of some switches, given by their namespaces, while the context lasts."""

    def __init__(self, switches: Mapping[str, Path]) -> None:
        self._switches = switches
        self._of: dict[IPv4Address, set[str]] = defaultdict(set)
        self._overlapping: set[IPv4Address] = set()
        self._events: dict[str, Events] = {}
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._follow, name="announcers", daemon=True)
        self._stack = ExitStack()
        self.overlaps: list[Overlap] = []
        self.changes = 0
        """How many announcements and withdrawals were seen."""
        self.failure = ""
        """Why it was not followed to the end."""

    def __enter__(self) -> Self:
        """Begin with what is announced now."""
        for name, path in self._switches.items():
            with namespaces.entered(path):
                events = self._events[name] = Events(_BUFFER)
                self._stack.callback(events.close)
                with closing(Dump()) as dump, suppress(FileNotFoundError):  # Nothing was ever announced.
                    for route in dump.routes(_TABLE):
                        self._note(name, route)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop following."""
        os.write(self._stop_write, b"x")
        self._thread.join()
        self._stack.close()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _follow(self) -> None:
        poll = select.poll()
        poll.register(self._stop_read, select.POLLIN)
        names = {}
        for name, events in self._events.items():
            names[events.fileno()] = name
            poll.register(events.fileno(), select.POLLIN)
        try:
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == self._stop_read:
                        return
                    self._read(names[descriptor])
        except (OSError, LostEventsError) as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _read(self, name: str) -> None:
        """Take in what a switch's kernel told; before it makes several announcers, look at the others."""
        for address in self._take_in(name):
            for other in self._of[address] - {name}:
                # What another withdrew before this was announced is there to be read by now.
                self._take_in(other)
            self._judge(address)

    def _take_in(self, name: str) -> set[IPv4Address]:
        """Take in what there is; returns the addresses it is about."""
        events, about = self._events[name], set()
        while events.waiting():
            for message in events.receive():
                if (address := self._note(name, message)) is not None:
                    about.add(address)
        return about

    def _note(self, name: str, message: Message) -> IPv4Address | None:
        if not isinstance(message, Route) or message.table != _TABLE or message.prefix.prefixlen != 32:
            return None
        address = message.prefix.network_address
        self.changes += 1
        if message.new:
            self._of[address].add(name)
        else:
            self._of[address].discard(name)
        return address

    def _judge(self, address: IPv4Address) -> None:
        now = self._of[address]
        if len(now) < 2:
            self._overlapping.discard(address)
        elif address not in self._overlapping:
            self._overlapping.add(address)
            self.overlaps.append(Overlap(address, tuple(sorted(now)), time.monotonic()))
