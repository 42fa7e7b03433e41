"""`duet` commands that the page has run: they are what a shell would do, by the same names."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import suppress

from duet_p4.api.problems import ConflictError

_READ = 65_536
_COLUMNS = "200"
_ERROR = "Error: "


async def begin(*words: str, errors: int = DEVNULL) -> Process:
    """Start `duet WORDS` in a session of its own; `errors` says where what it says of errors goes."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mininet_topos.cli", *words),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=errors,
        start_new_session=True,
        env=os.environ | {"COLUMNS": _COLUMNS, "PYTHONUNBUFFERED": "1"},
    )


async def output_of(*words: str, errors: bool) -> AsyncIterator[bytes]:
    """Yield what a command prints as it does, with its errors or without; it ends when nobody wants more."""
    process = await begin(*words, errors=STDOUT if errors else DEVNULL)
    assert process.stdout is not None
    try:
        while part := await process.stdout.read(_READ):
            yield part
    finally:
        await end(process, signal.SIGTERM)


async def answer_of(*words: str) -> str:
    """Return the last line that a command prints. Raises ConflictError with what it says when it fails."""
    process = await begin(*words, errors=PIPE)
    try:
        printed, said = await process.communicate()
    finally:
        await end(process, signal.SIGTERM)
    if process.returncode != 0 or not printed.strip():
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = next((line for line in lines if line.startswith(_ERROR)), lines[-1] if lines else "")
        why = last.removeprefix(_ERROR) or f"it ended with {process.returncode}"
        raise ConflictError(f"duet {words[0]}: {why}", "command-failed")
    return printed.decode().strip().rpartition("\n")[2]


async def end(process: Process, number: signal.Signals) -> None:
    """Tell a command and what it has started to end, if it has not, and wait until it has."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
    await process.wait()
