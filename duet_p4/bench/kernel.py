"""Nanoseconds per packet of the XDP program on an interface, as the kernel itself counts them."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duet_p4.bench.line import BenchError, run
from duet_p4.bpf.libbpf import bpf_call

_PROG_GET_FD_BY_ID, _ENABLE_STATS, _RUN_TIME = 13, 32, 0


@contextmanager
def statistics() -> Iterator[None]:
    """Have the kernel time every run of every program meanwhile, which itself costs some 20 ns a run."""
    fd = bpf_call(_ENABLE_STATS, struct.pack("=I", _RUN_TIME))
    try:
        yield
    finally:
        os.close(fd)


class RunTime:
    """The run time of the XDP program that is on an interface now."""

    def __init__(self, namespace: str, interface: str) -> None:
        (shown,) = json.loads(run("ip", "-n", namespace, "-j", "-d", "link", "show", "dev", interface))
        program = shown.get("xdp", {}).get("prog", {}).get("id")
        if program is None:
            raise BenchError(f"{interface} has no XDP program")
        self._fd = bpf_call(_PROG_GET_FD_BY_ID, struct.pack("=III", program, 0, 0))
        self._ns, self._runs = self._read()

    def nanoseconds(self) -> float:
        """Return the mean time of a run since this was made, and let go of the program."""
        ns, runs = self._read()
        os.close(self._fd)
        if runs == self._runs:
            raise BenchError("the XDP program has not run: is kernel.bpf_stats_enabled there?")
        return (ns - self._ns) / (runs - self._runs)

    def _read(self) -> tuple[int, int]:
        text = Path(f"/proc/self/fdinfo/{self._fd}").read_text()
        ns, runs = (
            int(re.findall(rf"^{key}:\s*(\d+)", text, re.MULTILINE)[0]) for key in ("run_time_ns", "run_cnt")
        )
        return ns, runs
