"""Processes of the testbed's nodes: forked with their imports done, watched, started again.

A node's process is a function `main(argv)`, or a program. Functions are forked from this process,
which has imported them all once, so eighty of them start in the time of a few; a program is executed.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Literal

from pydantic import Field

from duet_p4 import stacks
from duet_p4.backoff import Backoff
from duet_p4.confinement import Rights, confine
from duet_p4.model import Model
from duet_p4.title import set_title
from mininet_topos.testbed import namespaces

logger = logging.getLogger(__name__)

_FIRST_RESTART_S, _LONGEST_RESTART_S = 0.1, 5.0
_GOOD_RUN_S = 10.0
_TAIL_LINES = 12


class Process(Model):
    """What to run in a node: `function` (`module:name`, given `arguments`) or, without it, a program.

    `keeps` is a descriptor of this process that it goes on with, `rights` what it may do: None, all that root
    may.
    """

    node: str
    name: str
    function: str | None = None
    arguments: tuple[str, ...]
    keeps: int | None = None
    rights: Rights | None
    namespace: Path
    log: Path

    @property
    def id(self) -> str:
        """`<node>/<name>`, as users call it."""
        return f"{self.node}/{self.name}"

    def load(self) -> Callable[[Sequence[str]], int] | None:
        """Import the function."""
        if self.function is None:
            return None
        module, _, name = self.function.partition(":")
        function: Callable[[Sequence[str]], int] = getattr(import_module(module), name)
        return function


class State(StrEnum):
    """What a process is up to."""

    RUNNING = "running"
    CRASHED = "crashed"
    STOPPED = "stopped"


class ProcessStatus(Model):
    """A process at a glance; `exit` says how it last ended, if it did by itself."""

    node: str
    name: str
    state: State
    pid: int | None
    restarts: int
    exit: str | None
    log: Path
    rights: Rights | None


class Crash(Model):
    """A process that ended by itself: when, how, and the end of its log."""

    kind: Literal["crash"] = "crash"
    at: float = Field(description="seconds since the epoch")
    node: str
    process: str
    exit: str
    log: Path
    tail: tuple[str, ...]

    def text(self) -> str:
        """Say it to a person, with what to do next."""
        tail = "\n".join(f"    {line}" for line in self.tail) or "    (the log is empty)"
        return (
            f"{self.node}/{self.process} ended by itself ({self.exit}) and is started again; the end of "
            f"its log:\n{tail}\n  the whole log: duet testbed logs {self.node} (file {self.log})"
        )


class _Running:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.function = process.load()
        self.pid: int | None = None
        self.pidfd: int | None = None
        self.started = 0.0
        self.backoff = Backoff(_FIRST_RESTART_S, _LONGEST_RESTART_S)
        self.restarts = 0
        self.wanted = False
        self.exit: str | None = None


class Supervisor:
    """Starts and watches processes. The owner waits for `descriptors` and calls `reap` and `tick`."""

    def __init__(self, processes: Iterable[Process], close_in_child: Callable[[], Iterable[int]]) -> None:
        self._all = {process.id: _Running(process) for process in processes}
        self._close_in_child = close_in_child
        self._due: dict[str, float] = {}
        self.crashes: list[Crash] = []
        # What is imported by now is shared with every child; the collector must not touch those pages.
        gc.collect()
        gc.freeze()

    def start(self, node: str | None = None) -> None:
        """Start the processes of a node, or all, that do not run."""
        for running in self._of(node):
            running.wanted = True
            if running.pid is None:
                self._fork(running)

    def halt(self, node: str) -> None:
        """Have whatever runs on a node do nothing more, BIRD too; `stop` and `sweep` end it."""
        self._dismiss(node, signal.SIGSTOP)
        namespaces.halt({running.process.namespace for running in self._of(node)})

    def stop(self, node: str) -> None:
        """Kill the processes of a node, and whatever they started there; they stay down."""
        self._dismiss(node, signal.SIGKILL)

    def sweep(self, node: str, timeout_s: float) -> None:
        """Kill all that is left in the namespace of a node after `stop`, and wait until it has ended."""
        own = [running.process.namespace for running in self._of(node)]
        namespaces.kill(own, timeout_s)
        for running in self._of(node):
            if running.pidfd is not None:
                self._reaped(running)

    def descriptors(self) -> list[int]:
        """Return a descriptor for each running process that becomes readable when it ends."""
        return [running.pidfd for running in self._all.values() if running.pidfd is not None]

    def reap(self, descriptor: int) -> Crash | None:
        """Note the end of a process; returns what happened if it was not asked to end."""
        for running in self._all.values():
            if running.pidfd == descriptor:
                return self._reaped(running)
        return None

    def tick(self) -> float | None:
        """Start what is due again; returns the seconds until the next is due, None if none is."""
        now = time.monotonic()
        for name in [name for name, due in self._due.items() if due <= now]:
            del self._due[name]
            running = self._all[name]
            running.restarts += 1
            logger.info("starting %s again", name)
            self._fork(running)
        return max(0.0, min(self._due.values()) - now) if self._due else None

    def statuses(self) -> list[ProcessStatus]:
        """Return every process at a glance, in the order of their start."""
        return [
            ProcessStatus(
                node=running.process.node,
                name=running.process.name,
                state=_state(running),
                pid=running.pid,
                restarts=running.restarts,
                exit=running.exit,
                log=running.process.log,
                rights=running.process.rights,
            )
            for running in self._all.values()
        ]

    def _dismiss(self, node: str, number: signal.Signals) -> None:
        for running in self._of(node):
            running.wanted = False
            self._due.pop(running.process.id, None)
            if running.pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(running.pidfd, number)

    def _of(self, node: str | None) -> Iterable[_Running]:
        return (running for running in self._all.values() if node in (None, running.process.node))

    def _reaped(self, running: _Running) -> Crash | None:
        assert running.pid is not None
        assert running.pidfd is not None
        _, status = os.waitpid(running.pid, 0)
        os.close(running.pidfd)
        running.pid = running.pidfd = None
        if not running.wanted:
            return None
        running.exit = _ending(status)
        if time.monotonic() - running.started > _GOOD_RUN_S:
            running.backoff.succeeded()
        self._due[running.process.id] = time.monotonic() + running.backoff.failed()
        process = running.process
        crash = Crash(
            at=time.time(),
            node=process.node,
            process=process.name,
            exit=running.exit,
            log=process.log,
            tail=tail(process.log),
        )
        self.crashes.append(crash)
        logger.error("%s", crash.text())
        return crash

    def _fork(self, running: _Running) -> None:
        process = running.process
        log = os.open(process.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            pid = os.fork()
            if pid == 0:
                _child(process, running.function, log, self._close_in_child())
            running.pid = pid
            running.pidfd = os.pidfd_open(pid)
            running.started = time.monotonic()
        finally:
            os.close(log)


def tail(log: Path, lines: int = _TAIL_LINES) -> tuple[str, ...]:
    """Return the last lines of a log; none if there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            return tuple(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ()


def _child(
    process: Process, function: Callable[[Sequence[str]], int] | None, log: int, close: Iterable[int]
) -> None:
    """Become the process; never returns."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # A peer that hangs up is an error for Python code to handle, but ends other programs.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL if function is None else signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        for descriptor in (*close, null, log):
            if descriptor != process.keeps:
                with suppress(OSError):
                    os.close(descriptor)
        namespaces.enter(process.namespace)
        set_title(f"{process.node}.{process.name}", ["duet", process.node, process.name, *process.arguments])
        samples = stacks.prepare(f"{process.node}.{process.name}")
        if process.rights is not None:
            confine(process.rights)
        if function is None:
            os.execvp(process.arguments[0], process.arguments)
        if samples is not None:
            samples.begin()
        code = function(process.arguments)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
    except BaseException:
        logging.getLogger(process.id).exception("%s failed", process.id)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _state(running: _Running) -> State:
    if running.pid is not None:
        return State.RUNNING
    return State.CRASHED if running.wanted else State.STOPPED


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"
