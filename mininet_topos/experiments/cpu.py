"""What the processes of a testbed cost: seconds of a core, by what they are."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from mininet_topos.testbed import namespaces

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME = 11, 12
"""Places in /proc/PID/stat behind the name, from 0."""


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


def _times(paths: Collection[Path]) -> Iterator[tuple[int, tuple[str, int]]]:
    for pid in namespaces.processes(paths):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        yield pid, (name, int(fields[_UTIME]) + int(fields[_STIME]))
