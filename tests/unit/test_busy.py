"""Processes that keep cores busy end with whoever started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mininet_topos.experiments import busy


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def await_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, f"some of {pids} still run"
        time.sleep(0.01)


def test_every_core_has_a_process_of_its_own_for_as_long_as_is_wanted() -> None:
    with busy.every_core() as pids:
        assert [os.sched_getaffinity(pid) for pid in pids] == [{n} for n in sorted(os.sched_getaffinity(0))]
        assert not any(map(gone, pids))
    assert all(map(gone, pids))
    with busy.every_core(False) as pids:
        assert pids == []


def test_they_end_when_what_started_them_is_killed() -> None:
    held = (
        "import sys; from mininet_topos.experiments import busy\n"
        "with busy.every_core() as pids: print(*pids, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pids = [int(word) for word in starter.stdout.readline().split()]
        assert pids and not any(map(gone, pids))
        starter.send_signal(signal.SIGKILL)
    await_gone(pids)
