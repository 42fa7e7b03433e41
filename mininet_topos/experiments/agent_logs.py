"""What switch agents wrote into their logs, and when: the experiments' clock for what happens in a switch.

An agent logs a route once its P4 switch has acknowledged the table writes, so nothing polls the switches
while they are being measured. That a route was mirrored is said at level DEBUG.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from mininet_topos.testbed.folder import Folder

TIMEOUT_S = 10.0
PREPARED_S = 30.0
QUIET_S = 0.3
_POLL_S = 0.01
_MIRRORED = re.compile(r"^(\S+) .* mirrored (.*): \d+ rows")
_PREPARED = re.compile(r"^(\S+) .* detours are prepared: \d+ rows")
_NO_DETOURS = re.compile(r"^(\S+) .* the switch prepares no detours")
_PORT_DOWN = re.compile(r"^(\S+) .* port \d+ \(\S+\) is down$")


@dataclass(frozen=True)
class Mirrored:
    """An agent has written what these prefixes lead to; none where only a neighbour was lost or found."""

    at: float
    prefixes: frozenset[str]


@dataclass(frozen=True)
class PortDown:
    """An agent has noticed that a port has no carrier."""

    at: float


@dataclass(frozen=True)
class Prepared:
    """An agent has told its switch what leads around each port, by the routes until then."""

    at: float


@dataclass(frozen=True)
class NoDetours:
    """An agent has found that its switch cannot be told what leads around a port."""

    at: float


Event = Mirrored | PortDown | Prepared | NoDetours


class AgentLogs:
    """The logs of the agents of `switches`, from now on; times in seconds of the realtime clock."""

    def __init__(self, folder: Folder, switches: Sequence[str]) -> None:
        self.switches = switches
        self._files = {name: folder.log(name, "agent").open() for name in switches}
        self._seen: dict[str, list[Event]] = {name: [] for name in switches}

    def since(self, switch: str, moment: float) -> list[Event]:
        """Return what a switch's agent has logged from a moment on, up to now."""
        file = self._files[switch]
        while True:
            at = file.tell()
            line = file.readline()
            if not line.endswith("\n"):
                file.seek(at)  # A line that is still being written is read the next time.
                return [event for event in self._seen[switch] if event.at >= moment]
            if event := _event(line):
                self._seen[switch].append(event)

    def awaited(
        self, switch: str, moment: float, wanted: Callable[[list[Event]], list[float]]
    ) -> list[float]:
        """Wait until what a switch's agent has logged from a moment on has what is wanted; return its times.

        Raises TimeoutError naming the switch.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := wanted(self.since(switch, moment))):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{switch} does not react in {TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        return found

    def await_prepared(self, switches: Iterable[str], vips: Iterable[IPv4Address]) -> None:
        """Wait until switches have been told what leads around ports of theirs, by all routes to some VIPs.

        That is, until they have been for `QUIET_S` since such a route changed last; not for a switch that can
        do no such thing. Raises TimeoutError naming one that has not been told.
        """
        prefixes = {f"{vip}/32" for vip in vips}

        def prepared(switch: str) -> bool:
            events = self.since(switch, 0.0)
            if any(isinstance(event, NoDetours) for event in events):
                return True
            told = [
                event
                for event in events
                if isinstance(event, Prepared) or (isinstance(event, Mirrored) and event.prefixes & prefixes)
            ]
            return not told or (isinstance(told[-1], Prepared) and told[-1].at < time.time() - QUIET_S)

        for switch in switches:
            deadline = time.monotonic() + PREPARED_S
            while not prepared(switch):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{switch} prepares nothing for a port that dies in {PREPARED_S:g} s")
                time.sleep(_POLL_S)

    async def forwarding(self, vip: IPv4Address, since: float, carrier: str) -> float:
        """Wait until every switch but the carrier has the VIP's route; return when the last one had it.

        `since` is when it was announced, `carrier` the HMux itself, which needs no route to the VIP.
        Raises TimeoutError naming those that have not.
        """
        first: dict[str, float] = {}
        deadline = time.monotonic() + TIMEOUT_S
        waiting = [name for name in self.switches if name != carrier]
        while True:
            for name in waiting:
                for event in self.since(name, since):
                    if isinstance(event, Mirrored) and f"{vip}/32" in event.prefixes:
                        first.setdefault(name, event.at)
            waiting = [name for name in waiting if name not in first]
            if not waiting:
                return max(first.values())
            if time.monotonic() > deadline:
                raise TimeoutError(f"{', '.join(waiting)} do not learn of {vip} in {TIMEOUT_S:g} s")
            await asyncio.sleep(_POLL_S)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


def _event(line: str) -> Event | None:
    if found := _MIRRORED.match(line):
        return Mirrored(_moment(found[1]), frozenset(re.findall(r"[\d.]+/\d+", found[2])))
    if found := _PREPARED.match(line):
        return Prepared(_moment(found[1]))
    if found := _NO_DETOURS.match(line):
        return NoDetours(_moment(found[1]))
    if found := _PORT_DOWN.match(line):
        return PortDown(_moment(found[1]))
    return None


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
