"""Samples of this process's Python code, for a profile: what its main thread does while it runs."""

from __future__ import annotations

import atexit
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

FOLDER = "DUET_STACKS"
"""The environment variable with the folder where processes leave their samples; without it, none does."""

INTERVAL_S = 0.01
_SHARE, _EACH = 8, 50
_DEPTH = 48


class Stacks:
    """Takes a sample every `INTERVAL_S` seconds that this process runs, and keeps their numbers in a file.

    A line of it is a stack, its functions from the outermost in, and how often it was met. The file is whole
    after each `_SHARE`th more samples, `_EACH` at most, so that whoever is killed loses no more than these.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._found: Counter[str] = Counter()
        self._due = 1

    def begin(self) -> None:
        """Begin, in the main thread of a process that makes no use of SIGPROF."""
        signal.signal(signal.SIGPROF, self._sample)
        # Once Python is about to end, nobody would answer the signal.
        atexit.register(self.end)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def end(self) -> None:
        """Take no more samples, and write what was found."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        self.write()

    def _sample(self, _: int, frame: FrameType | None) -> None:
        names: list[str] = []
        while frame is not None and len(names) < _DEPTH:
            code = frame.f_code
            names.append(f"{Path(code.co_filename).stem}.{code.co_qualname}")
            frame = frame.f_back
        self._found[";".join(reversed(names))] += 1
        if (total := self._found.total()) >= self._due:
            self._due = total + min(1 + total // _SHARE, _EACH)
            self.write()

    def write(self) -> None:
        """Write what was found until now."""
        text = "".join(f"{stack} {count}\n" for stack, count in self._found.items()).encode()
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))


def prepare(name: str) -> Stacks | None:
    """Return what samples this process, None where nobody wants that; its file is open already."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    path = Path(folder) / f"{name}-{os.getpid()}"
    return Stacks(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644))
