"""Shells in nodes for a terminal in a browser: a pseudo-terminal each, whose output can be followed."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import pty
import signal
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress

MAX_SHELLS = 16
_KEPT = 200_000
_READ = 65_536


class ShellError(Exception):
    """A shell that is not there, or cannot be."""


class Shell:
    """A shell whose output is kept, up to a limit, and told to whoever follows it."""

    def __init__(self, node: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `command` on a terminal of its own. Call within the event loop. Raises OSError."""
        self.node = node
        self._output = bytearray()
        self._dropped = 0
        self._told = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = False
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                os.closerange(3, 4096)
                os.execvpe(command[0], list(command), dict(environment))
            finally:
                os._exit(127)
        os.set_blocking(self._terminal, False)
        asyncio.get_running_loop().add_reader(self._terminal, self._read)

    def write(self, data: bytes) -> None:
        """Type something. Raises ShellError where the shell has ended, or takes no more."""
        if self.ended:
            raise ShellError(f"the shell in {self.node} has ended")
        try:
            os.write(self._terminal, data)
        except OSError as error:
            raise ShellError(f"the shell in {self.node} takes no input: {error.strerror}") from error

    def resize(self, columns: int, rows: int) -> None:
        """Say how large the terminal is."""
        if not self.ended:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def follow(self, quiet_s: float) -> AsyncIterator[bytes]:
        """Yield what was printed and is kept, then what comes, until the end; nothing when it is quiet."""
        position = self._dropped
        while True:
            position = max(position, self._dropped)
            if part := bytes(self._output[position - self._dropped :]):
                position += len(part)
                yield part
            elif self.ended:
                return
            else:
                try:
                    async with asyncio.timeout(quiet_s), self._told:
                        if position == self._dropped + len(self._output) and not self.ended:
                            await self._told.wait()
                except TimeoutError:
                    yield b""

    def end(self) -> None:
        """End the shell and what runs in it."""
        if self.ended:
            return
        self.ended = True
        asyncio.get_running_loop().remove_reader(self._terminal)
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGHUP)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.close(self._terminal)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._tell()

    def _read(self) -> None:
        try:
            part = os.read(self._terminal, _READ)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self.end()
            return
        self._output += part
        if (more := len(self._output) - _KEPT) > 0:
            del self._output[:more]
            self._dropped += more
        self._tell()

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._told:
                self._told.notify_all()

        task = asyncio.get_running_loop().create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Shells:
    """The shells that are open, by number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, Shell] = {}

    def open(self, node: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start a shell; returns its number. Raises ShellError where there are too many."""
        for number in [number for number, shell in self._open.items() if shell.ended]:
            del self._open[number]
        if len(self._open) >= MAX_SHELLS:
            raise ShellError(f"{MAX_SHELLS} shells are open already: close one")
        number = next(self._numbers)
        self._open[number] = Shell(node, command, environment)
        return number

    def get(self, number: int) -> Shell:
        """Return an open shell. Raises ShellError."""
        try:
            return self._open[number]
        except KeyError:
            raise ShellError(f"there is no shell {number}") from None

    def close(self, number: int) -> None:
        """End a shell. Raises ShellError."""
        self.get(number).end()
        del self._open[number]

    def close_all(self) -> None:
        """End all shells."""
        for number in list(self._open):
            self.close(number)
