"""How a process is told to end."""

from __future__ import annotations

import asyncio
import signal


def told_to_end() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM and SIGINT set, in place of what they do else."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told
