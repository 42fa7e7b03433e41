"""The one logging set-up: every process of a node logs lines of the same shape to stderr.

A line reads `2026-11-22T21:43:07.123456 INFO    tor-1-1 switch_agent.agent: announces 10.0.0.1`:
local time in microseconds, level, node, module and message.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_QUIET = ("aiohttp", "uvicorn", "uvicorn.access", "pyroute2", "finsy", "asyncio", "grpc")


class _Formatter(logging.Formatter):
    """Formats a record as one line, with the traceback below it where there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return local time with microseconds."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{seconds}.{int(record.created % 1 * 1e6):06d}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without its traceback."""
        module = record.name.removeprefix("duet_p4.")
        return f"{self.formatTime(record)} {record.levelname:<7} {self._node} {module}: {record.message}"

    def usesTime(self) -> bool:  # noqa: N802
        """Say that `formatTime` is called by `formatMessage` alone."""
        return False


def setup(node: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send this process's log to `stream` (stderr by default), each line naming `node`.

    Replaces what was set up before, so a process forked from a launcher may call it again. Libraries
    are heard from WARNING on. Raises ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Formatter(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
