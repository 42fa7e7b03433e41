"""What the processes of a testbed cost: seconds of a core, by what they are."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from mininet_topos.testbed import namespaces

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE_S = 4.0
_ROUND_TRIPS = 500
_UTIME, _STIME = 11, 12
"""Places in /proc/PID/stat behind the name, from 0."""
_IDLE, _IO_WAIT, _KINDS = 3, 4, 8
"""Places in the first line of /proc/stat behind its name, from 0, and how many: guests' are among users'."""


Answer = TypeVar("Answer")


class CpuTime:
    """The CPU time of every process in some network namespaces since this was made, by kind.

    A process that begins meanwhile counts whole; one that ends meanwhile does not.
    """

    def __init__(self, paths: Collection[Path]) -> None:
        self._paths = paths
        self._before = dict(_times(paths))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each kind of process, such as `server.agent`: its name without numbers."""
        found: Counter[str] = Counter()
        for pid, (kind, ticks) in _times(self._paths):
            found[re.sub(r"\d+", "", kind)] += ticks - self._before.get(pid, ("", 0))[1]
        return {kind: ticks / _TICKS for kind, ticks in found.most_common()}


class Costs:
    """What operations on a testbed cost, in CPU time of all its processes, beyond what it takes when idle.

    A round trip, of HTTPS to an agent that does nothing but answer, is what they are compared with: on
    another machine, or a busy one, both take longer.
    """

    def __init__(self, paths: Collection[Path], round_trips: Callable[[int], None]) -> None:
        """Measure the idle testbed; `round_trips` makes so many to an agent, one after the other."""
        self._paths = paths
        cpu, began = CpuTime(paths), time.monotonic()
        time.sleep(_IDLE_S)
        self.idle_cores = sum(cpu.seconds().values()) / (time.monotonic() - began)
        own = time.process_time()
        self.round_trip_ms = self.of(_ROUND_TRIPS, lambda: round_trips(_ROUND_TRIPS))[1]
        self.round_trip_ms += (time.process_time() - own) * 1e3 / _ROUND_TRIPS

    def of(self, count: int, job: Callable[[], Answer]) -> tuple[Answer, float]:
        """Carry out `count` operations; return what came of it, and the milliseconds of one of them."""
        cpu, began = CpuTime(self._paths), time.monotonic()
        answer = job()
        idle = self.idle_cores * (time.monotonic() - began)
        return answer, (sum(cpu.seconds().values()) - idle) * 1e3 / count


def idle_share(seconds: float) -> float:
    """Return which share of all cores' time is idle in the next so many seconds, 0 to 1."""
    before = _cores()
    time.sleep(seconds)
    spent = [now - then for now, then in zip(_cores(), before, strict=True)]
    return (spent[_IDLE] + spent[_IO_WAIT]) / sum(spent)


def busy_s() -> float:
    """Return the CPU seconds that this machine has been busy, over all cores."""
    user, nice, system, _, _, irq, softirq, _ = _cores()
    return (user + nice + system + irq + softirq) / _TICKS


def _cores() -> list[int]:
    """Return the ticks that all cores have spent since the machine started, by what on."""
    return [int(word) for word in Path("/proc/stat").read_text().split()[1 : 1 + _KINDS]]


def _times(paths: Collection[Path]) -> Iterator[tuple[int, tuple[str, int]]]:
    for pid in namespaces.processes(paths):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        yield pid, (name, int(fields[_UTIME]) + int(fields[_STIME]))
