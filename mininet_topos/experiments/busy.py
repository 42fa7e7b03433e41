"""A process for each core that does nothing but keep it busy, as experiments under load want.

They end with whoever started them, however that ends: the kernel kills them then, and in any case once they
have had so many seconds of CPU.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from duet_p4.title import set_title

LONGEST_CPU_S = 1800
"""Of each process; an experiment takes less."""

_PR_SET_PDEATHSIG = 1


@contextmanager
def every_core(wanted: bool = True) -> Iterator[list[int]]:
    """Keep every core that this process may use busy during the block; yields the processes' ids."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for core in sorted(os.sched_getaffinity(0)) if wanted else ():
            command = [sys.executable, "-m", __name__, str(os.getpid()), str(core)]
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
        for process in started:
            assert process.stdout is not None
            if not process.stdout.read(1):
                raise RuntimeError("a process that keeps a core busy does not start")
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.communicate()


def main(argv: Sequence[str] | None = None) -> int:
    """Keep the core given second busy for as long as the process given first lives."""
    parent, core = map(int, argv or sys.argv[1:])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 1  # It ended before the kernel was told of it.
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_CPU_S, LONGEST_CPU_S))
    os.sched_setaffinity(0, {core})
    set_title("busy", ["duet-busy", str(core)])
    os.write(1, b"1")
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())
